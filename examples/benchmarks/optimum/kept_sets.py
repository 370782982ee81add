"""The data sets of the part `kept`: rows to fit, and rows from bands between them that are held out.

All are shipped by scikit-learn or matplotlib: photographs, an elevation model, digits and small tables. A seed draws
other rows, and other fractions for the integers that pixels are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from data_sets import DataSet
from views import channels, colour, grey, heights, scales, strokes, tensors, terrain, textures, windows

#: Of a picture's bands of columns every fourth is held out, and of a table's rows.
BANDS, HELD_EVERY = 16, 4
#: Rows that are held out, at most.
MOST_HELD = 50_000


@dataclass(frozen=True)
class KeptSet(DataSet):
    """A data set with rows held out: `rows` makes both, and `n_rows` counts those that are fitted.

    Attributes
    ----------
    n_init : int
        scikit-learn's starts.
    n_seeds : int
        Seeds that are measured.
    judged : bool
        False where most components of any good fit sit on reg_covar: such a likelihood says nothing about optima.
    """

    n_init: int = 10
    n_seeds: int = 2
    judged: bool = True

    def split(self, seed: int) -> tuple[Any, Any]:
        """Return the rows that are fitted, (n_rows, n_features), and those that are held out, float64."""
        random = np.random.default_rng([seed, self.n_features, self.n_components])
        train, held = self.rows(self.n_rows, self.n_features, self.n_components, self.kind, random)
        return train, held

    def make(self, seed: int) -> Any:
        return self.split(seed)[0]


def banded(
    n: int, d: int, k: int, kind: str, random: np.random.Generator, *, view: Any, reduced: bool = False
) -> tuple[Any, Any]:
    """Return n rows and some held-out ones of pictures whose columns are cut into bands.

    Parameters
    ----------
    view : callable
        Takes the generator; returns a list of (array of lines x columns x features …, columns of the picture that a
        row sees). A row is fitted if no column that it sees is held out, held out if all are, else dropped.
    reduced : bool
        Whether the rows are given as their first d principal components (of the fitted rows).
    """
    found = [_sides(rows, seen) for rows, seen in view(random)]
    train = _drawn([(rows, fitted) for rows, fitted, _ in found], n, random)
    held = _drawn([(rows, out) for rows, _, out in found], min(max(n // 3, 2000), MOST_HELD), random)
    return _reduced(train, held, d) if reduced else (train, held)


def _sides(rows: Any, seen: int) -> tuple[Any, Any, Any]:
    """Return the rows, the columns whose rows are fitted, and those whose rows are held out."""
    width = rows.shape[1] + seen - 1
    out = np.arange(width) // -(-width // BANDS) % HELD_EVERY == HELD_EVERY - 1
    inside = np.lib.stride_tricks.sliding_window_view(out, seen)
    return rows, np.flatnonzero(~inside.any(axis=1)), np.flatnonzero(inside.all(axis=1))


def _drawn(pictures: list[tuple[Any, Any]], n: int, random: np.random.Generator) -> Any:
    """Return n rows, or all where there are fewer, of the columns that are given, in the pictures' order."""
    sizes = [rows.shape[0] * len(columns) for rows, columns in pictures]
    chosen = np.sort(random.permutation(sum(sizes))[:n])
    found = []
    for (rows, columns), first, size in zip(pictures, np.cumsum([0, *sizes]), sizes, strict=False):
        mine = chosen[(chosen >= first) & (chosen < first + size)] - first
        lines, places = np.divmod(mine, len(columns))
        found.append(rows[lines, columns[places]].reshape(len(mine), -1))
    return np.concatenate(found)


def table(
    n: int, d: int, k: int, kind: str, random: np.random.Generator, *, name: str, dither: bool = False,
    reduced: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """Return a table of scikit-learn's, of whose rows, shuffled, every fourth is held out.

    Parameters
    ----------
    dither : bool
        Leave constant features out, and add a uniform number to the others.
    reduced : bool
        As for `banded`.
    """
    from sklearn import datasets

    X = np.asarray(getattr(datasets, f"load_{name}")().data, dtype=np.float64)
    if dither:
        X = X[:, X.std(axis=0) > 0]
        X = X + random.uniform(size=X.shape)
    X = random.permutation(X)
    held = np.arange(len(X)) % HELD_EVERY == HELD_EVERY - 1
    train, out = X[~held][:n], X[held]
    return _reduced(train, out, d) if reduced else (train, out)


def _reduced(train: Any, held: Any, d: int) -> tuple[Any, Any]:
    """Return the first d principal components of the fitted rows, and the same of the others."""
    from sklearn.decomposition import PCA

    found = PCA(d, svd_solver="covariance_eigh").fit(train)
    return found.transform(train), found.transform(held)


def _set(name: str, n: float, d: int, k: int, story: str, rows: Any, kind: str = "full", **fields: Any) -> KeptSet:
    return KeptSet(name, int(n), d, k, kind, story, rows, **fields)


def _of(view: Any, **options: Any) -> Any:
    return partial(banded, view=view, **options)


def _table(name: str, **options: Any) -> Any:
    return partial(table, name=name, **options)


KEPT_SETS = {
    data_set.name: data_set
    for data_set in (
        _set("grey-4x4", 4e4, 16, 8, "patches of both photographs", _of(partial(windows, grey, 4))),
        _set("grey-6x6", 25e3, 36, 6, "patches of both photographs", _of(partial(windows, grey, 6))),
        _set("flower-6x6", 3e4, 36, 5, "patches of one photograph", _of(partial(windows, partial(grey, only=1), 6))),
        _set("grey-8x8", 25e3, 64, 12, "patches of both photographs", _of(partial(windows, grey, 8)), n_init=3),
        _set("grey-8x8-large", 1e5, 64, 6, "the same, more of them", _of(partial(windows, grey, 8)), n_init=3),
        _set("demo-8x8", 4e4, 64, 16, "the demo's: rounded, less their mean",
             _of(partial(windows, partial(grey, rounded=True), 8, centred=True)), n_init=3),
        _set("colour-4x4", 25e3, 48, 5, "patches in colour", _of(partial(windows, colour, 4))),
        _set("colour-6x6", 15e3, 108, 4, "patches in colour", _of(partial(windows, colour, 6))),
        _set("colour-8x8", 12e3, 192, 2, "patches in colour", _of(partial(windows, colour, 8))),
        _set("colour-8x8-pca", 25e3, 32, 6, "the first 32 principal components",
             _of(partial(windows, colour, 8), reduced=True)),
        _set("terrain-6x6", 3e4, 36, 6, "patches of an elevation model", _of(partial(windows, terrain, 6))),
        _set("pixels", 4e5, 3, 4, "colours of all pixels", _of(channels)),
        _set("segments", 4e4, 4, 12, "lines and colours of pixels", _of(heights)),
        _set("scales", 4e4, 9, 8, "colours of pixels at three scales", _of(scales)),
        _set("textures", 4e4, 15, 8, "Gaussian derivatives, three scales", _of(textures)),
        _set("textures-diag", 6e4, 15, 10, "the same", _of(textures), "diag"),
        _set("tensors", 4e4, 12, 8, "structure tensors, three scales", _of(tensors)),
        _set("tensors-tied", 6e4, 12, 12, "the same", _of(tensors), "tied"),
        _set("scales-spherical", 1e5, 9, 16, "colours of pixels at three scales", _of(scales), "spherical"),
        _set("strokes", 2e4, 16, 6, "4 x 4 patches of digits", strokes),
        _set("held-digits-pca", 1347, 20, 10, "digits, principal components",
             _table("digits", dither=True, reduced=True), shipped=True),
        _set("held-digits-diag", 1347, 61, 10, "digits", _table("digits", dither=True), "diag", shipped=True),
        _set("held-digits-tied", 1347, 61, 10, "digits", _table("digits", dither=True), "tied", shipped=True),
        _set("held-digits-raw", 1347, 64, 10, "digits, constant pixels too", _table("digits"), "diag", shipped=True,
             judged=False),
        _set("held-iris", 112, 4, 3, "flowers", _table("iris"), shipped=True),
        _set("held-wine", 133, 13, 3, "wines", _table("wine"), "diag", shipped=True),
        _set("held-cancer", 426, 30, 2, "cells", _table("breast_cancer"), shipped=True),
        _set("held-diabetes", 331, 10, 4, "patients", _table("diabetes"), "tied", shipped=True),
    )
}  # fmt: skip
