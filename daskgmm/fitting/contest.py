"""The contest of a selection: how far each figure can still move, and the rounds that go on until the choice holds.

A fit has converged when one step of EM gains less than tol a row. Of n rows that is 2 n tol in BIC, 8000 for four
million rows at the default: more than the models that compete are apart. So those whose place can still change go on,
in passes that they share; and what is left open is said. A sample shows what each may still gain, and leaps to where
(`ahead.py`); where it cannot, they go on to a tol that is small against the criterion.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from daskgmm.fitting.ahead import FINER, Ahead
from daskgmm.fitting.model import Model
from daskgmm.fitting.result import Fit
from daskgmm.fitting.run import Run
from daskgmm.mixture.criteria import HIGHER_IS_BETTER

#: Contenders go on until 2 n tol is this, in units of the criterion: differences below 2 are "not worth more than a
#: bare mention" (Kass and Raftery 1995, doi:10.1080/01621459.1995.10476572).
SETTLED = 0.1
#: Whose figure is so many resolutions from the best goes on too: where components overlap, EM gains some ten times its
#: last steps yet (4,000,000 rows of two Gaussians one deviation apart: 1.3e-4 nats a row after a step of 1e-5).
MARGIN = 30.0
#: The same where the sample has shown what there is to gain.
FORESEEN = 2.0


@dataclass(frozen=True)
class Entry:
    """A model that was compared.

    Attributes
    ----------
    n_components, covariance_type
    fit : Fit
        To all rows.
    held_out : float or None
        Mean log-likelihood, nats per unit of weight, of rows that the model was not fitted to: over all folds together.
    resolution : float
        How far the criterion may still move, in its own units: two figures that are closer are level.
    tie : bool
        Whether it may still come before the best.
    below : int or None
        A smaller number of components, of the same kind, whose log-likelihood is higher by more than the resolution:
        this model is then at a poor local optimum.
    """

    n_components: int
    covariance_type: str
    fit: Fit
    held_out: float | None
    resolution: float = 0.0
    tie: bool = False
    below: int | None = None

    @property
    def name(self) -> tuple[str, int]:
        return self.covariance_type, self.n_components

    def value(self, criterion: str) -> float:
        """Return the criterion, lower is better: of those of which more is better its negative."""
        if criterion == "held_out":
            return np.inf if self.held_out is None else -self.held_out
        value = float(getattr(self.fit, criterion))
        return -value if criterion in HIGHER_IS_BETTER else value


def name(model: Model) -> tuple[str, int]:
    """Return what tells a model of a selection from the others: its folds have it too."""
    return model.options.covariance_type, model.options.n_components


def entries_of(
    models: Sequence[Model], fits: Mapping[int, Fit], criterion: str, moved: Mapping[tuple[str, int], float]
) -> list[Entry]:
    """Return an entry for each model, its folds put together.

    Parameters
    ----------
    moved : mapping
        By how much the criterion moved in the last round that the model had part in.
    """
    found = []
    below = _below(models, fits)
    for own, group in groupby(fits, key=lambda i: name(models[i])):
        of_model = [(i, models[i].fold, fits[i]) for i in group]
        number, whole = next((i, fit) for i, fold, fit in of_model if fold is None)
        held = [fit.held_out for _, _, fit in of_model if fit.held_out is not None]
        weight = sum(w for _, w in held)
        entry = Entry(own[1], own[0], whole, sum(total for total, _ in held) / weight if held else None)
        reach = whole.reach
        if criterion == "held_out":
            reach = float(np.mean([fit.reach for _, fold, fit in of_model if fold is not None]))
        most = _resolution(entry, criterion, reach)
        # (What the last round moved, the rounds to come will hardly.)
        least = {"held_out": reach, "bound": whole.weight * reach}.get(criterion, 2 * whole.weight * reach)
        known = most if own not in moved else min(most, max(moved[own], least))
        found.append(replace(entry, resolution=float(known), below=below.get(number, (None,))[0]))
    best = min(entry.value(criterion) for entry in found)
    return [replace(e, tie=bool(best < e.value(criterion) <= best + e.resolution)) for e in found]


def _resolution(entry: Entry, criterion: str, reach: float) -> float:
    """Return how far a criterion may move while the mean log-likelihood rises by `reach`, nats.

    BIC and AIC move by 2 n times that; the bound, whose own rise a row `reach` is, by n times. ICL and the likelihood
    of other rows are not at their own maximum: a step of the parameters that gains g moves a sum over rows by up to
    sqrt(2 g times the variance of what is summed): of the logarithms of the largest responsibilities here, below their
    mean; of other rows' log-likelihoods p / n.
    """
    n = entry.fit.weight
    if not np.isfinite(reach):
        return np.inf
    if criterion == "held_out":
        return reach + float(np.sqrt(2 * reach * entry.fit.parameters.n_free / n))
    if criterion == "icl":
        return 2 * n * (reach + float(np.sqrt(2 * reach * max(-entry.fit.log_largest / n, 0.0))))
    return n * reach if criterion == "bound" else 2 * n * reach


def best_of(entries: Sequence[Entry], criterion: str) -> int:
    """Return the number of the entry with the best criterion."""
    return int(np.argmin([e.value(criterion) for e in entries]))


def settled(run: Run, models: Sequence[Model], found: Mapping[int, Fit], criterion: str) -> list[Entry]:
    """Return the entries once rounds of further passes leave the choice as it is, or can do no more for it.

    The sample shows what models that may still come before the best, and the best itself, have to gain. In a round,
    those of them that may still come before it go on, each to where the sample sees its end, or to a smaller tol. Once
    none may, those whose log-likelihood is below that of a smaller one of their kind, which at optima is impossible,
    are searched again, from splits of that one.
    """
    fits, moved, searched = dict(found), dict[tuple[str, int], float](), set[int]()
    counted = [i for i in fits if models[i].fold is None or criterion == "held_out"]
    finest = SETTLED / (2 * fits[counted[0]].weight)
    ahead, number = Ahead(run, finest), 0
    while True:
        entries = entries_of(models, fits, criterion, moved)
        rivals = _rivals(models, counted, entries, criterion, ahead.known)
        unseen = [i for i in rivals if i not in ahead.seen]
        if unseen:
            n_best = entries[best_of(entries, criterion)].fit.parameters.n_free
            fits |= {i: ahead.look(i, fits[i], n_more=fits[i].parameters.n_free - n_best) for i in unseen}
            continue
        started = {i: candidates for i in rivals if (candidates := ahead.further(i, fits[i]))}
        if not started:  # (a smaller model is split once it is settled itself)
            below = _below(models, {i: fits[i] for i in counted})
            started = {
                i: run.searched_again(i, fits[smaller].parameters, tol=FINER * finest)
                for i, (_, smaller) in below.items() if i not in searched
            }  # fmt: skip
            searched |= set(started)
            ahead.began_anew(started)
        if not started:
            return [replace(e, fit=run.up_to_date(e.fit)) for e in entries]
        number += 1
        before = {e.name: e.value(criterion) for e in entries}
        fits |= {i: fit for i, fit in run.polished(started, number=number).items() if isinstance(fit, Fit)}
        ahead.went(started)
        after = entries_of(models, fits, criterion, moved)
        moved |= {e.name: abs(e.value(criterion) - before[e.name]) for e in after
                  if e.value(criterion) != before[e.name]}  # fmt: skip


def _rivals(
    models: Sequence[Model], counted: Sequence[int], entries: Sequence[Entry], criterion: str, known: Container[int]
) -> list[int]:
    """Return the models that may still come before the best, and the best itself; none where it is alone.

    `known` are those of which the sample has shown what they have to gain.
    """
    best = entries[best_of(entries, criterion)]
    most, rough = best.value(criterion), criterion in ("bic", "aic", "bound")  # (the others' resolution is a bound)
    unknown = {name(models[i]) for i in counted if i not in known}
    ties = set()
    for e in entries:
        margin = 1.0 if not rough else MARGIN if e.name in unknown else FORESEEN
        if most < e.value(criterion) <= most + margin * e.resolution:
            ties.add(e.name)
    return [i for i in counted if name(models[i]) in ties | {best.name}] if ties else []


def _below(models: Sequence[Model], fits: Mapping[int, Fit]) -> dict[int, tuple[int, int]]:
    """Return the models below a smaller one of the same kind and rows: its number of components, and its number.

    By more than they may still rise: models of one kind are nested, and their maxima of the likelihood rise with K.
    (Under a prior they need not.)
    """
    found = {}
    fits = {i: fit for i, fit in fits.items() if models[i].options.rises_with_components}
    best: dict[object, int] = {}
    for i in sorted(fits, key=lambda i: models[i].options.n_components):
        rows, fit = (models[i].options.covariance_type, models[i].fold), fits[i]
        smaller = best.setdefault(rows, i)
        there, here = fits[smaller].mean_log_likelihood, fit.mean_log_likelihood
        if here + fit.reach < there - 1e-9 * max(1.0, abs(there)):
            found[i] = models[smaller].options.n_components, smaller
        elif here >= there:
            best[rows] = i
    return found
