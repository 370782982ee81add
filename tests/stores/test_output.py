"""Predictions written as Zarr: aligned to the rows, one writer a chunk, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from daskgmm.errors import DataError, MemoryLimitError, OutputError
from daskgmm.kernels.prediction import Predictor
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Rows
from daskgmm.passes.tree import run_pass
from daskgmm.sources.opening import open_rows
from daskgmm.sources.partition import MIB
from daskgmm.stores import output as output_module
from daskgmm.stores import targets
from daskgmm.stores.checkpoint import Checkpoint
from daskgmm.stores.output import WritePass, Written, prediction_record, write_predictions
from daskgmm.stores.targets import CHUNK_BYTES, chunk_length
from daskgmm.stores.zarr_rows import RowsTarget
from tests.kernels.driving import parameters_of
from tests.passes.test_memory import Limited
from tests.passes.test_prediction import PARAMETERS, WHATS, X, expected
from tests.stores.test_checkpoint import Slot
from tests.strategies import LAWS, make_case

RECORD = {"input": {"kind": "test"}, "model": "m"}


@pytest.fixture(autouse=True)
def many_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions of 24 kB, 1000 rows or the next chunks above; output chunks of at most 6 kB."""
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 24_000)
    monkeypatch.setattr("daskgmm.sources.partition.IN_PROCESS_BYTES", 24_000)
    monkeypatch.setattr("daskgmm.stores.targets.CHUNK_BYTES", 6_000)


def written(data: Any, path: Path | str, *, what: Any = "label", **options: Any) -> tuple[Written, zarr.Array[Any]]:
    found = write_predictions(Predictor.of(PARAMETERS, what), open_rows(data), str(path), record=RECORD, **options)
    return found, zarr.open_array(str(path), mode="r")


# -- planning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("partition_rows", "row_bytes", "chunk_rows"),
    [
        (1, 4, 1),
        (1000, 4, 1000),  # all of it takes less than 32 MiB
        (8 * MIB, 4, 8 * MIB),
        (16 * MIB, 4, 8 * MIB),
        (9 * MIB, 4, 9 * MIB // 2),
        (MIB, 400, MIB // 16),  # 13 chunks would do; 16 divide
        (1_000_000, 400, 62_500),
        (999_999, 400, 999_999 // 13),
        (3 * 1_000_003, 400, 1_000_003 * 3),  # no divisor from 36 to 576: the whole partition
        (2_000_003, 4, 2_000_003),
        (20_000_003, 4, 20_000_003),  # a prime number of rows
        (100, 64 * MIB, 1),  # a row larger than a chunk
    ],
)
def test_chunk_length(partition_rows: int, row_bytes: int, chunk_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "CHUNK_BYTES", CHUNK_BYTES)
    assert chunk_length(partition_rows, row_bytes) == chunk_rows


@LAWS
@given(partition_rows=st.integers(1, 10**7), row_bytes=st.integers(1, 1000))
def test_chunk_length_divides_and_fits_or_is_the_partition(partition_rows: int, row_bytes: int) -> None:
    found = chunk_length(partition_rows, row_bytes)
    assert partition_rows % found == 0
    assert found * row_bytes <= 6_000 or found == partition_rows or found == 1


# -- aligned, one writer a chunk -------------------------------------------------------------------------------------


def inputs(tmp_path: Path) -> dict[str, Any]:
    """Return the same rows in every kind of source."""
    for name, layout in {
        "small chunks": {"chunks": (77, 3)}, "columns": {"chunks": (1500, 1)}, "one chunk": {"chunks": (10_000, 3)},
        "shards": {"chunks": (50, 3), "shards": (500, 3)},
    }.items():  # fmt: skip
        array = zarr.create_array(tmp_path / f"{name}.zarr", shape=X.shape, dtype=X.dtype, **layout)
        array[...] = X
    np.save(tmp_path / "X.npy", X)
    return {
        **{path.stem: path for path in tmp_path.glob("*.zarr")},
        "file": tmp_path / "X.npy",
        "memory": X,
        "dask": da.from_array(X, chunks=(1000, 3)),
        "uneven dask": da.from_array(X, chunks=((1, 1200, 799, 3000, 2500, 2500), (1, 2))),
        "growing dask": da.from_array(X, chunks=((1000, 9000), 3)),
        "unknown dask": da.from_array(X, chunks=(700, 3))[da.ones(10_000, chunks=700, dtype=bool)],
    }


@pytest.mark.parametrize("what", WHATS)
def test_predictions_are_aligned_to_the_rows_of_any_input(what: Any, tmp_path: Path) -> None:
    for name, data in inputs(tmp_path).items():
        found, array = written(data, tmp_path / f"{name} {what}", what=what)
        assert array.dtype == (np.int32 if what == "label" else np.float64), name
        right = expected(what)
        assert array.shape == right.shape, name
        np.testing.assert_allclose(array[...], right, rtol=1e-12, atol=1e-14, err_msg=name)
        assert (found.n_rows, found.n_dropped, found.bytes_read) == (10_000, 0, X.nbytes), name
        assert found.counts == (tuple(np.bincount(right)) if what == "label" else ()), name
        assert found.output == str(tmp_path / f"{name} {what}")
        assert found.seconds > 0


class Recorded:
    """An array that notes what is written to it, and by whom."""

    def __init__(self, array: zarr.Array[Any], writes: list[tuple[int, int]]) -> None:
        self._array, self._writes = array, writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._array, name)

    def with_config(self, config: Any) -> Recorded:
        return Recorded(self._array.with_config(config), self._writes)

    def __setitem__(self, where: slice, values: np.ndarray) -> None:
        self._writes.append((where.start, where.stop))
        self._array[where] = values


@pytest.mark.parametrize("what", WHATS)
def test_every_chunk_is_written_once_and_whole(what: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[tuple[int, int]] = []
    really = zarr.open_array
    for name, data in inputs(tmp_path).items():
        writes.clear()
        with monkeypatch.context() as patch:
            patch.setattr(zarr, "open_array", lambda *a, **k: Recorded(really(*a, **k), writes))
            write_predictions(
                Predictor.of(PARAMETERS, what), open_rows(data), str(tmp_path / "out"), record=RECORD
            )  # fmt: skip
        chunk = really(tmp_path / "out").chunks[0]
        assert sorted(writes) == [(a, min(a + chunk, 10_000)) for a in range(0, 10_000, chunk)], name
        assert len(writes) > 1, name


def test_one_partition_needs_no_divisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prime number of rows in one partition is written in bounded memory all the same."""
    monkeypatch.setattr("daskgmm.sources.partition.IN_PROCESS_BYTES", 10**9)
    np.save(tmp_path / "x.npy", X[:9973])  # (an array in memory is cut more finely)
    found, array = written(str(tmp_path / "x.npy"), tmp_path / "out", what="proba")
    assert array.chunks == (250, 3), "40 chunks of 6 kB, the last one shorter"
    assert found.n_rows == 9973
    np.testing.assert_allclose(array[...], expected("proba", X[:9973]), rtol=1e-12, atol=1e-14)


def test_chunks_held_count_against_the_memory_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prime number of rows in each of many partitions makes a chunk of them all, and says so in time."""
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 1)
    monkeypatch.setattr(targets, "CHUNK_BYTES", CHUNK_BYTES)
    case = make_case("spherical", seed=0, n_rows=2, n_components=200, n_features=1)
    zarr.create_array(tmp_path / "X.zarr", shape=(1_000_000,), chunks=(99_991,), dtype="u1")  # absent chunks are zeros
    with pytest.raises(MemoryLimitError, match=r"got a need of \d+ MiB"):
        write_predictions(
            Predictor.of(parameters_of(case), "proba"), open_rows(tmp_path / "X.zarr"), str(tmp_path / "out"),
            record={}, executor=Limited(400 * MIB),
        )  # fmt: skip
    assert os.listdir(tmp_path) == ["X.zarr"]


def test_every_scheduler_writes_the_same_bits(tmp_path: Path, client: Client) -> None:
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(100, 3))
    found = {}
    for what in WHATS:
        _, array = written(tmp_path / "X.zarr", tmp_path / f"distributed {what}", what=what)
        for scheduler in "synchronous", "threads":
            with dask.config.set(scheduler=scheduler):
                found, other = written(tmp_path / "X.zarr", tmp_path / f"{scheduler} {what}", what=what)
            np.testing.assert_array_equal(other[...], array[...])
            assert found.n_rows == 10_000


@pytest.mark.parametrize("what", WHATS)
def test_rows_without_any_value_have_predictions_where_gaps_are_missing_values(tmp_path: Path, what: Any) -> None:
    rows = X.copy()
    rows[::7, 1], rows[[5, 1234, 9999]] = np.nan, np.nan
    zarr.create_array(tmp_path / "X.zarr", data=rows, chunks=(1000, 3))
    found, array = written(tmp_path / "X.zarr", tmp_path / "out", what=what, non_finite="marginalize")
    assert (found.n_rows, found.n_dropped) == (10_000, 0)
    weights = PARAMETERS.weights
    expected = {"label": np.argmax(weights), "proba": weights, "score": 0.0}[what]
    np.testing.assert_allclose(array[5], expected, rtol=1e-12)
    if what == "label":
        assert sum(found.counts) == 10_000


def test_non_finite_rows_get_minus_one_or_nan(tmp_path: Path) -> None:
    rows = X.copy()
    bad = [0, 999, 1000, 5555, 9999]
    rows[bad, 1] = [np.nan, np.inf, -np.inf, np.nan, np.nan]
    for what in WHATS:
        found, array = written(rows, tmp_path / what, what=what, non_finite="drop")
        assert (found.n_rows, found.n_dropped) == (9995, 5)
        marked = array[...] == -1 if what == "label" else np.isnan(array[...])
        assert np.flatnonzero(marked.reshape(10_000, -1).all(axis=1)).tolist() == bad
        kept = np.delete(array[...], bad, axis=0)
        np.testing.assert_allclose(kept, np.delete(expected(what), bad, axis=0), rtol=1e-12, atol=1e-14)
        if what == "label":
            assert found.counts == tuple(np.bincount(kept))


# -- whole or not at all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", WHATS)
def test_every_row_is_counted(what: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = da.from_array(X, chunks=(1000, 3))
    found, _ = written(data, tmp_path / "all.zarr", what=what)
    assert found.n_rows == len(X)
    assert sum(found.counts) == (len(X) if what == "label" else 0)
    merge = WritePass.merge
    # Rows whose task the sum has lost.
    monkeypatch.setattr(WritePass, "merge", lambda self, a, b: replace(merge(self, a, b), counts=a.counts))
    with pytest.raises(DataError, match=rf"every row must be counted once in a pass; got \d+ of {len(X)} rows"):
        written(data, tmp_path / "lost.zarr", what=what)
    assert not (tmp_path / "lost.zarr").exists()


def test_failure_leaves_no_half_written_output(tmp_path: Path) -> None:
    rows = X.copy()
    rows[9000] = np.nan
    with pytest.raises(DataError, match="got NaN or infinity in row 9000"):
        written(rows, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    written(X, tmp_path / "out")
    rows = X.copy()
    rows[9000] = np.nan
    with pytest.raises(DataError):
        written(rows, tmp_path / "out", what="score")
    assert os.listdir(tmp_path) == ["out"]
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out")[...], expected("label"))
    assert prediction_record(str(tmp_path / "out")) == {"complete": True, **RECORD}


def test_interruption_leaves_no_half_written_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(output_module.Passes, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        written(X, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def saved_in(folder: Path) -> Checkpoint:
    checkpoint = Checkpoint.at(str(folder / "c"), every=0)
    checkpoint.begin({"command": "predict"})
    return checkpoint


def test_what_was_written_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(1000, 3))
    writes: list[tuple[int, int]] = []
    really = zarr.open_array
    monkeypatch.setattr(zarr, "open_array", lambda *a, **k: Recorded(really(*a, **k), writes))
    with dask.config.set(scheduler="synchronous"), pytest.raises(KeyboardInterrupt):
        written(tmp_path / "X.zarr", tmp_path / "out", saved=saved_in(tmp_path), executor=Slot(4))
    first = len(writes)
    assert 0 < first < 10
    (unfinished,) = tmp_path.glob("out.unfinished-*")
    assert prediction_record(str(unfinished))["complete"] is False  # type: ignore[index]
    with dask.config.set(scheduler="synchronous"):
        found, _ = written(tmp_path / "X.zarr", tmp_path / "out", saved=saved_in(tmp_path))
    assert len(writes) < 10 + 2, "the part that was under way, and those that were not begun"
    assert found.counts == tuple(np.bincount(expected("label")))
    np.testing.assert_array_equal(really(tmp_path / "out")[...], expected("label"))
    assert not list(tmp_path.glob("out.unfinished-*"))


def test_what_somebody_removed_meanwhile_is_written_anew(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(1000, 3))
    with dask.config.set(scheduler="synchronous"), pytest.raises(KeyboardInterrupt):
        written(tmp_path / "X.zarr", tmp_path / "out", saved=saved_in(tmp_path), executor=Slot(4))
    (unfinished,) = tmp_path.glob("out.unfinished-*")
    shutil.rmtree(unfinished)
    _, array = written(tmp_path / "X.zarr", tmp_path / "out", saved=saved_in(tmp_path))
    np.testing.assert_array_equal(array[...], expected("label"))


def test_a_task_that_was_given_up_does_not_write_into_another_output(tmp_path: Path) -> None:
    predictor = Predictor.of(PARAMETERS, "label")
    array = zarr.create_array(tmp_path / "out", shape=(10_000,), chunks=(1000,), dtype="i4")
    array.attrs["daskgmm"] = {"complete": False, "token": "another"}
    work = WritePass(predictor, RowsTarget(str(tmp_path / "out"), "mine", 1000), "error")
    with pytest.raises(OutputError, match="the output must be written by one process alone"):
        run_pass(work, Rows.plan(open_rows(X), None), LocalExecutor(), name="write")


def test_output_replaces_what_was_there(tmp_path: Path) -> None:
    written(X[:1234], tmp_path / "out", what="score")
    _, array = written(X, tmp_path / "out")
    np.testing.assert_array_equal(array[...], expected("label"))
    assert os.listdir(tmp_path) == ["out"]


def test_relative_and_missing_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(X, "deep/er/out")
    np.testing.assert_array_equal(zarr.open_array("deep/er/out")[...], expected("label"))


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="the output must be writable; got .*file/out. .*or choose another place."):
        written(X, tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_url_is_marked_complete_at_the_end(tmp_path: Path) -> None:
    url = f"memory://{tmp_path}/out"
    rows = X.copy()
    rows[9000] = np.nan
    with pytest.raises(DataError):
        written(rows, url)
    unfinished = prediction_record(url)
    assert unfinished is not None
    assert unfinished["complete"] is False
    written(X, url)
    assert prediction_record(url) == {"complete": True, **RECORD}
    np.testing.assert_array_equal(zarr.open_array(url)[...], expected("label"))


def test_file_url_is_a_path(tmp_path: Path) -> None:
    rows = X.copy()
    rows[9000] = np.nan
    with pytest.raises(DataError):
        written(rows, f"file://{tmp_path}/out")
    assert os.listdir(tmp_path) == []
    write_predictions(Predictor.of(PARAMETERS, "label"), open_rows(X), f"file://{tmp_path}/out", record=RECORD)
    assert prediction_record(f"file://{tmp_path}/out") == {"complete": True, **RECORD}
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out")[...], expected("label"))


def test_record_of_what_stands_at_an_output(tmp_path: Path) -> None:
    assert prediction_record(str(tmp_path / "nothing")) is None
    written(X, tmp_path / "out")
    assert json.dumps(prediction_record(str(tmp_path / "out")))
    zarr.create_array(tmp_path / "other.zarr", data=X)
    zarr.create_group(tmp_path / "group.zarr")
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    for name in "other.zarr", "group.zarr", "file", "folder":
        message = f"the output must be free, or hold predictions of daskgmm; got something else at {tmp_path}/{name}."
        with pytest.raises(OutputError, match=message):
            prediction_record(str(tmp_path / name))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["zarr.json", ".zarray"])
def test_a_pipe_at_an_output_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(OutputError, match="got something else at"):
        prediction_record(str(tmp_path))


def test_nothing_is_written_for_a_source_that_cannot_be_read(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(1000, 3))
    (tmp_path / "X.zarr" / "c" / "7" / "0").write_bytes(b"damaged")
    with pytest.raises(DataError, match="Rows 7000 to 8000 must be readable"):
        written(tmp_path / "X.zarr", tmp_path / "out")
    assert os.listdir(tmp_path) == ["X.zarr"]


def test_rows_that_change_while_they_are_predicted_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(1000, 3))

    def update(self: Any, state: Any, block: Any, real: Any = WritePass.update) -> Any:
        if block.n_rows and state.first_row == 0:
            array[7000] = 5.0
        return real(self, state, block)

    monkeypatch.setattr(WritePass, "update", update)
    with pytest.raises(DataError, match=r"X must stay as it is while it is read; got other files for rows .* Run the"):
        written(tmp_path / "X.zarr", tmp_path / "out")
    assert os.listdir(tmp_path) == ["X.zarr"]
