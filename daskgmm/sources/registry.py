"""Who opens which input: by the suffix of a path or URL, by the type of an object, or by what a function says of it.

What `register_source` was told comes first, then what daskgmm brings, then what installed packages bring, as entry
points of the group "daskgmm.sources". Nothing is imported before it is to open something.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from daskgmm.errors import OptionError, verbatim
from daskgmm.sources.dask_source import is_dask_array
from daskgmm.sources.hdf5_file import SUFFIXES as HDF5_SUFFIXES
from daskgmm.sources.hdf5_file import is_hdf5
from daskgmm.sources.labelled import is_dask_frame, is_labelled
from daskgmm.sources.parquet_files import SUFFIXES, is_parquet
from daskgmm.sources.source import Source

#: The group of entry points by which packages add sources.
GROUP = "daskgmm.sources"

Opener = Callable[..., Source]
Question = Callable[[Any], bool]


def _own(places: dict[Any, str]) -> dict[Any, EntryPoint]:
    return {claim: EntryPoint(str(claim), f"daskgmm.sources.{place}", GROUP) for claim, place in places.items()}


_OWN = _own({
    **dict.fromkeys((".zarr", ".zip"), "zarr_opening:open_location"),
    **dict.fromkeys(SUFFIXES, "parquet_source:ParquetSource.from_location"),
    **dict.fromkeys(HDF5_SUFFIXES, "hdf5_opening:open_location"),
    **dict.fromkeys(("zarr.Array", "zarr.Group"), "zarr_opening:open_node"),
    **dict.fromkeys(("numpy.ndarray", "builtins.list", "builtins.tuple"), "array_source:ArraySource"),
    ".npy": "array_source:NpySource",
    "dask.array.Array": "dask_source:DaskSource",
    **dict.fromkeys(("xarray.DataArray", "xarray.Dataset"), "xarray_source:open_xarray"),
    is_labelled: "labelled:open_labelled",
    is_dask_array: "dask_source:DaskSource",
    is_dask_frame: "dask_frame_source:DaskFrameSource",
    is_parquet: "parquet_source:ParquetSource.from_location",
    is_hdf5: "hdf5_opening:open_location",
})  # fmt: skip
_registered: dict[str | Question, Opener] = {}


def register_source(claim: str | type | Question, opener: Opener) -> None:
    """Have inputs of a kind opened by a function or class of one's own, in this process.

    Parameters
    ----------
    claim : str, type or callable
        Which inputs: a suffix of paths and URLs, ".fits"; a type, or its name with its package, "awkward.Array", for
        which nothing is imported; or a function that is given an input, paths as text, and returns whether it is one.
    opener : callable
        Given an input it returns the `daskgmm.Source` of its rows, of which it reads none. Where it has parameters of
        these names it gets, too: `argument`, what messages call the input; `columns`, names of those that are the
        features, a tuple; `array`, the name of an array within a file; `features`, the name of a dimension;
        `missing_chunks`, what to do where rows are not there. Those that were not given are None.

    Notes
    -----
    The last claim wins, and wins over what daskgmm opens itself. An installed package claims inputs by entry points
    whose names are suffixes or types::

        [project.entry-points."daskgmm.sources"]
        ".fits" = "package.module:open_file"
        "awkward.Array" = "package.module:open_dataset"

    Readers travel to the workers by the names of their classes: their module must be there too.
    """
    if isinstance(claim, type):
        claim = f"{claim.__module__}.{claim.__qualname__}"
    if isinstance(claim, str) and re.fullmatch(r"\.[^./]+|[^./].*\.[^.]+", claim) is None:
        raise OptionError(
            "claim",
            "be a suffix with its dot, such as '.fits', or a type with its package, such as 'awkward.Array'",
            repr(claim),
        )
    if not callable(opener):
        raise OptionError("opener", "be a function or a class that returns a daskgmm.Source", repr(opener))
    claim = claim.lower() if isinstance(claim, str) and claim.startswith(".") else claim
    _registered.pop(claim, None)
    _registered[claim] = opener


def opener_of(data: Any) -> Opener | None:
    """Return what opens an input, a path being text; None where nobody claims it."""
    names = [suffix_of(data)] if isinstance(data, str) else list(_types_of(data))
    opener: Opener | None = _named(names, _registered) or _asked(data, _registered)
    # (What an installed package names goes before questions of ours, which would claim a folder of its files.)
    found = None if opener else _named(names, _OWN) or _named(names, _installed()) or _asked(data, _OWN)
    if found is None:
        return opener
    try:
        opener = found.load()
    except (ImportError, AttributeError) as error:
        raise OptionError(
            f"What opens {verbatim(repr(found.name))}",
            "be installed whole",
            f"{error} from the entry point {found.value!r} of group {GROUP}",
            "Install its package again, or uninstall it.",
        ) from error
    return opener


def suffix_of(location: str) -> str:
    """Return the suffix of a path or URL, in lower case."""
    return os.path.splitext(location.rstrip("/"))[1].lower()


def _named(names: list[str], claims: dict[Any, Any]) -> Any:
    return next((claims[name] for name in names if name in claims), None)


def _asked(data: Any, claims: dict[Any, Any]) -> Any:
    return next((claims[one] for one in reversed(claims) if callable(one) and one(data)), None)


def _types_of(data: Any) -> Iterator[str]:
    """Yield the names of an object's types, the most special one first: of zarr.core.array.Array also zarr.Array."""
    for kind in type(data).__mro__[:-1]:
        parts = kind.__module__.split(".")
        for n in range(len(parts)):
            yield ".".join([*parts[: n + 1], kind.__qualname__])


@cache
def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
