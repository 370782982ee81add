"""Which columns of Parquet files are features, of what numbers; and columns of Arrow as numbers of NumPy.

(pyarrow is imported where it is needed: a worker that lacks it must be able to say so.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError, verbatim
from daskgmm.sources.columns import chosen
from daskgmm.sources.digits import refuse_lost_digits

#: What Arrow calls floats. (It has a method for it, which imports pandas, of 46 MiB, for nothing; so has `to_numpy`.)
_FLOATS = {"halffloat": "<f2", "float": "<f4", "double": "<f8"}
#: Columns that a message lists at most.
_LISTED = 8


@dataclass(frozen=True)
class Kind:
    """What a column holds.

    Attributes
    ----------
    text : str
        Its type, as Arrow has it; of a list of a fixed length "float[3]".
    dtype : str or None
        The dtype of floats as they are, "<f8" of other numbers, None where it holds no numbers.
    width : int or None
        Length of each list, None where it holds single numbers.
    """

    text: str
    dtype: str | None
    width: int | None = None


@dataclass(frozen=True)
class Column:
    """A column that is read, and where its numbers go.

    Attributes
    ----------
    name : str
        As it stands in the files.
    kind : Kind
    features : tuple of (int or None, int)
        Which element of its lists is which feature; None where it holds single numbers.
    """

    name: str
    kind: Kind
    features: tuple[tuple[int | None, int], ...]


def kinds_of(schema: Any) -> dict[str, Kind | None]:
    """Return what each column holds, by name; None where several have the name."""
    found: dict[str, Kind | None] = {}
    for field in schema:
        found[field.name] = None if field.name in found else _kind(field.type)
    return found


def index_of(schema: Any) -> frozenset[str]:
    """Return the names of the columns that are the index of a data frame, which pandas and Dask write beside it."""
    try:
        found = json.loads((schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", ())
        return frozenset(name for name in found if isinstance(name, str))
    except (ValueError, AttributeError, TypeError):
        return frozenset()  # (What others write there does not matter.)


def index_note(schema: Any, names: Sequence[str]) -> dict[bytes, bytes]:
    """Return what a file with some of the columns says to pandas and Dask of its index: all that a data frame had.

    Nothing where it had none, or not all columns of it are there.
    """
    if not (index := index_of(schema)) or not index.issubset(names):
        return {}
    found = json.loads(schema.metadata[b"pandas"])
    of_columns = [one for one in found.get("columns", ()) if one.get("field_name", one.get("name")) in names]
    own = {"columns": of_columns, "index_columns": [name for name in found["index_columns"] if name in index]}
    return {b"pandas": json.dumps({**found, **own}).encode()}


def _kind(type_: Any) -> Kind:
    from pyarrow import types

    if types.is_fixed_size_list(type_):
        inner = _kind(type_.value_type)
        if inner.width is None and inner.dtype is not None:
            return Kind(f"{inner.text}[{type_.list_size}]", inner.dtype, type_.list_size)
    if types.is_floating(type_):
        return Kind(str(type_), _FLOATS[str(type_)])
    number = types.is_integer(type_) or types.is_boolean(type_) or types.is_decimal(type_)
    return Kind(str(type_), "<f8" if number else None)


def columns_of(
    kinds: Mapping[str, Kind | None],
    columns: Sequence[str] | None,
    *,
    index: frozenset[str],
    argument: str,
    label: str,
) -> tuple[tuple[Column, ...], list[str], np.dtype[Any]]:
    """Return what is read, the names of the features in their order, and the dtype of the rows.

    A list of a fixed length is as many features, "name[0]" and so on; all of them are meant by its name. Columns of one
    float dtype are read as that, others as float64.

    Parameters
    ----------
    columns : sequence of str or None
        Names, with wildcards; None takes all columns.
    index : frozenset of str
        Columns that are meant only where they are named.

    Raises
    ------
    InputMissingError, OptionError
        See `daskgmm.sources.columns.chosen`.
    DataError
        A column that is meant holds no numbers.
    """
    meant_if_named = index - set(columns or ())
    elements = {name: _elements(name, kind) for name, kind in kinds.items() if name not in meant_if_named}
    owners = {element: (name, i) for name, found in elements.items() for i, element in enumerate(found)}
    meant = list(owners) if columns is None else chosen(_spread(columns, elements), list(owners), argument, label)
    _refuse_others({owners[one][0]: None for one in meant}, kinds, argument, label)
    positions: dict[str, list[tuple[int | None, int]]] = {}
    for feature, one in enumerate(meant):
        name, i = owners[one]
        positions.setdefault(name, []).append((None if kinds[name].width is None else i, feature))  # type: ignore[union-attr]
    found = tuple(Column(name, kinds[name], tuple(where)) for name, where in positions.items())  # type: ignore[arg-type]
    dtypes = {column.kind.dtype for column in found}
    return found, meant, np.dtype(dtypes.pop() if len(dtypes) == 1 else "<f8")


def _elements(name: str, kind: Kind | None) -> list[str]:
    width = None if kind is None else kind.width
    return [name] if width is None else [f"{name}[{i}]" for i in range(width)]


def _spread(columns: Sequence[str], elements: Mapping[str, list[str]]) -> list[str]:
    """Return names with the name of each column of lists replaced by its elements'."""
    return [one for name in columns for one in elements.get(name, [name])]


def _refuse_others(names: Mapping[str, None], kinds: Mapping[str, Kind | None], argument: str, label: str) -> None:
    """Raise a DataError where columns that are meant hold no numbers."""
    twice = [name for name in names if kinds[name] is None]
    if twice:
        raise DataError(
            f"`{argument}`",
            "have a name for each column that no other one has",
            f"several columns {twice[0]!r} in {label}",
            "Rename one of them, or name other ones with `columns`.",
        )
    others = {name: kind.text for name in names if (kind := kinds[name]) is not None and kind.dtype is None}
    if not others:
        return
    shown = ", ".join(f"{name!r} ({text})" for name, text in list(others.items())[:_LISTED])
    more = f", and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
    numbers = [name for name, kind in kinds.items() if kind is not None and kind.dtype is not None]
    listed = ", ".join(map(repr, numbers[:_LISTED])) + (", ..." if len(numbers) > _LISTED else "")
    remedy = f"Name the features, `daskgmm.open_rows(X, columns=[...])`, among {verbatim(listed)}." if numbers else ""
    raise DataError(
        f"`{argument}`",
        "hold real numbers in every column that is a feature",
        f"{shown}{more} in {label}",
        f"{remedy}{_conversions(others)}".strip(),
    )


def _conversions(others: Mapping[str, str]) -> str:
    """Return how columns of some types become numbers, a sentence each, with its space."""
    texts, found = list(others.values()), ""
    if any(text.startswith(("timestamp", "date", "time", "duration")) for text in texts):
        found += " Store times as seconds, in float64."
    if any(text.startswith(("list", "large_list")) for text in texts):
        found += " Store lists of one length in that type: column.cast(pyarrow.list_(pyarrow.float32(), length))."
    if any(text.startswith(("string", "large_string", "dictionary")) for text in texts):
        found += " Encode categories as numbers, each a column."
    return found


def refuse_other_columns(
    kinds: Mapping[str, Kind | None], expected: Mapping[str, Kind | None], *, exactly: bool, file: str, first: str
) -> None:
    """Raise a DataError where a file has other columns than the first: they, or their types.

    Parameters
    ----------
    expected : mapping of str to Kind
        The columns that are read, or all of them.
    exactly : bool
        Whether further columns are others, too.
    """
    missing = [name for name in expected if name not in kinds]
    more = [name for name in kinds if name not in expected] if exactly else []
    other = [name for name, kind in expected.items() if name in kinds and kinds[name] != kind]
    if not missing and not more and not other:
        return
    if missing:
        said = f"no column {missing[0]!r} in {file}"
    elif more:
        said = f"a further column {more[0]!r} in {file}"
    else:
        types = [getattr(each[other[0]], "text", "several") for each in (kinds, expected)]
        said = f"{types[0]} in column {other[0]!r} of {file}, {types[1]} in {first}"
    remedy = "Name the columns that all have with `columns`, give" if more and not other and not missing else "Give"
    raise DataError(
        "Files of one input",
        f"have the columns of the first, {verbatim(first)}",
        said,
        f"{remedy} the files of one kind by a folder or pattern of their own, or write them again with one schema.",
    )


def fill(out: NDArray[Any], rows: Any, columns: Sequence[Column], first_row: int) -> None:
    """Write the numbers of rows of Arrow into `out`, (n_features, n_rows), any float dtype; nulls are NaN.

    `first_row` is the number of the first of them.
    """
    for column in columns:
        found = rows.column(rows.schema.get_field_index(column.name))
        values = _numbers(found, column, first_row)
        if values.ndim == 1:
            for _, feature in column.features:
                out[feature] = values
        else:
            for element, feature in column.features:
                out[feature] = values[:, element]


def _numbers(found: Any, column: Column, first_row: int) -> NDArray[Any]:
    """Return the numbers of a column: (n_rows,), or (n_rows, width) of lists, NaN where one is null."""
    width = column.kind.width
    if width is None:
        return _flat(found, column.name, first_row)
    values = _flat(found.values.slice(found.offset * width, len(found) * width), column.name, None)
    return _with_nulls(values.reshape(len(found), width), found)


def _flat(found: Any, name: str, first_row: int | None) -> NDArray[Any]:
    """Return the single numbers of an array of Arrow."""
    from pyarrow import types

    if types.is_decimal(found.type):
        found = found.cast("float64")
    if types.is_boolean(found.type):
        return _with_nulls(_bits(found, 1), found)
    dtype = np.dtype(_FLOATS.get(str(found.type), str(found.type)))
    values = np.frombuffer(found.buffers()[1], dtype, count=found.offset + len(found))[found.offset :]
    if dtype.kind in "iu" and dtype.itemsize == 8:
        _refuse_lost_digits(_with_nulls(values, found, filled=0), name, first_row)
    return _with_nulls(values, found)


def _with_nulls(values: NDArray[Any], found: Any, *, filled: float = np.nan) -> NDArray[Any]:
    """Return values with NaN, or what is given, where the array of Arrow that they are of has nulls."""
    if not found.null_count:
        return values
    # (What Arrow lends is not to be written to.)
    values = np.array(values, dtype=None if values.dtype.kind == "f" or filled == filled else np.float64)
    values[_bits(found, 0) == 0] = filled
    return values


def _bits(found: Any, buffer: int) -> NDArray[np.uint8]:
    """Return bits of an array of Arrow, (n_rows,): of its values, or of what is no null."""
    start, stop = found.offset, found.offset + len(found)
    packed = np.frombuffer(found.buffers()[buffer], np.uint8)[start // 8 : -(-stop // 8)]
    return np.unpackbits(packed, bitorder="little")[start % 8 :][: stop - start]


def _refuse_lost_digits(values: NDArray[Any], name: str, first_row: int | None) -> None:
    try:
        refuse_lost_digits(values, first_row=first_row, column=repr(name))
    except DataError as error:
        remedy = "Leave that column out with `columns`, or store it rounded, as float64."
        raise DataError(error.argument, error.requirement, error.got, remedy) from None
