"""The first EM steps of a start: shrunk covariances and tempered responsibilities, let go step by step."""

from __future__ import annotations

import numpy as np
import pytest

from daskgmm import GaussianMixture
from daskgmm.fitting.annealing import PLAIN, SHRUNK, TEMPERED, Step, annealed
from daskgmm.fitting.evaluate import Request
from daskgmm.fitting.merge import has_doubles
from daskgmm.fitting.options import FitOptions
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from tests import oracle
from tests.kernels.driving import KINDS, dense_covariances, one_pass, oracle_of, parameters_of, row_set_of, step
from tests.strategies import make_case

REG_COVAR = 1e-6


def run(X, starts, *, least=0.0, noted=None, **options):
    """The mixtures after the steps of their schedules."""
    found = FitOptions(n_components=starts[0][0].n_components, reg_covar=REG_COVAR, **options)

    def evaluate(requests: list[Request]):
        return one_pass(X, [request.plan for request in requests])

    note = noted.append if noted is not None else lambda mixtures: None
    return annealed(starts, evaluate, row_set_of(X), found, least=least, compiled=False, after_pass=note)


def plain_steps(X, p, n):
    for _ in range(n):
        p = step(X, p, reg_covar=REG_COVAR).parameters
    return p


@pytest.mark.parametrize("kind", KINDS)
def test_steps_without_shrinkage_and_of_power_one_are_em(kind):
    case = make_case(kind, n_components=3, n_features=2, n_rows=200, seed=1)
    p = parameters_of(case)
    (found,) = run(case.X, [(p, (Step(1.0, 0.0),) * 3)], covariance_type=kind)
    expected = plain_steps(case.X, p, 3)
    np.testing.assert_allclose(found.means, expected.means, rtol=1e-12)
    np.testing.assert_allclose(found.covariances, expected.covariances, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("power", [0.2, 0.75])
def test_a_tempered_step_has_the_responsibilities_to_a_power(kind, power):
    """Against the oracle's log-densities: softmax of power times them, and its weighted means."""
    case = make_case(kind, n_components=3, n_features=4, n_rows=300, seed=2)
    p = parameters_of(case)
    (found,) = run(case.X, [(p, (Step(power, 0.0),))], covariance_type=kind)
    log_density = power * np.asarray(oracle.log_densities(case.X, oracle_of(p)), dtype=float)
    resp = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    resp /= resp.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.weights, resp.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.means, resp.T @ case.X / resp.sum(axis=0)[:, np.newaxis], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_a_shrunk_step_adds_rows_of_the_covariance_within_all(kind):
    case = make_case(kind, n_components=3, n_features=2, n_rows=200, seed=3)
    p = parameters_of(case)
    plain = step(case.X, p).parameters  # no reg_covar
    (found,) = run(case.X, [(p, (Step(1.0, 0.5),))], covariance_type=kind)
    counts, extra = 200 * plain.weights, 0.5 * 200 / 3
    within = np.tensordot(plain.weights, dense_covariances(plain), axes=1)
    own = (counts / (counts + extra))[:, np.newaxis, np.newaxis]
    expected = own * dense_covariances(plain) + (1 - own) * within + REG_COVAR * np.eye(2)
    np.testing.assert_allclose(dense_covariances(found), expected, rtol=1e-9, atol=1e-12)


def test_the_least_shrinkage_holds_to_the_end():
    case = make_case("full", n_components=3, n_features=2, n_rows=200, seed=4)
    p = parameters_of(case)
    a, b = (run(case.X, [(p, (Step(1.0, share),))], least=least)[0] for share, least in ((0.0, 20.0), (0.3, 0.0)))
    np.testing.assert_allclose(a.covariances, b.covariances, rtol=1e-12)  # 0.3 * 200 / 3 = 20 rows


def test_schedules_of_several_lengths_share_passes_and_do_not_meet():
    case = make_case("full", n_components=3, n_features=2, n_rows=200, seed=5, separation=6.0)
    p = parameters_of(case)
    noted = []
    together = run(case.X, [(p, SHRUNK), (p, PLAIN), (p, TEMPERED)], noted=noted)
    assert [len(mixtures) for mixtures in noted] == [2] * len(SHRUNK) + [1] * (len(TEMPERED) - len(SHRUNK))
    assert together[1] is p
    for i, schedule in ((0, SHRUNK), (2, TEMPERED)):
        (alone,) = run(case.X, [(p, schedule)])
        assert (together[i].covariances == alone.covariances).all()


def test_a_start_that_is_lost_leaves_the_others():
    X = np.concatenate([np.random.default_rng(0).standard_normal((50, 2)), np.full((5, 2), 30.0)])
    kind = family_called("full")
    good = Parameters.from_covariances(kind, np.full(2, 0.5), np.array([[0.0, 0], [1, 1]]), np.stack([np.eye(2)] * 2))
    bad = Parameters.from_covariances(kind, np.full(2, 0.5), np.array([[0.0, 0], [30, 30]]), np.stack([np.eye(2)] * 2))
    options = FitOptions(n_components=2, reg_covar=0.0)

    def evaluate(requests):
        return one_pass(X, [request.plan for request in requests])

    schedule = (Step(1.0, 0.0),) * 2
    found = annealed(
        [(bad, schedule), (good, schedule)], evaluate, row_set_of(X), options, least=0.0, compiled=False,
        after_pass=lambda mixtures: None,
    )  # fmt: skip
    assert found[0] is None
    assert found[1] is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_whose_components_have_become_alike_is_lost_unless_all_have(kind):
    """A saddle, of the likelihood of one component less. Where rows come four times it is the best start at times."""
    case = make_case(kind, n_components=2, n_features=2, n_rows=400, seed=1)
    good = parameters_of(case)
    own = good.covariances if kind == "tied" else np.repeat(good.covariances[:1], 2, axis=0)
    same = Parameters.from_covariances(good.family, good.weights, np.repeat(good.means[:1], 2, axis=0), own)
    one_step = (Step(1.0, 0.0),)
    assert not has_doubles(good)
    assert has_doubles(same)
    kept, lost = run(case.X, [(good, one_step), (same, one_step)])
    assert kept is not None
    assert lost is None
    assert all(p is not None for p in run(case.X, [(same, one_step), (same, one_step)]))
    assert run(case.X, [(good, PLAIN), (same, PLAIN)])[1] is same, "a start without steps stays as it is"


def test_a_narrow_component_within_a_wide_one_is_no_double():
    means, narrow = np.zeros((2, 2)), np.stack([np.eye(2), 0.7 * np.eye(2)])
    assert not has_doubles(Parameters.from_covariances(family_called("full"), np.full(2, 0.5), means, narrow))


def test_rows_that_come_again_are_fitted_as_well_as_once():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(-0.75, 1, (4000, 1)), rng.normal(0.75, 1, (4000, 1))])
    once = GaussianMixture(2, random_state=0, tol=1e-6, max_iter=300).fit(X)
    for seed in range(3):
        again = GaussianMixture(2, random_state=seed, tol=1e-6, max_iter=300).fit(np.repeat(X, 4, axis=0))
        assert again.score(X) > once.score(X) - 1e-4
