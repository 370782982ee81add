"""Which data set of an HDF5 file is meant: the one that is named, or the only one that it can be; never a guess."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from daskgmm.errors import DataError, InputMissingError, OptionError, verbatim
from daskgmm.sources.columns import chosen
from daskgmm.sources.hdf5_file import attributes_of, dimension_names, is_numbers

#: Data sets that a message lists at most, and groups that are looked into.
_LISTED, _MOST_GROUPS = 64, 10_000


def node_at(file: Any, name: str, argument: str, label: str) -> Any:
    """Return the group or data set of a name in an open file.

    Raises
    ------
    InputMissingError
        There is none.
    DataError
        It is a sparse matrix.
    """
    import h5py

    found = _got(file, name) if name else file
    if isinstance(found, h5py.Dataset) and not is_numbers(found):
        found = None
    if found is None:
        known = list(datasets_below(file))
        near = get_close_matches(name.strip("/"), known, n=4, cutoff=0.6)
        # (A group was left out, or another one is meant.)
        near += [one for one in known if one.split("/")[-1] == name.rstrip("/").split("/")[-1] and one not in near]
        raise InputMissingError(
            f"`{argument}`",
            "name a data set or group of the file",
            f"{name!r} with {label}, where none has that name",
            f"Did you mean {verbatim(', '.join(map(repr, near[:8])))}?" if near else f"It has{_listed(file)}.",
        )
    if isinstance(found, h5py.Group):
        _refuse_sparse(found, argument, label)
    return found


def array_in(node: Any, argument: str, path: str) -> Any:
    """Return the data set that is meant: `node` itself, or the only one in a group that holds rows.

    Raises
    ------
    OptionError
        Several may be meant, or the only one describes others.
    DataError
        There is none of one or two dimensions.
    """
    import h5py

    if isinstance(node, h5py.Dataset):
        return node
    found = datasets_below(node)
    usable = {name: one for name, one in found.items() if _is_usable(one)}
    describing = _describing(found)
    if len(usable) == 1 and (len(found) == 1 or not describing & set(usable)):
        return next(iter(usable.values()))
    label = _label(path, node)
    grids = [name for name, one in found.items() if one.dtype.kind in "biuf" and len(one.shape or ()) > 2]
    grids = [name for name in grids if name not in describing]
    if not usable or (grids and not set(usable) - describing):
        raise DataError(
            f"`{argument}`",
            "be, or hold, one data set of numbers of one or two dimensions",
            f"none in {label}{_listed(node)}",
            f"Name data sets by `columns`, {verbatim(grids)}: each point of their grid is a row then."
            if grids
            else "Give another file, or write its numbers into such a data set.",
        )
    example = next((name for name in usable if name not in describing), next(iter(usable)))
    columns = [name for name, one in usable.items() if len(one.shape) == 1 and name not in describing]
    whole = f"{path}::{node.name.rstrip('/')}/{example}"
    remedy = f"Give the path of one, such as {verbatim(whole)}."
    if len(columns) > 1:
        remedy += f" If each is a feature, name them by `columns`: {verbatim(', '.join(map(repr, columns[:8])))}."
    raise OptionError(
        f"`{argument}`", "be one data set", f"{len(usable)} that it may be in {label}{_listed(node)}", remedy
    )


def arrays_called(node: Any, names: Sequence[str], argument: str, label: str) -> dict[str, Any]:
    """Return the data sets of a group that `columns` names, by name, in this order.

    Wildcards mean data sets directly in the group that describe no others. Where a group has none but only one group,
    that is meant. A group of which the only data set is called "data" is a column by its own name, as vaex has it.

    Raises
    ------
    InputMissingError, OptionError
        As `daskgmm.sources.columns.chosen`.
    """
    members = _columns(node)
    while not members and len(groups := list(_groups(node))) == 1:
        node = groups[0]
        members = _columns(node)
    named = {name: found for name in names if (found := _column(node, name)) is not None}
    describing = _describing(members)
    known = {name: one for name, one in members.items() if name not in describing} | named
    return {name: known[name] for name in chosen(names, list(known), argument, label)}


def arrays_along(node: Any, dimension: str, argument: str, path: str) -> dict[str, Any]:
    """Return the only data set of a group that has a dimension, and others, and describes none, by its name.

    Raises
    ------
    OptionError
        There are several, or none.
    """
    members = _columns(node)
    describing = _describing(members)
    found = {
        name: one
        for name, one in members.items()
        if name not in describing and len(one.shape or ()) > 1 and dimension in dimension_names(one)
    }
    if len(found) != 1:
        raise OptionError(
            "`columns`",
            f"name the data sets whose features lie along {dimension!r}",
            f"{len(found)} that they may be in {_label(path, node)}{_listed(node)}",
            f"Give `columns`, for example {verbatim(list(found) or ['name'])}.",
        )
    return found


def datasets_below(group: Any) -> dict[str, Any]:
    """Return the data sets of a group and of the groups in it, by their paths in it; no parts of sparse matrices."""
    found: dict[str, Any] = {}
    seen, waiting = {_address(group)}, [("", group)]
    for path, one in waiting:
        for name, member in _members(one):
            if _is_dataset(member):
                found[path + name] = member
            elif _address(member) not in seen and len(seen) < _MOST_GROUPS and _sparse(member) is None:
                seen.add(_address(member))
                waiting.append((f"{path}{name}/", member))
    return found


def _columns(group: Any) -> dict[str, Any]:
    return {name: found for name, one in _members(group) if (found := _as_column(one)) is not None}


def _column(group: Any, name: str) -> Any:
    return _as_column(_got(group, name))


def _as_column(member: Any) -> Any:
    """Return the data set that a member of a group is, or holds alone by the name of "data"; None where it is none."""
    if member is None or _is_dataset(member):
        return member if member is None or is_numbers(member) else None
    inside = dict(_members(member))
    return inside["data"] if list(inside) == ["data"] and _is_dataset(inside["data"]) else None


def _groups(group: Any) -> Iterator[Any]:
    yield from (one for _, one in _members(group) if not _is_dataset(one))


def _members(group: Any) -> Iterator[tuple[str, Any]]:
    """Yield the data sets and groups directly in a group, by name; none whose link leads nowhere."""
    for name in sorted(group):  # (as of Zarr; h5py gives the order of their making in its newer versions alone)
        found = _got(group, name)
        if found is not None and (not _is_dataset(found) or is_numbers(found)):
            yield name, found


def _got(group: Any, name: str) -> Any:
    import h5py

    try:
        found = group[name]
    except (KeyError, ValueError, OSError):  # (a name that is not there, or a link to what is not)
        return None
    return found if isinstance(found, h5py.Dataset | h5py.Group) else None


def _is_dataset(member: Any) -> bool:
    import h5py

    return isinstance(member, h5py.Dataset)


def _is_usable(dataset: Any) -> bool:
    return dataset.dtype.kind in "biuf" and dataset.shape is not None and len(dataset.shape) in (1, 2)


def _address(group: Any) -> tuple[int, Any]:
    from h5py import h5o

    info = h5o.get_info(group.id)
    return info.fileno, info.addr


def _describing(members: Mapping[str, Any]) -> set[str]:
    """Return the names of data sets that describe others: scales of dimensions, and what attributes list."""
    found = {name for name, one in members.items() if one.is_scale}
    for path, one in members.items():
        folder = path[: path.rfind("/") + 1]
        found |= {folder + name for name in str(attributes_of(one).get("coordinates", "")).split()}
    return found & set(members)


def _sparse(group: Any) -> str | None:
    """Return the kind of sparse matrix that a group is, as AnnData and 10x write it; None where it is none."""
    kind = group.attrs.get("encoding-type", group.attrs.get("h5sparse_format"))
    if isinstance(kind, str) and kind in ("csr_matrix", "csc_matrix", "csr", "csc"):
        return kind
    return "csc_matrix" if {"data", "indices", "indptr"} <= set(group) else None


def _refuse_sparse(group: Any, argument: str, label: str) -> None:
    kind = _sparse(group)
    if kind is not None:
        raise DataError(
            f"`{argument}`",
            "be dense",
            f"the sparse {kind} {group.name} of {label}",
            "Name dense rows of the same cells, such as obsm/X_pca.",
        )


def _label(path: str, node: Any) -> str:
    return path if node.name == "/" else f"{path}::{node.name}"


def _listed(group: Any) -> str:
    members = datasets_below(group)
    if not members:
        return " (no data sets)"
    describing = _describing(members)
    listed = [_described(name, one, describing) for name, one in list(members.items())[:_LISTED]]
    more = f", and {len(members) - _LISTED} more" if len(members) > _LISTED else ""
    return f" (it has {', '.join(listed)}{more})"


def _described(name: str, dataset: Any, describing: set[str]) -> str:
    names = dimension_names(dataset)
    kind = "a table" if dataset.dtype.names else str(dataset.dtype)
    said = f"{name!r} {dataset.shape} {kind}" + (f" by {' and '.join(map(repr, names))}" if names else "")
    return f"{said}: a coordinate" if name in describing else said
