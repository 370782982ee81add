"""What a fit, a selection and a prediction share in Python: rows and weights as sources, the seed, printed passes."""

from __future__ import annotations

import os
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from daskgmm.data.opening import open_source
from daskgmm.data.source import Source, plain_rows
from daskgmm.errors import DataError, OptionError
from daskgmm.fitting.events import HEADER, Listener, PassDone, ignore


def opened_rows(estimator: Any, X: Any, *, reset: bool) -> Source:
    """Return X as a source, its number of features checked against an estimator or, with `reset`, noted in it."""
    if is_lazy(X):
        source = open_source(X)
        if reset:
            estimator.n_features_in_ = source.n_features
            if hasattr(estimator, "feature_names_in_"):
                del estimator.feature_names_in_
        else:
            check_features(estimator, source.n_features)
        return source
    return open_source(rows_in_memory(estimator, X, reset=reset))


def opened_weights(sample_weight: Any) -> Source | None:
    """Return row weights as a source; None where there are none."""
    if sample_weight is None:
        return None
    _refuse_mask(sample_weight)
    plain = sample_weight if is_lazy(sample_weight) else np.asarray(sample_weight)
    return open_source(plain, argument="sample_weight")


def rows_in_memory(estimator: Any, X: Any, *, reset: bool) -> NDArray[Any]:
    """Return X as a NumPy array, its features checked against an estimator or, with `reset`, noted in it."""
    _refuse_mask(X)
    if isinstance(X, np.ndarray) and X.ndim == 1:
        if not reset and n_features_of(estimator) != 1:
            raise DataError(
                f"X must have shape (n_rows, {n_features_of(estimator)}); got {X.shape}. Reshape your data: one row is "
                "X.reshape(1, -1)."
            )
        X = X[:, np.newaxis]
    result: NDArray[Any] = validate_data(
        estimator, X, reset=reset, dtype="numeric", ensure_all_finite=False, ensure_min_samples=1
    )
    return result


def check_features(estimator: Any, n_features: int) -> None:
    """Raise a DataError for another number of features than a mixture has."""
    known = n_features_of(estimator)
    if n_features != known:
        raise DataError(
            f"X must have the {known} features that the mixture was fitted to; got {n_features}. "
            "Select the same columns in the same order."
        )


def n_features_of(estimator: Any) -> int:
    """Return the number of features of a mixture, fitted or set by hand."""
    return int(np.shape(estimator.means_)[1])


def is_lazy(X: Any) -> bool:
    """Return whether X is read in passes: a path or URL, a Zarr array or group, a Dask collection, or a source."""
    if isinstance(X, str | os.PathLike | Source) or hasattr(X, "__dask_graph__") or hasattr(X, "to_dask_array"):
        return True
    return type(X).__module__.split(".")[0] == "zarr"


def seed_of(random_state: Any) -> int:
    """Return the seed of a fit: random_state where it is a number, so that a loaded model fits again alike."""
    rng = check_random_state(random_state)
    return int(random_state if isinstance(random_state, Integral) else rng.randint(2**31 - 1))


def printing(verbose: Any, interval: Any) -> Listener:
    """Return a listener that prints passes: none, one in `interval` or, where `verbose` is 2 or more, each."""
    for name, value, least in (("verbose", verbose, 0), ("verbose_interval", interval, 1)):
        if not isinstance(value, Integral) or value < least:
            raise OptionError(f"{name} must be an integer of at least {least}; got {value!r}.")
    return _Printer(1 if verbose > 1 else int(interval)) if verbose else ignore


class _Printer:
    """Prints the line of a pass now and then."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        print(HEADER)

    def __call__(self, event: PassDone) -> None:
        if event.what != "em" or not event.n_running or (event.number - 1) % self._interval == 0:
            print(event.line())


def _refuse_mask(data: Any) -> None:
    """Raise a DataError for a masked array, whose mask scikit-learn's validation and NumPy drop without a word."""
    if isinstance(data, np.ma.MaskedArray):
        plain_rows(data)
