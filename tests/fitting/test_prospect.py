"""Where EM on all rows would end, by a sample: the first step is that of all rows, and so is the end, nearly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from daskgmm.fitting.evaluate import Evaluator
from daskgmm.fitting.loop import Candidate, run_em
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.prospect import Prospect, _Part, can_be_foreseen, foreseen
from daskgmm.fitting.sample import Sample
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import maximise
from daskgmm.mixture.tilt import Tilt
from tests.fitting.driving import KINDS

N, PART = 12_000, 4


def sampled(X: np.ndarray, weights: np.ndarray | None = None) -> Sample:
    return Sample(X, np.ones(len(X)) if weights is None else weights, np.arange(len(X), dtype=np.uint64), 0)


def overlapping(kind: str, *, weighted: bool) -> tuple[Sample, FitOptions]:
    """Rows of three Gaussians that overlap."""
    random = np.random.default_rng(11)
    means = np.array([[0.0, 0.0], [2.4, 0.3], [0.4, 2.6]])
    X = random.standard_normal((N, 2)) + means[random.integers(3, size=N)] + 50
    weights = random.uniform(0.5, 3.0, N) if weighted else None
    return sampled(X, weights), FitOptions(n_components=3, covariance_type=kind, reg_covar=1e-3, max_iter=3000)


def em(rows: Sample, start: Parameters, options: FitOptions) -> Candidate:
    with rows.passes(options) as passes:
        fresh = Candidate.start(0, start, options)
        sets = {None: rows.row_set(passes, options)}
        (end,) = run_em([fresh], Evaluator(passes).statistics, sets, after_pass=lambda _: None)
    return end


def begun(rows: Sample, options: FitOptions) -> Parameters:
    """A mixture some steps of EM from anywhere."""
    k, spread = options.n_components, np.cov(rows.X.T)
    shape = options.family.shape
    covariances = shape.from_matrices(np.repeat(spread[np.newaxis], k, axis=0), np.ones(k) / k)
    start = Parameters.from_covariances(options.family, np.ones(k) / k, rows.X[:k] * 1.0, covariances)
    return em(rows, start, replace(options, acceleration=None, max_iter=12, tol=0.0)).parameters


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_is_that_of_all_rows(kind: str) -> None:
    rows, options = overlapping(kind, weighted=kind in ("full", "diag"))
    part = sampled(rows.X[::PART], rows.weights[::PART])
    # (As after a start: at the sample's own end.)
    point = em(part, begun(part, options), replace(options, tol=1e-7)).parameters
    image = em(rows, point, replace(options, acceleration=None, max_iter=1)).parameters
    end = em(rows, image, replace(options, tol=1e-9))
    found = foreseen(point, image, part, options, n_all=N, tol=1e-8, compiled=False)
    assert isinstance(found, Prospect)
    there, here = (em(rows, p, replace(options, max_iter=1)).objective for p in (found.parameters, image))
    to_gain = end.lower_bound - here
    assert to_gain > 5e-5, "there is something to gain"
    steps = em(rows, image, replace(options, acceleration=None, max_iter=6, tol=0.0)).lower_bound
    assert there > steps, "the leap goes further than five steps"
    assert there - here > 0.4 * to_gain
    assert 0.4 * to_gain < found.gain < 1.6 * to_gain, "and says so before"


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_step_on_the_sample_is_that_on_all_rows(kind: str) -> None:
    rows, options = overlapping(kind, weighted=True)
    point, part = begun(rows, options), sampled(rows.X[::PART], rows.weights[::PART])
    image, own = (em(r, point, replace(options, acceleration=None, max_iter=1)).parameters for r in (rows, part))
    weight = float(part.weights.sum())
    tilt = Tilt.about(point, image, own, weight=weight, floor=options.reg_covar, held=0.0)
    step = em(part, point, replace(options, prior=tilt, acceleration=None, max_iter=1)).parameters
    for name in ("weights", "means", "covariances"):
        np.testing.assert_allclose(getattr(step, name), getattr(image, name), rtol=1e-9)
        assert np.abs(getattr(own, name) - getattr(image, name)).max() > 1e-4
    assert tilt.log_density(point) == pytest.approx(0, abs=1e-8)


def test_rows_that_hold_a_mixture_make_the_step_shorter() -> None:
    rows, options = overlapping("full", weighted=False)
    point, part = begun(rows, options), sampled(rows.X[::PART])
    image, own = (em(r, point, replace(options, acceleration=None, max_iter=1)).parameters for r in (rows, part))
    steps = []
    for held in (0.0, float(len(part))):
        tilt = Tilt.about(point, image, own, weight=len(part), floor=options.reg_covar, held=held)
        after = em(part, point, replace(options, prior=tilt, acceleration=None, max_iter=1)).parameters
        steps.append(after.weights - point.weights)
    np.testing.assert_allclose(steps[1], steps[0] / 2, rtol=1e-6)


def test_a_component_too_many_does_not_run_away() -> None:
    """Two components on one Gaussian: about what parts them rows tell nothing, and the sample alone has peaks."""
    random = np.random.default_rng(5)
    rows = sampled(random.standard_normal((40_000, 3)))
    options = FitOptions(n_components=2, max_iter=200)
    point = begun(rows, options)
    image = em(rows, point, replace(options, acceleration=None, max_iter=1)).parameters
    found = foreseen(point, image, sampled(rows.X[::10]), options, n_all=40_000, tol=1e-7, compiled=False)
    assert found is not None
    there, here = (em(rows, p, replace(options, max_iter=1)).objective for p in (found.parameters, image))
    assert there > here - 1e-6
    assert found.gain < 5e-3, "no more than a chi-squared of ten parameters, by the sample's ten times"


def test_few_rows_say_nothing() -> None:
    rows, options = overlapping("full", weighted=False)
    point = begun(rows, options)
    assert foreseen(point, point, sampled(rows.X[:100]), options, n_all=N, tol=1e-7, compiled=False) is None


def test_only_plain_steps_are_foreseen() -> None:
    assert can_be_foreseen(FitOptions())
    assert not can_be_foreseen(FitOptions(covariance_type="VEE"))
    assert not can_be_foreseen(FitOptions(noise=True))
    assert not can_be_foreseen(FitOptions(covariance_floor=0.1))
    assert not can_be_foreseen(FitOptions(weight_concentration_prior=2.0))


def test_a_component_without_rows_collapses() -> None:
    from daskgmm.errors import CollapsedComponentError
    from daskgmm.mixture.moments import Moments

    rows, options = overlapping("full", weighted=False)
    p = begun(rows, options)
    tilt = Tilt.about(p, p, p, weight=100.0, floor=0.0, held=0.0)
    gone = Moments(np.array([-1.0, 1.0, 1.0]), p.means, p.covariances)
    with pytest.raises(CollapsedComponentError, match=r"a component must keep rows; got none\. Take a larger sample\."):
        maximise(gone, options.family, previous=p.covariances, prior=tilt)


def test_rows_on_which_a_step_collapses_say_nothing_of_a_gain() -> None:
    random = np.random.default_rng(6)
    X = random.standard_normal((400, 2)) + np.where(np.arange(400) % 4 < 2, 0.0, 50.0)[:, np.newaxis]
    X[3::4] = 50.0  # (every other row: in that half the second component has one place)
    rows, options = sampled(X), FitOptions(n_components=2, reg_covar=0.0)
    point = Parameters.from_covariances(
        options.family, np.full(2, 0.5), np.array([[0.0, 0.0], [50.0, 50.0]]), np.array([np.eye(2)] * 2)
    )
    image = em(rows, point, replace(options, max_iter=1)).parameters
    there, gone = (_Part(half, point, image, options, False, n_all=800) for half in rows.halves())
    assert np.isfinite(there.gain(point, image))
    assert np.isnan(gone.gain(point, image))
