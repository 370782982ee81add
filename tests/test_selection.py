"""`select`: criteria that scikit-learn finds too, choices that hold, and models that are what each is alone."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import datasets, mixture
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

import daskgmm
from daskgmm import GaussianMixture, Selection, select
from daskgmm.errors import CollapsedComponentError, DataError, OptionError, OutputError
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.run import running
from daskgmm.fitting.sweep import selection_models
from daskgmm.kernels.folds import fold_of
from daskgmm.sources.opening import open_rows
from tests.fitting.driving import KINDS, as_source, small_partitions

__all__ = ["small_partitions"]

FITTED = ("weights_", "means_", "covariances_", "precisions_cholesky_", "lower_bounds_")
#: To the optimum, and no way round it.
TO_THE_END: dict[str, Any] = {"tol": 1e-10, "max_iter": 3000, "n_init": 2, "random_state": 0}


def faithful() -> np.ndarray:
    """272 rows in two groups, as durations (minutes) and waiting times (minutes) of a geyser's eruptions."""
    random = np.random.default_rng(1990)
    short = random.multivariate_normal([2.04, 54.5], [[0.07, 0.44], [0.44, 33.7]], 97)
    long = random.multivariate_normal([4.29, 80.0], [[0.17, 0.94], [0.94, 36.0]], 175)
    return np.concatenate([short, long])[random.permutation(272)]


def groups(n_rows: int = 1200, *, n_groups: int = 3, seed: int = 5) -> np.ndarray:
    """Rows of well separated Gaussians in the plane, of unlike covariances."""
    random = np.random.default_rng(seed)
    centres = 12.0 * np.array([[0, 0], [1, 0], [0, 1], [1, 1]])[:n_groups]
    label = random.integers(n_groups, size=n_rows)
    stretch = np.array([[1.0, 1.0], [2.0, 0.5], [0.7, 1.4], [1.0, 1.5]])[label]
    return centres[label] + stretch * random.standard_normal((n_rows, 2))


DATA = {"iris": datasets.load_iris().data, "wine": datasets.load_wine().data, "faithful": faithful()}


def sklearn_from(gm: GaussianMixture, X: np.ndarray, **options: Any) -> mixture.GaussianMixture:
    """A mixture that scikit-learn fits from ours."""
    return mixture.GaussianMixture(
        len(gm.weights_), covariance_type=gm.covariance_type, weights_init=gm.weights_ / gm.weights_.sum(),
        means_init=gm.means_, precisions_init=gm.precisions_, reg_covar=gm.reg_covar, **options,
    ).fit(X)  # fmt: skip


# -- criteria ------------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DATA)
def test_criteria_are_those_that_scikit_learn_finds_at_our_optimum(name: str, kind: str) -> None:
    X = DATA[name]
    found = select(X, n_components=range(1, 4), covariance_type=kind, **TO_THE_END)
    assert [row["n_components"] for row in found.table] == [1, 2, 3]
    for gm, row in zip(found.estimators, found.table, strict=True):
        theirs = sklearn_from(gm, X, max_iter=1)
        assert row["converged"]
        assert row["bic"] == pytest.approx(theirs.bic(X), rel=1e-6)
        assert row["aic"] == pytest.approx(theirs.aic(X), rel=1e-6)
        assert row["mean_log_likelihood"] == pytest.approx(theirs.score(X), rel=1e-6)
        # Biernacki, Celeux and Govaert (2000): the entropy of the most probable labels is added.
        largest = gm.predict_proba(X).max(axis=1)
        assert row["icl"] == pytest.approx(row["bic"] - 2 * np.log(largest).sum(), rel=1e-9)
        assert row["icl"] >= row["bic"]
    assert [row["chosen"] for row in found.table].index(True) == np.argmin([row["bic"] for row in found.table])


@pytest.mark.parametrize("kind", ["tied", "full"])
def test_folds_are_what_scikit_learn_finds_on_their_rows(kind: str) -> None:
    X, seed = groups(600), 3
    options = TO_THE_END | {"random_state": seed}
    found = select(X, n_components=[3], covariance_type=kind, n_folds=5, **options)
    fold = fold_of(np.arange(600, dtype=np.uint64), 5, seed)
    assert min(np.bincount(fold.astype(int))) > 80
    theirs = [sklearn_from(found.best_, X[fold != i], tol=1e-10, max_iter=3000) for i in range(5)]
    held_out = sum(other.score_samples(X[fold == i]).sum() for i, other in enumerate(theirs))
    assert found.table[0]["held_out"] == pytest.approx(held_out / 600, rel=1e-6)

    fit_options = FitOptions(tol=1e-10, max_iter=3000, n_init=2, seed=seed)
    models = selection_models(fit_options, n_components=[3], covariance_types=[kind], n_folds=5)
    with running(models, open_rows(X), n_folds=5, weights=None, executor=None, listener=lambda event: None) as run:
        fits = run.fits(range(6))
    for i, other in enumerate(theirs):
        fit = fits[i + 1]
        assert fit.n_rows == np.sum(fold != i)
        assert fit.held_out is not None
        assert fit.held_out[1] == np.sum(fold == i)
        assert fit.log_likelihood == pytest.approx(other.score_samples(X[fold != i]).sum(), rel=1e-6)
        assert fit.held_out[0] == pytest.approx(other.score_samples(X[fold == i]).sum(), rel=1e-6)
    # What folds leave changes nothing of the fit to all rows.
    assert_array_equal(fits[0].parameters.means, found.best_.means_)


@pytest.mark.parametrize("criterion", ["bic", "aic", "icl", "held_out"])
def test_each_criterion_finds_the_groups(criterion: str) -> None:
    found = select(groups(), n_components=range(1, 6), criterion=criterion, n_init=2, random_state=0)
    values = [row[criterion] for row in found.table]
    best = np.argmax(values) if criterion == "held_out" else np.argmin(values)
    assert found.best_ is found.estimators[best]
    assert found.best_ is found.estimator
    assert found.table[best]["chosen"]
    assert sum(row["chosen"] for row in found.table) == 1
    if criterion != "aic":  # which takes more than there are now and then
        assert found.best_.n_components == 3
    assert (found.table[0]["held_out"] is not None) == (criterion == "held_out")


def test_groups_that_overlap_are_one_for_icl() -> None:
    """Two Gaussians of one centre: two for the density, one cluster."""
    random = np.random.default_rng(0)
    X = np.concatenate([random.normal(0, 1, (1000, 2)), random.normal(0, 2, (1000, 2))])
    by_bic, by_icl = (select(X, n_components=[1, 2], criterion=c, n_init=2, random_state=0) for c in ("bic", "icl"))
    assert by_bic.best_.n_components == 2
    assert by_icl.best_.n_components == 1


# -- early stop ----------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_stopping_early_keeps_the_choice_and_is_told() -> None:
    X = groups()
    options = {"n_components": range(1, 11), "covariance_type": ["full", "diag"], "n_init": 2, "random_state": 0}
    early = select(X, **options, escape=False)
    whole = select(X, **options, escape=False, stop_early=False)
    assert len(whole.table) == 20
    assert whole.stopped == {}
    assert "Not fitted" not in whole.text()
    assert set(early.stopped) == {"full", "diag"}
    assert all(3 < k < 10 for k in early.stopped.values())
    for kind, k in early.stopped.items():
        assert max(row["n_components"] for row in early.table if row["covariance_type"] == kind) == k
        assert f"{kind} with more than {k} components" in early.text()
    chosen = [next(row for row in found.table if row["chosen"]) for found in (early, whole)]
    assert chosen[0] == chosen[1]
    assert_array_equal(early.best_.means_, whole.best_.means_)


def test_starts_by_passes_over_all_rows_fit_every_number() -> None:
    found = select(groups(), n_components=range(1, 9), init_params="k-means||", n_init=2, random_state=0)
    assert (len(found.table), found.stopped) == (8, {})
    assert found.best_.n_components == 3
    assert {record["what"] for record in found.best_.history_} == {"survey", "search", "em", "closing"}


# -- what cannot be fitted ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n_folds", [0, 3])
def test_a_collapse_costs_its_model_alone(n_folds: int) -> None:
    """Thirty copies of a row, far away: a component of its own there has no variance."""
    X = np.concatenate([groups(600), np.full((30, 2), 40.0)])
    options: dict[str, Any] = {"reg_covar": 0.0, "random_state": 0, "n_folds": n_folds}
    with pytest.raises(CollapsedComponentError, match="must be positive definite"):
        GaussianMixture(6, reg_covar=0, random_state=0).fit(X)
    found = select(X, n_components=[1, 6], covariance_type=["tied", "full"], stop_early=False, **options)
    assert found.collapsed == {"full": [6]}
    names = [(row["covariance_type"], row["n_components"]) for row in found.table]
    assert names == [("tied", 1), ("tied", 6), ("full", 1)]
    assert "No model: full with 6. A component collapsed" in found.text()
    alone = GaussianMixture(1, reg_covar=0, random_state=0).fit(X)
    assert_array_equal(found.estimators[2].covariances_, alone.covariances_)
    with pytest.raises(CollapsedComponentError, match="must be positive definite"):
        select(X, n_components=[6], **options)


def test_folds_must_leave_enough_rows() -> None:
    message = (
        r"n_folds must leave rows .* and n_components = 19 rows outside of it; got \d+ rows .* of 5, and \d+ outside"
    )
    with pytest.raises(DataError, match=message):
        select(groups(20), n_components=range(1, 20), n_folds=5, stop_early=False, random_state=0)


# -- each model is what it is alone ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "what", "init"),
    [
        ("full", "numpy", "kmeans"),
        ("full", "zarr path", "k-means||"),
        ("tied", "numpy", "k-means||"),
        ("tied", "zarr path", "kmeans"),
    ],
)
@pytest.mark.usefixtures("small_partitions")
def test_models_have_the_bits_of_a_fit_alone(kind: str, what: str, init: str, tmp_path: Path) -> None:
    X = as_source(what, groups(700), tmp_path)
    options: dict[str, Any] = {"n_init": 2, "random_state": 7, "tol": 1e-5, "init_params": init}
    found = select(X, n_components=[2, 3, 5], covariance_type=[kind, "diag"], n_folds=2, stop_early=False, **options)
    for gm in found.estimators[:3]:
        alone = GaussianMixture(gm.n_components, covariance_type=kind, **options).fit(X)
        for name in FITTED:
            assert_array_equal(getattr(gm, name), getattr(alone, name), err_msg=name)
        assert gm.log_likelihood_ == alone.log_likelihood_
        assert gm.get_params() == alone.get_params()
        for name in vars(alone).keys() | vars(gm).keys():
            assert hasattr(gm, name) == hasattr(alone, name), name


def test_passes_are_shared_and_counted() -> None:
    """The place of none of these is open: none goes on."""
    X = groups()
    found = select(X, n_components=range(1, 4), n_init=2, random_state=0, stop_early=False)
    most = max(GaussianMixture(k, n_init=2, random_state=0).fit(X).n_passes_ for k in range(1, 4))
    assert found.n_passes == most, "as many passes as the model that takes the most"
    assert found.bytes_read == most * X.nbytes
    assert {gm.n_passes_ for gm in found.estimators} == {most}
    assert found.seconds > 0


@pytest.mark.parametrize("what", ["dask", "dask of unknown chunks", "zarr", "zarr path", "npy path"])
def test_every_source_gives_the_same_table(what: str, tmp_path: Path) -> None:
    X = groups(700)
    found = [
        select(source, n_components=range(1, 5), n_init=2, random_state=0, stop_early=False)
        for source in (X, as_source(what, X, tmp_path))
    ]
    assert found[0].best_.n_components == found[1].best_.n_components == 3
    for row, other in zip(found[0].table, found[1].table, strict=True):
        assert other["bic"] == pytest.approx(row["bic"], rel=1e-9)


def test_whole_weights_count_rows() -> None:
    X = faithful()
    weights = np.random.default_rng(2).integers(0, 4, size=len(X))
    weighted = select(X, n_components=[1, 2], sample_weight=weights, n_folds=3, **TO_THE_END)
    repeated = select(np.repeat(X, weights, axis=0), n_components=[1, 2], **TO_THE_END)
    for row, other in zip(weighted.table, repeated.table, strict=True):
        for name in ("bic", "aic", "icl", "log_likelihood", "mean_log_likelihood"):
            assert row[name] == pytest.approx(other[name], rel=1e-6), name


def test_the_best_is_an_estimator_like_any(tmp_path: Path) -> None:
    X = faithful()
    found = select(X, n_components=[1, 2], n_init=2, random_state=0, acceleration=None, escape=False, start_rows=50)
    best = found.best_
    assert best.n_components == 2
    assert np.bincount(best.predict(X)).min() > 80
    assert {record["what"] for record in best.history_} == {"survey", "start", "em", "closing"}
    best.save(tmp_path / "m.zarr")
    loaded = GaussianMixture.load(tmp_path / "m.zarr")
    assert loaded.get_params() == best.get_params()
    assert (loaded.acceleration, loaded.escape, loaded.start_rows) == (None, False, 50)
    assert loaded.history_ == best.history_
    assert_array_equal(loaded.fit(X).means_, best.means_)


def test_names_of_columns_and_history_as_a_frame() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(faithful(), columns=["eruptions", "waiting"])
    found = select(frame, n_components=[1, 2], n_init=2, random_state=0)
    assert all(list(gm.feature_names_in_) == ["eruptions", "waiting"] for gm in found.estimators)
    assert np.bincount(found.best_.predict(frame)).min() > 80
    history = pandas.DataFrame(found.best_.history_)
    assert len(history) == len(found.best_.history_)
    assert history["mean_log_likelihood"].iloc[-1] == found.table[1]["mean_log_likelihood"]
    assert pandas.DataFrame(found.table)["chosen"].sum() == 1


def test_a_best_model_that_has_not_converged_is_told() -> None:
    with pytest.warns(ConvergenceWarning, match=r"n_iter=1"):
        found = select(groups(), n_components=[3], max_iter=1, tol=1e-12, random_state=0)
    assert not found.best_.converged_
    assert found.table[0]["converged"] is False


def test_grid_search_of_scikit_learn_takes_the_estimator() -> None:
    X = groups(n_groups=3)
    options = {"n_components": [2, 3], "covariance_type": ["spherical", "diag"]}
    search = GridSearchCV(GaussianMixture(random_state=0, n_init=2), options, cv=3).fit(X)
    assert search.best_params_ == {"n_components": 3, "covariance_type": "diag"}
    # The mean over folds of the mean log-likelihood, as scikit-learn's own mixture has it.
    theirs = GridSearchCV(mixture.GaussianMixture(random_state=0, n_init=2), options, cv=3).fit(X)
    assert_allclose(search.cv_results_["mean_test_score"][2:], theirs.cv_results_["mean_test_score"][2:], atol=0.05)
    assert search.best_score_ == pytest.approx(theirs.best_score_, abs=1e-3)


# -- what a person sees ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def compared() -> Selection:
    return select(faithful(), n_components=range(1, 4), covariance_type=["full", "tied"], n_init=2, random_state=0)


def test_text_marks_the_best_and_aligns_numbers(compared: Selection) -> None:
    heading, *lines = str(compared).splitlines()
    assert heading.split("  ")[0] == "components"
    assert heading.split()[-4:] == ["BIC", "to", "best", "resolution"]
    rows = lines[:6]
    (marked,) = [line for line in rows if line.endswith("<- best")]
    assert marked.split()[:2] == [str(compared.best_.n_components), compared.best_.covariance_type]
    for line, row in zip(rows, compared.table, strict=True):
        n_digits = {True: 2, False: max(0, math.ceil(-math.log10(row["resolution"] or 1)))}[row["resolution"] == 0]
        assert f" {row['bic']:,.{n_digits}f} " in line, "no more digits than are known"
        assert len(line) <= len(marked)
        assert f"{row['resolution']:.2g}" in line
    best = min(row["bic"] for row in compared.table)
    assert f"{compared.table[0]['bic'] - best:+,.2f}" in rows[0], "one component is known to the last digit"
    assert lines[6].startswith("Best by BIC: 2 components")
    assert repr(compared).startswith("<Selection by bic: n_components=2, covariance_type=")


def test_text_says_where_the_range_ends_at_the_best() -> None:
    found = select(groups(), n_components=[1, 2, 3], n_init=2, random_state=0)
    assert "the largest number of components that was compared: more may be better still." in found.text()


@pytest.mark.parametrize("criterion", ["bic", "held_out"])
def test_plot_shows_each_kind_and_marks_the_best(criterion: str, tmp_path: Path) -> None:
    found = select(
        faithful(), n_components=[1, 2, 3], covariance_type=["full", "tied"], criterion=criterion, n_init=2,
        random_state=0,
    )  # fmt: skip
    (axes,) = found.plot(tmp_path / "plot.png").axes
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    *lines, mark = axes.get_lines()
    assert [line.get_label() for line in lines] == ["full", "tied"]
    assert_array_equal(lines[1].get_xdata(), [1, 2, 3])
    assert_array_equal(lines[1].get_ydata(), [row[criterion] for row in found.table[3:]])
    best = next(row for row in found.table if row["chosen"])
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (best["n_components"], best[criterion])
    assert axes.get_xlabel() == "number of components"
    assert "nats" in axes.get_ylabel()
    assert ("higher" if criterion == "held_out" else "lower") + " is better" in axes.get_ylabel()
    assert found.plot(ax=axes) is axes
    with pytest.raises(OutputError, match=r"must be writable, and end like \.png; got .* for .*plot\.foo"):
        found.plot(tmp_path / "plot.foo")


def test_plot_without_matplotlib_says_what_to_install(compared: Selection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OptionError, match=r'plot must have matplotlib; .* pip install "daskgmm\[plot\]"'):
        compared.plot()


def test_passes_are_printed_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    select(groups(300), n_components=[1, 2], random_state=0)
    assert capsys.readouterr().out == ""
    select(groups(300), n_components=[1, 2], random_state=0, verbose=2)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[2] for line in lines[:3]] == ["survey", "start", "em"]
    assert lines[1].endswith("  2 full")
    assert lines[-1].split()[2] == "closing"


def test_the_package_is_cheap_to_import_and_offers_select() -> None:
    program = "import sys, daskgmm; print([m for m in ('sklearn', 'dask', 'numpy', 'matplotlib') if m in sys.modules])"
    plot = "import sys; from daskgmm import select; print('matplotlib' in sys.modules)"
    for text, expected in ((program, "[]"), (plot, "False")):
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, timeout=120)
        assert done.stdout.strip() == expected
    assert all(hasattr(daskgmm, name) for name in daskgmm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'choose'"):
        _ = daskgmm.choose


# -- errors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": []}, "must name at least one model; got none"),
        ({"n_components": "3"}, "n_components must be an integer or several; got '3'"),
        ({"n_components": 2.5}, r"n_components must be an integer or several; got 2\.5"),
        ({"n_components": [2, 2.5]}, r"n_components must be an integer of at least 1; got 2\.5"),
        ({"n_components": range(3)}, "n_components must be an integer of at least 1; got 0"),
        ({"covariance_type": []}, "must name at least one model; got none"),
        ({"covariance_type": ["full", "full"]}, "covariance_type must name each kind once; got full, full"),
        ({"covariance_type": ["full", "round"]}, "got 'round'"),
        ({"criterion": "dic"}, "criterion must be one of bic, aic, icl, held_out; got 'dic'"),
        ({"criterion": "held_out", "n_folds": 0}, r"at least 2 for the criterion held_out; got 0\. Take 5\."),
        ({"n_folds": 1}, "n_folds must be 0 or at least 2; got 1"),
        ({"n_folds": 10**8}, "n_folds must be at most 100; got 100000000"),
        ({"n_folds": 2.5}, r"n_folds must be an integer; got 2\.5"),
        ({"stop_early": "yes"}, "stop_early must be True or False; got 'yes'"),
        ({"tol": -1}, "tol must be a finite number of at least 0; got -1"),
        ({"verbose": -1}, "verbose must be an integer of at least 0; got -1"),
        ({"acceleration": "warp"}, "acceleration must be one of None, squarem; got 'warp'"),
        ({"start_rows": 3}, "start_rows must be an integer of at least n_components = 4; got 3"),
    ],
)  # fmt: skip
def test_options_are_checked_before_anything_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        select("there is no such file.zarr", **options)


def test_more_components_than_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"at least n_components = 7 rows; got 5"):
        select(groups(5), n_components=range(1, 8))
