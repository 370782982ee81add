"""Rows in units of their own standard deviations: the map there, and a mixture on either side of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.noise import Noise
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.record import Record
from daskgmm.mixture.row_set import RowSet


@dataclass(frozen=True)
class Scaling(Record):
    """z = (x - shift) / scale, feature by feature.

    A density of z is one of x times the product of the scales of the features that a row has.

    Attributes
    ----------
    shift, scale : (n_features,), float64
        In units of the data; scales are positive.
    """

    shift: Floats
    scale: Floats

    @classmethod
    def of(cls, rows: RowSet) -> Scaling:
        """Return the map to mean 0 and variance 1; a feature that does not vary is shifted alone."""
        scale = np.sqrt(rows.variances)
        return cls(rows.mean, np.where(scale > 0, scale, 1.0))

    def log_volume(self, rows: RowSet) -> float:
        """Return what the mean log-density of rows falls by on the way back to units of the data, nats."""
        return float(rows.present(len(self.scale)) @ np.log(self.scale))

    def apply(self, x: Floats) -> None:
        """Map rows in place, (n_features, n_rows), float64."""
        np.subtract(x, self.shift[:, np.newaxis], out=x)
        np.divide(x, self.scale[:, np.newaxis], out=x)

    def values(self, x: Floats) -> Floats:
        """Return points, (..., n_features), mapped."""
        return (x - self.shift) / self.scale

    def scatter(self, scatter: Floats) -> Floats:
        """Return a scatter, or its diagonal, of rows that are mapped."""
        result: Floats = scatter / (np.outer(self.scale, self.scale) if scatter.ndim == 2 else self.scale**2)
        return result

    def row_set(self, rows: RowSet) -> RowSet:
        """Return what is known of rows, as they are mapped."""
        return replace(rows, mean=self.values(rows.mean), scatter=self.scatter(rows.scatter))

    def mapped(self, p: Parameters) -> Parameters:
        """Return the mixture of rows that are mapped, of one in units of the data."""
        noise = None if p.noise is None else p.noise.moved(-self.shift / self.scale, 1 / self.scale)
        return _with_units(p, self.values(p.means), 1 / self.scale, noise)

    def back(self, p: Parameters) -> Parameters:
        """Return the mixture in units of the data."""
        noise = None if p.noise is None else p.noise.moved(self.shift, self.scale)
        return _with_units(p, self.shift + p.means * self.scale, self.scale, noise)


def _with_units(p: Parameters, means: Floats, scale: Floats, noise: Noise | None) -> Parameters:
    rescaled = p.shape.rescaled(p.covariances, p.precisions_cholesky, scale)
    return Parameters(p.family, p.weights, means, *rescaled, noise, p.classes)
