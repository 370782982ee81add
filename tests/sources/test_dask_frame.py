"""Rows of Dask data frames: their own graph, partition by partition, whatever their dtypes and lengths."""

from __future__ import annotations

import itertools
import logging
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster

import daskgmm
from daskgmm import GaussianMixture, open_rows, select
from daskgmm.errors import DataError, InputMissingError, MemoryLimitError
from daskgmm.fitting.events import PassDone
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.need import fit_need
from daskgmm.fitting.options import FitOptions
from daskgmm.passes.memory import peak_worker_bytes
from daskgmm.passes.rows import Rows
from daskgmm.sources.dask_frame_source import DaskFrameSource
from daskgmm.sources.partition import MIB
from daskgmm.stores.checkpoint import Checkpoint
from tests.clusters import LOCAL

pd = pytest.importorskip("pandas", reason="data frames need pandas: the extra 'test'")
pa = pytest.importorskip("pyarrow", reason="data frames of Dask need pyarrow: the extra 'test'")
dd = pytest.importorskip("dask.dataframe", reason="data frames of Dask need pandas and pyarrow")

#: Rows of each partition; one has none.
LENGTHS = (700, 30, 0, 1300, 970)
NAN = float("nan")


def table() -> Any:
    """Return a data frame of pandas of 3,000 rows in two groups, with columns that are no features."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 3)) + 7 * rng.integers(0, 2, size=(3000, 1))
    frame = pd.DataFrame(X, columns=["mag_r", "mag_g", "size"])
    return frame.assign(id=np.arange(3000), name="x", w=rng.integers(0, 4, size=3000))


TABLE = table()
FEATURES = ["mag_g", "mag_r", "size"]
X = TABLE[FEATURES].to_numpy()


def pieces() -> list[Any]:
    edges = np.cumsum([0, *LENGTHS])
    return [TABLE.iloc[a:b] for a, b in itertools.pairwise(edges.tolist())]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of Parquet files, a partition each."""
    folder = tmp_path_factory.mktemp("files")
    for i, piece in enumerate(pieces()):
        piece.to_parquet(folder / f"{i}.parquet")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[LocalCluster, Client]]:
    with (
        LocalCluster(n_workers=4, threads_per_worker=1, memory_limit="1GiB", **LOCAL) as cluster,
        Client(cluster) as client,
    ):
        yield cluster, client


def read_piece(i: int) -> Any:
    return pieces()[i]


def frames(files: Path) -> dict[str, Callable[[], Any]]:
    def read(**options: Any) -> Callable[[], Any]:
        return lambda: dd.read_parquet(files, **options)

    return {
        "numpy": read(),
        "nullable": read(dtype_backend="numpy_nullable"),
        "arrow": read(dtype_backend="pyarrow"),
        "pandas": lambda: dd.from_pandas(TABLE, npartitions=4),
        "from_map": lambda: dd.from_map(read_piece, range(len(LENGTHS)), meta=TABLE.iloc[:0]),
        "delayed": lambda: dd.from_delayed([dask.delayed(piece) for piece in pieces()], meta=TABLE.iloc[:0]),
        "persisted": lambda: dd.read_parquet(files).persist(),
        "filtered": lambda: (lambda frame: frame[frame["id"] >= 0])(dd.read_parquet(files)),
        "filters": read(filters=[("id", ">=", 0)]),
        "assigned": lambda: dd.read_parquet(files).assign(size=lambda frame: frame["size"] * 2 / 2),
    }


KINDS = list(frames(Path()))


def fitted(frame: Any, **options: Any) -> GaussianMixture:
    weight = options.pop("sample_weight", None)
    return GaussianMixture(2, **{"n_init": 1, "random_state": 0} | options).fit(frame, sample_weight=weight)


def same_bits(found: GaussianMixture, right: GaussianMixture) -> bool:
    names = ("weights_", "means_", "covariances_", "lower_bounds_", "log_likelihood_")
    return all(np.asarray(getattr(found, n)).tobytes() == np.asarray(getattr(right, n)).tobytes() for n in names)


# -- the same rows -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_has_the_bits_of_numpys(kind: str, files: Path) -> None:
    frame = frames(files)[kind]()
    source = open_rows(frame, columns=["mag_g", "!id", "mag_*", "size"])
    assert isinstance(source, DaskFrameSource)
    assert source.column_labels == FEATURES
    found, right = fitted(source), fitted(X)
    assert same_bits(found, right)
    assert list(found.feature_names_in_) == FEATURES
    labels = found.predict(frame[FEATURES])
    assert isinstance(labels, da.Array)
    assert np.isnan(labels.shape[0]), "its chunks are unknown, as the frame's lengths are"
    np.testing.assert_array_equal(labels, right.predict(X))
    assert found.score(frame[FEATURES]) == pytest.approx(right.score(X), rel=1e-12)
    if kind != "pandas":
        assert source.chunk_edges.tolist() == [0, 700, 730, 2030, 3000]


def test_a_selection_and_a_series(files: Path) -> None:
    frame = frames(files)["arrow"]()
    found, right = (select(each, n_components=[1, 2], n_init=1, random_state=0) for each in (frame[FEATURES], X))
    assert same_bits(found.best_, right.best_)
    assert same_bits(fitted(frame["size"]), fitted(X[:, 2]))
    assert list(fitted(frame["size"]).feature_names_in_) == ["size"]


def test_weights_are_a_series_or_a_column(files: Path) -> None:
    frame, w = frames(files)["nullable"](), TABLE["w"].to_numpy()
    right = fitted(X, sample_weight=w)
    for weights in (frame["w"], open_rows(frame, columns="w"), open_rows(frame[frame["id"] >= 0], columns="w")):
        assert same_bits(fitted(frame[FEATURES], sample_weight=weights), right)
    assert fitted(frame[FEATURES]).score(frame[FEATURES], sample_weight=frame["w"]) == pytest.approx(
        fitted(X).score(X, sample_weight=w), rel=1e-12
    )
    with pytest.raises(DataError, match=r"sample_weight must have shape \(3000,\)"):
        fitted(frame[FEATURES], sample_weight=frame[["w"]].partitions[:2])


def test_missing_values_and_booleans(tmp_path: Path) -> None:
    plain = pd.DataFrame({"a": [1, None, 3], "b": [True, False, None], "c": [1.5, None, 2.5]})
    nullable = plain.astype({"a": "Int64", "b": "boolean", "c": "Float32"})
    for whole in (nullable, nullable.convert_dtypes(dtype_backend="pyarrow")):
        array = DaskFrameSource(dd.from_pandas(whole, npartitions=2)).blocks
        np.testing.assert_array_equal(array.compute(), [[1, 1, 1.5], [NAN, 0, NAN], [3, NAN, 2.5]])
        narrow = DaskFrameSource(dd.from_pandas(whole, npartitions=2)[["c"]])
        assert narrow.dtype == narrow.blocks.compute().dtype == np.float32


@pytest.mark.slow
def test_bits_are_those_of_any_workers_and_schedulers(
    files: Path, cluster: tuple[LocalCluster, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 10_000)
    chunked = da.from_array(X, chunks=([n for n in LENGTHS if n], 3))
    sample = {"start_rows": 1000, "max_iter": 2, "tol": 1e-9, "escape": False, "sample_weight": TABLE["w"].to_numpy()}
    with dask.config.set(scheduler="sync"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right = fitted(chunked, **sample)
        assert same_bits(fitted(frames(files)["filtered"]()[FEATURES], **sample), right)
    pool, client = cluster
    for n_workers, kind in (4, "persisted"), (2, "arrow"), (1, "filtered"):
        pool.scale(n_workers)
        while len(client.nthreads()) != n_workers:
            time.sleep(0.05)
        frame = frames(files)[kind]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = fitted(frame[FEATURES], **sample | {"sample_weight": frame["w"]})
        assert same_bits(found, right), (n_workers, kind)
        np.testing.assert_array_equal(found.predict(frame[FEATURES]).compute(), right.predict(X))


# -- what is read, and how often --------------------------------------------------------------------------------------
def test_only_chosen_columns_are_read(files: Path, tmp_path: Path) -> None:
    """Where the other columns are destroyed in the files, nobody notices."""
    from pyarrow import parquet

    kept = {*FEATURES, "w"}
    for path in files.iterdir():
        content = bytearray(path.read_bytes())
        found = parquet.read_metadata(path)
        for group in map(found.row_group, range(found.num_row_groups if found.num_rows else 0)):
            for column in (group.column(i) for i in range(group.num_columns)):
                if column.path_in_schema not in kept:
                    start, n = column.dictionary_page_offset or column.data_page_offset, column.total_compressed_size
                    content[start : start + n] = b"\xff" * n
        (tmp_path / path.name).write_bytes(content)
    frame = dd.read_parquet(tmp_path)
    with pytest.raises(OSError, match="."):
        frame.compute()
    for each in (frame, frame[frame["w"] >= 0]):
        source = open_rows(each, columns=FEATURES)
        assert source.n_rows == 3000
        np.testing.assert_array_equal(source.blocks.compute(), X)


def test_a_projection_of_many_files_keeps_its_partitions(tmp_path: Path) -> None:
    """What `to_dask_array(lengths=True)` fails at: Dask would merge these partitions (dask#12411)."""
    wide = pd.DataFrame(np.arange(800.0).reshape(20, 40), columns=[f"c{i}" for i in range(40)])
    for i in range(30):
        (wide + i).to_parquet(tmp_path / f"{i:02}.parquet")
    frame = dd.read_parquet(tmp_path)
    source = open_rows(frame, columns=["c7", "c1"])
    assert source.chunk_edges.tolist() == list(range(0, 601, 20))
    expected = np.concatenate([(wide + i)[["c7", "c1"]].to_numpy() for i in range(30)])
    np.testing.assert_array_equal(source.blocks.compute(), expected)
    assert same_bits(fitted(source), fitted(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_come_from_footers_or_from_one_pass_over_one_column(
    kind: str, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = frames(files)[kind]()
    with caplog.at_level(logging.INFO, "daskgmm"):
        source = open_rows(frame, columns=FEATURES)
        assert not caplog.messages, "nobody has asked for the number of rows"
        assert source.n_rows == 3000
    known = kind in ("numpy", "nullable", "arrow", "pandas", "assigned")
    assert source.n_counting_passes == int(not known)
    counted = "X is a Dask data frame of unknown lengths: one pass counts its rows." in caplog.messages
    assert counted is not known
    assert any("computed again in each pass" in message for message in caplog.messages)
    n_passes = fitted(source, max_iter=3, tol=10.0).n_passes_
    assert n_passes == fitted(X, max_iter=3, tol=10.0).n_passes_ + int(not known)


def test_nothing_is_computed_by_opening_or_predicting(files: Path) -> None:
    computed: list[int] = []

    def noted(i: int) -> Any:
        computed.append(i)
        return pieces()[i]

    frame = dd.from_map(noted, range(len(LENGTHS)), meta=TABLE.iloc[:0])[FEATURES]
    mixture = fitted(X)
    with dask.config.set(scheduler="sync"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # (fitted without names)
        labels, scores = mixture.predict(frame), mixture.score_samples(frame)
        assert open_rows(frame).n_features == 3
        assert not computed
        labels.compute()
        assert sorted(computed) == [0, 1, 2, 3, 4]
        np.testing.assert_allclose(scores, mixture.score_samples(X), rtol=1e-12)


# -- what is refused -----------------------------------------------------------------------------------------------
def never(i: int) -> Any:
    raise AssertionError("a partition was computed")


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (["x"], r"str\w*"),
        (pd.Categorical(["x"]), "category"),
        (pd.to_datetime(["2024-01-01"]), r"datetime64\[\w+\]"),
        (pd.Series([[1.0]], dtype=pd.ArrowDtype(pa.list_(pa.float64()))), r"list<item: double>\[pyarrow\]"),
        (pd.Series([1], dtype="timestamp[s][pyarrow]"), r"timestamp\[s\]\[pyarrow\]"),
        ([1j], "complex128"),
    ],
)
def test_columns_that_are_no_numbers_are_named_before_anything_is_computed(column: Any, dtype: str) -> None:
    meta = pd.DataFrame({"size": [1.0], "kind": column}).iloc[:0]
    frame = dd.from_map(never, range(3), meta=meta)
    for call in (GaussianMixture(1).fit, fitted(X[:, :1]).predict, lambda X: select(X, n_components=[1])):
        with pytest.raises(DataError, match=f"X must hold real numbers in every column; got dtype {dtype} in column"):
            call(frame)
    assert open_rows(frame, columns=["size"]).n_features == 1


def test_names_are_checked_before_anything_is_computed() -> None:
    frame = dd.from_map(never, range(3), meta=TABLE.iloc[:0])
    mixture = fitted(TABLE[FEATURES])
    with pytest.raises(DataError, match="Feature names must be in the same order as they were in fit") as caught:
        mixture.predict(frame[FEATURES[::-1]])
    (code,) = re.findall(r"in the same order, take (.*)\.$", str(caught.value))
    again = eval(code, {"X": frame, "mixture": mixture, "daskgmm": daskgmm})
    assert mixture.predict(again).dtype == np.int64
    with pytest.raises(DataError, match="Feature names unseen at fit time:\n- w\n.*now missing:\n- size"):
        mixture.predict(frame[["mag_g", "mag_r", "w"]])
    with pytest.raises(InputMissingError, match="got 'Size' with a DataFrame.* Did you mean 'size'?"):
        open_rows(frame, columns=["Size"])
    twice = dd.from_map(never, range(3), meta=pd.DataFrame(np.ones((0, 2)), columns=["a", "a"]))
    with pytest.raises(DataError, match="got several columns 'a' in a data frame"):
        open_rows(twice)


def test_whole_numbers_that_float64_cannot_hold_and_text_among_objects_are_named() -> None:
    for values, got in (
        (pd.array([1, 2**60 + 1, None], dtype="Int64"), f"{2**60 + 1} in column 'time'"),
        (np.array([1, 2, 2**60 + 1]), f"{2**60 + 1} in column 'time'"),
        (np.array([1, "2", 3], dtype=object), "objects that are mixed-integer in column 'time'"),
    ):
        whole = pd.DataFrame({"x": [0.5, 1.5, 2.5], "time": values})
        with dask.config.set({"dataframe.convert-string": False}):
            frame = dd.from_pandas(whole, npartitions=1)
            with pytest.raises(DataError, match=re.escape(f"got {got}")):
                fitted(frame)


def test_partitions_that_are_others_than_declared_are_refused() -> None:
    def other(i: int) -> Any:
        return pieces()[i][FEATURES[::-1]] if i == 3 else pieces()[i][FEATURES]

    def text(i: int) -> Any:
        return pieces()[i][FEATURES].astype({"size": str} if i == 3 else {})

    for make, got in ((other, "got one with ['size', 'mag_r', 'mag_g']"), (text, "in column 'size'")):
        frame = dd.from_map(make, range(len(LENGTHS)), meta=TABLE[FEATURES].iloc[:0])
        with pytest.raises(DataError, match=re.escape(got)):
            fitted(frame)


def test_no_rows_and_no_columns(files: Path) -> None:
    frame = frames(files)["numpy"]()
    with pytest.raises(DataError, match=r"X must have at least one row and one feature; got shape \(0, 3\)"):
        fitted(frame[frame["id"] < 0][FEATURES])
    with pytest.raises(DataError, match=r"X must have at least one row and one feature; got shape \(1, 0\)"):
        fitted(frame[[]])


# -- memory, and what survives -------------------------------------------------------------------------------------
def _high_water() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    return int(found[1]) * 1024 if found else 0


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_a_worker_takes_no_more_than_it_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(4):
        values = rng.normal(size=(500_000, 4)) + 5 * rng.integers(0, 2, size=(500_000, 1))
        pd.DataFrame(values, columns=list("abcd")).to_parquet(tmp_path / f"{i}.parquet", compression=None)
    frame = dd.read_parquet(tmp_path, dtype_backend="numpy_nullable")
    source = open_rows(frame[frame["a"] > -1])
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, memory_limit="2GiB", **LOCAL) as cluster,
        Client(cluster) as client,
    ):
        fit_mixture(source, FitOptions(2, max_iter=2, n_init=1, start_rows=1000, escape=False))
        (peak,) = client.run(_high_water).values()
    stated = peak_worker_bytes(Rows.plan(source, None), fit_need([FitOptions(2)], source))
    assert 300 * MIB < peak <= stated < 1024 * MIB


@pytest.mark.slow
def test_what_is_said_of_partitions_that_are_too_large_can_be_done(
    cluster: tuple[LocalCluster, Client], tmp_path: Path
) -> None:
    path, values = tmp_path / "X.parquet", np.random.default_rng(0).normal(size=(8_000_000, 2))
    pd.DataFrame(values, columns=["a", "b"]).to_parquet(path, row_group_size=500_000, compression=None)
    X = dd.read_parquet(path, split_row_groups=False)
    assert X.npartitions == 1
    cluster[1].restart()  # (what other tests have left on workers counts)
    with pytest.raises(MemoryLimitError, match="A task must fit in a worker's memory, 820 MiB a task") as caught:
        fit_mixture(open_rows(dd.concat([X, X])), FitOptions(2))
    (code,) = re.findall(r"such as (dask.*) has; or give the path of", str(caught.value))
    smaller = open_rows(eval(code, {"dask": dask, "path": path}))
    assert smaller.n_rows == 8_000_000
    assert smaller.chunk_bytes <= 16 * MIB
    for source in (smaller, open_rows(path)):
        assert peak_worker_bytes(Rows.plan(source, None), fit_need([FitOptions(2)], source)) < 1024 * MIB


def go_on(files: str, place: str, stop_at: int) -> tuple[bytes, float, int, list[int]]:
    """Return what a fit with a checkpoint finds, and its passes; this process is killed at one of EM."""
    passes: list[int] = []

    def listener(event: PassDone) -> None:
        passes.append(event.number)
        if event.what == "em" and event.number == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)

    frame = dd.read_parquet(files, dtype_backend="pyarrow")
    source = open_rows(frame[frame["id"] >= 0], columns=FEATURES)
    options = FitOptions(3, n_init=1, start_rows=500, tol=1e-9, max_iter=8, seed=0, escape=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 10_000)
        found = fit_mixture(source, options, checkpoint=Checkpoint.at(place, every=0), listener=listener)
    return found.parameters.means.tobytes(), found.log_likelihood, found.n_passes, passes


@pytest.mark.slow
def test_a_killed_fit_goes_on_to_the_same_bits(files: Path, tmp_path: Path) -> None:
    root = Path(daskgmm.__file__).parents[1]
    places = str(files), str(tmp_path / "killed")
    code = f"from tests.sources.test_dask_frame import go_on; go_on(*{places}, stop_at=4)"
    killed = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=root, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = go_on(str(files), str(tmp_path / "whole"), -1)
        again = go_on(*places, -1)
    assert again[:-1] == whole[:-1]
    assert whole[-1][-len(again[-1]) :] == again[-1], "the passes before are not done again"
    assert 0 < len(again[-1]) < len(whole[-1]) - 2
