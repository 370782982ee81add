"""What several tests need: a cluster of real processes, a small seeded data set, and hypothesis' settings."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from hypothesis import settings

from tests.clusters import LOCAL

# The same examples every time, here and in CI; `--hypothesis-profile explore` looks for new ones.
settings.register_profile("fixed", deadline=None, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("fixed")


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """Two worker processes of one thread, reachable from this machine only; made by the first test that asks."""
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, memory_limit="2GiB", **LOCAL) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    """The current client, for one test: dask computes on the cluster."""
    with Client(cluster) as client:
        yield client


@pytest.fixture
def small_rows() -> np.ndarray:
    """Rows of three well separated Gaussians, (3000, 2), float64."""
    random = np.random.default_rng(20260101)
    centres = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    return centres[random.integers(3, size=3000)] + random.standard_normal((3000, 2))


@pytest.fixture
def small_store(tmp_path: Path, small_rows: np.ndarray) -> Path:
    """Path of a Zarr array of the small rows, in chunks of 700 rows."""
    path = tmp_path / "rows.zarr"
    zarr.create_array(path, data=small_rows, chunks=(700, 2))
    return path
