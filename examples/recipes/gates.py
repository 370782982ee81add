# /// script
# requires-python = ">=3.11"
# dependencies = ["daskgmm"]
#
# [tool.uv.sources]
# daskgmm = { path = "../.." }
# ///
"""Gates of flow cytometry: each component is an ellipsoid around a population of cells."""

import sys
from pathlib import Path

import dask.array as da
import numpy as np
from dask import delayed
from scipy.stats import chi2

from daskgmm import GaussianMixture

MARKERS = ["CD3", "CD19", "CD14"]


def read_sample(seed: int) -> np.ndarray:
    """Read a sample's events, as flowio.FlowData(file).as_array() would; here three populations."""
    random = np.random.default_rng(seed)
    centres = np.array([[4.0, 0.5, 0.5], [0.5, 4.5, 0.5], [0.8, 0.5, 5.0]])
    events = centres[random.choice(3, 30_000, p=[0.6, 0.25, 0.15])] + random.normal(0, 0.4, (30_000, 3))
    return np.sinh(events) * 5


def main(folder: Path) -> None:
    # One chunk a sample: none is read before a pass needs it, and all never lie in memory together.
    samples = [da.from_delayed(delayed(read_sample)(seed), shape=(30_000, 3), dtype=float) for seed in range(4)]
    cells = da.arcsinh(da.concatenate(samples) / 5)
    mixture = GaussianMixture(3, random_state=0).fit(cells)

    # A gate: the events whose Mahalanobis distance is below the radius that holds 95 % of a population.
    radius, rows = np.sqrt(chi2.ppf(0.95, df=len(MARKERS))), cells[:30_000].compute()
    for k in np.argsort(-mixture.weights_):
        distance = np.linalg.norm((rows - mixture.means_[k]) @ mixture.precisions_cholesky_[k], axis=1)
        marker = MARKERS[int(np.argmax(mixture.means_[k]))]
        inside = np.mean(distance < radius)
        print(f"{marker}+: {mixture.weights_[k]:.1%} of all cells; {inside:.1%} of sample 0 in its gate")
    mixture.save(folder / "gates.zarr")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
