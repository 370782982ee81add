"""What rows with gaps do not tell of each component: a direction whose values they all lack may be told by few rows.

Given what a row has, its gaps keep a covariance C_i under a component. Where S is the component's covariance, a row
tells 1 - u'C_i u / u'S u of the direction u, 1 if it lacks nothing; so of n_k rows

    n_k - largest eigenvalue of S^-1/2 (sum_i r_ik C_i) S^-1/2

tell the direction that is told of least (the part of the complete-data information that is there, Dempster, Laird and
Rubin 1977; McLachlan and Krishnan 2008, sect. 3.8). A component may close in on so few rows however many it holds: each
lacks something of that direction, and does not object.
"""

from __future__ import annotations

import numpy as np

from daskgmm.kernels.gap_forms import gap_form
from daskgmm.kernels.gap_rows import Gaps
from daskgmm.kernels.plan import Plan
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.shapes.matrices import triangle

#: Responsibilities below that are left out of these sums, which need no digits.
_LEAST = 1e-3


def has_untold(p: Parameters) -> bool:
    """Return whether each component has covariances of its own, of as many numbers as there are."""
    return p.family.is_whole and not p.family.is_common


def n_untold(plan: Plan) -> int:
    """Return how many of these sums a component has: none for a plan of rows without gaps."""
    n_features = int(plan.means.shape[1])
    if not plan.gaps:
        return 0
    return n_features * (n_features + 1) // 2 if plan.shape.correlates else n_features


def untold_sums(plan: Plan, gaps: Gaps | None, log_density: Floats, weights: Floats | None) -> Floats:
    """Return the sums of w r C over the rows of a tile, (n_components * n_untold,): see `GapForm.untold`.

    Parameters
    ----------
    log_density : (n_components, n_rows), float64
        Log of weight times density, nats.
    """
    k, n = plan.n_components, n_untold(plan)
    if not n or gaps is None or not len(gaps.rows):
        return np.zeros(k * n)
    resp = log_density[:k, gaps.rows]
    with np.errstate(invalid="ignore"):  # (rows of weight zero may have no density that is a number)
        resp = np.exp(resp - resp.max(axis=0))
        resp /= resp.sum(axis=0)
        resp[~(resp > _LEAST)] = 0.0
    if weights is not None:
        resp *= weights[gaps.rows]
    return gap_form(plan).untold(gaps, resp).ravel()


def told(untold: Floats, resp_sums: Floats, p: Parameters) -> Floats:
    """Return the weight of the rows that tell of each component in the direction of which they tell least.

    Parameters
    ----------
    untold : (n_components, n_untold)
        The sums of a pass.
    resp_sums : (n_components,)
    """
    if not untold.shape[1]:
        return resp_sums
    if not p.shape.correlates:
        return np.asarray(resp_sums - untold.max(axis=1))
    a, b = triangle(p.n_features)
    sums = np.empty((p.n_components, p.n_features, p.n_features))
    sums[:, a, b] = sums[:, b, a] = untold
    factors = p.precisions_cholesky
    whitened = np.swapaxes(factors, 1, 2) @ sums @ factors
    return np.asarray(np.maximum(resp_sums - np.linalg.eigvalsh(whitened)[:, -1], 0.0))
