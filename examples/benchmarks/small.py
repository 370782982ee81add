"""Small data: the time of a fit of iris, of importing the package, of passes over few rows, and what a fit starts.

`python small.py` prints JSON; `python small.py --passes` that of the passes alone; `python small.py --profile` prints
where the time of a fit goes.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from cases import Case, synthetic
from contenders import scikit_options
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture

import daskgmm

#: The package imports little by itself; its estimator what it needs.
IMPORTS = {
    "package": "import daskgmm",
    "daskgmm": "from daskgmm import GaussianMixture",
    "peers": "import sklearn.mixture, dask.array",
}


def fits(n: int) -> dict[str, Any]:
    """Return the median times of a fit of iris with three components, seconds, and their ratio."""
    X = load_iris().data
    took: dict[str, list[float]] = {"daskgmm": [], "sklearn": []}
    for seed in range(n + 1):
        for name, estimator in (("daskgmm", daskgmm.GaussianMixture), ("sklearn", GaussianMixture)):
            began = perf_counter()
            estimator(3, random_state=seed).fit(X)
            took[name].append(perf_counter() - began)
    return compared({name: median(values[1:]) for name, values in took.items()}, "sklearn", 3)


def imports(n: int) -> dict[str, Any]:
    """Return the median times of importing in fresh processes, seconds, and the estimator's ratio to the peers'."""
    took: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(n + 1):
        for name, statement in IMPORTS.items():
            program = f"from time import perf_counter as t; a = t(); {statement}; print(t() - a)"
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
            took[name].append(float(done.stdout))
    return compared({name: median(values[1:]) for name, values in took.items()}, "peers", 1.3)


def compared(seconds: dict[str, float], peer: str, most: float) -> dict[str, Any]:
    """Return the seconds with their ratio, and whether it is at most `most`."""
    ratio = seconds["daskgmm"] / seconds[peer]
    return {"seconds": seconds, "ratio": ratio, "most": most, "met": ratio <= most}


def started() -> dict[str, Any]:
    """Return how many clusters, clients and child processes there were while iris was fitted."""
    import distributed

    made: list[str] = []
    for made_class in (distributed.SpecCluster, distributed.Client):
        _note(made_class, made)
    seen: set[str] = set()
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(seen, done))
    watcher.start()
    X = load_iris().data
    for seed in range(20):
        daskgmm.GaussianMixture(3, random_state=seed).fit(X)
    done.set()
    watcher.join()
    return {"clusters_and_clients": made, "child_processes": len(seen), "met": not made and not seen}


#: Few rows in memory, (rows, features, components).
FEW_ROWS = (
    (30_000, 2, 8), (100_000, 2, 8), (300_000, 2, 8), (1_000_000, 2, 8),
    (10_000, 8, 16), (10_000, 16, 32), (100_000, 16, 32), (10_000, 64, 50),
)  # fmt: skip


def passes(n_rounds: int) -> list[dict[str, Any]]:
    """Return the median milliseconds of an EM iteration on few rows, ours and oneDAL's, and of the pairs' ratios.

    "squarem" is an accelerated iteration, its coordinates included. All start alike; without daal4py oneDAL's column is
    missing.
    """
    try:
        import daal4py
    except ImportError:
        daal4py = None
    found = []
    for n_rows, n_features, n_components in FEW_ROWS:
        X, start = synthetic(Case("few", n_rows, n_features, n_components))
        start["precisions"] = np.linalg.inv(start["covariances"])
        n_iter = max(4, min(40, int(2e8 / (n_rows * n_components * n_features**1.5))))
        took: dict[str, list[float]] = {"em": [], "squarem": [], "onedal": []}
        for _ in range(n_rounds):
            for name, acceleration in (("em", None), ("squarem", "squarem")):
                options = scikit_options(start, n_iter, 1e-6, "full")
                took[name].append(_iteration(daskgmm.GaussianMixture(**options, acceleration=acceleration), X))
            if daal4py is not None:
                took["onedal"].append(_onedal_iteration(daal4py, X, start, n_iter))
        ms = {name: 1e3 * median(values) for name, values in took.items() if values}
        row = {"rows": n_rows, "features": n_features, "components": n_components, "ms": ms}
        if took["onedal"]:
            row["times_onedal"] = median(b / a for a, b in zip(took["em"], took["onedal"], strict=True))
        found.append(row)
    return found


def _iteration(mixture: Any, X: Any) -> float:
    """Return the seconds of an iteration, M-step and coordinates included: a long fit's less a short one's."""
    n_iter = mixture.max_iter
    took = []
    for n in (2, n_iter):
        began = perf_counter()
        mixture.set_params(max_iter=n).fit(X)
        took.append(perf_counter() - began)
    return (took[1] - took[0]) / (n_iter - 2)


def _onedal_iteration(daal4py: Any, X: Any, start: dict[str, Any], n_iter: int) -> float:
    algorithm = daal4py.em_gmm(
        nComponents=len(start["means"]), maxIterations=n_iter, accuracyThreshold=1e-300, covarianceStorage="full",
        regularizationFactor=1e-6,
    )  # fmt: skip
    began = perf_counter()
    result = algorithm.compute(X, start["weights"][np.newaxis], start["means"], list(start["covariances"]))
    return (perf_counter() - began) / int(np.ravel(result.nIterations)[0])


def _note(made_class: Any, made: list[str]) -> None:
    original = made_class.__init__

    def noting(self: Any, *arguments: Any, **options: Any) -> None:
        made.append(type(self).__name__)
        original(self, *arguments, **options)

    made_class.__init__ = noting


def _watch(seen: set[str], done: threading.Event) -> None:
    """Note the child processes of this one, every millisecond (where /proc is)."""
    while not done.wait(0.001):
        for file in Path("/proc/self/task").glob("*/children"):
            try:
                seen.update(file.read_text().split())
            except OSError:
                continue


def profile() -> None:
    """Print where the time of fifty fits goes."""
    X = load_iris().data
    daskgmm.GaussianMixture(3, random_state=0).fit(X)
    with cProfile.Profile() as profiler:
        for seed in range(50):
            daskgmm.GaussianMixture(3, random_state=seed).fit(X)
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(45)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(20)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if "--profile" in sys.argv[1:]:
        profile()
    elif "--passes" in sys.argv[1:]:
        print(json.dumps(passes(7), indent=2))
    else:
        print(json.dumps({"iris": fits(60), "import": imports(9), "started": started(), "passes": passes(7)}, indent=2))
