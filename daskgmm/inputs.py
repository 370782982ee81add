"""What estimators, `select` and predictions share: parameters, rows and weights as sources, the seed, warnings."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from daskgmm.errors import DataError, FitWarning, InputMissingError, OptionError, verbatim
from daskgmm.fitting.events import HEADER, Listener, PassDone, ignore
from daskgmm.fitting.option import declared
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.status import Status
from daskgmm.sources.columns import feature_names, refuse_other_names
from daskgmm.sources.conventions import check_units
from daskgmm.sources.opening import open_by_name, open_rows
from daskgmm.sources.source import Source


def opened_rows(estimator: Any, X: Any, *, reset: bool) -> Source:
    """Return X as a source, its features checked against an estimator or, with `reset`, noted in it.

    This is the door of every method. Nothing is read: rows of chunks of unknown size are not counted. Of files whose
    columns have names those are taken that the estimator was fitted to, whatever their order; in a data frame they must
    be these, as scikit-learn has it.
    """
    fitted = None if reset else getattr(estimator, "feature_names_in_", None)
    source = open_by_name(X, None if fitted is None else list(fitted))
    names = feature_names(source.column_labels)
    if reset:
        _note_units(estimator, source.beside.units)
        estimator.n_features_in_ = source.n_features
        if names is not None:
            estimator.feature_names_in_ = np.array(names, dtype=object)
        elif hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
    else:
        check_units(getattr(estimator, "units_in_", None), source.beside, source.label)
        _check_names(estimator, names)
        _check_number(estimator, source.n_features, X)
    return source


def opened_weights(sample_weight: Any) -> Source | None:
    """Return row weights as a source; None where there are none."""
    given = sample_weight if isinstance(sample_weight, str) else ""
    if given and "/" not in given and not os.path.splitext(given)[1] and not os.path.exists(given):
        name = verbatim(repr(given))
        raise InputMissingError(
            "`sample_weight`",
            "be an array, or the path of one",
            f"{given!r}, where nothing is",
            f"A column of X is X[{name}] of a data frame, and daskgmm.open_rows(X, columns=[{name}]) of a file.",
        )
    return None if sample_weight is None else open_rows(sample_weight, argument="sample_weight")


def opened_columns(columns: Mapping[str, Any] | None) -> dict[str, Source]:
    """Return what comes with each row as sources, by name."""
    if columns is not None and not hasattr(columns, "items"):
        kind = type(columns).__name__
        raise OptionError(
            "`columns`",
            "be a dict or a data frame",
            f"a {kind}",
            'Give {"name": values} for a kernel that knows them; features are named by '
            "`daskgmm.open_rows(X, columns=[...])`.",
        )
    named = [] if columns is None else columns.items()
    return {name: open_rows(each, argument=f"columns[{name!r}]") for name, each in named}


def opened_labels(labels: Any) -> Source | None:
    """Return the known classes of rows as a source; None where there are none."""
    return None if labels is None else open_rows(labels, argument="labels")


def _note_units(estimator: Any, units: str | None) -> None:
    if units is not None:
        estimator.units_in_ = units
    elif hasattr(estimator, "units_in_"):
        del estimator.units_in_


def _check_names(estimator: Any, names: list[str] | None) -> None:
    """Raise a DataError for other names of features than an estimator was fitted to, in scikit-learn's words."""
    fitted, who = getattr(estimator, "feature_names_in_", None), type(estimator).__name__
    if (names is None) != (fitted is None):
        has = "X does not have valid feature names, but" if names is None else "X has feature names, but"
        warnings.warn(f"{has} {who} was fitted with{'' if names is None else 'out'} feature names", stacklevel=5)
    if names is not None and fitted is not None:
        by_name = "take daskgmm.open_rows(X, columns=list(mixture.feature_names_in_))"
        refuse_other_names(names, list(fitted), by_name=by_name)


def _check_number(estimator: Any, n_features: int, X: Any) -> None:
    """Raise a DataError for another number of features than an estimator was fitted to, in scikit-learn's words."""
    fitted = np.shape(estimator.means_)[1]
    if n_features == fitted:
        return
    remedy = "Select the same columns in the same order."
    if n_features == 1 and not isinstance(X, str | os.PathLike | Source) and np.ndim(X) == 1:
        remedy = "Reshape your data: one row is numpy.asarray(X).reshape(1, -1)."
    who = type(estimator).__name__
    raise DataError(text=f"`X` has {n_features} features, but {who} is expecting {fitted} features as input. {remedy}")


def random_numbers(random_state: Any) -> np.random.RandomState:
    """Return the random numbers that scikit-learn's random_state means, or that a Generator of NumPy begins.

    Raises
    ------
    OptionError
        It is none of these.
    """
    if isinstance(random_state, np.random.Generator):
        return np.random.RandomState(int(random_state.integers(2**31 - 1)))
    try:
        found: np.random.RandomState = check_random_state(random_state)
    except ValueError as error:
        raise OptionError(
            "`random_state`", "be a whole number from 0 to 2^32 - 1, a Generator or RandomState of NumPy, or None",
            repr(random_state), "Give a number to have the same fit again.",
        ) from error  # fmt: skip
    return found


def seed_of(random_state: Any) -> int:
    """Return the seed of a fit: random_state where it is a number, so that a loaded model fits again alike."""
    rng = random_numbers(random_state)
    return int(random_state if isinstance(random_state, Integral) else rng.randint(2**31 - 1))


def printing(verbose: Any, interval: Any, *, also: Listener = ignore) -> Listener:
    """Return a listener that prints passes, and tells another one: none, one in `interval`, or each by verbose=2."""
    for name, value, least in (("verbose", verbose, 0), ("verbose_interval", interval, 1)):
        if not isinstance(value, Integral) or value < least:
            raise OptionError(f"`{name}`", f"be an integer of at least {least}", repr(value))
    return _Printer(1 if verbose > 1 else int(interval), also) if verbose else also


class _Printer:
    """Prints the line of a pass now and then."""

    def __init__(self, interval: int, also: Listener) -> None:
        self._interval, self._also = interval, also
        print(HEADER if interval == 1 else f"{HEADER}  (first, last and one in {interval} iterations)")

    def __call__(self, event: PassDone) -> bool:
        if event.what != "em" or not event.n_running or event.n_iter % self._interval == 1 % self._interval:
            print(event.line())
        return bool(self._also(event))


#: Parameters of an estimator that are no options of a fit, and their defaults.
_OWN = {"random_state": None, "warm_start": False, "verbose": 0, "verbose_interval": 10}


def constructor(options: type[FitOptions]) -> Callable[..., None]:
    """Return the constructor of an estimator whose parameters are some options of a fit, and its own."""
    defaults = {name: f.default for name, (f, option) in declared(options).items() if option.of_estimator} | _OWN
    first, *others = (Parameter(name, Parameter.KEYWORD_ONLY, default=value) for name, value in defaults.items())
    own = [Parameter("self", Parameter.POSITIONAL_OR_KEYWORD), first.replace(kind=Parameter.POSITIONAL_OR_KEYWORD)]
    signature = Signature([*own, *others])

    def construct(self: Any, *args: Any, **parameters: Any) -> None:
        try:
            given = signature.bind(self, *args, **parameters)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}() {error}") from None
        given.apply_defaults()
        for name in defaults:
            setattr(self, name, given.arguments[name])

    construct.__name__, construct.__signature__ = "__init__", signature  # type: ignore[attr-defined]
    return construct


def warn_unless_converged(status: Status, n_iter: int, *, stacklevel: int) -> None:
    """Warn, as scikit-learn does, of a fit that has not converged."""
    if status is not Status.CONVERGED:
        warnings.warn(f"{status.sentence} (n_iter={n_iter})", ConvergenceWarning, stacklevel=stacklevel + 1)


def warn_of(remarks: Sequence[str], *, stacklevel: int) -> None:
    """Warn, once, of all that a person should know of a fit."""
    if remarks:
        warnings.warn(FitWarning(" ".join(remarks)), stacklevel=stacklevel + 1)
