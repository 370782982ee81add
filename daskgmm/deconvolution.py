"""What rows with measurement errors add to an estimator: predictions that know of them, and the true values."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from daskgmm.fitting.device import predictor_for
from daskgmm.fitting.device_options import not_of_rows
from daskgmm.fitting.measured import Measured
from daskgmm.inputs import opened_rows
from daskgmm.kernels.denoising import Denoising
from daskgmm.kernels.prediction import Predictor, What
from daskgmm.kernels.regression import Regression
from daskgmm.mixture.noise import check_gaps
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.prediction import predict_rows


class Deconvolving:
    """Gives an estimator predictions for rows with measurement errors, and `denoise`."""

    device: str

    non_finite: str

    def denoise(self, X: Any, errors: Any) -> Any:
        """Return the means of the true values given the rows, (n_rows, n_features); lazy unless X is in memory.

        Parameters
        ----------
        X : array, Dask array, Zarr array, path or URL
            (n_rows, n_features), measured values.
        errors : array, Dask array, Zarr array, path or URL
            As `fit` takes them: standard deviations, not variances, or covariances.

        Notes
        -----
        sum_k r_k (mu_k + V_k (V_k + S)^-1 (x - mu_k)), with r the responsibilities for x. They lie closer together than
        true values do, as means do.
        """
        check_is_fitted(self, "means_")
        p, rows = self._parameters(), opened_rows(self, X, reset=False)  # type: ignore[attr-defined]
        of = Measured.of(errors, rows)
        return self._predicted(rows, denoiser(p, of), of)

    def _predict(self, X: Any, what: What, errors: Any = None, *, non_finite: str | None = None) -> Any:
        check_is_fitted(self, "means_")
        p = self._parameters()  # type: ignore[attr-defined]  # (checked before the rows are, against its features)
        check_gaps(p.noise, non_finite or self.non_finite)
        rows = opened_rows(self, X, reset=False)
        of = Measured() if errors is None else Measured.of(errors, rows)
        return self._predicted(rows, Predictor.of(of.seen(p), what, kernel=of.kernel), of, non_finite)

    def _predicted(self, rows: Any, predictor: Predictor, of: Measured, non_finite: str | None = None) -> Any:
        non_finite = non_finite or self.non_finite
        of.check_gaps(non_finite)
        why = not_of_rows(of.kernel, non_finite) or ("" if type(predictor) is Predictor else "such predictions")
        predictor = predictor_for(self.device, why, rows, predictor)
        found = predict_rows(rows, predictor, non_finite=non_finite, columns=of.columns)
        return rows.as_given(found, predictor.what) if rows.as_given else found


def denoiser(p: Parameters, of: Measured) -> Predictor:
    """Return what predicts true values: of errors that are one for all rows by slopes that are too."""
    if of.common is None:
        return Denoising.by(of.seen(p))
    known, d = of.seen(p), p.n_features
    true = np.stack([_matrix(p, k) for k in range(p.n_components)])
    slopes = np.swapaxes(np.linalg.solve(true + of.common, true), -1, -2)
    return Regression(
        Predictor.of(known, "proba").plan, "denoise", p.means, np.ascontiguousarray(slopes.reshape(-1, d, d))
    )


def _matrix(p: Parameters, k: int) -> Any:
    root = p.shape.spread(np.eye(p.n_features), p.shape.component(p.precisions_cholesky, k))
    return root @ root.T
