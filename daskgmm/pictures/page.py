"""A model file as one HTML page, which needs nothing else and runs nothing; all that comes from data is escaped."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from daskgmm.errors import OptionError
from daskgmm.fitting.checks import spoiled_by
from daskgmm.fitting.sample import Sample
from daskgmm.fitting.status import Status
from daskgmm.mixture.record import finite_or_none, plain_json
from daskgmm.mixture.variational import Posterior
from daskgmm.pictures.citing import citation
from daskgmm.pictures.comparison import COMPARED, selection_lines, with_points_aligned
from daskgmm.pictures.corner import MOST_FEATURES, plot_corner
from daskgmm.pictures.draw import feature_names_of
from daskgmm.pictures.known import known_of
from daskgmm.pictures.marginals import telling_features
from daskgmm.pictures.notation import ratios, shares, with_deviations
from daskgmm.pictures.plot import check_matplotlib, drawable, plot_history, plot_selection
from daskgmm.pictures.report import (
    component_order,
    condition_numbers,
    formatted,
    history_lines,
    posterior_record,
    posterior_text,
    updates_text,
)
from daskgmm.stores.model_file import Model, checksum
from daskgmm.stores.model_record import support_in

if TYPE_CHECKING:
    from daskgmm.pictures.picture import Picture

#: Features whose means are shown, in tables of so many, components and records that have a line, at most; `inspect` has
#: all as JSON. Numbers of the arrays that a page holds, at most.
_FEATURES, _COLUMNS, _COMPONENTS, _RECORDS, _NUMBERS = 12, 6, 200, 2000, 500_000

_TEMPLATES = Environment(
    loader=PackageLoader("daskgmm", "pictures"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
)


def page(model: Model, *, name: str, words: Mapping[str, str] | None = None, sample: Sample | None = None) -> str:
    """Return a model, how it was fitted and from what, as an HTML document.

    Parameters
    ----------
    model : Model
    name : str
        What the page calls it: its path or URL.
    words : mapping of str to str, optional
        What an interface calls the options that remedies name; without, they have their names in Python.
    sample : Sample, optional
        Rows to draw the mixture over.
    """
    record = model.record
    return _TEMPLATES.get_template("page.html").render(
        name=name,
        **_summary(model, words),
        components=_components(model),
        corner=_corner(model, sample),
        means=_means(model),
        selection=_selection(record.get("selection"), words),
        history=_history(record.get("history") or []),
        origin=_origin(record),
        cited=citation(record, checksum(model.parameters)),
        numbers=_numbers(model),
    )


#: Figures of a fit: their keys, labels and formats.
_FIGURES = {
    "mean_log_likelihood": ("mean log-likelihood, nats a row", ".8g"),
    "log_likelihood": ("log-likelihood, nats", ",.2f"),
    "bound": ("lower bound on the log evidence, nats", ",.2f"),
    "log_prior": ("log density of the prior, nats", ",.2f"),
    "bic": ("BIC (2 × nats, lower is better)", ",.2f"),
    "aic": ("AIC (2 × nats, lower is better)", ",.2f"),
    "icl": ("ICL (2 × nats, lower is better)", ",.2f"),
    "entropy": ("entropy of the assignment of all rows, nats", ",.2f"),
    "n_iter": ("iterations", "d"),
    "n_passes": ("passes over the data", "d"),
    "dropped_rows": ("rows dropped", ",d"),
    "bytes_read": ("decoded bytes read", ",d"),
    "seconds": ("seconds", ",.1f"),
    "partitions": ("partitions", ",d"),
    "workers": ("workers", "d"),
    "memory_limit": ("memory limit of a worker, bytes", ",d"),
    "peak_worker_bytes": ("peak memory of a worker, bytes", ",d"),
    "peak_driver_bytes": ("peak memory of the command, bytes", ",d"),
}


def _summary(model: Model, words: Mapping[str, str] | None) -> dict[str, Any]:
    p, record = model.parameters, model.record
    found, posterior = record.get("result") or {}, posterior_record(p, record)
    rows = f" fitted to {found['rows']:,} rows" if "rows" in found else ""
    if rows and record.get("updates"):
        rows += f" and what was known of others, {found.get('weight', 0):,.6g} in all"
    if rows and (record.get("input") or {}).get("weights") is not None:
        rows += f" with weights, of {found.get('weight', 0):,.6g} in all"
    if rows and (record.get("input") or {}).get("labels") is not None:
        rows += ", some of known classes"
    lead = (
        f"{p.n_components} components ({p.family.name} covariances), {p.n_features} features"
        f"{'' if posterior else f', {p.n_free:,} free parameters'}{',' if rows else ''}{rows}."
    )
    state = f"Converged after {record.get('n_iter')} iterations." if record.get("converged") else ""
    said = posterior_text({**posterior, "components": p.n_components})
    state = " ".join([*([state] if state else []), *said, *updates_text(record.get("updates"))])
    known = {**record, **(record.get("about") or {}), **found}
    figures = [
        (label, formatted(known[key], form)) for key, (label, form) in _FIGURES.items() if known.get(key) is not None
    ]
    said = known_of(record, feature_names_of(model))
    return {"lead": lead, "state": state, "known": said, "warnings": warnings_of(model, words), "figures": figures}


def warnings_of(model: Model, words: Mapping[str, str] | None = None) -> list[str]:
    """Return what a person should know of a model before anything else, in sentences."""
    record = model.record
    found = record.get("result") or {}
    said = []
    status = found.get("status", record.get("status"))
    if not record.get("converged"):
        if status in {s.value for s in Status}:
            said.append(f"Not converged. {Status(status).worded(words)}")
        elif record.get("n_iter"):
            said.append("Not converged.")
    dropped = found.get("dropped_rows", record.get("n_dropped")) or 0
    if dropped:
        of = f" of {found['rows'] + dropped:,}" if "rows" in found else ""
        by = spoiled_by(record.get("n_dropped_by_feature") or (), record.get("feature_names"))
        said.append(f"{dropped:,}{of} rows were left out, since they hold a NaN or an infinity{by and f': {by}'}.")
    return said + [str(remark) for remark in record.get("remarks") or []]


def _components(model: Model) -> dict[str, Any]:
    p = model.parameters
    conditions = condition_numbers(p)
    support = support_in(model.record, p.n_components)
    order = component_order(p.weights)[:_COMPONENTS]
    counts, nats = ([finite_or_none(v[k]) for k in order] for v in (support.counts, support.nats))
    greatest = float(p.weights.max())
    columns: dict[str, Sequence[Any]] = {
        "component": order,
        "weight": shares([float(p.weights[k]) for k in order]),
        "": [{"value": f"{p.weights[k]:.6f}", "max": f"{greatest:.6f}"} for k in order],
        "rows": [formatted(count, ",.0f") for count in counts],
        "support, nats": [formatted(worth, "z,.1f") for worth in nats],
        "condition": ratios([float(conditions[k]) for k in order]),
    }
    said = ["The heaviest component first."]
    said.append("The support is what the log-likelihood loses without a component.")
    said.append("The condition is the largest over the smallest variance of a component in any direction.")
    if p.noise is not None:
        said.append(f"Beside the components there is noise, of a uniform density: {p.noise}.")
    if isinstance(p, Posterior):
        said.append("Components without rows have the mean and the covariance of the prior.")
    if len(order) < p.n_components:
        said.append(f"Shown: {len(order)} of {p.n_components} components.")
    return {"note": " ".join(said), "heading": list(columns), "rows": list(zip(*columns.values(), strict=True))}


def _means(model: Model) -> dict[str, Any]:
    p, names = model.parameters, feature_names_of(model)
    order = component_order(p.weights)[:_COMPONENTS]
    chosen = telling_features(p, _FEATURES)
    deviations = np.broadcast_to(p.deviations, p.means.shape)
    tables = []
    for begin in range(0, len(chosen), _COLUMNS):
        own = chosen[begin : begin + _COLUMNS]
        columns = [with_deviations(p.means[order, j], deviations[order, j]) for j in own]
        tables.append((["component", *(names[j] for j in own)], list(zip(order, *columns, strict=True))))
    few = len(chosen) < p.n_features
    note = f"Shown: the {len(chosen)} of {p.n_features} features in which components differ most." if few else ""
    return {"note": note, "tables": tables}


def _corner(model: Model, sample: Sample | None) -> dict[str, Any]:
    p = model.parameters
    said = []
    if p.n_features > MOST_FEATURES:
        said.append(
            f"The {MOST_FEATURES} of {p.n_features} features in which components differ most: by the variance of the "
            "means between components, over the mean variance within them."
        )
    less = "" if p.noise is None else ", less its noise"
    said.append(f"On the diagonal: the density of the mixture{less}, and in colour that of each component.")
    said.append(
        "Below: ellipses of 1 and 2 standard deviations, which hold 39 % and 86 % of a component in two features."
    )
    said.append("" if sample is None else f"Grey: a sample of {len(sample):,} rows.")
    drawn = _drawn(lambda: plot_corner(p, feature_names_of(model), sample=sample))
    return {"note": " ".join(said).strip(), "drawn": drawn}


def _numbers(model: Model) -> dict[str, Any]:
    p = model.parameters
    arrays = {name: getattr(p, name) for name in ("weights", "means", "covariances", "precisions_cholesky")}
    if sum(a.size for a in arrays.values()) > _NUMBERS:
        return {"note": "They are too many for a page: the model file has them.", "model": None}
    record = {name: value for name, value in model.record.items() if name != "history"}
    held = {
        "covariance_type": p.family.name,
        **{name: a.tolist() for name, a in arrays.items()},
        **({} if p.noise is None else p.noise.record),
        "checksum": checksum(p),
        "record": plain_json(record),
    }
    note = (
        'This page holds the whole mixture as JSON, in the element with the id "model": weights, means, covariances '
        "and precisions_cholesky to the last bit, names, options and input. GaussianMixture.from_parameters takes them."
    )
    return {"note": note, "model": held}


def _selection(selection: Mapping[str, Any] | None, words: Mapping[str, str] | None) -> dict[str, Any] | None:
    if not selection:
        return None
    (heading, *rows), said = selection_lines(*(selection[name] for name in COMPARED), words=words)
    best = next(i for i, row in enumerate(selection["table"]) if row["chosen"])
    drawn = _drawn(lambda: plot_selection(selection["table"], selection["criterion"]))
    return {"said": said, "drawn": drawn, "heading": heading, "rows": with_points_aligned(rows), "best": best}


def _history(history: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not history:
        return None
    heading, *rows = history_lines(history[-_RECORDS:])
    found = drawable(history)
    drawn = _drawn(lambda: plot_history(history)) if found else None
    numbers = {what: len(list(own)) for what, own in groupby(sorted(str(r["what"]) for r in history))}
    which = f"The last {len(rows)} of {len(history)}" if len(rows) < len(history) else f"All {len(rows)}"
    said = f"{which} records ({', '.join(f'{n} of {what}' for what, n in numbers.items())})"
    return {"drawable": bool(found), "drawn": drawn, "said": said, "heading": heading, "rows": rows}


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


def _drawn(draw: Callable[[], Picture]) -> str | None:
    """Return a picture on a clear ground, encoded for a page; None where there is no matplotlib."""
    try:
        check_matplotlib("The picture")
    except OptionError:
        return None
    figure = draw()
    figure.patch.set_alpha(0.0)
    for ax in figure.axes:
        ax.patch.set_alpha(0.0)
    return base64.b64encode(figure.encoded("svg")).decode()
