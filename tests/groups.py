"""Stores that several tests fit."""

from pathlib import Path

import numpy as np
import zarr

CHUNK_ROWS = 20_000


def two_groups(path: Path, n_rows: int) -> Path:
    """Write rows of two Gaussians, (n_rows, 32), float64, uncompressed; all chunks (20,000 rows, 5 MB) are alike."""
    random = np.random.default_rng(1)
    array = zarr.create_array(path, shape=(n_rows, 32), chunks=(CHUNK_ROWS, 32), dtype="f8", compressors=None)
    rows = random.standard_normal((CHUNK_ROWS, 32))
    rows[random.random(CHUNK_ROWS) < 0.25] += 5.0
    for start in range(0, n_rows, CHUNK_ROWS):
        array[start : start + CHUNK_ROWS] = rows
    return path
