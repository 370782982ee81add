"""Predictions: what the mathematics say, for every kind of input, and lazily where the input is lazy."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client
from zarr.storage import MemoryStore

from daskgmm import GaussianMixture
from daskgmm.errors import DataError
from daskgmm.kernels.prediction import Predictor
from daskgmm.passes.prediction import predict_array, predict_blocks, predict_source
from daskgmm.sources.opening import open_rows
from tests import oracle
from tests.kernels.driving import oracle_of, parameters_of
from tests.sources.test_zarr_source import CountingStore
from tests.strategies import make_case

CASE = make_case("full", seed=4, n_rows=10_000, n_components=3, n_features=3)
PARAMETERS = parameters_of(CASE)
X = CASE.X
WHATS = ("label", "proba", "score")


def expected(what: Any, rows: np.ndarray = X) -> np.ndarray:
    return predict_array(rows, Predictor.of(PARAMETERS, what), non_finite="error")


@pytest.mark.parametrize("kind", oracle.KINDS)
def test_predictions_equal_the_oracles(kind: str) -> None:
    case = make_case(kind, seed=2, n_rows=500, n_components=4, n_features=3)
    parameters = parameters_of(case)
    model = oracle_of(parameters)
    found = {w: predict_array(case.X, Predictor.of(parameters, w), non_finite="error") for w in WHATS}
    resp = oracle.responsibilities(case.X, model).astype(float)
    np.testing.assert_allclose(found["proba"], resp, atol=1e-10)
    np.testing.assert_allclose(found["score"], oracle.log_likelihoods(case.X, model).astype(float), rtol=1e-10)
    np.testing.assert_array_equal(found["label"], resp.argmax(axis=1))
    assert (found["label"].dtype, found["proba"].dtype, found["score"].dtype) == (np.intp, np.float64, np.float64)
    assert found["proba"].shape == (500, 4)


@pytest.mark.parametrize("what", WHATS)
@pytest.mark.parametrize("chunks", [(999, 3), (4000, 1), (10_000, 2), ((1, 4999, 5000), 3)])
def test_dask_array_is_predicted_in_its_own_chunks(what: Any, chunks: Any) -> None:
    array = da.from_array(X, chunks=chunks)
    found = predict_blocks(array, Predictor.of(PARAMETERS, what), non_finite="error")
    assert found.chunks[0] == array.chunks[0]
    assert found.dtype == found.compute().dtype
    np.testing.assert_allclose(found.compute(), expected(what), rtol=1e-12, atol=1e-14)
    assert type(found._meta) is np.ndarray


@pytest.mark.parametrize("what", WHATS)
def test_unknown_chunks_stay_unknown_and_may_be_empty(what: Any) -> None:
    array = da.from_array(X, chunks=(1000, 3))
    kept = np.arange(10_000) > 2500
    array = array[da.from_array(kept, chunks=1000)]
    found = predict_blocks(array, Predictor.of(PARAMETERS, what), non_finite="error")
    assert np.isnan(found.shape[0])
    assert found.ndim == (2 if what == "proba" else 1)
    np.testing.assert_allclose(found.compute(), expected(what)[kept], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("what", WHATS)
def test_building_a_prediction_computes_nothing(what: Any) -> None:
    computed = []

    def seen(block: np.ndarray) -> np.ndarray:
        computed.append(len(block))
        return block

    array = da.from_array(X, chunks=(1000, 3)).map_blocks(seen, meta=np.empty((0, 0)))
    found = predict_blocks(array, Predictor.of(PARAMETERS, what), non_finite="error")
    assert computed == []
    found[:1500].compute(scheduler="synchronous")
    assert computed == [1000, 1000], "only the blocks asked for"


@pytest.mark.parametrize("what", WHATS)
def test_stored_rows_are_predicted_lazily(what: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.IN_PROCESS_BYTES", 20_000)
    store = CountingStore(MemoryStore())
    array = zarr.create_array(store, shape=X.shape, chunks=(500, 3), dtype="f8")
    array[...] = X
    store.reads.clear()
    found = predict_source(open_rows(array), Predictor.of(PARAMETERS, what), non_finite="error")
    assert store.reads == [], "nothing is read before it is asked for"
    assert found.chunks[0] == (1000,) * 10
    assert found.chunks[1:] == (((3,),) if what == "proba" else ())
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_allclose(found[2000:2001].compute(), expected(what)[2000:2001], rtol=1e-12)
        assert sorted(key for key, _ in store.reads if "c/" in key) == ["c/4/0", "c/5/0"]
        np.testing.assert_allclose(found.compute(), expected(what), rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(found.compute(), found.compute())
    assert found.sum().compute() == pytest.approx(expected(what).sum())


@pytest.mark.parametrize("what", WHATS)
def test_prediction_is_computed_on_a_cluster(
    what: Any, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 20_000)
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(500, 3))
    found = predict_source(open_rows(tmp_path / "X.zarr"), Predictor.of(PARAMETERS, what), non_finite="error")
    with dask.config.set(scheduler="synchronous"):
        local = found.compute()
    np.testing.assert_array_equal(found.compute(), local)


def test_two_predictions_of_one_source_have_different_names() -> None:
    source = open_rows(X)
    one, two = (predict_source(source, Predictor.of(PARAMETERS, what), non_finite="error") for what in WHATS[::2])
    assert one.name != two.name
    label, score = dask.compute(one, two, scheduler="synchronous")
    np.testing.assert_array_equal(label, expected("label"))
    np.testing.assert_array_equal(score, expected("score"))


@pytest.mark.parametrize("what", WHATS)
@pytest.mark.parametrize("lazy", [False, True])
def test_non_finite_rows_are_refused_or_marked(what: Any, lazy: bool, tmp_path: Path) -> None:
    rows = X.copy()
    rows[[7, 4096, 9999], [0, 1, 2]] = [np.nan, np.inf, -np.inf]
    np.save(tmp_path / "x.npy", rows)  # one partition: of several the scheduler takes any one first
    predictor = Predictor.of(PARAMETERS, what)

    def predict(non_finite: str) -> Any:
        if lazy:
            source = open_rows(str(tmp_path / "x.npy"))
            return predict_source(source, predictor, non_finite=non_finite).compute(scheduler="sync")
        return predict_array(rows, predictor, non_finite=non_finite)

    with pytest.raises(
        DataError, match=r"X must be finite; got NaN or infinity in row 7, where counting begins with 0"
    ):
        predict("error")
    found = predict("drop")
    bad = found == -1 if what == "label" else np.isnan(found)
    bad = bad if bad.ndim == 1 else bad.all(axis=1)
    assert np.flatnonzero(bad).tolist() == [7, 4096, 9999]
    np.testing.assert_allclose(found[~bad], expected(what)[~bad], rtol=1e-12, atol=1e-14)


def test_one_column_may_be_a_vector() -> None:
    case = make_case("diag", seed=1, n_rows=1000, n_components=2, n_features=1)
    predictor = Predictor.of(parameters_of(case), "proba")
    right = predict_array(case.X, predictor, non_finite="error")
    np.testing.assert_array_equal(predict_array(case.X[:, 0], predictor, non_finite="error"), right)
    found = predict_blocks(da.from_array(case.X[:, 0], chunks=300), predictor, non_finite="error")
    np.testing.assert_allclose(found.compute(), right, rtol=1e-12)


# -- a Dask array is never loaded whole ------------------------------------------------------------------------------


class Watched:
    """An array whose pieces are counted while anything refers to them."""

    def __init__(self, X: np.ndarray) -> None:
        self._X, self.shape, self.dtype, self.ndim = X, X.shape, X.dtype, X.ndim
        self._lock = threading.Lock()
        self.alive = self.most = self.read = 0

    def __getitem__(self, where: Any) -> np.ndarray:
        piece = np.array(self._X[where])
        with self._lock:
            self.alive, self.read = self.alive + len(piece), self.read + len(piece)
            self.most = max(self.most, self.alive)
        weakref.finalize(piece, self._gone, len(piece))
        return piece

    def _gone(self, n_rows: int) -> None:
        with self._lock:
            self.alive -= n_rows


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("what", ["fit", "score", "predict", "predict_proba", "score_samples", "fit_predict"])
def test_a_dask_array_is_never_loaded_whole(what: str, scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 8 * 3 * 300)  # three blocks
    watched = Watched(X)
    array = da.from_array(watched, chunks=(100, 3), asarray=False)
    mixture = GaussianMixture(3, random_state=0, max_iter=2, tol=1e3)
    mixture.fit(X)
    with dask.config.set(scheduler=scheduler, num_workers=2):
        found = getattr(mixture, what)(array)
        if what in ("predict", "predict_proba", "score_samples", "fit_predict"):
            assert isinstance(found, da.Array)
            assert watched.read in (0, mixture.n_passes_ * 10_000), "building it reads nothing"
            found.sum().compute()
        assert watched.read >= 10_000
    # Two tasks of three blocks each, and a few blocks read ahead for the next ones.
    assert watched.most <= 2_000, f"{watched.most} of 10,000 rows at once"
    assert watched.alive == 0


@pytest.mark.parametrize("n_features", [1, 3, 70])
@pytest.mark.parametrize("what", WHATS)
@pytest.mark.parametrize("kind", oracle.KINDS)
def test_the_compiled_kernel_predicts_the_same(kind: str, what: Any, n_features: int) -> None:
    pytest.importorskip("numba", reason="numba is not installed (extra: compiled)")
    case = make_case(kind, seed=2, n_rows=600, n_components=4, n_features=n_features)
    case.X[17] = np.nan
    predictor = Predictor.of(parameters_of(case), what)
    with dask.config.set({"daskgmm.compiled": False}):
        plain = predict_array(case.X, predictor, non_finite="drop")
    with dask.config.set({"daskgmm.compiled": True}):
        found = predict_array(case.X, predictor, non_finite="drop")
        lazy = predict_blocks(da.from_array(case.X, chunks=(100, 1)), predictor, non_finite="drop").compute()
    np.testing.assert_allclose(found, plain, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(lazy, plain, rtol=1e-11, atol=1e-14)


def test_of_equal_components_the_first_is_the_label() -> None:
    pytest.importorskip("numba", reason="numba is not installed (extra: compiled)")
    p = parameters_of(make_case("full", seed=0, n_rows=100, n_components=1, n_features=2))
    twins = type(p).from_covariances(
        p.family, np.full(3, 1 / 3), np.repeat(p.means, 3, 0), np.repeat(p.covariances, 3, 0)
    )
    for compiled in (False, True):
        with dask.config.set({"daskgmm.compiled": compiled}):
            assert not predict_array(np.ones((50, 2)), Predictor.of(twins, "label"), non_finite="error").any()


@pytest.mark.parametrize("what", WHATS)
def test_threads_predict_an_array_in_memory_as_one_does(what: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((50_000, 3))
    whole = expected(what, rows)
    monkeypatch.setattr("daskgmm.sources.partition.IN_PROCESS_BYTES", 200_000)
    np.testing.assert_array_equal(expected(what, rows), whole)
    rows[30_000] = np.nan
    with pytest.raises(DataError, match="row 30000"):
        expected(what, rows)


def test_chunks_of_a_wide_prediction_are_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (
        "sources.partition.PARTITION_BYTES",
        "passes.prediction.PARTITION_BYTES",
        "sources.partition.RUN_BYTES",
    ):
        monkeypatch.setattr(f"daskgmm.{place}", 24_000)
    monkeypatch.setattr("daskgmm.sources.partition.IN_PROCESS_BYTES", 24_000)
    stored = zarr.create_array(MemoryStore(), data=X[:, :1].astype("f4"), chunks=(100, 1))
    narrow = parameters_of(make_case("full", seed=4, n_rows=100, n_components=3, n_features=1))
    for rows in (open_rows(stored), da.from_array(X[:, :1].astype("f4"), chunks=(6000, 1))):
        predict: Any = predict_blocks if isinstance(rows, da.Array) else predict_source
        labels = predict(rows, Predictor.of(narrow, "label"), non_finite="error")
        proba = predict(rows, Predictor.of(narrow, "proba"), non_finite="error")
        assert max(proba.chunks[0]) == 1000, "24 bytes a row"
        assert 1000 < max(labels.chunks[0]) <= 3000, "8 bytes a row"
        wanted = predict_array(X[:, :1].astype("f4"), Predictor.of(narrow, "proba"), non_finite="error")
        np.testing.assert_allclose(proba.compute(), wanted, rtol=1e-12, atol=1e-14)
