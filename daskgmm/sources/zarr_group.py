"""Which array of a Zarr group is meant: the one that is named, or the only one that it can be; never a guess."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr

from daskgmm.errors import DataError, InputMissingError, OptionError, verbatim
from daskgmm.sources.columns import chosen
from daskgmm.sources.conventions import attributes_of, coordinates, dimension_names

#: Arrays that a message lists at most.
_LISTED = 64


def array_in(
    node: zarr.Array[Any] | zarr.Group, name: str | None, argument: str, label: str, *, by_path: bool
) -> zarr.Array[Any]:
    """Return the array that is meant: `node` itself, the one called `name`, or the only one of its group.

    What a group's consolidated metadata say is taken only where the store cannot tell it otherwise: they may be older
    than its arrays.

    Parameters
    ----------
    by_path : bool
        Whether the group was given by its path or URL, which `label` is.

    Raises
    ------
    OptionError
        Several arrays may be meant, or the only one describes others.
    InputMissingError
        The name is that of no array.
    DataError
        The group has none of one or two dimensions.
    """
    if isinstance(node, zarr.Array):
        if name is not None:
            raise OptionError(
                "`array`",
                f"be left out where `{argument}` is an array itself",
                f"array={name!r} with {label}",
                "Leave it out, or give the group.",
            )
        return node
    if name is not None:
        return _named(node, name, argument, label)
    members = _members(node)
    usable = [a for a in members if a.ndim in (1, 2) and np.dtype(a.dtype).kind in "biuf"]
    describing = coordinates(members, attributes_of(node))
    if len(usable) == 1 and (len(members) == 1 or usable[0].basename not in describing):
        return usable[0]
    listed = _listed(members, describing)
    own = [a.basename for a in members if np.dtype(a.dtype).kind in "biuf" and a.basename not in describing]
    grids = [a.basename for a in members if a.ndim > 2 and a.basename in own]
    if not usable or (grids and not any(a.basename in own for a in usable)):
        by_columns = f"Name arrays by `columns`, {verbatim(grids)}: each point of their grid is a row then."
        raise DataError(
            f"`{argument}`",
            "be, or hold, one array of numbers of one or two dimensions",
            f"a group with none in {label}{listed}",
            by_columns if grids else "Give the path of the array, or name one deeper in the group.",
        )
    example = next((a.basename for a in usable if a.basename not in describing), usable[0].basename)
    option = "sample_weight's array" if "weight" in argument else "array"
    remedy = f"Give one of them: {argument}[{verbatim(repr(example))}]."
    if by_path:
        path, name = verbatim(f"{label}/{example}"), verbatim(repr(example))
        remedy = f"Give the path of one, such as {path}, or its name, `{option}` {name}."
    if len(own) > 1 and "weight" not in argument:
        remedy += f" If each is a feature, name them by `columns`: {verbatim(', '.join(map(repr, own[:8])))}."
    raise OptionError(
        f"`{argument}`", "be one array", f"a group of {len(usable)} that it may be in {label}{listed}", remedy
    )


def _named(group: zarr.Group, name: str, argument: str, label: str) -> zarr.Array[Any]:
    found = member(group, name)
    if not isinstance(found, zarr.Array):
        what = "a group" if isinstance(found, zarr.Group) else "nothing"
        members = _members(group)
        raise InputMissingError(
            "`array`",
            f"name an array of the group that `{argument}` is",
            f"array={name!r}, which is {what} in {label}{_listed(members, coordinates(members, group.attrs))}",
            "Name an array that is there.",
        )
    return found


def member(group: zarr.Group, name: str) -> zarr.Array[Any] | zarr.Group | None:
    """Return what is called `name` in a group; None where nothing is."""
    found = None
    for one in (_unconsolidated(group), group):
        found = one.get(name) if found is None and one is not None else found
    return found


def arrays_called(group: zarr.Group, names: Sequence[str], argument: str, label: str) -> dict[str, zarr.Array[Any]]:
    """Return the arrays of a group that `columns` names, by name, in this order.

    Wildcards mean arrays directly in the group that describe no others. (A store that cannot list its arrays has those
    that are named in full.)

    Raises
    ------
    InputMissingError, OptionError
        As `daskgmm.sources.columns.chosen`.
    """
    named = {name: found for name in names if isinstance(found := member(group, name), zarr.Array)}
    if names and len(named) == len(names):
        return named
    members = _members(group)
    describing = coordinates(members, attributes_of(group))
    known = {a.basename: a for a in members if a.basename not in describing} | named
    return {name: known[name] for name in chosen(names, list(known), argument, label)}


def arrays_along(group: zarr.Group, dimension: str, argument: str, label: str) -> dict[str, zarr.Array[Any]]:
    """Return the only array of a group that has a dimension, and others, and describes none, by its name.

    Raises
    ------
    OptionError
        There are several, or none.
    """
    members = _members(group)
    describing = coordinates(members, attributes_of(group))
    found = {
        a.basename: a
        for a in members
        if dimension in dimension_names(a) and a.ndim > 1 and a.basename not in describing
    }
    if len(found) != 1:
        raise OptionError(
            "`columns`",
            f"name the arrays whose features lie along {dimension!r}",
            f"{len(found)} that they may be in {label}{_listed(members, describing)}",
            f"Give `columns`, for example {verbatim(list(found) or ['name'])}.",
        )
    return found


def describing_arrays(group: zarr.Group) -> dict[str, zarr.Array[Any]]:
    """Return the arrays directly in a group that describe others, by name; none where the store cannot list."""
    members = _members(group)
    describing = coordinates(members, attributes_of(group))
    return {array.basename: array for array in members if array.basename in describing}


def _listed(members: list[zarr.Array[Any]], describing: set[str]) -> str:
    if not members:
        return " (no arrays are listed there)"
    listed = [_described(a, describing) for a in members[:_LISTED]]
    more = f", and {len(members) - _LISTED} more" if len(members) > _LISTED else ""
    return f" (it has {', '.join(listed)}{more})"


def _described(array: zarr.Array[Any], describing: set[str]) -> str:
    names = dimension_names(array)
    # (In quotes, so that nobody takes them for words of the command line.)
    said = f"{array.basename!r} {array.shape} {array.dtype}"
    said += f" by {' and '.join(map(repr, names))}" if names else ""
    return f"{said}: a coordinate" if array.basename in describing else said


def _members(group: zarr.Group) -> list[zarr.Array[Any]]:
    """Return the arrays directly in a group, by name; none where the store cannot list (plain HTTP)."""
    for one in (_unconsolidated(group), group):
        try:
            found = [] if one is None else [array for _, array in sorted(one.arrays(), key=lambda member: member[0])]
        except Exception:  # noqa: S112
            # Each kind of storage has its own exception for "cannot list"; the message then says that none is known.
            continue
        if found:
            return found
    return []


def _unconsolidated(group: zarr.Group) -> zarr.Group | None:
    """Return the same group without its consolidated metadata."""
    store = group.store_path.store
    try:
        return zarr.open_group(store, path=group.path, mode="r" if store.read_only else "r+", use_consolidated=False)
    except Exception:
        # (As above: what the store makes of it is told where the group itself is read.)
        return None
