"""All of mclust's fourteen families, with one to nine components, in shared passes; and some of them alone.

`python families.py [ROWS] [--alone KIND:K,...]` prints JSON: the table, passes and seconds of one `select` over rows of
five features, and for each model that is asked for (by default all) whether a fit of it alone has the same bits, its
passes and its seconds. `--output FILE` writes it. (A model that ends below a smaller one of its family is searched
again by the selection: its bits differ, and its log-likelihood is higher.)
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from machine import machine

from daskgmm import GaussianMixture, select
from daskgmm.mixture.family import GROUPS

N_FEATURES, NUMBERS = 5, range(1, 10)
HOW: dict[str, Any] = {"random_state": 0, "n_init": 2}


def rows_of(n_rows: int) -> np.ndarray[Any, Any]:
    """Return rows of four groups of one shape and two orientations, (n_rows, 5), float64: what VEV describes."""
    random = np.random.default_rng(20261128)
    deviations = np.array([3.0, 2.0, 1.0, 1.0, 0.5])
    axes = [np.linalg.qr(random.standard_normal((N_FEATURES, N_FEATURES)))[0] for _ in range(4)]
    means, volumes = 5 * random.standard_normal((4, N_FEATURES)), np.array([0.5, 1.0, 1.0, 2.0])
    labels = random.integers(4, size=n_rows)
    X = random.standard_normal((n_rows, N_FEATURES)) * deviations * volumes[labels, np.newaxis]
    for k in range(4):
        X[labels == k] = means[k] + X[labels == k] @ axes[k].T
    return X


def measured(n_rows: int, alone: list[tuple[str, int]]) -> dict[str, Any]:
    """Return what a selection took and found, and how fits alone compare."""
    X = rows_of(n_rows)
    began, cpu = perf_counter(), process_time()
    found = select(X, covariance_type="mclust", n_components=NUMBERS, stop_early=False, **HOW)
    seconds, cpu_seconds = perf_counter() - began, process_time() - cpu
    models = {(e.covariance_type, e.n_components): e for e in found.estimators}
    checked = []
    for kind, k in alone:
        began = perf_counter()
        one = GaussianMixture(k, covariance_type=kind, **HOW).fit(X)
        bounds = models[kind, k].lower_bounds_[: one.n_iter_]
        checked.append({
            "covariance_type": kind, "n_components": k, "same_bits": bounds == one.lower_bounds_,
            "log_likelihood": one.log_likelihood_,
            "n_passes": one.n_passes_, "seconds": round(perf_counter() - began, 2),
        })  # fmt: skip
    columns = ("n_components", "covariance_type", "n_free", "log_likelihood", "bic", "converged", "chosen", "below")
    return {
        "rows": n_rows, "features": N_FEATURES, "models": len(found.table), "n_passes": found.n_passes,
        "seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1), "alone": checked,
        "machine": machine(),
        "table": [{name: row[name] for name in columns} for row in found.table],
    }  # fmt: skip


def _lines(value: Any) -> str:
    """Return JSON with an item of a list a line."""
    if isinstance(value, list):
        return "[\n " + ",\n ".join(json.dumps(item) for item in value) + "\n]"
    return json.dumps(value)


def main() -> None:
    """Print the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="?", type=int, default=1_000_000)
    every = ",".join(f"{kind}:{k}" for kind in GROUPS["mclust"] for k in NUMBERS)
    parser.add_argument("--alone", default=every)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    asked = [(kind, int(k)) for kind, k in (each.split(":") for each in given.alone.split(",") if each)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = measured(given.rows, asked)
    lines = [f"{json.dumps(name)}: {_lines(value)}" for name, value in found.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    sys.stdout.write(text)
    if given.output is not None:
        given.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
