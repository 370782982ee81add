"""The pictures of a selection, of a fit's history, and of the weights of its components (matplotlib)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import cycle, groupby
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from daskgmm.errors import OptionError
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.criteria import HIGHER_IS_BETTER
from daskgmm.pictures.report import component_order
from daskgmm.pictures.styles import MARKERS, PALETTE, colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from daskgmm.pictures.picture import Picture

#: What the axis of a criterion says.
_LABELS = {
    "bic": "BIC (2 × nats; lower is better)",
    "aic": "AIC (2 × nats; lower is better)",
    "icl": "ICL (2 × nats; lower is better)",
    "bound": "lower bound on the log evidence\n(nats; higher is better)",
    "held_out": "held-out mean log-likelihood\n(nats a row; higher is better)",
}
#: Bars of components at most, the heaviest; what the picture of a history shows of the log-likelihood at least, nats.
_BARS, _LEAST_RISE = 40, 1e-6


def check_matplotlib(what: str) -> None:
    """Raise an OptionError where matplotlib is missing; `what` needs it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise OptionError(what, "have matplotlib", error, 'Install it: pip install "daskgmm[plot]"') from error


@overload
def plot_selection(table: Sequence[Mapping[str, Any]], criterion: str) -> Picture: ...
@overload
def plot_selection(
    table: Sequence[Mapping[str, Any]], criterion: str, *, path: str | os.PathLike[str] | None, ax: Axes | None
) -> Picture | Axes: ...
def plot_selection(
    table: Sequence[Mapping[str, Any]],
    criterion: str,
    *,
    path: str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
) -> Picture | Axes:
    """Return a picture of a criterion by number of components, written to a path if there is one; or the axes given.

    Parameters
    ----------
    table : sequence of mapping
        See `Selection.table`.
    """
    check_matplotlib("plot")
    from daskgmm.pictures.picture import write

    figure: Any = _figure() if ax is None else ax.get_figure(root=True)
    _draw_selection(figure.add_subplot() if ax is None else ax, table, criterion)
    if path is not None:
        write(figure, path)
    return figure if ax is None else ax


def _draw_selection(ax: Axes, table: Sequence[Mapping[str, Any]], criterion: str) -> None:
    """Draw a criterion against the number of components, a line a kind, the best marked.

    A thin line shows how far a figure may still move; a ring, a model that may still come before the best.
    """
    # (Of more kinds than there are colours the lines tell.)
    styles = (style for style in cycle(("-", "--", ":")) for _ in PALETTE)
    kinds = groupby(table, key=lambda r: r["covariance_type"])
    for (kind, of_kind), colour, marker, style in zip(kinds, cycle(PALETTE), cycle(MARKERS), styles, strict=False):
        rows = list(of_kind)
        points = [(row["n_components"], row[criterion]) for row in rows]
        drawn = {"color": colour, "marker": marker, "linestyle": style, "label": kind}
        ax.plot(*zip(*points, strict=True), markersize=5, linewidth=1.5, **drawn)
        _draw_resolution(ax, rows, criterion, colour)
    best = next(row for row in table if row["chosen"])
    k = best["n_components"]
    name = f"best: {k} component{'' if k == 1 else 's'}, {best['covariance_type']}"
    ax.plot(
        best["n_components"], best[criterion], linestyle="none", marker="o", markersize=14, markeredgewidth=2,
        markerfacecolor="none", markeredgecolor="black", label=name,
    )  # fmt: skip
    level = [(row["n_components"], row[criterion]) for row in table if row.get("tie")]
    if level:
        ks, values = zip(*level, strict=True)
        ax.scatter(ks, values, s=110, facecolors="none", edgecolors="grey", label="level with it")
    ax.set_xlabel("number of components")
    ax.set_ylabel(_LABELS[criterion])
    _plain(ax)
    ax.yaxis.set_major_formatter("{x:,.6g}")
    n_labels = len(ax.get_legend_handles_labels()[1])
    ax.legend(title="covariance", ncols=-(-n_labels // 9), edgecolor="none", framealpha=0.9)


def _draw_resolution(ax: Axes, rows: Sequence[Mapping[str, Any]], criterion: str, colour: str) -> None:
    """Draw from each figure to where it may still move: what EM raises only rises."""
    known = [row for row in rows if row.get("resolution")]
    ends = [row[criterion] + (1 if criterion in HIGHER_IS_BETTER else -1) * row["resolution"] for row in known]
    if known:
        ax.vlines([row["n_components"] for row in known], ends, [row[criterion] for row in known], colors=colour, lw=1)


def drawable(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the records of passes over all rows that have a mean log-likelihood."""
    return [r for r in history if r["what"] in ("em", "closing") and r["mean_log_likelihood"] is not None]


def plot_history(history: Sequence[Mapping[str, Any]]) -> Picture:
    """Return a picture of the mean log-likelihood by pass, a line a restart.

    Parameters
    ----------
    history : sequence of mapping
        See `GaussianMixture.history_`.
    """
    check_matplotlib("plot")
    found = drawable(history)
    figure = _figure()
    ax = figure.add_subplot()
    candidates = sorted({record["candidate"] for record in found})
    last = found[-1]
    for candidate, colour in zip(candidates, colours(len(candidates)), strict=True):
        own = [r for r in found if r["candidate"] == candidate]
        points = [(r["pass"], r["mean_log_likelihood"]) for r in own]
        ax.plot(
            *zip(*points, strict=True), color=colour, marker="o", markersize=4, linewidth=1.5,
            label=f"restart {candidate}",
        )  # fmt: skip
    ax.plot(
        last["pass"], last["mean_log_likelihood"], linestyle="none", marker="o", markersize=10, markerfacecolor="none",
        markeredgecolor="black", label=f"the end: {last['mean_log_likelihood']:,.6g}",
    )  # fmt: skip
    ax.set_xlabel("pass over the data")
    ax.set_ylabel("mean log-likelihood, nats a row")
    _plain(ax)
    ax.ticklabel_format(axis="y", useOffset=False)
    low, high = ax.get_ylim()
    if high - low < _LEAST_RISE:  # (rounding is no news)
        ax.set_ylim((low + high - _LEAST_RISE) / 2, (low + high + _LEAST_RISE) / 2)
    if len(candidates) <= 12:
        ax.legend(frameon=False)
    return figure


def plot_weights(weights: Floats, counts: Floats, unsupported: Sequence[int]) -> Picture:
    """Return a picture of the rows of each component as bars, the heaviest first; the unsupported are marked.

    Parameters
    ----------
    weights, counts : (n_components,), float64
        Shares of the rows; their numbers, or NaN where nobody knows.
    unsupported : sequence of int
        Numbers of components.
    """
    check_matplotlib("plot")
    from matplotlib.patches import Patch

    order = component_order(weights)[:_BARS]
    known = bool(np.isfinite(counts).all())
    lengths = counts[order] if known else 100 * weights[order]
    figure = _figure(height=1.2 + 0.28 * len(order))
    ax = figure.add_subplot()
    few = [k in set(unsupported) for k in order]
    colour = [PALETTE[1] if bad else PALETTE[0] for bad in few]
    bars = ax.barh(np.arange(len(order)), lengths, color=colour, height=0.75)
    for bar, bad in zip(bars, few, strict=True):
        bar.set_hatch("///" if bad else "")
        bar.set_edgecolor("white" if bad else "none")
    parts = [f"{100 * weights[k]:.1f} %" if weights[k] >= 5e-4 else "< 0.1 %" for k in order]
    labels = [f"{counts[k]:,.0f} ({part})" for k, part in zip(order, parts, strict=True)] if known else parts
    ax.bar_label(bars, labels, padding=4, fontsize=8)
    ax.set_yticks(np.arange(len(order)), [str(k) for k in order])
    ax.invert_yaxis()
    ax.margins(x=0.2, y=0.5 / max(len(order), 1))
    ax.set_xlim(left=0)
    ax.set_ylabel("component")
    part = f" (the {len(order)} heaviest of {len(weights)})" if len(order) < len(weights) else ""
    ax.set_xlabel(("rows" if known else "rows, %") + part)
    ax.xaxis.set_major_formatter("{x:,.6g}")
    ax.spines[["top", "right"]].set_visible(False)
    if any(few):
        marked = Patch(facecolor=PALETTE[1], hatch="///", edgecolor="white", label="not supported by the rows")
        ax.legend(handles=[marked], frameon=False, loc="lower right")
    return figure


def _figure(*, height: float = 4.5) -> Picture:
    from daskgmm.pictures.picture import Picture

    return Picture(figsize=(7, height), dpi=150, layout="constrained")


def _plain(ax: Axes) -> None:
    """Give axes whole numbers below, a faint grid and no frame."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
