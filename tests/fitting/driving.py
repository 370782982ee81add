"""Gives a fit its rows, its start and its partitions: the same rows from every source, small ones cut small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr

from daskgmm.sources import partition, source
from tests.strategies import Case, make_case

KINDS = ("full", "tied", "diag", "spherical")
INIT_PARAMS = ("kmeans", "k-means++", "random", "random_from_data")
#: One start, on all rows at once, and EM as it is: with these the iterates are scikit-learn's.
PLAIN: dict[str, Any] = {"acceleration": None, "escape": False, "n_init": 1}
SOURCES = ("numpy", "dask", "dask of unknown chunks", "zarr", "zarr path", "npy path")


def well_separated(kind: str = "full", *, n_rows: int = 600, seed: int = 3) -> Case:
    """Return rows around three centres in three features, and a mixture near them."""
    return make_case(kind, seed=seed, n_rows=n_rows, n_components=3, n_features=3)


def given_start(case: Case) -> dict[str, Any]:
    """Return the case's mixture as the arguments that give a start, with kind and number of components."""
    matrices = case.kind in ("full", "tied")
    precisions = np.linalg.inv(case.covariances) if matrices else 1 / case.covariances
    if matrices:
        precisions = (precisions + np.swapaxes(precisions, -1, -2)) / 2
    return {
        "n_components": case.n_components,
        "covariance_type": case.kind,
        "weights_init": case.weights,
        "means_init": case.means,
        "precisions_init": precisions,
    }


def as_source(what: str, X: Any, folder: Path, *, chunk: int = 150, name: str = "X") -> Any:
    """Return rows, or row weights, as an input of the kind `what`, in chunks of `chunk` rows where it has any."""
    X = np.asarray(X)
    if what == "numpy":
        return X
    if what.startswith("dask"):
        array = da.from_array(X, chunks=(chunk, *X.shape[1:]))
        return array if what == "dask" else array[da.from_array(np.ones(len(X), dtype=bool), chunks=chunk)]
    if what == "npy path":
        np.save(folder / f"{name}.npy", X)
        return str(folder / f"{name}.npy")
    whole = {"write_empty_chunks": True}
    stored = zarr.create_array(folder / f"{name}.zarr", data=X, chunks=(chunk, *X.shape[1:]), config=whole)
    return stored if what == "zarr" else str(folder / f"{name}.zarr")


def computed(prediction: Any) -> Any:
    """Return a prediction as a NumPy array, whether it is lazy or not."""
    return prediction.compute() if hasattr(prediction, "compute") else prediction


@pytest.fixture
def small_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every chunk a partition of its own, and chunks of arrays in memory 2 KiB."""
    monkeypatch.setattr(source, "_CHUNK_BYTES", 2048)
    for name in ("PARTITION_BYTES", "IN_PROCESS_BYTES"):
        monkeypatch.setattr(partition, name, 1)


class Blocks:
    """A Dask array that notes how many rows of it were computed."""

    def __init__(self, X: Any, *, chunk: int = 150) -> None:
        X = np.asarray(X)
        self.n_rows = 0
        blocks = da.from_array(X, chunks=(chunk, *X.shape[1:]))
        self.array = da.map_blocks(self._note, blocks, dtype=X.dtype, meta=np.empty((0,) * X.ndim, X.dtype))

    def _note(self, block: Any) -> Any:
        self.n_rows += len(block)
        return block
