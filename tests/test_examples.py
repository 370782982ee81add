"""Every example runs, as its README says, and prints what its README says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import zarr

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(script: str, *arguments: os.PathLike[str]) -> str:
    completed = subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_quickstart(tmp_path: Path) -> None:
    printed = run_example("quickstart/quickstart.py", tmp_path)

    *means, counts = np.split(np.array(re.findall(r"-?\d+\.?\d*", printed), dtype=float), [2, 4, 6])
    expected = [(0.0, 0.0), (0.0, 6.0), (6.0, 0.0)]
    np.testing.assert_allclose(sorted(map(tuple, np.abs(means).round(1))), expected, atol=0.05)
    assert counts.sum() == 100_000
    assert counts.min() > 30_000

    labels = zarr.open_array(tmp_path / "labels.zarr", mode="r")
    assert labels.shape == (100_000,)
    # Labels belong to their rows: each row is nearest to the mean of its label.
    rows = zarr.open_array(tmp_path / "rows.zarr", mode="r")[:]
    nearest = ((rows[:, None] - np.array(means)) ** 2).sum(axis=2).argmin(axis=1)
    assert np.mean(nearest == labels[:]) > 0.999
