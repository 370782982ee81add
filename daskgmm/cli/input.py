"""INPUT and its options: which rows are meant, which of their columns are features, and which their weights."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from daskgmm.errors import DaskgmmError, DataError, InputMissingError, OptionError, verbatim
from daskgmm.fitting.measured import Measured
from daskgmm.places.log import say
from daskgmm.sources.columns import feature_names
from daskgmm.sources.opening import open_by_name, open_rows, takes_columns
from daskgmm.sources.source import Source


@dataclass(frozen=True)
class Input:
    """Rows, and perhaps their weights, as the command line names them."""

    location: str
    columns: tuple[str, ...] | None = None
    array: str | None = None
    features: str | None = None
    weights: str | None = None
    weights_array: str | None = None
    labels: str | None = None
    labels_array: str | None = None
    non_finite: str = "error"
    missing_chunks: str = "error"
    errors: str | None = None
    as_fitted: bool = False

    def treatment(self, record: Mapping[str, Any]) -> str:
        """Return what to do with rows that hold a NaN under a model with this record, where nothing else is asked."""
        options = record.get("options")
        fitted = options.get("non_finite") if isinstance(options, Mapping) else None
        return "marginalize" if self.as_fitted and fitted == "marginalize" else self.non_finite

    def open(self, *, names: Sequence[str] | None = None) -> tuple[Source, Source | None]:
        """Return the sources of the rows and of the weights; their metadata are checked, no row is read.

        Parameters
        ----------
        names : sequence of str or None
            The features of a model: where no columns are named, these are taken, whatever their order and company.
        """
        weights = self._column("--weights", self.weights, "sample_weight")
        beside = [self.weights] if weights is not None else []
        if self._column("--labels", self.labels, "labels") is not None:
            beside.append(self.labels)
        options: dict[str, Any] = {"array": self.array, "missing_chunks": self.missing_chunks}
        if self.columns is None and self.features is None and names is not None:
            X = open_by_name(self.location, names, **options)
        else:
            X = self._rows(options, beside=[] if self.array is not None else [str(name) for name in beside])
        if self.weights is not None and weights is None:
            options["array"] = self.weights_array
            weights = open_rows(self.weights, argument="sample_weight", **options)
        return X, weights

    def open_labels(self) -> Source | None:
        """Return the source of the known classes of rows; None without labels."""
        found = self._column("--labels", self.labels, "labels")
        if self.labels is None or found is not None:
            return found
        return open_rows(self.labels, argument="labels", array=self.labels_array, missing_chunks=self.missing_chunks)

    def measured(self, X: Source) -> Measured | None:
        """Return the errors of the rows, None where none are named; their metadata are checked."""
        if self.errors is None:
            return None
        names, options = self._columns_of_errors(), {"argument": "errors", "missing_chunks": self.missing_chunks}
        with _of_flag("--errors", "errors", DataError, InputMissingError):
            given = open_rows(self.location if names else self.errors, columns=names or None, **options)
        d, n = X.n_features, given.n_features
        if names and n not in (d, d * d, d * (d + 1) // 2):
            raise _other_number(names, n, X, self.location)
        return Measured.of(given, X)

    def _columns_of_errors(self) -> tuple[str, ...]:
        """Return the columns of INPUT that `--errors` names; none where it names a place."""
        names = () if self.errors is None else tuple(next(csv.reader([self.errors], skipinitialspace=True)))
        place = any("/" in name or os.path.splitext(name)[1] for name in names) or os.path.exists(self.errors or "")
        if place or not takes_columns(self.location):
            return ()
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            remedy = "Store the errors of each feature as a column of its own, those that are equal too."
            raise OptionError("--errors", "name each column once", f"{verbatim(twice)} twice", remedy)
        return names

    def _rows(self, options: dict[str, Any], *, beside: Sequence[str]) -> Source:
        """Return the source of the columns that are named, or of all; those of weights and labels are no features."""
        columns, beside = self.columns, (*beside, *self._columns_of_errors())
        several = columns is None or any(name.startswith("!") or "*" in name or "?" in name for name in columns)
        if beside and several:
            try:
                others = (*(columns or ()), *(f"!{name}" for name in beside))
                return open_rows(self.location, columns=others, features=self.features, **options)
            except (DataError, InputMissingError) as error:
                # (A coordinate is none of all columns. And what is no column at all is told where it is opened itself.)
                named = error.got.startswith(tuple(repr(one) for name in beside for one in (name, f"!{name}")))
                if error.argument != "`columns`" or not (columns is None or named):
                    raise
        return open_rows(self.location, columns=columns, features=self.features, **options)

    def _column(self, flag: str, name: str | None, argument: str) -> Source | None:
        """Return the column of INPUT that an option names; None where it names a place."""
        if name is None or "/" in name or os.path.splitext(name)[1] or not takes_columns(self.location):
            return None
        if name in (self.columns or ()):
            raise OptionError(
                "--columns", f"leave out the column of {verbatim(flag)}", f"{name!r} in both", "It is no feature."
            )
        try:
            with _of_flag(flag, argument, DataError):
                found = open_rows(self.location, columns=(name,), argument=argument, missing_chunks=self.missing_chunks)
        except OptionError:  # (INPUT has no columns with names)
            return None
        except InputMissingError as error:
            if os.path.exists(name):
                return None
            raise InputMissingError(
                flag, "name a column of INPUT, or a place", f"{name!r}, which is neither", error.remedy
            ) from error
        if os.path.exists(name):
            raise OptionError(
                flag,
                "name a column of INPUT, or a place",
                f"{name}, which is both",
                f"Type ./{name} for the place, or move it.",
            )
        return found


def _other_number(names: Sequence[str], n: int, X: Source, location: str) -> OptionError:
    """Return the error for columns of errors that are not as many as the features; n is how many they hold."""
    d, features = X.n_features, feature_names(X.column_labels)
    order = "" if features is None else f" ({', '.join(features[:8])}{', ...' if d > 8 else ''})"
    remedy = "Name one for each feature, in their order; those that are equal are columns of their own too."
    if n == 1:
        opened = f"daskgmm.open_rows({location!r}, columns=[{names[0]!r}])"
        repeated = f"numpy.repeat({opened}.reader().read(0, {X.n_rows}), {d}, axis=1)"
        code = verbatim(f"import daskgmm, numpy; numpy.save('errors.npy', {repeated})")
        remedy = (
            f'Name one for each feature, in their order. Where it is that of all, python -c "{code}" writes it for '
            "each, for --errors errors.npy."
        )
    must = (
        f"name {d} columns of standard deviations, one for each feature{verbatim(order)}, or {d * d} of a covariance, "
        f"or {d * (d + 1) // 2} of its upper triangle row by row"
    )
    if d == 1:
        must, remedy = f"name one column, of standard deviations{verbatim(order)}", "Leave the others out."
    return OptionError("--errors", must, f"{n}, {', '.join(names)}", remedy)


@contextmanager
def _of_flag(flag: str, argument: str, *kinds: type[DaskgmmError]) -> Iterator[None]:
    """Have errors of these kinds about names of columns name the option that has named them."""
    try:
        yield
    except kinds as error:
        option, requirement, got, remedy = error.fields
        if option != "`columns`":
            raise
        raise type(error)(flag, requirement.replace(f"`{argument}`", "INPUT"), got, remedy) from error


def meaning(X: Source) -> dict[str, Any]:
    """Return what a model says of its features beside their numbers."""
    return {"units": X.beside.units, "feature_names": feature_names(X.column_labels)}


def identity_of(
    X: Source, weights: Source | None, labels: Source | None, errors: Measured | None = None
) -> dict[str, Any]:
    """Return what tells one input of a fit from another."""
    found = {"X": X.identity(), "weights": None if weights is None else weights.identity()}
    of_errors = {} if errors is None else {"errors": errors.identity()}
    return {**found, **({} if labels is None else {"labels": labels.identity()}), **of_errors}


def is_weighted(record: Mapping[str, Any]) -> bool:
    """Return whether the record of a model says that its rows had weights."""
    return ((record.get("input") or {}).get("weights")) is not None


def note_errors(record: Mapping[str, Any], errors: Measured | None) -> None:
    """Log that a model is of the true values of rows with measurement errors, where these rows are taken as exact."""
    if (errors is None or not errors.are_given) and (record.get("about") or {}).get("errors") is not None:
        say(
            "MODEL is of the true values of rows with measurement errors; these rows are taken as exact, and score "
            "lower where they have errors too: --errors gives them."
        )


def note_weights(record: Mapping[str, Any], weights: Source | None) -> None:
    """Log that a model was fitted to weighted rows, where these have no weights."""
    if weights is None and is_weighted(record):
        say("MODEL was fitted to rows with weights; these have none: --weights gives them.")
