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
        bounds = np.stack([np.log(LEAST_NOISE * variances), np.log(variances)], axis=1)
        start = np.clip(np.log(noise), bounds[:, 0], bounds[:, 1])
        exact = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000, "maxfun": 2000, "maxcor": 20}
        from scipy.optimize import minimize  # (15 MiB, which workers need not have)

        found = minimize(self._objective, start, args=(S,), jac=True, method="L-BFGS-B", bounds=bounds, options=exact)
        deviations = np.exp(found.x / 2)
        values, axes = np.linalg.eigh(S / np.outer(deviations, deviations))
        values, axes = values[: -self.n_factors - 1 : -1], axes[:, : -self.n_factors - 1 : -1]
        return deviations[:, np.newaxis] * axes * np.sqrt(np.maximum(values - 1, 0.0)), deviations**2

    def _objective(self, log_noise: Floats, S: Floats) -> tuple[float, Floats]:
        deviations = np.exp(log_noise / 2)
        values, axes = np.linalg.eigh(S / np.outer(deviations, deviations))
        factor = np.zeros(len(values), dtype=bool)
        factor[-self.n_factors :] = values[-self.n_factors :] > 1
        value = log_noise.sum() + (1 + np.log(values[factor])).sum() + values[~factor].sum()
        return float(value), 1 - axes**2 @ np.where(factor, 1.0, values)


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
