"""The peers: scikit-learn, oneDAL through daal4py where it is installed, and the k-means start that all share."""

from __future__ import annotations

import importlib.metadata
import warnings
from time import perf_counter
from typing import Any

import numpy as np
from data_sets import DataSet
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

#: Rows that the k-means start of plain EM sees: a tenth, but no fewer and no more than these.
START_ROWS = (20_000, 200_000)


def sklearn_fit(data_set: DataSet, X: Any, seed: int, **options: Any) -> tuple[Any, float]:
    """Return scikit-learn's fit at its defaults but for what is given, and the seconds that it took."""
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(
        data_set.n_components,
        covariance_type=data_set.kind,
        reg_covar=data_set.reg_covar,
        random_state=seed,
        **options,
    )
    began = perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X)
    return model, perf_counter() - began


def kmeans_start(data_set: DataSet, X: Any, seed: int, *, n_rows: int | None = None) -> dict[str, Any]:
    """Return weights, means and covariances of k-means' clusters, as scikit-learn starts.

    Parameters
    ----------
    n_rows : int or None
        Rows that k-means sees; None takes a tenth of them.
    """
    random = np.random.default_rng(seed)
    n_rows = int(np.clip(len(X) // 10, *START_ROWS)) if n_rows is None else n_rows
    if n_rows < len(X):
        X = X[np.sort(random.choice(len(X), n_rows, replace=False))]
    X = np.asarray(X, dtype=np.float64)
    k = data_set.n_components
    labels = KMeans(k, n_init=1, random_state=seed).fit(X).labels_
    counts = np.bincount(labels, minlength=k)
    means = np.stack([X[labels == j].mean(axis=0) for j in range(k)])
    covariances = np.stack([np.cov(X[labels == j].T, bias=True).reshape(X.shape[1], -1) for j in range(k)])
    ridge = data_set.reg_covar * np.eye(X.shape[1])
    return {
        "weights": counts / len(X),
        "means": means,
        "covariances": _of_kind(covariances, counts / len(X), data_set.kind, ridge),
    }


def _of_kind(covariances: Any, weights: Any, kind: str, ridge: Any) -> Any:
    """Return full covariances in the shape of the kind, regularised."""
    if kind == "tied":
        return np.tensordot(weights, covariances, 1) + ridge
    full = covariances + ridge
    if kind == "full":
        return full
    variances = np.diagonal(full, axis1=1, axis2=2)
    return variances if kind == "diag" else variances.mean(axis=1)


def as_options(start: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the start as the arguments that daskgmm and scikit-learn share."""
    covariances = start["covariances"]
    precisions = np.linalg.inv(covariances) if kind in ("full", "tied") else 1 / covariances
    return {"weights_init": start["weights"], "means_init": start["means"], "precisions_init": precisions}


def onedal_fit(data_set: DataSet, X: Any, seed: int, *, tol: float, max_iter: int) -> dict[str, Any]:
    """Return what oneDAL's EM from scikit-learn's k-means start took and reached; {"missing": …} without it."""
    try:
        import daal4py
    except ImportError as error:
        return {"missing": f"{error}; pip install scikit-learn-intelex brings daal4py"}
    began = perf_counter()
    start = kmeans_start(data_set, X, seed, n_rows=len(X))
    start_seconds = perf_counter() - began
    algorithm = daal4py.em_gmm(
        nComponents=data_set.n_components,
        maxIterations=max_iter,
        accuracyThreshold=tol * len(X),  # its log-likelihood is of all rows
        covarianceStorage="full",
        regularizationFactor=data_set.reg_covar,
        fptype="double",
    )
    covariances = [np.ascontiguousarray(covariance) for covariance in start["covariances"]]
    began = perf_counter()
    result = algorithm.compute(X, start["weights"][np.newaxis], start["means"], covariances)
    em_seconds = perf_counter() - began
    # Its goal function is of the parameters that went into its last iteration; these are the final ones.
    model = sklearn_model(result.weights.ravel(), result.means, np.stack(result.covariances))
    return {
        "start_seconds": start_seconds,
        "em_seconds": em_seconds,
        "final": float(model.score(X)),
        "n_iter": int(np.ravel(result.nIterations)[0]),
        "version": importlib.metadata.version("scikit-learn-intelex"),
    }


def sklearn_model(weights: Any, means: Any, covariances: Any) -> Any:
    """Return scikit-learn's model of full covariances, which scores."""
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(len(weights))
    model.weights_, model.means_, model.covariances_ = weights, means, covariances
    # scikit-learn's factors are upper triangular: the inverse, transposed, of the covariance's.
    lower = np.linalg.cholesky(covariances)
    model.precisions_cholesky_ = np.linalg.inv(lower).transpose(0, 2, 1)
    return model
