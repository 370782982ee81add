"""The pictures of a selection and of a fit's history (matplotlib)."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from itertools import cycle, groupby
from typing import TYPE_CHECKING, Any

from daskgmm.errors import OptionError, OutputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: What the axis of a criterion says.
_LABELS = {
    "bic": "BIC (2 × nats; lower is better)",
    "aic": "AIC (2 × nats; lower is better)",
    "icl": "ICL (2 × nats; lower is better)",
    "held_out": "held-out mean log-likelihood\n(nats a row; higher is better)",
}
# Told apart in grey and by the colour-blind too: Okabe and Ito's colours, and a marker each.
_STYLES = (
    ("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#e69f00", "v"), ("#56b4e9", "P"),
)  # fmt: skip


def check_matplotlib(what: str) -> None:
    """Raise an OptionError where matplotlib is missing; `what` needs it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise OptionError(what, "have matplotlib", error, 'Install it: pip install "daskgmm[plot]"') from error


def plot_selection(
    table: Sequence[Mapping[str, Any]],
    criterion: str,
    *,
    path: str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Return the axes of a plot of a criterion against the number of components, a line a kind, the best marked.

    A thin line shows how far a figure may still move; a ring, a model that may still come before the best.

    Parameters
    ----------
    table : sequence of mapping
        See `Selection.table`.
    path : path, optional
        Where to write the picture.
    ax : matplotlib Axes, optional
        Where to draw; without, a figure is made.
    """
    check_matplotlib("plot")
    if ax is None:
        ax = _axes()
    for (kind, of_kind), (colour, marker) in zip(
        groupby(table, key=lambda r: r["covariance_type"]), cycle(_STYLES), strict=False
    ):
        rows = list(of_kind)
        points = [(row["n_components"], row[criterion]) for row in rows]
        ax.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=5, linewidth=1.5, label=kind)
        _draw_resolution(ax, rows, criterion, colour)
    best = next(row for row in table if row["chosen"])
    name = f"best: {best['n_components']} components, {best['covariance_type']}"
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
    ax.legend(title="covariance", frameon=False)
    if path is not None:
        _write(ax.figure, os.fspath(path))
    return ax


def _draw_resolution(ax: Axes, rows: Sequence[Mapping[str, Any]], criterion: str, colour: str) -> None:
    """Draw from each figure to where it may still move: the log-likelihood only rises."""
    known = [row for row in rows if row.get("resolution")]
    ends = [row[criterion] + (1 if criterion == "held_out" else -1) * row["resolution"] for row in known]
    if known:
        ax.vlines([row["n_components"] for row in known], ends, [row[criterion] for row in known], colors=colour, lw=1)


def picture(table: Sequence[Mapping[str, Any]], criterion: str, *, form: str) -> bytes:
    """Return the plot as a file of the form "png", "pdf" or "svg"."""
    return _file(plot_selection(table, criterion), form)


def history_picture(history: Sequence[Mapping[str, Any]], *, form: str) -> bytes:
    """Return the mean log-likelihood by pass of each candidate as a picture, a file of the form "png", "pdf" or "svg".

    Parameters
    ----------
    history : sequence of mapping
        Records of passes over all rows; each has a mean log-likelihood.
    """
    check_matplotlib("The picture")
    ax = _axes()
    candidates = sorted({record["candidate"] for record in history})
    for candidate in candidates:
        own = [r for r in history if r["candidate"] == candidate]
        points = [(r["pass"], r["mean_log_likelihood"]) for r in own]
        ax.plot(*zip(*points, strict=True), marker="o", markersize=4, linewidth=1.5, label=f"candidate {candidate}")
    ax.set_xlabel("pass over the data")
    ax.set_ylabel("mean log-likelihood, nats a row")
    _plain(ax)
    if len(candidates) > 1:
        ax.legend(frameon=False)
    return _file(ax, form)


def _axes() -> Axes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def _plain(ax: Axes) -> None:
    """Give axes whole numbers below, a faint grid and no frame."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


def _file(ax: Axes, form: str) -> bytes:
    content = io.BytesIO()
    figure: Any = ax.figure
    figure.savefig(content, format=form)
    return content.getvalue()


def _write(figure: Any, path: str) -> None:
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise OutputError(
            "The picture's place", "be writable, and end like .png", f"{error} for {path}", "Choose another."
        ) from error
