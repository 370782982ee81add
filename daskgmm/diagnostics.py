"""What an estimator says of itself: standard errors, factors, and components that together are a group."""

from __future__ import annotations

from abc import abstractmethod
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from daskgmm.errors import OptionError
from daskgmm.fitting.grouped import grouped_components
from daskgmm.fitting.standard_errors import StandardErrors, standard_errors
from daskgmm.inputs import opened_rows, opened_weights, seed_of
from daskgmm.mixture.families.low_rank import PrincipalComponents
from daskgmm.mixture.parameters import Parameters


class Factors(NamedTuple):
    """B and the noise of covariances B B' + diag(noise).

    Attributes
    ----------
    loadings : (n_components, n_features, n_factors), float64
        In units of the data. Columns are orthogonal in units of the noise, longest first; they are known up to a
        rotation, and their signs are chosen: the largest number of each is positive.
    noise_variances : (n_components, n_features), float64
    """

    loadings: NDArray[np.float64]
    noise_variances: NDArray[np.float64]


class Diagnosable:
    """Gives an estimator standard errors, factors, and groups of its components."""

    @abstractmethod
    def _parameters(self) -> Parameters:
        """Return the mixture."""

    def standard_errors(self, X: Any, *, sample_weight: Any = None, what: str = "all") -> StandardErrors:
        """Return the standard errors of weights, means and covariances; one pass over the rows of the fit.

        They are those of maximum likelihood: for a mixture that is the optimum for X, and rows that are independent and
        of such a mixture. What overlaps is known worse, which they tell.

        Parameters
        ----------
        X, sample_weight
            The rows that the mixture was fitted to, and their weights: a weight of 2 counts as two rows.
        what : {"all", "means"}, default="all"
            "means": of weights and means alone, where covariances are taken as known. All parameters may be 2,000.

        Returns
        -------
        StandardErrors
            `weights` (n_components,), `means` (n_components, n_features), and `covariances` in the shape of
            `covariances_`, or None; in units of the parameters. Without the correlations between them.
        """
        check_is_fitted(self, "means_")
        if what not in ("all", "means"):
            raise OptionError("`what`", "be all or means", repr(what))
        source, weights = opened_rows(self, X, reset=False), opened_weights(sample_weight)
        return standard_errors(
            self._parameters(), source, weights=weights, with_covariances=what == "all",
            non_finite=self.non_finite,  # type: ignore[attr-defined]
        )  # fmt: skip

    def factors(self) -> Factors:
        """Return the loadings and the variances of the noise of each component of a low-rank mixture."""
        check_is_fitted(self, "means_")
        p = self._parameters()
        if not isinstance(p.family, PrincipalComponents):
            remedy = "Fit with `covariance_type='lowrank'` and `n_factors`."
            raise OptionError("`covariance_type`", "be lowrank for factors", p.family.name, remedy)
        return Factors(*p.family.factors(p.covariances))

    def combine(self, X: Any, n_groups: Any = "entropy", *, sample_weight: Any = None) -> NDArray[np.int64]:
        """Return the group of each component, (n_components,), where components together are groups of other shapes.

        Step by step those two become one whose union makes the assignment of rows surest (Baudry et al. 2010, mclust's
        clustCombi), on a seeded sample of some 20,000 rows. `combine(X)[mixture.predict(X)]` are the rows' groups; of a
        lazy prediction they are `labels.map_blocks(groups.__getitem__)`.

        Parameters
        ----------
        X, sample_weight
            Rows of the mixture, as in `fit`; one pass.
        n_groups : int or "entropy", default="entropy"
            How many groups; or as many as there are where the entropy of the assignment begins to rise faster.
        """
        check_is_fitted(self, "means_")
        p, whole = self._parameters(), isinstance(n_groups, Integral) and not isinstance(n_groups, bool)
        if n_groups != "entropy" and not (whole and 1 <= n_groups <= p.n_components):
            raise OptionError("`n_groups`", f"be 1 to {p.n_components}, or 'entropy'", repr(n_groups))
        source, weights = opened_rows(self, X, reset=False), opened_weights(sample_weight)
        return grouped_components(
            p, source, weights=weights, n_groups=None if n_groups == "entropy" else int(n_groups),
            seed=seed_of(self.random_state), non_finite=self.non_finite,  # type: ignore[attr-defined]
        ).groups  # fmt: skip
