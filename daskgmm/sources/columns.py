"""Which columns are meant by the names that a person gives: wildcards, and the nearest names where there is none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from daskgmm.errors import InputMissingError, OptionError, verbatim

#: Names that a message lists at most.
_LISTED = 16


def chosen(columns: Sequence[str] | None, available: Sequence[str], argument: str, label: str) -> list[str]:
    """Return the names of the columns that are meant, in the order given; those of a wildcard in the input's order.

    Parameters
    ----------
    columns : sequence of str or None
        Names, and wildcards in which "*" stands for any characters and "?" for one; None means all columns. A wildcard
        leaves out what is named beside it, so that ["z", "*"] has z first.
    available : sequence of str
        The columns of the input, in its order.
    argument, label : str
        What messages call the input, and where it is.

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
        raise OptionError("`columns`", f"name at least one column of `{argument}`", "none", _remedy(available))
    known, named = set(available), [name for name in columns if not _is_wildcard(name) or name in available]
    twice = next((name for i, name in enumerate(named) if name in named[:i]), None)
    if twice is not None:
        raise OptionError("`columns`", "name each column once", f"{twice!r} twice with {label}", "Name it once.")
    found: dict[str, None] = {}
    for name in columns:
        if name in known:
            found[name] = None
            continue
        meant = _meant_by(name, available) if _is_wildcard(name) else []
        if not meant:
            raise _missing(name, available, argument, label)
        found |= dict.fromkeys(one for one in meant if one not in named)
    return list(found)


def _is_wildcard(name: str) -> bool:
    return "*" in name or "?" in name


def _meant_by(wildcard: str, available: Sequence[str]) -> list[str]:
    # (Not fnmatch: "[0]" is a part of a name here.)
    pattern = re.compile("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in wildcard), re.DOTALL)
    return [name for name in available if pattern.fullmatch(name)]


def _missing(name: str, available: Sequence[str], argument: str, label: str) -> InputMissingError:
    what = "is meant by that wildcard" if _is_wildcard(name) else "has that name"
    near = get_close_matches(name, available, n=4, cutoff=0.6)
    # (Names that differ in their case alone look far from each other.)
    near = list(dict.fromkeys([*(one for one in available if one.lower() == name.lower()), *near]))
    remedy = f"Did you mean {verbatim(_listed(near))}?" if near else _remedy(available)
    return InputMissingError(
        "`columns`", f"name columns of `{argument}`", f"{name!r} with {label}, where none {what}", remedy
    )


def _remedy(available: Sequence[str]) -> str:
    return f"Name some of {verbatim(_listed(available))}."


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(repr, names[:_LISTED])) + more
