"""Coordinates of mixtures about one of them, in which every point is a mixture and lengths have a meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import CollapsedComponentError
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.noise import Noise
from daskgmm.mixture.parameters import Parameters


@dataclass(frozen=True)
class Chart:
    """Coordinates of mixtures about `base`, which is at 0.

    Per component they are log(weight / weight0), P0'(mu - mu0) and `Family.relative`, times sqrt(weight0); a common
    covariance counts once. Whatever their values, weights sum to one and covariances are positive definite. Origin
    and units of the features do not matter (as far as the family knows none). The squared length is, to second order,
    twice the divergence of the mixtures if the component of each row were known, which knows no basis either.

    Attributes
    ----------
    base : Parameters
    live : (n_components,), bool
        Components that move; the others, of weight zero in one of the points, have coordinates 0.
    noise_is_live : bool
        Whether the noise does, whose weight has the last coordinate.
    """

    base: Parameters
    live: NDArray[np.bool_]
    noise_is_live: bool = False

    @classmethod
    def about(cls, base: Parameters, others: Sequence[Parameters]) -> Chart:
        """Return the chart about `base` in which `others` have coordinates too."""
        noise_is_live = all(p.noise is not None and p.noise.weight > 0 for p in (base, *others))
        return cls(base, np.all([p.weights > 0 for p in (base, *others)], axis=0), noise_is_live)

    def coordinates(self, parameters: Parameters) -> Floats:
        """Return the coordinates of a mixture, (n_coordinates,), float64; not finite where they overflow."""
        base = self.base
        with np.errstate(all="ignore"):
            parts = (
                (parameters.log_weights - base.log_weights)[:, np.newaxis],
                base.shape.whiten(parameters.means - base.means, base.precisions_cholesky),
                base.family.relative(base.precisions_cholesky, parameters.precisions_cholesky, base.n_features),
            )
            scaled = [np.where(s > 0, s * part, 0.0) for s, part in zip(self._scales(), parts, strict=True)]
        return np.concatenate([*(part.ravel() for part in scaled), self._of_noise(parameters)])

    def mixture(self, coordinates: Floats, rest: Parameters) -> Parameters | None:
        """Return the mixture at these coordinates, with the components of `rest` that do not move.

        None where it overflows, or a variance is too small to be a number.
        """
        base, shape, live = self.base, self.base.shape, self.live
        n_components, n_features = base.means.shape
        noise = base.noise
        coordinates, own = np.split(coordinates, [len(coordinates) - (noise is not None)])
        parts = np.split(coordinates, [n_components, n_components * (1 + n_features)])
        logs, shifts, relative = (
            part.reshape(len(s), -1) / np.where(s > 0, s, 1.0) for s, part in zip(self._scales(), parts, strict=True)
        )
        try:
            with np.errstate(all="ignore"):
                if noise is None:
                    weights = np.where(live, base.weights * np.exp(logs[:, 0] - logs.max()), 0.0)
                    weights = np.where(live, weights * ((1 - rest.weights[~live].sum()) / weights.sum()), rest.weights)
                else:
                    weights, noise = self._weights(logs[:, 0], float(own[0]), rest, noise)
                means = base.means + shape.unwhiten(shifts, base.precisions_cholesky)
                precisions = base.family.from_relative(base.precisions_cholesky, relative, n_features)
                precisions = shape.chosen(live, precisions, rest.precisions_cholesky)
                covariances = shape.covariances(precisions)
                nearest = base.family.nearest(weights, covariances, rest.covariances)
                if nearest is not None:
                    covariances, precisions = nearest, shape.precisions_cholesky(nearest)
        except (CollapsedComponentError, np.linalg.LinAlgError, ValueError):  # (the last: not finite, says SciPy)
            return None
        means = np.where(live[:, np.newaxis], means, rest.means)
        found = Parameters(base.family, weights, means, covariances, precisions, noise, rest.classes)
        finite = all(np.isfinite(a).all() for a in (weights, means, covariances, precisions))
        return found if finite and (shape.variances(covariances) > 0).all() else None

    def _of_noise(self, parameters: Parameters) -> Floats:
        """Return the coordinate of the weight of the noise, (1,); (0,) without noise."""
        ours, theirs = self.base.noise, parameters.noise
        if ours is None or theirs is None:
            return np.empty(0)
        return np.array([np.sqrt(ours.weight) * np.log(theirs.weight / ours.weight) if self.noise_is_live else 0.0])

    def _weights(self, logs: Floats, own: float, rest: Parameters, noise: Noise) -> tuple[Floats, Noise]:
        """Return the weights at the logarithms of their ratios, and the noise at its coordinate."""
        live = np.append(self.live, self.noise_is_live)
        before = np.append(self.base.weights, noise.weight)
        after = np.append(rest.weights, noise.weight if rest.noise is None else rest.noise.weight)
        logs = np.append(logs, own / np.sqrt(noise.weight) if self.noise_is_live else -np.inf)
        found = np.where(live, before * np.exp(logs - logs[live].max()), 0.0)
        found = np.where(live, found * ((1 - after[~live].sum()) / found.sum()), after)
        return found[:-1], noise.with_weight(found[-1])

    def _scales(self) -> tuple[Floats, Floats, Floats]:
        """Return the factors of the coordinates of weights, means and covariances, one a component each, as columns."""
        live = np.where(self.live, self.base.weights, 0.0)
        own, of_covariances = (np.sqrt(w)[:, np.newaxis] for w in (live, self.base.shape.covariance_weights(live)))
        return own, own, of_covariances
