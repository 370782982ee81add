"""Which files a Parquet input consists of: a file, a folder, a glob, or the table of a HATS catalog."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from dask.utils import natural_sort_key

from daskgmm.errors import DataError, InputMissingError, OptionError, verbatim
from daskgmm.sources.columns import is_wildcard, matching
from daskgmm.sources.credentials import has_secret
from daskgmm.sources.file_location import FileLocation, is_hidden
from daskgmm.sources.remote import brief, inaccessible

logger = logging.getLogger("daskgmm")

SUFFIXES = (".parquet", ".pq", ".parq")
#: Files that say that a folder is a Zarr array or group.
_OF_ZARR = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
#: Files that say that a folder is a HATS catalog, and a collection of such.
_CATALOG, _COLLECTION = ("hats.properties", "properties"), "collection.properties"
#: Files and folders of a folder, and folders in folders at a URL, that a question looks at.
_MOST_ENTRIES, _MOST_LISTINGS = 10_000, 4


#: What folders of a HATS catalog are named by.
_OF_CATALOGS = frozenset({"Norder", "Dir", "Npix"})


@dataclass(frozen=True)
class Listing:
    """The files of an input, in the order of their rows.

    Attributes
    ----------
    location : FileLocation
        Their folder, or the only file.
    files : tuple of (str, int or None)
        Name of each, relative to `location`, and its bytes where the list says them.
    keys : frozenset of str
        What folders are named by: "year" of "year=2024".
    label : str
        How messages name the input.
    """

    location: FileLocation
    files: tuple[tuple[str, int | None], ...]
    keys: frozenset[str]
    label: str

    def refuse_keys(
        self, asked: Sequence[str], columns: Collection[str], *, argument: str, option: str = "columns"
    ) -> None:
        """Raise a DataError where no column of the files is asked for, but what their folders are named by."""
        for name in asked:
            bare = name if name in columns else name.removeprefix("!")
            alike = {key for key in self.keys if key.lower() == bare.lower()}
            keys = [] if matching(bare, columns) else sorted(matching(bare, self.keys) or alike)
            if keys:
                raise DataError(
                    f"`{option}`",
                    f"name columns that the files of `{argument}` have",
                    f"{name!r}, by which folders of {self.label} are named ({keys[0]}=...)",
                    "Write it into the files, or leave it out. To take the rows of one of its values, give "
                    f"{verbatim(repr(self._with_value_of(keys[0])))}.",
                )

    def _with_value_of(self, key: str) -> str:
        """Return the path or pattern of the files under the first value of a key."""
        first = next(name for name, _ in self.files if f"/{key}=" in f"/{name}")
        folders = list[str]()
        for part in first.split("/"):
            own, is_named, _ = part.partition("=")
            folders.append(f"{own}=*" if is_named and own != key else part)
            if own == key:
                break
        return self.location.path_of("/".join(folders))

    def say_keys(self, asked: Sequence[str] | None, columns: Collection[str]) -> None:
        """Log what folders are named by, where all columns are asked for, or some by a wildcard: it is none of them."""
        keys = sorted(self.keys - _OF_CATALOGS - set(columns))
        if keys and (asked is None or any(is_wildcard(name) or name not in columns for name in asked)):
            listed = ", ".join(f"{key}=..." for key in keys)
            logger.info("Folders of %s are named by values, %s: these are no columns.", self.label, listed)


def is_parquet(data: object) -> bool:
    """Return whether a path or URL, whose suffix says nothing, is one of Parquet files; asks for names alone.

    A pattern with "*" is; so are a local file that begins as Parquet does, and a folder that is not of Zarr and has
    such files, or says that it is a HATS catalog.
    """
    if not isinstance(data, str) or has_secret(data):
        return False
    location = FileLocation.of(data, argument="X")
    if location.far:
        suffix = os.path.splitext(location.root)[1]
        # (Other suffixes are of files; a number is a version's.)
        return "*" in data or (re.fullmatch(r"|\.\d\w*", suffix) is not None and _far_folder_has_parquet(location))
    if os.path.isdir(location.root):
        return _folder_has_parquet(location.root)
    if os.path.isfile(location.root):
        return _begins_as_parquet(location.root)
    return _has_wildcard(data)


def _has_wildcard(path: str) -> bool:
    return "*" in path or "?" in path


def _begins_as_parquet(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False  # (What opens it says why.)


def _folder_has_parquet(root: str) -> bool:
    if any(os.path.exists(os.path.join(root, name)) for name in _OF_ZARR):
        return False
    if any(os.path.exists(os.path.join(root, name)) for name in ("hats.properties", _COLLECTION)):
        return True
    waiting, n_left = [root], _MOST_ENTRIES
    for folder in waiting:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    n_left -= 1
                    if n_left < 0:
                        return False
                    if is_hidden(entry.name):
                        continue
                    if entry.name.lower().endswith(SUFFIXES):
                        return True
                    if entry.is_dir():
                        waiting.append(entry.path)
        except OSError:
            continue  # (What opens it says why.)
    return False


def _far_folder_has_parquet(location: FileLocation) -> bool:
    try:
        found = location.stamps([*_OF_ZARR[:3], "hats.properties", _COLLECTION])
        if any(found):
            return not any(found[:3])
        system, path = location.system()
        for _ in range(_MOST_LISTINGS):
            entries = [e for e in system.ls(path, detail=True) if not is_hidden(e["name"].rstrip("/").split("/")[-1])]
            if any(entry["name"].lower().rstrip("/").endswith(SUFFIXES) for entry in entries):
                return True
            folders = [entry["name"] for entry in entries if entry.get("type") == "directory"]
            if not folders:
                return False
            path = folders[0]
    except Exception:
        # Each kind of storage has its own exceptions; what opens the URL says what is wrong with it.
        return False
    return False


def listing(data: str, *, argument: str) -> Listing:
    """Return the files of an input, sorted as people count: folder by folder, "part-2" before "part-10".

    Of a folder all files count, of its folders too, whose suffix is that of Parquet, and no name that begins with "_"
    or "." does. Of a HATS catalog the files of its pixels do, "Npix=", and no thumbnail; of a collection its primary
    table, and neither margins nor indices.

    Raises
    ------
    InputMissingError
        Nothing is there, or it may not be read.
    DataError
        There are no Parquet files.
    OptionError
        There are several catalogs.
    """
    location = FileLocation.of(data, argument=argument)
    try:
        if _has_wildcard(data) and (location.far or not os.path.exists(location.root)):
            return _of_pattern(location, argument)
        # (A suffix spares a question; a folder may have it, too.)
        if location.is_file():
            return Listing(location, (("", None),), frozenset(), location.label)
        return _of_folder(location, argument)
    except (DataError, OptionError, InputMissingError):
        raise
    except Exception as error:
        # One handler for the exceptions of every kind of storage: their classes have no common root.
        raise unlisted(error, argument, location) from error


def unlisted(error: BaseException, argument: str, location: FileLocation) -> Exception:
    """Return the error of this package that says why files cannot be found or opened."""
    found = inaccessible(error, argument, location.label, url=location.root if location.far else "")
    if found is not None:
        return found
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _missing(argument, location.label)
    return DataError(
        f"`{argument}`",
        "be Parquet files",
        f"{location.label} ({brief(error)})",
        "Write them again, or give the path of others.",
    )


def _missing(argument: str, label: str) -> InputMissingError:
    return InputMissingError(
        f"`{argument}`",
        "be an existing Parquet file, or a folder or pattern of such",
        f"{label}, where there is none",
        "Check the path, and the credentials where it is private.",
    )


def _of_pattern(location: FileLocation, argument: str) -> Listing:
    parts = location.root.split("/")
    n_fixed = next(i for i, part in enumerate(parts) if _has_wildcard(part))
    root = FileLocation("/".join(parts[:n_fixed]) or "/")
    _refuse_tables(root, [], argument)
    found: dict[str, int | None] = {}
    for name, size, is_file in root.matches("/".join(parts[n_fixed:])):
        if is_file:
            found[name] = size
        elif not is_hidden(name):
            found |= {f"{name}/{inner}": size for inner, size in root.within(name).files()}
    if not found:
        raise _missing(argument, location.label)
    return _listed(root, list(found.items()), argument, label=location.label)


def _of_folder(location: FileLocation, argument: str) -> Listing:
    label = location.label
    collection = location.read(_COLLECTION)
    if collection is not None:
        primary = _properties(collection).get("hats_primary_table_url")
        if not primary:
            raise DataError(
                f"`{argument}`",
                "be a HATS collection that names its primary table",
                f"{label}, whose {_COLLECTION} has no hats_primary_table_url",
                "Give the path of the catalog in it.",
            )
        location = location.within(primary)
    found = (_properties(location.read(name) or "") for name in _CATALOG)
    # (Other folders may have a file of that name.)
    catalog = next((each for each in found if "dataproduct_type" in each or "hats_nrows" in each), None)
    if catalog is not None and catalog.get("dataproduct_type") in ("margin", "index"):
        raise DataError(
            f"`{argument}`",
            "be a catalog with rows of its own",
            f"the {catalog['dataproduct_type']} in {location.label}, which has rows of another one again",
            f"Give the path of that one, {verbatim(catalog.get('hats_primary_table_url', 'its primary table'))}.",
        )
    files = None if catalog is None else _pixels(location, catalog)
    if files is None:
        files = location.files()
        if catalog is None:
            _refuse_tables(location, files, argument)
            _refuse_catalogs(location, files, argument)
    listed = _listed(location, files, argument, label=label)
    if catalog is not None and not _of_pixels(listed.files):
        raise DataError(
            f"`{argument}`",
            "have the rows of a HATS catalog in files Npix=",
            f"none in {location.label}",
            "Give the path of the folder whose files have the rows.",
        )
    return listed


def _refuse_tables(location: FileLocation, files: list[tuple[str, int | None]], argument: str) -> None:
    """Raise a DataError for a folder whose log says which files hold rows: those that were replaced are there, too."""
    for mark, kind in (("_delta_log/", "Delta Lake"), (".hoodie/", "Hudi"), ("metadata/", "Iceberg")):
        suffix = ".metadata.json" if kind == "Iceberg" else ""
        inside = any(name.startswith(mark) and name.endswith(suffix) for name, _ in files)
        if inside or (kind != "Iceberg" and not location.far and os.path.isdir(location.path_of(mark))):
            raise DataError(
                f"`{argument}`",
                "be Parquet files all of which hold rows",
                f"a {kind} table, {location.label}, among whose files are those of rows that were replaced",
                "Open it by what reads its log, and write its rows as Parquet."
                + (" (examples/delta does so, for deltalake.DeltaTable.)" if kind == "Delta Lake" else ""),
            )


def _refuse_catalogs(location: FileLocation, files: list[tuple[str, int | None]], argument: str) -> None:
    marks = {"hats.properties", _COLLECTION}
    inside = sorted({os.path.dirname(name) for name, _ in files if os.path.basename(name) in marks})
    if inside:
        raise OptionError(
            f"`{argument}`",
            "be one catalog",
            f"a folder with {len(inside)} in it, {location.label}",
            f"Give the path of one, such as {verbatim(location.path_of(inside[0]))}.",
        )


def _listed(location: FileLocation, files: list[tuple[str, int | None]], argument: str, *, label: str) -> Listing:
    """Return the files among these that hold rows, in order."""
    found = [(name, size) for name, size in files if name.lower().endswith(SUFFIXES) and not is_hidden(name)]
    found = _of_pixels(found) or found
    if not files and (location.far or not os.path.isdir(location.root)):
        raise _missing(argument, label)
    if not found:
        raise InputMissingError(
            f"`{argument}`",
            "be an existing Parquet file, or a folder or pattern of such",
            f"{label}, where no file ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}",
            "Check the path. (Names that begin with _ or . do not count.)",
        )
    found.sort(key=lambda file: ([natural_sort_key(part) for part in file[0].split("/")], file[0]))
    keys = {part.partition("=")[0] for name, _ in found for part in name.split("/")[:-1] if "=" in part}
    return Listing(location, tuple(found), frozenset(keys), label)


def _of_pixels(files: Sequence[tuple[str, int | None]]) -> list[tuple[str, int | None]]:
    """Return the files of the pixels of a HATS catalog: Npix=7.parquet, or any in a folder Npix=7."""
    return [file for file in files if any(part.startswith("Npix=") for part in file[0].split("/"))]


def _pixels(location: FileLocation, catalog: dict[str, str]) -> list[tuple[str, int | None]] | None:
    """Return the files that a HATS catalog itself lists, for servers that list no folders; None where it does not."""
    suffix = catalog.get("hats_npix_suffix", ".parquet")
    if not location.root.startswith("http") or suffix == "/":
        return None
    text = location.read("partition_info.csv")
    if text is None:
        return None
    return list(_pixel_files(text, suffix))


def _pixel_files(text: str, suffix: str) -> Iterator[tuple[str, int | None]]:
    for row in csv.DictReader(text.splitlines()):
        order, pixel = int(row["Norder"]), int(row["Npix"])
        yield f"dataset/Norder={order}/Dir={pixel // 10_000 * 10_000}/Npix={pixel}{suffix}", None


def _properties(text: str) -> dict[str, str]:
    """Return the names and values of a file of properties, as Java has them."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"\s*([^#!=:\s]+)\s*[=:]\s*(.*)", line)
        if match:
            found[match[1]] = re.sub(r"\\(.)", r"\1", match[2]).strip()
    return found
