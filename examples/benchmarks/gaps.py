"""What missing values cost: a pass over rows with gaps beside one over the same rows without any, in one run.

`python gaps.py [--features 64] [--components 50] [--rounds 9]` prints JSON. Both passes are those of the kernel alone,
on one core, over the rows of a block; times are CPU times of this thread, medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
from statistics import median
from time import thread_time
from typing import Any

import numpy as np
from machine import machine
from threadpoolctl import threadpool_limits

from daskgmm.kernels.block import Block, block_length
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.loops import can_compile
from daskgmm.kernels.plan import make_plan
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters

#: Part of the values that are missing, and part of the rows that lack any.
CASES = {"5% of all values": (0.05, 1.0), "5% of the values of 1 row in 20": (0.05, 0.05)}


def mixture(n_features: int, n_components: int, random: np.random.Generator) -> tuple[Parameters, np.ndarray]:
    """Return a mixture of groups that touch, and rows of it, (n_rows, n_features)."""
    a = random.standard_normal((n_components, n_features, 2 * n_features))
    covariances = a @ a.swapaxes(1, 2) / (2 * n_features)
    means = random.standard_normal((n_components, n_features))
    weights = np.full(n_components, 1 / n_components)
    k = random.integers(n_components, size=block_length(n_features))
    noise = random.standard_normal((len(k), n_features))
    rows = means[k] + np.einsum("nij,nj->ni", np.linalg.cholesky(covariances)[k], noise)
    return Parameters.from_covariances(family_called("full"), weights, means, covariances), rows


def seconds(work: EStep, x: np.ndarray, gaps: np.ndarray | None) -> float:
    """Return the CPU time of a pass over rows as blocks."""
    state, total, length = work.zero(), 0.0, block_length(len(x))
    for low in range(0, x.shape[1], length):
        own = slice(low, low + length)
        block = Block(np.ascontiguousarray(x[:, own]), None, low, gaps=None if gaps is None else gaps[:, own])
        began = thread_time()
        state = work.update(state, block)
        total += thread_time() - began
    return total


def ratios(n_features: int, n_components: int, n_rounds: int, *, compiled: bool) -> dict[str, Any]:
    """Return nanoseconds a row and component without gaps, and how many times as long each case takes."""
    random = np.random.default_rng(0)
    p, rows = mixture(n_features, n_components, random)
    x = np.ascontiguousarray(rows.T)
    masks: dict[str, Any] = {"": None}
    for name, (share, of_rows) in CASES.items():
        masks[name] = (random.random(x.shape) < share) & (random.random(x.shape[1]) < of_rows)
    passes = {
        name: EStep([make_plan(p, origin=rows.mean(axis=0), compiled=compiled, gaps=mask is not None)])
        for name, mask in masks.items()
    }
    took: dict[str, list[float]] = {name: [] for name in masks}
    for i in range(n_rounds + 1):
        for name, mask in masks.items():
            found = seconds(passes[name], x, mask)
            if i:
                took[name].append(found)
    plain = median(took.pop(""))
    unit = 1e9 / (x.shape[1] * n_components)
    return {"plain_ns": plain * unit, **{name: median(each) / plain for name, each in took.items()}}


def main() -> None:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--components", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    with threadpool_limits(1):
        found = {
            "compiled" if compiled else "numpy": ratios(
                asked.features, asked.components, asked.rounds, compiled=compiled
            )
            for compiled in ([True, False] if can_compile() else [False])
        }
    print(json.dumps({"machine": machine(), **vars(asked), **found}, indent=1))


if __name__ == "__main__":
    main()
