"""Rows of known classes: from the reference numbers to the command line."""

from __future__ import annotations

import json
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pandas as pd
import pytest
import zarr
from click.testing import CliRunner
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from daskgmm import GaussianMixture, select
from daskgmm.cli.commands import gmm
from daskgmm.errors import DataError, OptionError
from daskgmm.fitting.evaluate import check_mean, check_responsibilities
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.kernels.block import Block
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.labels import LABELS
from daskgmm.kernels.loops import can_compile
from daskgmm.kernels.mstep import m_step
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.sums import log_likelihood
from daskgmm.mixture.family import family_called
from daskgmm.mixture.noise import Noise
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Ridge
from daskgmm.passes.known_classes import KnownClasses
from daskgmm.sources.opening import open_rows
from daskgmm.stores.checkpoint import Checkpoint
from tests.kernels.driving import row_set_of
from tests.oracle_beside import State, em_step, log_likelihoods
from tests.reference_data import faithful
from tests.strategies import KINDS, make_case

S0: dict[str, Any] = {
    "weights_init": [0.5, 0.5],
    "means_init": [[2, 55], [4.5, 80]],
    "precisions_init": [np.diag([2, 0.02])] * 2,
    "reg_covar": 0.0,
}


def fitted(X: Any, n_components: int, labels: Any, *, sample_weight: Any = None, **parameters: Any) -> GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gm = GaussianMixture(n_components, **{"random_state": 0, "n_init": 2} | parameters)
        return gm.fit(X, labels=labels, sample_weight=sample_weight)


@pytest.fixture(scope="module")
def cells() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of three groups and of noise, (6500, 2); their groups, -1 for noise; and labels of some of the first two."""
    random = np.random.default_rng(0)
    groups = [random.normal(size=(3000, 2)), random.normal(size=(2000, 2)) * 0.5 + [6, 2]]
    groups += [random.normal(size=(1000, 2)) * 0.5 + [0, 6], random.uniform(-15, 15, size=(500, 2))]
    X, truth = np.concatenate(groups), np.repeat([1, 0, 2, -1], [3000, 2000, 1000, 500])
    order = random.permutation(len(X))
    X, truth = X[order], truth[order]
    known = (random.uniform(size=len(X)) < 0.02) & (truth < 2)
    return X, truth, np.where(known, truth, -1)


def test_the_reference_numbers_of_a_fit_with_labels() -> None:
    labels = np.full(272, -1)
    labels[[0, 2, 4, 6]], labels[[1, 3, 5]] = 0, 1  # (mostly wrong)
    first = fitted(faithful(), 2, labels, tol=0, max_iter=2, acceleration=None, **S0)
    assert_allclose(np.array(first.lower_bounds_) * 272, [-1334.974473, -1221.986783], atol=5e-7)
    end = fitted(faithful(), 2, labels, tol=0, max_iter=500, **S0)
    assert_allclose(end.log_likelihood_, -1221.65411746, atol=5e-9)
    assert_allclose(end.lower_bound_ * 272, -1221.65411746, atol=5e-9)
    assert_allclose(end.weights_[0], 0.3666478339, atol=2e-7)
    assert_allclose(end.means_, [[2.1319240175, 55.7638281996], [4.2726904715, 79.6576923629]], rtol=1e-7)
    assert end.score(faithful()) * 272 > end.log_likelihood_ + 50, "predictions know no labels"


@pytest.mark.parametrize("noise", [None, Noise(0.2, 5.0)])
@pytest.mark.parametrize("kernel", ["phi", "exact"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_equals_the_oracles(kind: str, kernel: str, noise: Noise | None) -> None:
    case = make_case(kind, seed=5, n_rows=300, n_components=4, n_features=3)
    random = np.random.default_rng(0)
    labels, w = random.integers(-1, 2, 300), random.integers(0, 4, 300).astype(float)
    labels[190:240] = -1  # (a block without labels is one call of the compiled loops)
    classes = np.array([0, 1, 1, -1])
    p = Parameters.from_covariances(family_called(kind), case.weights, case.means, case.covariances)
    p = Parameters(p.family, p.weights, p.means, p.covariances, p.precisions_cholesky, classes=classes)
    p = p.beside_noise(noise)
    state = State(kind, p.weights, p.means, p.covariances, *((noise.weight, noise.log_volume) if noise else ()))
    known = {"labels": labels, "classes": classes}
    after, total = em_step(case.X, state, row_weights=w, **known), log_likelihoods(case.X, state, **known)
    row_set = row_set_of(case.X, w)
    for compiled in (False, True)[: 1 + can_compile()]:
        plan = make_plan(p, origin=row_set.mean, kernel=kernel, compiled=compiled)
        estep = EStep([plan])
        sums = estep.zero()
        for low, high in ((0, 1), (1, 2), (2, 190), (190, 240), (240, 300)):
            rows = slice(low, high)
            columns = {LABELS: labels[rows]}
            sums = estep.update(sums, Block(np.ascontiguousarray(case.X[rows].T), w[rows], low, columns=columns))
        (found,) = estep.finish(sums)
        check_responsibilities(found, plan)
        check_mean(found, plan, row_set)
        assert_allclose(log_likelihood(found, plan, row_set), float((total * w).sum()), rtol=1e-12)
        step = m_step(found, plan, previous=p, prior=Ridge(0.0), row_set=row_set).parameters
        assert_allclose(step.weights, after.weights.astype(float), rtol=1e-10)
        assert_allclose(step.means, after.means.astype(float), atol=1e-9)
        assert_allclose(step.covariances, after.covariances.astype(float), rtol=1e-8, atol=1e-9)


# -- what the fit makes of them ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_component_k_is_class_k(kind: str, cells: tuple[np.ndarray, ...]) -> None:
    X, truth, labels = cells
    for standardize in (False, True)[: 1 + (kind != "spherical")]:
        found = fitted(X, 3, labels, covariance_type=kind, noise=True, standardize=standardize)
        assert_allclose(found.means_, [[6, 2], [0, 0], [0, 6]], atol=0.15)
        predicted = found.predict(X)
        assert (predicted[truth >= 0] == truth[truth >= 0]).mean() > 0.97
        assert found.support_[:2].tolist() == [np.inf, np.inf]
        assert found.noise_weight_ == pytest.approx(500 / 6500, abs=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_where_all_rows_have_labels_it_is_one_step(kind: str, cells: tuple[np.ndarray, ...]) -> None:
    X, truth, _ = cells
    X, truth = X[truth >= 0], truth[truth >= 0]
    found = fitted(X, 3, truth, covariance_type=kind, reg_covar=0.0)
    assert found.n_iter_ <= 3
    for k in range(3):
        own = X[truth == k]
        assert_allclose(found.means_[k], own.mean(axis=0), atol=1e-9)
        assert found.weights_[k] == pytest.approx(len(own) / len(X), rel=1e-12)
        if kind == "full":
            assert_allclose(found.covariances_[k], np.cov(own.T, bias=True), rtol=1e-9)
    far = fitted(X + 1e8, 3, truth, covariance_type=kind, reg_covar=0.0)
    assert_allclose(far.means_ - 1e8, found.means_, atol=1e-6)
    single = fitted(X.astype("f4"), 3, truth.astype("f4"), covariance_type=kind, reg_covar=0.0)
    assert_allclose(single.means_, found.means_, atol=1e-5)


def test_a_class_may_have_several_components(cells: tuple[np.ndarray, ...]) -> None:
    X, truth, _ = cells
    X, truth = X[truth >= 0], truth[truth >= 0]
    merged = np.where(truth == 2, 0, truth)  # two groups are one class
    few = np.where(np.arange(len(X)) % 10 == 0, merged, -1)
    for given in ((0, 1, 0), [0, 1, 0], {0: [0, 2], 1: 1}):
        found = fitted(X, 3, few, label_components=given)
        assert_allclose(found.means_[1], [0, 0], atol=0.1)
        assert_allclose(found.means_[[0, 2]][np.argsort(found.means_[[0, 2], 0])], [[0, 6], [6, 2]], atol=0.1)
    assert np.isfinite(found.support_).tolist() == [True, False, True]


def test_whole_weights_are_repetitions_and_chunks_do_not_matter(cells: tuple[np.ndarray, ...], tmp_path: Path) -> None:
    X, _, labels = (a[:600] for a in cells)
    w = np.random.default_rng(1).integers(0, 3, len(X))
    how: dict[str, Any] = {"means_init": [[6, 2], [0, 0], [0, 6]], "noise": 900.0, "tol": 1e-12, "max_iter": 400}
    how |= {"weights_init": np.full(3, 0.95 / 3), "precisions_init": [np.eye(2)] * 3}
    weighted = fitted(X, 3, labels, sample_weight=w, **how)
    repeated = fitted(np.repeat(X, w, axis=0), 3, np.repeat(labels, w), **how)
    assert_allclose(weighted.means_, repeated.means_, rtol=1e-7)
    assert_allclose(weighted.log_likelihood_, repeated.log_likelihood_, rtol=1e-12)
    whole = fitted(X, 3, labels, **how)
    for other in (
        fitted(dask.array.from_array(X[:600], chunks=(1, 2))[:600], 3, labels, **how),
        fitted(X, 3, dask.array.from_array(labels, chunks=77), **how),
        fitted(X, 3, pd.Series(labels, name="gate"), **how),
    ):
        assert_allclose(other.means_, whole.means_, rtol=1e-9)


def test_few_labels_of_many_rows_are_all_used(tmp_path: Path) -> None:
    """The sample has none of them: the start takes what the survey has seen."""
    random = np.random.default_rng(3)
    X = np.concatenate([random.normal(size=(150_000, 2)), random.normal(size=(150_000, 2)) * 0.5 + [6, 2]])
    labels = np.full(len(X), -1)
    labels[:20], labels[-20:] = 1, 0
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(50_000, 2))
    zarr.create_array(tmp_path / "l.zarr", data=labels, chunks=(33_000,))
    found = fitted(tmp_path / "X.zarr", 2, tmp_path / "l.zarr", start_rows=2000)
    assert_allclose(found.means_, [[6, 2], [0, 0]], atol=0.05)


def test_the_objective_never_falls_and_squarem_ends_where_em_does(cells: tuple[np.ndarray, ...]) -> None:
    X, _, labels = cells
    ends = []
    for acceleration in (None, "squarem"):
        found = fitted(
            X, 3, labels, noise=True, reg_covar=0.0, tol=0, max_iter=60, escape=False, acceleration=acceleration
        )
        assert (np.diff(found.lower_bounds_) >= -1e-13 * abs(found.lower_bound_)).all()
        ends.append(found.log_likelihood_)
    assert ends[1] == pytest.approx(ends[0], abs=1e-6)


def test_select_compares_models_with_the_same_labels(cells: tuple[np.ndarray, ...]) -> None:
    X, truth, labels = cells
    chosen = select(X[truth >= 0], n_components=[2, 3, 4], labels=labels[truth >= 0], random_state=0, n_init=2)
    assert chosen.best_.n_components == 3
    assert_allclose(chosen.best_.means_, [[6, 2], [0, 0], [0, 6]], atol=0.1)
    alone = fitted(X[truth >= 0], 3, labels[truth >= 0])
    assert_array_equal(chosen.best_.means_, alone.means_)
    held_out = select(
        X[truth >= 0], n_components=[2, 3], labels=labels[truth >= 0], random_state=0, n_init=1,
        criterion="held_out", n_folds=2,
    )  # fmt: skip
    assert held_out.best_.n_components == 3


def test_a_fit_goes_on_after_it_was_cut_short(cells: tuple[np.ndarray, ...], tmp_path: Path) -> None:
    X, _, labels = cells
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(1500, 2))
    options = FitOptions(3, n_init=1, tol=0, max_iter=6, noise=True)

    def fit(checkpoint: Checkpoint | None = None, ends_after: int = 99) -> Any:
        def listener(event: Any) -> None:
            if event.what == "em" and event.number > ends_after:
                raise KeyboardInterrupt

        known = open_rows(labels, argument="labels")
        return fit_mixture(
            open_rows(tmp_path / "X.zarr"), options, labels=known, listener=listener, checkpoint=checkpoint
        )

    undisturbed = fit()
    checkpoint = Checkpoint.at(str(tmp_path / "c"), every=0)
    checkpoint.begin({"of": "labels"})
    with pytest.raises(KeyboardInterrupt):
        fit(checkpoint, 3)
    again = fit(Checkpoint.at(str(tmp_path / "c"), every=0))
    assert again.lower_bounds == undisturbed.lower_bounds
    assert_array_equal(again.parameters.means, undisturbed.parameters.means)
    assert_array_equal(again.parameters.classes, [0, 1, -1])


def test_warm_start_takes_labels(cells: tuple[np.ndarray, ...]) -> None:
    X, _, labels = cells
    found = GaussianMixture(3, noise=True, random_state=0, warm_start=True).fit(X, labels=labels)
    before = found.means_
    found.fit(X, labels=labels)
    assert_allclose(found.means_, before, atol=1e-3)


def test_the_command_line_takes_a_column_or_a_place(cells: tuple[np.ndarray, ...], tmp_path: Path) -> None:
    X, _, labels = cells
    frame = pd.DataFrame(X, columns=["a", "b"]).assign(gate=labels, weight=1.0)
    frame.to_parquet(tmp_path / "cells.parquet")
    np.save(tmp_path / "labels.npy", labels)
    means = []
    for given in ("gate", str(tmp_path / "labels.npy")):
        model = tmp_path / f"{len(means)}.zarr"
        arguments = ["fit", str(tmp_path / "cells.parquet"), "-k", "3", "--noise", "yes", "--weights", "weight"]
        arguments += ["--labels", given, "-o", str(model), *(["--columns", "a,b"] if means else [])]
        done = CliRunner().invoke(gmm, arguments)
        assert done.exit_code == 0, done.output
        loaded = GaussianMixture.load(model)
        assert list(loaded.feature_names_in_) == ["a", "b"]
        means.append(loaded.means_)
        again = CliRunner().invoke(gmm, arguments)
        assert json.loads(again.stdout)["skipped"] is True
        other = CliRunner().invoke(gmm, [a for a in arguments if a not in ("--labels", given)])
        assert other.exit_code == 73, other.output
    assert_array_equal(*means)
    assert_allclose(means[0], [[6, 2], [0, 0], [0, 6]], atol=0.15)
    arguments = ["select", str(tmp_path / "cells.parquet"), "-k", "2:3", "--noise", "yes", "--labels", "gate"]
    arguments += ["--columns", "a,b", "--label-components", "0,1", "-o", str(tmp_path / "s.zarr"), "--restarts", "2"]
    done = CliRunner().invoke(gmm, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["components"] == 3
    done = CliRunner().invoke(gmm, [*arguments[:-2], "--label-components", "a,1"])
    assert done.exit_code == 64
    assert "are no classes, one for each component: 0,0,1" in " ".join(done.output.split())
    done = CliRunner().invoke(gmm, ["fit", str(tmp_path / "cells.parquet"), "-k", "3", "--labels", "gates", "-o", "m"])
    assert done.exit_code == 66
    assert "--labels must name a column of INPUT, or a place; got 'gates', which is neither" in done.output


# -- sums of classes ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("squares_alone", [False, True])
def test_sums_of_classes_are_those_of_their_rows_however_they_are_cut(squares_alone: bool) -> None:
    random = np.random.default_rng(0)
    X, labels, w = random.normal(size=(200, 3)) + 1e6, random.integers(-1, 4, 200), random.integers(0, 3, 200) + 0.0
    labels[labels == 3] = -1
    zero = KnownClasses.zero(4, 3, squares_alone=squares_alone)
    for cuts in ([0, 200], [0, 1, 2, 3, 150, 200], list(range(201))):
        found = zero
        for low, high in pairwise(cuts):
            block = Block(np.ascontiguousarray(X[low:high].T), w[low:high], low)
            found = found.merge(zero.of_block(block, labels[low:high], np.ones(high - low, dtype=bool)))
        for c in range(3):
            own = labels == c
            mean = np.average(X[own], axis=0, weights=w[own])
            scatter = (w[own] * (X[own] - mean).T) @ (X[own] - mean)
            assert found.weights[c] == w[own].sum()
            assert_allclose(found.means[c], mean, rtol=1e-14)
            expected = np.diagonal(scatter) if squares_alone else scatter
            assert_allclose(found.scatters[c], expected, rtol=1e-7, atol=1e-6)
        assert (found.weights[3], found.highest, found.highest_row) == (0, 2, int(np.argmax(labels == 2)))


# -- what is refused ---------------------------------------------------------------------------------------------------
def test_what_are_no_labels_is_refused(cells: tuple[np.ndarray, ...]) -> None:
    X, _, labels = (a[:300] for a in cells)
    bad = labels.astype(float)
    for value, said in ((np.nan, "nan"), (0.5, "0.5"), (-2.0, "-2"), (np.inf, "inf")):
        bad[17] = value
        with pytest.raises(
            DataError, match=rf"labels must be whole numbers .* got 1 other values .*first {said} in row 17"
        ):
            GaussianMixture(3).fit(X, labels=bad)
    beyond = labels.copy()
    beyond[5] = 3
    said = (
        r"labels must be -1 or a class that has a component, below n_components = 3; got 3 in row 5 of .* at least 4\."
    )
    with pytest.raises(DataError, match=said):
        GaussianMixture(3).fit(X, labels=beyond)
    fitted(X, 4, beyond)
    with pytest.raises(DataError, match=r"below n_components = 2; got 3 .* at least 4\."):
        select(X, n_components=[2, 5], labels=beyond)
    with pytest.raises(DataError, match=r"got 1 in row 1 of .*Name a component of it in label_components\."):
        GaussianMixture(3, label_components=(0, 0, 2)).fit(X, labels=np.arange(300) % 2)
    with pytest.raises(DataError, match=r"labels must have shape \(300,\), one label for each row of .*got \(299, 1\)"):
        GaussianMixture(3).fit(X, labels=labels[1:])
    with pytest.raises(OptionError, match=r"label_components must come with labels of rows; got it alone"):
        GaussianMixture(3, label_components=(0, 0, 1)).fit(X)
    for value in ("0,1", (), {}, (0.5, 1), (-1, -1), {0: [0], 1: [0]}, {-1: [0]}, (True, 1), 3):
        with pytest.raises(OptionError, match=r"label_components must be the class of each component.*Number classes"):
            GaussianMixture(3, label_components=value).fit(X, labels=labels)
    with pytest.raises(OptionError, match=r"be classes of n_components = 3 components at most; got those of 4"):
        GaussianMixture(3, label_components=(0, 1, 2, 3)).fit(X, labels=labels)


def test_names_of_classes_become_numbers_as_the_message_says(cells: tuple[np.ndarray, ...]) -> None:
    X, classes = cells[0][:200], np.arange(200) % 2
    names = np.array(["control", "treated"])[classes]
    with pytest.raises(DataError, match=r"numpy.unique\(labels, return_inverse=True\)\[1\]"):
        GaussianMixture(2).fit(X, labels=names)
    by_number = GaussianMixture(2, random_state=0).fit(X, labels=np.unique(names, return_inverse=True)[1])
    np.testing.assert_array_equal(by_number.means_, GaussianMixture(2, random_state=0).fit(X, labels=classes).means_)


def test_rows_of_weight_zero_may_have_any_class(cells: tuple[np.ndarray, ...]) -> None:
    X, _, labels = (a[:300] for a in cells)
    w = np.where(np.arange(300) == 5, 0.0, 1.0)
    labels = np.where(w == 0, 2, labels)
    found = fitted(X, 3, labels, sample_weight=w)
    assert np.isfinite(found.log_likelihood_)


def test_messages_name_the_flags(cells: tuple[np.ndarray, ...], tmp_path: Path) -> None:
    X, _, labels = cells
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "l.npy", labels)
    fit = ["fit", str(tmp_path / "X.npy"), "-k", "1", "-o", str(tmp_path / "m.zarr")]
    done = CliRunner().invoke(gmm, [*fit, "--label-components", "0"])
    assert done.exit_code == 64
    assert (
        "--label-components must come with labels of rows; got it alone. Give --labels, or leave it out." in done.output
    )
    done = CliRunner().invoke(gmm, [*fit, "--labels", str(tmp_path / "l.npy")])
    assert done.exit_code == 65
    assert "--labels must be -1 or a class that has a component, below --components = 1; got 1 in row" in done.output
