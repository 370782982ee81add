"""What the project promises of a fit as a whole, through the estimator and on real Zarr stores."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
import zarr
from distributed import Client, LocalCluster
from sklearn.exceptions import ConvergenceWarning
from zarr.abc.store import SuffixByteRequest
from zarr.storage import MemoryStore, WrapperStore

from daskgmm import GaussianMixture
from daskgmm.fitting.events import ignore
from daskgmm.fitting.loop import Candidate
from daskgmm.fitting.model import Model
from daskgmm.fitting.need import fit_need
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.result import Fit
from daskgmm.fitting.run import running
from daskgmm.fitting.status import Status
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.prediction import Predictor
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.memory import peak_worker_bytes
from daskgmm.passes.rows import Rows
from daskgmm.passes.tree import pass_graph
from daskgmm.sources.opening import open_rows
from daskgmm.sources.partition import MIB
from daskgmm.stores.output import write_predictions
from tests.clusters import LOCAL
from tests.oracle import KINDS
from tests.strategies import make_case

CASE = make_case("full", seed=8, n_rows=20_000, n_components=3, n_features=4)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of 20,000 rows in 40 chunks and 20 partitions; partitions are planned in this process only."""
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 32_000)
    zarr.create_array(tmp_path / "X.zarr", data=CASE.X, chunks=(500, 4))
    assert Rows.plan(open_rows(tmp_path / "X.zarr"), None).n_partitions == 20
    return tmp_path / "X.zarr"


# -- the same bits everywhere ----------------------------------------------------------------------------------------


def fitted(store: Path, kind: str, **options: Any) -> dict[str, Any]:
    """Return every number of a fit that has two restarts, on a sample, and goes on for three iterations."""
    options = {"n_init": 2, "init_params": "k-means++", "start_rows": 1000, **options}
    mixture = GaussianMixture(3, covariance_type=kind, random_state=3, max_iter=3, tol=1e-9, **options)
    with pytest.warns(ConvergenceWarning, match="without converging"):
        mixture.fit(store)
    names = ("weights_", "means_", "covariances_", "precisions_cholesky_", "lower_bounds_", "log_likelihood_")
    found = {name: np.asarray(getattr(mixture, name)) for name in names}
    of_candidates = {
        f"restart {h['candidate']}, pass {h['pass']}": np.asarray(h["mean_log_likelihood"])
        for h in mixture.history_
        if h["what"] == "em"
    }
    return {**found, **of_candidates, "score": np.asarray(mixture.score(store))}


def scaled_to(n_workers: int, cluster: LocalCluster, client: Client) -> None:
    cluster.scale(n_workers)
    deadline = time.monotonic() + 60
    while len(client.nthreads()) != n_workers:
        assert time.monotonic() < deadline, f"{len(client.nthreads())} workers instead of {n_workers}"
        time.sleep(0.05)


def test_parameters_have_the_same_bits_for_any_number_of_workers_and_any_scheduler(store: Path) -> None:
    found: dict[str, dict[str, Any]] = {}
    for scheduler in "synchronous", "threads":
        with dask.config.set(scheduler=scheduler):
            found[scheduler] = {kind: fitted(store, kind) for kind in KINDS}
            found[scheduler]["far rows"] = fitted(store, "diag", init_params="k-means||")
    with (
        LocalCluster(n_workers=4, threads_per_worker=1, **LOCAL) as cluster,
        Client(cluster) as client,
    ):
        for n_workers in 4, 2, 1:
            scaled_to(n_workers, cluster, client)
            found[f"{n_workers} workers"] = {kind: fitted(store, kind) for kind in ("full", "tied")}
            if n_workers == 4:
                found["4 workers"]["far rows"] = fitted(store, "diag", init_params="k-means||")
    for surroundings, of_kinds in found.items():
        for kind, numbers in of_kinds.items():
            assert numbers.keys() == found["synchronous"][kind].keys()
            for name, right in found["synchronous"][kind].items():
                assert right.tobytes() == numbers[name].tobytes(), (surroundings, kind, name)


def test_a_candidate_has_the_same_bits_in_any_company(store: Path) -> None:
    """Restarts that share their passes end where each would alone."""
    alone, three = (fitted(store, "full", init_params="k-means||", n_init=n) for n in (1, 3))
    numbers = [name for name in alone if name.startswith("restart 0")]
    assert len(numbers) == 3
    assert sum(name.startswith("restart") for name in three) == 9
    for name in numbers:
        assert alone[name].tobytes() == three[name].tobytes(), name


# -- reading is the cost ---------------------------------------------------------------------------------------------


METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


@dataclass
class Reads:
    """What was read of a store: how often each chunk, or each part of a shard."""

    counts: Counter[tuple[str, Any]] = field(default_factory=Counter)


class CountingStore(WrapperStore[MemoryStore]):
    """Counts what is read, metadata and the indices of shards apart."""

    def __init__(self, store: MemoryStore, reads: Reads) -> None:
        super().__init__(store)
        self.reads = reads

    def _with_store(self, store: MemoryStore) -> CountingStore:
        return type(self)(store, self.reads)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if not key.endswith(METADATA) and not isinstance(byte_range, SuffixByteRequest):
            self.reads.counts[key, byte_range] += 1
        return await super().get(key, prototype, byte_range)

    async def get_ranges(self, key: str, byte_ranges: Any, **options: Any) -> Any:
        """Parts of a shard, as zarr 3.4 reads them (3.1 calls `get` for each)."""
        self.reads.counts.update((key, byte_range) for byte_range in byte_ranges)
        async for group in self._store.get_ranges(key, byte_ranges, **options):
            yield group

    def get_ranges_sync(self, key: str, byte_ranges: Any, **options: Any) -> Any:
        self.reads.counts.update((key, byte_range) for byte_range in byte_ranges)
        return self._store.get_ranges_sync(key, byte_ranges, **options)


@contextmanager
def counted(X: np.ndarray, **layout: Any) -> Iterator[tuple[zarr.Array[Any], Reads]]:
    reads = Reads()
    array = zarr.create_array(CountingStore(MemoryStore(), reads), shape=X.shape, dtype=X.dtype, **layout)
    array[...] = X
    reads.counts.clear()
    yield array, reads


LAYOUTS = {
    "rows": ({"chunks": (300, 4)}, 67),
    "columns": ({"chunks": (700, 1)}, 29 * 4),
    "larger than a partition": ({"chunks": (9000, 4)}, 3),
    "shards": ({"chunks": (100, 4), "shards": (3000, 4)}, None),
    "v2": ({"chunks": (300, 4), "zarr_format": 2}, 67),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("cache", [False, "auto"])
def test_each_chunk_is_read_once_a_pass(
    layout: str, scheduler: str, cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once in the whole fit where the rows stay in memory."""
    monkeypatch.setattr("daskgmm.sources.partition.IN_PROCESS_BYTES", 64_000)
    monkeypatch.setattr("daskgmm.sources.partition.RUN_BYTES", 24_000)
    options, n_chunks = LAYOUTS[layout]
    with dask.config.set(scheduler=scheduler), counted(CASE.X, **options) as (array, reads):
        mixture = GaussianMixture(
            3, random_state=0, n_init=2, init_params="k-means++", start_rows=1000, tol=0.01, cache=cache
        ).fit(array)
        assert set(reads.counts.values()) == {1 if cache else mixture.n_passes_}
        assert mixture.n_passes_ == mixture.history_[-1]["pass"] >= 4
        assert n_chunks is None or len(reads.counts) == n_chunks
        for action in "score", "bic", "predict", "predict_proba":
            reads.counts.clear()
            found = getattr(mixture, action)(array)
            assert np.isfinite(np.asarray(found)).all()
            assert set(reads.counts.values()) == {1}
            assert n_chunks is None or len(reads.counts) == n_chunks


def test_weights_are_read_once_a_pass_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.IN_PROCESS_BYTES", 64_000)
    with counted(CASE.X, chunks=(300, 4)) as (X, of_rows), counted(np.ones(20_000), chunks=(300,)) as (w, of_weights):
        options = {"random_state": 0, "n_init": 2, "init_params": "k-means||", "tol": 0.01, "cache": False}
        mixture = GaussianMixture(3, **options).fit(X, sample_weight=w)
        assert set(of_rows.counts.values()) == set(of_weights.counts.values()) == {mixture.n_passes_}


def test_a_given_start_needs_a_survey_the_iterations_and_a_closing_pass(store: Path) -> None:
    mixture = GaussianMixture(
        3, weights_init=CASE.weights, means_init=CASE.means, precisions_init=np.stack([np.eye(4)] * 3), tol=1e-2
    ).fit(store)
    assert mixture.n_passes_ == mixture.n_iter_ + 2
    assert [record["what"] for record in mixture.history_] == ["survey", *["em"] * mixture.n_iter_, "closing"]


# -- few tasks, small graphs -----------------------------------------------------------------------------------------


def mixtures(n_mixtures: int, n_components: int, n_features: int) -> list[Parameters]:
    """Return random mixtures of full covariances."""
    family, found = family_called("full"), []
    for seed in range(n_mixtures):
        case = make_case("full", seed=seed, n_rows=1, n_components=n_components, n_features=n_features)
        found.append(Parameters.from_covariances(family, case.weights, case.means, case.covariances))
    return found


@pytest.mark.parametrize(("chunk_rows", "n_chunks"), [(4096, 100_000), (1, 100_000), (262_144, 100_000)])
def test_a_pass_over_a_hundred_thousand_chunks_has_few_tasks(tmp_path: Path, chunk_rows: int, n_chunks: int) -> None:
    shape = (chunk_rows * n_chunks, 64)
    zarr.create_array(tmp_path / "X.zarr", shape=shape, chunks=(chunk_rows, 64), dtype="f4")  # metadata alone
    work = EStep([make_plan(p, origin=np.zeros(64)) for p in mixtures(10, 50, 64)])
    began = time.process_time()  # of this process: others share the machine
    rows = Rows.plan(open_rows(tmp_path / "X.zarr"), None)
    graph, keys = pass_graph(work, rows, name="pass")
    seconds = time.process_time() - began
    assert seconds < 2
    assert rows.n_partitions <= 3000
    assert len(graph) <= 3000 * 8 / 7 + 10, "partitions, their merges, the reader and the pass"
    assert len(keys) == 1
    n_bytes = len(pickle.dumps(graph))
    assert 8e6 < n_bytes < 10e6, "the ten candidates take 8.6 MB, and the limit of distributed's warning is 10 MB"


def test_ten_large_candidates_go_in_one_pass_without_a_warning(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warnings are errors here, and distributed warns of a large graph."""
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 1)
    X = np.random.default_rng(0).standard_normal((3000, 64)).astype("f4")
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(1000, 64))
    options = FitOptions(50, n_init=10, init_params="k-means||", max_iter=2, tol=1e9, reg_covar=1e-2)
    source = open_rows(tmp_path / "X.zarr")
    with running([Model(options)], source, weights=None, executor=None, listener=ignore) as run:
        fit = run.polished({0: [Candidate.start(i, p, options) for i, p in enumerate(mixtures(10, 50, 64))]})[0]
    assert isinstance(fit, Fit)
    assert fit.status is Status.CONVERGED
    assert Counter(h["pass"] for h in fit.history if h["what"] == "em") == {2: 10, 3: 10}
    assert fit.n_passes == 4


# -- larger than memory ----------------------------------------------------------------------------------------------

GIB = 1024 * MIB
CENTRES = np.array([0.0, 100.0, 300.0])
SHARES = np.array([2, 1, 1])


def large_store(path: Path, n_bytes: int, *, chunk_bytes: int, n_features: int) -> zarr.Array[Any]:
    """Return rows around `CENTRES`, in `SHARES`, n_bytes of them decoded; a chunk is written once and linked often."""
    chunk_rows = chunk_bytes // (4 * n_features)
    n_chunks = n_bytes // chunk_bytes
    array = zarr.create_array(
        path, shape=(n_chunks * chunk_rows, n_features), chunks=(chunk_rows, n_features), dtype="f4"
    )  # fmt: skip
    component = np.tile(np.repeat(np.arange(3), SHARES), chunk_rows // 4)
    noise = np.random.default_rng(0).standard_normal((chunk_rows // 8, n_features)).astype("f4")
    # Each row beside its mirror image, so that the mean of a component in a chunk is its centre.
    chunk = np.concatenate([noise, noise, noise, noise, -noise, -noise, -noise, -noise])
    chunk += CENTRES[component, np.newaxis].astype("f4")
    array[:chunk_rows] = chunk
    for i in range(1, n_chunks):
        (path / "c" / str(i)).mkdir()
        os.link(path / "c" / "0" / "0", path / "c" / str(i) / "0")
    return array


def disk_bytes(path: Path) -> int:
    found = {status.st_ino: status.st_blocks * 512 for status in (file.stat() for file in path.rglob("*"))}
    return sum(found.values())


class Watch:
    """The peak of the resident memory of processes, measured from outside."""

    def __init__(self, pids: list[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self.peak = dict.fromkeys(pids, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            for process in self._processes:
                self.peak[process.pid] = max(self.peak[process.pid], process.memory_info().rss)

    def kernel_peak(self) -> dict[int, int]:
        """Return the high-water marks that Linux keeps: nothing between two samples escapes them.

        (`getrusage` would also count what the parent had when it made the process.)
        """
        found = {}
        for process in self._processes:
            status = Path(f"/proc/{process.pid}/status")
            if status.exists():
                (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
                found[process.pid] = int(line.split()[1]) * 1024
        return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_store_larger_than_memory(tmp_path: Path) -> None:
    """4 GiB are fitted and predicted by two workers of 1 GiB in all, whose peak was stated beforehand."""
    array = large_store(tmp_path / "X.zarr", 4 * GIB, chunk_bytes=8 * MIB, n_features=32)
    assert array.nbytes == 4 * GIB
    assert disk_bytes(tmp_path) < 300e6
    source = open_rows(tmp_path / "X.zarr")
    options = FitOptions(3, "diag")
    rows = Rows.plan(source, None)
    stated = peak_worker_bytes(rows, fit_need([options], source))
    assert stated < 512 * MIB, "or prefetch would be given up"
    with (
        dask.config.set({"distributed.worker.memory.pause": False}),  # (as the command's own workers have it)
        LocalCluster(n_workers=2, threads_per_worker=1, memory_limit="512MiB", **LOCAL) as cluster,
        Client(cluster) as client,
    ):
        pids = sorted(client.run(os.getpid).values())
        with Watch(pids) as watch:
            mixture = GaussianMixture(3, covariance_type="diag", random_state=0, max_iter=1)
            with pytest.warns(ConvergenceWarning):
                mixture.fit(tmp_path / "X.zarr")
            parameters = Parameters.from_covariances(
                options.family, mixture.weights_, mixture.means_, mixture.covariances_
            )
            found = write_predictions(
                Predictor.of(parameters, "label"), source, str(tmp_path / "labels.zarr"), record={}
            )
            kernel_peak = watch.kernel_peak()
        assert sorted(client.run(os.getpid).values()) == pids, "no worker was restarted"
        loaded = client.run(lambda: [name for name in ("pandas", "sklearn", "scipy.optimize") if name in sys.modules])
        assert not any(loaded.values()), loaded
    order = np.argsort(mixture.means_[:, 0])
    np.testing.assert_allclose(mixture.means_[order], CENTRES[:, np.newaxis] + np.zeros(32), atol=1e-4)
    np.testing.assert_allclose(mixture.weights_[order], SHARES / 4, atol=1e-9)
    assert np.array(found.counts)[order].tolist() == [array.shape[0] * share // 4 for share in SHARES]
    labels = zarr.open_array(tmp_path / "labels.zarr", mode="r")
    np.testing.assert_array_equal(labels[-8:], order[np.tile(np.repeat(np.arange(3), SHARES), 2)])
    print(f"stated {stated / MIB:.0f} MiB, sampled {watch.peak}, high-water {kernel_peak}, {mixture.history_}")
    assert min(watch.peak.values()) > 100 * MIB, "the watch watched"
    for peak in *watch.peak.values(), *kernel_peak.values():
        assert peak < stated, f"a worker took {peak / MIB:.0f} MiB where {stated / MIB:.0f} MiB were stated"
