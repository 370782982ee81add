"""Split-and-merge moves leave a planted bad optimum, and leave a good one alone."""

import numpy as np
import pytest

from daskgmm.fitting.escape import exchanges, moved, proposals
from daskgmm.fitting.merge import look
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.split import splits
from tests.kernels.driving import KINDS, step

#: Added to every variance; the planted ones are 1.
REG_COVAR = 1e-6
CENTRES = np.array([0.0, 12.0, 24.0, 36.0])


def covariances(kind, n_features, variances):
    """The covariances with these variances of the components, the same for all features."""
    variances = np.asarray(variances, dtype=float)
    return {
        "full": np.eye(n_features) * variances[:, np.newaxis, np.newaxis],
        "tied": np.eye(n_features) * variances.mean(),
        "diag": np.repeat(variances[:, np.newaxis], n_features, axis=1),
        "spherical": variances,
    }[kind]


def mixture(kind, weights, means, variances):
    kind_, means = family_called(kind), np.asarray(means, dtype=float)
    return Parameters.from_covariances(kind_, np.asarray(weights), means, covariances(kind, means.shape[1], variances))


def planted(n_features, n_rows=2000, *, offset=0.0):
    """Rows around four centres along the first feature, and the centres."""
    rng = np.random.default_rng(3)
    centres = np.zeros((4, n_features))
    centres[:, 0] = CENTRES
    return centres[rng.integers(0, 4, n_rows)] + rng.standard_normal((n_rows, n_features)) + offset, centres + offset


def em(X, parameters, n_iter, row_weights=None):
    """The mixture after EM, and the mean log-likelihood before the last iteration."""
    for _ in range(n_iter):
        found = step(X, parameters, reg_covar=REG_COVAR, row_weights=row_weights)
        parameters = found.parameters
    return parameters, found.objective


def stuck(kind, X, centres):
    """EM's end where two components share the first group of rows and one spans the third and the fourth."""
    means = np.stack([centres[0] - 0.5, centres[0] + 0.5, centres[1], (centres[2] + centres[3]) / 2])
    return em(X, mixture(kind, np.full(4, 0.25), means, [1, 1, 1, 30]), 30)


def propose(parameters, X, weights=None, *, n_most=3, reg_covar=REG_COVAR):
    w = np.ones(len(X)) if weights is None else weights
    outlook = look(parameters, X, w)
    found = splits(parameters, X, w, outlook.members, floor=reg_covar, rng=np.random.default_rng(0))
    return proposals(parameters, outlook, found, n_most=n_most)


def sorted_means(parameters):
    return parameters.means[np.argsort(parameters.means[:, 0])]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_features", [1, 2, 7])
def test_a_planted_bad_optimum_is_left(kind, n_features):
    X, centres = planted(n_features)
    parent, before = stuck(kind, X, centres)
    _, planted_optimum = em(X, mixture(kind, np.full(4, 0.25), centres, np.ones(4)), 20)
    assert planted_optimum > before + 0.4, "the planted optimum is a bad one"
    first = propose(parent, X)[0]
    assert first.family is parent.family
    assert first.n_components == 4
    assert first.weights.sum() == pytest.approx(1)
    child, after = em(X, first, 20)
    assert after == pytest.approx(planted_optimum, abs=1e-4)
    np.testing.assert_allclose(sorted_means(child)[:, 0], CENTRES, atol=0.2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [0.0, 1e-12])
def test_an_empty_component_is_put_to_use(kind, weight):
    X, centres = planted(3)
    means = np.stack([centres[0] - 500, centres[0], centres[1], (centres[2] + centres[3]) / 2])
    parent = mixture(kind, [weight, 0.25, 0.25, 0.5 - weight], means, [1, 1, 1, 30])
    parent, before = em(X, parent, 10)
    _, after = em(X, propose(parent, X)[0], 20)
    _, planted_optimum = em(X, mixture(kind, np.full(4, 0.25), centres, np.ones(4)), 20)
    assert after == pytest.approx(planted_optimum, abs=1e-4)
    assert after > before + 0.4


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_optimum_is_left_alone(kind):
    X, centres = planted(2)
    best, _ = em(X, mixture(kind, np.full(4, 0.25), centres, np.ones(4)), 20)
    assert propose(best, X) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_components", [1, 2])
def test_two_components_are_too_few_to_move(kind, n_components):
    X, centres = planted(2)
    few = mixture(kind, np.full(n_components, 1 / n_components), centres[:n_components], np.ones(n_components))
    assert propose(few, X) == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_offset_changes_no_move(kind):
    offset = 1e8
    X, centres = planted(2)
    # What the rows are after rounding to the offset: the same rows, 1e8 away and here.
    far = X + offset
    near = far - offset
    parent, _ = stuck(kind, near, centres)
    moved = Parameters(
        parent.family, parent.weights, parent.means + offset, parent.covariances, parent.precisions_cholesky
    )
    here, there = propose(parent, near), propose(moved, far)
    assert len(here) == len(there) >= 1
    for a, b in zip(here, there, strict=True):
        np.testing.assert_allclose(b.means - offset, a.means, atol=1e-4)
        np.testing.assert_allclose(b.covariances, a.covariances, atol=1e-4)
        np.testing.assert_allclose(b.weights, a.weights, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_integer_weights_are_repetitions(kind):
    X, centres = planted(2, 700)  # so few that none are drawn
    w = np.random.default_rng(5).integers(0, 4, len(X)).astype(float)
    parent, _ = em(X, stuck(kind, X, centres)[0], 5, w)
    weighted, repeated = propose(parent, X, w), propose(parent, np.repeat(X, w.astype(int), axis=0))
    assert len(weighted) == len(repeated) >= 1
    for a, b in zip(weighted, repeated, strict=True):
        np.testing.assert_allclose(a.means, b.means, atol=1e-9)
        np.testing.assert_allclose(a.covariances, b.covariances, atol=1e-9)
        np.testing.assert_allclose(a.weights, b.weights, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_differ_and_n_most_bounds_them(kind):
    rng = np.random.default_rng(6)
    centres = 4 * rng.standard_normal((8, 2))
    X = centres[rng.integers(0, 8, 3000)] + rng.standard_normal((3000, 2))
    parent, _ = em(X, mixture(kind, np.full(8, 1 / 8), rng.standard_normal((8, 2)), np.full(8, 4.0)), 10)
    found = propose(parent, X, n_most=5)
    assert len(found) > 1
    assert len(propose(parent, X, n_most=1)) == 1
    for i, a in enumerate(found):
        assert not any(np.allclose(a.means, b.means) for b in found[:i])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_repeat_and_components_of_a_few_rows_give_only_finite_proposals(kind):
    rng = np.random.default_rng(7)
    X = np.concatenate(
        [np.repeat(rng.standard_normal((4, 3)), 50, axis=0), 9 + rng.standard_normal((300, 3)), np.full((3, 3), 60.0)]
    )
    for reg_covar in (0.0, 1e-6):
        means = np.concatenate([X[[0, 60, 120, 499, 502]], X[[220]]])
        parent = mixture(kind, np.full(6, 1 / 6), means, np.full(6, 2.0))
        for child in propose(parent, X, n_most=9, reg_covar=reg_covar):
            for values in (child.weights, child.means, child.covariances, child.precisions_cholesky):
                assert np.isfinite(values).all()
            assert np.isfinite(step(X, child, reg_covar=1e-3).objective)


def test_a_half_that_is_thinner_than_the_regularisation_is_not_proposed():
    rng = np.random.default_rng(8)
    groups = [rng.standard_normal((400, 2)) + np.array([10 * i, 0]) for i in range(3)]
    # Half of the third group has one value of the second feature: a likelihood without bound, and no group of its own.
    groups[2][::2, 1] = 0.3
    X = np.concatenate(groups)
    means = np.array([[0, 0], [0.5, 0], [10, 0], [20, 0]])
    parent, _ = em(X, mixture("full", np.full(4, 0.25), means, np.ones(4)), 30)
    assert np.linalg.eigvalsh(parent.covariances).min() > 0.1, "EM itself did not find it"
    for child in propose(parent, X):
        assert np.linalg.eigvalsh(child.covariances).min() > 1e-3


# -- moves that are made together ------------------------------------------------------------------------------------
def exchanged(parameters, X, spikes=None):
    """The moves that are proposed together, and the mixture after all of them."""
    w = np.ones(len(X))
    outlook = look(parameters, X, w)
    found = splits(
        parameters, X, w, outlook.members, floor=REG_COVAR, rng=np.random.default_rng(0), n_fitted=len(X) // 2
    )
    spikes = np.zeros(parameters.n_components, dtype=bool) if spikes is None else np.asarray(spikes)
    moves = exchanges(outlook, found, spikes)
    return moves, moved(parameters, moves)


def two_of_everything(kind):
    """Eight groups; twice two components share a group, and twice one spans two."""
    rng = np.random.default_rng(4)
    centres = np.stack([12.0 * np.arange(8), np.zeros(8)], axis=1)
    X = centres[rng.integers(0, 8, 6000)] + rng.standard_normal((6000, 2))
    means = np.stack([
        centres[0] - 0.5, centres[0] + 0.5, centres[1], (centres[2] + centres[3]) / 2,
        centres[4] - 0.5, centres[4] + 0.5, centres[5], (centres[6] + centres[7]) / 2,
    ])  # fmt: skip
    parent, _ = em(X, mixture(kind, np.full(8, 1 / 8), means, [1, 1, 1, 30, 1, 1, 1, 30]), 30)
    return X, centres, parent


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_is_wrong_is_mended_at_once(kind):
    X, centres, parent = two_of_everything(kind)
    moves, child = exchanged(parent, X)
    taken = [k for split, merge in moves for k in {split.k, merge.i, merge.j}]
    assert len(taken) == len(set(taken)), "no component is in two moves"
    assert len(moves) == 2
    child, _ = em(X, child, 20)
    np.testing.assert_allclose(sorted_means(child), centres, atol=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_exchanged_at_a_good_optimum(kind):
    X, centres = planted(2)
    best, _ = em(X, mixture(kind, np.full(4, 0.25), centres, np.ones(4)), 20)
    assert exchanged(best, X)[0] == []


def test_a_spike_goes_first_at_any_price_and_is_not_split():
    X, _, parent = two_of_everything("full")
    spikes = np.arange(8) == 2  # a component that the rows need
    moves, _ = exchanged(parent, X, spikes)
    assert 2 in (moves[0][1].i, moves[0][1].j)
    assert all(split.k != 2 for split, _ in moves)


def test_a_gain_is_measured_on_rows_that_the_split_was_not_fitted_to():
    """Two components fit rows of one better than one does; rows that they have not seen know better."""
    X = np.random.default_rng(1).standard_normal((400, 6))
    one = mixture("full", [1.0], np.zeros((1, 6)), [1.0])
    one, _ = em(X, one, 2)
    members = [(np.arange(400), np.ones(400))]
    others = {"floor": REG_COVAR, "rng": np.random.default_rng(0)}
    (same,) = splits(one, X, np.ones(400), members, **others)
    assert same.gain == same.hope > 0.02
    (half,) = splits(one, X, np.ones(400), members, n_fitted=200, **others)
    assert half.hope > 0.02
    assert half.gain < 0
