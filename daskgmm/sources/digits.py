"""Whole numbers of 64 bits that float64 cannot hold: beyond 2^53 they lose their last digits, perhaps all spread."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError

#: Up to here float64 holds every whole number.
EXACT = 2**53


def refuse_lost_digits(whole: NDArray[Any], *, first_row: int | None, argument: str = "X", column: Any = None) -> None:
    """Raise a DataError where float64 cannot hold a whole number of some rows; other dtypes are let be.

    Parameters
    ----------
    whole : (n_rows, n_features) or (n_rows,), any dtype
    first_row : int or None
        Row number of the first row; None where nobody knows it.
    column : optional
        Label of the column, where `whole` is one.

    Notes
    -----
    Nanoseconds since 1970 have a step of 256 in float64. A shift by an integer origin would be exact, but means of
    float64 could not say where the mixture is, nor a model file: so it is the user who takes the origin, and keeps it.
    """
    if whole.dtype.kind not in "iu" or whole.dtype.itemsize < 8 or whole.size == 0:
        return
    if max(int(whole.max()), -int(whole.min())) <= EXACT:
        return
    lost = _lost(whole)
    if not lost.any():
        return
    place = np.unravel_index(int(np.argmax(lost)), whole.shape)
    where = f"column {column if column is not None else place[1] if whole.ndim == 2 else 0}"
    if first_row is not None:
        where = f"row {first_row + int(place[0])}, {where}"
    value = int(whole[place])
    raise DataError(
        f"`{argument}`",
        "hold whole numbers of at most 2^53, which float64 can hold",
        f"{value} in {where}, which would be taken for {int(float(value))}",
        f"Subtract a whole number first ({argument} - {argument}.min(axis=0)), or round it yourself "
        f"({argument}.astype('float64')).",
    )


def _lost(whole: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which whole numbers are not the same in float64."""
    rounded = whole.astype(np.float64)
    beyond = rounded >= 2.0 ** (64 if whole.dtype.kind == "u" else 63)  # (these cannot be converted back)
    rounded[beyond] = 0.0
    lost: NDArray[np.bool_] = beyond | (rounded.astype(whole.dtype) != whole)
    return lost
