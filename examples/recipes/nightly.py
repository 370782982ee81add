# /// script
# requires-python = ">=3.11"
# dependencies = ["daskgmm"]
#
# [tool.uv.sources]
# daskgmm = { path = "../.." }
# ///
"""Anomaly scores each night, of a store that only grows: what is new is scored, what was there is not read again."""

import sys
from pathlib import Path

import numpy as np
import zarr

from daskgmm import GaussianMixture

NIGHT = 20_000  # measurements


def measure(random: np.random.Generator, n_broken: int) -> np.ndarray:
    load = random.normal(0.4, 0.1, NIGHT)
    rows = np.column_stack([load, 30 + 40 * load + random.normal(0, 1, NIGHT), random.normal(5, 1, NIGHT)])
    rows[:n_broken] += [0, 12, 0]  # warm for so little load: each feature alone is in its range
    return rows


def main(folder: Path) -> None:
    random = np.random.default_rng(0)
    store = zarr.create_array(folder / "machines.zarr", shape=(0, 3), chunks=(5_000, 3), dtype="f8")
    for _ in range(5):
        store.append(measure(random, n_broken=0))

    # Once: a mixture of what is usual, and the score that one measurement in ten thousand is below.
    mixture = GaussianMixture(1).fit(folder / "machines.zarr")
    mixture.save(folder / "model.zarr")
    limit = np.quantile(mixture.score_samples(folder / "machines.zarr").compute(), 1e-4)

    # Each night, by cron or a batch system: the rows since the last time, lazily.
    for night in range(2):
        n_before = store.shape[0]
        store.append(measure(random, n_broken=20 * night))
        usual = GaussianMixture.load(folder / "model.zarr")
        scores = usual.score_samples(folder / "machines.zarr")[n_before:].compute()
        print(f"night {night}: {np.count_nonzero(scores < limit)} of {len(scores)} rows are unusual")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
