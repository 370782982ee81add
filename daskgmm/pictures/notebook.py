"""What a notebook shows of a mixture or of a selection: a table, with what a person should know of it on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined

from daskgmm.mixture.record import finite_or_none
from daskgmm.pictures.comparison import selection_lines, with_points_aligned
from daskgmm.pictures.draw import feature_names_of
from daskgmm.pictures.known import known_of
from daskgmm.pictures.marginals import telling_features
from daskgmm.pictures.notation import in_one_notation, shares
from daskgmm.pictures.page import warnings_of
from daskgmm.pictures.report import component_order, formatted
from daskgmm.stores.model_file import Model
from daskgmm.stores.model_record import support_in, unsupported_in

#: Lines of components, and features whose means are shown, at most.
_COMPONENTS, _FEATURES = 20, 6

# (Notebooks bring colours of their own, light or dark: all but the marks is theirs.)
_TABLE = Environment(autoescape=True, undefined=StrictUndefined).from_string("""\
<div>
{%- for warning in warnings %}
<p style="border-left: 4px solid #e3a03c; padding-left: .6em; margin: .4em 0">{{ warning }}</p>{% endfor %}
<div style="overflow-x: auto"><table style="font-variant-numeric: tabular-nums">
<thead><tr>
{%- for name in heading %}<th style="text-align: right; padding: .1em .5em">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for row in rows %}
<tr{% if loop.index0 in marked %} style="font-weight: bold; background: rgba(56, 139, 253, .2)"{% endif %}>
{%- for cell in row %}
<td style="text-align: right; padding: .1em .5em; white-space: nowrap">{{ cell }}</td>{% endfor %}</tr>
{%- endfor %}
</tbody></table></div>
{%- for sentence in said %}
<p style="margin: .4em 0">{{ sentence }}</p>{% endfor %}
</div>
""")


def mixture_html(model: Model) -> str:
    """Return the components of a fitted mixture as HTML, the heaviest first: share, rows, support, and some means."""
    p = model.parameters
    order = component_order(p.weights)[:_COMPONENTS]
    support, chosen, names = support_in(model.record, p.n_components), telling_features(p, _FEATURES), _names(model)
    bad = set(unsupported_in(model.record))
    columns = {
        "component": [f"{k} (unsupported)" if k in bad else str(k) for k in order],
        "weight": shares([float(p.weights[k]) for k in order]),
        "rows": [formatted(finite_or_none(support.counts[k]), ",.0f") for k in order],
        "support, nats": [formatted(finite_or_none(support.nats[k]), "z,.1f") for k in order],
    }
    means = [in_one_notation([float(p.means[k, j]) for k in order]) for j in chosen]
    left_out = [
        f"{n - len(shown)} more {what}." for what, n, shown in (
            ("components, of smaller weight", p.n_components, order),
            ("features, in which components differ less", p.n_features, chosen),
        ) if len(shown) < n
    ]  # fmt: skip
    left_out += known_of(model.record, feature_names_of(model))
    if p.noise is not None:
        left_out.append(f"Beside the components: noise of {p.noise}.")
    return _TABLE.render(
        warnings=warnings_of(model),
        heading=[*columns, *(f"mean of {names[j]}" for j in chosen)],
        rows=list(zip(*columns.values(), *means, strict=True)),
        marked=[],
        said=left_out,
    )


def selection_html(
    table: Sequence[Mapping[str, Any]],
    criterion: str,
    stopped: Mapping[str, int],
    collapsed: Mapping[str, Sequence[int]],
) -> str:
    """Return a selection as HTML, the best model marked."""
    (heading, *rows), said = selection_lines(table, criterion, stopped, collapsed)
    best = next(i for i, row in enumerate(table) if row["chosen"])
    return _TABLE.render(warnings=[], heading=heading, rows=with_points_aligned(rows), marked=[best], said=said)


def _names(model: Model) -> list[str]:
    return [name if len(name) <= 40 else f"{name[:39]}…" for name in feature_names_of(model)]
