"""What a fitted mixture and its history look like, as text and numbers for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from daskgmm.fitting.checks import spoiled_by
from daskgmm.fitting.history import COLUMNS
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.variational import Posterior
from daskgmm.pictures.notation import in_one_notation, ratios, shares
from daskgmm.stores.model_record import support_in

#: Lines and columns of the table at most; the JSON has them all.
_ROWS, _COLUMNS = 20, 5


def component_table(found: dict[str, Any]) -> str:
    """Return the components of an inspected model as lines of text, the heaviest first; one notation a column."""
    n_components, n_features = found["components"], found["features"]
    shown = min(n_features, _COLUMNS)
    order = component_order(found["weights"])[:_ROWS]
    names = found.get("feature_names") or [f"feature {i + 1}" for i in range(n_features)]
    # (Of a file of an earlier version nobody knows; one component alone has no support that is a number.)
    rows_of, worth_of = (found.get(name) or [None] * n_components for name in ("counts", "support"))
    columns = {
        "component": [str(k) for k in order],
        "weight": shares([found["weights"][k] for k in order]),
        "rows": [formatted(rows_of[k], ",.0f") for k in order],
        "support/nats": [formatted(worth_of[k], "z,.1f") for k in order],
        "condition": ratios([found["condition_numbers"][k] for k in order]),
    }
    headings = [_short(name) for name in found.get("feature_names") or map(str, range(1, n_features + 1))]
    lines = [[*columns, *(f"mean {heading}" for heading in headings[:shown])]]
    means = [in_one_notation([found["means"][k][j] for k in order]) for j in range(shown)]
    lines += [list(cells) for cells in zip(*columns.values(), *means, strict=True)]
    state = {True: "converged", False: "not converged", None: "state unknown"}[found["converged"]]
    free = "" if "posterior" in found else f", {found['free_parameters']:,} free parameters"
    said = [
        f"{n_components} components ({found['covariance']}), {n_features} features{free}; "
        f"{state} after {found['n_iter']} iterations",
        *aligned(lines),
    ]
    if found.get("noise"):
        said.append(f"Beside the components: noise of {found['noise']}")
    said += [*(found.get("known") or []), *posterior_text(found)]
    said += updates_text(found.get("updates"))
    if found.get("n_dropped"):
        by = spoiled_by(found.get("n_dropped_by_feature") or (), names)
        said.append(f"{found['n_dropped']:,} rows were left out, for a NaN or an infinity{by and f': {by}'}")
    if n_components > _ROWS:
        said.append(f"... and {n_components - _ROWS} more components, of smaller weight")
    if n_features > shown:
        said.append(f"... and {n_features - shown} more features: the JSON has them")
    return "\n".join(said)


def posterior_record(p: Parameters, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be said of a posterior, as JSON; nothing of another mixture."""
    if not isinstance(p, Posterior):
        return {}
    counts = support_in(record, p.n_components).counts
    n_effective = p.n_effective(counts if np.isfinite(counts).all() else p.counts)
    return {"effective_components": n_effective, "lower_bound": record.get("lower_bound"), **p.as_json()}


def posterior_text(found: Mapping[str, Any]) -> list[str]:
    """Return sentences on a posterior: how many components have rows, the bound, and what the prior was."""
    known = found.get("posterior")
    if known is None:
        return []
    k, bound = found["components"], found["lower_bound"]
    kind = known["weight_concentration_prior_type"].replace("dirichlet", "Dirichlet").replace("_", " ")
    rows = f"{known['mean_precision_prior']:.4g} {'row' if known['mean_precision_prior'] == 1 else 'rows'}"
    worth = "" if bound is None else f" The lower bound on the log evidence is {bound:.8g} nats a row."
    return [
        f"By variational Bayes: {found['effective_components']} of {k} components have rows of their own.{worth}",
        f"The prior of the weights is a {kind} of concentration {known['weight_concentration_prior']:.4g}; "
        f"the prior mean counts {rows}, the prior covariance {known['degrees_of_freedom_prior']:.4g}.",
    ]


def updates_text(updates: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Return a sentence on the new rows that a model went on with; none where it did not."""
    found = [one for one in updates or () if one.get("command") == "update"]
    if not found:
        return []
    last = found[-1]
    drift = "" if last.get("z") is None else f", whose mean log-likelihood was {last['z']:+.1f} standard errors away"
    times = "once" if len(found) == 1 else f"{len(found)} times"
    rows = "" if last.get("rows") is None else f"; last with {last['rows']:,} rows{drift}"
    return [f"Updated {times} by new rows{rows}."]


def _short(name: str) -> str:
    return name if len(name) <= 10 else f"{name[:9]}…"


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
    root = parameters.shape.scale_noise(np.eye(parameters.n_features), parameters.covariances, k)
    _, deviations, vectors = np.linalg.svd(root)
    return deviations, vectors


def condition_numbers(parameters: Parameters) -> Floats:
    """Return the largest over the smallest eigenvalue of each component's covariance, (n_components,), float64."""
    unit = np.eye(parameters.n_features)
    roots = [parameters.shape.scale_noise(unit, parameters.covariances, k) for k in range(parameters.n_components)]
    singular = np.linalg.svd(np.stack(roots), compute_uv=False)
    with np.errstate(divide="ignore"):
        result: Floats = (singular[:, 0] / singular[:, -1]) ** 2
    return result
