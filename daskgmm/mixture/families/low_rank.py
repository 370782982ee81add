"""Low rank: each covariance is B B' + noise with B of a few columns: probabilistic PCA, or factor analysis.

With S the covariance of a component's rows, q factors, p features, both M-steps are maxima:

    noise of one variance    the q largest eigenvalues of S stay, and the others become their mean (Tipping and Bishop
                             1999, doi:10.1162/089976699300016728)
    noise of each feature    Psi = diag(psi) minimises sum log psi_i + sum_(j<=q) (1 + log t_j) + sum_(j>q) t_j, with t
                             the eigenvalues of Psi^-1/2 S Psi^-1/2, largest first (those below 1 are no factors);
                             B = Psi^1/2 U_q (t_q - 1)^1/2 (Joreskog 1967, doi:10.1007/BF02289658; Lawley and Maxwell)
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import OptionError
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.families.family import Family
from daskgmm.mixture.shapes.full import FULL

#: The noise of a feature is at least this share of its variance: a factor that is the feature itself has none.
LEAST_NOISE = 1e-6
#: The start of a name; the number of factors follows, and "feature" where the noise is of each feature.
LOW_RANK = "lowrank"
#: What noise may be.
NOISES = ("isotropic", "feature")


def low_rank_name(n_factors: int, factor_noise: str = NOISES[0]) -> str:
    """Return the name of the family of so many factors: lowrank-3, or lowrank-3-feature."""
    return f"{LOW_RANK}-{n_factors}" + ("" if factor_noise == NOISES[0] else f"-{factor_noise}")


def low_rank_called(name: str) -> Family | None:
    """Return the family that `low_rank_name` named so; None where it named none."""
    found = re.fullmatch(rf"{LOW_RANK}-([1-9]\d{{0,5}})(-{NOISES[1]})?", name)
    return None if found is None else _family(name, int(found[1]), found[2] is not None)


@cache
def _family(name: str, n_factors: int, of_features: bool) -> Family:
    return FactorAnalysis(name, n_factors) if of_features else PrincipalComponents(name, n_factors)


class PrincipalComponents(Family):
    """Few directions, and the same variance in all others."""

    shape, takes_any_start = FULL, True

    def __init__(self, name: str, n_factors: int) -> None:
        self.name, self.n_factors = name, n_factors

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.n_factors})"

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * (self._n_loadings(n_features) + 1)

    def _n_loadings(self, n_features: int) -> int:
        return n_features * self.n_factors - self.n_factors * (self.n_factors - 1) // 2

    def least_rows(self, n_features: int) -> int:
        return self.n_factors + 2  # (of fewer rows nothing is left for the noise)

    def most_factors(self, n_features: int) -> int:
        """Return how many factors there may be: with one more the covariances were those of full."""
        return n_features - 1

    def check(self, n_features: int) -> None:
        most = self.most_factors(n_features)
        if self.n_factors > most:
            raise OptionError(
                "`n_factors`",
                f"be at most {most} for {n_features} feature{'' if n_features == 1 else 's'} with this `factor_noise`",
                self.n_factors,
                f"Take {most} or fewer." if most > 0 else "Take another `covariance_type`: full.",
            )

    def maximise(self, counts: Floats, central: Floats, previous: Floats) -> Floats:
        values, axes = np.linalg.eigh(central)
        rest = values.shape[1] - self.n_factors
        values[:, :rest] = np.maximum(values[:, :rest].mean(axis=1, keepdims=True), 0.0)
        return _symmetric((axes * values[:, np.newaxis]) @ np.swapaxes(axes, -1, -2))

    @property
    def rescales(self) -> bool:
        return False

    def factors(self, covariances: Floats) -> tuple[Floats, Floats]:
        """Return B, (K, n_features, n_factors), and the variances of the noise, (K, n_features), of covariances.

        The columns of B are orthogonal (in units of the noise), longest first; the largest number of each is positive.
        """
        found = [self._factors(covariance) for covariance in covariances]
        loadings = np.stack([own for own, _ in found])
        largest = np.take_along_axis(loadings, np.abs(loadings).argmax(axis=1)[:, np.newaxis], axis=1)
        return loadings * np.where(largest < 0, -1.0, 1.0), np.stack([noise for _, noise in found])

    def _factors(self, covariance: Floats) -> tuple[Floats, Floats]:
        values, axes = np.linalg.eigh(covariance)
        noise = values[: -self.n_factors].mean()
        own = axes[:, -self.n_factors :] * np.sqrt(np.maximum(values[-self.n_factors :] - noise, 0.0))
        return own[:, ::-1], np.full(len(values), noise)


class FactorAnalysis(PrincipalComponents):
    """Few factors, and the own noise of each feature."""

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * (self._n_loadings(n_features) + n_features)

    def most_factors(self, n_features: int) -> int:
        # (More are not identified: Ledermann 1937.)
        return int((2 * n_features + 1 - np.sqrt(8 * n_features + 1)) // 2)

    @property
    def rescales(self) -> bool:
        return True

    def maximise(self, counts: Floats, central: Floats, previous: Floats) -> Floats:
        return np.stack([self._of_one(S, before) for S, before in zip(central, previous, strict=True)])

    def has(self, covariances: Floats, n_components: int) -> bool:
        # (By the likelihood: where the noise of a feature hardly matters, a search finds it to few digits.)
        nearest = self.maximise(np.ones(n_components), covariances, covariances)
        pairs = list(zip(covariances, nearest, strict=True))
        return all(_is_regular(S) and _misfit(S, near) < _misfit(S, S) + 1e-9 * len(S) for S, near in pairs)

    def _of_one(self, S: Floats, before: Floats) -> Floats:
        """Return the most likely member for one component; S itself where it is singular."""
        if not _is_regular(S):
            return S
        found = self._from(S, _first_noise(S, self.n_factors))
        if _is_regular(before) and _misfit(S, before) < _misfit(S, found):
            # Another maximum, or no member at all: its own noise tells, of which it is a sum with few factors.
            other = self._from(S, np.maximum(self._factors(before)[1], LEAST_NOISE * np.diag(S)))
            found = min(found, other, key=lambda member: _misfit(S, member))
        return found

    def _factors(self, covariance: Floats) -> tuple[Floats, Floats]:
        own, _ = self._nearest(covariance, _first_noise(covariance, self.n_factors))
        return own, np.diag(covariance) - (own**2).sum(axis=1)

    def _from(self, S: Floats, noise: Floats) -> Floats:
        """Return the member at the minimum that noise leads to."""
        own, found = self._nearest(S, noise)
        result: Floats = own @ own.T + np.diag(found)
        return result

    def _nearest(self, S: Floats, noise: Floats) -> tuple[Floats, Floats]:
        """Return B, longest columns first, and the variances of the noise, at the minimum that noise leads to."""
        variances = np.diag(S)
        log_noise = _least(S, self.n_factors, np.log(noise), np.log(LEAST_NOISE * variances), np.log(variances))
        deviations = np.exp(log_noise / 2)
        values, axes = np.linalg.eigh(S / np.outer(deviations, deviations))
        values, axes = values[: -self.n_factors - 1 : -1], axes[:, : -self.n_factors - 1 : -1]
        return deviations[:, np.newaxis] * axes * np.sqrt(np.maximum(values - 1, 0.0)), deviations**2


class _Point:
    """The objective of factor analysis at a noise, psi, as a function of log psi: its value, gradient and curvature.

    With t and u the eigenvalues and eigenvectors of Psi^-1/2 S Psi^-1/2, F those of the factors (Clarke 1970,
    doi:10.1111/j.2044-8317.1970.tb00440.x):

        gradient     g_a = sum_(j not in F) u_aj^2 (1 - t_j)
        curvature    H_ab = sum_(j not in F, l) c_jl u_aj u_al u_bj u_bl,  c_jl = (t_j + t_l) / 2 where l is no factor
                     either, and (1 - t_j) (t_l + t_j) / (t_l - t_j) where it is one
    """

    def __init__(self, S: Floats, n_factors: int, log_noise: Floats) -> None:
        self.log_noise = log_noise
        deviations = np.exp(log_noise / 2)
        t, self._axes = np.linalg.eigh(S / np.outer(deviations, deviations))
        n = len(t) - n_factors + int(np.count_nonzero(t[-n_factors:] <= 1))
        self._rest, self._factors = t[:n], t[n:]
        self.value = float(log_noise.sum() + (1 + np.log(self._factors)).sum() + self._rest.sum())
        self.gradient: Floats = self._axes[:, :n] ** 2 @ (1 - self._rest)

    def curvature(self, *, exact: bool) -> Floats:
        """Return H; with `exact` false its first term alone, which is never negative."""
        rest, factors, n = self._rest, self._factors, len(self._rest)
        pairs = self._axes[:, np.newaxis] * self._axes
        c = 0.5 * (rest[:, np.newaxis] + rest)
        found: Floats = (pairs[..., :n] @ c * pairs[..., :n]).sum(axis=-1)
        if exact and len(factors):
            apart = factors - rest[:, np.newaxis]  # (none where the number of factors is arbitrary)
            c = (1 - rest[:, np.newaxis]) * (factors + rest[:, np.newaxis]) / np.where(apart > 0, apart, np.inf)
            found += (pairs[..., :n] @ c * pairs[..., n:]).sum(axis=-1)
        return found


def _least(S: Floats, n_factors: int, start: Floats, low: Floats, high: Floats) -> Floats:
    """Return the log noise at the minimum to which a start leads, within bounds: Newton's steps, each a descent."""
    here = _Point(S, n_factors, np.clip(start, low, high))
    for _ in range(_MOST_STEPS):
        x, g = here.log_noise, here.gradient
        free = ~(((x <= low) & (g > 0)) | ((x >= high) & (g < 0)))
        if not free.any() or np.abs(g[free]).max() < _FLAT:
            break
        step = np.zeros_like(x)
        step[free] = _newton(here, free)
        # (Where a noise vanishes a step takes a part of it; all of it is tried first.)
        vanishing = free & (g > 0) & (step < -0.5) & (x < high - _SMALL)
        if vanishing.any():
            there = _Point(S, n_factors, np.clip(np.where(vanishing, low, x + step), low, high))
            if there.value < here.value:
                here = there
                continue
        slope, share = float(g @ step), 1.0
        if -slope < 1e-15 * (1 + abs(here.value)):
            break  # (rounding hides what is to be gained)
        while True:
            there = _Point(S, n_factors, np.clip(x + share * step, low, high))
            if there.value < here.value + 1e-4 * share * slope or share < _LEAST_SHARE:
                break
            share /= 2
        if not there.value < here.value:
            break  # (as far as rounding lets it)
        here = there
    return here.log_noise


def _newton(here: _Point, free: NDArray[np.bool_]) -> Floats:
    """Return Newton's step of the free numbers; where the objective is not convex, one that descends all the same."""
    for exact in (True, False):
        H = here.curvature(exact=exact)[np.ix_(free, free)]
        if not exact:
            H += 1e-6 * np.eye(len(H))
        try:
            L = np.linalg.cholesky(H)
        except np.linalg.LinAlgError:
            continue
        found: Floats = np.linalg.solve(L.T, np.linalg.solve(L, -here.gradient[free]))
        return np.clip(found, -_LONGEST, _LONGEST)
    return -here.gradient[free]


#: Newton's steps at most; a gradient that is none; the shortest part of a step that is tried; how far one goes at most;
#: how far below its largest the logarithm of a small noise is.
_MOST_STEPS, _FLAT, _LEAST_SHARE, _LONGEST, _SMALL = 200, 1e-10, 1e-8, 3.0, 5.0


def _first_noise(S: Floats, n_factors: int) -> Floats:
    """Return Joreskog's first noise: a part of what each feature has that the others do not tell."""
    result: Floats = (1 - 0.5 * n_factors / len(S)) / np.diag(np.linalg.inv(S))
    return result


def _is_regular(S: Floats) -> bool:
    values = np.linalg.eigvalsh(S)
    return bool(values[0] > 1e-15 * values[-1])


def _misfit(S: Floats, covariance: Floats) -> float:
    """Return log|Sigma| + tr S Sigma^-1: twice the nats that a row lacks, up to a constant."""
    return float(np.linalg.slogdet(covariance)[1] + np.trace(np.linalg.solve(covariance, S)))


def _symmetric(matrices: Floats) -> Floats:
    result: Floats = (matrices + np.swapaxes(matrices, -1, -2)) / 2
    return result
