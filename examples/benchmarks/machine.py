"""What measurements are tied to: versions, cores, processor, commit; and the file that holds them."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from contenders import n_cores
from threadpoolctl import threadpool_info

HERE = Path(__file__).parent
PACKAGES = ("daskgmm", "numpy", "scipy", "scikit-learn", "dask", "distributed", "zarr", "numba")


def machine() -> dict[str, Any]:
    """Return what the measurements are tied to: versions, cores, processor, BLAS, commit and date."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    blas = [
        {key: library.get(key) for key in ("internal_api", "version", "architecture", "num_threads")}
        for library in threadpool_info()
        if library["user_api"] == "blas"
    ]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD"),
        "changed": bool(git("status", "--porcelain", "--", "daskgmm")),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": n_cores(),
        "blas": blas,
        "versions": versions,
    }


def git(*arguments: str) -> str | None:
    """Return what git says of the folder that this file is in, None outside a checkout."""
    try:
        done = subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            cwd=HERE.parents[1],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def write(output: Path, results: dict[str, Any]) -> None:
    """Write the results, whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_suffix(".part")
    beside.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(beside, output)
