# /// script
# requires-python = ">=3.11"
# dependencies = ["daskgmm"]
#
# [tool.uv.sources]
# daskgmm = { path = "../.." }
# ///
"""Photometry with gaps: stars that were not seen in all bands are told apart by the bands that they have."""

import sys
from pathlib import Path

import numpy as np
import zarr

from daskgmm import GaussianMixture

BANDS = ("g", "r", "i", "z")


def catalogue(random: np.random.Generator, n_stars: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return magnitudes, those that were measured, and which stars are red."""
    red = random.random(n_stars) < 0.3
    brightness = random.normal(19, 1, n_stars)
    colours = np.where(red[:, None], [1.5, 0.2, -0.6, -1.1], [0.3, 0.0, -0.1, -0.2])
    whole = brightness[:, None] + colours + random.normal(0, 0.15, (n_stars, len(BANDS)))
    measured = np.where(random.random(whole.shape) < 0.25, np.nan, whole)  # (bad weather, not faint stars)
    return whole, measured, red


def main(folder: Path) -> None:
    whole, measured, red = catalogue(np.random.default_rng(0), 20_000)
    zarr.create_array(folder / "stars.zarr", data=measured, chunks=(5_000, len(BANDS)))

    # A NaN is a band without a measurement; all that a star has counts.
    mixture = GaussianMixture(2, non_finite="marginalize", random_state=0).fit(folder / "stars.zarr")
    reddest = int(np.argmax(mixture.means_[:, 0] - mixture.means_[:, 3]))
    labels = mixture.predict(folder / "stars.zarr").compute()
    several = (~np.isnan(measured)).sum(axis=1) > 1  # (one band tells no colour)
    print(f"{np.mean((labels == reddest)[several] == red[several]):.1%} of the stars with several bands are told apart")

    # What the mixture expects where nothing was measured, given the bands that were.
    filled = mixture.impute(folder / "stars.zarr").compute()
    gaps = np.isnan(measured) & several[:, None]
    print(f"filled in to {np.std((filled - whole)[gaps]):.2f} magnitudes, where a band alone has {np.std(whole):.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
