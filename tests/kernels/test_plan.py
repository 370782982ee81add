"""The rule: which components go by Phi, from which origin, and that its bound holds; and the plan as it travels."""

import pickle

import numpy as np
import pytest

from daskgmm.kernels.block import Workspace
from daskgmm.kernels.estep import Densities
from daskgmm.kernels.plan import DOUBLE, SAFETY, flagged_components, make_plan
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from tests import oracle
from tests.kernels.driving import dense_covariances, oracle_of, parameters_of, step
from tests.strategies import KINDS, make_case


def log_densities(X, plan):
    return Densities(np.ascontiguousarray(X.T), Workspace()).log_density(plan, complete=True)


def hard_mixture(kind, rng):
    """A mixture of components of very different size and condition number, and rows near and far."""
    n_components, n_features = int(rng.integers(1, 5)), int(rng.choice([1, 2, 3, 8]))
    sizes = 10 ** rng.uniform(-6, 0, n_components)
    condition = 10 ** rng.uniform(0, 8)
    matrices = []
    for size in sizes:
        basis, _ = np.linalg.qr(rng.standard_normal((n_features, n_features)))
        matrices.append((basis * np.geomspace(1, 1 / condition, n_features) * size**2) @ basis.T)
    covariances = {
        "full": (np.stack(matrices) + np.swapaxes(matrices, 1, 2)) / 2,
        "tied": (matrices[0] + matrices[0].T) / 2,
        "diag": sizes[:, np.newaxis] ** 2 * np.geomspace(1, 1 / condition, n_features),
        "spherical": sizes**2,
    }[kind]
    weights = rng.uniform(0.1, 1, n_components)
    parameters = Parameters.from_covariances(
        family_called(kind), weights / weights.sum(), rng.standard_normal((n_components, n_features)), covariances
    )
    sd = np.sqrt(np.diagonal(dense_covariances(parameters), axis1=1, axis2=2))
    near = [m + s * rng.standard_normal((8, n_features)) for m, s in zip(parameters.means, sd, strict=True)]
    tails = [m + 8 * s * rng.standard_normal((4, n_features)) for m, s in zip(parameters.means, sd, strict=True)]
    return parameters, np.concatenate([*near, *tails, 1e3 * rng.standard_normal((4, n_features))])


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_holds_on_random_mixtures(kind):
    rng = np.random.default_rng(11)
    tightest = 0.0
    for _ in range(60):
        parameters, X = hard_mixture(kind, rng)
        origin = parameters.weights @ parameters.means
        bound = parameters.shape.bound(parameters.means, parameters.precisions, parameters.deviations, origin)
        plan = make_plan(parameters, origin=origin, kernel="phi")
        found = log_densities(X, plan)
        expected = oracle.log_densities(X, oracle_of(parameters)).T
        distances = oracle.mahalanobis(X, oracle_of(parameters)).T
        # (The constant of the density, log det and all, is a number that is rounded too: 13 nats for a sd of 1e-6.)
        size = bound[:, np.newaxis] * np.maximum(1.0, distances.astype(float)) + abs(plan.log_constants[:, np.newaxis])
        allowed = DOUBLE.unit_roundoff * size
        tightest = max(tightest, float((abs(found - expected) / allowed).max()))
    assert tightest <= SAFETY
    # And it is a bound that is nearly reached: a hundred times smaller would let wrong numbers through.
    assert tightest > SAFETY / 100


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_rule_lets_pass_is_right_on_random_mixtures(kind):
    rng = np.random.default_rng(12)
    n_flagged = n_components = 0
    for _ in range(60):
        parameters, X = hard_mixture(kind, rng)
        plan = make_plan(parameters, origin=parameters.weights @ parameters.means)
        found = log_densities(X, plan)
        expected = oracle.log_densities(X, oracle_of(parameters)).T
        distances = np.maximum(1.0, oracle.mahalanobis(X, oracle_of(parameters)).T.astype(float))
        # A probe of 32 points may miss the worst row by a factor; design allows 1e-9.
        assert float((abs(found - expected) / distances).max()) <= 10 * DOUBLE.tolerance
        n_flagged += plan.exact.sum()
        n_components += plan.n_components
    assert 0.2 < n_flagged / n_components < 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_is_its_definition(kind):
    parameters = parameters_of(make_case(kind, seed=3, n_rows=1, n_components=3, n_features=4))
    origin = np.array([1.0, -2.0, 3.0, 0.5])
    dense = dense_covariances(parameters)
    expected = []
    for mean, covariance in zip(parameters.means, dense, strict=True):
        v = abs(mean - origin) + np.sqrt(np.diag(covariance))
        expected.append(v @ abs(np.linalg.inv(covariance)) @ v)
    found = parameters.shape.bound(parameters.means, parameters.precisions, parameters.deviations, origin)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_the_probe_lets_pass_what_the_bound_only_suspects(kind):
    # Forty features that are nearly the same number, as neighbouring pixels are: |Sigma^-1| adds up what cancels.
    n_features, n_components = 40, 12
    rng = np.random.default_rng(0)
    distance = abs(np.subtract.outer(np.arange(n_features), np.arange(n_features)))
    covariance = np.exp(-((distance / 4.0) ** 2)) + 1e-3 * np.eye(n_features)
    means = (np.linalg.cholesky(covariance) @ rng.standard_normal((n_features, n_components))).T
    covariances = covariance if kind == "tied" else np.stack([covariance] * n_components)
    parameters = Parameters.from_covariances(
        family_called(kind), np.full(n_components, 1 / n_components), means, covariances
    )
    origin = means.mean(axis=0)
    bound = parameters.shape.bound(means, parameters.precisions, parameters.deviations, origin)
    assert np.all(SAFETY * DOUBLE.unit_roundoff * bound > DOUBLE.tolerance)
    assert not flagged_components(parameters, origin).any()
    plan = make_plan(parameters, origin=origin)
    assert not plan.exact.any()
    X = (
        means[rng.integers(0, n_components, 200)]
        + rng.standard_normal((200, n_features)) @ np.linalg.cholesky(covariance).T
    )
    distances = np.maximum(1.0, oracle.mahalanobis(X, oracle_of(parameters)).T.astype(float))
    error = abs(log_densities(X, plan) - oracle.log_densities(X, oracle_of(parameters)).T)
    assert float((error / distances).max()) <= DOUBLE.tolerance


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_the_origin_moves_to_a_tight_component_among_broad_ones(kind):
    case = make_case(kind, seed=3, n_rows=1, n_components=6, n_features=3)
    tight = case.covariances.copy()
    tight[5] = tight[5] * 1e-10
    parameters = Parameters.from_covariances(family_called(kind), case.weights, case.means, tight)
    mean = case.weights @ case.means
    np.testing.assert_array_equal(flagged_components(parameters, mean), np.arange(6) == 5)
    plan = make_plan(parameters, origin=mean)
    assert not plan.exact.any()
    np.testing.assert_allclose(plan.origin, case.means[5], atol=1e-3)
    X = case.means[5] + 3e-5 * np.random.default_rng(0).standard_normal((50, 3))
    distances = np.maximum(1.0, oracle.mahalanobis(X, oracle_of(parameters)).T.astype(float))
    error = abs(log_densities(X, plan) - oracle.log_densities(X, oracle_of(parameters)).T)
    assert float((error / distances).max()) <= DOUBLE.tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_the_origin_stays_where_nothing_is_gained(kind):
    case = make_case(kind, seed=3, n_rows=1, n_components=4, n_features=3)
    origin = np.array([0.25, 0.5, -0.75])
    plan = make_plan(parameters_of(case), origin=origin)
    np.testing.assert_array_equal(plan.origin, origin)
    assert not plan.exact.any()


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_an_outliers_own_component_goes_exact_and_the_others_by_phi(kind):
    case = make_case(kind, seed=3, n_rows=300, n_components=4, n_features=3)
    means, covariances = case.means.copy(), case.covariances.copy()
    means[3], covariances[3] = 1e6, covariances[3] * 1e-6
    weights = np.array([0.4, 0.3, 0.299, 0.001])
    parameters = Parameters.from_covariances(family_called(kind), weights, means, covariances)
    X = np.concatenate([case.X, np.full((1, 3), 1e6)])
    origin = X.mean(axis=0)
    plan = make_plan(parameters, origin=origin)
    np.testing.assert_array_equal(plan.exact, [False, False, False, True])
    found = step(X, parameters, reg_covar=1e-6).parameters
    right = oracle.em_step(kind, X, oracle_of(parameters), reg_covar=1e-6)
    np.testing.assert_allclose(found.means, right.means.astype(float), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.covariances, right.covariances.astype(float), rtol=1e-9, atol=1e-9)


def test_a_tied_mixture_goes_one_way_as_a_whole():
    case = make_case("tied", seed=3, n_rows=1, n_components=4, n_features=3)
    means = case.means.copy()
    means[3] = 1e7
    parameters = Parameters.from_covariances(family_called("tied"), case.weights, means, case.covariances)
    origin = case.means[:3].mean(axis=0)
    np.testing.assert_array_equal(flagged_components(parameters, origin), [False, False, False, True])
    assert make_plan(parameters, origin=origin).exact.all()


@pytest.mark.parametrize(
    ("n_features", "n_components", "by_phi"),
    [
        *[(2, 1, False), (2, 2, True), (16, 1, False), (16, 2, True)],
        *[(32, 1, False), (32, 2, True), (64, 5, False), (64, 6, True)],
    ],
)
def test_full_covariances_go_by_phi_where_enough_components_share_it(n_features, n_components, by_phi):
    identity = np.stack([np.eye(n_features)] * n_components)
    weights, means = np.full(n_components, 1 / n_components), np.zeros((n_components, n_features))
    parameters = Parameters.from_covariances(family_called("full"), weights, means, identity)
    assert make_plan(parameters, origin=np.zeros(n_features)).exact.any() != by_phi


@pytest.mark.parametrize("kind", KINDS)
def test_components_that_cannot_be_bounded_go_exact(kind):
    # B overflows or is not a number: no comparison may take that for small.
    case = make_case(kind, seed=3, n_rows=1, n_components=3, n_features=2)
    means = case.means.copy()
    means[1] = 1e200
    parameters = Parameters.from_covariances(family_called(kind), case.weights, means, case.covariances)
    with np.errstate(all="ignore"):
        assert flagged_components(parameters, np.zeros(2))[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", ["phi", "exact"])
def test_a_kernel_can_be_forced(kind, kernel):
    parameters = parameters_of(make_case(kind, seed=3, n_rows=1, n_components=3, n_features=2))
    plan = make_plan(parameters, origin=np.full(2, 1e9), kernel=kernel)
    assert plan.exact.all() == (kernel == "exact")
    assert plan.exact.any() != (kernel == "phi")


# -- travelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", ["phi", "exact", "rule"])
def test_a_plan_travels_whole(kind, kernel):
    case = make_case(kind, seed=3, n_rows=20, n_components=3, n_features=4)
    plan = make_plan(parameters_of(case), origin=case.X.mean(axis=0), kernel=kernel)
    log_densities(case.X, plan)  # what a kernel derives from a plan stays behind
    copy = pickle.loads(pickle.dumps(plan))
    assert copy.shape == plan.shape
    assert copy.common_by_row == plan.common_by_row
    for name in ("log_weights", "means", "precisions_cholesky", "origin", "exact", "natural_parameters"):
        np.testing.assert_array_equal(getattr(copy, name), getattr(plan, name))
    np.testing.assert_array_equal(log_densities(case.X, copy), log_densities(case.X, plan))


def test_whether_rows_hold_the_common_term_travels():
    covariance = np.array([[1.0, 1.0], [1.0, 1.0 + 1e-7]])
    tied = family_called("tied")
    parameters = Parameters.from_covariances(tied, np.ones(1), np.zeros((1, 2)), covariance)
    plan = make_plan(parameters, origin=np.zeros(2), kernel="phi")
    assert plan.common_by_row
    assert pickle.loads(pickle.dumps(plan)).common_by_row
    assert not make_plan(
        Parameters.from_covariances(tied, np.ones(1), np.zeros((1, 2)), np.eye(2)), origin=np.zeros(2)
    ).common_by_row


@pytest.mark.parametrize(
    ("kind", "n_bytes"),
    [
        # 10 components of 64 features: log weights, means, origin, ten flags, and
        ("full", 8 * (10 + 640 + 64 + 10 * 2080) + 10),  # ten triangles of 64 * 65 / 2
        ("tied", 8 * (10 + 640 + 64 + 2080) + 10),
        ("diag", 8 * (10 + 640 + 64 + 640) + 10),
        ("spherical", 8 * (10 + 640 + 64 + 10) + 10),
    ],
)
def test_a_plan_is_as_large_as_it_says_and_no_covariances_travel(kind, n_bytes):
    case = make_case(kind, seed=3, n_rows=4, n_components=10, n_features=64)
    plan = make_plan(parameters_of(case), origin=case.X.mean(axis=0), kernel="phi")
    log_densities(case.X, plan)
    assert plan.n_bytes == n_bytes
    assert 0 < len(pickle.dumps(plan)) - n_bytes < 1500
