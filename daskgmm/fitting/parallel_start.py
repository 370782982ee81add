"""Starts by k-means||: points from all rows, small and far groups included, and k-means on them.

(Bahmani et al. 2012, doi:10.14778/2180912.2180915.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from daskgmm.fitting.class_starts import ClassStarts
from daskgmm.fitting.openmp import one_openmp_thread
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.start import Members, moments_of, regular_starts, spread_of
from daskgmm.fitting.unsaid import unsaid
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.moments import Moments
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.far_rows import Centres, FarRows, FarRowsPass, Nearest, NearestPass

#: Passes that take rows, and how many times n_components rows each takes.
N_ROUNDS, OVERSAMPLING = 5, 2
#: A point stands for rows of at least this share of the variance within components: one row alone has none.
SMALLEST_SPREAD = 1e-2
#: Weights of the points to these powers, restart by restart, choose the first centres of k-means. By the weights
#: themselves a far group of a few rows costs less than a large component left whole, and k-means would drop it again
#: (measured: 0.5 of 3 groups of 20 to 75 among 150,000 rows were kept; by their roots 2.0, by the points alone 2.7 of
#: the 2.7 that the rounds had found). By the points alone a single outlier counts as much as any.
POWERS = (0.5, 0.0)


def far_points(
    run: Callable[[Any, str], Any],
    *,
    mean: Floats,
    variances: Floats,
    n_components: int,
    seed: int,
    n_rounds: int = N_ROUNDS,
    oversampling: int = OVERSAMPLING,
) -> tuple[Floats, Floats, Floats]:
    """Return points that stand for all rows, their weights, and the variances of the rows about them.

    Takes at most n_rounds + 1 passes: each round takes oversampling * n_components rows that are far from all taken so
    far, and the last pass gives every row to the nearest. The first centre is the mean.

    Parameters
    ----------
    run : callable
        Runs a pass, given it and a name, over all rows and returns its state.
    mean, variances : (n_features,), float64
        Of all rows, from the survey. Distances are in units of the standard deviations.
    seed : int
        The same points for the same seed whatever the partitioning, up to the rounding of sums.

    Returns
    -------
    points : (n_points, n_features), float64
        Means of the rows nearest to one of the rows taken; n_points is at most 1 + n_rounds * rows of a round.
    weights : (n_points,), float64
        Sums of the row weights of these; positive.
    spread : (n_points, n_features), float64
        Their variances about the point.
    """
    centres = Centres(mean[np.newaxis], mean, variances)
    for i in range(n_rounds):
        taken: FarRows = run(FarRowsPass(centres, oversampling * n_components, seed + 1 + i), "far-rows")
        if not len(taken.points):
            break  # every row is a centre already
        centres = Centres(np.concatenate([centres.points, taken.points]), mean, variances)
    nearest: Nearest = run(NearestPass(centres), "nearest")
    points, spread = nearest.moments(centres)
    filled = nearest.weights > 0
    return points[filled], nearest.weights[filled], spread[filled]


def parallel_starts(
    points: Floats, weights: Floats, spread: Floats, options: FitOptions, n_starts: int,
    classes: ClassStarts | None = None,
) -> list[Parameters]:  # fmt: skip
    """Return n_starts initial mixtures by k-means on weighted points, and from what the user gave.

    A start with a singular covariance is left out, unless all are singular.

    Parameters
    ----------
    points, weights, spread : float64
        As `far_points` returns them.
    """
    shape, given = options.family.shape, options.given(points.shape[1])
    if len(points) < options.n_components:
        n = -(-options.n_components // len(points))  # fewer distinct rows than components: some share a point
        points, weights, spread = np.tile(points, (n, 1)), np.tile(weights / n, n), np.tile(spread, (n, 1))
    rng = np.random.RandomState(options.seed)
    whole = spread_of(points, weights, shape, options.n_components, within=spread)
    fallback = shape.regularise(whole, options.whole_prior.floor)
    found = _moments(points, weights, spread, options, n_starts, rng)
    if classes is not None:
        found = (classes.placed(moments, options.family, whole=whole) for moments in found)
    return regular_starts(found, given, options, fallback=fallback)


def _moments(
    points: Floats, weights: Floats, spread: Floats, options: FitOptions, n_starts: int, rng: np.random.RandomState
) -> Iterator[Moments]:
    """Yield the moments of the components of each start."""
    from sklearn.cluster import KMeans

    k = options.n_components
    mean = weights @ points / weights.sum()
    variances = weights @ (np.square(points - mean) + spread) / weights.sum()
    scaled = (points - mean) / np.sqrt(np.where(variances > 0, variances, 1.0))
    for i in range(n_starts):
        with one_openmp_thread(), unsaid():
            far = KMeans(k, n_init=1, random_state=rng).fit(scaled, sample_weight=weights ** POWERS[i % len(POWERS)])
            # From these centres a k-means with the weights themselves has the large components right, and keeps the
            # groups.
            labels = KMeans(k, init=far.cluster_centers_, n_init=1).fit(scaled, sample_weight=weights).labels_
        rows = [np.flatnonzero(labels == j) for j in range(k)]
        members = [(own, weights[own]) for own in rows]
        least = SMALLEST_SPREAD * _variances_within(points, members, spread)
        yield moments_of(points, members, options.family.shape, rng, within=np.maximum(spread, least))


def _variances_within(points: Floats, members: Members, spread: Floats) -> Floats:
    """Return the variances of all rows about the means of their components, (n_features,), float64."""
    squares, total = np.zeros(points.shape[1]), 0.0
    for rows, w in members:
        if len(rows):
            centred = points[rows] - points[rows[0]]
            squares += w @ (np.square(centred - w @ centred / w.sum()) + spread[rows])
            total += w.sum()
    return squares / total
