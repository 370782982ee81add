# /// script
# requires-python = ">=3.11"
# dependencies = ["daskgmm", "xarray"]
#
# [tool.uv.sources]
# daskgmm = { path = "../.." }
# ///
"""Profiles of the ocean: each is a row, each depth of each variable a feature. Labels come on the profiles."""

import sys
import warnings
from pathlib import Path

import numpy as np
import xarray as xr

from daskgmm import GaussianMixture, open_rows


def main(folder: Path) -> None:
    warnings.filterwarnings("ignore", "Consolidated metadata")  # (xarray writes it)
    # Like Argo's floats: temperature and salinity on 20 depths, in warm and cold water. Some sensors failed.
    random = np.random.default_rng(0)
    depth, latitude = np.linspace(0, 1000, 20), random.uniform(-60, 60, 4_000)
    warm = np.abs(latitude) < 30
    surface = np.where(warm, 26.0, 9.0)[:, None] + random.normal(0, 1, (4_000, 1))
    temperature = 4 + (surface - 4) * np.exp(-depth / 250) + random.normal(0, 0.2, (4_000, 20))
    salinity = 34.5 + np.where(warm, 1.2, 0.0)[:, None] * np.exp(-depth / 300) + random.normal(0, 0.05, (4_000, 20))
    temperature[random.random(4_000) < 0.05, 10:] = np.nan
    ocean = xr.Dataset(
        {"TEMP": (("profile", "depth"), temperature), "PSAL": (("profile", "depth"), salinity)},
        coords={"depth": depth, "latitude": ("profile", latitude)},
    )
    chunks = {"chunks": (500, 20)}
    ocean.to_zarr(folder / "argo.zarr", encoding={"TEMP": chunks, "PSAL": chunks})

    stored = xr.open_zarr(folder / "argo.zarr")
    rows = open_rows(stored, features="depth")
    # 40 features for 4,000 profiles: diagonal covariances have few enough parameters.
    mixture = GaussianMixture(2, covariance_type="diag", non_finite="drop", random_state=0).fit(rows)
    print(f"{mixture.n_dropped_} profiles lack a value, and get the label -1.")
    labels = mixture.predict(rows).compute()  # a DataArray, with the coordinates of the profiles
    for label, group in labels.groupby(labels):
        print(
            f"label {int(label):2d}: {group.size} profiles, |latitude| {float(abs(group.latitude).mean()):.0f} degrees"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
