"""The passes as a picture: `python picture.py results/latest.json optimum.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from data_sets import DATA_SETS
from judge import by_set, of, passes, plain

OURS, OTHER, AIM = "#c2541d", "#20639b", "#2a7d3f"
#: Where the axes end.
EDGE = 1000
#: Passes, and pass-equivalents in all, at most, in the median.
AIMS = (6, 12)


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw passes and pass-equivalents until close to the end, by data set; say so where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    ways = of(results["records"], "paths")
    needed = by_set(ways, passes)
    visits = by_set(ways, lambda record: passes(record, "visits"))
    other = by_set(of(results["records"], "acceleration"), plain)
    names = [name for name in DATA_SETS if name in needed]
    figure = Figure(figsize=(11, 2.2 + 0.24 * len(names)), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for row, name in enumerate(names):
        left.plot([1, EDGE], [row, row], color="#eeeeee", linewidth=0.8, zorder=0)
        right.plot([1, EDGE], [row, row], color="#eeeeee", linewidth=0.8, zorder=0)
        _dot(left, row, other.get(name, []), OTHER, "s")
        _dot(left, row, needed[name], OURS, "o")
        _dot(right, row, other.get(name, []), OTHER, "s")
        _dot(right, row, visits[name], OURS, "o")
    titles = (
        "Passes over all rows\nuntil within 1e-3 nats a row of the end",
        "Rows visited by any candidate, sample included,\nover the number of rows",
    )
    for axes, title, aim in zip((left, right), titles, AIMS, strict=True):
        axes.axvline(aim, color=AIM, linewidth=1.2, linestyle="--", zorder=1)
        axes.set_title(title, fontsize=10)
        axes.set_xscale("log")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    ticks = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    for axes in (left, right):
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    left.set_yticks(range(len(names)), names, fontsize=8)
    left.set_ylim(len(names) - 0.4, -0.6)
    _legend(figure)
    figure.savefig(path)


def _dot(axes: Any, row: int, values: list[float], colour: str, marker: str) -> None:
    """Draw the median, and a line from the least to the most of the seeds; what never ends, as an arrow at the edge."""
    if not values:
        return
    drawn = [min(value, EDGE) for value in values]
    axes.plot([min(drawn), max(drawn)], [row, row], color=colour, linewidth=2, alpha=0.4, zorder=2)
    axes.plot(median(drawn), row, marker if median(values) <= EDGE else ">", color=colour, markersize=6, zorder=3)


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=OURS, marker="o", linestyle="none", label="daskgmm at its defaults"),
        Line2D([], [], color=OTHER, marker="s", linestyle="none", label="plain EM from k-means"),
        Line2D([], [], color=AIM, linestyle="--", label="the aim, in the median over the data sets"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
