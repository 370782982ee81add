# /// script
# requires-python = ">=3.11"
# dependencies = ["daskgmm"]
#
# [tool.uv.sources]
# daskgmm = { path = "../.." }
# ///
"""A model that goes on with the rows of each night, and says when they are others: daskgmm update, by cron."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

NIGHT = 20_000  # stars: colour and magnitude
SMALL = 0.001  # a p-value that a person looks at


def observe(random: np.random.Generator, *, n_flares: int = 0, offset: float = 0.0) -> np.ndarray:
    dwarfs = random.multivariate_normal([1.2, 17.0], [[0.04, 0.06], [0.06, 0.5]], NIGHT // 2)
    giants = random.multivariate_normal([0.8, 13.0], [[0.01, 0.0], [0.0, 0.3]], NIGHT // 2 - n_flares)
    flares = random.multivariate_normal([-0.6, 15.0], [[0.01, 0.0], [0.0, 0.1]], n_flares)
    return random.permutation(np.concatenate([dwarfs, giants, flares])) + np.array([offset, 0.0])


def command(*arguments: object) -> dict:
    line = [sys.executable, "-m", "daskgmm", *map(str, arguments), "--accept-not-converged"]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def main(folder: Path) -> None:
    random = np.random.default_rng(0)
    np.save(folder / "first.npy", observe(random))
    command("fit", folder / "first.npy", "-k", 3, "--seed", 0, "--output", folder / "model.zarr")

    nights = {"as usual": {}, "out of calibration": {"offset": 0.05}, "flares": {"n_flares": 400}}
    for name, differs in nights.items():
        new = folder / f"{name.replace(' ', '-')}.npy"
        np.save(new, observe(random, **differs))
        # It reads tonight's rows alone, and replaces the model; run twice, it counts them once.
        drift = command("update", folder / "model.zarr", new)["drift"]
        others = min(drift["p_value"], drift["chi_square_p_value"]) < SMALL
        freed = "".join(f", component {k} is theirs" for k, _ in drift["moves"])
        print(f"{name}: z = {drift['z']:.1f}, {'other rows' if others else 'the same rows'}{freed}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
