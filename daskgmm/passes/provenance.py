"""Versions, processor and BLAS: what the bits of a result depend on beside input and options."""

from __future__ import annotations

import platform
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import threadpoolctl

from daskgmm.version import __version__


@lru_cache(maxsize=1)
def provenance() -> dict[str, str]:
    """Return versions, and what computes matrix products: name, version and the processor that it is for."""
    import scipy.linalg  # noqa: F401  (which has a BLAS of its own)

    blas = [info for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas"]
    names = {f"{info['internal_api']} {info['version']} {info.get('architecture', '')}".strip() for info in blas}
    return {
        "daskgmm": __version__,
        **{name: version(name) for name in ("numpy", "scipy", "zarr")},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "blas": ", ".join(sorted(names)),
        "simd": " ".join(_instructions()),
    }


def processor() -> str:
    """Return what bits depend on of the processor of this process: the BLAS chosen for it, and NumPy's instructions."""
    found = provenance()
    return ", ".join(found[name] for name in ("machine", "blas", "simd") if found[name])


def _instructions() -> list[str]:
    """Return the sets of instructions beyond NumPy's least that it found here, and takes for sums, exp and the like."""
    said: Any = np.show_config(mode="dicts")
    return sorted(said.get("SIMD Extensions", {}).get("found", []))
