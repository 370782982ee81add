"""A figure that notebooks show once, and scripts save or show. (It needs matplotlib: import it where that is sure.)"""

from __future__ import annotations

import io
import os
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from daskgmm.errors import OutputError


class Picture(Figure):
    """A figure of matplotlib that pyplot does not hold.

    So a notebook shows it once, as the value of a cell, and a loop that makes a thousand of them keeps none. `savefig`
    writes it, `show` opens a window.
    """

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows where nothing else has told it how."""
        return self.encoded("png")

    def show(self, warn: bool = True) -> None:
        """Show it in a window, and wait until that is closed."""
        from matplotlib import pyplot

        pyplot.figure(FigureClass=lambda *_, **__: self)  # type: ignore[arg-type]  # (pyplot asks it for a figure)
        pyplot.show()

    def encoded(self, form: str) -> bytes:
        """Return it as a file of the form "png", "pdf" or "svg": the same bytes for the same picture."""
        content = io.BytesIO()
        # Neither a time nor a random name.
        dated = {"png": "Creation Time", "svg": "Date", "pdf": "CreationDate"}.get(form)
        with mpl.rc_context({"svg.hashsalt": "daskgmm"}):
            self.savefig(content, format=form, metadata={dated: None} if dated else None)
        return content.getvalue()

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it; the end of the name says how. An OutputError where that cannot be."""
        write(self, path)


def write(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure; the end of the name says how. An OutputError where that cannot be."""
    try:
        figure.savefig(os.fspath(path))
    except (OSError, ValueError) as error:
        raise OutputError(
            "The picture's place", "be writable, and end like .png", f"{error} for {os.fspath(path)}", "Choose another."
        ) from error
