"""Snapshots of Icechunk: their sessions travel to the workers, and what is read is recorded."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client, LocalCluster

from daskgmm import GaussianMixture, open_rows
from daskgmm.errors import DataError
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.passes.fingerprint import fingerprints
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Rows
from tests.clusters import LOCAL

X = np.random.default_rng(0).normal(size=(3000, 3)) + np.repeat([[0.0], [4.0]], [1000, 2000], axis=0)


@pytest.fixture
def repository(tmp_path: Path) -> Any:
    """Rows, and two arrays on one grid."""
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repository")))
    session = repository.writable_session("main")
    group = zarr.create_group(session.store)
    group.create_array("rows", data=X, chunks=(500, 3), dimension_names=("row", "feature"))
    for name, column in zip("ab", X.T, strict=False):
        group.create_array(name, data=column.reshape(60, 50), chunks=(20, 50), dimension_names=("y", "x"))
    session.commit("rows")
    return repository


def test_workers_open_the_snapshot(repository: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 24_000)
    session = repository.readonly_session("main")
    source = open_rows(zarr.open_group(session.store, mode="r")["rows"])
    assert source.travels
    assert session.snapshot_id in source.identity()["location"]
    assert len(pickle.dumps(source.reader())) < 4000
    options = FitOptions(2, max_iter=3, tol=1.0)
    alone = fit_mixture(open_rows(X), options)

    def tasks_done(dask_worker: Any) -> int:
        return int(dask_worker.state.executed_count)

    with LocalCluster(n_workers=2, threads_per_worker=1, **LOCAL) as cluster, Client(cluster) as client:
        found = fit_mixture(source, options)
        assert min(client.run(tasks_done).values()) > 0
    np.testing.assert_allclose(found.parameters.means, alone.parameters.means, rtol=1e-12)
    assert found.bytes_read == X.nbytes


def test_a_snapshot_stays_as_it_is_and_another_one_is_told(repository: Any) -> None:
    before = repository.readonly_session("main")
    source = open_rows(zarr.open_group(before.store, mode="r")["rows"])
    session = repository.writable_session("main")
    zarr.open_group(session.store)["rows"][0] = 1e6
    session.commit("a change")
    np.testing.assert_array_equal(source.reader().read(0, 3000), X)
    now = open_rows(zarr.open_group(repository.readonly_session("main").store, mode="r")["rows"])
    assert now.reader().read(0, 1)[0, 0] == 1e6
    assert now.identity() != source.identity()
    files = [fingerprints(Rows.plan(each, None), LocalExecutor()) for each in (source, now)]
    assert files[0] != files[1]


def test_grids_and_xarray(repository: Any) -> None:
    store = repository.readonly_session("main").store
    grid = open_rows(zarr.open_group(store, mode="r"), columns=["a", "b"])
    assert grid.travels
    expected = GaussianMixture(2, random_state=0).fit(X[:, :2])
    np.testing.assert_allclose(GaussianMixture(2, random_state=0).fit(grid).means_, expected.means_, rtol=1e-9)
    data = xr.open_zarr(store, consolidated=False)[["a", "b"]]
    np.testing.assert_allclose(GaussianMixture(2, random_state=0).fit(data).means_, expected.means_, rtol=1e-9)


def test_a_session_that_can_write_stays_in_its_process(repository: Any) -> None:
    session = repository.writable_session("main")
    source = open_rows(zarr.open_group(session.store)["rows"])
    assert not source.travels
    np.testing.assert_allclose(GaussianMixture(1).fit(source).means_[0], X.mean(axis=0), rtol=1e-12)


def test_a_chunk_that_is_not_there_is_an_error(repository: Any) -> None:
    session = repository.writable_session("main")
    zarr.create_array(session.store, name="holes", shape=(1000, 2), chunks=(500, 2), dtype="f8")[:500] = 1.5
    session.commit("half")
    source = open_rows(zarr.open_group(repository.readonly_session("main").store, mode="r")["holes"])
    with pytest.raises(DataError, match="Every chunk must be in the store; got none for row 500"):
        GaussianMixture(1).fit(source)
