"""Drives the mathematics by hand: rows in, one pass over blocks, one M-step, without sources, partitions or a loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from daskgmm.kernels.block import Block
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.mstep import MStep, m_step
from daskgmm.kernels.plan import Plan, make_plan
from daskgmm.kernels.statistics import Statistics
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Ridge
from daskgmm.mixture.row_set import RowSet
from tests import oracle
from tests.strategies import Case

KINDS = ("full", "tied", "diag", "spherical")
KERNELS = ("phi", "exact", "rule")


def parameters_of(case: Case) -> Parameters:
    """Return the case's mixture."""
    return Parameters.from_covariances(family_called(case.kind), case.weights, case.means, case.covariances)


def oracle_of(parameters: Parameters, *, digits: str = "longdouble") -> oracle.Mixture:
    """Return the same mixture as the oracle's, its precision Cholesky factors taken as exact."""
    p = parameters
    return oracle.mixture(p.family.name, p.weights, p.means, p.precisions_cholesky, digits=digits)


def row_set_of(X: Any, row_weights: Any = None) -> RowSet:
    """Return weight, mean and scatter of the rows, exact for rows that are all equal."""
    w = np.ones(len(X)) if row_weights is None else np.asarray(row_weights, dtype=float)
    first = X[0]
    mean = first + (w @ (X - first)) / w.sum()
    y = X - mean
    return RowSet(len(X), float(w.sum()), mean, (w[:, np.newaxis] * y).T @ y)


def blocks_of(X: Any, row_weights: Any = None, cuts: Sequence[int] | None = None) -> list[Block]:
    """Return the rows as blocks, cut at the row numbers `cuts` (0 and len(X) included)."""
    cuts = [0, len(X)] if cuts is None else cuts
    w = None if row_weights is None else np.asarray(row_weights, dtype=float)
    return [
        Block(np.ascontiguousarray(X[a:b].T, dtype=float), None if w is None else w[a:b].copy(), a)
        for a, b in pairwise(cuts)
    ]


def one_pass(
    X: Any,
    plans: Sequence[Plan],
    row_weights: Any = None,
    cuts: Sequence[int] | None = None,
    *,
    compiled: bool = False,
) -> list[Statistics]:
    """Return the statistics of each plan over all rows."""
    estep = EStep([replace(plan, compiled=compiled) for plan in plans])
    state = estep.zero()
    for block in blocks_of(X, row_weights, cuts):
        state = estep.update(state, block)
    return estep.finish(state)


def step(
    X: Any,
    parameters: Parameters,
    *,
    kernel: Any = "rule",
    reg_covar: float = 0.0,
    row_weights: Any = None,
    cuts: Sequence[int] | None = None,
) -> MStep:
    """Return one EM step about the mean of the rows."""
    row_set = row_set_of(X, row_weights)
    plan = make_plan(parameters, origin=row_set.mean, kernel=kernel)
    (statistics,) = one_pass(X, [plan], row_weights, cuts)
    return m_step(statistics, plan, previous=parameters, prior=Ridge(reg_covar), row_set=row_set)


def dense_covariances(parameters: Parameters) -> Any:
    """Return the covariances as (n_components, n_features, n_features)."""
    p = parameters
    return oracle.dense(p.family.name, p.covariances, p.n_components, p.n_features)
