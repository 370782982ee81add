"""Accelerated EM: never worse, the same optimum in fewer passes, whatever origin and units the rows have."""

import pickle
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from daskgmm.errors import CollapsedComponentError, OptionError
from daskgmm.mixture.acceleration import ACCELERATIONS, Move, accelerator_called
from daskgmm.mixture.parameters import Parameters
from tests.kernels.driving import dense_covariances, parameters_of, step
from tests.strategies import KINDS, make_case

every_kind = pytest.mark.parametrize("kind", KINDS)
ACCELERATED = [name for name in ACCELERATIONS if name is not None]
accelerated = pytest.mark.parametrize("name", ACCELERATED)


@dataclass(frozen=True)
class Trace:
    """What a pass evaluated, what it gave, and whether it was accepted; `change` of an EM step, nats."""

    move: Move
    objective: float
    image: Parameters | None
    accepted: bool
    change: float


def fit(X: Any, start: Parameters, name: str | None, *, max_passes: int, tol: float = 0.0, reg_covar: float = 0.0):
    """Return the trace of a fit, one entry a pass, until an EM step changes the objective by less than tol."""
    return fit_on(X, accelerator_called(name), start, n_passes=max_passes, tol=tol, reg_covar=reg_covar)


def fit_on(X: Any, accelerator: Any, start: Parameters, *, n_passes: int, tol: float = 0.0, reg_covar: float = 0.0):
    """Return the trace of a fit that goes on from a state, with an EM step to `start`."""
    move, last, trace = Move(start, False, 1.0), np.nan, []
    while len(trace) < n_passes and not (trace and abs(trace[-1].change) < tol):
        try:
            found = step(X, move.parameters, reg_covar=reg_covar)
        except CollapsedComponentError:
            assert move.extrapolated
            after, objective, image = accelerator.reject(move), np.nan, None
        else:
            objective, image = found.objective, found.parameters
            after = accelerator.advance(move, objective, image)
        change = np.nan if move.extrapolated or not after.accepted else objective - last
        trace.append(Trace(move, objective, image, after.accepted, change))
        last = objective if after.accepted else last
        accelerator, move = after.accelerator, after.move
    return trace


def overlapping(kind: str, *, seed: int = 1, n_rows: int = 600, n_components: int = 3, n_features: int = 2):
    """Return rows of components that overlap, and a start: EM is slow there."""
    shape = {"n_rows": n_rows, "n_components": n_components, "n_features": n_features}
    case = make_case(kind, seed=seed, separation=1.2, **shape)
    return case.X, parameters_of(case)


def until_extrapolated(X: Any, start: Parameters, name: str):
    """Return the state and the move after the first passes of a fit, the move an extrapolated one."""
    accelerator, move = accelerator_called(name), Move(start, False, 1.0)
    for _ in range(50):
        found = step(X, move.parameters)
        after = accelerator.advance(move, found.objective, found.parameters)
        accelerator, move = after.accelerator, after.move
        if move.extrapolated:
            return accelerator, move, found
    raise AssertionError("nothing was extrapolated in 50 passes")


@every_kind
def test_plain_em_goes_from_image_to_image(kind):
    X, start = overlapping(kind)
    trace = fit(X, start, None, max_passes=5)
    assert all(t.accepted and not t.move.extrapolated and t.move.step == 1.0 for t in trace)
    for before, after in pairwise(trace):
        assert after.move.parameters is before.image


@accelerated
@every_kind
@pytest.mark.parametrize("seed", range(4))
def test_accepted_objectives_never_fall_and_em_steps_are_images(name, kind, seed):
    X, start = overlapping(kind, seed=seed, n_components=2 + seed)
    trace = fit(X, start, name, max_passes=60)
    accepted = [t for t in trace if t.accepted]
    objectives = np.array([t.objective for t in accepted])
    assert (np.diff(objectives) >= -1e-11 * np.abs(objectives[1:])).all()
    assert any(t.move.extrapolated for t in accepted)
    assert all(t.move.extrapolated for t in trace if not t.accepted)
    for before, after in pairwise(accepted):
        if not after.move.extrapolated:
            assert after.move.parameters is before.image
            assert after.move.step == 1.0


@accelerated
@every_kind
@pytest.mark.parametrize("how", ["lower", "not finite", "failed"])
def test_a_rejection_costs_one_pass_and_goes_on_from_the_last_image(name, kind, how):
    X, start = overlapping(kind)
    accelerator, move, found = until_extrapolated(X, start, name)
    if how == "failed":
        after = accelerator.reject(move)
    else:
        objective = np.nan if how == "not finite" else found.objective - 1e-6
        after = accelerator.advance(move, objective, step(X, move.parameters).parameters)
    assert not after.accepted
    assert after.move.parameters is found.parameters
    assert not after.move.extrapolated


def test_squarem_leaps_grow_where_they_succeed_and_shrink_where_they_fail():
    X, start = overlapping("full")
    accelerator, move, found = until_extrapolated(X, start, "squarem")
    assert move.step <= 4
    rejected = accelerator.reject(replace(move, step=3.0)).accelerator
    for after in (rejected, rejected.reject(replace(move, step=2.0)).accelerator):
        trace = fit_on(X, after, found.parameters, n_passes=3)
        assert [t.move.extrapolated for t in trace] == [False, False, True]
        assert 1 < trace[2].move.step <= after.longest
    trace = fit(X, start, "squarem", max_passes=60)
    limit = 4.0
    for t in trace:
        if t.move.extrapolated:
            assert 1 < t.move.step <= limit
            limit = (4 * limit if t.move.step == limit else limit) if t.accepted else t.move.step
    assert max(t.move.step for t in trace) > 16


def test_the_leap_of_squarem_is_scheme_s3():
    # Spherical, one feature, one component of weight 1 that moves: coordinates are shifts and log standard deviations.
    _, start = overlapping("spherical", n_components=1, n_features=1)
    sigma = float(np.sqrt(start.covariances[0]))
    points = [
        Parameters.from_covariances(
            start.family, start.weights, start.means + sigma * m, start.covariances * np.exp(-2 * s)
        )
        for m, s in ((0.0, 0.0), (0.3, 0.1), (0.5, 0.15))
    ]
    accelerator = accelerator_called("squarem")
    after = accelerator.advance(Move(points[0], False, 1.0), -2.0, points[1])
    after = after.accelerator.advance(after.move, -1.0, points[2])
    r = np.array([0.3, np.sqrt(2) * 0.1])
    v = np.array([0.5, np.sqrt(2) * 0.15]) - 2 * r
    s = np.sqrt(r @ r / (v @ v))
    leap = 2 * s * r + s * s * v
    assert after.move.extrapolated
    assert 1.5 < s < 4
    assert after.move.step == pytest.approx(s, rel=1e-10)
    np.testing.assert_allclose(after.move.parameters.means, start.means + sigma * leap[0], rtol=1e-10)
    np.testing.assert_allclose(
        after.move.parameters.covariances, start.covariances * np.exp(-np.sqrt(2) * leap[1]), rtol=1e-10
    )


@accelerated
def test_rounding_is_no_fall(name):
    X, start = overlapping("full")
    accelerator, move, found = until_extrapolated(X, start, name)
    image = step(X, move.parameters).parameters
    assert accelerator.advance(move, found.objective * (1 + 1e-14), image).accepted
    assert not accelerator.advance(move, found.objective - 1e-9, image).accepted


@accelerated
@every_kind
def test_the_same_optimum_in_fewer_passes(name, kind):
    # (Two components: with more, a leap may lead to another optimum.)
    X, start = overlapping(kind, seed=3, n_components=2)
    plain = fit(X, start, None, max_passes=6000, tol=1e-13)
    fast = fit(X, start, name, max_passes=3000, tol=1e-13)
    found, expected = fast[-1].move.parameters, plain[-1].move.parameters
    assert fast[-1].objective == pytest.approx(plain[-1].objective, abs=1e-10)
    np.testing.assert_allclose(found.weights, expected.weights, atol=1e-5)
    np.testing.assert_allclose(found.means, expected.means, atol=1e-5)
    np.testing.assert_allclose(found.covariances, expected.covariances, atol=1e-5)
    assert len(fast) < (0.6 if len(plain) > 100 else 0.8) * len(plain)


@accelerated
@every_kind
def test_origin_and_units_do_not_matter(name, kind):
    X, start = overlapping(kind, n_features=3)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    # (A feature may also have earlier ones added to it.)
    mixed = np.array([[1e-2, 0, 0], [1.0, 2.0, 0], [-30.0, 4.0, 50.0]])
    A = {"diag": np.diag([1e-2, 2.0, 50.0]), "spherical": 7 * rotation}.get(kind, mixed)
    shift = np.array([10.0, -20.0, 30.0])

    def moved(p):
        dense = A @ dense_covariances(p) @ A.T
        kept = {"tied": dense[0], "diag": np.diagonal(dense, axis1=1, axis2=2), "spherical": dense[:, 0, 0]}
        covariances = np.ascontiguousarray(kept.get(kind, dense))
        return Parameters.from_covariances(p.family, p.weights, p.means @ A.T + shift, covariances)

    here, there = fit(X, start, name, max_passes=12), fit(X @ A.T + shift, moved(start), name, max_passes=12)
    assert any(t.move.extrapolated for t in here)
    for a, b in zip(here, there, strict=True):
        assert (a.move.extrapolated, a.accepted) == (b.move.extrapolated, b.accepted)
        assert a.move.step == pytest.approx(b.move.step, rel=1e-6)
        expected = moved(a.move.parameters)
        np.testing.assert_allclose(b.move.parameters.weights, expected.weights, rtol=1e-8)
        for attribute in ("means", "covariances"):
            x, y = getattr(b.move.parameters, attribute), getattr(expected, attribute)
            np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-8 * abs(y).max())


@accelerated
@every_kind
def test_a_component_of_weight_zero_makes_no_difference(name, kind):
    X, start = overlapping(kind, n_components=2)
    with_it = replace(
        start,
        weights=np.append(start.weights, 0.0),
        means=np.vstack([start.means, [[1.0, 2.0]]]),
        covariances=start.shape.subset(start.covariances, [0, 1, 0]),
        precisions_cholesky=start.shape.subset(start.precisions_cholesky, [0, 1, 0]),
    )
    alone, found = fit(X, start, name, max_passes=10), fit(X, with_it, name, max_passes=10)
    assert sum(t.move.extrapolated for t in found) > 2
    for a, b in zip(alone, found, strict=True):
        assert (a.move.extrapolated, a.accepted) == (b.move.extrapolated, b.accepted)
        assert b.objective == pytest.approx(a.objective, rel=1e-10)
        np.testing.assert_allclose(b.move.parameters.means[:2], a.move.parameters.means, rtol=1e-7)
        assert b.move.parameters.weights[2] < 1e-13


@accelerated
@every_kind
@pytest.mark.parametrize(("n_components", "n_features"), [(1, 1), (1, 3), (3, 1)])
def test_one_component_or_one_feature(name, kind, n_components, n_features):
    X, start = overlapping(kind, n_components=n_components, n_features=n_features)
    trace = fit(X, start, name, max_passes=40)
    objectives = np.array([t.objective for t in trace if t.accepted])
    assert np.isfinite(objectives).all()
    assert (np.diff(objectives) >= -1e-11).all()
    if n_components == 1:
        np.testing.assert_allclose(trace[-1].move.parameters.means[0], X.mean(axis=0), atol=1e-12)


@accelerated
def test_states_survive_pickling_at_any_pass(name):
    X, start = overlapping("full")
    accelerator, move = accelerator_called(name), Move(start, False, 1.0)
    for _ in range(15):
        found = step(X, move.parameters)
        after = accelerator.advance(move, found.objective, found.parameters)
        again = pickle.loads(pickle.dumps(accelerator)).advance(move, found.objective, found.parameters)
        assert (again.accepted, again.move.step) == (after.accepted, after.move.step)
        np.testing.assert_array_equal(again.move.parameters.covariances, after.move.parameters.covariances)
        accelerator, move = after.accelerator, after.move


@pytest.mark.parametrize("name", list(ACCELERATIONS))
def test_an_em_step_is_not_rejected(name):
    _, start = overlapping("full")
    with pytest.raises(ValueError, match="point must be extrapolated; got an EM step"):
        accelerator_called(name).reject(Move(start, False, 1.0))


@pytest.mark.parametrize("name", ["fast", "", "plain", 3])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(OptionError, match=f"acceleration must be None or .*squarem.*; got {name!r}."):
        accelerator_called(name)
