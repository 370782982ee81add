"""One EM step equals the oracle, and twenty equal scikit-learn's, by Phi, exact and by the rule."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from daskgmm.errors import CollapsedComponentError
from daskgmm.kernels.block import block_length
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from tests import oracle
from tests.kernels.driving import KERNELS, oracle_of, parameters_of, step
from tests.strategies import KINDS, make_case

CASES = [(kind, kernel) for kind in KINDS for kernel in KERNELS]


@pytest.mark.parametrize(("kind", "kernel"), CASES)
@pytest.mark.parametrize(("n_features", "n_rows"), [(1, 200), (2, 200), (5, 200), (40, 400)])
def test_a_weighted_step_equals_the_oracle(kind, kernel, n_features, n_rows):
    case = make_case(kind, seed=6, n_rows=n_rows, n_components=3, n_features=n_features)
    w = np.random.default_rng(0).uniform(0, 3, n_rows)
    parameters = parameters_of(case)
    found = step(case.X, parameters, kernel=kernel, reg_covar=1e-3, row_weights=w, cuts=[0, 1, 90, n_rows])
    expected = oracle.em_step(kind, case.X, oracle_of(parameters), reg_covar=1e-3, row_weights=w)
    new = found.parameters
    # u B is at most 1e-12 here (D = 40), and reg_covar is 1e6 times more than what is compared.
    np.testing.assert_allclose(new.weights, expected.weights.astype(float), rtol=1e-11)
    np.testing.assert_allclose(new.means, expected.means.astype(float), rtol=0, atol=1e-11)
    np.testing.assert_allclose(new.covariances, expected.covariances.astype(float), rtol=0, atol=1e-11)
    assert found.objective == pytest.approx(float(expected.log_likelihood / w.sum()), rel=1e-12)
    assert np.isfinite(new.precisions_cholesky).all()


@pytest.mark.parametrize(("kind", "kernel"), CASES)
def test_five_steps_equal_the_oracles(kind, kernel):
    case = make_case(kind, seed=7, n_rows=120, n_components=2, n_features=3)
    parameters = parameters_of(case)
    weights, means, covariances = case.weights, case.means, case.covariances
    for _ in range(5):
        parameters = step(case.X, parameters, kernel=kernel, reg_covar=1e-6).parameters
        model = oracle.mixture_of_covariances(kind, weights, means, covariances)
        right = oracle.em_step(kind, case.X, model, reg_covar=1e-6)
        weights, means, covariances = right.weights, right.means, right.covariances
    np.testing.assert_allclose(parameters.weights, weights.astype(float), rtol=1e-11)
    np.testing.assert_allclose(parameters.means, means.astype(float), atol=1e-11)
    np.testing.assert_allclose(parameters.covariances, covariances.astype(float), atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_features", [1, 2, 5, 40])
def test_twenty_iterates_are_scikit_learns(kind, n_features):
    n_rows, n_components = 600, 3
    rng = np.random.default_rng(8)
    X = rng.standard_normal((n_rows, n_features)) + 2.0 * rng.integers(0, n_components, (n_rows, 1))
    start = {
        "weights_init": np.array([0.5, 0.3, 0.2]),
        "means_init": X[:n_components],
        "precisions_init": {
            "full": np.stack([np.eye(n_features)] * n_components),
            "tied": np.eye(n_features),
            "diag": np.ones((n_components, n_features)),
            "spherical": np.ones(n_components),
        }[kind],
    }
    k = family_called(kind)
    first = Parameters(
        k,
        start["weights_init"],
        start["means_init"],
        k.shape.covariances(k.shape.cholesky_of_precisions(start["precisions_init"])),
        k.shape.cholesky_of_precisions(start["precisions_init"]),
    )
    ours, bounds = dict.fromkeys(KERNELS, first), {kernel: [] for kernel in KERNELS}
    length = block_length(n_features)
    cuts = sorted({*range(0, n_rows, length), 250, n_rows})
    # Warm, one iteration a fit: scikit-learn goes on from where it is, and shows every iterate.
    theirs = GaussianMixture(n_components, covariance_type=kind, tol=0.0, max_iter=1, warm_start=True, **start)
    lower_bounds = []
    for _ in range(20):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            theirs.fit(X)
        lower_bounds.append(theirs.lower_bound_)
        for kernel in KERNELS:
            found = step(X, ours[kernel], kernel=kernel, reg_covar=1e-6, cuts=cuts)
            ours[kernel] = found.parameters
            bounds[kernel].append(found.objective)
            np.testing.assert_allclose(found.parameters.weights, theirs.weights_, rtol=1e-9)
            np.testing.assert_allclose(found.parameters.means, theirs.means_, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(found.parameters.covariances, theirs.covariances_, rtol=1e-9, atol=1e-9)
    for kernel in KERNELS:
        np.testing.assert_allclose(bounds[kernel], lower_bounds, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_collapsed_component_is_named_with_three_remedies(kind):
    # One row far from all others, and a component that has it alone.
    X = np.concatenate([np.random.default_rng(0).standard_normal((50, 2)), [[300.0, 300.0]]])
    if kind == "tied":
        X[:, 1] = 2.0
    covariances = {"full": [np.eye(2)] * 2, "tied": np.eye(2), "diag": np.ones((2, 2)), "spherical": np.ones(2)}[kind]
    means = np.array([[0.0, 0.0], [300.0, 300.0]])
    parameters = Parameters.from_covariances(family_called(kind), np.full(2, 0.5), means, np.array(covariances))
    who = "all components, which is tied," if kind == "tied" else "component 1"
    with pytest.raises(CollapsedComponentError, match=f"covariance of {who} must be positive definite") as error:
        step(X, parameters)
    for remedy in ("Decrease n_components", "increase reg_covar", "rescale or drop the features that hardly vary"):
        assert remedy in str(error.value)
    # And the second remedy helps.
    variances = step(X, parameters, reg_covar=0.25).parameters
    assert np.linalg.eigvalsh(oracle.dense(kind, variances.covariances, 2, 2)).min() == pytest.approx(0.25, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_scaling_all_row_weights_changes_nothing(kind, kernel):
    case = make_case(kind, seed=2, n_rows=100, n_components=3, n_features=2)
    parameters = parameters_of(case)
    expected = step(case.X, parameters, kernel=kernel)
    for factor in (2.0**-90, 2.0**90):
        found = step(case.X, parameters, kernel=kernel, row_weights=np.full(100, factor))
        np.testing.assert_allclose(found.parameters.weights, expected.parameters.weights, rtol=1e-13)
        np.testing.assert_allclose(found.parameters.means, expected.parameters.means, atol=1e-13)
        np.testing.assert_allclose(found.parameters.covariances, expected.parameters.covariances, atol=1e-13)
        assert found.objective == pytest.approx(expected.objective, rel=1e-13)


@pytest.mark.parametrize(("kind", "kernel"), CASES)
def test_a_component_of_hardly_any_rows_is_where_they_are_by_every_kernel(kind, kernel):
    # The third component counts 1e-9 rows. Divided by count + 10 eps its mean would be 1e-6 nearer to the origin.
    case = make_case(kind, seed=1, n_rows=300, n_components=3, n_features=3)
    means = case.means.copy()
    means[2] = [13.0, 0.0, 0.0]
    wide = {"full": [2 * np.eye(3)] * 3, "tied": 2 * np.eye(3), "diag": np.full((3, 3), 2.0), "spherical": [2.0] * 3}
    k = family_called(kind)
    parameters = Parameters.from_covariances(k, case.weights, means, np.array(wide[kind]))
    found = step(case.X, parameters, kernel=kernel).parameters
    expected = oracle.em_step(kind, case.X, oracle_of(parameters))
    assert 1e-11 < expected.counts[2] < 1e-6
    np.testing.assert_allclose(found.means, expected.means.astype(float), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.covariances, expected.covariances.astype(float), rtol=0, atol=1e-11)
