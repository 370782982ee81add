"""The pass that only scores: log-likelihood and surest responsibilities, against the oracle; what ICL makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from daskgmm.kernels.loops import can_compile
from daskgmm.kernels.plan import Plan, make_plan
from daskgmm.kernels.score import ScorePass
from daskgmm.kernels.statistics import Statistics
from daskgmm.mixture.criteria import bic, icl
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from tests import oracle
from tests.kernels.driving import KERNELS, KINDS, blocks_of, oracle_of, parameters_of
from tests.strategies import make_case

COMPILED = [False, pytest.param(True, marks=pytest.mark.skipif(not can_compile(), reason="numba is not installed"))]


def score(
    X: np.ndarray, plans: list[Plan], weights: np.ndarray | None = None, cuts: list[int] | None = None
) -> list[Statistics]:
    work = ScorePass(plans)
    state = work.zero()
    for block in blocks_of(X, weights, cuts):
        state = work.update(state, block)
    return work.finish(state)


def expected(X: np.ndarray, parameters: Parameters, weights: np.ndarray) -> tuple[float, float]:
    """Return the log-likelihood and the sum of the log largest responsibilities, by the oracle."""
    mixture = oracle_of(parameters)
    largest = np.log(oracle.responsibilities(X, mixture).max(axis=1))
    return float(oracle.log_likelihood(X, mixture, weights)), float((largest * weights).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_score_equals_the_oracle(kind: str, kernel: str, compiled: bool, weighted: bool) -> None:
    case = make_case(kind, seed=2, n_rows=150, n_components=3, n_features=4, separation=0.7)
    weights = np.random.default_rng(1).uniform(0, 3, 150) if weighted else None
    parameters = parameters_of(case)
    plan = make_plan(parameters, origin=case.X.mean(axis=0) + 1, kernel=kernel, compiled=compiled)
    (found,) = score(case.X, [plan], weights, [0, 1, 70, 150])
    total, largest = expected(case.X, parameters, np.ones(150) if weights is None else weights)
    assert largest < -5, "else responsibilities are all near 1, and this tests little"
    assert found.log_sum == pytest.approx(total, rel=1e-12)
    assert found.log_largest == pytest.approx(largest, rel=1e-11)
    assert found.weight == pytest.approx(150 if weights is None else weights.sum(), rel=1e-14)
    assert found.n_rows == 150


@pytest.mark.parametrize("kind", KINDS)
def test_whole_weights_are_repetition(kind: str) -> None:
    case = make_case(kind, seed=2, n_rows=200, n_components=3, n_features=2, separation=1.0)
    w = np.random.default_rng(1).integers(0, 4, 200)
    plan = make_plan(parameters_of(case), origin=case.X.mean(axis=0))
    (weighted,), (repeated,) = score(case.X, [plan], w), score(np.repeat(case.X, w, axis=0), [plan])
    assert_allclose(weighted.values[:3], repeated.values[:3], rtol=1e-12)
    assert (weighted.n_rows, repeated.n_rows) == (200, w.sum())


@pytest.mark.parametrize("kernel", ["phi", "exact"])
@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_weight_zero_may_be_anywhere(kind: str, kernel: str, compiled: bool) -> None:
    """At 1e160 squares overflow, and the log-density of every component is minus infinity or no number."""
    case = make_case(kind, seed=2, n_rows=100, n_components=3, n_features=2)
    plan = make_plan(parameters_of(case), origin=np.zeros(2), kernel=kernel, compiled=compiled)
    rows, w = np.concatenate([case.X, [[1e160, -1e160], [-1e160, 0.0]]]), np.append(np.ones(100), [0, 0])
    with np.errstate(over="ignore", invalid="ignore"):
        (found,), (right,) = score(rows, [plan], w), score(case.X, [plan])
    assert_allclose(found.values[:3], right.values[:3], rtol=1e-12)
    assert found.n_rows == 102


@pytest.mark.skipif(not can_compile(), reason="numba is not installed")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_features", [1, 7, 40])
def test_the_compiled_kernel_scores_as_numpy_does(kind: str, n_features: int) -> None:
    case = make_case(kind, seed=5, n_rows=333, n_components=4, n_features=n_features, separation=0.5)
    plans = [make_plan(parameters_of(case), origin=case.X.mean(axis=0), compiled=c) for c in (True, False)]
    compiled, plain = score(case.X, plans)
    assert_allclose(compiled.values, plain.values, rtol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiled", COMPILED)
def test_the_score_of_a_mixture_does_not_depend_on_its_company(kind: str, compiled: bool) -> None:
    cases = [make_case(k, seed=i, n_rows=300, n_components=2 + i, n_features=3) for i, k in enumerate((kind, *KINDS))]
    X = cases[0].X
    plans = [make_plan(parameters_of(c), origin=X.mean(axis=0), compiled=compiled) for c in cases]
    for order in (range(5), [4, 0, 0, 2, 1, 3]):
        together = score(X, [plans[i] for i in order], cuts=[0, 100, 300])
        for i, found in zip(order, together, strict=True):
            assert_array_equal(found.values, score(X, [plans[i]], cuts=[0, 100, 300])[0].values)


def test_scores_of_parts_add_up() -> None:
    case = make_case("full", seed=5, n_rows=400, n_components=3, n_features=2, separation=1.0)
    w = np.random.default_rng(0).uniform(0, 2, 400)
    plan = make_plan(parameters_of(case), origin=case.X.mean(axis=0))
    work = ScorePass([plan])
    parts = [work.finish(work.update(work.zero(), block)) for block in blocks_of(case.X, w, [0, 10, 250, 400])]
    (whole,) = score(case.X, [plan], w)
    left, right = work.merge(work.merge(parts[0], parts[1]), parts[2]), work.merge(parts[0], work.merge(*parts[1:]))
    for (found,) in left, right, work.merge(work.zero(), left), work.merge(right, work.zero()):
        assert_allclose(found.values, whole.values, rtol=1e-12)


# -- ICL -----------------------------------------------------------------------------------------------------------
def test_icl_is_bic_and_the_price_of_rows_that_could_belong_to_several_components() -> None:
    assert icl(-1000.0, 17, np.exp(3.0), -25.0) == pytest.approx(2101.0, rel=1e-14)
    assert icl(-1000.0, 17, 50.0, 0.0) == bic(-1000.0, 17, 50.0)


@pytest.mark.parametrize("kind", KINDS)
def test_icl_is_the_criterion_of_completed_rows(kind: str) -> None:
    """The log-likelihood with every row given to its likeliest component, in place of that of the mixture."""
    case = make_case(kind, seed=2, n_rows=150, n_components=3, n_features=2, separation=0.7)
    parameters = parameters_of(case)
    (found,) = score(case.X, [make_plan(parameters, origin=case.X.mean(axis=0))])
    completed = float(oracle.log_densities(case.X, oracle_of(parameters)).max(axis=1).sum())
    assert icl(found.log_sum, 9, 150, found.log_largest) == pytest.approx(-2 * completed + 9 * np.log(150), rel=1e-12)


def test_icl_sees_two_components_in_one_group_where_the_log_likelihood_does_not() -> None:
    X, kind = np.random.default_rng(0).standard_normal((500, 1)), family_called("spherical")
    one = Parameters.from_covariances(kind, np.ones(1), np.zeros((1, 1)), np.ones(1))
    two = Parameters.from_covariances(kind, np.full(2, 0.5), np.zeros((2, 1)), np.ones(2))
    a, b = score(X, [make_plan(p, origin=np.zeros(1)) for p in (one, two)])
    assert a.log_sum == pytest.approx(b.log_sum, rel=1e-12)
    assert a.log_largest == pytest.approx(0, abs=1e-12)
    assert b.log_largest == pytest.approx(500 * np.log(0.5), rel=1e-12)
