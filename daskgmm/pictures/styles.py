"""Colours of components, and names in pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from daskgmm.mixture.arrays import Floats

#: Okabe and Ito's colours, which the colour-blind tell apart.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5c00")
#: Markers, which tell lines apart in grey too.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: Letters of a name at most.
_LETTERS = 22


def colours(n: int) -> list[Any]:
    """Return a colour for each of n things: those that the colour-blind tell apart while they last."""
    if n <= len(PALETTE):
        return list(PALETTE[:n])
    import matplotlib as mpl

    # (By steps of the golden ratio: those next to each other in number are not in colour.)
    places = np.arange(n) * (np.sqrt(5) - 1) / 2 % 1
    return [mpl.colormaps["turbo"](x) for x in 0.04 + 0.92 * places]


def opacities(weights: Floats) -> list[float]:
    """Return how opaque each component is, by its weight: the heaviest wholly, none less than a quarter."""
    return [float(a) for a in 0.25 + 0.75 * np.sqrt(weights / weights.max())]


def short(name: str) -> str:
    """Return a name, or its beginning and end where it is long: what differs often stands at the end."""
    half = _LETTERS // 2
    return name if len(name) <= _LETTERS else f"{name[: half - 1]}…{name[-half:]}"


def plain_text() -> dict[str, Any]:
    """Return what has matplotlib write a text as it is: a $ in a name begins no formula."""
    return {"parse_math": False}
