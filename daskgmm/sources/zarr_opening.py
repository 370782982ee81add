"""Zarr by path, by URL or open: the rows of one array."""

from __future__ import annotations

from typing import Any

import zarr

from daskgmm.sources.source import Source
from daskgmm.sources.zarr_array import refuse_older
from daskgmm.sources.zarr_group import array_in
from daskgmm.sources.zarr_location import ZarrLocation, locate, location_of
from daskgmm.sources.zarr_source import ZarrSource


def open_location(
    location: str, *, array: str | None = None, argument: str = "X", missing_chunks: str | None = None
) -> Source:
    """Return the source at a path or URL, and of the array called `array` there where that is a group.

    Raises
    ------
    InputMissingError, OptionError, DataError
        See `daskgmm.sources.opening.open_rows`.
    """
    place = locate(location, argument=argument)
    found = array_in(place.open(argument=argument), array, argument, place.label, by_path=True)
    own = ZarrLocation(place.opener, place.url, found.path, place.options)
    return ZarrSource(found, own, argument=argument, missing_chunks=missing_chunks)


def open_node(
    node: zarr.Array[Any] | zarr.Group,
    *,
    array: str | None = None,
    argument: str = "X",
    missing_chunks: str | None = None,
) -> Source:
    """Return the source of an open array, or of the array called `array` in an open group."""
    location = location_of(node)
    kind = type(node.store_path.store).__name__
    label = location.label if location is not None else f"{kind} of this process"
    found = array_in(node, array, argument, label, by_path=False)
    location = location_of(found)
    if location is not None:  # (else no task opens it anew)
        refuse_older(found, argument, location.label)
    return ZarrSource(found, location, argument=argument, missing_chunks=missing_chunks)
