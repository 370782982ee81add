"""The measurements: one function a part, each for one data set and one seed, and the list of all of them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from data_sets import DATA_SETS, SPEED, STORED, TINY, DataSet
from kept_fits import kept, kept_again, kept_sklearn
from kept_sets import KEPT_SETS
from ours import Fitted, fit
from peers import as_options, kmeans_start, onedal_fit, sklearn_fit

#: Nats a row from the end at which a candidate counts as arrived.
NEAR = 1e-3
#: Change a pass, nats a row, at which a candidate has finally converged.
FINAL_TOL = 1e-7
#: Seconds that a fit to FINAL_TOL may take: ours, and one from a given start.
A_SECONDS, F_SECONDS = 60.0, 5.0
#: Rows from which on plain EM runs for the first two seeds only.
LARGE = 300_000
ACCELERATIONS = (None, "squarem", "anderson")

Record = dict[str, Any]
Measure = Callable[[Any, int], Record]


@dataclass(frozen=True)
class Unit:
    """What is measured, recorded and resumed as one."""

    part: str
    data_set: DataSet
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        return self.part, self.data_set.name, self.seed

    def measure(self) -> Record:
        """Return the record; where the fit raises, with what it said."""
        began = perf_counter()
        known = {"part": self.part, "data_set": self.data_set.name, "seed": self.seed}
        known |= {name: getattr(self.data_set, name) for name in ("n_rows", "n_features", "n_components", "kind")}
        try:
            found = PARTS[self.part](self.data_set, self.seed)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        return {**known, **found, "unit_seconds": perf_counter() - began}


def all_units(n_seeds: int, *, quick: bool) -> Iterator[Unit]:
    """Return all units, a seed after the other: whatever ends early has every part and data set first."""
    sets = list(DATA_SETS.values())
    if quick:
        sets = sets[::9]
    large = [data_set for data_set in sets if not data_set.shipped]
    for seed in range(n_seeds):
        plan: list[tuple[str, DataSet]] = []
        for data_set in large:
            plan += [("paths", data_set)]
            plan += [("acceleration", data_set)] if seed < 2 or data_set.n_rows < LARGE else []
        for data_set in sets:
            if data_set.against_sklearn:
                plan += [("quality", data_set), ("quality-sklearn", data_set)]
            if data_set.against_sklearn and not data_set.shipped:
                plan += [("escape", data_set)]
        speed = DATA_SETS[SPEED]
        plan += [("restarts", STORED), ("speed", speed), ("speed-onedal", speed)]
        # scikit-learn takes minutes.
        plan += [("speed-sklearn", speed)] if seed < 2 else []
        plan += [("select", STORED), ("far", TINY)] if seed < 3 else []
        for kept_set in list(KEPT_SETS.values())[:: 9 if quick else 1]:
            plan += [("kept", kept_set), ("kept-sklearn", kept_set)] if seed < kept_set.n_seeds else []
        for part, data_set in sorted(plan, key=lambda item: item[1].name):
            yield Unit(part, data_set.quick() if quick else data_set, seed)


@lru_cache(maxsize=1)
def rows_of(data_set: DataSet, seed: int) -> Any:
    """Return the rows; the last ones are kept, since several parts need them."""
    return data_set.make(seed)


def defaults(data_set: DataSet, seed: int) -> dict[str, Any]:
    """Return what every fit of a data set is told."""
    return {
        "n_components": data_set.n_components,
        "covariance_type": data_set.kind,
        "reg_covar": data_set.reg_covar,
        "random_state": seed,
    }


def summary(fitted: Fitted) -> Record:
    """Return what every record says of a fit."""
    mixture = fitted.mixture
    return {
        "final": fitted.final,
        "converged": bool(mixture.converged_),
        "n_iter": int(mixture.n_iter_),
        "n_passes": int(mixture.n_passes_),
        "visits_all": fitted.visits,
        "bytes_read": fitted.bytes_read,
        "seconds": fitted.seconds,
    }


def arrival(fitted: Fitted) -> Record:
    """Return when a fit came within NEAR of its own end, and the way there: nats a row below the end, by pass."""
    near = fitted.until(fitted.final - NEAR)
    return {
        "passes": near.passes if near else None,
        "visits": near.visits if near else None,
        "gaps": [float(f"{fitted.final - point.best:.3g}") for point in fitted.path[:100]],
    }


def most_iterations(data_set: DataSet, X: Any, start: dict[str, Any], seconds: float) -> int:
    """Return how many iterations take the seconds, from a fit of two."""
    fitted = fit(X, **defaults(data_set, 0), **start, n_init=1, acceleration=None, escape=False, max_iter=2, tol=0)
    return int(np.clip(data_set.patience * seconds / fitted.pass_seconds, 30, 5000))


# A: few passes.
def paths(data_set: DataSet, seed: int) -> Record:
    """Return how a fit at the defaults, its sample at most a tenth of the rows, came to its end."""
    X = rows_of(data_set, seed)
    start = as_options(kmeans_start(data_set, X, seed), data_set.kind)
    most = most_iterations(data_set, X, start, A_SECONDS)
    found = fit(X, **defaults(data_set, seed), tol=FINAL_TOL, max_iter=most, start_rows=len(X) // 10)
    return {**summary(found), **arrival(found)}


# F, and plain EM for A: acceleration from the same k-means start.
def acceleration(data_set: DataSet, seed: int) -> Record:
    """Return how EM came to its end from a k-means start, plain and accelerated."""
    X = rows_of(data_set, seed)
    start = as_options(kmeans_start(data_set, X, seed), data_set.kind)
    most = most_iterations(data_set, X, start, F_SECONDS)
    found: Record = {"modes": {}}
    for mode in ACCELERATIONS:
        options = {**defaults(data_set, seed), **start, "tol": FINAL_TOL, "max_iter": most}
        try:
            fitted = fit(X, **options, n_init=1, acceleration=mode, escape=False)
        except ValueError as error:
            found["modes"][str(mode)] = {"error": str(error)}
        else:
            found["modes"][str(mode)] = {**summary(fitted), **arrival(fitted)}
    return found


# B: the final value against scikit-learn's best of ten.
def quality(data_set: DataSet, seed: int) -> Record:
    """Return what a fit at the defaults reached, as scikit-learn scores it."""
    X = rows_of(data_set, seed)
    fitted = fit(X, **defaults(data_set, seed))
    return {**summary(fitted), "score": float(fitted.mixture.to_sklearn().score(X))}


def quality_sklearn(data_set: DataSet, seed: int) -> Record:
    """Return what scikit-learn's best of ten reached."""
    X = rows_of(data_set, seed)
    model, seconds = sklearn_fit(data_set, X, seed, n_init=10)
    return {"score": float(model.score(X)), "seconds": seconds, "converged": bool(model.converged_)}


# C: time to a log-likelihood.
def speed(data_set: DataSet, seed: int) -> Record:
    """Return when a fit at the defaults, but for a smaller tol, reached what: [seconds, nats a row] by pass."""
    fitted = fit(rows_of(data_set, seed), **defaults(data_set, seed), tol=1e-5)
    return {**summary(fitted), "path": [[point.seconds, point.best] for point in fitted.path]}


def speed_sklearn(data_set: DataSet, seed: int) -> Record:
    """Return what scikit-learn at its defaults took and reached."""
    X = rows_of(data_set, seed)
    model, seconds = sklearn_fit(data_set, X, seed)
    return {"final": float(model.score(X)), "seconds": seconds, "n_iter": int(model.n_iter_)}


def speed_onedal(data_set: DataSet, seed: int) -> Record:
    """Return what oneDAL from scikit-learn's k-means start, at scikit-learn's tolerance, took and reached."""
    return onedal_fit(data_set, rows_of(data_set, seed), seed, tol=1e-3, max_iter=100)


# D: reading.
def restarts(data_set: DataSet, seed: int) -> Record:
    """Return bytes and seconds of one restart and of ten, on a Zarr array of which nothing is kept in memory."""
    with tempfile.TemporaryDirectory() as folder:
        stored = write_zarr(rows_of(data_set, seed), Path(folder))
        options = {**defaults(data_set, seed), "cache": False}
        fit(stored, **options, n_init=1, max_iter=1)  # compiles, and warms the system's cache
        return {"one": summary(fit(stored, **options, n_init=1)), "ten": summary(fit(stored, **options, n_init=10))}


def select(data_set: DataSet, seed: int) -> Record:
    """Return bytes and seconds of the choice among 1 to 20 components, and of the fit of 20."""
    try:
        from daskgmm import select as choose
    except ImportError as error:
        return {"missing": str(error)}
    with tempfile.TemporaryDirectory() as folder:
        stored = write_zarr(rows_of(data_set, seed), Path(folder))
        options = {"covariance_type": data_set.kind, "cache": False, "random_state": seed}
        began = perf_counter()
        chosen = choose(stored, n_components=range(1, 21), criterion="bic", **options)
        seconds = perf_counter() - began
        single = fit(stored, **options, n_components=20)
    return {
        "bytes_read": int(chosen.bytes_read),
        "seconds": seconds,
        "single": summary(single),
        "n_components_true": data_set.n_components,
    }


def write_zarr(X: Any, folder: Path) -> Any:
    """Return the rows as a float32 Zarr array on disk."""
    import zarr

    array = zarr.create_array(folder / "X.zarr", shape=X.shape, dtype="f4", chunks=(1 << 16, X.shape[1]))
    array[:] = X.astype(np.float32)
    return array


# E: escape moves against more restarts.
def escape(data_set: DataSet, seed: int) -> Record:
    """Return what escape moves reach, and what restarts without them reach for as many row visits or more."""
    X = rows_of(data_set, seed)
    options = defaults(data_set, seed)
    moves = fit(X, **options, escape=True)
    n_init = 10
    for _ in range(4):
        more = fit(X, **options, escape=False, n_init=n_init)
        if more.visits >= 0.98 * moves.visits or n_init >= 100:
            break
        n_init = min(100, max(n_init + 1, math.ceil(n_init * moves.visits / more.visits)))
    return {"escape": summary(moves), "restarts": summary(more), "n_init": n_init}


# G: k-means||.
def far(data_set: DataSet, seed: int) -> Record:
    """Return what the default start reaches where the sample misses components, and what k-means|| does."""
    X = rows_of(data_set, seed)
    usual = fit(X, **defaults(data_set, seed))
    try:
        parallel = fit(X, **defaults(data_set, seed), init_params="k-means||")
    except ValueError as error:
        return {"usual": summary(usual), "missing": str(error)}
    return {"usual": summary(usual), "parallel": summary(parallel)}


PARTS: dict[str, Measure] = {
    "paths": paths,
    "acceleration": acceleration,
    "quality": quality,
    "quality-sklearn": quality_sklearn,
    "speed": speed,
    "speed-sklearn": speed_sklearn,
    "speed-onedal": speed_onedal,
    "restarts": restarts,
    "select": select,
    "escape": escape,
    "far": far,
    "kept": kept,
    "kept-again": kept_again,
    "kept-sklearn": kept_sklearn,
}
