"""A model file as one HTML page, which needs nothing else and runs nothing; all that comes from data is escaped."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from daskgmm.errors import OptionError
from daskgmm.fitting.checks import spoiled_by
from daskgmm.fitting.status import Status
from daskgmm.mixture.record import finite_or_none
from daskgmm.pictures.comparison import COMPARED, selection_lines
from daskgmm.pictures.plot import history_picture, picture
from daskgmm.pictures.report import component_order, condition_numbers, formatted, history_lines
from daskgmm.stores.model_file import Model, support_in

#: Features whose means have a column, components and records that have a line, at most; `inspect` has all as JSON.
_FEATURES, _COMPONENTS, _RECORDS = 12, 200, 2000

_TEMPLATES = Environment(
    loader=PackageLoader("daskgmm", "pictures"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
)


def page(model: Model, *, name: str, words: Mapping[str, str] | None = None) -> str:
    """Return a model, how it was fitted and from what, as an HTML document.

    Parameters
    ----------
    model : Model
    name : str
        What the page calls it: its path or URL.
    words : mapping of str to str, optional
        What an interface calls the options that remedies name; without, they have their names in Python.
    """
    record = model.record
    return _TEMPLATES.get_template("page.html").render(
        name=name,
        **_summary(model),
        components=_components(model),
        selection=_selection(record.get("selection"), words),
        history=_history(record.get("history") or []),
        origin=_origin(record),
    )


def _summary(model: Model) -> dict[str, Any]:
    p, record = model.parameters, model.record
    found = record.get("result") or {}
    rows = f" fitted to {found['rows']:,} rows" if "rows" in found else ""
    lead = (
        f"{p.n_components} components ({p.family.name} covariances), {p.n_features} features, "
        f"{p.n_free:,} free parameters{',' if rows else ''}{rows}."
    )
    status = found.get("status")
    state, warnings = "", [str(remark) for remark in record.get("remarks") or []]
    if record.get("converged"):
        state = f"Converged after {record.get('n_iter')} iterations."
    elif status in {s.value for s in Status}:
        warnings.insert(0, f"Not converged. {Status(status).sentence}")
    shown = {
        "mean_log_likelihood": ("mean log-likelihood, nats a row", ".8g"),
        "log_likelihood": ("log-likelihood, nats", ",.2f"),
        "bic": ("BIC (2 × nats, lower is better)", ",.2f"),
        "aic": ("AIC (2 × nats, lower is better)", ",.2f"),
        "icl": ("ICL (2 × nats, lower is better)", ",.2f"),
        "n_iter": ("iterations", "d"),
        "n_passes": ("passes over the data", "d"),
        "dropped_rows": ("rows dropped", ",d"),
        "bytes_read": ("decoded bytes read", ",d"),
        "seconds": ("seconds", ",.1f"),
    }
    known = {**record, **found}
    figures = [
        (label, formatted(known[key], form)) for key, (label, form) in shown.items() if known.get(key) is not None
    ]
    if by := spoiled_by(record.get("n_dropped_by_feature") or (), record.get("feature_names")):
        figures.append(("rows dropped, by the feature with a NaN or an infinity", by))
    return {"lead": lead, "state": state, "warnings": warnings, "figures": figures}


def _components(model: Model) -> dict[str, Any]:
    p = model.parameters
    names = model.record.get("feature_names") or [f"feature {i + 1}" for i in range(p.n_features)]
    n_shown = min(p.n_features, _FEATURES)
    conditions = condition_numbers(p)
    deviations = np.sqrt(np.broadcast_to(p.shape.variances(p.covariances), p.means.shape))
    support = support_in(model.record, p.n_components)
    rows = []
    for k in component_order(p.weights)[:_COMPONENTS]:
        both = zip(p.means[k, :n_shown], deviations[k, :n_shown], strict=True)
        cells = [f"{mean:.4g} ± {deviation:.2g}" for mean, deviation in both]
        weight = float(p.weights[k])
        bar = {"value": f"{weight:.6f}", "max": f"{float(p.weights.max()):.6f}"}
        own = (formatted(finite_or_none(v[k]), form) for v, form in ((support.counts, ",.0f"), (support.nats, ",.1f")))
        rows.append([k, f"{weight:.4f}", bar, *own, f"{conditions[k]:.3g}", *cells])
    said = ["The heaviest component first: mean ± standard deviation of each feature."]
    said.append("The support is what the log-likelihood loses without a component.")
    said.append("The condition is the largest over the smallest variance of a component in any direction.")
    if n_shown < p.n_features or len(rows) < p.n_components:
        said.append(f"Shown: {len(rows)} of {p.n_components} components, {n_shown} of {p.n_features} features.")
    heading = ["component", "weight", "", "rows", "support, nats", "condition", *names[:n_shown]]
    return {"note": " ".join(said), "heading": heading, "rows": rows}


def _selection(selection: Mapping[str, Any] | None, words: Mapping[str, str] | None) -> dict[str, Any] | None:
    if not selection:
        return None
    (heading, *rows), said = selection_lines(*(selection[name] for name in COMPARED), words=words)
    best = next(i for i, row in enumerate(selection["table"]) if row["chosen"])
    drawn = _drawn(lambda: picture(selection["table"], selection["criterion"], form="svg"))
    return {"said": said, "drawn": drawn, "heading": heading, "rows": rows, "best": best}


def _history(history: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not history:
        return None
    heading, *rows = history_lines(history[-_RECORDS:])
    drawable = [r for r in history if r["what"] in ("em", "closing") and r["mean_log_likelihood"] is not None]
    drawn = _drawn(lambda: history_picture(drawable, form="svg")) if drawable else None
    numbers = {what: len(list(own)) for what, own in groupby(sorted(str(r["what"]) for r in history))}
    which = f"The last {len(rows)} of {len(history)}" if len(rows) < len(history) else f"All {len(rows)}"
    said = f"{which} records ({', '.join(f'{n} of {what}' for what, n in numbers.items())})"
    return {"drawable": bool(drawable), "drawn": drawn, "said": said, "heading": heading, "rows": rows}


def _origin(record: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    parts = []
    for key, title in (("input", "Input"), ("options", "Options"), ("provenance", "Made with")):
        lines = [(name, text) for name, text in _flat(record.get(key) or {}) if text != "null"]
        if lines:
            parts.append((title, lines))
    return parts


def _flat(value: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    """Yield the names and values of a JSON object, those of objects in it by their path."""
    for key, item in value.items():
        name = f"{before} {key}".strip()
        if isinstance(item, Mapping):
            yield from _flat(item, name)
        else:
            yield name, item if isinstance(item, str) else _brief(json.dumps(item))


def _brief(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:297]}..."


def _drawn(draw: Callable[[], bytes]) -> str | None:
    """Return a picture, encoded for a page; None where there is no matplotlib."""
    try:
        return base64.b64encode(draw()).decode()
    except OptionError:
        return None
