"""Digits: few rows of many features, where fits end above scikit-learn's best of ten, on rows held out too."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture as Theirs

from daskgmm import GaussianMixture


def digits(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows to fit and rows held out: pixels that vary by more than a little, or principal components."""
    X = load_digits().data
    X = PCA(20, random_state=0).fit_transform(X) if kind == "full" else X[:, X.std(axis=0) > 0.1]
    order = np.random.default_rng(3).permutation(len(X))
    return X[order[::2]], X[order[1::2]]


@pytest.mark.parametrize(
    ("kind", "train", "held"),
    # (Measured: 0.02, 0.84 and 0.68 on the rows fitted, and some tenths of either sign to 1.74 on those held out, where
    # scikit-learn's own starts differ as much. While halves of a split were held to the rows of a full covariance, tied
    # ended 0.47 and 0.37 below scikit-learn's.)
    [("full", 0.0, -0.3), ("diag", 0.6, 0.8), ("tied", 0.2, 0.1)],
)
def test_fits_of_digits_end_above_the_best_of_ten(kind: str, train: float, held: float) -> None:
    X, others = digits(kind)
    options = {"n_components": 10, "covariance_type": kind, "reg_covar": 1e-2, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, theirs = GaussianMixture(**options).fit(X), Theirs(**options, n_init=10).fit(X)
    assert ours.score(X) >= theirs.score(X) + train
    assert ours.score(others) >= theirs.score(others) + held
    if kind != "tied":
        assert ours.counts_.min() > X.shape[1] / 2
