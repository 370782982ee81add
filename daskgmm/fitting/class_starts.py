"""Where components of known classes start: at the moments of all rows that have their label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from daskgmm.errors import DataError
from daskgmm.fitting.model import Model
from daskgmm.fitting.options import FitOptions
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.family import Family
from daskgmm.mixture.moments import Moments
from daskgmm.mixture.shapes.shape import Shape
from daskgmm.passes.known_classes import KnownClasses


@dataclass(frozen=True)
class ClassStarts:
    """What a start knows of classes.

    Attributes
    ----------
    classes : (n_components,), int64
        The class of each component; -1 for none.
    known : KnownClasses
        Of all rows that the model is fitted to.
    """

    classes: NDArray[np.int64]
    known: KnownClasses

    def placed(self, found: Moments, family: Family, *, whole: Floats) -> Moments:
        """Return the moments of a start with those of classes in the place of the nearest groups, which go.

        A class of several components has them side by side along its longest axis.

        Parameters
        ----------
        found : Moments
            Of groups that were found without labels.
        whole : float64
            The covariance of all rows for every component, in the family's shape.
        """
        shape, n_features = family.shape, found.means.shape[1]
        held = [k for k, c in enumerate(self.classes) if c >= 0 and self.known.weights[c] > 0]
        means, central = found.means.copy(), {}
        within = found.central
        for c in np.unique(self.classes[held]) if held else ():
            own = [k for k in held if self.classes[k] == c]
            axis, covariance = self._of_class(int(c), shape)
            for k, turn in zip(own, ndtri((np.arange(len(own)) + 0.5) / len(own)), strict=True):
                means[k], central[k] = self.known.means[c] + turn * axis, covariance
        spread = np.broadcast_to(shape.variances(whole), found.means.shape)
        scale = np.where(spread > 0, spread, 1.0)
        cost = [[(np.square(means[k] - m) / s).sum() for m, s in zip(found.means, scale, strict=True)] for k in held]
        order = np.full(len(means), -1)
        if held:
            from scipy.optimize import linear_sum_assignment

            order[held] = linear_sum_assignment(np.array(cost))[1]
        order[order < 0] = np.setdiff1d(np.arange(len(means)), order)
        free = np.setdiff1d(np.arange(len(means)), held)
        means[free] = found.means[order[free]]
        moved = np.array(shape.subset(within, order))
        few = family.least_rows(n_features)
        for k, covariance in central.items():
            n_rows = self.known.weights[self.classes[k]] / found.mean_weight
            near = shape.component(moved, k)
            # (Of few rows a covariance says little: as many as it needs come from the group around them.)
            shape.put(moved, k, (n_rows * covariance + few * near) / (n_rows + few))
        counts = found.counts[order]
        counts[held] = np.maximum(counts[held], 1.0)
        return replace(found, counts=counts, means=means, central=moved)

    def _of_class(self, c: int, shape: Shape) -> tuple[Floats, Floats]:
        """Return the longest axis of a class, a standard deviation long, and its covariance in a shape."""
        scatter, n_features = self.known.scatters[c] / self.known.weights[c], self.known.means.shape[1]
        values, vectors = (scatter, np.eye(n_features)) if scatter.ndim == 1 else np.linalg.eigh(scatter)
        z = np.ascontiguousarray(vectors * np.sqrt(np.maximum(values, 0.0)))
        panel = np.zeros((1, shape.n_statistics(n_features, exact=True)))
        shape.exact_statistics(z, np.ones(n_features), panel[0], np.empty_like(z))
        central = shape.central_moments(panel[:, : -1 - n_features], np.zeros((1, n_features)))
        return z[:, int(np.argmax(values))], central[0]


def n_classes(models: Sequence[Model]) -> int:
    """Return how many classes labels may name, in some model."""
    return max(max(_given(m.options)) + 1 for m in models)


def with_classes(model: Model, known: KnownClasses | None) -> Model:
    """Return a model whose options say which components have a class that occurs among labels."""
    if known is None:
        return model
    given, k = _given(model.options), model.options.n_components
    classes = [c if 0 <= c < len(known.weights) and known.weights[c] > 0 else -1 for c in given]
    found = tuple(int(c) for c in [*classes, *[-1] * (k - len(classes))])
    warm = model.warm
    if warm is not None:
        warm = replace(warm[0], classes=np.array(found, dtype=np.int64)), warm[1]
    return replace(model, options=replace(model.options, label_components=found), warm=warm)


def check_labels(known: KnownClasses, models: Sequence[Model], label: str) -> None:
    """Raise a DataError for labels that are none, or that name a class without a component."""
    if known.n_bad:
        raise DataError(
            "`labels`",
            "be whole numbers from 0 on, and -1 where nobody knows",
            f"{known.n_bad} other values in {label}, the first {known.bad:g} in row {known.first_bad}",
            "Number the classes from 0 on.",
        )
    for options in (m.options for m in models):
        given = set(_given(options))
        beyond = [int(c) for c in np.flatnonzero(known.weights > 0) if c not in given]
        high = known.highest if known.highest >= len(known.weights) else max(beyond, default=-1)
        if high < 0:
            continue
        where = f" in row {known.highest_row}" if high == known.highest else ""
        least = "" if options.label_components is not None else f", below `n_components` = {options.n_components}"
        raise DataError(
            "`labels`",
            f"be -1 or a class that has a component{least}",
            f"{high}{where} of {label}",
            f"Take `n_components` of at least {high + 1}."
            if options.label_components is None
            else "Name a component of it in `label_components`.",
        )


def _given(options: FitOptions) -> Sequence[int]:
    return range(options.n_components) if options.label_components is None else options.label_components
