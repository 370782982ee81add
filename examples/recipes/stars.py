# /// script
# requires-python = ">=3.11"
# dependencies = ["daskgmm[parquet]", "pandas"]
#
# [tool.uv.sources]
# daskgmm = { path = "../.." }
# ///
"""Stars: which of them move together? From Parquet files to a label beside each star's number."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from daskgmm import open_rows, select


def main(folder: Path) -> None:
    # Like Gaia's catalogue around a star cluster: proper motions (mas/yr) and parallaxes (mas), in several files.
    random = np.random.default_rng(0)
    field = random.normal([-1.0, -3.0, 1.0], [4.0, 4.0, 0.7], (40_000, 3))
    cluster = random.normal([11.5, -8.0, 7.4], [0.8, 0.8, 0.2], (2_000, 3))
    stars = random.permutation(np.concatenate([field, cluster]))
    table = pd.DataFrame(stars, columns=["pmra", "pmdec", "parallax"])
    table.insert(0, "source_id", np.arange(len(table)) + 4_000_000_000)
    (folder / "stars").mkdir()
    for i in range(3):
        table.iloc[i::3].to_parquet(folder / "stars" / f"part-{i}.parquet", row_group_size=5_000)

    # How many groups do the stars themselves ask for?
    rows = open_rows(folder / "stars", columns=["pmra", "pmdec", "parallax"])
    found = select(rows, n_components=range(1, 5), random_state=0)
    print(found)
    best = found.best_
    best.save(folder / "model.zarr")

    # The model knows its columns: the command finds them, and keeps the stars' numbers beside the labels.
    predict = [sys.executable, "-m", "daskgmm", "predict", folder / "model.zarr", folder / "stars"]
    subprocess.run([*predict, "--keep", "source_id", "--output", folder / "labels.parquet"], check=True)
    labels = pd.read_parquet(folder / "labels.parquet")
    nearest = int(np.argmax(best.means_[:, 2]))  # the group of the largest parallax
    print(f"{np.count_nonzero(labels['label'] == nearest)} stars move with the cluster of 2000, around", end=" ")
    print(best.means_[nearest].round(1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
