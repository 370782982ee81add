"""The E-step of rows with measurement errors, against loops with a matrix a row and component."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from daskgmm.errors import DataError
from daskgmm.kernels.block import Block
from daskgmm.kernels.errors import Noisy
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.loops import can_compile, error_loops
from daskgmm.kernels.mstep import MStep, m_step
from daskgmm.kernels.plan import make_plan
from daskgmm.mixture.common_errors import CommonErrors
from daskgmm.mixture.family import family_called
from daskgmm.mixture.moments import Moments
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Ridge, maximise
from tests import errors_oracle as oracle
from tests.reference_data import faithful

KINDS = ("full", "tied", "diag", "spherical")
COMPILED = [False, pytest.param(True, marks=pytest.mark.skipif(not can_compile(), reason="numba is missing"))]


def of_kind(kind: str, V: Any, weights: Any) -> Any:
    """Return matrices as covariances of a kind: the nearest, as an M-step takes them."""
    if kind == "full":
        return V
    if kind == "tied":
        return np.tensordot(weights, V, axes=1)
    variances = np.einsum("kii->ki", V)
    return variances if kind == "diag" else variances.mean(axis=1)


def problem(kind: str, d: int, k: int, *, n: int = 150, offset: float = 5.0) -> tuple[Parameters, Any, Any, Any]:
    """Return a mixture, rows, and its covariances as matrices, with numbers to draw errors from."""
    rng = np.random.default_rng(d)
    A = rng.normal(size=(k, d, d))
    V = A @ A.swapaxes(1, 2) + 0.3 * np.eye(d)
    if kind == "tied":
        V[:] = V[0]
    if kind == "diag":
        V = V * np.eye(d)
    if kind == "spherical":
        V = V[:, :1, :1] * np.eye(d)
    weights, means = rng.dirichlet(np.ones(k)), 2 * rng.normal(size=(k, d)) + offset
    p = Parameters.from_covariances(family_called(kind), weights, means, of_kind(kind, V, weights))
    return p, 2 * rng.normal(size=(n, d)) + offset, V, rng


def stepped(
    p: Parameters, X: Any, column: Any, weights: Any = None, *, compiled: bool, cuts: tuple[int, ...] = ()
) -> MStep:
    plan = make_plan(p, origin=X.mean(axis=0), kernel=Noisy(), compiled=compiled)
    e_step = EStep([plan])
    states = []
    for low, high in zip((0, *cuts), (*cuts, len(X)), strict=True):
        values = np.ascontiguousarray(column[low:high].T)
        beside = {"errors": values if len(values) > 1 else values[0]}
        own = None if weights is None else weights[low:high]
        block = Block(np.ascontiguousarray(X[low:high].T), own, low, columns=beside)
        states.append(e_step.finish(e_step.update(e_step.zero(), block)))
    found = states[0]
    for other in states[1:]:
        found = e_step.merge(found, other)
    return m_step(found[0], plan, previous=p, prior=Ridge(0.0), row_set=None)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize(("d", "k"), [(1, 2), (2, 3), (7, 4), (10, 2)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["deviations", "flat", "packed"])
def test_a_step_is_that_of_matrices_in_loops(form: str, kind: str, d: int, k: int, *, compiled: bool) -> None:
    p, X, V, rng = problem(kind, d, k)
    if form == "deviations" or d == 1:
        column = rng.uniform(0, 2, size=X.shape)
        S = np.einsum("nd,de->nde", column**2, np.eye(d))
    else:
        half = rng.normal(size=(len(X), d, d))
        S = half @ half.swapaxes(1, 2)
        rows, columns = np.triu_indices(d)
        column = S.reshape(len(X), -1) if form == "flat" else S[:, rows, columns]
    w = rng.uniform(0.5, 2, size=len(X))
    total, weights, means, covariances = oracle.em_step(X, S, p.weights, p.means, V, w)
    found = stepped(p, X, column, w, compiled=compiled)
    assert_allclose(found.objective * w.sum(), total, rtol=1e-12)
    assert_allclose(found.parameters.weights, weights, rtol=1e-12)
    assert_allclose(found.parameters.means, means, rtol=1e-11)
    assert_allclose(found.parameters.covariances, of_kind(kind, covariances, weights), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("compiled", COMPILED)
def test_sums_of_errors_add_up_over_blocks_and_far_from_the_origin(*, compiled: bool) -> None:
    p, X, _, rng = problem("full", 2, 3, n=3000, offset=1e8)
    errors = rng.uniform(0, 2, size=X.shape)
    whole = stepped(p, X, errors, compiled=compiled)
    cut = stepped(p, X, errors, compiled=compiled, cuts=(1, 2, 1500))
    near = Parameters(p.family, p.weights, p.means - 1e8, p.covariances, p.precisions_cholesky)
    moved = stepped(near, X - 1e8, errors, compiled=compiled)
    assert_allclose(cut.parameters.covariances, whole.parameters.covariances, rtol=1e-12)
    assert_allclose(moved.parameters.covariances, whole.parameters.covariances, rtol=1e-10, atol=1e-10)
    assert_allclose(moved.objective, whole.objective, rtol=1e-12)


@pytest.mark.skipif(not can_compile(), reason="numba is missing")
@pytest.mark.parametrize("d", [7, 10])
@pytest.mark.parametrize("apart", [0.0, 3.0, 30.0])
def test_compiled_loops_and_those_of_numpy_agree(d: int, apart: float) -> None:
    """Also where components have few of the rows each, or none at all: sums go over those rows alone."""
    p, X, _, rng = problem("full", d, 4, n=3000)
    p = replace(p, means=p.means + apart * np.arange(4)[:, np.newaxis])
    X += apart * rng.integers(3, size=(len(X), 1))
    errors = rng.uniform(0, 2, size=X.shape)
    a, b = (stepped(p, X, errors, compiled=compiled) for compiled in (False, True))
    assert_allclose(a.objective, b.objective, rtol=1e-13)
    assert_allclose(a.parameters.weights, b.parameters.weights, rtol=1e-11, atol=1e-300)
    assert_allclose(a.parameters.means[:3], b.parameters.means[:3], rtol=1e-11)
    assert_allclose(a.parameters.covariances[:3], b.parameters.covariances[:3], rtol=1e-11, atol=1e-12)


@pytest.mark.skipif(not can_compile(), reason="numba is missing")
@pytest.mark.parametrize("d", [2, 10])
def test_compiled_loops_take_many_components_in_groups(d: int) -> None:
    """Of each group some have few of the rows and others most, in turns."""
    k = 3 * error_loops().GROUP // 2
    p, X, _, rng = problem("full", d, k, n=500)
    p = replace(p, means=p.means + 40.0 * (np.arange(k)[:, np.newaxis] % 3 == 0), weights=np.full(k, 1 / k))
    X[::5] += 40.0
    errors = rng.uniform(0, 2, size=X.shape)
    a, b = (stepped(p, X, errors, compiled=compiled) for compiled in (False, True))
    assert a.parameters.weights[::3].sum() == pytest.approx(0.2)
    assert_allclose(b.objective, a.objective, rtol=1e-13)
    assert_allclose(b.parameters.weights, a.parameters.weights, rtol=1e-11)
    assert_allclose(b.parameters.means, a.parameters.means, rtol=1e-9)
    assert_allclose(b.parameters.covariances, a.parameters.covariances, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("compiled", COMPILED)
def test_few_rows_of_a_component_are_summed_as_in_loops(*, compiled: bool) -> None:
    p, X, V, rng = problem("full", 2, 4, n=200)
    p = replace(p, means=p.means + 4.0 * np.arange(4)[:, np.newaxis])
    X += 4.0 * np.sort(rng.integers(4, size=(len(X), 1)), axis=0)
    errors = rng.uniform(0, 2, size=X.shape)
    S = np.einsum("nd,de->nde", errors**2, np.eye(2))
    _, weights, means, covariances = oracle.em_step(X, S, p.weights, p.means, V)
    found = stepped(p, X, errors, compiled=compiled).parameters
    assert_allclose(found.weights, weights, rtol=1e-12)
    assert_allclose(found.means, means, rtol=1e-11)
    assert_allclose(found.covariances, covariances, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (-0.5, r"errors must be at least 0; got -0\.5 in some row\. Give a standard deviation"),
        (np.nan, r"errors must be finite; got NaN or infinity in some row"),
        (np.inf, r"errors must be finite"),
    ],
)
def test_errors_that_are_none_are_refused(wrong: float, message: str, *, compiled: bool) -> None:
    p, X, _, _ = problem("full", 2, 2)
    errors = np.ones(X.shape)
    errors[77, 1] = wrong
    with pytest.raises(DataError, match=message):
        stepped(p, X, errors, compiled=compiled)


@pytest.mark.parametrize("compiled", COMPILED)
def test_matrices_that_are_no_covariances_are_refused(*, compiled: bool) -> None:
    p, X, _, _ = problem("full", 2, 2)
    errors = np.tile([1.0, 0.0, 0.0, 1.0], (len(X), 1))
    errors[3] = 1.0, 1e6, 1e6, 1.0
    with pytest.raises(DataError, match="errors must be covariances, which are positive semidefinite"):
        stepped(p, X, errors, compiled=compiled)
    errors[3] = 1.0, 0.5, 0.0, 1.0
    with pytest.raises(DataError, match="errors must be symmetric matrices; got others in some row"):
        stepped(p, X, errors, compiled=compiled)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([-0.5, 0.0, 0.0, 1.0], r"errors must be at least 0; got -0\.5 in some row"),
        ([1.0, np.nan, np.nan, 1.0], "errors must be finite; got NaN or infinity in some row"),
        ([1.0, 0.0, 0.0, np.inf], "errors must be finite; got NaN or infinity in some row"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_numbers_that_no_matrix_of_errors_has_are_refused(
    wrong: list[float], message: str, *, packed: bool, compiled: bool
) -> None:
    p, X, _, _ = problem("full", 2, 2)
    errors = np.tile([1.0, 0.0, 0.0, 1.0], (len(X), 1))
    errors[77] = wrong
    with pytest.raises(DataError, match=message):
        stepped(p, X, errors[:, [0, 1, 3]] if packed else errors, compiled=compiled)


@pytest.mark.parametrize("compiled", COMPILED)
def test_matrices_that_are_symmetric_to_rounding_are_taken(*, compiled: bool) -> None:
    p, X, _, rng = problem("full", 2, 2)
    half = rng.normal(size=(len(X), 2, 2))
    errors = (half @ half.swapaxes(1, 2)).reshape(len(X), -1)
    rounded = errors.copy()
    rounded[:, 2] *= 1 + 1e-15
    assert (rounded[:, 1] != rounded[:, 2]).any()
    a, b = (stepped(p, X, column, compiled=compiled) for column in (errors, rounded))
    assert_array_equal(a.parameters.covariances, b.parameters.covariances)


@pytest.mark.parametrize("compiled", COMPILED)
def test_two_negative_pivots_do_not_make_a_positive_determinant(*, compiled: bool) -> None:
    p, X, _, _ = problem("full", 7, 2)
    S = np.eye(7)
    S[0, 1] = S[1, 0] = S[2, 3] = S[3, 2] = 1e6
    errors = np.tile(np.eye(7).reshape(-1), (len(X), 1))
    errors[3] = S.reshape(-1)
    with pytest.raises(DataError, match="errors must be covariances, which are positive semidefinite"):
        stepped(p, X, errors, compiled=compiled)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("d", [2, 7])
def test_values_that_say_nothing_may_have_errors_of_any_size(d: int, *, compiled: bool) -> None:
    """As those of values that are missing: such a row counts as its other features say."""
    p, X, V, rng = problem("diag", d, 2)
    errors = rng.uniform(0, 2, size=X.shape)
    errors[::2, 1:] = 1e40
    S = np.einsum("nd,de->nde", errors**2, np.eye(d))
    _, weights, means, covariances = oracle.em_step(X, np.minimum(S, 1e30), p.weights, p.means, V)
    found = stepped(p, X, errors, compiled=compiled)
    assert_allclose(found.parameters.weights, weights, rtol=1e-11)
    assert_allclose(found.parameters.means, means, rtol=1e-11)
    assert_allclose(found.parameters.covariances, np.einsum("kii->ki", covariances), rtol=1e-11)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("condition", "offset", "rtol"), [(10.0, 1e8, 1e-13), (1e6, 0.0, 1e-10)])
def test_sums_are_right_to_rounding(
    condition: float, offset: float, rtol: float, *, full: bool, compiled: bool
) -> None:
    """Errors from far less than a component's width to 100 times it, against 50 digits."""
    d, n, rng = 7, 30, np.random.default_rng(3)
    axes = np.linalg.qr(rng.normal(size=(1 + n, d, d)))[0]
    if not full:
        axes[1:] = np.eye(d)
    deviations = 10 ** rng.uniform(-4 if full else -8, 2, size=(n, d))
    V = (axes[0] * np.geomspace(1, 1 / condition, d)) @ axes[0].T
    S = np.einsum("nij,nj,nkj->nik", axes[1:], deviations**2, axes[1:])
    S = (S + S.swapaxes(1, 2)) / 2 if full else deviations[:, :, np.newaxis] ** 2 * np.eye(d)
    mean = offset + rng.normal(size=(1, d))
    p = Parameters.from_covariances(family_called("full"), np.ones(1), mean, V[np.newaxis])
    X = mean + rng.normal(size=(n, d)) @ np.linalg.cholesky(V).T
    X += np.einsum("nij,nj->ni", axes[1:], deviations * rng.normal(size=(n, d)))
    total, shift, covariance = oracle.precise_step(X, S, mean[0], p.precisions_cholesky[0])
    found = stepped(p, X, S.reshape(n, -1) if full else deviations, compiled=compiled)
    assert_allclose(found.objective * n, total, rtol=rtol)
    assert_allclose(found.parameters.means[0] - mean[0], shift, rtol=rtol, atol=max(rtol, 1e-15 * offset))
    assert_allclose(found.parameters.covariances[0], covariance, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("kind", KINDS)
def test_one_error_for_all_rows_is_an_exact_step(kind: str) -> None:
    """No covariance that is S and more describes the moments better: small changes of V, V >= 0, all lose."""
    d, rng = 3, np.random.default_rng(1)
    p, _, _, _ = problem(kind, d, 2)
    S = np.diag([0.5, 2.0, 4.0]) if kind == "diag" else 2.0 * np.eye(d)
    if kind in ("full", "tied"):
        half = rng.normal(size=(d, d))
        S = half @ half.T + np.eye(d)
    moments = Moments(np.array([30.0, 70.0]), p.means, p.covariances)
    prior = CommonErrors(S)
    found = prior.moments(moments, p.shape, p.covariances).central
    T = [dense(kind, found, k, d) for k in range(2)]
    C = [dense(kind, p.covariances, k, d) for k in range(2)]
    for k in range(2):
        least = np.linalg.eigvalsh(T[k] - S).min()
        assert least > -1e-9
        best = likelihood(T[k], C[k])
        for _ in range(200):
            step = rng.normal(size=(d, d)) * 0.05
            step = {"diag": np.diag(np.diag(step)), "spherical": step[0, 0] * np.eye(d)}.get(kind, step)
            root = np.linalg.cholesky(T[k] - S + 1e-9 * np.eye(d)) + step
            assert likelihood(S + root @ root.T, C[k]) <= best + 1e-6
    again = maximise(Moments(moments.counts, p.means, found), p.family, previous=found, prior=prior)
    assert_allclose(again.covariances, found, rtol=1e-9, atol=1e-9)


def dense(kind: str, covariances: Any, k: int, d: int) -> Any:
    if kind == "tied":
        return covariances
    own = covariances[k]
    return own if kind == "full" else np.diag(np.broadcast_to(own, (d,)))


def likelihood(T: Any, C: Any) -> float:
    return float(-np.linalg.slogdet(T)[1] - np.trace(np.linalg.solve(T, C)))


def test_no_errors_are_the_plain_step() -> None:
    p, X, _, _ = problem("full", 3, 3)
    found = stepped(p, X, np.zeros(X.shape), compiled=False)
    plan = make_plan(p, origin=X.mean(axis=0), kernel="exact")
    e_step = EStep([plan])
    state = e_step.finish(e_step.update(e_step.zero(), Block(np.ascontiguousarray(X.T), None, 0)))
    plain = m_step(state[0], plan, previous=p, prior=Ridge(0.0), row_set=None)
    assert_allclose(found.objective, plain.objective, rtol=1e-13)
    assert_allclose(found.parameters.covariances, plain.parameters.covariances, rtol=1e-11, atol=1e-13)
    assert_array_equal(found.parameters.means.round(9), plain.parameters.means.round(9))


def test_the_fixed_point_is_that_of_the_oracle() -> None:
    """The reference numbers of statistics ended 2e-8 before it: their likelihood rose no more."""
    X, i = faithful(), np.arange(272)
    errors = np.sqrt(np.stack([0.01 * (1 + i % 3), 4.0 * (1 + i % 2)], axis=1))
    start = np.array([[2.0, 55.0], [4.5, 80.0]])
    p = Parameters.from_covariances(family_called("full"), np.full(2, 0.5), start, np.stack([np.diag([0.5, 50.0])] * 2))
    for _ in range(700):
        p = stepped(p, X, errors, compiled=False).parameters
    S = np.einsum("nd,de->nde", errors**2, np.eye(2))
    _, weights, means, covariances = oracle.em_step(X, S, p.weights, p.means, p.covariances)
    assert_allclose(weights, p.weights, rtol=1e-13)
    assert_allclose(means, p.means, rtol=1e-13)
    assert_allclose(covariances, p.covariances, rtol=1e-12)
    assert_allclose(p.weights[0], 0.3558049742, rtol=3e-8)
    assert_allclose(p.means, [[2.0404725262, 54.475848676], [4.2903559005, 79.9011584927]], rtol=3e-8)
    packed = p.covariances[:, [0, 0, 1], [0, 1, 1]]
    expected = [[0.0543004114, 0.4304046932, 28.9410898126], [0.1508553362, 0.9563013115, 30.433872257]]
    assert_allclose(packed, expected, rtol=1e-6)
