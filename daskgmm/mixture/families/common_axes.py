"""The axes that several covariances have in common, under which rows are the most likely: for EVE and VVE.

With q_k = U'S_k U for axes U, orthogonal, and n = sum n_k, what is minimised over U is, twice nats,

    VVE   sum_k n_k sum_j log (q_k)_jj                        (Flury 1984, doi:10.1080/01621459.1984.10477108)
    EVE   n p log sum_k n_k (prod_j (q_k)_jj)^(1/p)           (Celeux and Govaert 1995)

The functions have several minima and saddles, so some starts are compared, and all pairs of axes turned to their best
angles of a grid. Then quasi-Newton steps U exp(X) with X antisymmetric, preconditioned by the diagonal of the Hessian
where all q are diagonal, lead to the minimum to rounding (Ablin, Cardoso and Gramfort 2018, arXiv 1711.10873, have
them for independent components). Majorisation (Browne and McNicholas 2014, doi:10.1007/s11634-013-0139-1) takes
hundreds of steps for the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from scipy.linalg import expm

from daskgmm.mixture.arrays import Floats

#: Angles between 0 and a quarter turn at which pairs of axes are looked at.
N_ANGLES = 24
#: Features up to which that is done: the pairs are gone through one by one.
SWEPT_TO = 16
#: Steps at most, how many of them the quasi-Newton method remembers, and halvings of one.
MOST_STEPS, REMEMBERED, MOST_HALVINGS = 500, 8, 30
#: Twice the nats a row that a Newton step would gain, below which no more is made.
ENOUGH = 1e-15


def common_axes(counts: Floats, central: Floats, starts: Sequence[Floats], *, equal_volumes: bool) -> Floats:
    """Return the common axes, (n_features, n_features), as columns; never worse than any of the starts.

    Parameters
    ----------
    counts : (n_components,), float64
    central : (n_components, n_features, n_features), float64
        Positive definite where the count is not zero.
    starts : sequence of (n_features, n_features)
        Orthogonal matrices to begin with: the best of them is taken.
    equal_volumes : bool
        Whether the determinants are to be equal: EVE, else VVE.
    """
    own = counts > 0
    problem = _Problem(counts[own] / counts[own].sum(), central[own], equal_volumes)
    axes = min(starts, key=problem.value)
    if len(axes) <= SWEPT_TO:
        axes = problem.swept(axes)
    return problem.minimum(axes)


class _Problem:
    """What is minimised, a row."""

    def __init__(self, shares: Floats, central: Floats, equal_volumes: bool) -> None:
        self._shares, self._central, self._equal = shares, central, equal_volumes
        n_features = central.shape[-1]
        self._upper = np.triu_indices(n_features, 1)

    def value(self, axes: Floats) -> float:
        return self._value(variances_in(axes, self._central))

    def _value(self, variances: Floats) -> float:
        logs = np.log(variances).sum(axis=1)
        return float(self._n_features * self._log_volume(logs) if self._equal else self._shares @ logs)

    @property
    def _n_features(self) -> int:
        return int(self._central.shape[-1])

    def _log_volume(self, logs: Floats) -> Floats:
        """Return the logarithm of the mean volume, for one sum of logarithms a component, or a row of them."""
        mean = logs / self._n_features
        highest = mean.max(axis=0)
        return np.asarray(highest + np.log(self._shares @ np.exp(mean - highest)))

    def _weights(self, logs: Floats) -> Floats:
        """Return the derivative by each component's sum of logarithms."""
        if not self._equal:
            return self._shares
        result: Floats = self._shares * np.exp(logs / self._n_features - self._log_volume(logs))
        return result

    def minimum(self, axes: Floats) -> Floats:
        """Return the axes of the minimum that quasi-Newton steps lead to."""
        value, gradient, hessian = self._slope(axes)
        past: deque[tuple[Floats, Floats]] = deque(maxlen=REMEMBERED)
        for _ in range(MOST_STEPS):
            if not len(gradient) or float(gradient @ (gradient / hessian)) <= ENOUGH:
                break
            step = -_two_loops(gradient, hessian, past)
            if not step @ gradient < 0:
                past.clear()
                step = -gradient / hessian
            found = self._along(axes, value, step, float(step @ gradient))
            if found is None:
                if not past:
                    break
                past.clear()
                continue
            length, axes = found
            before = gradient
            value, gradient, hessian = self._slope(axes)
            if (gradient - before) @ step > 0:
                past.append((length * step, gradient - before))
        return axes

    def _along(self, axes: Floats, value: float, step: Floats, slope: float) -> tuple[float, Floats] | None:
        length = min(1.0, 1.0 / float(np.abs(step).max()))
        for _ in range(MOST_HALVINGS):
            turn = np.zeros((self._n_features,) * 2)
            turn[self._upper] = length * step
            new = axes @ expm(turn - turn.T)
            if self.value(new) < value + 1e-4 * length * slope:
                return length, new
            length /= 2
        return None

    def _slope(self, axes: Floats) -> tuple[float, Floats, Floats]:
        """Return the value, and its derivatives by X above the diagonal: the first, and roughly the second ones."""
        q = axes.T @ self._central @ axes
        variances = np.einsum("kii->ki", q)
        w = self._weights(np.log(variances).sum(axis=1))
        pulled = 2 * np.tensordot(w, q / variances[:, np.newaxis], axes=1)
        ratios = (variances.T * w) @ (1 / variances)
        curved = 2 * (ratios + ratios.T - 2 * w.sum())
        return self._value(variances), (pulled - pulled.T)[self._upper], np.maximum(curved, 1e-3)[self._upper]

    def swept(self, axes: Floats) -> Floats:
        """Return the axes after each pair of them was turned to the best of some angles."""
        angles = np.linspace(0, np.pi / 2, N_ANGLES, endpoint=False)
        cos, sin = np.cos(2 * angles), np.sin(2 * angles)
        axes = axes.copy()
        q = axes.T @ self._central @ axes
        for i, j in zip(*self._upper, strict=True):
            middle, half = (q[:, i, i] + q[:, j, j]) / 2, (q[:, i, i] - q[:, j, j]) / 2
            apart = np.outer(half, cos) + np.outer(q[:, i, j], sin)
            pair = np.log(np.maximum(middle[:, np.newaxis] ** 2 - apart**2, np.finfo(np.float64).tiny))
            logs = np.log(np.einsum("kii->ki", q)).sum(axis=1)
            changed = logs[:, np.newaxis] + pair - pair[:, :1]
            values = self._n_features * self._log_volume(changed) if self._equal else self._shares @ changed
            best = int(np.argmin(values))
            if values[best] < values[0] - 1e-9:
                c, s = np.cos(angles[best]), np.sin(angles[best])
                turn = np.array([[c, -s], [s, c]])
                axes[:, [i, j]] = axes[:, [i, j]] @ turn
                q[:, :, [i, j]] = q[:, :, [i, j]] @ turn
                q[:, [i, j]] = turn.T @ q[:, [i, j]]
        return axes


def variances_in(axes: Floats, covariances: Floats) -> Floats:
    """Return the diagonal of U'S U for common axes U, (n_components, n_features)."""
    result: Floats = ((covariances @ axes) * axes).sum(axis=1)
    return result


def _two_loops(gradient: Floats, hessian: Floats, past: deque[tuple[Floats, Floats]]) -> Floats:
    """Return the inverse Hessian of L-BFGS times the gradient."""
    result, shares = gradient.copy(), []
    for step, change in reversed(past):
        shares.append(float(step @ result) / float(step @ change))
        result -= shares[-1] * change
    result /= hessian
    for (step, change), share in zip(past, reversed(shares), strict=True):
        result += (share - float(change @ result) / float(step @ change)) * step
    return result
