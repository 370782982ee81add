"""Initial parameters from the seeded sample, by scikit-learn's four ways, and from what the user gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import CollapsedComponentError, DataError
from daskgmm.fitting.annealing import PLAIN, SHRUNK, TEMPERED, Schedule
from daskgmm.fitting.class_starts import ClassStarts
from daskgmm.fitting.openmp import one_openmp_thread
from daskgmm.fitting.options import FitOptions, Given
from daskgmm.fitting.unsaid import unsaid
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.moments import SMALLEST_COUNT, Moments
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Shrinkage, Together, maximise
from daskgmm.mixture.shapes.shape import Shape
from daskgmm.passes.local_executor import LocalExecutor

Members = list[tuple[NDArray[np.int64], Floats]]

#: Starts that are found at once, at most: each has one thread, and a copy of the rows.
SIDE_BY_SIDE = 4


@dataclass(frozen=True)
class Way:
    """A way to a start.

    Attributes
    ----------
    init_params : str
        As in `FitOptions`.
    schedule : Schedule
        Its first EM steps.
    whitened : bool
        Whether k-means sees the rows in units of their common covariance: groups that are long the same way.
    """

    init_params: str
    schedule: Schedule = PLAIN
    whitened: bool = False


def ways(options: FitOptions, *, few_rows: bool) -> list[Way]:
    """Return the ways of the restarts. The same ones stand first whatever n_init is.

    No kind of start is best everywhere (mean ranks over 22 sets of data: k-means 4.4, tempered EM 3.9, shrunk k-means
    4.5, whitened k-means 5.3), and where one misleads, it misleads every restart alike. Where the sample is all rows,
    three in five are plain k-means, which with moves do as well as others (digits' principal components, strokes, five
    groups by two components: 0.04, 0.02 and 0.01 nats a row more than by plain k-means alone); else two in five
    restarts are started, since moves do more for their time.

    Parameters
    ----------
    few_rows : bool
        Whether the sample is all rows.
    """
    plain, shrunk, tempered = Way("kmeans"), Way("kmeans", SHRUNK), Way("kmeans", TEMPERED)
    # (Posteriors, which empty components, go by tempered starts to a higher bound, with groups that mean less: 117, 54,
    # 3, 3 and 1 wines instead of 71, 59 and 48, of three growers.)
    if options.init_params != "kmeans" or options.any_given or (few_rows and options.may_be_empty):
        return [Way(options.init_params)] * options.n_init
    if few_rows:
        mixed = (plain, plain, tempered, plain, Way("kmeans", whitened=True))
        return [mixed[i % len(mixed)] for i in range(options.n_init)]
    turns = (shrunk, tempered, plain, shrunk, tempered, Way("kmeans", SHRUNK, whitened=True))
    return [turns[i % len(turns)] for i in range(-(-2 * options.n_init // 5))]


def starts(
    X: Floats, weights: Floats, options: FitOptions, *, n_features: int, k_means_iterations: int = 300,
    classes: ClassStarts | None = None,
) -> list[Parameters]:  # fmt: skip
    """Return n_init initial mixtures, from the sample and from what the user gave.

    One where all of it is given, since all would be alike; and a start with a singular covariance is left out, as a
    restart that collapses later is, unless all are singular.

    Parameters
    ----------
    X : (n_sample, n_features), float64
    weights : (n_sample,), float64
        Row weights, positive.
    k_means_iterations : int
        Of k-means at most; 300 are scikit-learn's.
    classes : ClassStarts or None
        Where the components of known classes start.
    """
    if options.start_is_given:
        return [_parameters(None, options.given(n_features), options, fallback=None)]
    way = Way(options.init_params)
    found = starts_by(
        [way] * options.n_init, X, weights, options, k_means_iterations=k_means_iterations, classes=classes
    )
    return [p for p, _ in found]


def starts_by(
    chosen: Iterable[Way], X: Floats, weights: Floats, options: FitOptions, *, k_means_iterations: int,
    distinct: bool = False, classes: ClassStarts | None = None,
) -> list[tuple[Parameters, Schedule]]:  # fmt: skip
    """Return an initial mixture by each of some ways, and the steps that come next; the singular ones are left out.

    The i-th one does not depend on the others.

    Parameters
    ----------
    distinct : bool
        Whether a start that is another one again (k-means often finds the same groups) makes room for one from rows
        drawn at random.

    Raises
    ------
    CollapsedComponentError
        All of them are singular.
    """
    if len(X) < options.n_components and options.start_rows is not None:
        raise DataError(
            "`start_rows`",
            f"give a sample of at least `n_components` = {options.n_components} rows",
            f"{len(X)} rows for start_rows={options.start_rows}",
            f"Take `start_rows` of {10 * options.n_components} or more, or leave it out.",
        )
    if len(X) < options.n_components:
        raise DataError(
            "the input",
            f"have at least `n_components` = {options.n_components} rows of positive weight",
            len(X),
            "Decrease `n_components` or check `sample_weight`.",
        )
    given, k = options.given(X.shape[1]), options.n_components
    whole = spread_of(X, weights, options.family.shape, k)
    fallback = options.family.shape.regularise(whole, options.whole_prior.floor)
    axes = _Whitened(X, weights)
    found: list[tuple[Parameters, Schedule]] = []
    collapsed: CollapsedComponentError | None = None

    def start(way: Way, i: int, j: int = 0) -> Parameters:
        rng = np.random.RandomState(options.seed if i == j == 0 else [options.seed % (1 << 32), i, j])
        seen = axes() if way.whitened else X
        members = _members(seen, weights, replace(options, init_params=way.init_params), rng, k_means_iterations)
        share = way.schedule[0].share if way.schedule else 0.0
        moments = moments_of(X, members, options.family.shape, rng)
        if classes is not None:
            moments = classes.placed(moments, options.family, whole=whole)
        return _parameters(moments, given, options, fallback=fallback, shrinkage=share * len(X) / k)

    def tried(way: Way, i: int, j: int = 0) -> Parameters | CollapsedComponentError:
        try:
            with _in_haste():
                return start(way, i, j)
        except CollapsedComponentError as error:
            return error

    items = [(way, i) for i, way in enumerate(chosen)]
    groups = (items[begin : begin + SIDE_BY_SIDE] for begin in range(0, len(items), SIDE_BY_SIDE))
    each = (p for group in groups for p in LocalExecutor().map(tried, group))
    for (way, i), p in zip(items, each, strict=True):
        others = [q for q, _ in found]
        if distinct and isinstance(p, Parameters) and _is_among(p, others):
            way = Way("random_from_data")
            p = tried(way, i, 1)
            if isinstance(p, Parameters) and _is_among(p, others):
                continue
        if isinstance(p, Parameters):
            found.append((p, way.schedule))
        else:
            collapsed = collapsed or p
    if collapsed is not None and not found:
        raise collapsed
    return found


class _Whitened:
    """The rows in units of their common covariance, made when they are first asked for."""

    def __init__(self, X: Floats, weights: Floats) -> None:
        self._X, self._weights = X, weights
        self._found: Floats | None = None

    def __call__(self) -> Floats:
        if self._found is None:
            w = self._weights / self._weights.sum()
            y = self._X - w @ self._X
            values, vectors = np.linalg.eigh((w * y.T) @ y)
            kept = values > _SMALLEST_VARIANCE * values[-1]
            self._found = y @ vectors[:, kept] / np.sqrt(values[kept]) if kept.any() else y
        return self._found


#: Of the largest: directions of less are constant but for rounding, and stay out of whitened rows.
_SMALLEST_VARIANCE = 1e-9


def _is_among(p: Parameters, others: Iterable[Parameters]) -> bool:
    """Return whether a mixture is another one in another order of components, as k-means' often are."""
    return any(
        np.allclose(np.sort(p.weights), np.sort(q.weights), rtol=1e-9, atol=0)
        and np.allclose(np.sort(p.means, axis=0), np.sort(q.means, axis=0), rtol=1e-9, atol=1e-12)
        for q in others
    )


@contextmanager
def _in_haste() -> Iterator[None]:
    """Let scikit-learn not check rows and options again, nor wait for threads.

    All of it is for this thread alone, but for what it says of rows that are alike.
    """
    from sklearn import config_context

    with config_context(assume_finite=True, skip_parameter_validation=True), one_openmp_thread(), unsaid():
        yield


def regular_starts(
    found: Iterable[Moments], given: Given, options: FitOptions, *, fallback: Floats
) -> list[Parameters]:
    """Return the starts of these moments, the singular ones left out; raise the first error where all are singular."""
    regular: list[Parameters] = []
    collapsed: CollapsedComponentError | None = None
    for moments in found:
        try:
            regular.append(_parameters(moments, given, options, fallback=fallback))
        except CollapsedComponentError as error:
            collapsed = collapsed or error
    if collapsed is not None and not regular:
        raise collapsed
    return regular


def _members(
    X: Floats, weights: Floats, options: FitOptions, rng: np.random.RandomState, k_means_iterations: int
) -> Members:
    """Return the sample rows of each component, and their responsibilities times their weights."""
    if options.init_params == "random":
        resp = rng.uniform(size=(options.n_components, len(X)))
        resp *= weights / resp.sum(axis=0)
        return [(np.arange(len(X)), row) for row in resp]
    return [(rows, weights[rows]) for rows in _hard_members(X, weights, options, rng, k_means_iterations)]


def _hard_members(
    X: Floats, weights: Floats, options: FitOptions, rng: np.random.RandomState, k_means_iterations: int
) -> list[NDArray[np.int64]]:
    """Return the sample rows that each component starts with."""
    k = options.n_components
    if options.init_params == "kmeans":
        from sklearn.cluster import KMeans

        k_means = KMeans(n_clusters=k, n_init=1, max_iter=k_means_iterations, random_state=rng)
        labels = k_means.fit(X, sample_weight=weights).labels_
        return [np.flatnonzero(labels == i) for i in range(k)]
    if options.init_params == "k-means++":
        from sklearn.cluster import kmeans_plusplus

        _, rows = kmeans_plusplus(X, k, sample_weight=weights, random_state=rng)
    else:
        rows = rng.choice(len(X), size=k, replace=False)
    if options.known_noise is None:
        return [np.array([row]) for row in rows]
    from sklearn.metrics import pairwise_distances_argmin

    # (A first E-step of components of one row gives all rows to the nearest; beside noise it would get them all.)
    nearest = pairwise_distances_argmin(X, X[rows])
    return [np.flatnonzero(nearest == i) for i in range(k)]


def moments_of(
    X: Floats, members: Members, shape: Shape, rng: np.random.RandomState, *, within: Floats | None = None
) -> Moments:
    """Return the moments of each component's rows, centred before they are squared.

    Where a row stands for many, `within`, (n_rows, n_features), has their variances about it.
    """
    n_features = X.shape[1]
    weight = sum(float(resp.sum()) for _, resp in members)
    panel = np.zeros((len(members), shape.n_statistics(n_features, exact=True)))
    means = np.empty((len(members), n_features))
    for k, (rows, resp) in enumerate(members):
        if not resp.sum() > 0:
            means[k] = X[rng.randint(len(X))]
            continue
        first = X[rows[0]]
        means[k] = first + resp @ (X[rows] - first) / resp.sum()
        z = np.ascontiguousarray((X[rows] - means[k]).T)
        shape.exact_statistics(z, resp, panel[k], np.empty_like(z))
        if within is not None:
            _add_within(panel[k], resp @ within[rows], shape)
    # In units of the mean row weight, as in an M-step.
    counts = panel[:, -1] * (len(X) / weight)
    scaled = panel / np.where(counts > 0, panel[:, -1], 1.0)[:, np.newaxis]
    central = shape.central_moments(scaled[:, : -1 - n_features], scaled[:, -1 - n_features : -1])
    return Moments(counts + SMALLEST_COUNT, means, shape.pool(counts, means, central, None), weight / len(X))


def _add_within(statistics: Floats, squares: Floats, shape: Shape) -> None:
    """Add sums of squares, one a feature, to a component's packed second moments, in place."""
    z, second = np.diag(np.sqrt(squares)), slice(-1 - len(squares))
    added = np.zeros_like(statistics)
    shape.exact_statistics(z, np.ones(len(z)), added, np.empty_like(z))
    statistics[second] += added[second]


def spread_of(X: Floats, weights: Floats, shape: Shape, n_components: int, *, within: Floats | None = None) -> Floats:
    """Return the covariance of all sample rows for every component, in this shape."""
    members = [(np.arange(len(X)), weights)]
    whole = moments_of(X, members, shape, np.random.RandomState(0), within=within).central
    return shape.subset(whole, np.zeros(n_components, dtype=int))


def _parameters(
    found: Moments | None, given: Given, options: FitOptions, *, fallback: Floats | None, shrinkage: float = 0.0
) -> Parameters:
    """Return the start that the sample's moments give, with what the user gave in the place of its own."""
    family, noise, classes = options.family, options.known_noise, options.known_classes
    if found is None:
        weights, means = given.weights, given.means
    else:
        shares = found.counts / found.counts.sum()
        own = shares if noise is None else shares * (1 - noise.weight)
        weights = given.weights if given.weights is not None else own
        means = given.means if given.means is not None else found.means
    if given.precisions is not None:
        cholesky = family.shape.cholesky_of_precisions(given.precisions)
        covariances = family.shape.covariances(cholesky)
        return Parameters(family, np.asarray(weights), np.asarray(means), covariances, cholesky, noise, classes)
    if found is None or fallback is None:
        raise ValueError("precisions must be given where there is no sample; got None.")
    prior = Together((Shrinkage(shrinkage), options.prior_of_starts))
    start = maximise(found, family, previous=fallback, prior=prior)
    if start is not start.shares and not options.any_given:
        return start  # (a posterior, which weights and means alone do not tell)
    weights, means = np.asarray(weights), np.asarray(means)
    return replace(start.shares, weights=weights, means=means, noise=noise, classes=classes)
