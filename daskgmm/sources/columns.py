"""Columns by name: which are meant, the nearest ones where there is none, and whether a mixture was fitted to them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from daskgmm.errors import DataError, InputMissingError, OptionError, verbatim

#: Names that a message lists at most.
_LISTED = 16


def chosen(
    columns: Sequence[str] | None, available: Sequence[str], argument: str, label: str, *, option: str = "columns"
) -> list[str]:
    """Return the names of the columns that are meant, in the order given; those of a wildcard in the input's order.

    Parameters
    ----------
    columns : sequence of str or None
        Names, and wildcards in which "*" stands for any characters and "?" for one; None means all columns. A wildcard
        leaves out what is named beside it, so that ["z", "*"] has z first, and what is named after a "!": ["*", "!id"]
        is all but id. A column's own name is never a wildcard.
    available : sequence of str
        The columns of the input, in its order.
    argument, label, option : str
        What messages call the input, where it is, and what names its columns.

    Raises
    ------
    InputMissingError
        No column has a name, or is meant by a wildcard.
    OptionError
        No name, or one that is given twice.
    """
    if columns is None:
        return list(available)
    if not columns:
        raise OptionError(f"`{option}`", f"name at least one column of `{argument}`", "none", _remedy(available))
    known = set(available)
    left_out = [name[1:] for name in columns if name.startswith("!") and name not in known]
    columns = [name for name in columns if name in known or not name.startswith("!")] or ["*"]
    named = [name for name in columns if name in known or not is_wildcard(name)]
    twice = next((name for i, name in enumerate(named) if name in named[:i]), None)
    if twice is not None:
        raise OptionError(f"`{option}`", "name each column once", f"{twice!r} twice with {label}", "Name it once.")
    both = next((name for name in named if name in left_out), None)
    if both is not None:
        raise OptionError(f"`{option}`", "name a column or leave it out", f"{both!r} and '!{both}'", "Choose one.")
    out = {one for name in left_out for one in _meant_by(name, available, argument, label, option)}
    found: dict[str, None] = {}
    for name in columns:
        meant = _meant_by(name, available, argument, label, option)
        found |= dict.fromkeys(one for one in meant if one == name or one not in out.union(named))
    if not found:
        raise OptionError(f"`{option}`", f"leave a column of `{argument}`", f"none of {label}", _remedy(available))
    return list(found)


def _meant_by(name: str, available: Sequence[str], argument: str, label: str, option: str) -> list[str]:
    """Return the columns that a name or wildcard means; an InputMissingError where there is none."""
    found = matching(name, available)
    if not found:
        raise _missing(name, available, argument, label, option)
    return found


def matching(name: str, available: Collection[str]) -> list[str]:
    """Return which of some names a name or wildcard means."""
    if name in available:
        return [name]
    # (Not fnmatch: "[0]" is a part of a name here.)
    pattern = re.compile("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in name), re.DOTALL)
    return [one for one in available if pattern.fullmatch(one)]


def is_wildcard(name: str) -> bool:
    """Return whether a name of columns may mean several."""
    return "*" in name or "?" in name


def _missing(name: str, available: Sequence[str], argument: str, label: str, option: str) -> InputMissingError:
    what = "is meant by that wildcard" if is_wildcard(name) else "has that name"
    near = get_close_matches(name, available, n=4, cutoff=0.6)
    # (Names that differ in their case alone look far from each other.)
    near = list(dict.fromkeys([*(one for one in available if one.lower() == name.lower()), *near]))
    remedy = f"Did you mean {verbatim(_listed(near))}?" if near else _remedy(available)
    several = [one.strip() for one in name.split(",")]
    if len(several) > 1 and all(one in available for one in several):
        remedy = f"Give several as a list: {verbatim(str(several))}."
    return InputMissingError(
        f"`{option}`", f"name columns of `{argument}`", f"{name!r} with {label}, where none {what}", remedy
    )


def _remedy(available: Sequence[str]) -> str:
    return f"Name some of {verbatim(_listed(available))}."


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(repr, names[:_LISTED])) + more


def select_columns(data: Any, columns: Sequence[str], argument: str) -> Any:
    """Return some columns of a data frame of pandas or Dask; nothing is read."""
    kind = type(data).__name__
    labels = [one for one in getattr(data, "columns", ()) if isinstance(one, str)]
    return data[chosen_labels(columns, labels, argument, kind)]


def chosen_labels(columns: Sequence[str], labels: Sequence[str], argument: str, kind: str) -> list[str]:
    """Return the names of the columns that are meant of a data frame of a kind."""
    if not labels:
        raise OptionError(
            "`columns`", f"be left out where `{argument}` has no columns with names", f"a {kind}", "Leave it out."
        )
    return chosen(columns, labels, argument, f"a {kind}")


def refuse_twice(
    labels: Sequence[Any] | None, argument: str, remedy: str = "Rename one of them, or name other ones with `columns`."
) -> None:
    """Raise a DataError where two columns of a data frame have the same name."""
    seen: set[str] = set()
    for name in labels or ():
        if isinstance(name, str) and name in seen:
            raise DataError(
                f"`{argument}`",
                "have a name for each column that no other one has",
                f"several columns {name!r} in a data frame",
                remedy,
            )
        seen.add(name)


def no_numbers(argument: str, column: Any, got: str) -> DataError:
    """Return the error of a column of a data frame that holds no numbers."""
    return DataError(
        f"`{argument}`",
        "hold real numbers in every column",
        f"{got} in column {column!r} of a data frame",
        "Drop or encode that column.",
    )


def without_columns(labels: Sequence[Any] | None, features: Sequence[int]) -> str:
    """Return, as a sentence, how to leave columns out by their names; nothing where they have none."""
    names = feature_names(labels)
    if names is None:
        return ""
    listed = verbatim(", ".join(repr(f"!{names[j]}") for j in features))
    return (
        f"Leave {'it' if len(features) == 1 else 'them'} out, by `daskgmm.open_rows(X, columns=[...])` with {listed}."
    )


def without_features(code: str, features: Sequence[int]) -> str:
    """Return, as a sentence, how to store rows without some features; `code` makes a Dask array of all."""
    made = verbatim(f'dask.array.delete({code}, {list(features)}, axis=1).to_zarr("rest.zarr")')
    return f"Leave such features out: {made}."


def feature_names(labels: Sequence[Any] | None) -> list[str] | None:
    """Return the labels of columns as names of features: all of them are text, or none has a name."""
    named = [isinstance(label, str) for label in labels or ()]
    if labels is None or not any(named):
        return None
    if not all(named):
        raise DataError(
            "Columns of `X`",
            "have names that are all text, or none",
            f"labels of several types, such as {labels[named.index(True)]!r} and {labels[named.index(False)]!r}",
            "Make them text: X.columns = X.columns.astype(str).",
        )
    return list(labels)


def refuse_other_names(names: Sequence[str], fitted: Sequence[str], *, by_name: str) -> None:
    """Raise a DataError for other names of features than a mixture was fitted to, in scikit-learn's words.

    Parameters
    ----------
    by_name : str
        How to select the columns that it was fitted to.
    """
    if list(names) == list(fitted):
        return
    unseen, missing = sorted(set(names) - set(fitted)), sorted(set(fitted) - set(names))
    said = "The feature names should match those that were passed during fit.\n"
    for what, found in (("unseen at fit time", unseen), ("seen at fit time, yet now missing", missing)):
        if found:
            said += "\n- ".join([f"Feature names {what}:", *found[:5], *(["..."] if len(found) > 5 else [])]) + "\n"
    if not unseen and not missing:
        said += "Feature names must be in the same order as they were in fit.\n"
    raise DataError(text=f"{verbatim(said)}To select the same columns in the same order, {by_name}.")


def chosen_features(asked: Sequence[str | int] | str | int, names: Sequence[str], *, argument: str) -> list[int]:
    """Return the numbers of features that are named, or numbered from 0; an OptionError for what is none of them."""
    found = []
    for one in [asked] if isinstance(asked, str | int | np.integer) else asked:
        number = list(names).index(one) if isinstance(one, str) and one in names else one
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < len(names):
            listed = ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])} and {len(names) - 20} more"
            must = f"name features of the mixture ({listed})"
            raise OptionError(f"`{argument}`", must, repr(one), "Name some of these.")
        found.append(int(number))
    if not found or len(set(found)) < len(found):
        must = "name at least one feature, and each once"
        raise OptionError(f"`{argument}`", must, repr(asked), "Name some of them.")
    return found
