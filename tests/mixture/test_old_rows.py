"""Old rows as a prior: their moments and their part of the free energy, against sums over the rows themselves."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

from daskgmm.mixture.family import family_called
from daskgmm.mixture.merging import costs
from daskgmm.mixture.moments import Moments
from daskgmm.mixture.old_rows import OldRows
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Ridge, maximise

K, D, N = 3, 2, 60
KINDS = ("full", "tied", "diag", "spherical")
Floats = NDArray[np.float64]


def rows(seed: int, offset: float = 0.0) -> tuple[Floats, Floats]:
    """Rows, and responsibilities for them."""
    random = np.random.default_rng(seed)
    return offset + random.normal(0, 2, (N, D)) * [1, 3], random.dirichlet(np.ones(K), N)


def moments(kind: str, x: Floats, resp: Floats) -> Moments:
    """The textbook's, about the means."""
    counts = resp.sum(axis=0)
    means = np.array([r @ x / r.sum() for r in resp.T])
    full = np.array([(r[:, None] * (x - m)).T @ (x - m) / r.sum() for r, m in zip(resp.T, means, strict=True)])
    central = {
        "full": full,
        "tied": np.einsum("k,kij->ij", counts / counts.sum(), full),
        "diag": np.einsum("kii->ki", full),
        "spherical": np.einsum("kii->k", full) / D,
    }[kind]
    return Moments(counts, means, central)


def matrices(p: Parameters) -> Floats:
    k, d = p.means.shape
    c = p.covariances
    return {
        "full": lambda: c,
        "tied": lambda: np.stack([c] * k),
        "diag": lambda: np.stack([np.diag(v) for v in c]),
        "spherical": lambda: np.stack([v * np.eye(d) for v in c]),
    }[p.family.name]()


def expected(p: Parameters, x: Floats, resp: Floats) -> float:
    """Expected complete log-likelihood, row by row."""
    each = [
        np.log(w) + multivariate_normal(m, c).logpdf(x) for w, m, c in zip(p.weights, p.means, matrices(p), strict=True)
    ]
    return float(np.sum(resp * np.array(each).T))


def old_of(kind: str, x: Floats, resp: Floats, floor: float = 0.0) -> tuple[Parameters, OldRows]:
    family, found = family_called(kind), moments(kind, x, resp)
    p = maximise(found, family, previous=found.central, prior=Ridge(floor))
    return p, OldRows.of(p, weight=float(len(x)), floor=floor)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_the_moments_of_old_and_new_rows_are_those_of_all(kind: str, offset: float) -> None:
    (x, r), (y, s) = rows(0, offset), rows(1, offset)
    _, old = old_of(kind, x, r, floor=0.1)
    found = old.moments(moments(kind, y, s), family_called(kind).shape, np.ones(1))
    # (Rounded to 1e-8 as they are at that offset, the rows themselves are exact without it.)
    both = moments(kind, np.concatenate([x, y]) - offset, np.concatenate([r, s]))
    rounding = 1e-12 + 1e-15 * offset
    np.testing.assert_allclose(found.counts, both.counts, rtol=1e-12)
    np.testing.assert_allclose(found.means - offset, both.means, atol=10 * rounding)
    np.testing.assert_allclose(found.central, both.central, rtol=1e-11, atol=20 * rounding)


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_density_is_the_change_of_the_expected_log_likelihood(kind: str) -> None:
    (x, r), (y, s) = rows(0), rows(1)
    (before, old), (other, _) = old_of(kind, x, r), old_of(kind, y, s)
    assert abs(old.log_density(before)) < 1e-10
    assert old.log_density(other) == pytest.approx(expected(other, x, r) - expected(before, x, r), rel=1e-11)
    assert old.log_density(other) < -1  # (the old rows like their own mixture best)
    assert old.scaled(0.25).log_density(other) == pytest.approx(old.log_density(other) / 4, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_two_components_as_one(kind: str) -> None:
    (x, r), (y, s) = rows(0), rows(1)
    (before, old), (other, _) = old_of(kind, x, r), old_of(kind, y, s)
    shape = family_called(kind).shape
    joined = old.joined(shape, 2, 0)
    assert (joined.freed, joined.into) == ((0,), (2,))
    summed = r.copy()
    summed[:, 2] += summed[:, 0]
    summed[:, 0] = 0.0
    alive = [1, 2]
    wanted = moments(kind, x, summed[:, alive])
    np.testing.assert_allclose(joined.counts, summed.sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(joined.means[alive], wanted.means, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(shape.subset(joined.central, alive), wanted.central, rtol=1e-11)
    n, m = r.sum(axis=0)[[0, 2]]
    entropy = -n * np.log(n / (n + m)) - m * np.log(m / (n + m))
    change = expected(other, x, summed) - expected(before, x, r) - entropy
    assert joined.log_density(other) == pytest.approx(change, rel=1e-11)


def test_what_is_lost_by_it_is_runnalls_bound() -> None:
    x, r = rows(0)
    p, old = old_of("full", x, r)
    joined = old.joined(p.shape, 1, 2)
    best = Parameters.from_covariances(p.family, joined.counts / N, joined.means, joined.central)
    assert joined.log_density(best) == pytest.approx(-N * costs(p)[1, 2], rel=1e-10)
