"""Mixtures of some features: marginal, conditional, and what they predict of the others."""

import json
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas
import pytest
import zarr
from click.testing import CliRunner
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.linear_model import LinearRegression

from daskgmm import GaussianMixture
from daskgmm.cli.commands import gmm as command
from daskgmm.errors import DataError, OptionError

K, D = 3, 5
KINDS = ("full", "tied", "diag", "spherical")


def mixture(kind: str, *, offset: float = 0.0, names: list[str] | None = None) -> GaussianMixture:
    random = np.random.default_rng(5)
    weights, means = random.dirichlet(np.full(K, 4.0)), offset + random.normal(0, 2, (K, D))
    factors = random.normal(0, 1, (K, D, D + 2))
    full = factors @ factors.swapaxes(1, 2) / D
    covariances: Any = {
        "full": full,
        "tied": full[0],
        "diag": np.einsum("kii->ki", full),
        "spherical": np.einsum("kii->k", full) / D,
    }[kind]
    return GaussianMixture.from_parameters(weights, means, covariances, covariance_type=kind, feature_names=names)


def matrices(gm: GaussianMixture) -> np.ndarray:
    """Covariances as matrices, (K, D, D)."""
    k, d = gm.means_.shape
    return {
        "full": lambda c: c,
        "tied": lambda c: np.stack([c] * k),
        "diag": lambda c: np.stack([np.diag(v) for v in c]),
        "spherical": lambda c: np.stack([v * np.eye(d) for v in c]),
    }[gm.covariance_type](gm.covariances_)


def log_densities(gm: GaussianMixture, x: np.ndarray) -> np.ndarray:
    parts = zip(gm.weights_, gm.means_, matrices(gm), strict=True)
    return np.array([np.log(w) + multivariate_normal(m, c).logpdf(x) for w, m, c in parts])


@pytest.mark.parametrize("kind", KINDS)
def test_a_density_is_that_of_the_marginal_times_the_conditional(kind: str) -> None:
    gm, x = mixture(kind), np.random.default_rng(1).normal(0, 2, D)
    known, kept = [3, 0], [1, 2, 4]
    marginal, conditional = gm.marginal(known), gm.condition(known, x[known])
    whole = logsumexp(log_densities(gm, x))
    both = logsumexp(log_densities(marginal, x[known])) + logsumexp(log_densities(conditional, x[kept]))
    assert both == pytest.approx(whole, abs=1e-12)
    # Components keep their order: of each alone, too.
    own = log_densities(marginal, x[known]) - logsumexp(log_densities(marginal, x[known]))
    np.testing.assert_allclose(np.exp(own), conditional.weights_, rtol=1e-12)
    assert conditional.covariance_type == kind
    assert conditional.score_samples(x[kept][np.newaxis])[0] == pytest.approx(
        logsumexp(log_densities(conditional, x[kept])), abs=1e-12
    )


def test_a_marginal_is_the_mixture_of_these_columns() -> None:
    gm = mixture("full", names=list("abcde"))
    found = gm.marginal(["d", "b"])
    assert list(found.feature_names_in_) == ["d", "b"]
    np.testing.assert_array_equal(found.means_, gm.means_[:, [3, 1]])
    np.testing.assert_array_equal(found.covariances_, gm.covariances_[:, [[3], [1]], [3, 1]])
    np.testing.assert_array_equal(gm.marginal([3, 1]).covariances_, found.covariances_)
    assert not hasattr(found, "lower_bound_")


def test_far_from_all_means_one_component_has_all_the_weight() -> None:
    found = mixture("full").condition([0], [1e9])
    assert np.isfinite(found.weights_).all()
    assert sorted(found.weights_) == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_a_regression_is_the_mean_of_the_conditional_mixture(kind: str, offset: float) -> None:
    gm = mixture(kind, offset=offset)
    rows = gm.means_[np.arange(40) % K] + np.random.default_rng(2).normal(0, 1, (40, D))
    known = [4, 1]
    found = gm.predict_features(rows[:, known], known)
    conditional = [gm.condition(known, row) for row in rows[:, known]]
    right = [one.weights_ @ one.means_ for one in conditional]
    np.testing.assert_allclose(found, right, rtol=1e-12, atol=1e-10 * (1 + offset * 1e-6))


def test_rows_with_gaps_are_no_rows_to_regress_on_and_no_remedy_says_so() -> None:
    fitted = GaussianMixture(2, random_state=0).fit(np.random.default_rng(0).normal(size=(200, 3)))
    with pytest.raises(DataError) as caught:
        fitted.predict_features(np.array([[0.0, np.nan]]), [0, 1])
    assert "drop" in str(caught.value)
    assert "marginalize" not in str(caught.value)


def test_one_component_is_linear_regression() -> None:
    X = np.random.default_rng(3).normal(0, 1, (500, 3)) @ np.array([[1, 0.5, 2], [0, 1, -1], [0, 0, 0.1]])
    gm = GaussianMixture(1, reg_covar=0.0).fit(X)
    linear = LinearRegression().fit(X[:, :2], X[:, 2])
    np.testing.assert_allclose(gm.predict_features(X[:, :2], [0, 1])[:, 0], linear.predict(X[:, :2]), atol=1e-10)


def test_a_regression_is_lazy_where_its_rows_are(tmp_path: Path) -> None:
    gm = mixture("full", names=list("abcde"))
    rows = np.random.default_rng(4).normal(0, 2, (1000, D))
    right = gm.predict_features(rows[:, [2, 0]], ["c", "a"])
    lazy = gm.predict_features(da.from_array(rows[:, [2, 0]], chunks=(300, 2)), ["c", "a"])
    assert isinstance(lazy, da.Array)
    np.testing.assert_array_equal(lazy.compute(), right)
    frame = pandas.DataFrame(rows[:, [2, 0]], columns=["c", "a"])
    np.testing.assert_array_equal(gm.predict_features(frame), right)
    pandas.DataFrame(rows, columns=list("abcde")).to_parquet(tmp_path / "rows.parquet")
    stored = gm.predict_features(str(tmp_path / "rows.parquet"), ["c", "a"])
    np.testing.assert_array_equal(stored.compute(), right)
    zarr.create_array(tmp_path / "x.zarr", data=np.ascontiguousarray(rows[:, [2, 0]]), chunks=(300, 2))
    np.testing.assert_array_equal(gm.predict_features(tmp_path / "x.zarr", ["c", "a"]).compute(), right)


def test_rows_that_are_dropped_are_predicted_as_nan() -> None:
    gm = mixture("full").set_params(non_finite="drop")
    found = gm.predict_features([[0.0, 1.0], [np.nan, 1.0]], [0, 1])
    np.testing.assert_array_equal(np.isnan(found), [[False] * 3, [True] * 3])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda gm: gm.marginal([5]), "name features of the mixture"),
        (lambda gm: gm.marginal([]), "at least one feature"),
        (lambda gm: gm.condition([0, 0], [1.0, 2.0]), "each once"),
        (lambda gm: gm.condition([0, 1], [1.0]), "2 finite numbers"),
        (lambda gm: gm.condition([0], [np.nan]), "1 finite numbers"),
        (lambda gm: gm.condition(range(5), np.zeros(5)), "leave a feature"),
        (lambda gm: gm.predict_features(np.zeros((3, 2))), "say which features"),
        (lambda gm: gm.predict_features(np.zeros((3, 5)), range(5)), "leave a feature"),
    ],
)
def test_what_cannot_be_meant_is_refused(call: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        call(mixture("full"))


def test_rows_of_other_features_are_refused() -> None:
    with pytest.raises(DataError, match="2 columns"):
        mixture("full").predict_features(np.zeros((3, 4)), [0, 1])


def run_command(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(command, [str(a) for a in arguments], prog_name="daskgmm")
    assert done.exit_code == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_commands_write_mixtures_of_some_features(tmp_path: Path) -> None:
    gm = mixture("full", names=list("abcde"))
    gm.save(tmp_path / "model.zarr")
    run_command("marginal", tmp_path / "model.zarr", "--features", "d,b", "--output", tmp_path / "m.zarr")
    found = GaussianMixture.load(tmp_path / "m.zarr")
    np.testing.assert_array_equal(found.covariances_, gm.marginal(["d", "b"]).covariances_)
    run_command("condition", tmp_path / "model.zarr", "--given", "a=1.5,c=-2", "--output", tmp_path / "c.zarr")
    found = GaussianMixture.load(tmp_path / "c.zarr")
    np.testing.assert_array_equal(found.means_, gm.condition(["a", "c"], [1.5, -2.0]).means_)
    assert list(found.feature_names_in_) == ["b", "d", "e"]
    again = json.loads(run_command("condition", tmp_path / "model.zarr", "--given", "a=1.5,c=-2", "--output",
                                   tmp_path / "c.zarr"))  # fmt: skip
    assert again["skipped"]
    other = ("condition", tmp_path / "model.zarr", "--given", "a=1,c=-2", "--output", tmp_path / "c.zarr")
    assert "--force" in run_command(*other, code=73)
    run_command(*other, "--force")
    for given, message in (("z=1", "name features of the mixture"), ("a=1,b=1,c=1,d=1,e=1", "leave a feature that")):
        said = run_command(
            "condition", tmp_path / "model.zarr", "--given", given, "--output", tmp_path / "n.zarr", code=64
        )
        assert f"--given must {message}" in said
    found = json.loads(run_command("reduce", tmp_path / "model.zarr", "-k", 2, "--output", tmp_path / "r.zarr"))
    assert len(found["groups"]) == K
    np.testing.assert_array_equal(GaussianMixture.load(tmp_path / "r.zarr").means_, gm.reduced(2).means_)


def test_features_without_names_have_numbers_from_1_on_the_command_line(tmp_path: Path) -> None:
    gm = mixture("diag")
    gm.save(tmp_path / "model.zarr")
    run_command("marginal", tmp_path / "model.zarr", "--features", "2,1", "--output", tmp_path / "m.zarr")
    found = GaussianMixture.load(tmp_path / "m.zarr")
    np.testing.assert_array_equal(found.means_, gm.means_[:, [1, 0]])
    said = run_command("marginal", tmp_path / "model.zarr", "--features", "0", "--output", tmp_path / "n.zarr", code=64)
    assert "numbers from 1 to 5" in said


# -- fewer components ---------------------------------------------------------------------------------------------
def whole(gm: GaussianMixture) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a mixture."""
    mean = gm.weights_ @ gm.means_
    apart = gm.means_ - mean
    return mean, np.einsum("k,kij->ij", gm.weights_, matrices(gm) + apart[:, :, None] * apart[:, None])


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_fewer_components_keep_mean_and_covariance_of_the_whole(kind: str) -> None:
    gm = mixture(kind)
    for k in (2, 1):
        found = gm.reduced(k)
        assert found.n_components == k
        assert found.weights_.sum() == pytest.approx(1, abs=1e-14)
        for a, b in zip(whole(found), whole(gm), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_components_that_were_split_become_one_again() -> None:
    means = np.array([[0.0, 0], [10, 0], [0.1, 0], [0, 10], [10.1, 0]])
    gm = GaussianMixture.from_parameters([0.2, 0.3, 0.1, 0.3, 0.1], means, np.stack([np.eye(2)] * 5))
    found = gm.reduced(3)
    assert found.groups_.tolist() == [0, 1, 0, 2, 1]
    np.testing.assert_allclose(found.weights_, [0.3, 0.4, 0.3])
    np.testing.assert_allclose(found.means_[0], [0.1 / 3, 0], atol=1e-15)
    # Between the halves lies w1 w2 / w^2 of the square of their distance.
    np.testing.assert_allclose(found.covariances_[0], [[1 + 0.01 * 2 / 9, 0], [0, 1]], rtol=1e-14)


def test_each_step_is_the_cheapest() -> None:
    """Against the formula over all pairs, each time anew."""
    random = np.random.default_rng(8)
    weights, means = random.dirichlet(np.ones(7)), random.normal(0, 2, (7, 2))
    factors = random.normal(0, 1, (7, 2, 4))
    covariances = factors @ factors.swapaxes(1, 2)
    found = GaussianMixture.from_parameters(weights, means, covariances).reduced(3)
    parts = [(w, m, c) for w, m, c in zip(weights, means, covariances, strict=True)]
    while len(parts) > 3:
        best = None
        for i in range(len(parts)):
            for j in range(i + 1, len(parts)):
                (a, m, s), (b, n, t) = parts[i], parts[j]
                w = a + b
                union = (a * s + b * t) / w + a * b / w**2 * np.outer(m - n, m - n)
                logs = [np.linalg.slogdet(c)[1] for c in (union, s, t)]
                cost = w * logs[0] - a * logs[1] - b * logs[2]
                if best is None or cost < best[0]:
                    best = cost, i, j, (w, (a * m + b * n) / w, union)
        assert best is not None
        _, i, j, one = best
        parts[i] = one
        del parts[j]
    np.testing.assert_allclose(found.weights_, [w for w, _, _ in parts], rtol=1e-12)
    np.testing.assert_allclose(found.covariances_, [c for _, _, c in parts], rtol=1e-10)


@pytest.mark.parametrize("wrong", [0, 4, 2.0, True])
def test_a_number_of_components_that_cannot_be_is_refused(wrong: Any) -> None:
    with pytest.raises(OptionError, match="1 to 3"):
        mixture("full").reduced(wrong)
