"""The exact form of many components in few products: z = P'(x - c) - P'(mu - c), component upon component.

Each component's own product is narrow: a triangular routine reaches a third of a core's speed at 64 features, and two
threads take turns for the interpreter between so short calls. Here the factors of many components stand upon each
other, cut by features into four: since P is upper triangular, the first quarter of each z needs the first quarter of x
alone. (64 features, 48 components, 256 rows, one core: 43 to 50 microseconds a component; 76 to 83 each by itself.)

The price is the origin c, from which z loses digits where |P|'(|x - c| + |mu - c|) is large; `Plan.stacked` has the
components for which it is not. It is the root of what Phi loses (there the square of P counts), so most are in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskgmm.mixture.arrays import Floats

#: Parts that the features are cut into.
PARTS = 4
#: Components that one product takes: their z stays in the second-level cache until it is squared.
GROUP = 8


@dataclass(frozen=True)
class Stack:
    """The factors of some components, as products take them.

    Attributes
    ----------
    components : (n,), int64
    matrices : tuple of PARTS arrays, (n * height, 1 + features that it needs), float64
        P' of each component's part and, in the first column, -P'(mu - c). Rows beyond the last feature are zero.
    log_constants : (n,), float64
    height : int
        Entries of z in a part.
    """

    components: NDArray[np.int64]
    matrices: tuple[Floats, ...]
    log_constants: Floats
    height: int

    @classmethod
    def of(cls, chosen: NDArray[np.bool_], means: Floats, factors: Floats, origin: Floats, constants: Floats) -> Stack:
        """Return the stack of the components chosen, of the mixture's means, factors (n_components, D, D) and so on."""
        own, n_features = np.flatnonzero(chosen), means.shape[1]
        height = -(-n_features // PARTS)
        transposed = np.zeros((len(own), PARTS * height, 1 + n_features))
        transposed[:, :n_features, 1:] = np.swapaxes(factors[own], -1, -2)
        transposed[:, :n_features, 0] = -np.einsum("kij,ki->kj", factors[own], means[own] - origin)
        parts = [transposed[:, low : low + height, : 1 + low + height] for low in range(0, PARTS * height, height)]
        matrices = tuple(np.ascontiguousarray(part).reshape(-1, part.shape[-1]) for part in parts)
        return cls(own, matrices, constants[own], height)

    def z_shape(self, n_components: int, n_rows: int) -> tuple[int, int, int]:
        """Return the shape of z of some components."""
        return PARTS, n_components * self.height, n_rows

    def log_density(self, shifted: Floats, z: Floats, out: Floats) -> None:
        """Write z, and the log of weight times density, nats, to `out` (n, n_rows), float64.

        Parameters
        ----------
        shifted : (1 + n_features, n_rows), float64, C order
            Ones, and x - c.
        z : `z_shape`, float64
            Of all components; or of GROUP, where it need not be kept.
        """
        (n, n_rows), height = out.shape, self.height
        for low in range(0, n, GROUP):
            high, begin = min(low + GROUP, n), low if len(z[0]) == n * height else 0
            own = z[:, begin * height : (begin + high - low) * height]
            for part, matrix in zip(own, self.matrices, strict=True):
                np.dot(matrix[low * height : high * height], shifted[: matrix.shape[1]], out=part)
            each = own.reshape(PARTS, high - low, height, n_rows)
            np.einsum("pkdn,pkdn->kn", each, each, out=out[low:high])
        out *= -0.5
        out += self.log_constants[:, np.newaxis]

    def own(self, z: Floats, place: int, out: Floats, rows: NDArray[np.intp] | None) -> Floats:
        """Return z of the component at `place`, (n_features, n_rows), of some rows or all: in `out`, (n,), float64."""
        found = z[:, place * self.height : (place + 1) * self.height]
        n_features, n_rows = self.matrices[-1].shape[1] - 1, z.shape[2] if rows is None else len(rows)
        copy = out[: PARTS * self.height * n_rows].reshape(PARTS, self.height, n_rows)
        if rows is None:
            copy[...] = found
        else:
            np.take(found, rows, axis=2, out=copy, mode="clip")
        return copy.reshape(-1, n_rows)[:n_features]
