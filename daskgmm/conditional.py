"""Mixtures that follow from an estimator's: of some features, of fewer components; and regression by one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from daskgmm.errors import DataError, OptionError
from daskgmm.exchange import attributes_of
from daskgmm.kernels.regression import Regression
from daskgmm.mixture.conditional import Conditional, marginal
from daskgmm.mixture.merging import reduced
from daskgmm.mixture.noise import refuse_noise
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.prediction import predict_rows
from daskgmm.sources.columns import chosen_features, feature_names
from daskgmm.sources.opening import open_by_name, open_rows
from daskgmm.sources.source import Source

Features = Sequence[str | int] | str | int


class Conditionable:
    """Gives an estimator mixtures that follow from its own, and mixture regression."""

    @abstractmethod
    def _parameters(self) -> Parameters:
        """Return the mixture."""

    def _components(self) -> Parameters:
        """Return the mixture; an OptionError where noise stands beside its components."""
        p = self._parameters()
        refuse_noise(p.noise, "which is no density of some of the features")
        return p

    def marginal(self, features: Features) -> Self:
        """Return the mixture of some features alone, with its components in their order.

        Parameters
        ----------
        features : sequence of str or int
            Their names, or their numbers from 0, in the order in which they are to come.

        Returns
        -------
        GaussianMixture
            Of covariance_type "full", "tied", "diag" or "spherical", as the covariances are; it knows names and units,
            and nothing of a fit.
        """
        kept = self._numbers(features, "features")
        return self._of_some(marginal(self._components(), kept), kept)

    def condition(self, features: Features, values: Any) -> Self:
        """Return the mixture of the other features where some have known values, its components in their order.

        The weight of a component is its responsibility for the values. (Far from all means one of them has it all.)

        Parameters
        ----------
        features : sequence of str or int
            Names of the known features, or their numbers from 0. Not all of them.
        values : (n_known,), float
            Their values, finite, in units of the data.

        Notes
        -----
        Of component k, with g what is known: mean m_k + S_kg S_gg^-1 (v - m_g), covariance S_kk - S_kg S_gg^-1 S_gk.
        """
        given, p = self._numbers(features, "features"), self._components()
        known = np.atleast_1d(np.asarray(values, dtype=np.float64))
        if known.shape != (len(given),) or not np.isfinite(known).all():
            raise OptionError(
                "`values`",
                f"be {len(given)} finite numbers, one for each of `features`",
                f"shape {known.shape}" if known.shape != (len(given),) else f"{known.tolist()}",
                "Leave out the features that are not known.",
            )
        kept = np.setdiff1d(np.arange(p.n_features), self._within(given))
        return self._of_some(Conditional.of(p, given).at(known), kept)

    def reduced(self, n_components: int) -> Self:
        """Return a mixture of fewer components that is near this one; it needs no rows.

        Step by step the two components become one whose union costs least (Runnalls 2007). In its attribute `groups_`,
        (n_components of this one,), int64, stands what has become of each component.
        """
        p = self._components()
        number = isinstance(n_components, Integral) and not isinstance(n_components, bool)
        if not number or not 1 <= n_components <= p.n_components:
            raise OptionError("`n_components`", f"be 1 to {p.n_components}, those that there are", repr(n_components))
        found, groups = reduced(p, n_components)
        made = self._of_some(found, np.arange(p.n_features))
        made.groups_ = groups  # type: ignore[attr-defined]
        return made

    def predict_features(self, X: Any, features: Features | None = None) -> Any:
        """Return the mean of the other features given those in X: mixture regression; lazy unless X is in memory.

        Parameters
        ----------
        X : array, Dask array, data frame, path or URL
            (n_rows, n_known), as `predict` takes it, with the columns `features` alone.
        features : sequence of str or int, optional
            What the columns of X are: names of features, or their numbers from 0. It may be left out where both the
            mixture and X have names.

        Returns
        -------
        (n_rows, n_features - n_known), float64
            The features that are left, in the mixture's order, in units of the data: the conditional means of the
            components, weighted by their responsibilities.

        Notes
        -----
        `impute` does the same for rows whose gaps are not all alike.
        """
        check_is_fitted(self, "means_")
        names = getattr(self, "feature_names_in_", None)
        if features is None:
            features = self._shared_names(open_rows(X))
        given, _, predictor = self._regression(features)
        rows = open_by_name(X, None if names is None else [str(names[j]) for j in given])
        if rows.n_features != len(given):
            raise DataError(
                "`X`",
                f"have the {len(given)} columns that `features` names",
                f"{rows.n_features} in {rows.label}",
                "Select these columns of `X`.",
            )
        # (What is known of a row must be all that it is predicted from.)
        non_finite = "drop" if self.non_finite == "drop" else "error"  # type: ignore[attr-defined]
        found = predict_rows(rows, predictor, non_finite=non_finite)
        return rows.as_given(found, predictor.what) if rows.as_given else found

    def _regression(self, features: Features) -> tuple[NDArray[np.intp], Parameters, Regression]:
        """Return the numbers of known features, their marginal mixture, and what predicts the others from them."""
        given, names = self._numbers(features, "features"), getattr(self, "feature_names_in_", None)
        found = Conditional.of(self._components(), self._within(given))
        kept = np.setdiff1d(np.arange(self._components().n_features), given)
        return given, found.known, Regression.by(found, None if names is None else tuple(str(names[j]) for j in kept))

    def _shared_names(self, rows: Source) -> list[str]:
        """Return the names of the columns of rows; an OptionError unless the mixture has all of them."""
        own, names = list(getattr(self, "feature_names_in_", ())), feature_names(rows.column_labels)
        if not own or not names or not set(names) <= set(own):
            raise OptionError(
                "`features`",
                "say which features the columns of `X` are, where their names do not",
                f"{names or 'no names'} for {own or 'features without names'}",
                "Give names, or numbers from 0: `features=[0, 2]`.",
            )
        return names

    def _numbers(self, features: Features, argument: str) -> NDArray[np.intp]:
        check_is_fitted(self, "means_")
        n_features = self._components().n_features
        names = [str(name) for name in getattr(self, "feature_names_in_", range(n_features))]
        return np.array(chosen_features(features, names, argument=argument), dtype=np.intp)

    def _within(self, given: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return features that are known, of which there must be others."""
        if len(given) == self._components().n_features:
            raise OptionError("`features`", "leave a feature that is not known", "all of them", "Name fewer.")
        return given

    def _of_some(self, p: Parameters, kept: NDArray[np.intp]) -> Self:
        """Return an estimator that predicts by a mixture of some features, which has their names."""
        names = getattr(self, "feature_names_in_", None)
        made: Any = type(self)()
        made.set_params(n_components=p.n_components, covariance_type=p.family.name, non_finite=self.non_finite)  # type: ignore[attr-defined]
        made.__dict__ |= attributes_of(p)
        if names is not None:
            made.feature_names_in_ = np.array([names[j] for j in kept], dtype=object)
        found: Self = made
        return found
