"""Seams: what a person adds lands in one place. A toy of each kind is defined here, and works through the public door.

The package is not touched, and knows nothing of these toys. Each works in this process, and on a cluster of processes.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from distributed import Client
from numpy.testing import assert_allclose, assert_array_equal

from daskgmm import Family, GaussianMixture, register_family, select
from daskgmm.cli import gmm
from daskgmm.data.opening import open_source
from daskgmm.errors import DataError, OptionError
from daskgmm.fitting.checkpoint import Checkpoint
from daskgmm.fitting.events import PassDone
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.mixture import family as families_of_the_package
from daskgmm.mixture.plan import make_plan
from daskgmm.mixture.shapes.full import FULL

SEED = 20261127


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Rows of three Gaussians in two features, (3000, 2), float64."""
    random = np.random.default_rng(SEED)
    centres = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    return centres[random.integers(3, size=3000)] + random.standard_normal((3000, 2))


# -- options: one declaration gives the estimator's check, the command line and the message ----------------------------


# -- stopping rules and accelerators -----------------------------------------------------------------------------------


# -- families of covariances -------------------------------------------------------------------------------------------
class Toy(Family):
    """Each component has one variance, as spherical covariances have, in matrices: the average of its variances."""

    name, shape = "toy", FULL

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components

    def least_rows(self, n_features: int) -> int:
        return 3

    def maximise(self, counts: Any, central: Any, previous: Any) -> Any:
        variances = np.trace(central, axis1=1, axis2=2) / central.shape[-1]
        return variances[:, np.newaxis, np.newaxis] * np.eye(central.shape[-1])


class KeptAxes(Family):
    """Each component keeps the axes of the covariance before, and has the variances of its rows along them."""

    name, shape = "kept-axes", FULL

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def maximise(self, counts: Any, central: Any, previous: Any) -> Any:
        axes = np.linalg.eigh(previous)[1]
        variances = np.einsum("kdi,kde,kei->ki", axes, central, axes)
        return np.einsum("kdi,ki,kei->kde", axes, variances, axes)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is known until its end."""
    monkeypatch.setattr(families_of_the_package, "_FAMILIES", dict(families_of_the_package._FAMILIES))


@pytest.fixture
def toys(registry: None) -> None:
    register_family(Toy())
    register_family(KeptAxes())


def call(*arguments: object) -> Result:
    return CliRunner().invoke(gmm, [str(a) for a in arguments], prog_name="daskgmm")


def ordered(gm: GaussianMixture) -> Any:
    return np.argsort(gm.means_ @ [1.0, 0.1])


def assert_same_mixture(toy: GaussianMixture, oracle: GaussianMixture) -> None:
    """The toy's mixture is that of spherical covariances."""
    own, theirs = ordered(toy), ordered(oracle)
    assert_allclose(toy.weights_[own], oracle.weights_[theirs], rtol=1e-6)
    assert_allclose(toy.means_[own], oracle.means_[theirs], atol=1e-6)
    expected = oracle.covariances_[theirs][:, np.newaxis, np.newaxis] * np.eye(toy.means_.shape[1])
    assert_allclose(toy.covariances_[own], expected, rtol=1e-6, atol=1e-12)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    "options", [{}, {"acceleration": None, "n_init": 3}, {"init_params": "random", "escape": False}]
)
def test_a_family_of_a_known_shape_is_fitted_by_its_name(rows: np.ndarray, options: dict[str, Any]) -> None:
    how = {"n_components": 3, "tol": 1e-9, "max_iter": 300, "random_state": 0} | options
    toy = GaussianMixture(covariance_type="toy", **how).fit(rows)
    oracle = GaussianMixture(covariance_type="spherical", **how).fit(rows)
    assert_same_mixture(toy, oracle)
    assert toy.covariances_.shape == (3, 2, 2)
    assert_array_equal(ordered(toy).argsort()[toy.predict(rows)], ordered(oracle).argsort()[oracle.predict(rows)])
    assert toy.score(rows) == pytest.approx(oracle.score(rows), rel=1e-9)
    assert toy.bic(rows) == pytest.approx(oracle.bic(rows), rel=1e-9)  # (as many numbers)


@pytest.mark.usefixtures("registry")
def test_a_family_itself_may_be_asked_for(rows: np.ndarray, tmp_path: Path) -> None:
    toy = GaussianMixture(3, covariance_type=Toy(), n_init=2, random_state=0).fit(rows)
    assert_same_mixture(toy, GaussianMixture(3, covariance_type="spherical", n_init=2, random_state=0).fit(rows))
    drawn, labels = toy.sample(4000)
    assert_allclose(np.cov(drawn[labels == 0].T), toy.covariances_[0], atol=0.15)
    toy.save(tmp_path / "toy.zarr")
    loaded = GaussianMixture.load(tmp_path / "toy.zarr")
    assert loaded.covariance_type == "toy"
    assert_array_equal(loaded.predict(rows), toy.predict(rows))
    again = toy.set_params(warm_start=True, tol=1e-6).fit(rows)
    assert again.converged_
    theirs = toy.to_sklearn()  # which has no such family, but matrices
    assert_allclose(theirs.score_samples(rows), toy.score_samples(rows), rtol=1e-9)


@pytest.mark.usefixtures("toys")
def test_families_are_compared_and_drawn(rows: np.ndarray, tmp_path: Path) -> None:
    kinds = ["full", "tied", "diag", "spherical", "toy", KeptAxes()]
    found = select(rows[:600], n_components=[3], covariance_type=kinds, n_init=1, random_state=0)
    by_kind = {(row["covariance_type"], row["n_components"]): row["bic"] for row in found.table}
    assert by_kind["toy", 3] == pytest.approx(by_kind["spherical", 3], rel=1e-6)
    assert found.best_.covariance_type in ("spherical", "toy", "tied")
    legend = [text.get_text() for text in found.plot(tmp_path / "bic.png").get_legend().get_texts()]
    assert legend[:6] == ["full", "tied", "diag", "spherical", "toy", "kept-axes"]


def test_the_command_line_knows_a_family_that_is_registered(rows: np.ndarray, tmp_path: Path, registry: None) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=rows[:600], chunks=(200, 2))
    fit = ("fit", tmp_path / "x.zarr", "-k", 3, "-o", tmp_path / "m.zarr", "--covariance", "toy", "--restarts", 2)
    refused = call(*fit)
    assert refused.exit_code == 64
    assert "'toy' is not one of full, tied, diag, spherical." in refused.stderr
    register_family(Toy())
    done = call(*fit)
    assert done.exit_code == 0, done.stderr
    assert json.loads(call("inspect", tmp_path / "m.zarr").stdout)["covariance"] == "toy"
    chosen = call(
        "select",
        tmp_path / "x.zarr",
        "-k",
        "2:3",
        "-o",
        tmp_path / "s.zarr",
        "--covariance",
        "toy,full",
        "--restarts",
        1,
    )
    assert json.loads(chosen.stdout)["covariance"] == "toy", chosen.stderr
    report = call("report", tmp_path / "m.zarr", "--output", tmp_path / "report.html")
    assert report.exit_code == 0, report.stderr
    assert "toy covariances" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_file_says_which_family_to_register(
    rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(families_of_the_package, "_FAMILIES", dict(families_of_the_package._FAMILIES))
        GaussianMixture(3, covariance_type=Toy(), n_init=1, random_state=0).fit(rows[:600]).save(tmp_path / "toy.zarr")
        GaussianMixture.load(tmp_path / "toy.zarr")
    with pytest.raises(DataError, match=r"'toy' in .*toy.zarr. Register its family first \(daskgmm.register_family\)"):
        GaussianMixture.load(tmp_path / "toy.zarr")
    with pytest.raises(OptionError, match=r"got 'toy'. Register another family first: daskgmm.register_family"):
        GaussianMixture(covariance_type="toy").fit(rows)


@pytest.mark.usefixtures("registry")
def test_what_cannot_be_a_family_is_refused() -> None:
    with pytest.raises(OptionError, match=r"must be an object of a class derived from daskgmm.Family; got <class"):
        register_family(Toy)  # type: ignore[arg-type]
    for name, said in (("full", "must not be that of one of daskgmm's own"), ("a,b", "must be letters, digits")):
        with pytest.raises(OptionError, match=said):
            register_family(type("Other", (Toy,), {"name": name})())


@pytest.mark.usefixtures("toys")
def test_given_precisions_are_those_of_the_family(rows: np.ndarray) -> None:
    start = {"weights_init": [0.5, 0.5], "means_init": [[0.0, 0.0], [6.0, 0.0]]}
    given = np.stack([np.diag([1.0, 2.0])] * 2)
    with pytest.raises(OptionError, match="precisions_init must be the precisions of toy covariances"):
        GaussianMixture(2, covariance_type="toy", precisions_init=given, **start).fit(rows)
    gm = GaussianMixture(2, covariance_type="kept-axes", precisions_init=given, acceleration=None, **start).fit(rows)
    oracle = GaussianMixture(
        2, covariance_type="diag", precisions_init=np.full((2, 2), [1, 2]), acceleration=None, **start
    )
    # Axes that are kept are those of the start: with these, covariances along the features.
    assert_allclose(gm.covariances_, oracle.fit(rows).covariances_[:, np.newaxis] * np.eye(2), rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_a_family_whose_m_step_needs_the_parameters_before(acceleration: str | None) -> None:
    random = np.random.default_rng(SEED)
    turn = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    groups = [random.standard_normal((1000, 2)) * [3, 0.5] + [0, 4 * i] for i in range(2)]
    rows = np.concatenate(groups) @ turn.T
    own = GaussianMixture(
        2, covariance_type="kept-axes", acceleration=acceleration, tol=1e-8, max_iter=300, reg_covar=0.0,
        weights_init=[0.5, 0.5], means_init=[[0.0, 0.0], [-2.0, 3.5]],
        precisions_init=np.stack([turn @ np.diag([1.0, 4.0]) @ turn.T] * 2),
    ).fit(rows)  # fmt: skip
    assert own.converged_
    assert (np.diff(own.lower_bounds_) >= -1e-12).all()
    if acceleration is None:
        # The axes are still those of the start: so are spherical or diagonal covariances of rows that are turned back.
        kept = turn.T @ own.covariances_ @ turn
        assert_allclose(kept[:, 0, 1], 0, atol=1e-9)
        diagonal = GaussianMixture(
            2, covariance_type="diag", acceleration=None, tol=1e-8, max_iter=300, reg_covar=0.0,
            weights_init=[0.5, 0.5], means_init=np.array([[0.0, 0.0], [-2.0, 3.5]]) @ turn,
            precisions_init=[[1.0, 4.0], [1.0, 4.0]],
        ).fit(rows @ turn)  # fmt: skip
        assert_allclose(np.diagonal(kept, axis1=1, axis2=2), diagonal.covariances_, rtol=1e-9)
        assert own.log_likelihood_ == pytest.approx(diagonal.log_likelihood_, rel=1e-12)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("name", ["toy", "kept-axes"])
def test_a_family_needs_nothing_on_workers_and_goes_on_from_a_checkpoint(
    name: str, rows: np.ndarray, tmp_path: Path, client: Client
) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(500, 2))
    source = open_source(tmp_path / "x.zarr")
    options = FitOptions(3, covariance_type=name, n_init=2, tol=1e-9, start_rows=300)
    whole = fit_mixture(source, options)
    assert len(whole.lower_bounds) > 5

    def stop(done: PassDone) -> None:
        if done.number == 4:
            raise KeyboardInterrupt

    checkpoint = Checkpoint.at(str(tmp_path / "checkpoint"), every=0.0)
    checkpoint.begin({"what": "a toy"})
    with pytest.raises(KeyboardInterrupt):
        fit_mixture(source, options, listener=stop, checkpoint=checkpoint)
    told: list[PassDone] = []
    resumed = fit_mixture(source, options, listener=told.append, checkpoint=Checkpoint.at(checkpoint.place, every=0.0))
    assert told[0].number == 4  # (which was cut short)
    assert resumed.lower_bounds == whole.lower_bounds
    assert_array_equal(resumed.parameters.covariances, whole.parameters.covariances)
    plan = pickle.dumps(make_plan(whole.parameters, origin=np.zeros(2)))
    assert b"shapes" in plan
    assert b"family" not in plan
    assert type(whole.parameters.family).__name__.encode() not in plan


# -- priors ------------------------------------------------------------------------------------------------------------


# -- kernels -----------------------------------------------------------------------------------------------------------


# -- columns -----------------------------------------------------------------------------------------------------------


# -- sources -----------------------------------------------------------------------------------------------------------


# -- places ------------------------------------------------------------------------------------------------------------
