"""Components that together are a group: the pairs whose union makes the assignment of rows surer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from daskgmm.mixture.arrays import Floats

Integers = NDArray[np.int64]


def grouped(resp: Floats, weights: Floats) -> list[tuple[float, Integers]]:
    """Return, for K groups down to one, the entropy of the assignment in nats, and the group of each component.

    Step by step those two groups become one with which the entropy -sum_i w_i sum_g r_ig log r_ig falls most (Baudry,
    Raftery, Celeux, Lo and Gottardo 2010, doi:10.1198/jcgs.2010.08111). Groups are numbered by their first component.

    Parameters
    ----------
    resp : (n_components, n_rows), float64
        Responsibilities; they sum to one in each row.
    weights : (n_rows,), float64
        Row weights.
    """
    n_components = len(resp)
    resp = np.array(resp)
    own = xlogy(resp, resp) @ weights
    groups = np.arange(n_components)
    gain = np.full((n_components, n_components), -np.inf)
    for i in range(n_components - 1):
        gain[i, i + 1 :] = _gains(resp, own, weights, i)[i + 1 :]
    found = [(float(max(-own.sum(), 0.0)), groups.copy())]
    for _ in range(n_components - 1):
        i, j = (int(n) for n in np.unravel_index(np.argmax(gain), gain.shape))
        resp[i] = np.minimum(resp[i] + resp[j], 1.0)
        resp, own = np.delete(resp, j, axis=0), np.delete(own, j)
        own[i] = xlogy(resp[i], resp[i]) @ weights
        groups[groups == j] = i
        groups[groups > j] -= 1
        gain = np.delete(np.delete(gain, j, axis=0), j, axis=1)
        if len(resp) > 1:
            anew = _gains(resp, own, weights, i)
            gain[i, i + 1 :], gain[:i, i] = anew[i + 1 :], anew[:i]
        found.append((float(max(-own.sum(), 0.0)), groups.copy()))
    return found


def _gains(resp: Floats, own: Floats, weights: Floats, i: int) -> Floats:
    """Return by how much the entropy falls where group i becomes one with each other one, (n_groups,)."""
    both = resp + resp[i]
    found: Floats = xlogy(both, both) @ weights - own - own[i]
    return found


def elbow(entropies: Floats) -> int:
    """Return the number of groups at which the entropy, for 1, 2, ... groups, begins to rise faster.

    Of two straight lines that meet near one of the numbers, those with the least squares (Baudry et al., section 4.2).
    """
    n = np.arange(1, len(entropies) + 1)
    if len(n) < 4:
        return int(n[-1])

    def squares(part: slice) -> float:
        x, y = n[part], entropies[part]
        return float(((y - np.polyval(np.polyfit(x, y, 1), x)) ** 2).sum())

    breaks = list(range(2, len(n)))
    costs = [squares(slice(0, b)) + squares(slice(b - 1, None)) for b in breaks]
    return breaks[int(np.argmin(costs))]
