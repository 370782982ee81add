"""Estimators that adapt to rows: a general mixture becomes that of one speaker, camera or night."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from daskgmm.exchange import attributes_of
from daskgmm.fitting.adaptation import adaptation
from daskgmm.inputs import opened_rows
from daskgmm.mixture.parameters import Parameters


class Adaptable:
    """Gives an estimator `adapted`."""

    @abstractmethod
    def _parameters(self) -> Parameters:
        """Return the mixture."""

    def adapted(
        self, X: Any, *, relevance: float = 16.0, adapt: Collection[str] = ("means",), sample_weight: Any = None,
        **parameters: Any,
    ) -> Self:  # fmt: skip
        """Return the mixture adapted to rows: where they are few it stays as it is, where they are many it is theirs.

        Maximum a posteriori with a prior about the present values, as a speaker's model is made of a background model
        (Reynolds, Quatieri and Dunn 2000). Its components keep their numbers. The estimator stays as it is.

        Parameters
        ----------
        X, sample_weight
            As in `fit`, with the features that the mixture was fitted to.
        relevance : float, default=16
            How many rows the present values of a component count as: half of the way is gone where it gets so many.
        adapt : collection of {"weights", "means", "covariances"}, default=("means",)
            What changes; the rest keeps its bits.
        **parameters
            Of the new estimator, such as `max_iter` (one EM step is usual for speakers) and `tol`.

        Returns
        -------
        GaussianMixture
            A new one, whose `lower_bound_` has the log density of the prior in it.

        Raises
        ------
        OptionError, DataError
            And others, as `fit`.
        """
        check_is_fitted(self, "means_")
        p = self._parameters()
        opened_rows(self, X, reset=False)  # (refuses other features)
        found = adaptation(p, relevance=relevance, adapt=adapt)
        made: Any = clone(self)
        own = {"covariance_floor": None, "prior": None, "standardize": False, "warm_start": True}
        made.set_params(**own | _NO_PRIOR | parameters | found)
        made.__dict__ |= attributes_of(p) | {"converged_": False, "lower_bound_": -np.inf}
        made.fit(X, sample_weight=sample_weight)
        adapted: Self = made.set_params(warm_start=False)
        return adapted


_NO_PRIOR = dict.fromkeys(
    ("weight_concentration_prior", "mean_precision_prior", "mean_prior", "degrees_of_freedom_prior", "covariance_prior")
)
