"""The ratios as a picture: `python plot.py results/latest.json benchmarks.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

#: Label, colour and marker of a peer.
STYLES = {
    "onedal": ("oneDAL", "#c2541d", "o"),
    "sklearn": ("scikit-learn", "#20639b", "s"),
    "sklearn-heap": ("scikit-learn, heap reused", "#5fa3d6", "D"),
    "spark": ("Spark MLlib", "#6b6b6b", "^"),
}


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw how many times as long each peer takes for an iteration; say so where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    dtypes = [dtype for dtype in ("float64", "float32") if any(r["dtype"] == dtype for r in results["cases"])]
    names = list(dict.fromkeys(record["case"] for record in results["cases"]))
    figure = Figure(figsize=(1 + 4.2 * max(len(dtypes), 1), 1.9 + 0.48 * len(names)), dpi=130, layout="constrained")
    drawn: dict[str, Any] = {}
    panels = figure.subplots(1, max(len(dtypes), 1), sharey=True, sharex=True, squeeze=False)[0]
    for axes, dtype in zip(panels, dtypes, strict=False):
        for record in results["cases"]:
            if record["dtype"] == dtype:
                _draw_case(axes, record, names.index(record["case"]), drawn)
        _finish(axes, dtype, results["cases"], names)
    if drawn:
        figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=len(drawn), frameon=False)
    figure.suptitle("Time of an EM iteration, as a multiple of daskgmm's", fontsize=13)
    figure.savefig(path)


def _draw_case(axes: Any, record: dict[str, Any], row: int, drawn: dict[str, Any]) -> None:
    for peer, (ratio, least, most) in record["summary"]["ratios"].items():
        if peer in STYLES:
            label, colour, marker = STYLES[peer]
            axes.plot([least, most], [row, row], color=colour, linewidth=1.5, alpha=0.6, zorder=2)
            (drawn[label],) = axes.plot(ratio, row, marker, color=colour, markersize=7, linestyle="none", zorder=3)


def _finish(axes: Any, dtype: str, records: list[dict[str, Any]], names: list[str]) -> None:
    sizes = {record["case"]: record for record in records}
    labels = [
        f"{name}   {sizes[name]['n_rows']:,} × {sizes[name]['n_features']}, K={sizes[name]['n_components']}"
        + ("" if sizes[name]["kind"] == "full" else f" {sizes[name]['kind']}")
        for name in names
    ]
    axes.set_yticks(range(len(names)), labels, fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.axvline(1, color="#222222", linewidth=1.2, zorder=1)
    axes.grid(axis="x", color="#dddddd", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(dtype + (' (ours: precision="single")' if dtype == "float32" else ""), fontsize=10)
    axes.set_xlabel("times as long as daskgmm (line: least and most of a round)", fontsize=9)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
