"""Moves of a mixture with noise: to rows that the noise holds, and away from those that it is better for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from daskgmm.fitting.escape import exchanges, moved, proposals
from daskgmm.fitting.growth import grown
from daskgmm.fitting.merge import look
from daskgmm.mixture.family import family_called
from daskgmm.mixture.noise import Noise
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.split import NOISE, Split
from tests.kernels.driving import KINDS, dense_covariances, step

#: Three groups of variance 1, far apart in a square of side 40, and rows strewn over it.
CENTRES = np.array([[-12.0, 0.0], [12.0, 0.0], [0.0, 12.0]])
SHARES, LOG_VOLUME = np.array([0.4, 0.3, 0.2]), 2 * np.log(40.0)


def rows(n_rows: int = 2000) -> np.ndarray:
    rng = np.random.default_rng(2)
    group = rng.choice(4, n_rows, p=[*SHARES, 0.1])
    found = CENTRES[np.minimum(group, 2)] + rng.standard_normal((n_rows, 2))
    return np.where((group == 3)[:, np.newaxis], rng.uniform(-20, 20, (n_rows, 2)), found)


def mixture(kind: str, weights: list[float], means: list[np.ndarray], variance: float = 1.0) -> Parameters:
    one = {"full": variance * np.eye(2), "diag": np.full(2, variance), "spherical": np.array(variance)}
    covariances = variance * np.eye(2) if kind == "tied" else np.stack([one[kind]] * len(means))
    p = Parameters.from_covariances(family_called(kind), np.array(weights), np.array(means), covariances)
    return p.beside_noise(Noise(0.0, LOG_VOLUME)).with_more_noise(1 - sum(weights))


def em(X: np.ndarray, p: Parameters, n_iter: int = 20) -> Parameters:
    for _ in range(n_iter):
        p = step(X, p, reg_covar=1e-6).parameters
    return p


def score(X: np.ndarray, p: Parameters) -> float:
    """The mean log-likelihood, by SciPy's densities."""
    assert p.noise is not None
    assert p.weights.sum() + p.noise.weight == pytest.approx(1, abs=1e-12)
    each = zip(p.weights, p.means, dense_covariances(p), strict=True)
    density = p.noise.weight * np.exp(-LOG_VOLUME) + sum(w * multivariate_normal(m, c).pdf(X) for w, m, c in each)
    return float(np.log(density).mean())


def splits_of(p: Parameters, X: np.ndarray, n_fitted: int | None = None) -> list[Split]:
    rng = np.random.default_rng(0)
    return look(p, X, np.ones(len(X))).splits(p, np.ones(len(X)), floor=1e-6, rng=rng, n_fitted=n_fitted)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_group_among_the_rows_of_the_noise_becomes_a_component(kind: str, weighted: bool) -> None:
    X = rows()
    small = em(X, mixture(kind, [0.4, 0.3], [*CENTRES[:2]]))
    assert small.noise is not None
    assert small.noise.weight == pytest.approx(0.3, abs=0.02), "the noise has the third group"
    w = 3.0 * np.ones(len(X)) if weighted else np.ones(len(X))
    split = max(look(small, X, w).splits(small, w, floor=1e-6, rng=np.random.default_rng(0)), key=lambda s: s.gain)
    assert split.k == NOISE
    larger = grown(small, X, w, n_components=3, floor=1e-6, rng=np.random.default_rng(0))
    assert larger is not None
    assert larger.noise is not None
    np.testing.assert_allclose(larger.means[2], CENTRES[2], atol=0.15)
    np.testing.assert_allclose(larger.weights, SHARES, atol=0.02)
    assert larger.noise.weight == pytest.approx(0.1, abs=0.02)
    # (No group has rows of another, so that the gain is not only the least that comes of it. It is measured on some.)
    assert score(X, larger) - score(X, small) == pytest.approx(split.gain, rel=0.05)
    planted = em(X, mixture(kind, [*SHARES], [*CENTRES]))
    assert score(X, em(X, larger)) == pytest.approx(score(X, planted), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_moves_to_rows_that_the_noise_holds(kind: str) -> None:
    """Of two that share a group one goes: alone, and with all moves that are made together."""
    X = rows()
    parent = em(X, mixture(kind, [0.2, 0.2, 0.2], [CENTRES[0] - 0.5, CENTRES[0] + 0.5, CENTRES[1]]))
    planted = score(X, em(X, mixture(kind, [*SHARES], [*CENTRES])))
    assert planted > score(X, parent) + 0.3
    outlook = look(parent, X, np.ones(len(X)))
    first = proposals(parent, outlook, splits_of(parent, X), n_most=3)[0]
    together = moved(parent, exchanges(outlook, splits_of(parent, X, len(X) // 2), np.zeros(3, dtype=bool)))
    for child in (first, together):
        assert child is not None
        assert score(X, em(X, child)) == pytest.approx(planted, abs=1e-4)


@pytest.mark.parametrize("kind", ["diag", "spherical"])
def test_a_component_of_two_groups_leaves_one_to_the_noise(kind: str) -> None:
    X = rows()
    wide = mixture(kind, [0.4, 0.5], [CENTRES[0], (CENTRES[1] + CENTRES[2]) / 2])
    covariances = wide.covariances.copy()
    covariances[1] *= 60.0
    parent = em(X, wide.changed(wide.weights, wide.means, covariances), 60)
    better = score(X, em(X, mixture(kind, [0.4, 0.3], [*CENTRES[:2]])))
    assert better > score(X, parent) + 0.02
    outlook = look(parent, X, np.ones(len(X)))
    found = proposals(parent, outlook, splits_of(parent, X), n_most=6)
    assert max(score(X, em(X, child)) for child in found) == pytest.approx(better, abs=1e-4)
    moves = exchanges(outlook, [s for s in splits_of(parent, X, len(X) // 2) if not s.adds], np.zeros(2, dtype=bool))
    assert [merge for _, merge in moves] == [None]
    child = moved(parent, moves)
    assert child is not None
    assert score(X, em(X, child)) == pytest.approx(better, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_that_is_only_strewn_rows_is_left_alone(kind: str) -> None:
    X = rows()
    best = em(X, mixture(kind, [*SHARES], [*CENTRES]))
    outlook = look(best, X, np.ones(len(X)))
    assert exchanges(outlook, splits_of(best, X, len(X) // 2), np.zeros(3, dtype=bool)) == []
    assert proposals(best, outlook, splits_of(best, X), n_most=6) == []
