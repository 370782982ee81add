"""The limits of this machine, measured: `python limits.py` prints them as JSON."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from contenders import n_cores
from threadpoolctl import threadpool_limits

GIB = 1 << 30


def times(work: Callable[[], object], n: int = 3) -> list[float]:
    """Return the time that `work` took each time, seconds."""
    took = []
    for _ in range(n):
        began = perf_counter()
        work()
        took.append(perf_counter() - began)
    return took


def seconds(work: Callable[[], object]) -> float:
    """Return the median time of `work`, seconds."""
    return median(times(work))


def matrix_product(dtype: str, n_threads: int, n: int) -> float:
    """Return the rate of a matrix product, the best of five, GFLOP/s."""
    a = np.random.default_rng(0).standard_normal((n, n)).astype(dtype)
    out = np.empty_like(a)
    with threadpool_limits(n_threads, user_api="blas"):
        np.matmul(a, a, out=out)
        return 2 * n**3 / min(times(lambda: np.matmul(a, a, out=out), 5)) / 1e9


def exponential(dtype: str) -> float:
    """Return what an exponential costs in a block that fits the cache, nanoseconds an entry."""
    x = np.random.default_rng(0).uniform(-40, 0, (32, 4096)).astype(dtype)
    out = np.empty_like(x)
    return seconds(lambda: [np.exp(x, out=out) for _ in range(20)]) / (20 * x.size) * 1e9


def memory(n_bytes: int) -> dict[str, float]:
    """Return the bandwidth of a copy (read and written), GB/s, and the cost of fresh and of used memory, s/GiB."""
    began = perf_counter()
    a = np.empty(n_bytes, np.uint8)
    a.fill(1)
    fresh = perf_counter() - began
    used = seconds(lambda: a.fill(2))
    b = np.empty_like(a)
    b.fill(1)
    copy = seconds(lambda: np.copyto(b, a))
    gib = n_bytes / GIB
    return {
        "copy_gb_per_second": 2 * n_bytes / copy / 1e9,
        "first_touch_seconds_per_gib": fresh / gib,
        "fill_seconds_per_gib": used / gib,
    }


def zarr_read(n_bytes: int) -> dict[str, float]:
    """Return the rate of reading a store that is in the page cache, decoded, GB/s, by codec.

    float32 rows of 64 grey levels that resemble their neighbours: random numbers would hardly compress.
    """
    import zarr

    random = np.random.default_rng(0)
    levels = np.cumsum(random.integers(-3, 4, (n_bytes // 256, 64)), axis=1)
    rows = (levels / 255).astype(np.float32)
    codecs: dict[str, Any] = {
        "uncompressed": None,
        "blosc-lz4": zarr.codecs.BloscCodec(cname="lz4"),
        "zstd": zarr.codecs.ZstdCodec(),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, codec in codecs.items():
            path = Path(folder) / name
            chunks = (max(1, (4 << 20) // 256), 64)
            store = zarr.create_array(path, data=rows, chunks=chunks, compressors=codec)
            read = zarr.open_array(path, mode="r")
            read[:]
            found[name] = rows.nbytes / seconds(lambda read=read: read[:]) / 1e9
            found[f"{name}-ratio"] = rows.nbytes / store.nbytes_stored()
    return found


def product_size(*, quick: bool) -> int:
    """Return the length of a matrix product's sides."""
    return 400 if quick else 3000


def measure_limits(*, quick: bool = False) -> dict[str, Any]:
    """Return the limits of the machine."""
    n, n_bytes = product_size(quick=quick), (16 << 20 if quick else GIB)
    threads = sorted({1, n_cores()})
    limits: dict[str, Any] = {"cores": n_cores()}
    for name, dtype in (("dgemm", "float64"), ("sgemm", "float32")):
        limits[f"{name}_gflops"] = {str(t): matrix_product(dtype, t, n) for t in threads}
        limits[f"exp_{dtype}_nanoseconds"] = exponential(dtype)
    return limits | memory(n_bytes) | {"zarr_gb_per_second": zarr_read(n_bytes // 4)}


if __name__ == "__main__":
    print(json.dumps(measure_limits(), indent=2))
