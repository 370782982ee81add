"""Estimators and missing values: filling them in, and what scikit-learn is told of them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any


class Imputing:
    """Gives an estimator `impute`."""

    non_finite: str

    @abstractmethod
    def _predict(self, X: Any, what: Any, *, non_finite: str | None = None) -> Any:
        """Return a prediction for X, whose NaN are treated as `non_finite` says."""

    def impute(self, X: Any) -> Any:
        """Return X with each NaN replaced by its mean under the mixture given the rest of its row.

        The mean is that of the components' conditional means, by their responsibilities given what the row has. It is a
        best guess and no draw: filled rows vary less than complete ones would. A row without any value gets the mean of
        the mixture. The mixture may have been fitted to rows without gaps.

        Parameters
        ----------
        X : array, Dask array, Zarr array, path or URL
            (n_rows, n_features), NaN where a value is missing.

        Returns
        -------
        (n_rows, n_features), float64; a lazy Dask array unless X is in memory.

        Raises
        ------
        daskgmm.errors.DataError
            An infinity, or other features than the mixture's.
        """
        return self._predict(X, "impute", non_finite="marginalize")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.allow_nan = self.non_finite == "marginalize"
        return tags
