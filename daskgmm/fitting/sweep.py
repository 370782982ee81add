"""Model selection: numbers of components and covariance kinds, fitted together and compared by a criterion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from numbers import Integral

import numpy as np

from daskgmm.errors import CollapsedComponentError, OptionError
from daskgmm.fitting.checks import check_shape
from daskgmm.fitting.contest import Entry, best_of, name, settled
from daskgmm.fitting.events import Listener, ignore
from daskgmm.fitting.loop import Candidate
from daskgmm.fitting.measured import Measured
from daskgmm.fitting.model import Model
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.result import Fit
from daskgmm.fitting.run import Run, running
from daskgmm.kernels.folds import Fold
from daskgmm.mixture.criteria import aic, bic, icl, warn_of_small_weight
from daskgmm.mixture.variational import Posterior
from daskgmm.passes.executor import Executor
from daskgmm.sources.source import Source
from daskgmm.stores.checkpoint import Checkpoint

#: The sweep of a kind ends when the criterion was worse than its best at so many numbers of components in succession.
TURNED = 3
#: Folds at most: each is a model more.
MOST_FOLDS = 100
#: Worse by more than this, beside the noise of the sample: "very strong" evidence (Kass and Raftery 1995,
#: doi:10.1080/01621459.1995.10476572).
STRONG = 10.0


@dataclass(frozen=True)
class Sweep:
    """The outcome of a selection.

    Attributes
    ----------
    criterion : str
    entries : tuple of Entry
        By kind in the order given, then by number of components.
    best : int
        Number of the entry with the best criterion.
    stopped : tuple of (str, int)
        Kinds whose sweep ended early, and the largest number of components that was fitted.
    collapsed : tuple of (str, int)
        Kind and number of components of models that are no entry, because one of their components collapsed.
    n_passes, bytes_read : int
    seconds : float
    """

    criterion: str
    entries: tuple[Entry, ...]
    best: int
    stopped: tuple[tuple[str, int], ...]
    collapsed: tuple[tuple[str, int], ...]
    n_passes: int
    bytes_read: int
    seconds: float


def select_model(
    X: Source,
    options: FitOptions,
    *,
    n_components: Iterable[int],
    covariance_types: Sequence[str],
    criterion: str | None = None,
    n_folds: int = 0,
    stop_early: bool = True,
    weights: Source | None = None,
    labels: Source | None = None,
    errors: Measured | None = None,
    executor: Executor | None = None,
    listener: Listener = ignore,
    checkpoint: Checkpoint | None = None,
) -> Sweep:
    """Return the models of a selection, all fitted in shared passes, and which of them is best.

    Parameters
    ----------
    options : FitOptions
        Of all models; n_components and covariance_type are replaced.
    criterion : str or None
        One of the options' `criteria`; None for the first.
    n_folds : int
        Folds of the rows, by a hash of their numbers; each model is fitted to what each fold leaves too, in the same
        passes. 0 for none; the criterion "held_out" needs 2 or more.
    stop_early : bool
        Whether larger numbers of components are left out once the criterion, on the sample, has clearly turned: worse
        than its best at three numbers in succession, each by more than 10 and twice the standard error that the sample
        leaves. Nothing is read to find out. (Starts by k-means|| have no sample, and all numbers are fitted.)

    Raises
    ------
    OptionError
        And what `fit_mixture` raises.
    """
    errors, criterion = errors or Measured(), criterion_of(options, criterion)
    if errors.are_given and labels is not None:
        raise OptionError("`labels`", "be left out with `errors`", "both", "Leave `labels` out.")
    for kind in covariance_types if errors.are_given else ():
        asked = errors.asked(replace(options, covariance_type=kind), X.n_features)
        if kind == covariance_types[-1]:
            options = asked
    models = selection_models(
        options, n_components=n_components, covariance_types=covariance_types, criterion=criterion, n_folds=n_folds
    )
    check_shape(X, n_components=max(model.options.n_components for model in models))
    with running(
        models, X, n_folds=n_folds, weights=weights, labels=labels, executor=executor, listener=listener,
        checkpoint=checkpoint, columns=errors.columns, contest=True,
    ) as run:  # fmt: skip
        started, stopped = _started(run, models, criterion, stop_early=stop_early)
        found = run.polished({i: c for i, c in started.items() if not isinstance(c, CollapsedComponentError)})
        failures = {i: e for i, e in (started | found).items() if isinstance(e, CollapsedComponentError)}
        # (A model that has no score on one of its folds cannot be compared.)
        collapsed = tuple(dict.fromkeys(name(models[i]) for i in sorted(failures)))
        fits = {i: f for i, f in found.items() if isinstance(f, Fit) and name(models[i]) not in collapsed}
        if not fits:
            raise _all_collapsed(list(failures.values()), len(collapsed))
        entries = [
            replace(entry, fit=errors.of_true_values(entry.fit)) for entry in settled(run, models, fits, criterion)
        ]
    best = best_of(entries, criterion)
    if criterion != "held_out":
        warn_of_small_weight(entries[best].fit.weight, entries[best].fit.n_weighted, stacklevel=3)
    last = entries[-1].fit
    return Sweep(
        criterion, tuple(entries), best, tuple(stopped.items()), collapsed, last.n_passes,
        last.bytes_read, last.seconds,
    )  # fmt: skip


def _all_collapsed(failures: Sequence[CollapsedComponentError], n_models: int) -> CollapsedComponentError:
    """Return the error that says that no model is left."""
    if n_models == 1:
        return failures[0]
    return CollapsedComponentError(
        "a model of the selection",
        "keep all its components",
        f"one that collapsed in each of {n_models} models: its covariance is singular (single or duplicate rows, "
        "or a constant feature)",
        "Increase `reg_covar`, or rescale or drop the features that hardly vary.",
    )


def criterion_of(options: FitOptions, criterion: str | None) -> str:
    """Return what models are compared by: as the user named it, or what there is to these options."""
    return options.criteria[0] if criterion is None else criterion


def n_folds_of(criterion: str) -> int:
    """Return the number of folds where the user named none."""
    return 5 if criterion == "held_out" else 0


def selection_models(
    options: FitOptions,
    *,
    n_components: Iterable[int],
    covariance_types: Sequence[str],
    criterion: str | None = None,
    n_folds: int = 0,
) -> list[Model]:
    """Return the models of a selection, each followed by those of its folds; an OptionError where there can be none."""
    numbers, criterion = sorted(set(n_components)), criterion_of(options, criterion)
    _check(options, numbers, covariance_types, criterion, n_folds)
    folds = [None, *(Fold(i, n_folds, options.seed) for i in range(n_folds))]
    return [
        Model(replace(options, n_components=k, covariance_type=kind), fold)
        for kind in covariance_types
        for k in numbers
        for fold in folds
    ]


def _check(options: FitOptions, numbers: Sequence[int], kinds: Sequence[str], criterion: str, n_folds: int) -> None:
    if not numbers or not kinds:
        raise OptionError("`n_components` and `covariance_type`", "name at least one model", "none", "Give a range.")
    if len(set(kinds)) < len(kinds):
        raise OptionError("`covariance_type`", "name each kind once", ", ".join(kinds), "Leave the others out.")
    if criterion not in options.criteria:
        bayesian = "bound" in options.criteria
        whose = " for a posterior, whose parameters are no number" if bayesian else ""
        remedy = f"Take {options.criteria[0]}."
        if criterion == "bound":
            remedy = "Only posteriors have a bound: give `estimator=BayesianGaussianMixture()`."
        raise OptionError("`criterion`", f"be one of {', '.join(options.criteria)}{whose}", repr(criterion), remedy)
    if not isinstance(n_folds, Integral) or isinstance(n_folds, bool):
        raise OptionError("`n_folds`", "be an integer", repr(n_folds), "Take 5.")
    if criterion == "held_out" and n_folds < 2:
        raise OptionError("`n_folds`", "be at least 2 for the criterion `held_out`", n_folds, "Take 5.")
    if n_folds > MOST_FOLDS:
        raise OptionError("`n_folds`", f"be at most {MOST_FOLDS}", n_folds, "Take 5 or 10.")
    if n_folds < 0 or n_folds == 1:
        raise OptionError("`n_folds`", "be 0 or at least 2", n_folds, "Take 5.")
    given = [name for name in ("weights_init", "means_init", "precisions_init") if getattr(options, name) is not None]
    if given:
        raise OptionError(f"`{given[0]}`", "be left out of a selection", "one", "It fits one model only: use fit.")


@dataclass(frozen=True)
class _Estimate:
    """What the sample says of a model: its criterion on all rows, as expected, and its number of free parameters."""

    value: float
    n_free: int
    n_sampled: int


def _started(
    run: Run, models: Sequence[Model], criterion: str, *, stop_early: bool
) -> tuple[dict[int, list[Candidate] | CollapsedComponentError], dict[str, int]]:
    """Return the candidates of the models that are worth a fit, or why there are none; and where sweeps ended."""
    started: dict[int, list[Candidate] | CollapsedComponentError] = {}
    stopped: dict[str, int] = {}
    for kind, of_kind in groupby(range(len(models)), key=lambda i: models[i].options.covariance_type):
        estimates: list[_Estimate] = []
        own = list(of_kind)
        judged = stop_early and len({models[i].options.n_components for i in own}) > TURNED
        for k, of_number in groupby(own, key=lambda i: models[i].options.n_components):
            if kind in stopped:
                continue
            for i in of_number:
                started[i] = found = _start(run, i)
                if models[i].fold is None and judged and not models[i].options.starts_on_all_rows:
                    estimates.append(_estimate(run, i, found, criterion))
            if _has_turned(estimates, run.known.survey.weight):
                stopped[kind] = k
    return started, {kind: k for kind, k in stopped.items() if k < max(m.options.n_components for m in models)}


def _start(run: Run, i: int) -> list[Candidate] | CollapsedComponentError:
    try:
        return run.started(i)
    except CollapsedComponentError as error:
        return error


def _estimate(run: Run, i: int, candidates: list[Candidate] | CollapsedComponentError, criterion: str) -> _Estimate:
    """Return what the sample lets expect of a criterion on all rows: the worst, where a component collapsed.

    The mean log-likelihood of n rows at their own optimum lies about p / 2n above what other rows have there (White
    1982, doi:10.2307/1912526).
    """
    if isinstance(candidates, CollapsedComponentError):
        return _Estimate(np.inf, 0, 1)
    parameters, weight = candidates[0].parameters, run.known.survey.weight
    found, parameters = run.sample_score(i, parameters)
    n_free = parameters.n_free
    elsewhere = found.log_sum / found.weight - n_free / (2 * found.n_rows)
    if criterion == "held_out":
        return _Estimate(-2 * weight * elsewhere + n_free, n_free, found.n_rows)
    log_likelihood = weight * elsewhere + n_free / 2
    if isinstance(parameters, Posterior):
        return _Estimate(-2 * (log_likelihood - parameters.divergence), n_free, found.n_rows)
    value = aic(log_likelihood, n_free) if criterion == "aic" else bic(log_likelihood, n_free, weight)
    if criterion == "icl":
        value = icl(log_likelihood, n_free, weight, weight * found.log_largest / found.weight)
    return _Estimate(value, n_free, found.n_rows)


def _has_turned(estimates: Sequence[_Estimate], weight: float) -> bool:
    """Return whether the last numbers of components were all clearly worse than the best before them.

    Of two nested models that both hold, the log-likelihoods of n rows differ by half of a chi-squared variable with as
    many degrees of freedom as one has more parameters (Wilks 1938, doi:10.1214/aoms/1177732360): a standard deviation
    of sqrt(dp / 2), which is magnified as the sample stands for all rows.
    """
    if len(estimates) <= TURNED:
        return False
    best = min(estimates, key=lambda e: e.value)
    return all(
        e.value > best.value + max(STRONG, 4 * weight / e.n_sampled * np.sqrt(max(e.n_free - best.n_free, 0) / 2))
        for e in estimates[-TURNED:]
    )
