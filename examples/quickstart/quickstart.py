"""Rows in a Zarr store, a mixture fitted to them, and their labels written beside them."""

import sys
from pathlib import Path

import dask.array as da
import numpy as np
import zarr

from daskgmm import GaussianMixture


def main(folder: Path) -> None:
    # 100,000 rows around three centres. Stores of any size are used in the same way.
    random = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    rows = centres[random.integers(3, size=100_000)] + random.standard_normal((100_000, 2))
    zarr.create_array(folder / "rows.zarr", data=rows, chunks=(10_000, 2))

    mixture = GaussianMixture(n_components=3, random_state=0).fit(folder / "rows.zarr")
    print(mixture.means_.round(2))
    mixture.save(folder / "mixture.zarr")

    # Lazy in, lazy out: nothing is read until the labels are written, chunk by chunk.
    labels = GaussianMixture.load(folder / "mixture.zarr").predict(da.from_zarr(folder / "rows.zarr"))
    labels.to_zarr(folder / "labels.zarr")
    print(np.bincount(zarr.open_array(folder / "labels.zarr", mode="r")[:]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
