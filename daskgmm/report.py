"""What a fitted mixture, its history and a selection look like, as text and numbers for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.fitting.history import COLUMNS
from daskgmm.fitting.loop import Status
from daskgmm.fitting.sweep import TURNED, Sweep
from daskgmm.mixture.parameters import Parameters

Floats = NDArray[np.float64]

#: Lines and columns of the table at most; the JSON has them all.
_ROWS, _COLUMNS = 20, 5


def component_table(found: dict[str, Any]) -> str:
    """Return the components of an inspected model as lines of text, the heaviest first."""
    n_components, n_features = found["components"], found["features"]
    shown = min(n_features, _COLUMNS)
    order = component_order(found["weights"])[:_ROWS]
    means = f"mean of {'the feature' if n_features == 1 else f'features 1 to {shown}'}"
    # (Of a file of an earlier version nobody knows; one component alone has no support that is a number.)
    rows_of, worth_of = (found.get(name) or [None] * n_components for name in ("counts", "support"))
    state = {True: "converged", False: "not converged", None: "state unknown"}[found["converged"]]
    lines = [
        f"{n_components} components ({found['covariance']}), {n_features} features, "
        f"{found['free_parameters']:,} free parameters; {state} after {found['n_iter']} iterations",
        f"component   weight          rows  support/nats   condition   {means}",
    ]
    for k in order:
        row = "".join(f"{value:11.4g}" for value in found["means"][k][:shown])
        rows, worth = formatted(rows_of[k], ",.0f"), formatted(worth_of[k], ",.1f")
        condition = f"{found['condition_numbers'][k]:10.3g}"
        lines.append(f"{k:9d}  {found['weights'][k]:7.4f}  {rows:>12s}  {worth:>12s}  {condition} {row}")
    if n_components > _ROWS:
        lines.append(f"... and {n_components - _ROWS} more components, of smaller weight")
    return "\n".join(lines)


def component_order(weights: Sequence[float] | Floats) -> list[int]:
    """Return the numbers of the components, the heaviest first."""
    return sorted(range(len(weights)), key=lambda k: -weights[k])


_HISTORY_FORMATS = {"mean_log_likelihood": ".8g", "change": "+.2e", "step": ".3g", "rows": ",d", "seconds": ".4f"}


def history_lines(history: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the history of a fit as lines of cells, the first a heading: a record of a pass and candidate each."""
    names = [name for name in COLUMNS if any(name in record for record in history)]
    rows = [[formatted(record.get(name), _HISTORY_FORMATS.get(name, "")) for name in names] for record in history]
    return [names, *rows]


def history_text(history: Sequence[Mapping[str, Any]]) -> str:
    """Return the history of a fit as lines of text."""
    return "\n".join(aligned(history_lines(history)))


def selection_table(sweep: Sweep) -> list[dict[str, Any]]:
    """Return the models of a selection as records: see `Selection.table`."""
    return [
        {
            "n_components": entry.n_components,
            "covariance_type": entry.covariance_type,
            "n_free": entry.fit.parameters.n_free,
            "mean_log_likelihood": float(entry.fit.mean_log_likelihood),
            "log_likelihood": float(entry.fit.log_likelihood),
            "aic": float(entry.fit.aic),
            "bic": float(entry.fit.bic),
            "icl": float(entry.fit.icl),
            "held_out": None if entry.held_out is None else float(entry.held_out),
            "converged": entry.fit.status is Status.CONVERGED,
            "n_iter": entry.fit.n_iter,
            "unsupported": len(entry.fit.spikes),
            "least_support": finite_or_none(entry.fit.support.nats.min()),
            "chosen": number == sweep.best,
        }
        for number, entry in enumerate(sweep.entries)
    ]


#: What `selection_text` takes, by the names that a record has it by.
COMPARED = ("table", "criterion", "stopped", "collapsed")
#: Columns of a selection: key, heading, format.
_SHOWN = (
    ("n_components", "components", "d"),
    ("covariance_type", "covariance", ""),
    ("n_free", "parameters", ",d"),
    ("mean_log_likelihood", "mean log-lik.", ".6g"),
    ("aic", "AIC", ",.2f"),
    ("bic", "BIC", ",.2f"),
    ("icl", "ICL", ",.2f"),
    ("held_out", "held-out log-lik.", ".6g"),
    ("n_iter", "iterations", "d"),
    ("converged", "converged", ""),
    ("unsupported", "unsupported", "d"),
    ("least_support", "least support", ",.1f"),
)


def by_kind(models: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    """Return the numbers of components of each kind among (kind, number)."""
    return {kind: [k for other, k in models if other == kind] for kind in dict.fromkeys(kind for kind, _ in models)}


def selection_lines(
    table: Sequence[Mapping[str, Any]],
    criterion: str,
    stopped: Mapping[str, int],
    collapsed: Mapping[str, Sequence[int]],
) -> tuple[list[list[str]], list[str]]:
    """Return a selection as lines of cells, the first a heading, and what there is to say of the search.

    Parameters
    ----------
    table : sequence of mapping
        See `Selection.table`.
    stopped : mapping of str to int
        Kinds whose larger numbers of components were left out, and the largest number that was fitted.
    collapsed : mapping of str to sequence of int
        Kinds, and the numbers of components at which one collapsed.
    """
    best = next(row for row in table if row["chosen"])
    heading = {key: name for key, name, _ in _SHOWN}[criterion]
    # (A model file of an earlier version tells nothing of support.)
    columns = [c for c in _SHOWN if c[0] in best and (c[0] != "held_out" or best["held_out"] is not None)]
    digits = ".6f" if criterion == "held_out" else ",.2f"
    lines = [[*(name for _, name, _ in columns), f"{heading} to best", ""]]
    for row in table:
        away = f"{row[criterion] - best[criterion]:+{digits}}"
        cells = [formatted(row[key], form) for key, _, form in columns]
        lines.append([*cells, "" if row["chosen"] else away, "<- best" if row["chosen"] else ""])
    said = [f"Best by {heading}: {best['n_components']} components, {best['covariance_type']}."]
    if stopped:
        left_out = ", ".join(f"{kind} with more than {k} components" for kind, k in stopped.items())
        said.append(
            f"Not fitted: {left_out}. {heading} on the sample was clearly worse than its best at {TURNED} numbers in "
            "succession. To fit them all the same: --all (stop_early=False)."
        )
    if collapsed:
        lost = ", ".join(f"{kind} with {', '.join(map(str, numbers))}" for kind, numbers in collapsed.items())
        said.append(
            f"No model: {lost}. A component collapsed onto rows that span too little. To keep it: a larger --reg-covar "
            "(reg_covar)."
        )
    numbers = [row["n_components"] for row in table if row["covariance_type"] == best["covariance_type"]]
    if len(numbers) > 1 and best["n_components"] == max(numbers):
        said.append("That is the largest number of components that was compared: more may be better still.")
    return lines, said


def selection_text(*compared: Any) -> str:
    """Return the same as lines of text."""
    lines, said = selection_lines(*compared)
    return "\n".join([*aligned(lines), *said])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines, every column flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def formatted(value: Any, form: str) -> str:
    """Return a value of a record for a person; nothing for None."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else format(value, form)


def directions(parameters: Parameters, k: int) -> tuple[Floats, Floats]:
    """Return the standard deviations and directions of a component's covariance, the largest first.

    Returns
    -------
    deviations : (n_features,), float64
    vectors : (n_features, n_features), float64
        One direction a row.
    """
    root = parameters.kind.scale_noise(np.eye(parameters.n_features), parameters.covariances, k)
    _, deviations, vectors = np.linalg.svd(root)
    return deviations, vectors


def finite_or_none(value: float) -> float | None:
    """Return a number as JSON has it."""
    return float(value) if np.isfinite(value) else None


def condition_numbers(parameters: Parameters) -> Floats:
    """Return the largest over the smallest eigenvalue of each component's covariance, (n_components,), float64."""
    unit = np.eye(parameters.n_features)
    roots = [parameters.kind.scale_noise(unit, parameters.covariances, k) for k in range(parameters.n_components)]
    singular = np.linalg.svd(np.stack(roots), compute_uv=False)
    with np.errstate(divide="ignore"):
        result: Floats = (singular[:, 0] / singular[:, -1]) ** 2
    return result
