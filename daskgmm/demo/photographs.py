"""The photographs of the demo, and their patches."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Patches are SIDE x SIDE pixels.
SIDE = 8


@dataclass(frozen=True)
class Photograph:
    """A grey photograph.

    Attributes
    ----------
    name : str
    grey : (height, width), float32
        Luminance from 0 to 1.
    """

    name: str
    grey: NDArray[np.float32]

    @property
    def patch_shape(self) -> tuple[int, int]:
        """Lines and columns of the overlapping patches: one for each pixel but for the last SIDE - 1."""
        return self.grey.shape[0] - SIDE + 1, self.grey.shape[1] - SIDE + 1

    @property
    def centres(self) -> NDArray[np.float32]:
        """The pixels at the centres of the patches (up to half a pixel), in the shape of `patch_shape`."""
        (lines, columns), first = self.patch_shape, (SIDE - 1) // 2
        return self.grey[first : first + lines, first : first + columns]

    def patches(self, lines: slice) -> NDArray[np.float32]:
        """Return the patches of some lines less their means, (n_rows, SIDE * SIDE), float32, in the order of pixels."""
        windows = np.lib.stride_tricks.sliding_window_view(self.grey, (SIDE, SIDE))[lines]
        rows: NDArray[np.float32] = windows.reshape(-1, SIDE * SIDE).copy()
        rows -= rows.mean(axis=1, keepdims=True)
        return rows


def load_photographs(height: int | None = None) -> list[Photograph]:
    """Return the photographs that scikit-learn ships, grey, or `height` lines of their middle."""
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    result = []
    for path, image in zip(found.filenames, found.images, strict=True):
        # Luminance as Rec. 601 has it.
        grey = (image @ np.array([0.299, 0.587, 0.114]) / 255).astype(np.float32)
        if height is not None and height < len(grey):
            first = (len(grey) - height) // 2
            grey = grey[first : first + height]
        result.append(Photograph(os.path.basename(path), grey))
    return result
