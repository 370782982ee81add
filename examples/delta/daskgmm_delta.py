"""Delta Lake tables as inputs of daskgmm: the Parquet files that the log lists at one version."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from deltalake import DeltaTable

from daskgmm.errors import DataError
from daskgmm.sources.file_location import FileLocation
from daskgmm.sources.parquet_files import Listing
from daskgmm.sources.parquet_source import ParquetSource


class DeltaSource(ParquetSource):
    """Rows of a table as it was at a version, in the order of the names of its files."""

    def __init__(self, table: DeltaTable, *, columns: Sequence[str] | None = None, argument: str = "X") -> None:
        self._version = table.version()
        location = FileLocation.of(table.table_uri.rstrip("/"), argument=argument)
        label = f"{location.label}, version {self._version}"
        refuse_what_files_do_not_say(table, label, argument)
        actions = table.get_add_actions(flatten=True)
        names = [unquote(name) for name in actions.column("path").to_pylist()]
        files = sorted(zip(names, actions.column("size_bytes").to_pylist(), strict=True))
        if not files:
            raise DataError(f"`{argument}`", "have rows", f"none in {label}", "Give another version.")
        keys = frozenset(table.metadata().partition_columns)
        super().__init__(Listing(location, tuple(files), keys, label), columns=columns, argument=argument)

    def identity(self) -> dict[str, Any]:
        # (So a fit goes on from its checkpoint at this version alone.)
        return {**super().identity(), "kind": "delta", "version": self._version}


def refuse_what_files_do_not_say(table: DeltaTable, label: str, argument: str) -> None:
    """Raise a DataError for a table whose rows are not those of its files, or whose columns have other names there."""
    features = set(table.protocol().reader_features or ())
    if "deletionVectors" in features and table.deletion_vectors().num_rows:
        raise DataError(
            f"`{argument}`",
            "have no deletion vectors",
            f"some in {label}: rows of its files that were deleted",
            "Write these files anew: `REORG TABLE ... APPLY (PURGE)` in Spark.",
        )
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        raise DataError(
            f"`{argument}`", "have columns of one name", f"a mapping of columns in {label}", "Copy it to a new table."
        )


def open_table(table: DeltaTable | str, *, columns: Sequence[str] | None = None, argument: str = "X") -> DeltaSource:
    """Return the rows of a table, of a path or URL as it is now; `DeltaTable(path, version=3)` pins a version."""
    return DeltaSource(DeltaTable(table) if isinstance(table, str) else table, columns=columns, argument=argument)
