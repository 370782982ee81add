"""Where the time of an iteration goes: the matrix products, Phi, the softmax, and what a machine must charge.

`python parts.py [CASES]`, D,E,G by default: float64, components by Phi, the package's compiled kernel on all cores at
once, without the iteration's other work (cutting rows into blocks, adding states, the M-step).

    whole     the E-step of a block
    products  its two matrix products alone, on Phi made before
    Phi       making Phi, once or (from 65 features on) twice
    softmax   exponentials, sums, divisions
    rest      adding sums to sums
    gemm      4 · components · features of Phi operations a row, at the rate of one large matrix product on all cores

all in seconds an iteration of the case; `of gemm` is gemm / products.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import scipy.linalg  # noqa: F401  (its own OpenBLAS must be there when the limit is set)
from cases import CASES, Case, synthetic
from contenders import n_cores
from limits import matrix_product
from threadpoolctl import threadpool_limits

from daskgmm.kernels import compiled
from daskgmm.kernels.block import Block, Workspace, block_length, tile_length
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.phi import LONGEST_WHOLE_PHI, PANEL
from daskgmm.kernels.plan import Plan, fill_phi, make_plan
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters

NO_WEIGHTS = np.empty(0)


class Thread:
    """What one thread works on: a block of rows, and buffers of its own."""

    def __init__(self, plan: Plan, block: Block) -> None:
        n_features, length = len(block.x), tile_length(len(block.x))
        n_phi, n_components = plan.transposed_parameters.shape
        work = Workspace()
        self.step, self.plan, self.block = EStep([replace(plan, compiled=True)]), plan, block
        self.state = self.step.zero()
        self.tile = np.ascontiguousarray(block.x[:, :length])
        n_panel = n_phi if n_phi <= LONGEST_WHOLE_PHI else PANEL
        self.panels = [slice(low, low + n_panel) for low in range(0, n_phi, n_panel)]
        self.whole_phi = np.empty((n_phi, length))
        fill_phi(plan.shape, self.tile, plan.origin, self.whole_phi)
        self.arguments: tuple[Any, ...] = (
            plan.transposed_parameters, work.get("shifted", (n_features, length)), work.get("phi", (n_panel, length)),
            work.get("part", (n_components * max(n_panel, length),)), work.get("density", (n_components, length)),
        )  # fmt: skip
        self.density = work.get("density", (n_components, length))
        self.resp = np.random.default_rng(0).dirichlet(np.ones(n_components), length).T.copy()
        self.softmaxed, self.log_likelihood = np.empty_like(self.resp), np.empty(length)
        self.scratch = np.empty((2, length))
        self.sums = [np.empty((n_components, len(self.whole_phi[panel]))) for panel in self.panels]

    def whole(self) -> None:
        self.step.update(self.state, self.block)

    def log_density(self) -> None:
        products = self.plan.shape.products(len(self.tile))
        for _ in range(self.n_tiles):
            compiled.log_density(self.tile, self.plan.origin, products, True, *self.arguments)

    def products(self) -> None:
        self.density_products()
        for _ in range(self.n_tiles):
            for panel, out in zip(self.panels, self.sums, strict=True):
                np.dot(self.resp, self.whole_phi[panel].T, out=out)

    def density_products(self) -> None:
        for _ in range(self.n_tiles):
            for panel in self.panels:
                np.dot(self.plan.transposed_parameters[panel].T, self.whole_phi[panel], out=self.density)

    def softmax(self) -> None:
        for _ in range(self.n_tiles):
            np.multiply(self.resp, -50.0, out=self.softmaxed)
            compiled.softmax(self.softmaxed, NO_WEIGHTS, self.log_likelihood, self.scratch, -100.0)

    @property
    def n_tiles(self) -> int:
        return -(-self.block.x.shape[1] // self.tile.shape[1])


def parts(case: Case, n_rounds: int = 15) -> dict[str, float]:
    """Return the seconds an iteration of the case that each part takes on all cores: medians of interleaved rounds."""
    n_threads, length = n_cores(), block_length(case.n_features)
    X, start = synthetic(replace(case, n_rows=n_threads * length))
    kind = family_called(case.kind)
    parameters = Parameters.from_covariances(kind, start["weights"], start["means"], start["covariances"])
    plan = make_plan(parameters, origin=X.mean(axis=0), kernel="phi")
    threads = [
        Thread(plan, Block(np.ascontiguousarray(rows.T), None, i * length))
        for i, rows in enumerate(np.split(X, n_threads))
    ]
    methods: list[Callable[[Thread], None]] = [
        Thread.whole, Thread.products, Thread.density_products, Thread.log_density, Thread.softmax
    ]  # fmt: skip
    took: dict[str, list[float]] = {method.__name__: [] for method in methods}
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads) as pool:
        for _ in range(n_rounds + 1):
            for method in methods:
                list(pool.map(_repeat, threads, [method] * n_threads))  # both cores are awake
                began = perf_counter()
                list(pool.map(_repeat, threads, [method] * n_threads))
                took[method.__name__].append((perf_counter() - began) / REPEATS)
    seconds = {name: median(values[1:]) * case.n_rows / (n_threads * length) for name, values in took.items()}
    n_phi = len(plan.transposed_parameters)
    fill = seconds["log_density"] - seconds["density_products"]
    fill *= 2 if n_phi > LONGEST_WHOLE_PHI else 1
    rest = seconds["whole"] - seconds["products"] - fill - seconds["softmax"]
    flops = 4 * case.n_rows * case.n_components * n_phi
    return {
        "whole": seconds["whole"], "products": seconds["products"], "Phi": fill, "softmax": seconds["softmax"],
        "rest": rest, "gemm": flops / matrix_product("float64", n_threads, 3000) / 1e9,
    }  # fmt: skip


REPEATS = 3


def _repeat(thread: Thread, method: Callable[[Thread], None]) -> None:
    for _ in range(REPEATS):
        method(thread)


def main() -> None:
    names = (sys.argv[1] if len(sys.argv) > 1 else "D,E,G").split(",")
    print("case  whole = products +   Phi + softmax + rest     gemm  of gemm")
    for name in names:
        p = parts(CASES[name])
        print(
            f"{name:5} {p['whole']:5.3f} {p['products']:10.3f} {p['Phi']:7.3f} {p['softmax']:9.3f} {p['rest']:6.3f}"
            f" {p['gemm']:8.3f} {p['gemm'] / p['products']:8.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
