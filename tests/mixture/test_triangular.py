"""Triangular products equal NumPy's, and other threads run meanwhile."""

import threading
import time

import numpy as np
import pytest

from daskgmm.mixture.triangular import gram, multiply_triangular


@pytest.mark.parametrize(("n_features", "n_rows"), [(1, 1), (2, 5), (33, 7), (40, 256)])
def test_products_equal_numpys(n_features, n_rows):
    rng = np.random.default_rng(0)
    upper, x = np.triu(rng.standard_normal((n_features, n_features))), rng.standard_normal((n_features, n_rows))
    spoiled = upper + np.tril(np.full_like(upper, np.nan), -1)
    found = x.copy()
    multiply_triangular(np.ascontiguousarray(spoiled), found)
    np.testing.assert_allclose(found, upper.T @ x, rtol=1e-12, atol=1e-12)
    second = np.full((n_features, n_features), np.nan)
    gram(x, second)
    rows, columns = np.triu_indices(n_features)
    np.testing.assert_allclose(second[rows, columns], (x @ x.T)[rows, columns], rtol=1e-12, atol=1e-12)
    assert np.isnan(np.tril(second, -1)[np.tril_indices(n_features, -1)]).all()


@pytest.mark.parametrize("wrong", [np.zeros((4, 3)).T, np.zeros((3, 4), dtype=np.float32), np.zeros((3, 8))[:, ::2]])
def test_other_layouts_are_refused(wrong):
    with pytest.raises(ValueError, match="float64 in C order"):
        multiply_triangular(np.eye(3), wrong)
    with pytest.raises(ValueError, match="float64 in C order"):
        gram(wrong, np.empty((3, 3)))


def test_the_lock_is_released():
    # A product of a few tenths of a second; a thread that only counts must go on meanwhile.
    x, out, counted, stop = np.ones((1500, 4000)), np.empty((1500, 1500)), [0], threading.Event()

    def count():
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    before = counted[0]
    for _ in range(3):
        gram(x, out)
    during = counted[0] - before
    stop.set()
    thread.join()
    assert during >= 10
