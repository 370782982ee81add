# /// script
# requires-python = ">=3.11"
# dependencies = ["daskgmm[parquet]", "pandas"]
#
# [tool.uv.sources]
# daskgmm = { path = "../.." }
# ///
"""Colours of galaxies with measurement errors: the red sequence as narrow as it is, not as it is measured."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from daskgmm import GaussianMixture, open_rows


def main(folder: Path) -> None:
    # A narrow red sequence and a broad blue cloud, in g-r and r-i; faint galaxies are measured badly.
    random = np.random.default_rng(0)
    red = random.multivariate_normal([0.95, 0.40], [[0.0009, 0.0004], [0.0004, 0.0004]], 8_000)
    blue = random.multivariate_normal([0.55, 0.25], [[0.0200, 0.0080], [0.0080, 0.0064]], 12_000)
    true = np.concatenate([red, blue])
    errors = 0.01 * 10 ** random.uniform(0.0, 1.2, true.shape)  # standard deviations, not variances
    measured = true + errors * random.normal(size=true.shape)
    table = pd.DataFrame(np.column_stack([measured, errors]), columns=["gr", "ri", "e_gr", "e_ri"])
    table.to_parquet(folder / "galaxies.parquet")

    colours = open_rows(folder / "galaxies.parquet", columns=["gr", "ri"])
    errors_of = open_rows(folder / "galaxies.parquet", columns=["e_gr", "e_ri"])
    found = GaussianMixture(2, tol=1e-5, random_state=0).fit(colours, errors=errors_of)
    blind = GaussianMixture(2, tol=1e-5, random_state=0).fit(colours)
    for name, mixture in (("with errors", found), ("without", blind)):
        sequence = int(np.argmax(mixture.means_[:, 0]))
        print(f"{name}: the red sequence is {np.sqrt(mixture.covariances_[sequence, 0, 0]):.3f} wide in g-r (0.030)")

    # What each galaxy's colours are, given what was measured; the labels know of the errors too.
    better = found.denoise(colours, errors_of).compute()
    print(f"off by {np.std(measured - true):.3f} as measured, by {np.std(better - true):.3f} denoised")
    labels = found.predict(colours, errors=errors_of).compute()
    print(f"{np.mean(labels == int(np.argmax(found.means_[:, 0]))):.0%} on the red sequence (40%)")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
