"""The data sets: seeded functions, from 1e4 to 1e7 rows, and the small ones that scikit-learn ships.

A seed makes another mixture of the same design and other rows, or, of photographs, another sample of their rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

#: Makes the rows: (number of rows, number of features, number of components, kind, generator).
Make = Callable[[int, int, int, str, np.random.Generator], Any]
#: Rows that are made at once, to spare memory.
BLOCK = 1 << 20


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes
    ----------
    name : str
    n_rows, n_features, n_components : int
        n_components is also the number of components that is fitted.
    kind : str
        The covariance type that is fitted.
    story : str
        What is special about it.
    rows : callable
        Makes the rows.
    reg_covar : float
    against_sklearn : bool
        Whether scikit-learn's ten starts take seconds, not minutes.
    shipped : bool
        Comes with scikit-learn, and has too few rows for anything but the comparison with it.
    patience : float
        Scales the seconds that a fit to the end may take.
    """

    name: str
    n_rows: int
    n_features: int
    n_components: int
    kind: str
    story: str
    rows: Make
    reg_covar: float = 1e-6
    against_sklearn: bool = False
    shipped: bool = False
    patience: float = 1.0

    def make(self, seed: int) -> Any:
        """Return the rows, (n_rows, n_features); float32 from 3e6 rows on, else float64."""
        random = np.random.default_rng([seed, self.n_features, self.n_components])
        return self.rows(self.n_rows, self.n_features, self.n_components, self.kind, random)

    def quick(self) -> DataSet:
        """Return the data set with few rows and components, which shows that everything runs."""
        n_components = min(self.n_components, 4)
        n_rows = self.n_rows if self.shipped else max(2000, self.n_rows // 500)
        return replace(self, n_rows=n_rows, n_components=n_components, patience=self.patience / 100)


def mixture(
    n: int, d: int, k: int, kind: str, random: np.random.Generator, *, separation: float = 5.0, spread: float = 2.0,
    rare: tuple[float, ...] = (), sizes: float = 1.0, feature_scales: float = 1.0, tails: float | None = None,
) -> Any:  # fmt: skip
    """Return rows of a mixture whose covariances have the fitted kind.

    Parameters
    ----------
    separation : float
        Root mean square distance of two means, in standard deviations.
    spread : float
        The standard deviations along the axes of a component lie between 1/spread and spread.
    rare : tuple of float
        The weights of the last components; the others share the rest about equally.
    sizes : float
        A component as a whole is up to this many times larger or smaller.
    feature_scales : float
        A feature is up to this many times larger or smaller.
    tails : float or None
        Degrees of freedom of a t-distribution in the place of the normal: the model is then wrong.
    """
    weights = random.uniform(0.5, 1.5, k)
    if rare:
        weights[-len(rare) :] = 0
        weights *= (1 - sum(rare)) / weights.sum()
        weights[-len(rare) :] = rare
    means = random.standard_normal((k, d)) * separation / np.sqrt(2 * d)
    roots = _roots(d, k, kind, random, spread) * (sizes ** random.uniform(-1, 1, k))[:, np.newaxis, np.newaxis]
    units = feature_scales ** random.uniform(-1, 1, d)
    X = np.empty((n, d), dtype=np.float32 if n >= 3_000_000 else np.float64)
    for first in range(0, n, BLOCK):
        block = X[first : first + BLOCK]
        labels = random.choice(k, size=len(block), p=weights / weights.sum())
        for j in range(k):
            chosen = np.flatnonzero(labels == j)
            z = random.standard_normal((len(chosen), d))
            if tails is not None:
                z /= np.sqrt(random.chisquare(tails, (len(chosen), 1)) / tails)
            block[chosen] = (means[j] + z @ roots[j]) * units
    return X


def _roots(d: int, k: int, kind: str, random: np.random.Generator, spread: float) -> Any:
    """Return a factor R of each component's covariance R'R, (k, d, d), of the kind."""
    scales = spread ** random.uniform(-1, 1, (k, d))
    if kind == "spherical":
        return scales[:, :1, np.newaxis] * np.eye(d)
    if kind == "diag":
        return scales[:, :, np.newaxis] * np.eye(d)
    directions = np.stack([np.linalg.qr(random.standard_normal((d, d)))[0] for _ in range(k)])
    found = scales[:, :, np.newaxis] * directions
    return np.repeat(found[:1], k, axis=0) if kind == "tied" else found


def nested(n: int, d: int, k: int, kind: str, random: np.random.Generator, *, ratio: float = 2.0) -> Any:
    """Return rows of components about one point, each `ratio` times as wide as the one inside."""
    labels = random.integers(k, size=n)
    return random.standard_normal((n, d)) * (ratio**labels)[:, np.newaxis]


def drifting(n: int, d: int, k: int, kind: str, random: np.random.Generator, *, shuffled: bool = False) -> Any:
    """Return rows in order of time: the weights of the components change from one to the next, and the means drift."""
    time = np.arange(n) / n
    means = random.standard_normal((k, d)) * 5 / np.sqrt(2 * d)
    drift = random.standard_normal((k, d)) * 0.5 / np.sqrt(d)
    scales = 2.0 ** random.uniform(-1, 1, (k, d))
    # The component of a row is within one and a half of the one whose time it is.
    labels = np.floor(time * k + random.uniform(-1.5, 1.5, n)).astype(int).clip(0, k - 1)
    X = means[labels] + time[:, np.newaxis] * drift[labels] + random.standard_normal((n, d)) * scales[labels]
    return random.permutation(X) if shuffled else X


def far_and_tiny(n: int, d: int, k: int, kind: str, random: np.random.Generator) -> Any:
    """Return rows of which all but some dozen a component lie in half of the components; the others are far away."""
    half = k // 2
    X = mixture(n, d, k - half, kind, random, separation=6)
    for j, rows in enumerate(np.split(random.choice(n, 12 * half, replace=False), half)):
        centre = np.where(np.arange(d) == j % d, 1000.0 * (1 + j // d), 0)
        X[rows] = centre + random.standard_normal((len(rows), d))
    return X


def pixels(n: int, d: int, k: int, kind: str, random: np.random.Generator) -> Any:
    """Return red, green and blue of pixels of scikit-learn's photographs, plus a uniform number (they are integers)."""
    from sklearn.datasets import load_sample_images

    found = np.concatenate([image.reshape(-1, 3) for image in load_sample_images().images])
    rows = random.permutation(len(found))[:n]
    return found[rows] + random.uniform(size=(len(rows), 3))


def patches(n: int, d: int, k: int, kind: str, random: np.random.Generator) -> Any:
    """Return square patches of d + 1 grey pixels, less their mean and the last pixel, which the others determine."""
    from sklearn.datasets import load_sample_images

    side = round(np.sqrt(d + 1))
    found = []
    for image in load_sample_images().images:
        grey = image @ np.array([0.299, 0.587, 0.114]) + random.uniform(size=image.shape[:2])
        found.append(np.lib.stride_tricks.sliding_window_view(grey, (side, side)).reshape(-1, side * side))
    X = np.concatenate(found)
    X = X[random.permutation(len(X))[:n]]
    return (X - X.mean(axis=1, keepdims=True))[:, :-1]


def shipped(n: int, d: int, k: int, kind: str, random: np.random.Generator, *, table: str) -> Any:
    """Return a table of scikit-learn's; of the digits the pixels that are not constant, plus a uniform number."""
    from sklearn import datasets

    X = getattr(datasets, f"load_{table}")().data
    if table == "digits":
        X = X[:, X.std(axis=0) > 0]
        X = X + random.uniform(size=X.shape)
    return X


def _set(
    name: str, n: float, d: int, k: int, story: str, rows: Make = mixture, kind: str = "full", **options: Any
) -> DataSet:
    fields = {key: options.pop(key) for key in ("reg_covar", "against_sklearn", "shipped") if key in options}
    return DataSet(name, int(n), d, k, kind, story, partial(rows, **options) if options else rows, **fields)


_SMALL = {"against_sklearn": True}
_OWN = {"against_sklearn": True, "shipped": True}

DATA_SETS = {
    data_set.name: data_set
    for data_set in (
        _set("separated-1e4", 1e4, 2, 5, "far apart", separation=12, **_SMALL),
        _set("separated-1e6", 1e6, 4, 8, "far apart", separation=12),
        _set("moderate-3e4", 3e4, 4, 8, "some overlap", separation=6, **_SMALL),
        _set("moderate-3e5", 3e5, 6, 10, "some overlap", separation=6),
        _set("overlap-1e4", 1e4, 8, 5, "overlap", separation=4, **_SMALL),
        _set("overlap-1e5", 1e5, 8, 16, "overlap", separation=5),
        _set("overlap-5e5", 5e5, 16, 32, "overlap", separation=4),
        _set("blurred-3e4", 3e4, 2, 6, "strong overlap", separation=3, **_SMALL),
        _set("blurred-1e6", 1e6, 3, 6, "strong overlap", separation=3.5),
        _set("many-1e5", 1e5, 2, 50, "many components", separation=12, spread=1.5),
        _set("rare-1e5", 1e5, 4, 6, "two of weight 1e-3", separation=6, rare=(1e-3, 1e-3), **_SMALL),
        _set("rare-1e6", 1e6, 4, 6, "two of weight 1e-4", separation=8, rare=(1e-4, 1e-4)),
        _set("nested-1e5", 1e5, 2, 4, "one inside the other", nested, **_SMALL),
        _set("nested-3e5", 3e5, 8, 3, "one inside the other", nested, ratio=1.6),
        _set("sizes-1e5", 1e5, 3, 8, "components of unequal size", separation=6, sizes=5.0),
        _set("units-3e5", 3e5, 6, 6, "features from 1e-3 to 1e3", separation=5, feature_scales=1e3),
        _set("tails-3e4", 3e4, 5, 5, "t-distributed, 4 degrees", separation=6, tails=4.0, **_SMALL),
        _set("tails-1e6", 1e6, 3, 8, "t-distributed, 3 degrees", separation=8, tails=3.0),
        _set("diag-3e4", 3e4, 10, 8, "overlap", kind="diag", separation=4, **_SMALL),
        _set("diag-3e5", 3e5, 16, 20, "overlap", kind="diag", separation=5),
        _set("diag-63-1e5", 1e5, 63, 10, "many features", kind="diag", separation=6),
        _set("spherical-3e5", 3e5, 4, 12, "overlap", kind="spherical", separation=5),
        _set("spherical-1e4", 1e4, 3, 6, "overlap", kind="spherical", separation=4, **_SMALL),
        _set("tied-1e5", 1e5, 8, 10, "overlap", kind="tied", separation=5),
        _set("tied-1e4", 1e4, 5, 6, "overlap", kind="tied", separation=4, **_SMALL),
        _set("pixels-5e5", 5e5, 3, 12, "photographs: colours", pixels),
        _set("pixels-3e4", 3e4, 3, 6, "photographs: colours", pixels, **_SMALL),
        _set("patches-15-3e5", 3e5, 15, 12, "photographs: 4 x 4", patches, reg_covar=1e-2),
        _set("patches-63-5e4", 5e4, 63, 8, "photographs: 8 x 8", patches, reg_covar=1e-2),
        _set("sorted-1e6", 1e6, 4, 8, "drifting, in order of time", drifting),
        _set("shuffled-1e6", 1e6, 4, 8, "the same rows, shuffled", drifting, shuffled=True),
        _set("large-3e6", 3e6, 3, 5, "overlap", separation=5),
        _set("large-diag-3e6", 3e6, 4, 6, "overlap", kind="diag", separation=5),
        _set("large-1e7", 1e7, 2, 4, "overlap", separation=5),
        _set("line-1e7", 1e7, 1, 2, "one feature, overlap", separation=3),
        _set("iris", 150, 4, 3, "flowers", shipped, table="iris", **_OWN),
        _set("wine", 178, 13, 3, "wines", shipped, kind="diag", table="wine", **_OWN),
        _set("cancer", 569, 30, 2, "cells", shipped, table="breast_cancer", **_OWN),
        _set("diabetes", 442, 10, 4, "patients", shipped, kind="tied", table="diabetes", **_OWN),
        _set("digits-diag", 1797, 61, 10, "handwritten digits", shipped, kind="diag", table="digits", **_OWN),
        _set("digits-tied", 1797, 61, 10, "handwritten digits", shipped, kind="tied", table="digits", **_OWN),
    )
}
#: The set of part C, and those of parts D and G, which are in no other part.
SPEED = "overlap-5e5"
STORED = _set("stored", 1e6, 8, 8, "a Zarr array on disk", separation=5)
TINY = _set("tiny", 1e6, 3, 8, "four of a dozen rows each, far away", far_and_tiny)
