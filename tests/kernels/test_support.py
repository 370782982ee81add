"""What a component is worth, against leaving it out for real; what tells spikes and a large reg_covar."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from daskgmm.kernels.loops import can_compile
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.score import ScorePass, SupportPass
from daskgmm.kernels.support import Support, price, support_of, thin_gain, unsupported
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from tests import oracle
from tests.kernels.driving import KERNELS, KINDS, blocks_of, oracle_of, parameters_of
from tests.strategies import make_case

COMPILED = [False, pytest.param(True, marks=pytest.mark.skipif(not can_compile(), reason="numba is not installed"))]
compiled_or_not = pytest.mark.parametrize("compiled", COMPILED)


def passed(
    X: Any, p: Parameters, weights: Any = None, cuts: Any = None, *, compiled: bool = False, kernel: Any = "rule"
) -> Any:
    work = SupportPass([make_plan(p, origin=np.asarray(X).mean(axis=0), compiled=compiled, kernel=kernel)])
    state = work.zero()
    for block in blocks_of(np.asarray(X, dtype=float), weights, cuts):
        state = work.update(state, block)
    return work.finish(state)[0]


def support(X: Any, p: Parameters, weights: Any = None, cuts: Any = None, **how: Any) -> Support:
    n_rows = len(X) if weights is None else int((np.asarray(weights) > 0).sum())
    return support_of(passed(X, p, weights, cuts, **how), p, n_rows=n_rows)


def expected(X: Any, p: Parameters, weights: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Leave each component out for real: the log-likelihood less that of the mixture of the others, long doubles."""
    X = np.asarray(X, dtype=float)
    w = np.ones(len(X)) if weights is None else np.asarray(weights, dtype=float)
    terms = oracle.log_densities(X, oracle_of(p))  # of weight times density

    def log_sum(columns: Any) -> Any:
        highest = columns.max(axis=1)
        return highest + np.log(np.exp(columns - highest[:, np.newaxis]).sum(axis=1))

    whole, nats, counts = log_sum(terms), [], []
    for k in range(p.n_components):
        without = log_sum(np.delete(terms, k, axis=1)) - np.log1p(-np.longdouble(p.weights[k]))
        nats.append(float((w * (whole - without)).sum()))
        counts.append(float((w * np.exp(terms[:, k] - whole)).sum() * (w > 0).sum() / w.sum()))
    return np.array(nats), np.array(counts)


def mixture(means: Any, variance: float = 1.0, weights: Any = None, kind: str = "full") -> Parameters:
    means = np.asarray(means, dtype=float)
    k, d = means.shape
    one = {"full": np.stack([np.eye(d)] * k), "tied": np.eye(d), "diag": np.ones((k, d)), "spherical": np.ones(k)}[kind]
    w = np.full(k, 1 / k) if weights is None else np.asarray(weights, dtype=float)
    return Parameters.from_covariances(family_called(kind), w, means, variance * one)


# -- the oracle ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("weighted", [False, True])
@compiled_or_not
def test_support_is_what_leaving_the_component_out_costs(
    kind: str, kernel: str, weighted: bool, compiled: bool
) -> None:
    case = make_case(kind, seed=2, n_rows=150, n_components=4, n_features=3, separation=0.7)
    weights = np.random.default_rng(1).uniform(0, 3, 150) if weighted else None
    p = parameters_of(case)
    found = support(case.X, p, weights, [0, 1, 70, 150], compiled=compiled, kernel=kernel)
    nats, counts = expected(case.X, p, weights)
    assert nats.max() > 5, "else little is lost without any of them, and this tests little"
    assert_allclose(found.nats, nats, rtol=1e-10, atol=1e-9)
    assert_allclose(found.counts, counts, rtol=1e-11)
    assert found.counts.sum() == pytest.approx(150, rel=1e-12)


@compiled_or_not
@pytest.mark.parametrize("weighted", [False, True])
def test_where_1_less_a_responsibility_is_0(weighted: bool, compiled: bool) -> None:
    """Groups 1e3 deviations apart: 1 - r is exp(-5e5), and what the rows of a group lose is that exponent each."""
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [1e3, 0.0], [0.0, 3e3]])
    X = centres[np.arange(60) % 3] + rng.standard_normal((60, 2))
    weights, p = rng.uniform(0, 2, 60) if weighted else None, mixture(centres)
    nats, _ = expected(X, p, weights)
    assert nats.min() > 5e6
    assert_allclose(support(X, p, weights, compiled=compiled).nats, nats, rtol=1e-10)


@compiled_or_not
def test_a_far_outlier_belongs_to_the_nearest_and_a_tie_to_both(compiled: bool) -> None:
    p = mixture([[0.0], [2.0]])
    for X in ([[1e6]], [[-1e6], [0.3]], [[1.0]]):
        found, (nats, counts) = support(X, p, compiled=compiled), expected(X, p)
        assert_allclose(found.nats, nats, rtol=1e-9, atol=1e-7)  # (5e11 nats in long doubles)
        assert_allclose(found.counts, counts, rtol=1e-9, atol=1e-30)


@compiled_or_not
def test_many_others_may_be_more_than_the_largest(compiled: bool) -> None:
    p = mixture(np.linspace(-0.1, 0.1, 40)[:, np.newaxis])
    X = np.random.default_rng(0).standard_normal((700, 1))
    found, (nats, counts) = support(X, p, compiled=compiled), expected(X, p)
    assert_allclose(found.nats, nats, atol=1e-9)
    assert_allclose(found.counts, counts, rtol=1e-11)
    assert passed(X, p, compiled=compiled).log_sum == pytest.approx(
        float(oracle.log_likelihood(X, oracle_of(p))), rel=1e-12
    )


@compiled_or_not
@pytest.mark.parametrize("kind", KINDS)
def test_the_score_beside_is_that_of_a_pass_that_only_scores(kind: str, compiled: bool) -> None:
    case = make_case(kind, seed=3, n_rows=2500, n_components=3, n_features=2, separation=1.0)
    w = np.random.default_rng(1).integers(0, 3, 2500).astype(float)
    plan = make_plan(parameters_of(case), origin=case.X.mean(axis=0), compiled=compiled)
    scores = []
    for make in (ScorePass, SupportPass):
        work = make([plan])
        state = work.zero()
        for block in blocks_of(case.X, w):
            state = work.update(state, block)
        scores.append(work.finish(state)[0])
    plain, found = scores
    assert found.log_sum == pytest.approx(plain.log_sum, rel=1e-13)
    assert found.log_largest == pytest.approx(plain.log_largest, rel=1e-11)
    assert (found.weight, found.n_rows) == (plain.weight, plain.n_rows)


# -- entropy -------------------------------------------------------------------------------------------------------
def entropy_of(X: Any, p: Parameters, weights: Any = None) -> float:
    """- sum w r log r, in long doubles, row by row, from the logarithms of r."""
    terms = oracle.log_densities(np.asarray(X, dtype=float), oracle_of(p))
    highest = terms.max(axis=1, keepdims=True)
    log_resp = terms - highest - np.log(np.exp(terms - highest).sum(axis=1, keepdims=True))
    # (The log of what is nearly 1 is that of 1 less the others.)
    top = terms == highest
    others = np.where(top, 0, np.exp(log_resp)).sum(axis=1, keepdims=True)
    log_resp = np.where(top & (top.sum(axis=1, keepdims=True) == 1), np.log1p(-others), log_resp)
    of_rows = -(np.exp(log_resp) * log_resp).sum(axis=1)
    return float((of_rows * (1 if weights is None else np.asarray(weights))).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("weighted", [False, True])
@compiled_or_not
def test_entropy_is_that_of_each_rows_responsibilities(kind: str, kernel: str, weighted: bool, compiled: bool) -> None:
    case = make_case(kind, seed=2, n_rows=1100, n_components=4, n_features=3, separation=0.7)
    weights = np.random.default_rng(1).integers(0, 3, 1100).astype(float) if weighted else None
    p = parameters_of(case)
    found = passed(case.X, p, weights, [0, 1, 700, 1100], compiled=compiled, kernel=kernel)
    assert found.entropy == pytest.approx(entropy_of(case.X, p, weights), rel=1e-11)
    assert found.entropy > 100


@compiled_or_not
@pytest.mark.parametrize("apart", [0.0, 1.0, 8.0, 20.0, 60.0, 1e4])
def test_entropy_keeps_its_digits_however_sure_the_rows_are(apart: float, compiled: bool) -> None:
    """As a difference of log-likelihoods it would be lost: 1e-30 nats beside 1e2."""
    p = mixture([[0.0], [apart], [apart + 0.5]], weights=[0.5, 0.3, 0.2])
    X = np.array([[0.0], [0.1], [-1.0]])
    right = entropy_of(X, p)
    assert passed(X, p, compiled=compiled).entropy == pytest.approx(right, rel=1e-12, abs=1e-43)
    assert (right > 1e-43) == (apart < 20)
    assert passed(X, mixture([[0.0]]), compiled=compiled).entropy == 0.0


# -- rows ----------------------------------------------------------------------------------------------------------
@compiled_or_not
def test_blocks_of_one_row_add_up(compiled: bool) -> None:
    case = make_case("full", seed=4, n_rows=40, n_components=3, n_features=2, separation=0.7)
    p, w = parameters_of(case), np.random.default_rng(2).uniform(0, 2, 40)
    work = SupportPass([make_plan(p, origin=case.X.mean(axis=0), compiled=compiled)])
    parts = [work.finish(work.update(work.zero(), b)) for b in blocks_of(case.X, w, [0, 1, 2, 39, 40])]
    merged = work.zero()
    for part in parts:
        merged = work.merge(merged, part)
    whole = passed(case.X, p, w, compiled=compiled)
    assert_allclose(merged[0].values, whole.values, rtol=1e-12)
    assert_allclose(passed(case.X, p, w, list(range(41)), compiled=compiled).values, whole.values, rtol=1e-12)


@compiled_or_not
@pytest.mark.parametrize("kind", KINDS)
def test_whole_weights_are_repetition(kind: str, compiled: bool) -> None:
    case = make_case(kind, seed=2, n_rows=200, n_components=3, n_features=2, separation=1.0)
    w, p = np.random.default_rng(1).integers(0, 4, 200), parameters_of(case)
    weighted = support(case.X, p, w, compiled=compiled)
    repeated = support(np.repeat(case.X, w, axis=0), p, compiled=compiled)
    assert_allclose(weighted.nats, repeated.nats, rtol=1e-10)
    assert_allclose(weighted.counts * w.sum() / (w > 0).sum(), repeated.counts, rtol=1e-10)


@compiled_or_not
@pytest.mark.parametrize("kernel", ["phi", "exact"])
def test_rows_of_weight_zero_may_be_anywhere(kernel: str, compiled: bool) -> None:
    """At 1e160 squares overflow, and the log-density of every component is minus infinity or no number."""
    case = make_case("full", seed=2, n_rows=100, n_components=3, n_features=2)
    rows, w = np.concatenate([case.X, [[1e160, -1e160], [-1e160, 0.0]]]), np.append(np.ones(100), [0, 0])
    work = SupportPass([make_plan(parameters_of(case), origin=np.zeros(2), kernel=kernel, compiled=compiled)])
    with np.errstate(over="ignore", invalid="ignore"):
        state = work.update(work.zero(), blocks_of(rows, w)[0])
        right = work.update(work.zero(), blocks_of(case.X, np.ones(100))[0])
    assert np.isfinite(state[0].values).all()
    assert_allclose(state[0].values[:-1], right[0].values[:-1], rtol=1e-12)


# -- components without others, or without weight ------------------------------------------------------------------
@compiled_or_not
@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 0.0, 2.0]])
def test_one_component_alone_has_infinite_support(weights: Any, compiled: bool) -> None:
    p, X = mixture([[0.0]]), [[0.0], [1.0], [50.0], [-1.0]]
    found = support(X, p, weights, [0, 2, 4], compiled=compiled)
    assert found.nats.tolist() == [np.inf]
    assert_allclose(found.counts, [4.0 if weights is None else 3.0], rtol=1e-14)
    assert not unsupported(p, found, floor=1e-6, n_rows=4).any()


@compiled_or_not
@pytest.mark.parametrize("weighted", [False, True])
def test_a_component_without_weight_is_worth_nothing_and_leaves_the_other_alone(weighted: bool, compiled: bool) -> None:
    X = np.random.default_rng(0).standard_normal((3000, 1))
    w = np.ones(3000) if weighted else None
    p = mixture([[0.0], [3.0]], weights=[1.0, 0.0])
    found = support(X, p, w, [0, 1000, 3000], compiled=compiled)
    assert found.nats.tolist() == [np.inf, 0.0]
    assert_allclose(found.counts, [3000.0, 0.0], rtol=1e-14)
    assert unsupported(p, found, floor=1e-6, n_rows=3000).tolist() == [False, True]
    three = mixture([[0.0], [3.0], [1.0]], weights=[0.5, 0.0, 0.5])
    (a, b, c), alone = support(X, three, w, compiled=compiled).nats, mixture([[0.0], [1.0]])
    assert_allclose([a, c], expected(X, alone)[0], rtol=1e-10)
    assert b == 0


# -- spikes --------------------------------------------------------------------------------------------------------
def test_a_component_must_be_worth_its_numbers_and_have_rows() -> None:
    p = mixture(np.zeros((4, 2)))
    cost = price(p, 1000)
    assert cost == pytest.approx(0.5 * 6 * np.log(1000), rel=1e-14)
    found = Support(np.array([cost * 1.01, cost * 0.99, 1e6, 1e6]), np.array([300.0, 695.0, 2.9, 3.1]))
    assert unsupported(p, found, floor=1e-6, n_rows=1000).tolist() == [False, True, True, False]
    # Of a sample, what a tenth of all rows lose stands for ten times as much.
    tenth = Support(found.nats / 10, found.counts / 10)
    assert unsupported(p, tenth, floor=1e-6, n_rows=1000).tolist()[:2] == [False, True]


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_a_point_mass_is_told_by_what_reg_covar_gives_it(kind: str) -> None:
    reg_covar = 1e-6
    p = mixture(np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]), 1.0, [0.9, 0.1], kind)
    covariances = p.covariances.copy()
    covariances[1] *= 1.001 * reg_covar
    p = Parameters.from_covariances(p.family, p.weights, p.means, covariances)
    gain = thin_gain(p, reg_covar)
    whole = np.full(3, 0.9 + 0.1 * 1.001e-6) + np.array([0.9 * 0.1 * 0.25, 0, 0])
    assert gain[0] == 0
    assert gain[1] == pytest.approx(0.5 * np.log(whole / 1.001e-6).sum(), rel=1e-9)
    own = Support(np.array([1e4, 300 * gain[1] + 0.5 * price(p, 3000)]), np.array([2700.0, 300.0]))
    assert unsupported(p, own, floor=reg_covar, n_rows=3000).tolist() == [False, True]
    more = Support(own.nats + price(p, 3000), own.counts)
    assert not unsupported(p, more, floor=reg_covar, n_rows=3000).any()


# -- reg_covar against the rows ------------------------------------------------------------------------------------
def least(kind: str, covariances: Any, means: Any, reg_covar: float = 1e-6) -> np.ndarray:
    means = np.asarray(means, dtype=float)
    return family_called(kind).shape.least_variances(
        np.asarray(covariances), np.full(len(means), 1 / len(means)), means, reg_covar
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_variance_is_without_reg_covar(kind: str) -> None:
    own, reg = np.array([1e-10, 4.0]), 1e-6
    each = {
        "full": np.stack([np.diag(own + reg)] * 2), "tied": np.diag(own + reg), "diag": np.stack([own + reg] * 2),
        "spherical": np.full(2, 1e-10 + reg),
    }[kind]  # fmt: skip
    assert_allclose(least(kind, each, [[0.0, 0.0], [0.0, 1.0]]), 1e-10, rtol=1e-4)


@pytest.mark.parametrize("kind", ["full", "tied"])
@pytest.mark.parametrize("scales", [[1.0, 1.0, 1.0], [1e4, 1.0, 1e-3]])
@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_directions_that_nothing_varies_in_do_not_count(kind: str, scales: Any, noise: float) -> None:
    """A constant feature, and one that is the sum of two others, but for the rounding of float32."""
    rng, reg = np.random.default_rng(0), 1e-6
    free = rng.standard_normal((2000, 3)) * scales
    last = (free[:, 0] + free[:, 1]) * (1 + noise * rng.standard_normal(2000))
    X = np.column_stack([free, last, np.full(2000, 7.0)])
    covariance = np.cov(X.T) + reg * np.eye(5)
    means = X[:2] * 0.1
    means[:, 4] = 7.0
    means[:, 3] = means[:, 0] + means[:, 1]
    found = least(kind, covariance if kind == "tied" else np.stack([covariance] * 2), means)
    # (The least variance of the plane of the first, second and fourth is above that of the second.)
    assert_allclose(found, min(scales) ** 2, rtol=0.5)
    assert np.isinf(
        least(kind, reg * (np.eye(5) if kind == "tied" else np.stack([np.eye(5)] * 2)), [[3.0] * 5] * 2)
    ).all()


def test_features_of_any_size_and_place_that_do_not_vary_do_not_count() -> None:
    covariances = np.array([[1.0 + 1e-6, 1e-6], [2.0 + 1e-6, 1e-6]])
    assert_allclose(least("diag", covariances, [[0.0, 1e8], [1.0, 1e8]]), [1.0, 2.0], rtol=1e-9)
    assert np.isinf(least("diag", np.full((2, 1), 1e-6), [[5.0], [5.0]])).all()


def test_what_rounding_hides_is_not_told() -> None:
    big = np.stack([np.diag([1e14, 1.0])] * 2)
    assert np.isinf(least("full", big, [[0.0, 0.0], [1.0, 1.0]])).all()
