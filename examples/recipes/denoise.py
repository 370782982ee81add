# /// script
# requires-python = ">=3.11"
# dependencies = ["daskgmm[demo]"]
#
# [tool.uv.sources]
# daskgmm = { path = "../.." }
# ///
"""A photograph without its noise: patches of another one are the prior (EPLL, Zoran and Weiss 2011, ICCV, 479-486)."""

import sys
from pathlib import Path

import numpy as np
from matplotlib.image import imsave
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_sample_images

from daskgmm import GaussianMixture

SIDE, SIGMA = 6, 0.1  # of a patch, pixels; of the noise, where white is 1


def patches(image: np.ndarray) -> np.ndarray:
    """All overlapping patches, (n, 36), each less its mean."""
    rows = sliding_window_view(image, (SIDE, SIDE)).reshape(-1, SIDE * SIDE)
    return rows - rows.mean(axis=1, keepdims=True)


def most_probable(rows: np.ndarray, mixture: GaussianMixture, variance: float) -> np.ndarray:
    """The most probable patches before noise of this variance: a Wiener filter by the component of each."""
    noise = variance * np.eye(rows.shape[1])
    noisy = GaussianMixture.from_parameters(mixture.weights_, mixture.means_, mixture.covariances_ + noise)
    labels, found = noisy.predict(rows), np.empty_like(rows)
    for k in np.unique(labels):
        own, mean, covariance = labels == k, mixture.means_[k], mixture.covariances_[k]
        found[own] = mean + (rows[own] - mean) @ np.linalg.solve(covariance + noise, covariance)
    return found


def denoised(noisy: np.ndarray, mixture: GaussianMixture) -> np.ndarray:
    image, height, width = noisy.copy(), noisy.shape[0] - SIDE + 1, noisy.shape[1] - SIDE + 1
    for beta in (1, 4, 8, 16):  # half-quadratic splitting: patches and image come closer to each other
        windows = sliding_window_view(image, (SIDE, SIDE)).reshape(-1, SIDE * SIDE)
        clean = most_probable(patches(image), mixture, SIGMA**2 / beta) + windows.mean(axis=1, keepdims=True)
        clean = clean.reshape(height, width, SIDE, SIDE)
        total, count = np.zeros_like(image), np.zeros_like(image)
        for i in range(SIDE):
            for j in range(SIDE):
                total[i : i + height, j : j + width] += clean[:, :, i, j]
                count[i : i + height, j : j + width] += 1
        image = (noisy + beta * total / count) / (1 + beta)
    return image


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((image - truth) ** 2)))


def main(folder: Path) -> None:
    china, flower = (image.mean(axis=2) / 255 for image in load_sample_images().images)
    # The prior is learned from one photograph, and tried on the other.
    mixture = GaussianMixture(10, tol=0.2, n_init=3, random_state=0).fit(patches(china[150:300, 100:300]))
    truth = flower[120:250, 200:360]
    noisy = truth + np.random.default_rng(0).normal(0, SIGMA, truth.shape)
    clean = denoised(noisy, mixture)
    print(f"PSNR before: {psnr(noisy, truth):.1f} dB, after: {psnr(clean, truth):.1f} dB")
    pictures = np.hstack([truth, noisy, clean]).clip(0, 1)
    imsave(folder / "denoised.png", pictures, cmap="gray", vmin=0, vmax=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
