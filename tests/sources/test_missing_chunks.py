"""A chunk that is not in the store is an error, and never rows of zeros that nobody wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import zarr

from daskgmm.errors import DataError, OptionError
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Rows
from daskgmm.passes.survey import SurveyPass
from daskgmm.passes.tree import run_pass
from daskgmm.sources.array_source import ArraySource
from daskgmm.sources.opening import open_rows

ROWS = 1 + np.arange(400, dtype="f4").reshape(100, 4)
LAYOUTS: dict[str, dict[str, Any]] = {
    "rows": {"chunks": (10, 4)},
    "columns": {"chunks": (100, 1)},
    "both": {"chunks": (30, 3)},
    "v2": {"chunks": (10, 4), "zarr_format": 2},
    "sharded": {"chunks": (5, 2), "shards": (20, 4)},
}
FILLS: list[Any] = [0, 7.5, np.nan, -np.inf]


def array_in(folder: Path, layout: str, *, fill: Any = 0, empty: bool = False) -> zarr.Array[Any]:
    options = {"shape": ROWS.shape, "dtype": "f4", "fill_value": fill, **LAYOUTS[layout]}
    return zarr.create_array(folder / "X.zarr", config={"write_empty_chunks": empty}, **options)


def read(location: Any, **options: Any) -> np.ndarray:
    """All rows, as a pass reads them, in pieces of several chunks and of parts of chunks."""
    nodes, (found,) = open_rows(location, **options).arguments([(0, 100)])
    reader = nodes[found.key].value
    return np.concatenate([reader.read(a, b) for a, b in [(0, 40), (40, 47), (47, 100)]])


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_chunk_is_an_error_or_on_demand_its_fill_value(layout: str, fill: Any, tmp_path: Path) -> None:
    array = array_in(tmp_path, layout, fill=fill)
    written = (np.arange(100)[:, np.newaxis] < 60) if layout != "columns" else np.arange(4) < 3
    expected = np.where(written, ROWS, np.float32(fill))
    array[:] = expected
    for location in (tmp_path / "X.zarr", array):
        with pytest.raises(DataError, match=r"Every chunk must be in the store; got none for row \d+ of .*X.zarr") as e:
            read(location)
        assert "daskgmm.missing-chunks" in str(e.value)
        np.testing.assert_array_equal(read(location, missing_chunks="fill"), expected)
        with dask.config.set({"daskgmm.missing-chunks": "fill"}):
            np.testing.assert_array_equal(read(location), expected)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunks_of_the_fill_value_that_are_stored_are_rows(layout: str, fill: Any, tmp_path: Path) -> None:
    array = array_in(tmp_path, layout, fill=fill, empty=True)
    expected = np.where((np.arange(100)[:, np.newaxis] // 20) % 2, ROWS, np.float32(fill))
    array[:] = expected
    np.testing.assert_array_equal(read(tmp_path / "X.zarr"), expected)


def test_the_row_is_that_of_the_chunk_and_a_file_that_was_removed_is_noticed(tmp_path: Path) -> None:
    array_in(tmp_path, "rows")[:] = ROWS
    (tmp_path / "X.zarr" / "c" / "7" / "0").unlink()
    with pytest.raises(DataError, match="got none for row 70 of .* where zarr would read 0.0"):
        read(tmp_path / "X.zarr")


@pytest.mark.parametrize("dtype", ["i2", "u1", "i8", "f2", "f8", "bool"])
def test_every_dtype(dtype: str, tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "X.zarr", shape=(40, 1), chunks=(10, 1), dtype=dtype)
    array[:30] = np.ones((30, 1), dtype)
    with pytest.raises(DataError, match="got none for row 30"):
        open_pass(tmp_path / "X.zarr")


def open_pass(location: Path) -> Any:
    source = open_rows(location)
    rows = Rows.plan(source, None)
    return run_pass(SurveyPass(source.n_features, False, 0, -1), rows, LocalExecutor(), name="survey")


def test_no_store_is_asked_without_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse rows have zeros at many corners of chunks: only a whole chunk of them is read once more."""
    from daskgmm.sources import zarr_reader

    rows = ROWS * (np.random.default_rng(0).random(ROWS.shape) < 0.3)
    array_in(tmp_path, "rows")[:] = rows
    monkeypatch.setattr(zarr_reader, "_filled_with", lambda *_: pytest.fail("read again"))
    np.testing.assert_array_equal(read(tmp_path / "X.zarr"), rows)


def test_missing_weights_are_no_zeros(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "w.zarr", shape=(100,), chunks=(10,), dtype="f8")[:50] = 1.0
    weights = open_rows(tmp_path / "w.zarr")
    with pytest.raises(DataError, match="got none for row 50"):
        run_pass(SurveyPass(4, False, 0, -1), Rows.plan(ArraySource(ROWS), weights), LocalExecutor(), name="survey")


def test_other_words_are_refused(tmp_path: Path) -> None:
    array_in(tmp_path, "rows")[:] = ROWS
    with pytest.raises(OptionError, match="missing_chunks must be one of error, fill; got 'zero'"):
        open_rows(tmp_path / "X.zarr", missing_chunks="zero")
