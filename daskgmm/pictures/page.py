"""A model file as one HTML page, which needs nothing else and runs nothing; all that comes from data is escaped."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from daskgmm.errors import OptionError
from daskgmm.fitting.status import Status
from daskgmm.pictures.comparison import COMPARED, selection_lines
from daskgmm.pictures.plot import history_picture, picture
from daskgmm.pictures.report import component_order, condition_numbers, finite_or_none, formatted, history_lines
from daskgmm.stores.model_file import Model, support_in

#: Features whose means have a column, components and records that have a line, at most; `inspect` has all as JSON.
_FEATURES, _COMPONENTS, _RECORDS = 12, 200, 2000

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; margin: 0 auto; padding: 2rem 1rem;
  max-width: 64rem; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { margin: .5rem 0; } .lead { font-size: 1.05rem; } .note { color: #57606a; font-size: .9rem; }
div.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #d8dee4; text-align: right; white-space: nowrap; }
th { font-weight: 600; border-bottom: 2px solid #8c959f; } th:first-child, td:first-child { text-align: left; }
table.names td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
tr.best { background: #eaf3fb; font-weight: 600; } .warning { background: #fff4e5; padding: .4rem .8rem; }
img { max-width: 100%; } summary { cursor: pointer; margin: .6rem 0; }
meter { width: 7rem; }
@media print { details:not([open]) > :not(summary) { display: block; } }
"""


class Markup(str):
    """Text that is HTML already; any other text is escaped where it becomes a part of a page."""

    __slots__ = ()


def element(name: str, *children: object, **attributes: object) -> Markup:
    """Return an HTML element. Children and attributes are escaped, unless they are elements themselves."""
    given = "".join(f' {key.rstrip("_")}="{html.escape(str(value))}"' for key, value in attributes.items())
    inner = "".join(child if isinstance(child, Markup) else html.escape(str(child)) for child in children)
    return Markup(f"<{name}{given}>{inner}</{name}>")


def page(model: Model, *, name: str) -> str:
    """Return a model, how it was fitted and from what, as an HTML document.

    Parameters
    ----------
    model : Model
    name : str
        What the page calls it: its path or URL.
    """
    record = model.record
    parts = [
        element("h1", name),
        *_summary(model),
        *_components(model),
        *_selection(record.get("selection")),
        *_history(record.get("history") or []),
        *_origin(record),
    ]
    head = element(
        "head",
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width">'),
        # Nothing is fetched and nothing runs, should anything have been escaped badly.
        Markup(
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        ),
        element("title", f"{name}: a Gaussian mixture"),
        Markup(f"<style>{_STYLE}</style>"),
    )
    return f"<!doctype html>\n{element('html', head, element('body', *parts), lang='en')}\n"


def _summary(model: Model) -> list[Markup]:
    p, record = model.parameters, model.record
    found = record.get("result") or {}
    rows = f" fitted to {found['rows']:,} rows" if "rows" in found else ""
    lead = (
        f"{p.n_components} components ({p.family.name} covariances), {p.n_features} features, "
        f"{p.n_free:,} free parameters{',' if rows else ''}{rows}."
    )
    parts = [element("p", lead, class_="lead")]
    status = found.get("status")
    if record.get("converged"):
        parts.append(element("p", f"Converged after {record.get('n_iter')} iterations."))
    elif status in {s.value for s in Status}:
        parts.append(element("p", f"Not converged. {Status(status).sentence}", class_="warning"))
    parts += [element("p", str(remark), class_="warning") for remark in record.get("remarks") or []]
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
    lines = [(label, formatted(known[key], form)) for key, (label, form) in shown.items() if known.get(key) is not None]
    return [*parts, _names(lines)]


def _components(model: Model) -> list[Markup]:
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
        bar = element("meter", value=f"{weight:.6f}", max=f"{float(p.weights.max()):.6f}")
        own = (formatted(finite_or_none(v[k]), form) for v, form in ((support.counts, ",.0f"), (support.nats, ",.1f")))
        rows.append([k, f"{weight:.4f}", bar, *own, f"{conditions[k]:.3g}", *cells])
    said = ["The heaviest component first: mean ± standard deviation of each feature."]
    said.append("The support is what the log-likelihood loses without a component.")
    said.append("The condition is the largest over the smallest variance of a component in any direction.")
    if n_shown < p.n_features or len(rows) < p.n_components:
        said.append(f"Shown: {len(rows)} of {p.n_components} components, {n_shown} of {p.n_features} features.")
    table = _table(["component", "weight", "", "rows", "support, nats", "condition", *names[:n_shown]], rows)
    return [element("h2", "Components"), element("p", " ".join(said), class_="note"), table]


def _selection(selection: Mapping[str, Any] | None) -> list[Markup]:
    if not selection:
        return []
    (heading, *rows), said = selection_lines(*(selection[name] for name in COMPARED))
    best = next(i for i, row in enumerate(selection["table"]) if row["chosen"])
    return [
        element("h2", "How many components"),
        *(element("p", sentence) for sentence in said),
        *_pictured(lambda: picture(selection["table"], selection["criterion"], form="svg"), "Criterion by components"),
        element("details", element("summary", f"All {len(rows)} models"), _table(heading, rows, best=best)),
    ]


def _history(history: Sequence[Mapping[str, Any]]) -> list[Markup]:
    if not history:
        return []
    columns, *rows = history_lines(history[-_RECORDS:])
    drawn = [r for r in history if r["what"] in ("em", "closing") and r["mean_log_likelihood"] is not None]
    pictures = _pictured(lambda: history_picture(drawn, form="svg"), "Mean log-likelihood by pass") if drawn else []
    numbers = {what: len(list(own)) for what, own in groupby(sorted(str(r["what"]) for r in history))}
    said = ", ".join(f"{n} of {what}" for what, n in numbers.items())
    which = f"The last {len(rows)} of {len(history)}" if len(rows) < len(history) else f"All {len(rows)}"
    return [
        element("h2", "How it was found"),
        *pictures,
        element("details", element("summary", f"{which} records ({said})"), _table(columns, rows)),
    ]


def _origin(record: Mapping[str, Any]) -> list[Markup]:
    parts = []
    for key, title in (("input", "Input"), ("options", "Options"), ("provenance", "Made with")):
        lines = [(name, text) for name, text in _flat(record.get(key) or {}) if text != "null"]
        if lines:
            parts += [element("h2", title), _names(lines)]
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


def _pictured(draw: Any, alternative: str) -> list[Markup]:
    """Return a picture, or how to have one."""
    try:
        content = base64.b64encode(draw()).decode()
    except OptionError:
        return [element("p", 'A picture stands here where matplotlib is: pip install "daskgmm[plot]"', class_="note")]
    return [Markup(f'<img alt="{html.escape(alternative)}" src="data:image/svg+xml;base64,{content}">')]


def _names(lines: Iterable[tuple[str, str]]) -> Markup:
    rows = [element("tr", element("td", name), element("td", text)) for name, text in lines]
    return element("table", *rows, class_="names")


def _table(heading: Sequence[object], rows: Sequence[Sequence[object]], *, best: int = -1) -> Markup:
    lines = [element("tr", *(element("th", cell) for cell in heading))]
    for i, row in enumerate(rows):
        lines.append(element("tr", *(element("td", cell) for cell in row), **({"class": "best"} if i == best else {})))
    return element("div", element("table", *lines), class_="wide")
