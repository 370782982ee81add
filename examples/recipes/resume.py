# /// script
# requires-python = ">=3.11"
# dependencies = ["daskgmm"]
#
# [tool.uv.sources]
# daskgmm = { path = "../.." }
# ///
"""A fit that is killed halfway: the same command again goes on from its checkpoint, to the same bits."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import zarr

from daskgmm import GaussianMixture


def main(folder: Path) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(200_000, 4)) + 2 * random.integers(0, 2, (200_000, 4))
    zarr.create_array(folder / "rows.zarr", data=rows, chunks=(20_000, 4))

    def fit(name: str, kill_after: int | None = None) -> None:
        command = [sys.executable, "-m", "daskgmm", "fit", folder / "rows.zarr", "--components", "5", "--tol", "1e-6"]
        process = subprocess.Popen(
            [*command, "--output", folder / name], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        n_passes = 0
        for line in process.stderr:
            n_passes += "  em  " in line
            if "Going on" in line:
                print(line.strip()[10:].replace(str(folder), "."))
            if n_passes == kill_after:
                process.send_signal(signal.SIGKILL)
        print(f"{name}: {n_passes} passes of EM, exit status {process.wait()}")

    fit("undisturbed.zarr")
    fit("killed.zarr", kill_after=4)  # a machine fails, or a job's time is over
    fit("killed.zarr")
    models = [GaussianMixture.load(folder / name) for name in ("undisturbed.zarr", "killed.zarr")]
    print("the same bits:", all(np.array_equal(m.covariances_, models[0].covariances_) for m in models))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
