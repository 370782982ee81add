"""mclust's fourteen families and low rank, through every door: reference numbers, laws, select, files, commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from distributed import Client, LocalCluster
from sklearn.base import clone

from daskgmm import GaussianMixture, select
from daskgmm.cli.commands import gmm
from daskgmm.errors import FitWarning, OptionError
from daskgmm.fitting.events import PassDone
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.sources.opening import open_rows
from daskgmm.stores.checkpoint import Checkpoint
from tests.clusters import LOCAL
from tests.fitting.driving import small_partitions
from tests.mixture.families import FOURTEEN
from tests.reference_data import faithful
from tests.test_promises import scaled_to

__all__ = ["small_partitions"]

START: dict[str, Any] = {
    "weights_init": [0.5, 0.5],
    "means_init": [[2, 55], [4.5, 80]],
    "precisions_init": np.tile(np.diag([2, 0.02]), (2, 1, 1)),
    "reg_covar": 0,
}
#: Log-likelihood at the end, numbers of the covariances, and log-likelihood after one M-step, of a slow EM by others.
REFERENCE = {
    "EII": (-1709.68137295, 6, None), "VII": (-1709.52928218, 7, None), "EEI": (-1157.68001234, 7, None),
    "VEI": (-1152.88019637, 8, None), "EVI": (-1153.88556822, 8, None), "VVI": (-1147.80635254, 9, None),
    "EEE": (-1140.18675944, 8, None), "VEE": (-1136.25985414, 9, -1139.452582),
    "EVE": (-1136.91026067, 9, -1138.677931), "VVE": (-1132.11264246, 10, -1136.773253),
    "EEV": (-1139.33159866, 9, -1141.362719), "VEV": (-1134.67920352, 10, -1139.726267),
    "EVV": (-1135.76990394, 10, -1138.935656), "VVV": (-1130.26396018, 11, None),
    "lowrank-1": (-1130.26396018, 11, None),
}  # fmt: skip
WEIGHTS = {"VEE": 0.357119, "EVE": 0.358669, "VVE": 0.356762, "EEV": 0.357906, "VEV": 0.356349, "EVV": 0.357377}


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Rows of four overlapping Gaussians in four features, (3000, 4)."""
    random = np.random.default_rng(0)
    factors, means = random.standard_normal((4, 4, 4)), 1.2 * random.standard_normal((4, 4))
    labels = random.integers(4, size=3000)
    return means[labels] + 0.7 * np.einsum("nij,nj->ni", factors[labels], random.standard_normal((3000, 4)))


def around(rows: np.ndarray) -> dict[str, Any]:
    """A start that has nothing of a family."""
    identity = np.tile(np.eye(4), (4, 1, 1)) * np.array([0.5, 1, 2, 3])[:, np.newaxis, np.newaxis]
    return {
        "weights_init": np.full(4, 0.25), "means_init": rows[[0, 10, 20, 30]], "precisions_init": identity,
    }  # fmt: skip


@pytest.mark.parametrize("acceleration", [None, "squarem"])
@pytest.mark.parametrize("name", REFERENCE)
def test_reference_numbers_of_the_geyser(name: str, acceleration: str | None) -> None:
    log_likelihood, n_free, after_one = REFERENCE[name]
    found = GaussianMixture(2, covariance_type=name, tol=1e-13, max_iter=1000, acceleration=acceleration, **START).fit(
        faithful()
    )
    assert found.log_likelihood_ == pytest.approx(log_likelihood, abs=2e-8)
    assert found._parameters().n_free == n_free
    bounds = 272 * np.array(found.lower_bounds_)
    if after_one is not None:
        assert bounds[1] == pytest.approx(after_one, abs=1e-6)
        assert found.weights_.min() == pytest.approx(WEIGHTS[name], abs=1e-6)
    assert np.diff(bounds[1:]).min() > -1e-9


@pytest.mark.parametrize("name", [*FOURTEEN, "lowrank-1", "lowrank-2", "lowrank-1-feature"])
def test_em_never_falls_and_leaps_save_passes(name: str, rows: np.ndarray) -> None:
    plain, leaping = (
        GaussianMixture(
            4, covariance_type=name, reg_covar=0, tol=1e-7, max_iter=1000, acceleration=acceleration, **around(rows)
        ).fit(rows)
        for acceleration in (None, "squarem")
    )
    for found in (plain, leaping):
        assert np.diff(found.lower_bounds_[1:]).min() > -1e-12, "after the first M-step, which projects"
    assert leaping.n_passes_ <= plain.n_passes_
    assert leaping.log_likelihood_ > plain.log_likelihood_ - 3000 * 1e-7, "to what tol leaves open"
    if plain.n_passes_ > 60:
        assert leaping.n_passes_ < 0.6 * plain.n_passes_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", ["VEI", "EVE", "VEV", "lowrank-2"])
def test_weights_repeat_rows_and_chunks_do_not_matter(name: str, rows: np.ndarray, tmp_path: Path) -> None:
    often = np.random.default_rng(1).integers(0, 3, size=len(rows))
    how: dict[str, Any] = {"covariance_type": name, "tol": 0, "max_iter": 6, **around(rows)}
    weighted = GaussianMixture(4, **how)
    weighted.fit(rows, sample_weight=often)
    repeated = GaussianMixture(4, **how).fit(np.repeat(rows, often, axis=0))
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_, rtol=1e-9, atol=1e-11)
    assert weighted.log_likelihood_ == pytest.approx(repeated.log_likelihood_, rel=1e-11)
    zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(171, 3))
    stored = GaussianMixture(4, **how).fit(tmp_path / "x.zarr")
    whole = GaussianMixture(4, **how).fit(rows)
    np.testing.assert_allclose(stored.covariances_, whole.covariances_, rtol=1e-10, atol=1e-12)


def test_a_selection_of_all_families_is_each_of_them_alone_in_shared_passes() -> None:
    X = faithful()
    how: dict[str, Any] = {"n_init": 2, "random_state": 0, "tol": 1e-4}
    found = select(X, covariance_type=["mclust", "lowrank"], n_factors=1, n_components=range(1, 4), **how)
    assert [(row["covariance_type"], row["n_components"]) for row in found.table] == [
        (name, k) for name in (*FOURTEEN, "lowrank-1") for k in (1, 2, 3)
    ]
    passes, pairs = 0, zip(found.table, found.estimators, strict=True)
    for row, estimator in [pair for pair in pairs if pair[0]["n_components"] == 2]:
        alone = GaussianMixture(row["n_components"], covariance_type=row["covariance_type"], **how).fit(X)
        passes += alone.n_passes_
        if row["below"] is None:
            assert estimator.lower_bounds_[: alone.n_iter_] == alone.lower_bounds_
        assert row["log_likelihood"] >= alone.log_likelihood_ - 1e-6
    assert found.n_passes < passes / 2
    # What mclust prints of the geyser: EEE with three components before all others.
    assert (found.best_.covariance_type, found.best_.n_components) == ("EEE", 3)
    (best,) = [row for row in found.table if row["chosen"]]
    assert best["log_likelihood"] == pytest.approx(-1126.326, abs=0.01)
    assert (best["n_free"], best["bic"]) == (11, pytest.approx(2314.316, abs=0.02))


def test_large_rows_select_as_alone(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    labels = random.integers(3, size=20_000)
    X = random.standard_normal((20_000, 5)) @ np.diag([1, 2, 0.5, 1, 1]) + 4 * random.standard_normal((3, 5))[labels]
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(3000, 5))
    how: dict[str, Any] = {"n_init": 1, "random_state": 0, "escape": False}
    kinds = ["EEI", "VEE", "EVE", "EEV"]
    found = select(tmp_path / "x.zarr", covariance_type=kinds, n_components=[2, 3], **how)
    for row, estimator in zip(found.table, found.estimators, strict=True):
        alone = GaussianMixture(row["n_components"], covariance_type=row["covariance_type"], **how)
        alone.fit(tmp_path / "x.zarr")
        assert estimator.lower_bounds_[: alone.n_iter_] == alone.lower_bounds_
    assert (found.best_.covariance_type, found.best_.n_components) == ("EEI", 3), "what made the rows"


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({"covariance_type": "VEV"}, "VEV"),
        ({"covariance_type": "EII"}, "EII"),
        ({"covariance_type": "lowrank", "n_factors": 2}, "lowrank-2"),
        ({"covariance_type": "lowrank", "n_factors": 1, "factor_noise": "feature"}, "lowrank-1-feature"),
    ],
)
def test_a_model_is_saved_loaded_converted_and_sampled(
    how: dict[str, Any], name: str, rows: np.ndarray, tmp_path: Path
) -> None:
    found = clone(GaussianMixture(3, n_init=1, random_state=0, **how)).fit(rows)
    found.save(tmp_path / "m.zarr")
    loaded = GaussianMixture.load(tmp_path / "m.zarr")
    assert loaded.covariance_type == name
    np.testing.assert_array_equal(loaded.predict_proba(rows[:50]), found.predict_proba(rows[:50]))
    assert loaded.bic(rows) == found.bic(rows)
    assert clone(loaded).fit(rows).log_likelihood_ == pytest.approx(found.log_likelihood_, rel=1e-12)
    theirs = found.to_sklearn()
    np.testing.assert_allclose(theirs.predict_proba(rows[:50]), found.predict_proba(rows[:50]), atol=1e-10)
    X, _ = found.sample(100)
    assert X.shape == (100, 4)
    same = GaussianMixture.from_parameters(found.weights_, found.means_, found.covariances_, **how)
    np.testing.assert_allclose(same.score_samples(X), found.score_samples(X), rtol=1e-10)
    found.set_params(warm_start=True)
    assert found.fit(rows).lower_bound_ >= loaded.lower_bound_ - 1e-9


@pytest.mark.parametrize(("name", "text"), [("VEE", "VEE covariances"), ("lowrank-1", "lowrank-1 covariances")])
def test_a_mixture_of_no_member_is_refused(name: str, text: str) -> None:
    matrices = np.array([np.diag([1.0, 2.0, 3.0]), np.diag([3.0, 2.0, 5.0])])
    with pytest.raises(OptionError, match=f"covariances must be {text}; got others"):
        GaussianMixture.from_parameters([0.5, 0.5], np.zeros((2, 3)), matrices, covariance_type=name)


@pytest.mark.parametrize("name", ["VVE", "lowrank-1-feature"])
def test_a_fit_that_is_cut_short_goes_on_to_the_same_bits(name: str, rows: np.ndarray, tmp_path: Path) -> None:
    options = FitOptions(3, covariance_type=name, n_init=1, seed=0, tol=1e-5, escape=False, max_iter=12, start_rows=100)

    def fit(place: str, cut: int | None = None) -> Any:
        def hear(event: PassDone) -> None:
            if event.number == cut:
                raise KeyboardInterrupt

        checkpoint = Checkpoint.at(str(tmp_path / place), every=0)
        return fit_mixture(open_rows(rows), options, checkpoint=checkpoint, listener=hear)

    with pytest.raises(KeyboardInterrupt):
        fit("cut", 4)
    on, whole = fit("cut"), fit("whole")
    assert on.lower_bounds == whole.lower_bounds
    np.testing.assert_array_equal(on.parameters.covariances, whole.parameters.covariances)


def test_units_are_left_to_families_that_know_none(rows: np.ndarray) -> None:
    how: dict[str, Any] = {"standardize": True, "n_init": 1, "random_state": 0}
    found = GaussianMixture(2, covariance_type="VEE", **how).fit(rows)
    other = GaussianMixture(2, covariance_type="VEE", **how).fit(rows * [1, 10, 100, 1e4])
    assert other.log_likelihood_ == pytest.approx(found.log_likelihood_ - 3000 * np.log(1e7), abs=1e-3)
    for name in ("EII", "EVE", "VEV", "lowrank-1"):
        with pytest.raises(OptionError, match=f"standardize must be False with covariance_type {name}"):
            GaussianMixture(2, covariance_type=name, **how).fit(rows)


def test_the_number_of_factors_is_found_by_bic_in_shared_passes() -> None:
    """Components of two factors each, in six features (McNicholas and Murphy 2008)."""
    random = np.random.default_rng(5)
    label, loadings = random.integers(2, size=1500), 1.5 * random.standard_normal((2, 6, 2))
    X = 6.0 * label[:, np.newaxis] + np.einsum("nij,nj->ni", loadings[label], random.standard_normal((1500, 2)))
    X = X + 0.5 * random.standard_normal(X.shape)
    how: dict[str, Any] = {"n_init": 1, "random_state": 0, "tol": 1e-5, "factor_noise": "feature"}
    found = select(X, n_components=[1, 2], covariance_type="lowrank", n_factors=[1, 2, 3], **how)
    names = [f"lowrank-{q}-feature" for q in (1, 2, 3)]
    assert [row["covariance_type"] for row in found.table] == [name for name in names for _ in range(2)]
    assert (found.best_.covariance_type, found.best_.n_components) == (names[1], 2)
    passes = 0
    for row, estimator in zip(found.table, found.estimators, strict=True):
        q = int(row["covariance_type"].split("-")[1])
        alone = GaussianMixture(row["n_components"], covariance_type="lowrank", n_factors=q, **how).fit(X)
        assert estimator.lower_bounds_[: alone.n_iter_] == alone.lower_bounds_
        if estimator.n_iter_ == alone.n_iter_:
            np.testing.assert_array_equal(estimator.covariances_, alone.covariances_)
        passes += alone.n_passes_
    assert found.n_passes < passes / 2


def test_what_is_wrong_is_said_before_rows_are_read(rows: np.ndarray) -> None:
    for how, text in (
        ({"covariance_type": "lowrank"}, "n_factors must be given with covariance_type lowrank"),
        ({"covariance_type": "lowrank", "n_factors": 4}, "n_factors must be at most 3 for 4 features"),
        ({"covariance_type": "lowrank", "n_factors": 0}, "n_factors must be an integer of at least 1"),
        ({"covariance_type": "VEE", "n_factors": 2}, "n_factors must be left out with covariance_type VEE"),
        ({"covariance_type": "lowrank", "n_factors": 1, "factor_noise": "own"}, "factor_noise must be one of"),
        ({"covariance_type": "mclust"}, "covariance_type must be one family; got 'mclust'"),
    ):
        with pytest.raises(OptionError, match=text):
            GaussianMixture(2, **how).fit(rows)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="n_factors must be left out where lowrank is no covariance_type; got 2"):
        select(rows, covariance_type=["full", "VEE"], n_factors=2)
    for several in ([], [0, 1], [1.5], "bic"):
        with pytest.raises(OptionError, match=r"n_factors must be an integer of at least 1, or several; got "):
            select(rows, covariance_type="lowrank", n_factors=several)
    for one in ("bic", [1, 2]):
        with pytest.raises(OptionError, match=r"n_factors must .* Take 2\. To compare several: select\."):
            GaussianMixture(2, covariance_type="lowrank", n_factors=one).fit(rows)  # type: ignore[arg-type]


def test_the_command_line_knows_families_and_factors(rows: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", rows[:800])

    def call(*arguments: Any, code: int = 0) -> Any:
        done = CliRunner().invoke(gmm, [str(each) for each in arguments])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout.splitlines()[-1]) if not code else done.stderr

    model = tmp_path / "m.zarr"
    one = ("fit", tmp_path / "x.npy", "-k", 2, "-o", model, "--restarts", 1)
    found = call(*one, "--covariance", "lowrank", "--factors", 2, "--factor-noise", "isotropic")
    assert found["covariance"] == "lowrank-2"
    assert call("inspect", model)["covariance"] == "lowrank-2"
    call("report", model, "--output", tmp_path / "r.html")
    assert "lowrank-2" in (tmp_path / "r.html").read_text()
    assert "--factors must be given" in call(*one, "--covariance", "lowrank", "--force", code=64)
    assert "'vee' is not one of full, tied" in call(*one, "--covariance", "vee", code=64)
    several = ("select", tmp_path / "x.npy", "-k", "1:2", "--restarts", 1, "--table", tmp_path / "t.json")
    found = call(*several, "-o", tmp_path / "s.zarr", "--covariance", "mclust,lowrank", "--factors", "1,2")
    table = json.loads((tmp_path / "t.json").read_text())
    assert [row["covariance_type"] for row in table[::2]] == [*FOURTEEN, "lowrank-1", "lowrank-2"]
    assert call("inspect", tmp_path / "s.zarr")["covariance"] == found["covariance"]


@pytest.mark.parametrize("name", ["VEI", "VEE", "VEV", "VVI"])
def test_a_point_mass_is_named(name: str) -> None:
    """Where components share a shape, too, by which one of rows that are alike has variances above the floor."""
    random = np.random.default_rng(0)
    wide = random.normal([0, 0, 0], [1, 2, 0.5], (350, 3)), random.normal([6, 0, 0], [2, 4, 1], (350, 3))
    rows = np.concatenate([*wide, np.repeat(random.normal(0, 3, (1, 3)), 60, axis=0)])
    with pytest.warns(FitWarning, match="holds rows that are alike .* 60 rows near"):
        GaussianMixture(3, covariance_type=name, random_state=0).fit(rows)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_same_bits_for_any_number_of_workers(rows: np.ndarray, tmp_path: Path, small_partitions: None) -> None:
    """With M-steps that iterate, which are the driver's."""
    store, names = tmp_path / "X.zarr", ("VVE", "EVE", "lowrank-2", "lowrank-1-feature")
    zarr.create_array(store, data=rows[:2000], chunks=(250, 4))

    def fits() -> dict[str, GaussianMixture]:
        asked: dict[str, Any] = {"tol": 0, "max_iter": 3, **around(rows)}
        return {name: GaussianMixture(4, covariance_type=name, **asked).fit(store) for name in names}

    with dask.config.set(scheduler="synchronous"):
        expected = fits()
    with LocalCluster(n_workers=4, threads_per_worker=1, **LOCAL) as cluster, Client(cluster) as client:
        for n_workers in 4, 2, 1:
            scaled_to(n_workers, cluster, client)
            for name, found in fits().items():
                for what in ("weights_", "means_", "covariances_", "lower_bounds_", "log_likelihood_", "support_"):
                    ours, theirs = (np.asarray(getattr(one, what)) for one in (found, expected[name]))
                    assert ours.tobytes() == theirs.tobytes(), (n_workers, name, what)
