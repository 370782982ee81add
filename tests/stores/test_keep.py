"""Columns of the input beside its predictions: each row's own, of any type, in bounded memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import zarr
from click.testing import CliRunner
from distributed import Client

from daskgmm.cli.commands import gmm
from daskgmm.errors import DataError, InputMissingError, OptionError
from daskgmm.kernels.prediction import Predictor
from daskgmm.sources.opening import open_rows
from daskgmm.sources.partition import MIB
from daskgmm.stores.model_file import Model, save_model
from daskgmm.stores.output import write_predictions
from tests.passes.test_prediction import PARAMETERS, X, expected
from tests.stores.test_checkpoint import Slot
from tests.stores.test_output import saved_in
from tests.stores.test_parquet_parts import files

N = len(X)
FEATURES = ["x0", "x1", "x2"]


def table() -> pa.Table:
    """Rows with columns of many types, of which some values are missing."""
    some = pa.array(np.arange(N), mask=np.arange(N) % 7 == 0)
    return pa.table(
        {
            "id": pa.array(np.arange(N) + 2**60),  # (beyond what float64 holds)
            "name": pa.array([None if i % 11 == 0 else f"star {i}" * (i % 5) for i in range(N)]),
            **{name: X[:, i] for i, name in enumerate(FEATURES)},
            "some": some.cast(pa.int16()),
            "when": pa.array(np.arange(N).astype("M8[us]"), pa.timestamp("us", "UTC")),
            "price": pa.array([Decimal(i) / 4 for i in range(N)], pa.decimal128(12, 2)),
            "band": pa.array([["g", "r", "i"][i % 3] for i in range(N)]).dictionary_encode(),
            "flux": pa.array([None if i % 9 == 0 else [float(i)] * (i % 3) for i in range(N)], pa.list_(pa.float32())),
            "place": pa.array([{"ra": float(i), "ok": i % 2 == 0} for i in range(N)]),
            "raw": pa.array([bytes([i % 256]) * 3 for i in range(N)]),
        }
    )


KEPT = ["id", "name", "some", "when", "price", "band", "flux", "place", "raw"]


@pytest.fixture(autouse=True)
def many_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 24_000)
    monkeypatch.setattr("daskgmm.stores.targets.CHUNK_BYTES", 12_000)
    monkeypatch.setattr("daskgmm.sources.parquet_kept._STEP", 300)
    monkeypatch.setattr("daskgmm.sources.parquet_kept.GROUP_BYTES", 20_000)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Files of row groups of several lengths."""
    (tmp_path / "X").mkdir()
    for i, (low, high, group) in enumerate([(0, 2500, 700), (2500, 2600, 1000), (2600, N, 1900)]):
        pq.write_table(table().slice(low, high - low), tmp_path / "X" / f"{i}.parquet", row_group_size=group)
    return tmp_path / "X"


def written(place: Path, output: Path, *names: str, what: Any = "label", **options: Any) -> pa.Table:
    source = open_rows(place, columns=FEATURES)
    kept = source.kept(names)
    write_predictions(Predictor.of(PARAMETERS, what), source, str(output), record={}, kept=kept, **options)
    return pyarrow.dataset.dataset(output).to_table()


def test_columns_of_any_type_are_those_of_their_rows(place: Path, tmp_path: Path) -> None:
    found = written(place, tmp_path / "out.parquet", *KEPT, what="proba")
    assert found.column_names == [*KEPT, "proba_0", "proba_1", "proba_2"]
    right = pyarrow.dataset.dataset(place).to_table()
    for name in KEPT:
        assert found.schema.field(name).type == table().schema.field(name).type, name
        assert found[name].to_pylist() == right[name].to_pylist() == table()[name].to_pylist(), name
    proba = np.stack([found[f"proba_{k}"].to_numpy() for k in range(3)], axis=1)
    np.testing.assert_allclose(proba, expected("proba"), rtol=1e-12, atol=1e-14)
    groups = [pq.read_metadata(f).num_row_groups for f in (tmp_path / "out.parquet").glob("part-*")]
    assert max(groups) > 1, "those that are long in bytes are given out bit by bit"


@pytest.mark.parametrize("index", [["star"], ["star", "night"], None])
@pytest.mark.filterwarnings("ignore:The inplace keyword")  # (Dask's, with the newest pandas)
def test_an_index_of_pandas_stays_one(index: list[str] | None, tmp_path: Path) -> None:
    pd, dd = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    frame = pd.DataFrame(X, columns=FEATURES)
    frame["star"], frame["night"], frame["mag"] = np.arange(N) * 7 % N, np.arange(N) % 7, X[:, 0] ** 2
    indexed = frame.set_index(np.arange(N) % 100 * 7) if index is None else frame.set_index(index)
    indexed.to_parquet(tmp_path / "X.parquet", row_group_size=3000)
    written(tmp_path / "X.parquet", tmp_path / "all.parquet", "*")
    found = pd.read_parquet(tmp_path / "all.parquet")
    right = indexed.assign(label=expected("label").astype("i4"))
    pd.testing.assert_frame_equal(found, right)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "all.parquet" / "part-00001.parquet"), right[3000:6000])
    if index == ["star"]:
        assert dd.read_parquet(tmp_path / "all.parquet").compute().index.name == "star"
    # What is left of an index is a column.
    written(tmp_path / "X.parquet", tmp_path / "some.parquet", "mag", *(index or [])[1:])
    some = pd.read_parquet(tmp_path / "some.parquet")
    assert list(some.columns) == ["mag", *(index or [])[1:], "label"]
    assert isinstance(some.index, pd.RangeIndex)


def test_names_and_wildcards(place: Path, tmp_path: Path) -> None:
    assert written(place, tmp_path / "a.parquet", "x*", "id").column_names == ["x0", "x1", "x2", "id", "label"]
    assert written(place, tmp_path / "b.parquet", "*", "!p*", "!x?").column_names == [
        "id", "name", "some", "when", "band", "flux", "raw", "label"
    ]  # fmt: skip
    source = open_rows(place, columns=FEATURES)
    with pytest.raises(InputMissingError, match="keep must name columns of X; got 'nam' with .* Did you mean 'name'"):
        source.kept(["nam"])
    with pytest.raises(OptionError, match="keep must name each column once; got 'id' twice"):
        source.kept(["id", "id"])


def test_rows_that_are_dropped_stay(place: Path, tmp_path: Path) -> None:
    bad = X[:200].copy()
    bad[[3, 77], 1] = np.nan
    rows = table().slice(0, 200)
    for i, name in enumerate(FEATURES):
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(bad[:, i]))
    pq.write_table(rows, tmp_path / "bad.parquet")
    found = written(tmp_path / "bad.parquet", tmp_path / "out.parquet", "id", non_finite="drop").to_pydict()
    assert found["id"] == table()["id"][:200].to_pylist()
    assert [i for i, label in enumerate(found["label"]) if label == -1] == [3, 77]


def test_bytes_are_those_of_workers_and_of_what_was_cut_short(place: Path, tmp_path: Path, client: Client) -> None:
    written(place, tmp_path / "workers.parquet", *KEPT)
    with dask.config.set(scheduler="synchronous"):
        written(place, tmp_path / "alone.parquet", *KEPT)
        with pytest.raises(KeyboardInterrupt):
            written(place, tmp_path / "again.parquet", *KEPT, saved=saved_in(tmp_path), executor=Slot(3))
        written(place, tmp_path / "again.parquet", *KEPT, saved=saved_in(tmp_path))
    first = files(tmp_path / "alone.parquet")
    assert len(first) == 7
    assert files(tmp_path / "workers.parquet") == files(tmp_path / "again.parquet") == first


def test_memory_is_as_stated(tmp_path: Path) -> None:
    """400 MB of text in one row group beside labels: bit by bit."""
    n_rows = 800_000
    text = pa.array([f"{i:>500}" for i in range(1000)] * (n_rows // 1000))
    one = pa.array(np.random.default_rng(0).normal(size=n_rows))
    pq.write_table(pa.table({"text": text, "x0": one, "x1": one, "x2": one}), tmp_path / "X.parquet",
                   row_group_size=n_rows)  # fmt: skip
    del text
    save_model(Model(PARAMETERS, {"feature_names": FEATURES}), str(tmp_path / "m.zarr"))
    code = """
import re, sys
from pathlib import Path
import dask, zarr, distributed, daskgmm.stores.output
from daskgmm import open_rows
from daskgmm.kernels.loops import COMPILED_BYTES
from daskgmm.kernels.prediction import Predictor
from daskgmm.stores.model_file import load_model
from daskgmm.stores.output import plan_predictions, write_predictions
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
folder = Path(sys.argv[1])
parameters = load_model(folder / "m.zarr").parameters
before = peak()
source = open_rows(folder / "X.parquet", columns=["x0", "x1", "x2"])
kept = source.kept(["text"])
rows, need = plan_predictions(Predictor.of(parameters, "label"), source, "out.parquet", kept)
with dask.config.set(scheduler="synchronous"):
    write_predictions(Predictor.of(parameters, "label"), source, str(folder / "out.parquet"), record={}, kept=kept)
print(peak() - before, need.extra_bytes + source.read_bytes(2 * 2**24), COMPILED_BYTES if need.compiled else 0)
print(sorted({"pandas", "dask.array"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True,
        env={**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"},
    )  # fmt: skip
    numbers, loaded = done.stdout.splitlines()
    assert loaded == "[]", "46 MiB and more on each worker"
    taken, stated, compiled = map(int, numbers.split())
    assert taken < stated + compiled, (taken >> 20, stated >> 20, compiled >> 20)
    assert stated < 350 * MIB
    found = pq.read_table(tmp_path / "out.parquet" / "part-00000.parquet", columns=["text"])
    assert [found["text"][i].as_py().strip() for i in (0, 1234, n_rows - 1)] == ["0", "234", "999"]


# -- through the command line ----------------------------------------------------------------------------------------


def call(*arguments: object, code: int = 0) -> Any:
    done = CliRunner().invoke(gmm, [str(a) for a in arguments], prog_name="daskgmm")
    assert done.exit_code == code, (done.exit_code, done.stderr)
    return done


def test_the_command_line(place: Path, tmp_path: Path) -> None:
    model, output = tmp_path / "m.zarr", tmp_path / "labels.parquet"
    save_model(Model(PARAMETERS, {"feature_names": FEATURES}), str(model))
    predict = ("predict", model, place, "--workers", 1)
    call(*predict, "--keep", "id,na*", "--keep", "band", "-o", output)
    found = pyarrow.dataset.dataset(output).to_table()
    assert found.column_names == ["id", "name", "band", "label"]
    np.testing.assert_array_equal(found["label"], expected("label"))
    assert found["id"].to_pylist() == table()["id"].to_pylist()
    assert "nothing to do" in call(*predict, "--keep", "id,na*,band", "-o", output).stderr
    other = call(*predict, "--keep", "id", "-o", output, code=73).stderr
    assert re.search(r'where --keep is \["id", "name", "band"\] there, \["id"\] now', other)
    call(*predict, "--keep", "id", "-o", output, "--force")
    # What cannot be, each with a remedy that works.
    said = call(*predict, "--keep", "id", "-o", tmp_path / "l.zarr", code=64).stderr
    assert "--keep must be left out where the output is no Parquet; got 'id' with" in said
    pq.write_table(table().append_column("label", pa.array(np.zeros(N))), tmp_path / "labelled.parquet")
    again = ("predict", model, tmp_path / "labelled.parquet", "--workers", 1, "-o", tmp_path / "again.parquet")
    said = call(*again, "--keep", "id,label", code=64).stderr
    assert "--keep must leave out columns that are called as predictions are; got 'label' in" in said
    assert "Leave it out by '!label'" in said
    call(*again, "--keep", "*,!label")
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(1000, 3))
    said = call("predict", model, tmp_path / "X.zarr", "--keep", "id", "-o", tmp_path / "z.parquet", code=64).stderr
    assert "--keep must name columns of Parquet files; got 'id' with" in said
    call("predict", model, tmp_path / "X.zarr", "-o", tmp_path / "z.parquet", "--workers", 1)


def test_files_of_other_types_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    for i, ids in enumerate([np.arange(3), np.arange(3.0)]):
        pq.write_table(pa.table({"id": ids, "x": np.ones(3)}), tmp_path / f"{i}.parquet")
    source = open_rows(tmp_path, columns=["x"])
    with pytest.raises(DataError, match="have the columns of the first, .*; got double in column 'id' of .*, int64 in"):
        source.kept(["id"])
