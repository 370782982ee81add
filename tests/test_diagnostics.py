"""What a mixture says of itself: standard errors, groups of components."""

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from click.testing import CliRunner
from scipy.special import xlogy
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning

from daskgmm import BayesianGaussianMixture, GaussianMixture, select
from daskgmm.cli.commands import gmm as command
from daskgmm.errors import DataError, OptionError
from daskgmm.stores.model_file import Model, load_model, save_model
from tests.reference_data import faithful


@pytest.fixture(scope="module")
def optimum() -> GaussianMixture:
    """The optimum of full covariances for the eruptions of Old Faithful, from a fixed start."""
    start: dict[str, Any] = {
        "weights_init": [0.5, 0.5],
        "means_init": [[2.0, 55], [4.5, 80]],
        "precisions_init": np.stack([np.diag([2, 1 / 50])] * 2),
    }
    gm = GaussianMixture(2, reg_covar=0.0, tol=0.0, max_iter=1000, acceleration=None, **start)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        return gm.fit(faithful())


def test_standard_errors_are_those_of_the_outer_products(optimum: GaussianMixture) -> None:
    found = optimum.standard_errors(faithful())
    right = [
        0.0290834557, 0.0349457601, 0.6284645883, 0.0107409677, 0.1798368037, 5.7775445517, 0.0334949289, 0.4713134906,
        0.0211238564, 0.1867910691, 4.0908979203,
    ]  # fmt: skip
    assert found.covariances is not None
    upper = found.covariances[:, [0, 0, 1], [0, 1, 1]]
    got = [found.weights[0], *found.means[0], *upper[0], *found.means[1], *upper[1]]
    np.testing.assert_allclose(got, right, rtol=5e-9)
    assert found.weights[1] == pytest.approx(found.weights[0], rel=1e-12)  # (two weights sum to one)
    np.testing.assert_array_equal(found.covariances, found.covariances.swapaxes(1, 2))


# -- how sure the assignment is --------------------------------------------------------------------------------------
def test_entropy_is_that_of_the_responsibilities_and_needs_no_pass_more(optimum: GaussianMixture) -> None:
    # (By EM in long doubles, row by row.)
    assert optimum.entropy_ == pytest.approx(0.69473812772166, rel=1e-11)
    X = faithful()
    (row,) = select(X, n_components=2, n_init=1, random_state=0, tol=1e-10, max_iter=1000).table
    assert row["entropy"] == pytest.approx(0.6947381197, abs=1e-4)
    # ICL by the likeliest component (mclust's), which is the lower of the two.
    assert row["bic"] <= row["icl"] <= row["bic"] + 2 * row["entropy"]
    assert row["icl"] == pytest.approx(row["bic"] + 2 * 0.2564693345, abs=1e-4)


@pytest.mark.parametrize(
    "what", ["far", "weights", "noise", "labels", "gaps", "errors", "bayes", "tied", "standardize"]
)
def test_entropy_is_that_of_predict_proba(what: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    X = np.concatenate([random.normal(0, 1, (400, 2)), random.normal(2, 1, (400, 2))])
    weights, how, beside = np.ones(800), {}, {}
    cls: Any = GaussianMixture
    if what == "far":
        X = X + 1e8
    elif what == "weights":
        weights = random.integers(0, 3, 800).astype(float)
    elif what == "noise":
        how = {"noise": True}
    elif what == "gaps":
        X, how = np.where(random.random(X.shape) < 0.3, np.nan, X), {"non_finite": "marginalize"}
        weights = (~np.isnan(X).all(axis=1)).astype(float)  # (rows without a value belong to nothing)
    elif what == "errors":
        beside = {"errors": random.uniform(0.1, 1, X.shape)}
    elif what == "bayes":
        cls = BayesianGaussianMixture
    elif what in ("tied", "standardize"):
        how = {"covariance_type": "tied"} if what == "tied" else {"standardize": True}
    labels = np.where(random.random(800) < 0.2, np.arange(800) // 400, -1) if what == "labels" else None
    asked = {"sample_weight": weights if what == "weights" else None, **beside}
    if labels is not None:
        asked["labels"] = labels
    gm = cls(n_components=2, n_init=1, random_state=0, **how).fit(X, **asked)
    resp = gm.predict_proba(X, **beside)
    if labels is not None:  # (a row of a known class belongs to it)
        weights = (labels < 0).astype(float)
    assert gm.entropy_ == pytest.approx(-(weights @ xlogy(resp, resp)).sum(), rel=1e-9)
    assert gm.entropy_ > 10
    gm.save(tmp_path / "m.zarr")
    assert cls.load(tmp_path / "m.zarr").entropy_ == gm.entropy_


def test_entropy_of_a_file_of_an_earlier_version_is_unknown_and_new_rows_add_theirs(tmp_path: Path) -> None:
    X = faithful()
    gm = GaussianMixture(2, n_init=1, random_state=0).fit(X)
    before = gm.entropy_
    gm.partial_fit(X[:50])
    assert gm.entropy_ == pytest.approx(before - xlogy(*[gm.predict_proba(X[:50])] * 2).sum(), rel=1e-9)
    gm.save(tmp_path / "m.zarr")
    model = load_model(tmp_path / "m.zarr")
    seen = {name: value for name, value in model.record["seen"].items() if name != "entropy"}
    save_model(Model(model.parameters, {**model.record, "seen": seen}), tmp_path / "m.zarr", overwrite=True)
    loaded = GaussianMixture.load(tmp_path / "m.zarr")
    assert np.isnan(loaded.entropy_)
    assert np.isnan(loaded.partial_fit(X[:50]).entropy_)


KINDS = ("full", "tied", "diag", "spherical")


def log_density(kind: str, theta: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """Log-density of each row for parameters in one vector: weights but the last, means, covariances."""
    d = rows.shape[1]
    weights = np.append(theta[: k - 1], 1 - theta[: k - 1].sum())
    means, rest = theta[k - 1 : k - 1 + k * d].reshape(k, d), theta[k - 1 + k * d :]
    upper = np.triu_indices(d)

    def matrix(values: np.ndarray) -> np.ndarray:
        found = np.zeros((d, d))
        found[upper] = values
        return found + np.triu(found, 1).T

    covariances: dict[str, Any] = {
        "full": lambda: [matrix(v) for v in rest.reshape(k, -1)],
        "tied": lambda: [matrix(rest)] * k,
        "diag": lambda: [np.diag(v) for v in rest.reshape(k, -1)],
        "spherical": lambda: [v * np.eye(d) for v in rest],
    }
    parts = zip(weights, means, covariances[kind](), strict=True)
    return np.log(sum(w * multivariate_normal(m, c).pdf(rows) for w, m, c in parts))


def mixture(kind: str) -> tuple[GaussianMixture, np.ndarray]:
    random = np.random.default_rng(3)
    rows = np.concatenate(
        [random.normal(0, 1, (60, 2)), random.normal(2, [0.5, 2], (60, 2)), random.normal(-3, 1, (60, 2))]
    )
    return GaussianMixture(3, covariance_type=kind, random_state=0, n_init=1).fit(rows), rows


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_derivatives_of_the_log_density(kind: str) -> None:
    """Against central differences of SciPy's densities."""
    gm, rows = mixture(kind)
    upper = np.triu_indices(2)
    free = {"full": lambda c: c[:, upper[0], upper[1]].ravel(), "tied": lambda c: c[upper]}.get(kind, np.ravel)
    theta = np.concatenate([gm.weights_[:-1], gm.means_.ravel(), free(gm.covariances_)])
    scores = []
    for i in range(len(theta)):
        step = np.zeros_like(theta)
        step[i] = 1e-5
        up, down = (log_density(kind, theta + sign * step, rows, 3) for sign in (1, -1))
        scores.append((up - down) / 2e-5)
    right = np.sqrt(np.diag(np.linalg.inv(np.array(scores) @ np.array(scores).T)))
    found = gm.standard_errors(rows)
    assert found.covariances is not None
    got = np.concatenate([found.weights[:-1], found.means.ravel(), free(found.covariances)])
    np.testing.assert_allclose(got, right, rtol=1e-5)
    means = gm.standard_errors(rows, what="means")
    right = np.sqrt(np.diag(np.linalg.inv(np.array(scores[:8]) @ np.array(scores[:8]).T)))
    np.testing.assert_allclose([*means.weights[:-1], *means.means.ravel()], right, rtol=1e-5)
    assert means.covariances is None


def test_standard_errors_know_weights_chunks_offsets_and_units() -> None:
    gm, rows = mixture("full")
    whole = gm.standard_errors(rows)
    assert whole.covariances is not None
    weights = np.arange(len(rows)) % 3 + 0.0
    repeated = np.repeat(rows, weights.astype(int), axis=0)
    a, b = gm.standard_errors(rows, sample_weight=weights), gm.standard_errors(repeated)
    np.testing.assert_allclose(a.means, b.means, rtol=1e-10)
    lazy = gm.standard_errors(da.from_array(rows, chunks=(50, 2)))
    np.testing.assert_allclose(lazy.means, whole.means, rtol=1e-10)
    scale = np.array([1e-5, 1e4])
    square = np.outer(scale, scale)
    moved = GaussianMixture.from_parameters(gm.weights_, gm.means_ * scale + 1e6, gm.covariances_ * square)
    there = moved.standard_errors(rows * scale + 1e6)
    np.testing.assert_allclose(there.means, whole.means * scale, rtol=1e-3)
    np.testing.assert_allclose(there.covariances, whole.covariances * square, rtol=1e-3)


def test_standard_errors_tell_how_far_means_were_off() -> None:
    """Of 60 fits, some 95 % lie within two standard errors of the truth."""
    random, inside = np.random.default_rng(0), []
    for _ in range(60):
        rows = np.concatenate([random.normal(0, 1, (150, 1)), random.normal(6, 2, (150, 1))])
        gm = GaussianMixture(2, n_init=1, init_params="k-means++", random_state=0, tol=1e-5, escape=False).fit(rows)
        error = gm.standard_errors(rows).means.ravel()
        order = np.argsort(gm.means_.ravel())
        inside.append(np.abs(gm.means_.ravel()[order] - [0, 6]) < 2 * error[order])
    assert 0.9 < np.mean(inside) < 0.99


def test_what_has_no_standard_errors_is_refused() -> None:
    gm, rows = mixture("full")
    with pytest.raises(OptionError, match="all or means"):
        gm.standard_errors(rows, what="weights")
    with pytest.raises(DataError, match="NaN"):
        gm.standard_errors(np.where(np.arange(len(rows))[:, None] == 3, np.nan, rows))
    with pytest.raises(DataError, match="fewer components"):
        gm.standard_errors(rows[:5])
    empty = GaussianMixture.from_parameters([1.0, 0.0], [[0.0, 0.0], [1.0, 1.0]], np.stack([np.eye(2)] * 2))
    with pytest.raises(DataError, match="fewer components"):
        empty.standard_errors(rows)
    means, covariances = np.arange(500.0).reshape(50, 10), np.stack([np.eye(10)] * 50)
    large = GaussianMixture.from_parameters(np.full(50, 0.02), means, covariances)
    with pytest.raises(OptionError, match="what='means'"):
        large.standard_errors(np.zeros((3, 10)))


def test_a_family_whose_covariances_are_of_fewer_numbers_has_those_of_its_means() -> None:
    rows = mixture("full")[1]
    family = GaussianMixture(3, covariance_type="VEE", random_state=0, n_init=1).fit(rows)
    with pytest.raises(OptionError, match="what='means'"):
        family.standard_errors(rows)
    found = family.standard_errors(rows, what="means")
    same = GaussianMixture.from_parameters(family.weights_, family.means_, family.covariances_)
    np.testing.assert_array_equal(found.means, same.standard_errors(rows, what="means").means)


# -- factors ------------------------------------------------------------------------------------------------------
def test_factors_of_one_component_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(4)
    rows = random.standard_normal((500, 2)) @ (random.standard_normal((2, 8)) * [[3], [1]])
    rows += random.standard_normal((500, 8)) * np.linspace(0.3, 1.0, 8)
    how: dict[str, Any] = {"covariance_type": "lowrank", "n_factors": 2, "reg_covar": 0.0}
    own = GaussianMixture(1, **how, factor_noise="feature").fit(rows).factors()
    theirs = FactorAnalysis(2, tol=1e-9, max_iter=20000, svd_method="lapack").fit(rows)
    signs = np.sign(np.sum(own.loadings[0].T * theirs.components_, axis=1, keepdims=True))
    np.testing.assert_allclose(own.loadings[0].T, signs * theirs.components_, atol=1e-3)
    np.testing.assert_allclose(own.noise_variances[0], theirs.noise_variance_, rtol=1e-3)
    one = GaussianMixture(1, **how).fit(rows).factors()
    pca, unbiased = PCA(2).fit(rows), 499 / 500
    np.testing.assert_allclose(one.noise_variances, np.full((1, 8), pca.noise_variance_ * unbiased), rtol=1e-9)
    lengths = np.sqrt((pca.explained_variance_ - pca.noise_variance_) * unbiased)
    np.testing.assert_allclose(np.abs(one.loadings[0].T), lengths[:, np.newaxis] * np.abs(pca.components_), rtol=1e-8)


@pytest.mark.parametrize("noise", ["isotropic", "feature"])
def test_factors_and_noise_are_the_covariances(noise: str) -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((900, 6)) @ random.standard_normal((6, 6)) + 20.0 * (np.arange(900) % 2)[:, None]
    gm = GaussianMixture(2, covariance_type="lowrank", n_factors=2, factor_noise=noise, random_state=0).fit(rows)
    loadings, noises = gm.factors()
    assert loadings.shape == (2, 6, 2)
    whole = loadings @ np.swapaxes(loadings, 1, 2) + noises[:, np.newaxis] * np.eye(6)
    np.testing.assert_allclose(whole, gm.covariances_, rtol=1e-3 if noise == "feature" else 1e-10, atol=1e-9)
    assert (np.take_along_axis(loadings, np.abs(loadings).argmax(axis=1)[:, None], axis=1) > 0).all()
    with pytest.raises(OptionError, match="Fit with covariance_type='lowrank' and n_factors"):
        mixture("full")[0].factors()


# -- groups of components -----------------------------------------------------------------------------------------
@cache
def crescent() -> tuple[GaussianMixture, np.ndarray]:
    """Two groups; one is a half circle that takes three components."""
    random = np.random.default_rng(1)
    angle = random.uniform(0, np.pi, 3000)
    bow = np.column_stack([6 * np.cos(angle), 6 * np.sin(angle)]) + random.normal(0, 0.5, (3000, 2))
    rows = np.concatenate([bow, random.normal([0, -6], 0.8, (1000, 2))])
    means = [[5, 2], [0, 6], [-5, 2], [0, -6]]
    return GaussianMixture(4, means_init=means, random_state=0).fit(rows), rows


def test_components_of_one_group_are_combined() -> None:
    gm, rows = crescent()
    assert gm.combine(rows, 2).tolist() == [0, 0, 0, 1]
    assert gm.combine(rows, 4).tolist() == [0, 1, 2, 3]
    assert gm.combine(rows, 1).tolist() == [0, 0, 0, 0]
    assert gm.combine(rows).tolist() == [0, 0, 0, 1]
    lazy = da.from_array(rows, chunks=(700, 2))
    groups = gm.combine(lazy, 2)
    labels = gm.predict(lazy).map_blocks(groups.__getitem__)
    assert np.bincount(labels.compute()).tolist() == [3000, 1000]


def test_each_step_makes_the_assignment_surest() -> None:
    gm, rows = crescent()
    resp = gm.predict_proba(rows).T
    weights = np.arange(len(rows)) % 2 + 1.0
    parts = [(resp[i], {i}) for i in range(4)]
    for n_groups in (3, 2):
        best: Any = None
        for i in range(len(parts)):
            for j in range(i + 1, len(parts)):
                others = [r for k, (r, _) in enumerate(parts) if k not in (i, j)] + [parts[i][0] + parts[j][0]]
                entropy = -sum((xlogy(r, r) * weights).sum() for r in others)
                if best is None or entropy < best[0]:
                    best = entropy, i, j
        _, i, j = best
        parts[i] = parts[i][0] + parts[j][0], parts[i][1] | parts[j][1]
        del parts[j]
        found = gm.combine(rows, n_groups, sample_weight=weights)
        assert {frozenset(np.flatnonzero(found == g)) for g in range(n_groups)} == {frozenset(own) for _, own in parts}


@pytest.mark.parametrize("wrong", [0, 5, 1.5, "two"])
def test_a_number_of_groups_that_cannot_be_is_refused(wrong: Any) -> None:
    gm, rows = crescent()
    with pytest.raises(OptionError, match="1 to 4"):
        gm.combine(rows, wrong)


def test_commands_tell_standard_errors_and_groups(tmp_path: Path) -> None:
    gm, rows = crescent()
    gm.save(tmp_path / "model.zarr")
    np.save(tmp_path / "rows.npy", rows)

    def run(*arguments: object) -> dict[str, Any]:
        one = ("--workers", 1)
        done = CliRunner().invoke(command, [str(a) for a in (*arguments, *one)], prog_name="daskgmm")
        assert done.exit_code == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    found = run("score", tmp_path / "model.zarr", tmp_path / "rows.npy", "--standard-errors")["standard_errors"]
    np.testing.assert_allclose(found["means"], gm.standard_errors(rows).means, rtol=1e-9)
    assert np.shape(found["covariances"]) == gm.covariances_.shape
    found = run("combine", tmp_path / "model.zarr", tmp_path / "rows.npy", "--groups", 2)
    assert found["groups"] == [0, 0, 0, 1]
    assert run("combine", tmp_path / "model.zarr", tmp_path / "rows.npy")["groups"] == [0, 0, 0, 1]
