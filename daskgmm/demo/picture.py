"""The picture of the demo: photographs, their components, leading directions and the log-likelihood (matplotlib)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.demo.photographs import Photograph
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.pictures.report import directions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Components and directions of each in the picture at most.
_TILES, _DIRECTIONS = 20, 5
#: Pixels: the picture's width, its margin, the room above a panel for its caption.
_WIDTH, _MARGIN, _CAPTION = 1400, 40, 34


def draw_patches(photographs: Sequence[Photograph], model: str, labels: str, output: str) -> None:
    """Draw a mixture of patches: photographs, their pixels by component, leading directions, log-likelihood by pass.

    Parameters
    ----------
    photographs : sequence of Photograph
        In the order of their patches in the rows.
    model, labels : str
        Paths of the model and of the labels that `daskgmm predict` wrote.
    output : str
        Path of the PNG.
    """
    import matplotlib
    import zarr
    from matplotlib.figure import Figure

    from daskgmm.stores.model_file import load_model

    found = load_model(model)
    p = found.parameters
    contrast = np.array([np.sqrt(np.mean(directions(p, k)[0] ** 2)) for k in range(p.n_components)])
    order = np.argsort(contrast)
    rank = np.empty(p.n_components, dtype=int)
    rank[order] = np.arange(p.n_components)
    # Light is high contrast: the order is seen in grey, too, and by the colour-blind.
    colours = matplotlib.colormaps["magma"](np.linspace(0.08, 0.97, p.n_components))
    rows = zarr.open_array(labels, mode="r")
    sizes = [photograph.patch_shape for photograph in photographs]
    height = 70 + sum(lines + _CAPTION + 14 for lines, _ in sizes) + 326
    sheet = _Sheet(Figure(figsize=(_WIDTH / 100, height / 100), dpi=100), height)
    sheet.text(_MARGIN, 40, _title(p, rows.shape[0]), size=17, weight="bold")
    y, start = 70, 0
    for photograph, (lines, columns) in zip(photographs, sizes, strict=True):
        component = np.asarray(rows[start : start + lines * columns]).reshape(lines, columns)
        start += lines * columns
        y += _CAPTION
        _draw_pair(sheet, y, photograph, colours[rank[component]])
        y += lines + 14
    _draw_tiles(sheet, y + 74, p, order, colours)
    _draw_history(sheet, y + 74, found.record.get("history", []))
    _save(sheet.figure, output)


class _Sheet:
    """A figure measured in pixels from its upper left corner."""

    def __init__(self, figure: Figure, height: int) -> None:
        self.figure, self._height = figure, height

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Return axes whose upper left corner is at (x, y)."""
        top = 1 - (y + height) / self._height
        return self.figure.add_axes((x / _WIDTH, top, width / _WIDTH, height / self._height))

    def text(self, x: float, y: float, text: str, **attributes: Any) -> None:
        """Write text whose base line begins at (x, y)."""
        self.figure.text(x / _WIDTH, 1 - y / self._height, text, **attributes)


def _title(p: Parameters, n_rows: int) -> str:
    side = int(np.sqrt(p.n_features))
    return f"{n_rows:,} patches of {side} × {side} pixels, as a mixture of {p.n_components} Gaussians"


def _draw_pair(sheet: _Sheet, y: float, photograph: Photograph, coloured: Floats) -> None:
    """Draw a photograph and, pixel for pixel beside it, the components of its patches."""
    grey = photograph.centres
    lines, columns = grey.shape
    right = _WIDTH - _MARGIN - columns
    for x, image, caption in (
        (_MARGIN, np.repeat(grey[:, :, np.newaxis], 3, axis=2), photograph.name),
        (
            right,
            coloured[:, :, :3],
            "each pixel by the component of the patch around it; dark is low contrast",
        ),
    ):
        axes = sheet.axes(x, y, columns, lines)
        axes.imshow(image, interpolation="nearest", aspect="auto", vmin=0, vmax=1)
        axes.set_axis_off()
        sheet.text(x, y - 8, caption, size=12)


def _draw_tiles(sheet: _Sheet, y: float, p: Parameters, order: NDArray[np.intp], colours: Floats) -> None:
    """Draw the leading directions of components from low to high contrast, a column each below its colour."""
    side, zoom, gap = int(np.sqrt(p.n_features)), 4, 4
    step = side * zoom + gap
    shown = order[np.unique(np.linspace(0, len(order) - 1, min(_TILES, len(order))).round().astype(int))]
    rank = {int(k): i for i, k in enumerate(order)}
    sheet.text(_MARGIN, y - 34, "Leading directions of the components, one column each", size=13, weight="bold")
    sheet.text(_MARGIN, y - 14, "from low contrast to high, in the colours above; below, the share of patches", size=11)
    for column, k in enumerate(shown):
        x = _MARGIN + column * step
        strip = sheet.axes(x, y, step - gap, 10)
        strip.set_facecolor(colours[rank[int(k)]])
        strip.set(xticks=[], yticks=[])
        for number, vector in enumerate(directions(p, int(k))[1][:_DIRECTIONS]):
            axes = sheet.axes(x, y + 14 + number * step, step - gap, step - gap)
            limit = np.abs(vector).max()
            axes.imshow(vector.reshape(side, side), cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
            axes.set_axis_off()
        share = 100 * float(p.weights[k])
        place = y + 14 + _DIRECTIONS * step + 12
        sheet.text(x + side * zoom / 2, place, f"{share:.0f}%" if share >= 1 else "<1%", size=8.5, ha="center")


def _draw_history(sheet: _Sheet, y: float, history: Sequence[dict[str, Any]]) -> None:
    """Draw the mean log-likelihood of the best candidate by pass."""
    from matplotlib.ticker import MaxNLocator

    best: dict[int, float] = {}
    for record in history:
        value = record.get("mean_log_likelihood")
        if value is not None and record["what"] != "start":  # (those are of a sample)
            best[record["pass"]] = max(value, best.get(record["pass"], -np.inf))
    x = _WIDTH - _MARGIN - 470
    sheet.text(x, y - 34, "Mean log-likelihood of a patch, by pass", size=13, weight="bold")
    sheet.text(x, y - 14, "nats; the first pass surveys the data", size=11)
    axes = sheet.axes(x, y + 6, 470, 190)
    axes.plot(list(best), list(best.values()), color="#35306b", marker="o", markersize=5, linewidth=1.5)
    if best:
        last = max(best)
        axes.annotate(
            f"{best[last]:.2f}", (last, best[last]), xytext=(0, -28), textcoords="offset points", ha="right", size=11
        )
    axes.set_xlabel("pass", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, output: str) -> None:
    """Write the figure as a PNG of at most 256 colours, a third of the bytes of true colour; whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas: Any = FigureCanvasAgg(figure)  # typed in part
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[:, :, :3]
    picture = Image.fromarray(np.ascontiguousarray(pixels)).quantize(256, dither=Image.Dither.NONE)
    beside = f"{output}.part"
    picture.save(beside, format="PNG", optimize=True)
    os.replace(beside, output)
