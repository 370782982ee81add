"""The corner plot: what its ellipses hold, where its axes are, and that it is drawn for any mixture and any names."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.patches import Ellipse

from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.errors import DataError, OptionError, OutputError
from daskgmm.fitting.glance import glance
from daskgmm.fitting.sample import Sample
from daskgmm.mixture.family import family_of
from daskgmm.mixture.parameters import Parameters
from daskgmm.pictures.corner import plot_corner
from daskgmm.sources.opening import open_rows
from tests.pictures.test_marginals import dense_covariance, mixture


def sample(x: np.ndarray) -> Sample:
    return Sample(x, np.ones(len(x)), np.arange(len(x), dtype=np.uint64), 0)


def ellipses(ax: Any) -> list[Ellipse]:
    return [patch for patch in ax.patches if isinstance(patch, Ellipse)]


def names(p: Parameters) -> list[str]:
    return [f"x{j}" for j in range(p.n_features)]


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_ellipses_hold_what_they_say(covariance_type: str) -> None:
    """Of 100,000 points of a component in two of its features, 39.3 % lie in one ellipse and 86.5 % in the other."""
    p = mixture(covariance_type)
    figure = plot_corner(p, names(p), chosen=[2, 0])
    found = ellipses(figure.axes[2])
    assert len(found) == 2 * p.n_components
    random = np.random.default_rng(0)
    heaviest_last = np.argsort(p.weights)
    for k, own in zip(heaviest_last, zip(found[::2], found[1::2], strict=True), strict=True):
        covariance = dense_covariance(p, k)[np.ix_([2, 0], [2, 0])]
        points = random.multivariate_normal(p.means[k, [2, 0]], covariance, size=100_000)
        for ellipse, share in zip(own, (1 - np.exp(-0.5), 1 - np.exp(-2.0)), strict=True):
            assert ellipse.center == tuple(p.means[k, [2, 0]])
            inside = ellipse.get_path().contains_points(points, ellipse.get_patch_transform())
            assert inside.mean() == pytest.approx(share, abs=0.006)
    # The more weight, the more opaque.
    opacity = [to_rgba(e.get_edgecolor())[3] for e in found[::2]]
    assert opacity == sorted(opacity)
    assert opacity[-1] == 1.0


def test_the_diagonal_is_the_density_over_the_rows() -> None:
    p = mixture()
    x = np.random.default_rng(1).normal(size=(400, 4))
    figure = plot_corner(p, names(p), chosen=[1], sample=sample(x))
    (ax,) = figure.axes
    *of_components, total = [line.get_ydata() for line in ax.get_lines()]
    np.testing.assert_allclose(np.sum(of_components, axis=0), total)
    places = np.asarray(ax.get_lines()[-1].get_xdata())
    expected = sum(
        w * np.exp(-0.5 * (places - p.means[k, 1]) ** 2 / p.covariances[k, 1, 1])
        / np.sqrt(2 * np.pi * p.covariances[k, 1, 1])
        for k, w in enumerate(p.weights)
    )  # fmt: skip
    np.testing.assert_allclose(total, expected, rtol=2e-3, atol=1e-5)
    (steps,) = ax.patches
    heights, edges, _ = steps.get_data()
    inside = ((x[:, 1] >= edges[0]) & (x[:, 1] <= edges[-1])).mean()
    assert float(np.sum(heights * np.diff(edges))) == pytest.approx(inside), "a density of these rows"
    assert ax.get_ylim()[1] > max(float(heights.max()), float(np.max(total)))


def test_the_package_corner_draws_over_it() -> None:
    corner = pytest.importorskip("corner")
    p = mixture()
    x = np.random.default_rng(1).normal(size=(2000, 4))
    figure = plot_corner(p, names(p), chosen=[0, 1, 2])
    assert len(figure.axes) == 9
    before = [len(ax.get_children()) for ax in figure.axes]
    assert corner.corner(x[:, :3], fig=figure) is figure
    grown = [len(ax.get_children()) > n for ax, n in zip(figure.axes, before, strict=True)]
    assert grown == [True, False, False, True, True, False, True, True, True]
    low, high = figure.axes[3].get_xlim()
    assert low < x[:, 0].min() < x[:, 0].max() < high, "its limits grow with what is drawn over it"


@pytest.mark.parametrize(
    ("n_components", "n_features", "n_rows"), [(1, 1, 0), (1, 2, 50), (30, 2, 5000), (3, 12, 500), (8, 5, 0)]
)
def test_every_size_is_drawn(n_components: int, n_features: int, n_rows: int) -> None:
    p = mixture(weights=(1 / n_components,) * n_components, d=n_features)
    x = np.random.default_rng(1).normal(size=(n_rows, n_features)) * 5
    figure = plot_corner(p, names(p), sample=sample(x) if n_rows else None)
    n_drawn = min(n_features, 5)
    assert len(figure.axes) == n_drawn**2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert figure.encoded("png")[:4] == b"\x89PNG"
    colours = {ellipse.get_edgecolor()[:3] for ellipse in ellipses(figure.axes[n_drawn * (n_drawn - 1)])}
    assert len(colours) == (n_components if n_features > 1 else 0), "one colour a component"


def test_no_name_is_a_formula_and_long_ones_are_cut() -> None:
    p = mixture(d=2)
    figure = plot_corner(p, ["cost in $ of \\frac", "phot_g_mean_flux_over_error_" * 5])
    assert figure.encoded("png")[:4] == b"\x89PNG"
    assert [ax.get_xlabel() for ax in figure.axes[2:]] == ["cost in $ of \\frac", "phot_g_mea…over_error_"]


def test_what_lies_outside_is_told() -> None:
    p = mixture(weights=(0.7, 0.3 - 1e-6, 1e-6))
    means = p.means.copy()
    means[2] += 1e6
    far = Parameters.from_covariances(p.family, p.weights, means, p.covariances)
    assert plot_corner(far, names(p)).axes[0].get_title("left") == "1 component outside of the picture"
    assert plot_corner(p, names(p)).axes[0].get_title("left") == ""


def test_the_same_picture_is_the_same_file() -> None:
    p = mixture(d=3)
    first, second = (plot_corner(p, names(p)).encoded("svg") for _ in range(2))
    assert first == second


# -- from the estimator ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def fitted() -> GaussianMixture:
    rows = np.random.default_rng(0).normal(size=(500, 3))
    rows[:200] += 9
    return GaussianMixture(2, random_state=0).fit(rows)


def test_an_estimator_draws_itself_over_rows(fitted: GaussianMixture, small_store: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(500, 3))
    figure = fitted.plot(X=rows, only=[2, 0], path=tmp_path / "corner.pdf")
    assert (tmp_path / "corner.pdf").read_bytes()[:5] == b"%PDF-"
    assert [ax.get_xlabel() for ax in figure.axes[2:]] == ["feature 3", "feature 1"]
    (points,) = figure.axes[2].collections
    np.testing.assert_array_equal(points.get_offsets(), rows[:, [2, 0]])
    with pytest.raises(DataError, match="X has 2 features, but GaussianMixture is expecting 3"):
        fitted.plot(X=small_store)
    with pytest.raises(OutputError, match=r"must be writable, and end like \.png; got .*foo"):
        fitted.plot(path=tmp_path / "corner.foo")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"kind": "pie"}, "kind must be one of corner, weights, history, criterion; got 'pie'"),
        ({"kind": "criterion"}, "kind must be of what the model holds; got criterion, of a model without a selection"),
        ({"kind": "weights", "only": [0]}, "kind must be corner where rows or features are named; got weights"),
        ({"only": ["x"]}, r"only must name features of the mixture \(feature 1, feature 2, feature 3\); got 'x'"),
        ({"only": [3]}, r"only must name features of the mixture .*; got 3"),
        ({"only": [True]}, r"only must name features of the mixture .*; got True"),
        ({"only": [1, 1]}, r"only must name at least one feature, and each once; got \[1, 1\]"),
        ({"only": []}, r"only must name at least one feature, and each once; got \[\]"),
        ({"X": [[np.nan, 1.0, 2.0], [1.0, 1.0, 1.0]]}, "X must be finite; got 1 rows with NaN or infinity"),
    ],
)
def test_what_cannot_be_drawn_is_told(fitted: GaussianMixture, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises((OptionError, DataError), match=message):
        fitted.plot(**keywords)


def test_a_mixture_that_is_set_by_hand_has_no_history(fitted: GaussianMixture) -> None:
    from sklearn.exceptions import NotFittedError

    by_hand = GaussianMixture(2)
    with pytest.raises(NotFittedError):
        by_hand.plot()
    by_hand.weights_, by_hand.means_, by_hand.covariances_ = fitted.weights_, fitted.means_, fitted.covariances_
    assert len(by_hand.plot().axes) == 9
    with pytest.raises(OptionError, match="got history, of a model without passes over all rows"):
        by_hand.plot("history")
    assert [bar.get_width() for bar in by_hand.plot("weights").axes[0].patches] == sorted(
        100 * fitted.weights_, reverse=True
    )


def test_weights_are_rows_and_the_unsupported_are_marked(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 2))
    rows[:2] += 40  # (two rows in two features say nothing of others)
    start = {
        "weights_init": [0.01, 0.99], "means_init": [[40.0, 40.0], [0.0, 0.0]], "precisions_init": [np.eye(2)] * 2,
    }  # fmt: skip
    fitted = GaussianMixture(2, **start).fit(rows)
    fitted.save(tmp_path / "m.zarr")
    for mixture_ in (fitted, GaussianMixture.load(tmp_path / "m.zarr")):
        (ax,) = mixture_.plot("weights").axes
        assert [round(bar.get_width()) for bar in ax.patches] == [298, 2]
        assert [bar.get_hatch() or "" for bar in ax.patches] == ["", "///"]
        assert [text.get_text() for text in ax.texts] == ["298 (99.3 %)", "2 (0.7 %)"]
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["not supported by the rows"]


# -- the rows that are drawn -------------------------------------------------------------------------------------------
def test_a_glance_takes_the_same_rows_whatever_the_chunks(tmp_path: Path) -> None:
    import zarr

    rows = np.random.default_rng(5).normal(size=(50_000, 2))
    p = Parameters.from_covariances(family_of("diag"), np.ones(1), np.zeros((1, 2)), np.ones((1, 2)))
    found = []
    for n in (7_000, 50_000):
        zarr.create_array(tmp_path / f"{n}.zarr", data=rows, chunks=(n, 2))
        found.append(glance(p, open_rows(tmp_path / f"{n}.zarr")))
    a, b = found
    np.testing.assert_array_equal(a.X, rows[a.rows])
    np.testing.assert_array_equal(a.rows, b.rows)
    assert abs(len(a) - 20_000) < 600, "five standard deviations of a draw"
    weights = np.where(np.arange(50_000) < 25_000, 0.0, 3.0)
    weighted = glance(p, open_rows(rows), weights=open_rows(weights, argument="sample_weight"))
    assert weighted.rows.min() >= 25_000
    assert set(weighted.weights) == {3.0}


def test_of_a_posterior_the_components_that_have_rows_are_drawn() -> None:
    """The others are all the same, the prior: their ellipses would tell nothing of the rows."""
    random = np.random.default_rng(0)
    X = np.concatenate([random.normal(centre, 1, (100, 2)) for centre in (0, 9)])
    bgm = BayesianGaussianMixture(
        n_components=5, n_init=1, random_state=0, weight_concentration_prior=0.01, tol=1e-6, max_iter=300
    ).fit(X)
    assert bgm.effective_n_components_ == 2
    figure = plot_corner(bgm._parameters(), ["a", "b"])
    drawn = ellipses(figure.axes[2])
    assert len(drawn) == 4
    assert sorted(round(float(e.get_center()[0])) for e in drawn) == [0, 0, 9, 9]
    legend: Any = figure.axes[1].get_legend()
    assert [text.get_text() for text in legend.get_texts()][2:] == ["and 3 without rows"]
