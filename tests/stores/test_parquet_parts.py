"""Predictions as Parquet: the input's rows in order, each file by one task and whole, and nothing half written."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import zarr
from distributed import Client, LocalCluster

from daskgmm.errors import DataError, OptionError, OutputError
from daskgmm.kernels.prediction import Predictor
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Rows
from daskgmm.passes.tree import run_pass
from daskgmm.sources.opening import open_rows
from daskgmm.stores import parquet_parts
from daskgmm.stores.model_file import Model, save_model
from daskgmm.stores.output import WritePass, Written, prediction_record, write_predictions
from daskgmm.stores.parquet_parts import PartsLayout
from daskgmm.stores.samples import write_sample
from tests.clusters import LOCAL
from tests.passes.test_prediction import PARAMETERS, WHATS, X, expected
from tests.stores.test_checkpoint import Slot
from tests.stores.test_output import RECORD, inputs, saved_in
from tests.test_cli import call

COLUMNS = {"label": ["label"], "proba": ["proba_0", "proba_1", "proba_2"], "score": ["score"]}


@pytest.fixture(autouse=True)
def many_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions of 24 kB, 1000 rows or the next chunks above; files of at most 6 kB of numbers."""
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 24_000)
    monkeypatch.setattr("daskgmm.sources.partition.IN_PROCESS_BYTES", 24_000)
    monkeypatch.setattr("daskgmm.stores.targets.CHUNK_BYTES", 6_000)


def written(data: Any, path: Path, *, what: Any = "label", **options: Any) -> tuple[Written, pd.DataFrame]:
    found = write_predictions(Predictor.of(PARAMETERS, what), open_rows(data), str(path), record=RECORD, **options)
    return found, pd.read_parquet(path)


def files(path: Path) -> dict[str, bytes]:
    """What the files that hold rows are, byte by byte."""
    assert {name for name in os.listdir(path) if not name.startswith("part-")} == {"_daskgmm.parquet"}
    return {name: (path / name).read_bytes() for name in sorted(os.listdir(path)) if name.startswith("part-")}


@pytest.mark.parametrize("what", WHATS)
def test_rows_are_those_of_any_input_in_order(what: Any, tmp_path: Path) -> None:
    right = expected(what).reshape(10_000, -1)
    for name, data in inputs(tmp_path).items():
        path = tmp_path / f"{name} {what}.parquet"
        found, frame = written(data, path, what=what)
        assert list(frame.columns) == COLUMNS[what], name
        assert set(frame.dtypes) == {np.dtype("i4" if what == "label" else "f8")}, name
        np.testing.assert_allclose(frame.to_numpy(), right, rtol=1e-12, atol=1e-14, err_msg=name)
        assert (found.n_rows, found.n_dropped, found.output) == (10_000, 0, str(path)), name
        assert prediction_record(str(path)) == {"complete": True, **RECORD}
        assert len(files(path)) > 1, name
        sizes = [pq.read_metadata(path / part).num_rows * right.itemsize for part in files(path)]
        assert name == "one chunk" or max(sizes) <= (3000 if what == "proba" else 12_000), name


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # (Dask's, with the newest pandas)
def test_every_reader_finds_the_same(tmp_path: Path) -> None:
    """Names are in order as text and as numbers, and the file of the record has no rows."""
    path = tmp_path / "proba.parquet"
    _, frame = written(X, path, what="proba")
    right = expected("proba")
    assert sorted(files(path), key=lambda name: int(name[5:-8])) == sorted(files(path))
    for name, found in {
        "dask": dd.read_parquet(path).compute().to_numpy(),
        "pyarrow": pyarrow.dataset.dataset(path).to_table().to_pandas().to_numpy(),
        "each file": pd.concat([pd.read_parquet(f) for f in sorted(path.glob("*.parquet"))]).to_numpy(),
        "daskgmm": open_rows(path).reader().read(0, 10_000),
    }.items():
        np.testing.assert_allclose(found, right, rtol=1e-12, atol=1e-14, err_msg=name)
        np.testing.assert_array_equal(found, frame.to_numpy(), err_msg=name)


def test_each_file_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    really = parquet_parts.write_file

    def noted(folder: str, name: str, *arguments: Any) -> None:
        names.append(name)
        really(folder, name, *arguments)

    monkeypatch.setattr(parquet_parts, "write_file", noted)
    written(X, tmp_path / "out.parquet", what="score")
    of_rows = sorted(name for name in names if name.startswith("part-"))
    assert of_rows == list(files(tmp_path / "out.parquet"))
    assert len(of_rows) == 14


def test_non_finite_rows_get_minus_one_or_nan(tmp_path: Path) -> None:
    rows = X.copy()
    bad = [0, 999, 1000, 5555, 9999]
    rows[bad, 1] = [np.nan, np.inf, -np.inf, np.nan, np.nan]
    for what in WHATS:
        found, frame = written(rows, tmp_path / f"{what}.parquet", what=what, non_finite="drop")
        assert (found.n_rows, found.n_dropped) == (9995, 5)
        marked = (frame == -1) if what == "label" else frame.isna()
        assert np.flatnonzero(marked.all(axis=1)).tolist() == bad
        kept = np.delete(frame.to_numpy(), bad, axis=0)
        np.testing.assert_allclose(
            kept, np.delete(expected(what).reshape(10_000, -1), bad, axis=0), rtol=1e-12, atol=1e-14
        )


# -- the same bytes, whatever happens -------------------------------------------------------------------------------


def test_bytes_are_those_of_any_number_of_workers(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(100, 3))
    found = {}
    with dask.config.set(scheduler="synchronous"):
        written(tmp_path / "X.zarr", tmp_path / "0.parquet", what="proba")
    found[0] = files(tmp_path / "0.parquet")
    with (
        LocalCluster(n_workers=4, threads_per_worker=1, processes=True, memory_limit="1GiB", **LOCAL) as cluster,
        Client(cluster) as client,
    ):
        for n_workers in (4, 2, 1):
            client.retire_workers(sorted(client.nthreads())[n_workers:])
            assert len(client.nthreads()) == n_workers
            written(tmp_path / "X.zarr", tmp_path / f"{n_workers}.parquet", what="proba")
            found[n_workers] = files(tmp_path / f"{n_workers}.parquet")
    assert len(found[0]) == 45
    assert found[1] == found[2] == found[4] == found[0]


def test_what_was_written_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(1000, 3))
    output = tmp_path / "out.parquet"
    with dask.config.set(scheduler="synchronous"):
        written(tmp_path / "X.zarr", tmp_path / "undisturbed.parquet")
        with pytest.raises(KeyboardInterrupt):
            written(tmp_path / "X.zarr", output, saved=saved_in(tmp_path), executor=Slot(4))
        (unfinished,) = tmp_path.glob("out.parquet.unfinished-*")
        assert prediction_record(str(tmp_path / "out.parquet")) is None
        record = parquet_parts.parts_record(str(unfinished))
        assert record["complete"] is False
        (unfinished / ".part-00007.parquet.0123").write_bytes(b"torn")  # as a killed process leaves it
        before = {name: os.stat(unfinished / name).st_mtime_ns for name in os.listdir(unfinished)}
        assert 3 < len(before) < 11
        found, frame = written(tmp_path / "X.zarr", output, saved=saved_in(tmp_path))
    kept = [name for name in before if name.startswith("part") and before[name] == (output / name).stat().st_mtime_ns]
    assert len(kept) >= 4
    assert found.counts == tuple(np.bincount(expected("label")))
    np.testing.assert_array_equal(frame["label"], expected("label"))
    assert files(output) == files(tmp_path / "undisturbed.parquet")
    assert not list(tmp_path.glob("out.parquet.*"))


def test_what_somebody_removed_meanwhile_is_missed_and_written_anew(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(1000, 3))
    output = tmp_path / "out.parquet"
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(KeyboardInterrupt):
            written(tmp_path / "X.zarr", output, saved=saved_in(tmp_path), executor=Slot(4))
        (unfinished,) = tmp_path.glob("out.parquet.unfinished-*")
        for part in unfinished.glob("part-*"):
            part.unlink()
        with pytest.raises(OutputError, match="the output must keep its files while it is written; got no part-0000"):
            written(tmp_path / "X.zarr", output, saved=saved_in(tmp_path))
        assert not output.exists()
        _, frame = written(tmp_path / "X.zarr", output, saved=saved_in(tmp_path))
    np.testing.assert_array_equal(frame["label"], expected("label"))


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    written(X, output)
    rows = X.copy()
    rows[9000] = np.nan
    with pytest.raises(DataError, match="got NaN or infinity in row 9000"):
        written(rows, output, what="score")
    assert os.listdir(tmp_path) == ["out.parquet"]
    np.testing.assert_array_equal(pd.read_parquet(output)["label"], expected("label"))
    written(X[:1234], output, what="score")
    assert list(pd.read_parquet(output).columns) == ["score"]
    assert os.listdir(tmp_path) == ["out.parquet"]


def test_a_task_that_was_given_up_does_not_write_into_another_output(tmp_path: Path) -> None:
    predictor = Predictor.of(PARAMETERS, "label")
    layout = PartsLayout.of(predictor, open_rows(X))
    target = layout.make(str(tmp_path / "out.parquet"), "mine")
    shutil.rmtree(tmp_path / "out.parquet")
    layout.make(str(tmp_path / "out.parquet"), "another")
    with pytest.raises(OutputError, match="the output must be written by one process alone"):
        run_pass(WritePass(predictor, target, "error"), layout.rows, LocalExecutor(), name="write")
    assert os.listdir(tmp_path / "out.parquet") == ["_daskgmm.parquet"]


# -- what cannot be --------------------------------------------------------------------------------------------------


def test_something_else_at_the_place(tmp_path: Path) -> None:
    pq.write_table(pyarrow.table({"x": [1.0]}), tmp_path / "file.parquet")
    for name in ("folder.parquet", "theirs.parquet", "damaged.parquet"):
        (tmp_path / name).mkdir()
    pq.write_table(pyarrow.table({"x": [1.0]}), tmp_path / "theirs.parquet" / "_daskgmm.parquet")
    (tmp_path / "damaged.parquet" / "_daskgmm.parquet").write_bytes(b"PAR1")
    for name in ("file.parquet", "folder.parquet", "theirs.parquet", "damaged.parquet"):
        with pytest.raises(OutputError, match="the output must be free, or hold predictions of daskgmm; got something"):
            prediction_record(str(tmp_path / name))


def test_a_url_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(
        OptionError, match=r"the output must be a path where it is Parquet; got the URL s3://.*"
    ) as told:
        write_predictions(Predictor.of(PARAMETERS, "label"), open_rows(X), "s3://nowhere/labels.parquet", record={})
    # The remedies.
    assert "or write Zarr, which may be at a URL: s3://nowhere/labels.zarr" in str(told.value)
    write_predictions(Predictor.of(PARAMETERS, "label"), open_rows(X), f"memory://{tmp_path}/labels.zarr", record={})
    write_predictions(Predictor.of(PARAMETERS, "label"), open_rows(X), f"file://{tmp_path}/labels.parquet", record={})
    np.testing.assert_array_equal(pd.read_parquet(tmp_path / "labels.parquet")["label"], expected("label"))


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor.of(PARAMETERS, "label")
    target = PartsLayout.of(predictor, open_rows(X)).make(str(tmp_path / "made.parquet"), "token")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    said = r"the output must be Parquet only where pyarrow is installed; got .*pip install 'daskgmm\[parquet\]'"
    with pytest.raises(OptionError, match=said):
        written(X, tmp_path / "out.parquet")
    with pytest.raises(OptionError, match=said):  # (as a worker says it)
        target.write(0, np.zeros(1000, "i4"))
    assert os.listdir(tmp_path) == ["made.parquet"]


def test_rows_of_parquet_are_read_from_where_their_row_groups_begin(tmp_path: Path) -> None:
    """Partitions are not made equal: none begins within a row group, so that nothing is decoded twice."""
    frame = {f"x{i}": X[:, i] for i in range(3)}
    for i, (low, high) in enumerate([(0, 2500), (2500, 2600), (2600, 10_000)]):
        some = pyarrow.table({name: column[low:high] for name, column in frame.items()})
        pq.write_table(some, tmp_path / f"{i}.parquet", row_group_size=1300)
    source = open_rows(str(tmp_path / "*.parquet"))
    rows = Rows.plan(source, None)
    assert PartsLayout.of(Predictor.of(PARAMETERS, "label"), source).rows.edges.tolist() == rows.edges.tolist()
    _, found = written(str(tmp_path / "?.parquet"), tmp_path / "out.parquet", what="score")
    np.testing.assert_allclose(found["score"], expected("score"), rtol=1e-12)


# -- rows drawn from a mixture ---------------------------------------------------------------------------------------


def test_a_sample_has_the_same_rows_whatever_it_is_written_as(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.stores.samples.CHUNK_BYTES", 24 * 700)
    for suffix in ("zarr", "parquet"):
        places = {"output": str(tmp_path / f"x.{suffix}"), "labels": str(tmp_path / f"c.{suffix}")}
        write_sample(PARAMETERS, 5000, **places, seed=3, record={"seed": 3}, result=lambda: {"rows": 5000})
    rows = zarr.open_array(tmp_path / "x.zarr", mode="r")[...]
    found = pd.read_parquet(tmp_path / "x.parquet")
    assert list(found.columns) == ["x0", "x1", "x2"]
    np.testing.assert_array_equal(found.to_numpy(), rows)
    labels = zarr.open_array(tmp_path / "c.zarr", mode="r")[...]
    np.testing.assert_array_equal(pd.read_parquet(tmp_path / "c.parquet")["label"], labels)
    assert len(files(tmp_path / "x.parquet")) == len(files(tmp_path / "c.parquet")) == 8
    for kind in ("zarr", "parquet"):
        record = {"complete": True, "seed": 3, "array": "rows", "result": {"rows": 5000}}
        assert prediction_record(str(tmp_path / f"x.{kind}")) == record
    assert sorted(os.listdir(tmp_path)) == ["c.parquet", "c.zarr", "x.parquet", "x.zarr"]


def test_a_sample_through_the_command_line(tmp_path: Path) -> None:
    save_model(Model(PARAMETERS, {"feature_names": ["ra", "dec", "mag"]}), str(tmp_path / "m.zarr"))
    sample = (
        "sample",
        tmp_path / "m.zarr",
        "-n",
        2000,
        "-o",
        tmp_path / "x.parquet",
        "--labels",
        tmp_path / "c.parquet",
    )
    call(*sample)
    assert list(pd.read_parquet(tmp_path / "x.parquet").columns) == ["ra", "dec", "mag"]
    assert "nothing to do" in call(*sample).stderr
    assert "where --seed is 0 there, 1 now" in call(*sample, "--seed", 1, code=73).stderr
    before = files(tmp_path / "x.parquet")
    call(*sample, "--force")
    assert files(tmp_path / "x.parquet") == before
    call("predict", tmp_path / "m.zarr", tmp_path / "x.parquet", "-o", tmp_path / "l.parquet", "--workers", 1)
    refused = call("sample", tmp_path / "m.zarr", "-n", 9, "-o", "s3://nowhere/x.parquet", code=64).stderr
    assert "--output must be a path where it is Parquet; got the URL s3://nowhere/x.parquet" in refused


def test_a_sample_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.stores.samples.CHUNK_BYTES", 24 * 700)
    write_sample(PARAMETERS, 5000, str(tmp_path / "x.parquet"), seed=0, record={})
    before, really = files(tmp_path / "x.parquet"), parquet_parts.write_file

    def full(folder: str, name: str, *others: Any) -> None:
        if name == "part-00005.parquet":
            raise OSError(28, "No space left on device")
        really(folder, name, *others)

    monkeypatch.setattr(parquet_parts, "write_file", full)
    with pytest.raises(OutputError, match="the output must be writable; got .*No space left"):
        write_sample(PARAMETERS, 5000, str(tmp_path / "x.parquet"), seed=1, record={})
    assert files(tmp_path / "x.parquet") == before
    assert os.listdir(tmp_path) == ["x.parquet"]
