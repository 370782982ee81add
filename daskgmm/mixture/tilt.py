"""Rows of a sample in the place of all rows: what these have shown at one mixture, as a prior of the sample's.

At a mixture theta0 a pass over all rows has told the moments of their components. Those of the sample are others there,
and by as much its moments are corrected everywhere (a control variate): EM on the sample then stands still where EM on
all rows does, and goes where that would go, as far as the sample's responsibilities change as all rows' do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from daskgmm.errors import CollapsedComponentError
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.moments import Moments
from daskgmm.mixture.old_rows import OldRows
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Prior
from daskgmm.mixture.shapes.bounded import along
from daskgmm.mixture.shapes.shape import Shape


@dataclass(frozen=True)
class Tilt(Prior):
    """What makes a sample stand for all rows, by moments of both at one mixture, and rows that hold it there.

    With L the log-likelihood of the sample, its sum with `log_density` has the slope of that of all rows, n / N of it,
    at the mixture, and the curvature of L (Jordan, Lee and Yang 2019, doi:10.1080/01621459.2018.1429274).

    Attributes
    ----------
    every : OldRows
        All rows at the mixture, weighing as much as the sample.
    own : OldRows
        The sample there, which is taken away.
    held : OldRows
        Rows as the mixture says, which do not move: where the sample says little, they keep it from going far.
    """

    every: OldRows
    own: OldRows
    held: OldRows

    @classmethod
    def about(
        cls, point: Parameters, every: Parameters, own: Parameters, *, weight: float, floor: float, held: float
    ) -> Tilt:
        """Return the tilt about a mixture, from its images under EM on all rows, and on the sample.

        Parameters
        ----------
        point, every, own : Parameters
            Of a family that has all covariances of its shape.
        weight : float
            Sum of the weights of the sample's rows.
        floor : float
            What M-steps add to every variance, in squared units.
        held : float
            Sum of the weights of the rows that hold the mixture.
        """
        of = ((every, weight), (own, weight), (point, held))
        parts = [OldRows.of(p, weight=n, floor=floor) for p, n in of]
        return cls(*(replace(part, base=replace(part, base=0.0).log_density(point)) for part in parts))

    def moments(self, rows: Moments, shape: Shape, previous: Floats) -> Moments:
        """Return the moments of the rows, and of all rows less the sample's, together.

        A CollapsedComponentError where a component is left without rows.
        """
        # (About the means of one of them, so that little cancels.)
        origin = self.own.means
        parts: list[tuple[float, Moments | OldRows]] = [(1.0, rows), (1.0, self.every), (-1.0, self.own)]
        parts += [(1.0, self.held)] if self.held.counts.any() else []
        counts, first, second = np.zeros(len(origin)), np.zeros_like(origin), np.zeros_like(rows.central)
        for sign, part in parts:
            apart = part.means - origin
            counts += sign * part.counts
            first += sign * part.counts[:, np.newaxis] * apart
            about = shape.shifted(part.counts, part.central, apart)
            second += along(sign * shape.row_sums(part.counts), second) * about
        if not (counts > 0).all():
            raise CollapsedComponentError("a component", "keep rows", "none", "Take a larger sample.")
        apart = first / counts[:, np.newaxis]
        central = second / along(shape.row_sums(counts), second)
        central -= shape.shifted(counts, np.zeros_like(central), apart)
        return replace(rows, counts=counts, means=origin + apart, central=central)

    def log_density(self, parameters: Parameters) -> float:
        return self.gained(parameters) + self.held.log_density(parameters)

    def gained(self, parameters: Parameters) -> float:
        """Return the part of the log-density that is not of the rows that hold the mixture, nats."""
        return self.every.log_density(parameters) - self.own.log_density(parameters)
