# /// script
# requires-python = ">=3.11"
# dependencies = ["daskgmm[s3]"]
#
# [tool.uv.sources]
# daskgmm = { path = "../.." }
# ///
"""Rows in an object store: a URL instead of a path. Credentials come from where S3's tools look for them."""

import sys

import numpy as np
import zarr

from daskgmm import GaussianMixture


def main(url: str) -> None:  # such as s3://bucket/folder
    random = np.random.default_rng(0)
    rows = np.concatenate([random.normal(0, 1, (20_000, 3)), random.normal(6, 1, (20_000, 3))])
    zarr.create_array(f"{url}/rows.zarr", data=rows, chunks=(5_000, 3))

    mixture = GaussianMixture(2, random_state=0).fit(f"{url}/rows.zarr")
    mixture.save(f"{url}/model.zarr")
    again = GaussianMixture.load(f"{url}/model.zarr")
    print("mean log-likelihood:", round(again.score(f"{url}/rows.zarr"), 3))


if __name__ == "__main__":
    main(sys.argv[1])
