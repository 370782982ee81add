"""Numbers of a column in one notation, all fixed or all scientific, to the digits that tell them apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from daskgmm.mixture.arrays import Floats

#: Characters of a number with a fixed point at most.
_WIDEST = 16
#: Standard deviations of a column may differ so much that a fixed point shows them all.
_ALIKE = 1e3


def in_one_notation(values: Sequence[float | None], *, digits: int = 4) -> list[str]:
    """Return the numbers of a column as text, the spread of them with so many digits; nothing for None and NaN."""
    known = [float(v) for v in values if v is not None and math.isfinite(v)]
    largest = max(map(abs, known), default=0.0)
    spread = (max(known) - min(known) if known else 0.0) or largest
    decimals = _decimals(spread, digits)
    if _width(largest, decimals) <= _WIDEST:
        return [_text(v, f",.{decimals}f") for v in values]
    return [_text(v, f".{digits - 1}e") for v in values]


def ratios(values: Sequence[float | None]) -> list[str]:
    """Return positive numbers as text, each to three digits: with a point where all are below 100,000."""
    known = [float(v) for v in values if v is not None and math.isfinite(v)]
    if not known or max(known) >= 1e5:
        return [_text(v, ".2e") for v in values]
    decimals = _decimals(min(known), 3)
    return [_text(v, f",.{min(decimals, 2)}f") for v in values]


def shares(weights: Sequence[float]) -> list[str]:
    """Return parts of one as text; what four digits would show as 0 is below that."""
    return ["< 0.0001" if 0 < w < 5e-5 else f"{w:.4f}" for w in weights]


def with_deviations(means: Floats, deviations: Floats) -> list[str]:
    """Return the means of a column with their standard deviations: the smallest of these with two digits."""
    least, greatest = float(np.min(deviations)), float(np.max(deviations))
    largest = max(float(np.max(np.abs(means))), greatest)
    decimals = _decimals(least, 2)
    if greatest <= _ALIKE * least and _width(largest, decimals) <= _WIDEST:
        form = f",.{decimals}f"
        return [f"{m:{form}} ± {s:{form}}" for m, s in zip(means, deviations, strict=True)]
    # As many digits of the means as tell them from each other by the smallest deviation.
    digits = int(np.clip(math.floor(math.log10(largest)) - math.floor(math.log10(least)) + 1, 3, 12))
    return [f"{m:.{digits}e} ± {s:.1e}" for m, s in zip(means, deviations, strict=True)]


def _decimals(value: float, digits: int) -> int:
    """Return the digits behind the point with which a number has so many in all, none below 0."""
    return max(0, digits - 1 - math.floor(math.log10(value))) if value > 0 else 0


def _width(largest: float, decimals: int) -> int:
    return len(f"{largest:,.{decimals}f}") if largest < 1e20 else 99


def _text(value: float | None, form: str) -> str:
    return "" if value is None or not math.isfinite(value) else format(value, form)
