"""A pass over rows with measurement errors beside a plain one: standard deviations a row, and covariances a row.

`python errors.py` prints JSON, `python errors.py FILE` writes it. One thread; seconds of the processor, medians of
rounds in which all of them take turns, on the same rows and the same mixture, with compiled loops and without.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from time import thread_time
from typing import Any

import numpy as np
from machine import machine
from threadpoolctl import threadpool_limits

from daskgmm.kernels.block import Block, block_length
from daskgmm.kernels.errors import ERRORS, Noisy
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.plan import make_plan
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters

#: Features and components; rounds.
CASES, ROUNDS = ((2, 8), (7, 64)), 7


def passes(d: int, k: int, *, compiled: bool) -> dict[str, float]:
    """Return nanoseconds a row and component of each kind of pass."""
    random = np.random.default_rng(0)
    half, n = random.normal(size=(k, d, d)), 2 * block_length(d)
    covariances = half @ half.swapaxes(1, 2) / d + 0.3 * np.eye(d)
    means, label = 3 * random.normal(size=(k, d)), random.integers(k, size=n)
    X = means[label] + np.einsum("nij,nj->ni", np.linalg.cholesky(covariances)[label], random.normal(size=(n, d)))
    errors = random.uniform(0.1, 1.0, size=X.shape)
    X += errors * random.normal(size=X.shape)
    matrices = np.einsum("nd,de->nde", errors**2, np.eye(d)).reshape(n, -1)
    p = Parameters.from_covariances(family_called("full"), np.full(k, 1 / k), means, covariances)
    kinds: dict[str, tuple[Any, Any]] = {
        "plain": ("rule", None),
        "deviations": (Noisy(), errors),
        "covariances": (Noisy(), matrices),
    }
    took: dict[str, list[float]] = {name: [] for name in kinds}
    work = {name: EStep([make_plan(p, origin=means.mean(axis=0), kernel=kernel, compiled=compiled)])
            for name, (kernel, _) in kinds.items()}  # fmt: skip
    for _ in range(ROUNDS + 1):
        for name, (_, column) in kinds.items():
            state, began = work[name].zero(), thread_time()
            for low in range(0, n, block_length(d)):
                part = slice(low, low + block_length(d))
                columns = {} if column is None else {ERRORS: np.ascontiguousarray(column[part].T)}
                state = work[name].update(state, Block(np.ascontiguousarray(X[part].T), None, low, columns=columns))
            took[name].append(thread_time() - began)
    return {name: 1e9 * median(seconds[1:]) / n / k for name, seconds in took.items()}


def main(place: str | None = None) -> None:
    found: list[dict[str, Any]] = []
    with threadpool_limits(1):
        for d, k in CASES:
            for compiled in (True, False):
                took = passes(d, k, compiled=compiled)
                ratios = {name: value / took["plain"] for name, value in took.items() if name != "plain"}
                case = {"n_features": d, "n_components": k, "compiled": compiled}
                found.append({**case, "ns_a_row_and_component": took, "times_a_plain_pass": ratios})
    text = json.dumps({"machine": machine(), "passes": found}, indent=1)
    if place is None:
        print(text)
    else:
        Path(place).write_text(text + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
