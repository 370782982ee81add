"""What a fit says of itself: components that the rows do not support, a large reg_covar; every remedy works."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.mixture import GaussianMixture as Mixture
from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky

from daskgmm import GaussianMixture, select
from daskgmm.errors import FitWarning
from tests.fitting.driving import KINDS

CENTRES = np.array([[0.0, 0.0, 0.0, 0.0], [8.0, 0.0, 0.0, 0.0], [0.0, 8.0, 0.0, 0.0]])


def groups(n_rows: int, n_features: int = 4, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.zeros((3, n_features))
    centres[1, 0] = centres[2, 1] = 8.0
    return centres[rng.integers(0, 3, n_rows)] + rng.standard_normal((n_rows, n_features))


def fitted(X: Any, n_components: int, *, sample_weight: Any = None, **options: Any) -> tuple[GaussianMixture, str]:
    """Return a fit and what it warns of: once, or "" for not at all."""
    gm = GaussianMixture(n_components, **({"random_state": 0, "n_init": 2} | options))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FitWarning)
        gm.fit(X, sample_weight=sample_weight)
    told = [str(w.message) for w in caught if issubclass(w.category, FitWarning)]
    assert len(told) <= 1
    assert all(w.filename == __file__ for w in caught), "it names the line that fits"
    return gm, told[0] if told else ""


def test_a_fit_that_rows_support_says_nothing() -> None:
    gm, told = fitted(groups(600), 3)
    assert told == ""
    assert gm.support_.min() > 500
    assert_allclose(gm.counts_, gm.weights_ * 600, rtol=1e-2)
    one, told = fitted(groups(600), 1)
    assert told == ""
    assert one.support_.tolist() == [np.inf]


# -- too many components -------------------------------------------------------------------------------------------
def test_too_few_rows_for_a_component_and_the_remedies() -> None:
    X = np.random.default_rng(0).standard_normal((150, 20))
    start = {"n_init": 1, "escape": False, "init_params": "random_from_data"}
    gm, told = fitted(X, 9, **start)
    few = np.flatnonzero(gm.counts_ < 21)
    assert len(few) > 1
    assert f"{len(few)} of 9 components hold fewer rows than the 231 numbers that each is made of (" in told
    assert "Fit fewer components (select compares numbers of them), or covariance_type diag." in told
    assert fitted(X, 1)[1] == ""
    assert "fewer rows" not in fitted(X, 9, covariance_type="diag")[1]
    found = select(X, n_components=[1, 2], n_init=1, random_state=0)
    assert fitted(X, found.best_.n_components)[1] == ""


def test_wide_groups_at_too_many_components() -> None:
    X = groups(3000, 16)
    gm, told = fitted(X, 7)
    price = 0.5 * 153 * np.log(3000)
    weak = gm.support_ < price
    assert gm.counts_.min() > 17
    assert f"{weak.sum()} of 7 components" in told
    assert f"BIC asks for {price:,.1f}. Fit fewer components" in told
    found = select(X, n_components=[2, 3, 7], n_init=1, random_state=0)
    assert found.best_.n_components == 3
    assert [row["unsupported"] > 0 for row in found.table] == [False, False, True]
    assert fitted(X, 3)[1] == ""


@pytest.mark.parametrize("kind", KINDS)
def test_two_components_of_one_group_are_named_and_the_remedy_works(kind: str) -> None:
    """Support does not tell: without one of the two the other stays too narrow for the rows of both."""
    X, n = groups(6000, 2), 6000
    gm, told = fitted(X, 5, covariance_type=kind)
    sentence = r"The rows do not tell components (\d) and (\d) of 5 apart: as one they lose ([\d.]+) nats, and BIC asks"
    found = re.match(sentence, told)
    assert found is not None, told
    pair = [int(found[1]), int(found[2])]
    # The mean and covariance of both together, by scikit-learn.
    own = gm.to_sklearn()
    w = own.weights_[pair] / own.weights_[pair].sum()
    mean = w @ own.means_[pair]
    offsets = own.means_[pair] - mean
    between = {
        "full": np.einsum("k,ki,kj->ij", w, offsets, offsets), "tied": 0.0,
        "diag": w @ offsets**2, "spherical": (w @ offsets**2).mean(),
    }[kind]  # fmt: skip
    others = np.setdiff1d(np.arange(5), pair)
    both = Mixture(4, covariance_type=kind)
    both.weights_ = np.append(own.weights_[others], own.weights_[pair].sum())
    both.means_ = np.concatenate([own.means_[others], mean[np.newaxis]])
    both.covariances_ = own.covariances_
    if kind != "tied":
        one = np.tensordot(w, own.covariances_[pair], axes=1) + between
        both.covariances_ = np.concatenate([own.covariances_[others], np.asarray(one)[np.newaxis]])
    both.precisions_cholesky_ = _compute_precision_cholesky(both.covariances_, kind)
    lost = n * (own.score(X) - both.score(X))
    assert lost < 0.5 * {"full": 6, "tied": 3, "diag": 5, "spherical": 4}[kind] * np.log(n)
    assert_allclose(float(found[3]), max(lost, 0.0), atol=0.051)
    best = select(X, n_components=[2, 3, 5], covariance_type=kind, n_init=2, random_state=0).best_
    assert best.n_components == 3
    assert fitted(X, 3, covariance_type=kind)[1] == ""


def test_what_is_said_of_weighted_rows_is_what_bic_says_of_them() -> None:
    """A whole weight is that often the row: BIC, and so select, then tell apart what the rows once do not."""
    rng = np.random.default_rng(0)
    X, often = np.concatenate([rng.normal(-0.6, 1, (4000, 1)), rng.normal(0.6, 1, (4000, 1))]), np.full(8000, 4.0)
    found = select(X, n_components=[1, 2], random_state=0)
    heavier = select(X, n_components=[1, 2], random_state=0, sample_weight=often)
    assert (found.best_.n_components, heavier.best_.n_components) == (1, 2)
    assert "components 0 and 1 of 2 apart" in fitted(X, 2)[1]
    assert fitted(X, 2, sample_weight=often)[1] == ""


def test_rows_of_weight_zero_are_as_if_they_were_not_there() -> None:
    X, w = groups(8000, 2), np.zeros(8000)
    w[::40] = 1
    gm, told = fitted(X, 4, sample_weight=w)
    alone, said = fitted(X[::40], 4)
    assert told
    assert told.split(":")[1] == said.split(":")[1]
    assert_allclose(np.sort(gm.counts_), np.sort(alone.counts_), rtol=1e-3)
    assert_allclose(np.sort(gm.support_), np.sort(alone.support_), rtol=1e-2)
    w[:] = 0
    w[[0, 1, 2, 3]] = 1
    gm, told = fitted(X, 2, sample_weight=w)
    assert_allclose(gm.counts_.sum(), 4)
    assert "fewer rows than the 6 numbers" in told


def test_one_group_keeps_large_components() -> None:
    """N(0, I_16): no component has fewer rows than half of its 153 numbers, and that they are too many is said."""
    gm, told = fitted(np.random.default_rng(0).standard_normal((5000, 16)), 4, n_init=10)
    assert gm.counts_.min() >= 76
    assert "worth less than the 153 numbers" in told


@pytest.mark.slow
def test_a_small_far_group_is_kept() -> None:
    X = np.random.default_rng(0).standard_normal((200_000, 64))
    X[::400] += 1.5  # 12 deviations away
    gm, told = fitted(X, 2, tol=1e-6)
    assert told == ""
    assert_allclose(gm.counts_.min(), 500, rtol=1e-2)
    assert_allclose(gm.means_[np.argmin(gm.counts_)], 1.5, atol=0.3)


# -- rows that are alike -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", [(3.0, 3.0, 0.0, 0.0), (12.0, 12.0, 0.0, 0.0)])
def test_a_repeated_row_is_named_and_its_remedies_work(place: Any) -> None:
    rng = np.random.default_rng(1)
    X = np.concatenate([groups(19_700), np.tile(place, (300, 1))])[rng.permutation(20_000)]
    repeated = (np.array(place) == X).all(axis=1)
    gm, told = fitted(X, 4)
    assert f": 300 rows near ({place[0]:g}, {place[1]:g}, 0, 0)): in most directions" in told
    assert told.startswith("1 of 4 components holds rows that are alike (component ")
    # The others are as good as without it.
    alone, _ = fitted(X[~repeated], 3)
    for mean in alone.means_:
        assert np.abs(gm.means_ - mean).max(axis=1).min() < 1e-2
    assert "alike" not in fitted(X[~repeated], 4)[1]
    assert "alike" not in fitted(X, 4, sample_weight=(~repeated).astype(float))[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_different", [1, 2])
def test_rows_that_are_all_alike_are_fitted(kind: str, n_different: int) -> None:
    X = np.repeat(np.array([[7.0, 7.0], [8.0, 9.0]])[:n_different], 300, axis=0)
    for k in (2, 3, 5):
        gm, _ = fitted(X, k, covariance_type=kind)
        assert gm.lower_bound_ >= fitted(X, k, covariance_type=kind, escape=False)[0].lower_bound_ - 1e-6
    assert select(X, n_components=[1, 2], covariance_type=kind).best_.n_components == n_different


# -- reg_covar -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1e-5, 1e-3])
def test_a_reg_covar_that_hides_the_rows_and_the_remedies(kind: str, size: float) -> None:
    X = size * groups(600, 2)
    _, told = fitted(X, 3, covariance_type=kind)
    assert told.startswith("reg_covar = 1e-06 is more than 1% of the variance of ")
    assert "worth less" not in told
    assert "apart" not in told
    assert "apart" not in fitted(X, 2, covariance_type=kind)[1], "reg_covar hides it"
    better = float(told.split("Take reg_covar ")[1].split(",")[0])
    gm, again = fitted(X, 3, covariance_type=kind, reg_covar=better)
    assert again == ""
    assert_allclose(sorted(gm.means_[:, 0] / size), [0, 0, 8], atol=0.3)
    assert fitted(X / X.std(axis=0), 3, covariance_type=kind)[1] == ""


@pytest.mark.parametrize("kind", KINDS)
def test_constant_and_collinear_features_are_nobodys_fault(kind: str) -> None:
    X = groups(600)
    X[:, 2] = 7.0
    X[:, 3] = X[:, 0] - X[:, 1]
    assert fitted(X, 3, covariance_type=kind)[1] == ""
    mean_free = X - X.mean(axis=1, keepdims=True)
    assert "reg_covar" not in fitted(mean_free, 3, covariance_type=kind)[1]


def test_patches_less_their_mean_are_nobodys_fault_in_single_precision() -> None:
    """The mean is rounded with each pixel: along it some 1e-12 of a pixel's variance is left, all of it noise."""
    rng = np.random.default_rng(0)
    pixels = (0.5 + rng.uniform(0.02, 0.2, (3000, 1)) * rng.standard_normal((3000, 64))).astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    assert "reg_covar" not in fitted(pixels, 2)[1]


# -- where nothing is said -----------------------------------------------------------------------------------------
def test_a_given_start_that_is_not_fitted_says_nothing() -> None:
    X = np.random.default_rng(0).standard_normal((40, 4))
    given = {"weights_init": [0.5, 0.5], "means_init": np.zeros((2, 4)), "precisions_init": [np.eye(4)] * 2}
    assert "worth less" in fitted(X, 2, max_iter=3, tol=1e3, **given)[1]
    assert fitted(X, 2, max_iter=0, **given)[1] == ""


def test_a_feature_of_few_values_is_told_and_leaving_it_out_helps() -> None:
    values = np.repeat([0.0, 1.0, 2.0], 300)
    X = np.column_stack([np.random.default_rng(0).normal(size=900) + 8 * values, values])
    with pytest.warns(FitWarning, match=r"3 of 3 components have no variance but reg_covar .* few distinct values"):
        GaussianMixture(3, random_state=0).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaussianMixture(3, random_state=0).fit(X[:, :1])
        for value in range(3):
            GaussianMixture(1).fit(X[values == value])
