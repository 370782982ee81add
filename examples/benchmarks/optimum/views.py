"""What the rows of a picture are: its patches, colours, places, textures; `kept_sets.py` draws from them.

A view takes a generator and returns, a picture, an array of lines × columns × whatever a row is made of, and the
number of the picture's columns that a row sees. Pixels are in units from 0 to 1, and integers get a fraction, since
they were rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

View = list[tuple[Any, int]]
#: Standard deviations of the Gaussians, in pixels, and how many of them a filter reaches.
SIGMAS, REACH = (1.0, 2.0, 3.0), 3.0
#: Luminance as Rec. 601 has it.
LUMINANCE = np.array([0.299, 0.587, 0.114])


@cache
def _photographs() -> list[Any]:
    from sklearn.datasets import load_sample_images

    return list(load_sample_images().images)


def colour(random: np.random.Generator) -> list[Any]:
    """Return scikit-learn's photographs, (427, 640, 3) each."""
    return [(image + random.uniform(size=image.shape)) / 255 for image in _photographs()]


def grey(random: np.random.Generator, *, only: int | None = None, rounded: bool = False) -> list[Any]:
    """Return the photographs in grey, (427, 640, 1) each, or one of them; rounded: without the fractions."""
    found = [image @ LUMINANCE for image in _photographs()]
    found = found if only is None else [found[only]]
    return [(image + (not rounded) * random.uniform(size=image.shape))[:, :, np.newaxis] / 255 for image in found]


def terrain(random: np.random.Generator) -> list[Any]:
    """Return the elevations that matplotlib ships, (344, 403, 1), in hundreds of metres."""
    from matplotlib.cbook import get_sample_data

    with get_sample_data("jacksboro_fault_dem.npz") as stored:
        metres = stored["elevation"]
    return [(metres + random.uniform(size=metres.shape))[:, :, np.newaxis] / 100]


def windows(
    pictures: Callable[[np.random.Generator], list[Any]], side: int, random: np.random.Generator, *,
    centred: bool = False,
) -> View:  # fmt: skip
    """Return the overlapping square patches of side x side pixels; centred: less their mean."""
    found = [np.lib.stride_tricks.sliding_window_view(image, (side, side), (0, 1)) for image in pictures(random)]
    if centred:
        found = [patches - patches.mean(axis=(2, 3, 4), keepdims=True) for patches in found]
    return [(patches, side) for patches in found]


def channels(random: np.random.Generator) -> View:
    """Return red, green and blue of each pixel."""
    return [(image, 1) for image in colour(random)]


def heights(random: np.random.Generator) -> View:
    """Return line, red, green and blue of each pixel, the line in heights of the picture."""
    found = []
    for image in colour(random):
        n_lines, n_columns, _ = image.shape
        line = np.broadcast_to(np.arange(n_lines)[:, np.newaxis, np.newaxis] / n_lines, (n_lines, n_columns, 1))
        found.append((np.concatenate([line, image], axis=2), 1))
    return found


def scales(random: np.random.Generator) -> View:
    """Return red, green and blue of each pixel, and of the Gaussian means about it at two scales."""
    from scipy.ndimage import gaussian_filter

    sigmas = SIGMAS[::2]
    found = []
    for image in colour(random):
        means = [gaussian_filter(image, (sigma, sigma, 0), truncate=REACH) for sigma in sigmas]
        found.append(_inside(np.concatenate([image, *means], axis=2), sigmas[-1]))
    return found


def textures(random: np.random.Generator) -> View:
    """Return the first and second derivatives of Gaussians at three scales, in units of the scale: 15 filters."""
    from scipy.ndimage import gaussian_filter

    orders = ((0, 1), (1, 0), (0, 2), (1, 1), (2, 0))
    found = []
    for image in grey(random):
        maps = [
            sigma ** sum(order) * gaussian_filter(image[:, :, 0], sigma, order=order, truncate=REACH)
            for sigma in SIGMAS
            for order in orders
        ]
        found.append(_inside(np.stack(maps, axis=2), SIGMAS[-1]))
    return found


def tensors(random: np.random.Generator) -> View:
    """Return the structure tensors at three scales.

    Each is four numbers: the logarithms of the eigenvalues, and the direction (twice the angle's cosine and sine) times
    the coherence.
    """
    from scipy.ndimage import gaussian_filter

    found = []
    for image in grey(random):
        maps = []
        for sigma in SIGMAS:
            across, down = (gaussian_filter(image[:, :, 0], 1.0, order=o, truncate=REACH) for o in ((0, 1), (1, 0)))
            xx, xy, yy = (gaussian_filter(each, sigma, truncate=REACH) for each in (across**2, across * down, down**2))
            half, middle = np.hypot((xx - yy) / 2, xy), (xx + yy) / 2
            maps += [np.log(middle + half), np.log(np.maximum(middle - half, 0) + 1e-9)]
            maps += [(xx - yy) / 2 / middle, xy / middle]
        found.append(_inside(np.stack(maps, axis=2), SIGMAS[-1] + 1.0))
    return found


def _inside(maps: Any, sigma: float) -> tuple[Any, int]:
    """Return the part of the maps whose filters lie inside the picture, and the columns that they see."""
    reach = int(np.ceil(REACH * sigma))
    return maps[reach:-reach, reach:-reach], 2 * reach + 1


def strokes(n: int, d: int, k: int, kind: str, random: np.random.Generator) -> tuple[Any, Any]:
    """Return n 4 x 4 patches of scikit-learn's digits that are not empty; of every fourth digit they are held out."""
    from sklearn.datasets import load_digits

    images = load_digits().images
    found = []
    for held in (False, True):
        mine = images[(np.arange(len(images)) % 4 == 3) == held]
        X = np.lib.stride_tricks.sliding_window_view(mine, (4, 4), (1, 2)).reshape(-1, d)
        X = X[X.any(axis=1)]
        X = X[np.sort(random.permutation(len(X))[:n])]
        found.append((X + random.uniform(size=X.shape)) / 16)
    return found[0], found[1]
