# /// script
# requires-python = ">=3.11"
# dependencies = ["daskgmm"]
#
# [tool.uv.sources]
# daskgmm = { path = "../.." }
# ///
"""Flow cytometry with labelled controls and noise: components that keep their names, and debris that is in none."""

import sys
from pathlib import Path

import numpy as np

from daskgmm import GaussianMixture

NAMES = ["B cells", "T cells", "unknown population", "noise"]


def read_cells(seed: int, n_cells: int = 60_000) -> tuple[np.ndarray, np.ndarray]:
    """Read cells, and the labels of controls: 300 stained for B cells (0), 300 for T cells (1), -1 for all others."""
    random = np.random.default_rng(seed)
    centres = np.array([[0.5, 4.5, 0.5], [4.0, 0.5, 0.5], [0.8, 0.5, 5.0]])
    truth = random.choice(4, n_cells, p=[0.25, 0.5, 0.15, 0.1])
    cells = centres[np.minimum(truth, 2)] + random.normal(0, 0.4, (n_cells, 3))
    debris = truth == 3
    cells[debris] = random.uniform(-2, 7, (np.count_nonzero(debris), 3))
    labels = np.full(n_cells, -1)
    for population in (0, 1):
        labels[np.flatnonzero(truth == population)[:300]] = population
    return cells, labels


def main(folder: Path) -> None:
    cells, labels = read_cells(0)
    # Component 0 is class 0, and component 1 is class 1; the third finds what the controls leave. Debris lies anywhere.
    mixture = GaussianMixture(3, noise=True, random_state=0).fit(cells, labels=labels)
    for name, share in zip(NAMES, [*mixture.weights_, mixture.noise_weight_], strict=True):
        print(f"{name}: {share:.1%} of all cells")
    # Label 3, one beyond the components, is the noise. New samples come without controls.
    found = np.bincount(mixture.predict(read_cells(1)[0]), minlength=4)
    print("sample 1: " + ", ".join(f"{n:,} {name}" for n, name in zip(found, NAMES, strict=True)))
    mixture.save(folder / "controls.zarr")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
