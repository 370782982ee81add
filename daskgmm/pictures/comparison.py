"""What a selection looks like, as text and numbers for a person: no more digits than its figures are known to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from daskgmm.errors import worded
from daskgmm.fitting.result import Fit
from daskgmm.fitting.status import Status
from daskgmm.fitting.sweep import TURNED, Sweep
from daskgmm.mixture.record import finite_or_none
from daskgmm.pictures.report import aligned, formatted

Record = Mapping[str, Any]


def selection_table(sweep: Sweep) -> list[dict[str, Any]]:
    """Return the models of a selection as records: see `Selection.table`."""
    return [
        {
            "n_components": entry.n_components,
            "covariance_type": entry.covariance_type,
            **_size(entry.fit),
            "mean_log_likelihood": float(entry.fit.mean_log_likelihood),
            "log_likelihood": float(entry.fit.log_likelihood),
            "entropy": float(entry.fit.seen.entropy),
            **{name: float(getattr(entry.fit, name)) for name in _compared(entry.fit)},
            "held_out": None if entry.held_out is None else float(entry.held_out),
            "converged": entry.fit.status is Status.CONVERGED,
            "n_iter": entry.fit.n_iter,
            **_worth(entry.fit),
            "reach": finite_or_none(entry.fit.reach),
            "resolution": finite_or_none(entry.resolution),
            "tie": bool(entry.tie),
            "below": entry.below,
            "chosen": number == sweep.best,
        }
        for number, entry in enumerate(sweep.entries)
    ]


def _size(fit: Fit) -> dict[str, Any]:
    n_effective = fit.n_effective
    return {"n_free": fit.parameters.n_free} if n_effective is None else {"effective_n_components": n_effective}


def _compared(fit: Fit) -> tuple[str, ...]:
    return ("aic", "bic", "icl") if fit.n_effective is None else ("bound",)


def _worth(fit: Fit) -> dict[str, Any]:
    if fit.n_effective is not None:  # (an empty component is no fault of a posterior)
        return {}
    return {"unsupported": len(fit.spikes), "least_support": finite_or_none(fit.support.nats.min())}


#: What `selection_text` takes, by the names that a record has it by.
COMPARED = ("table", "criterion", "stopped", "collapsed")
#: Digits behind the point at most: of criteria, and of figures a row.
MOST, MOST_A_ROW = 2, 8
#: Columns of a selection: key, heading, and digits behind the point at most, or a format.
_SHOWN: tuple[tuple[str, str, int | str], ...] = (
    ("n_components", "components", "d"),
    ("covariance_type", "covariance", ""),
    ("effective_n_components", "effective", "d"),
    ("n_free", "parameters", ",d"),
    ("mean_log_likelihood", "mean log-lik.", MOST_A_ROW),
    ("aic", "AIC", MOST),
    ("bic", "BIC", MOST),
    ("icl", "ICL", MOST),
    ("bound", "bound", MOST),
    ("held_out", "held-out log-lik.", MOST_A_ROW),
    ("n_iter", "iterations", "d"),
    ("converged", "converged", ""),
    ("unsupported", "unsupported", "d"),
    ("least_support", "least support", "z,.1f"),
)


def by_kind(models: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    """Return the numbers of components of each kind among (kind, number)."""
    return {kind: [k for other, k in models if other == kind] for kind in dict.fromkeys(kind for kind, _ in models)}


def selection_lines(
    table: Sequence[Record],
    criterion: str,
    stopped: Mapping[str, int],
    collapsed: Mapping[str, Sequence[int]],
    *,
    words: Mapping[str, str] | None = None,
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
    words : mapping of str to str or None
        What an interface calls options; None in Python.
    """
    best = next(row for row in table if row["chosen"])
    heading, most = next((name, most) for key, name, most in _SHOWN if key == criterion)
    # (A model file of an earlier version tells nothing of support.)
    columns = [c for c in _SHOWN if c[0] in best and (c[0] != "held_out" or best["held_out"] is not None)]
    lines = [[*(name for _, name, _ in columns), f"{heading} to best", "resolution", ""]]
    for row in table:
        cells = [_cell(row, key, form, criterion) for key, _, form in columns]
        away = {**row, criterion: row[criterion] - best[criterion]}
        to_best = "" if row["chosen"] else _cell(away, criterion, most, criterion, sign="+")
        lines.append([*cells, to_best, formatted(row.get("resolution"), ".2g"), _mark(row)])
    k = best["n_components"]
    said = [f"Best by {heading}: {k} component{'' if k == 1 else 's'}, {best['covariance_type']}."]
    said += [*_level(table, heading), *_below(table)]
    if stopped:
        left_out = ", ".join(f"{kind} with more than {k} components" for kind, k in stopped.items())
        said.append(
            f"Not fitted: {left_out}. {heading} on the sample was clearly worse than its best at {TURNED} numbers in "
            "succession. To fit them all the same: `stop_early=False`."
        )
    if collapsed:
        lost = ", ".join(f"{kind} with {', '.join(map(str, numbers))}" for kind, numbers in collapsed.items())
        said.append(
            f"No model: {lost}. A component collapsed onto rows that span too little. To keep it: a larger `reg_covar`."
        )
    numbers = [row["n_components"] for row in table if row["covariance_type"] == best["covariance_type"]]
    if len(numbers) > 1 and best["n_components"] == max(numbers):
        said.append("That is the largest number of components that was compared: more may be better still.")
    return lines, [worded(sentence, words) for sentence in said]


def with_points_aligned(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return cells for HTML, which drops blanks at their ends: spaces of the width of figures stand there instead."""
    return [[cell.rstrip() + "\N{FIGURE SPACE}" * (len(cell) - len(cell.rstrip())) for cell in row] for row in rows]


def selection_text(*compared: Any, words: Mapping[str, str] | None = None) -> str:
    """Return the same as lines of text."""
    lines, said = selection_lines(*compared, words=words)
    return "\n".join([*aligned(lines), *said])


def _mark(row: Record) -> str:
    if row["chosen"]:
        return "<- best"
    if row.get("tie"):
        return "level"
    return f"below {row['below']}" if row.get("below") else ""


def _marked(table: Sequence[Record], key: str) -> str:
    """Return the models of which a key is set, in words."""
    return ", ".join(f"{row['covariance_type']} with {row['n_components']}" for row in table if row.get(key))


def _level(table: Sequence[Record], heading: str) -> list[str]:
    """Return what there is to say of models that may still come before the best."""
    level = _marked(table, "tie")
    if not level:
        return []
    return [
        f"Level with it: {level}. Their {heading} may still change by the resolution. To tell them apart: a larger "
        "`max_iter`, or a smaller `tol`."
    ]


def _below(table: Sequence[Record]) -> list[str]:
    """Return what there is to say of models whose log-likelihood is below a smaller one's."""
    below = _marked(table, "below")
    if not below:
        return []
    return [
        f"At a poor optimum: {below}. A model of fewer components has a higher log-likelihood, which is impossible "
        "at the best optima, and splitting that model led no higher. To search on: more `n_init`."
    ]


# -- figures, to the digits that they are known to ---------------------------------------------------------------------


def _cell(row: Record, key: str, form: int | str, criterion: str, *, sign: str = "") -> str:
    """Return a cell; a figure with the digits that its resolution leaves it, and blanks for those that it has not.

    So the points stay below each other.
    """
    if isinstance(form, str):
        return formatted(row[key], form)
    if row[key] is None:
        return ""
    n_digits = digits(_resolution(row, key, criterion), form)
    blanks = form - n_digits + (n_digits == 0)
    return f"{row[key]:{sign},.{n_digits}f}" + " " * blanks


def digits(resolution: float | None, most: int) -> int:
    """Return how many digits behind the point tell apart figures that are so close, `most` at most."""
    if resolution is None:
        return 0
    return most if resolution <= 0 else int(np.clip(np.ceil(-np.log10(resolution)), 0, most))


def _resolution(row: Record, key: str, criterion: str) -> float | None:
    """Return how far a figure may still move; 0 of models that another version wrote, which did not say."""
    if key == criterion:
        found: float | None = row.get("resolution", 0.0)
        return found
    reach: float | None = row.get("reach", 0.0)
    if reach is None or key in ("mean_log_likelihood", "held_out"):
        return reach
    # (Log-likelihood over mean log-likelihood is the number of rows.)
    mean = row["mean_log_likelihood"]
    return (1 if key == "bound" else 2) * reach * (row["log_likelihood"] / mean if mean else 1.0)
