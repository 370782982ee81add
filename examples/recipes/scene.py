# /// script
# requires-python = ">=3.11"
# dependencies = ["daskgmm", "xarray"]
#
# [tool.uv.sources]
# daskgmm = { path = "../.." }
# ///
"""Pixels of a satellite's scene: bands are features, and the labels come as a map on the scene's own grid."""

import sys
import warnings
from pathlib import Path

import numpy as np
import xarray as xr

from daskgmm import GaussianMixture


def main(folder: Path) -> None:
    warnings.filterwarnings("ignore", "Consolidated metadata")  # (xarray writes it)
    # As odc.stac.load or rioxarray give it: bands on y and x, packed as integers, clouds masked.
    random, shape = np.random.default_rng(0), (300, 400)
    y, x = np.linspace(48.0, 47.0, shape[0]), np.linspace(7.0, 8.5, shape[1])
    kind = (x[None, :] > 7.5).astype(int) + ((x[None, :] > 7.5) & (y[:, None] < 47.5))
    bands = {"red": [0.02, 0.04, 0.2], "green": [0.03, 0.06, 0.18], "nir": [0.01, 0.4, 0.25]}
    scene = xr.Dataset(
        {name: (("y", "x"), np.take(levels, kind) + random.normal(0, 0.01, shape)) for name, levels in bands.items()},
        coords={"y": y, "x": x},
    )
    scene = scene.where(random.random(shape) > 0.02)
    packed = {name: {"dtype": "i2", "scale_factor": 1e-4, "_FillValue": -9999, "chunks": (100, 100)} for name in bands}
    scene.to_zarr(folder / "scene.zarr", encoding=packed)

    stored = xr.open_zarr(folder / "scene.zarr")
    mixture = GaussianMixture(3, non_finite="drop", random_state=0).fit(stored)
    labels = mixture.predict(stored)  # on y and x, lazy; -1 below clouds
    labels.rename("label").to_dataset().to_zarr(folder / "labels.zarr")
    for k, mean in enumerate(mixture.means_):
        area = float((labels == k).mean())
        reflectance = ", ".join(
            f"{name} {value:.2f}" for name, value in zip(mixture.feature_names_in_, mean, strict=True)
        )
        print(f"label {k}: {area:.0%} of the scene; {reflectance}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
