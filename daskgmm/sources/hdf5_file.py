"""HDF5 files on this machine: opened for reading, or why they cannot be; their filters, attributes and dimensions.

(h5py is imported where it is needed: a worker that lacks it must be able to say so.)
"""

from __future__ import annotations

import os
from typing import Any

from daskgmm.errors import DaskgmmError, DataError, InputMissingError, OptionError, verbatim
from daskgmm.sources.failures import refused, unreachable
from daskgmm.sources.remote import brief
from daskgmm.sources.stamps import file_stamp

SUFFIXES = (".h5", ".hdf5", ".hdf", ".nc", ".nc4", ".h5ad")
#: What an HDF5 file begins with, and what others do that have such a suffix.
_MAGIC, _NETCDF3, _HDF4 = b"\x89HDF\r\n\x1a\n", b"CDF", b"\x0e\x03\x13\x01"
#: How the netCDF library marks a dimension that has no numbers of its own.
_NO_VARIABLE = b"This is a netCDF dimension but not a netCDF variable"
#: Attributes that daskgmm looks at.
_ATTRIBUTES = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "units", "coordinates")


def is_hdf5(data: object) -> bool:
    """Return whether a path, whose suffix says nothing, is one of an HDF5 file, or of what is in one: "X.h5::/name"."""
    if not isinstance(data, str):
        return False
    path, inside, _ = data.partition("::")
    try:
        if inside and path.lower().endswith(SUFFIXES):
            return True
        return os.path.isfile(path) and _beginning(path) == _MAGIC
    except OSError:
        return False  # (What opens it says why.)


def opened(path: str, *, argument: str) -> Any:
    """Return an HDF5 file, an open `h5py.File`, for reading.

    It is locked where the file system can: nobody who locks it, too, writes to it meanwhile. ("best-effort" takes a
    file system without locks, as of many parallel ones, where HDF5 would fail by default.)

    Raises
    ------
    OptionError
        h5py is not installed, or it is a netCDF-3 or HDF4 file.
    InputMissingError
        Nothing is there, or it may not be read.
    DataError
        It is damaged, or open for writing.
    """
    try:
        import h5py

        if os.path.isdir(path) or not file_stamp(path):  # (a pipe would never answer)
            what = "a folder" if os.path.isdir(path) else "where there is none"
            raise InputMissingError(f"`{argument}`", "be an existing HDF5 file", f"{path}, {what}", "Check the path.")
        _refuse_others(path, argument)
        # (The user's variable HDF5_USE_FILE_LOCKING wins.)
        return h5py.File(path, "r", locking="best-effort")
    except DaskgmmError:
        raise
    except Exception as error:
        raise unopened(error, path, argument=f"`{argument}`") from error


def unopened(error: Exception, label: str, *, argument: str) -> Exception:
    """Return the error that says why an HDF5 file cannot be opened."""
    if isinstance(error, ImportError):
        return OptionError(
            argument,
            "be an HDF5 file only where h5py is installed",
            f"{label} ({error})",
            'Install it, here and on the workers: pip install "daskgmm[hdf5]"',
        )
    if isinstance(error, BlockingIOError) or "already open for write" in str(error):
        return DataError(
            argument,
            "be closed by who writes to it",
            f"{label}, which somebody has open for writing ({brief(error)})",
            "Wait until it is written. After a crash of the writer, run h5clear -s on it.",
        )
    if refused(error) or isinstance(error, FileNotFoundError) or unreachable(error):
        return InputMissingError(
            argument, "be a readable file", f"{label} ({brief(error)})", "Check path, permissions and disk."
        )
    return DataError(
        argument, "be a whole HDF5 file", f"{label} ({brief(error)})", "It is damaged, or cut off: write it again."
    )


def _beginning(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(len(_MAGIC))


def _refuse_others(path: str, argument: str) -> None:
    """Raise an OptionError for a file that is HDF5 in its name alone."""
    found = _beginning(path)
    if found.startswith(_NETCDF3):
        raise OptionError(
            f"`{argument}`",
            "be a netCDF-4 or HDF5 file",
            f"the netCDF-3 file {path}",
            f"Convert it once: xarray.open_dataset({verbatim(repr(path))}).to_zarr('X.zarr', consolidated=False)",
        )
    if found.startswith(_HDF4):
        raise OptionError(
            f"`{argument}`",
            "be an HDF5 file",
            f"the HDF4 file {path}",
            "Convert it once, by the command h4toh5 of the HDF Group.",
        )


def refuse_filters(dataset: Any, *, argument: str, label: str) -> None:
    """Raise an OptionError where a filter that a data set needs is not there; hdf5plugin brings most."""
    from h5py import h5z

    plist = dataset.id.get_create_plist()
    needed = {number: name for number, _, _, name in map(plist.get_filter, range(plist.get_nfilters()))}
    if all(map(h5z.filter_avail, needed)):
        return
    try:
        import hdf5plugin  # noqa: F401 (it tells HDF5 of its filters)
    except ImportError:
        remedy = "Install hdf5plugin, here and on the workers: pip install hdf5plugin"
    else:
        remedy = "hdf5plugin, which is installed, does not have it: put its plug-in where HDF5_PLUGIN_PATH says."
    missing = next((number for number in needed if not h5z.filter_avail(number)), None)
    if missing is not None:
        name = needed[missing].decode(errors="replace").split(";")[0].strip()
        raise OptionError(
            argument, "be compressed by filters that are installed", f"filter {missing} ({name}) in {label}", remedy
        )


def attributes_of(node: Any) -> dict[str, Any]:
    """Return the attributes that daskgmm looks at: text, and numbers of NumPy, which netCDF has as arrays of one."""
    found = {}
    for name in _ATTRIBUTES:
        try:
            value = node.attrs.get(name)
        except (OSError, TypeError, KeyError):  # (of a type that h5py has no name for)
            continue
        if getattr(value, "shape", None) is None and not isinstance(value, str | bytes | int | float):
            continue
        value = value[0] if getattr(value, "shape", ()) == (1,) else value
        found[name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return found


def is_numbers(dataset: Any) -> bool:
    """Return whether a data set is more than a dimension of netCDF."""
    return not bytes(_text_of(dataset.attrs.get("NAME", b""))).startswith(_NO_VARIABLE)


def _text_of(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else b""


def dimension_names(dataset: Any) -> list[str]:
    """Return the names of the dimensions of a data set, by its scales or labels; empty where one has none."""
    if dataset.is_scale:
        return [_last(dataset.name)] if len(dataset.shape or ()) == 1 else []
    found = []
    for dimension in dataset.dims:
        try:
            scale = dimension[0].name if len(dimension) else None
        except (RuntimeError, OSError, KeyError):  # (a scale that is gone)
            scale = None
        found.append(_last(scale) if scale else dimension.label)
    return found if all(found) else []


def scale_of(dataset: Any, axis: int) -> Any:
    """Return the coordinate along a dimension of a data set, an `h5py.Dataset` of numbers; None where it has none."""
    dimension = dataset.dims[axis]
    scale = dimension[0] if len(dimension) else None
    return scale if scale is not None and is_numbers(scale) else None


def _last(name: str) -> str:
    return name.rstrip("/").split("/")[-1]
