"""`select` by the bound of variational Bayes: against a slow oracle, each fit alone, cut short, and as a command."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_array_equal
from sklearn import mixture
from sklearn.base import clone

from daskgmm import BayesianGaussianMixture, GaussianMixture, select
from daskgmm.cli.commands import gmm
from daskgmm.errors import OptionError
from daskgmm.fitting.bayesian_options import BayesianOptions
from daskgmm.fitting.sweep import Sweep, select_model
from daskgmm.kernels.folds import fold_of
from daskgmm.mixture.arrays import Floats
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.sources.array_source import ArraySource
from daskgmm.stores.checkpoint import Checkpoint
from daskgmm.stores.model_file import load_model
from tests import variational_oracle as oracle
from tests.faults import Torn
from tests.fitting.driving import KINDS, as_source
from tests.fitting.driving import small_partitions as small_partitions
from tests.stores.test_checkpoint import at, bits
from tests.strategies import make_case

PROCESS, DISTRIBUTION = "dirichlet_process", "dirichlet_distribution"


def rows(n_rows: int = 400, *, separation: float = 6.0) -> Floats:
    return make_case("full", seed=3, n_rows=n_rows, n_components=3, n_features=2, separation=separation).X


def like(prior: str = DISTRIBUTION, **options: Any) -> BayesianGaussianMixture:
    asked = {"n_init": 1, "random_state": 0, "tol": 1e-6, "max_iter": 500} | options
    return BayesianGaussianMixture(weight_concentration_prior_type=prior, **asked)


@pytest.mark.parametrize(
    ("prior", "kinds", "what"),
    [(PROCESS, ["full", "diag"], "zarr path"), (DISTRIBUTION, ["tied", "spherical"], "dask")],
)
@pytest.mark.usefixtures("small_partitions")
def test_the_bound_is_that_of_each_fit_alone(prior: str, kinds: list[str], what: str, tmp_path: Path) -> None:
    X = rows()
    source = as_source(what, X, tmp_path)
    found = select(source, n_components=range(1, 5), covariance_type=kinds, estimator=like(prior), stop_early=False)
    assert found.criterion == "bound"
    assert {"bic", "aic", "icl", "n_free"}.isdisjoint(found.table[0])
    for row, bgm in zip(found.table, found.estimators, strict=True):
        assert isinstance(bgm, BayesianGaussianMixture)
        assert row["bound"] == pytest.approx(oracle.bound(bgm, X), rel=1e-10)
        assert row["effective_n_components"] == bgm.effective_n_components_
        alone = clone(like(prior)).set_params(n_components=row["n_components"], covariance_type=row["covariance_type"])
        alone.fit(source)
        assert bgm.get_params() == alone.get_params()
        n = alone.n_iter_
        assert bgm.lower_bounds_[:n] == alone.lower_bounds_, "of it, or of further iterations of it"
        if bgm.n_iter_ == n:
            names = ("weights_", "means_", "covariances_", "mean_precision_", "counts_", "log_likelihood_")
            for name in (*names, "degrees_of_freedom_", "covariance_prior_", "weight_concentration_prior_"):
                assert_array_equal(getattr(bgm, name), getattr(alone, name), err_msg=name)
    assert [row["chosen"] for row in found.table].index(True) == np.argmax([row["bound"] for row in found.table])
    assert found.best_.effective_n_components_ == 3
    assert found.n_passes == max(bgm.n_passes_ for bgm in found.estimators)
    assert f"Best by bound: {found.best_.n_components} components" in found.text()


def test_bounds_of_models_that_compete_are_settled_to_what_is_said() -> None:
    X = rows(1500, separation=2.0)
    rough = select(X, n_components=range(2, 5), estimator=like(tol=1e-2), stop_early=False)
    exact = select(X, n_components=range(2, 5), estimator=like(tol=1e-10, max_iter=5000), stop_early=False)
    assert rough.best_.n_components == exact.best_.n_components
    for row, other in zip(rough.table, exact.table, strict=True):
        assert abs(row["bound"] - other["bound"]) <= 2 * row["resolution"], "about as close as it says"
        assert row["below"] is other["below"] is None, "of a posterior more components need not be better"
    assert 0.05 <= next(row["resolution"] for row in rough.table if row["chosen"]) < 1e-2 * len(X), "it went on"


def test_larger_numbers_are_left_out_once_the_bound_has_turned_and_not_before() -> None:
    X = da.from_array(rows(30_000), chunks=(4000, 2))
    asked: dict[str, Any] = {"n_components": range(1, 9), "start_rows": 2000}
    # (An empty component costs next to nothing under this prior, however few rows tell of all.)
    kept = select(X, estimator=like(PROCESS, tol=1e-4), **asked)
    assert kept.stopped == {}
    costly = like(DISTRIBUTION, weight_concentration_prior=50.0, tol=1e-4)
    early, whole = (select(X, estimator=costly, stop_early=stop, **asked) for stop in (True, False))
    assert 3 < early.stopped["full"] < 8
    assert len(whole.table) == 8
    assert early.best_.n_components == whole.best_.n_components
    assert_array_equal(early.best_.means_, whole.best_.means_)


def test_whole_weights_count_rows() -> None:
    X, weights = rows(200), np.random.default_rng(0).integers(0, 4, 200)
    asked: dict[str, Any] = {"n_components": [1, 3], "estimator": like(tol=1e-9)}
    weighted, repeated = select(X, sample_weight=weights, **asked), select(np.repeat(X, weights, axis=0), **asked)
    for row, other in zip(weighted.table, repeated.table, strict=True):
        assert row["bound"] == pytest.approx(other["bound"], rel=1e-7)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_held_out_rows_have_the_score_of_a_fit_to_the_others(kind: str) -> None:
    X = rows(300, separation=12.0)
    found = select(X, n_components=3, covariance_type=kind, criterion="held_out", n_folds=2, estimator=like(tol=1e-9))
    assert found.criterion == "held_out"
    fold, total = fold_of(np.arange(300, dtype=np.uint64), 2, 0), 0.0
    for i in range(2):
        theirs = mixture.BayesianGaussianMixture(
            n_components=3, covariance_type=kind, weight_concentration_prior_type=DISTRIBUTION, tol=1e-9, max_iter=2000,
            n_init=3, random_state=0,
        ).fit(X[fold != i])  # fmt: skip
        total += theirs.score_samples(X[fold == i]).sum()
    assert found.table[0]["held_out"] == pytest.approx(total / 300, rel=1e-5)


# -- cut short ------------------------------------------------------------------------------------------------------
def test_it_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path: Path) -> None:
    X = rows(500, separation=2.0)
    options = BayesianOptions(n_init=1, tol=1e-3, max_iter=40, seed=1, escape=False)

    def compared(checkpoint: Checkpoint | None = None) -> Sweep:
        return select_model(
            ArraySource(X), options, n_components=[1, 2, 3], covariance_types=["full", "tied"],
            executor=LocalExecutor(), checkpoint=checkpoint,
        )  # fmt: skip

    undisturbed = compared()
    (tmp_path / "counted").mkdir()
    checkpoint, counted = at(tmp_path / "counted", every=0.0)
    assert bits(compared(checkpoint)) == bits(undisturbed)
    n = len(counted.done)
    for fault in range(n // 4, n, max(1, n // 4)):
        folder = tmp_path / f"{fault}"
        folder.mkdir()
        broken, _ = at(folder, fault=fault, how="torn", every=0.0)
        with pytest.raises(Torn):
            compared(broken)
        again, _ = at(folder, every=0.0)
        assert bits(compared(again)) == bits(undisturbed), fault


# -- the command line -------------------------------------------------------------------------------------------------
def run(*arguments: object) -> Any:
    return CliRunner().invoke(gmm, [str(a) for a in arguments])


def test_the_command_line(tmp_path: Path) -> None:
    X, place, model, table = rows(), tmp_path / "x.npy", tmp_path / "m.zarr", tmp_path / "t.csv"
    np.save(place, X)
    asked = ("select", place, "-k", "1:4", "--bayesian", DISTRIBUTION, "--tol", 1e-6, "--max-iter", 500, "-o", model)
    done = run(*asked, "--table", table, "--plot", tmp_path / "b.svg", "--restarts", 1)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    python = select(X, n_components=range(1, 5), estimator=like())
    assert result["criterion"] == "bound"
    assert result["table"] == python.table
    (row,) = [row for row in result["table"] if row["chosen"]]
    assert result["bound"] == row["bound"]
    assert result["effective_components"] == row["effective_n_components"] == 3
    assert "bic" not in result
    assert "Best by bound: 3 components, full." in done.stderr
    with table.open(newline="") as file:
        assert [float(entry["bound"]) for entry in csv.DictReader(file)] == [r["bound"] for r in result["table"]]
    loaded = GaussianMixture.load(model)
    assert isinstance(loaded, BayesianGaussianMixture)
    assert loaded.get_params() == python.best_.get_params()
    assert_array_equal(loaded.predict_proba(X), python.best_.predict_proba(X))
    assert load_model(model).record["selection"]["criterion"] == "bound"
    assert json.loads(run(*asked, "--restarts", 1).stdout)["skipped"]
    assert run("report", model, "-o", tmp_path / "r.html").exit_code == 0
    assert "Best by bound: 3 components, full." in (tmp_path / "r.html").read_text()
    refused = run("select", place, "--criterion", "bound", "-o", tmp_path / "n.zarr")
    assert refused.exit_code == 64
    assert "Only posteriors have a bound: give --bayesian dirichlet_process." in refused.stderr


# -- what is refused --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": like(), "criterion": "bic"}, "one of bound, held_out for a posterior.*got 'bic'. Take bound."),
        ({"criterion": "bound"}, r"got 'bound'\. Only posteriors have a bound: give estimator=Bay.*\(\)"),
        ({"estimator": mixture.GaussianMixture()}, "be a daskgmm.GaussianMixture or Bay.*; got a GaussianMixture"),
        ({"estimator": GaussianMixture}, "got the class GaussianMixture. Give one."),
        ({"estimator": like(), "covariance_type": ["full", "VEE"]}, "full, tied, diag and spherical have; got VEE"),
        ({"estimator": like(means_init=[[0.0]])}, "means_init must be left out of a selection"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        select("there is no such file.zarr", n_components=[1, 2], **options)


def test_an_option_that_the_class_does_not_have_is_unexpected() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'noise'"):
        select(rows(), estimator=like(), noise=True)


def test_the_models_are_like_the_estimator() -> None:
    X = rows(200)
    given = GaussianMixture(5, covariance_type="diag", tol=1e-2, n_init=1, random_state=3, warm_start=True)
    found = select(X, n_components=[1, 2], estimator=given)
    plain = select(X, n_components=[1, 2], covariance_type="diag", tol=1e-2, n_init=1, random_state=3)
    assert found.table == plain.table
    assert found.best_.get_params() == plain.best_.get_params()
    assert not hasattr(given, "means_")
    assert given.n_components == 5
    low = GaussianMixture(covariance_type="lowrank", n_factors=1, n_init=1, random_state=3)
    assert select(X, n_components=2, estimator=low).table[0]["covariance_type"] == "lowrank-1"
    assert select(X, n_components=2, estimator=given, tol=1e-6).best_.tol == 1e-6
