"""The E-step on blocks equals the oracle: log-densities, responsibilities and sums, by Phi, exact and by the rule."""

import pickle
import threading

import numpy as np
import pytest

from daskgmm.kernels.block import Workspace
from daskgmm.kernels.estep import Densities, EStep, softmax
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.score import ScorePass
from daskgmm.kernels.sums import log_likelihood
from tests import oracle
from tests.kernels.driving import KERNELS, blocks_of, one_pass, oracle_of, parameters_of, row_set_of
from tests.strategies import KINDS, make_case

CASES = [(kind, kernel, n_features) for kind in KINDS for kernel in KERNELS for n_features in (1, 2, 5, 40)]


def case_of(kind, n_features, *, seed=0, n_rows=150, n_components=3):
    return make_case(kind, seed=seed, n_rows=n_rows, n_components=n_components, n_features=n_features)


@pytest.mark.parametrize(("kind", "kernel", "n_features"), CASES)
def test_log_densities_and_responsibilities_equal_the_oracle(kind, kernel, n_features):
    case = case_of(kind, n_features)
    parameters = parameters_of(case)
    plan = make_plan(parameters, origin=case.X.mean(axis=0), kernel=kernel)
    found = Densities(np.ascontiguousarray(case.X.T), Workspace()).log_density(plan, complete=True)
    expected = oracle.log_densities(case.X, oracle_of(parameters)).T
    # B is at most 5e3 here: 8 u B q^2 would allow 1e-9, and the values are of order 10 to 1000.
    np.testing.assert_allclose(found, expected.astype(float), rtol=1e-12, atol=1e-12)
    log_likelihoods, total = softmax(found, np.empty(len(case.X)))
    resp = found / total
    np.testing.assert_allclose(resp, oracle.responsibilities(case.X, oracle_of(parameters)).T.astype(float), atol=1e-12)
    np.testing.assert_allclose(
        log_likelihoods, oracle.log_likelihoods(case.X, oracle_of(parameters)).astype(float), rtol=1e-12
    )


@pytest.mark.parametrize(("kind", "kernel"), [(kind, kernel) for kind in KINDS for kernel in KERNELS])
def test_sums_equal_the_oracle(kind, kernel):
    case = case_of(kind, 4)
    w = np.random.default_rng(1).uniform(0, 3, len(case.X))
    parameters, row_set = parameters_of(case), row_set_of(case.X, w)
    plan = make_plan(parameters, origin=row_set.mean, kernel=kernel)
    (statistics,) = one_pass(case.X, [plan], w, [0, 1, 50, 150])
    step = oracle.em_step(kind, case.X, oracle_of(parameters), row_weights=w)
    np.testing.assert_allclose(statistics.panel(3)[:, -1], step.counts.astype(float), rtol=1e-12)
    assert log_likelihood(statistics, plan, row_set) == pytest.approx(float(step.log_likelihood), rel=1e-12)
    assert statistics.weight == pytest.approx(w.sum(), rel=1e-14)
    assert statistics.n_rows == 150


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_that_only_scores_gives_the_same_log_likelihood_and_no_sums(kind):
    case = case_of(kind, 3)
    plan = make_plan(parameters_of(case), origin=case.X.mean(axis=0))
    scoring = ScorePass([plan])
    (found,) = scoring.finish(scoring.update(scoring.zero(), blocks_of(case.X)[0]))
    expected = float(oracle.log_likelihood(case.X, oracle_of(parameters_of(case))))
    # Complete in itself: it needs no row set, which new rows do not have.
    assert found.log_sum == pytest.approx(expected, rel=1e-13)
    assert found.n_rows == 150
    resp = oracle.responsibilities(case.X, oracle_of(parameters_of(case)))
    assert found.log_largest == pytest.approx(float(np.log(resp.max(axis=1)).sum()), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_of_weight_zero_gives_no_nan_and_no_rows(kind):
    case = case_of(kind, 3)
    parameters = parameters_of(case)
    object.__setattr__(parameters, "weights", np.array([0.5, 0.0, 0.5]))
    for kernel in KERNELS:
        row_set = row_set_of(case.X)
        plan = make_plan(parameters, origin=row_set.mean, kernel=kernel)
        (statistics,) = one_pass(case.X, [plan])
        assert np.isfinite(statistics.values).all()
        assert not statistics.panel(3)[1].any()
        expected = float(oracle.log_likelihood(case.X, oracle_of(parameters)))
        assert log_likelihood(statistics, plan, row_set) == pytest.approx(expected, rel=1e-12)


# -- softmax ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [1, 3, 7, 8, 9, 64, 1001])
def test_softmax_is_exactly_zero_below_the_clamp_at_any_length(n_rows):
    # Vector and scalar exponentials must agree at -100 to the last bit, in the tail of an array too.
    log_density = np.zeros((5, n_rows))
    log_density[1:] = np.array([-99.0, -100.0, -745.0, -np.inf])[:, np.newaxis]
    _, total = softmax(log_density, np.empty(n_rows))
    assert np.all(log_density[0] == 1.0)
    assert np.all(log_density[1] > 1e-44)
    assert not log_density[2:].any()
    assert np.all(total == 1.0)


def test_softmax_makes_no_denormals():
    log_density = np.random.default_rng(0).uniform(-800, 0, (20, 1000))
    softmax(log_density, np.empty(1000))
    assert not np.any((log_density != 0) & (log_density < np.finfo(float).tiny))
    assert np.all(log_density >= 0)


def test_softmax_equals_the_oracle_however_far_below_zero():
    rng = np.random.default_rng(0)
    log_density = rng.uniform(-90, 0, (6, 200)) + rng.uniform(-1e6, 1e3, 200)
    wide = log_density.astype(np.longdouble)
    highest = wide.max(axis=0)
    expected = highest + np.log(np.exp(wide - highest).sum(axis=0))
    found, total = softmax(work := log_density.copy(), np.empty(200))
    np.testing.assert_allclose(found, expected.astype(float), rtol=1e-15, atol=1e-15)
    # A clamped responsibility is off by exp(-100) = 4e-44 at most; the others by u times the size of the exponent.
    expected_resp = np.exp(wide - expected).astype(float)
    np.testing.assert_allclose(work / total, expected_resp, rtol=1e-9, atol=1e-40)
    np.testing.assert_allclose((work / total).sum(axis=0), 1.0, rtol=1e-15)


# -- company, processes, threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_features", [2, 33])
def test_the_bits_of_a_candidate_do_not_depend_on_its_company(kind, n_features):
    case = case_of(kind, n_features, n_rows=333)
    origin = case.X.mean(axis=0)
    plan = make_plan(parameters_of(case), origin=origin)
    others = [
        make_plan(parameters_of(case_of(other, n_features, seed=seed, n_components=2 + seed)), origin=o, kernel=kernel)
        for other in KINDS
        for seed, (o, kernel) in enumerate([(origin, "phi"), (origin, "exact"), (origin + 1, "rule")])
    ]
    cuts = [0, 100, 101, 333]
    (alone,) = one_pass(case.X, [plan], cuts=cuts)
    for plans, i in [([plan, *others], 0), ([*others, plan], -1), ([*others[:5], plan, *others[5:]], 5)]:
        np.testing.assert_array_equal(one_pass(case.X, plans, cuts=cuts)[i].values, alone.values)


def test_the_pass_travels_and_gives_the_same_bits_there():
    case = case_of("full", 5)
    plans = [make_plan(parameters_of(case), origin=case.X.mean(axis=0), kernel=kernel) for kernel in KERNELS]
    estep = EStep(plans)
    copy = pickle.loads(pickle.dumps(estep))
    block = blocks_of(case.X)[0]
    for found, expected in zip(copy.update(copy.zero(), block), estep.update(estep.zero(), block), strict=True):
        np.testing.assert_array_equal(found.values, expected.values)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)).values, expected.values)


def test_two_threads_may_share_a_pass():
    case = case_of("full", 5, n_rows=2000)
    estep = EStep([make_plan(parameters_of(case), origin=case.X.mean(axis=0), kernel="exact")])
    cuts = list(range(0, 2001, 50))
    expected = one_pass(case.X, estep.plans, cuts=cuts)[0].values
    found = {}

    def run(name):
        state = estep.zero()
        for block in blocks_of(case.X, cuts=cuts):
            state = estep.update(state, block)
        found[name] = estep.finish(state)[0].values

    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {0, 1, 2}
    for values in found.values():
        np.testing.assert_array_equal(values, expected)
