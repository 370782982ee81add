"""Fits that begin with given components, as commands: a model, arrays in files, and what of them is fixed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from daskgmm import GaussianMixture
from tests.test_cli import call

RANDOM = np.random.default_rng(8)
OLD = np.concatenate([RANDOM.normal([0, 0], [1, 2], (300, 2)), RANDOM.normal([6, 1], [2, 1], (500, 2))])
NEW = np.concatenate([RANDOM.normal([1, 0], [1, 2], (400, 2)), RANDOM.normal([6, 3], [2, 1], (200, 2))])
BRIEF = ("--restarts", 1, "--tol", 1e-6)


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / f"{name}.npy" for name in ("new", "means")}
    np.save(found["new"], NEW)
    found["model"], found["output"] = tmp_path / "model.zarr", tmp_path / "output.zarr"
    gm = GaussianMixture(2, random_state=0).fit(OLD)
    gm.save(found["model"])
    np.save(found["means"], gm.means_)
    return found


def done(*arguments: Any, code: int = 0) -> Any:
    found = call(*arguments, code=code)
    return json.loads(found.stdout) if code in (0, 3) else found.stderr


def start_of(place: Path) -> dict[str, Any]:
    gm = GaussianMixture.load(place)
    return {"weights_init": gm.weights_, "means_init": gm.means_, "precisions_init": gm.precisions_}


def python(**options: Any) -> GaussianMixture:
    return GaussianMixture(2, n_init=1, tol=1e-6, random_state=0, **options).fit(NEW)


def test_a_fit_begins_with_a_model_and_holds_what_is_fixed(places: dict[str, Path]) -> None:
    command = ("fit", places["new"], "-k", 2, "-o", places["output"], *BRIEF, "--init-from", places["model"])
    found = done(*command, "--fixed", "weights,covariances")
    old, new = GaussianMixture.load(places["model"]), GaussianMixture.load(places["output"])
    assert_array_equal(new.weights_, old.weights_)
    assert_array_equal(new.covariances_, old.covariances_)
    expected = python(**start_of(places["model"]), fixed={"weights": True, "covariances": True})
    assert_allclose(new.means_, expected.means_, rtol=1e-7)
    assert found["bic"] == pytest.approx(-2 * found["log_likelihood"] + 4 * np.log(len(NEW)))
    assert new.fixed == {"weights": True, "covariances": True}
    assert done(*command, "--fixed", "weights,covariances")["skipped"]
    assert "--fixed is" in done(*command, code=73)
    mask = '{"means": [true, false]}'
    done(*command, "--fixed", mask, "--force")
    new = GaussianMixture.load(places["output"])
    assert_array_equal(new.means_[0], old.means_[0])
    expected = python(**start_of(places["model"]), fixed={"means": [True, False]})
    assert_allclose(new.means_, expected.means_, rtol=1e-7)
    assert (np.abs(new.means_[1] - old.means_[1]) > 0.1).any()
    masks = places["model"].with_name("masks.json")
    masks.write_text(mask)
    done(*command, "--fixed", masks, "--force")
    assert_array_equal(GaussianMixture.load(places["output"]).means_, new.means_)


def test_arrays_come_as_text_from_files_and_from_models(places: dict[str, Path]) -> None:
    start = start_of(places["model"])
    config = places["model"].with_name("options.toml")
    typed = json.dumps(start["means_init"].tolist())
    config.write_text(f'precisions_init = "{places["model"]}"\nweights_init = {start["weights_init"].tolist()}\n')
    bits = []
    for means in (places["means"], places["model"], typed):
        done("fit", places["new"], "-k", 2, "-o", places["output"], *BRIEF, "--means-init", means, "--config", config,
             "--force")  # fmt: skip
        bits.append(GaussianMixture.load(places["output"]).means_)
    for found in bits:
        assert_array_equal(found, python(**start).means_)
    done("fit", places["new"], "-k", 2, "-o", places["output"], *BRIEF, "--mean-prior", places["model"],
         "--mean-precision-prior", "40,1e6", "--force")  # fmt: skip
    expected = python(mean_prior=start["means_init"], mean_precision_prior=[40, 1e6])
    assert_allclose(GaussianMixture.load(places["output"]).means_, expected.means_, rtol=1e-12)


def test_a_start_of_another_kind_and_with_noise(places: dict[str, Path]) -> None:
    begun = GaussianMixture(2, covariance_type="diag", random_state=0).fit(OLD)
    begun.save(places["model"], overwrite=True)
    command = ("fit", places["new"], "-k", 2, *BRIEF, "--init-from", places["model"], "--max-iter", 0, "--force")
    for kind in ("full", "VVI", "VVV"):
        done(*command, "--covariance", kind, "-o", places["output"], code=3)
        found = GaussianMixture.load(places["output"])
        assert_allclose(found.score_samples(NEW), begun.score_samples(NEW), rtol=1e-9)
    done(*command, "--covariance", "diag", "--noise", 1000, "-o", places["output"], code=3)
    found = GaussianMixture.load(places["output"])
    density = 0.95 * np.exp(begun.score_samples(NEW)) + 0.05 / 1000
    assert_allclose(found.score_samples(NEW), np.log(density), rtol=1e-9)


def test_what_goes_not_together_is_refused(places: dict[str, Path]) -> None:
    command = ("fit", places["new"], "-o", places["output"], "-k")
    begun = (*command, 2, "--init-from", places["model"])
    assert "--components must be 2, the components of --init-from; got 3" in done(
        *command, 3, "--init-from", places["model"], code=64
    )
    assert "--means-init must be left out with --init-from" in done(*begun, "--means-init", places["means"], code=64)
    assert "--covariance must be full, that of --init-from, or a kind that takes any start; got tied" in done(
        *begun, "--covariance", "tied", code=64
    )
    assert "--fixed must be about given values: --means-init says" in done(*command, 2, "--fixed", "means", code=64)
    assert "--fixed must be left out, or names, or JSON" in done(*begun, "--fixed", "mean", code=64)
    assert "cannot be read: No such file" in done(*begun, "--fixed", "no.json", code=64)
    for typed, said in (
        ("nowhere", "is not a number, nor numbers as in 0.1,35 or [[2,1],[1,3]], nor a .npy or .json file"),
        ("nowhere.npy", "cannot be read: No such file"),
        ("[1, x]", "is not a number"),
    ):
        assert said in done(*command, 2, "--means-init", typed, code=64)
    assert "--means-init must be left out of a selection" in done(
        "select", places["new"], "-o", places["output"], "-k", "1:2", "--means-init", places["means"], code=64
    )
    table = places["new"].with_name("other.parquet")
    pd.DataFrame(NEW, columns=["a", "b"]).to_parquet(table)
    GaussianMixture(2, random_state=0).fit(pd.DataFrame(OLD, columns=["a", "z"])).save(places["model"], overwrite=True)
    assert "'z'" in done("fit", table, *begun[2:], code=66)


def test_by_parts_it_has_the_bits_of_one_go(places: dict[str, Path], tmp_path: Path) -> None:
    table = tmp_path / "rows.parquet"
    pd.DataFrame({"b": NEW[:, 1], "id": 7.0, "a": NEW[:, 0]}).to_parquet(table)
    GaussianMixture(2, random_state=0).fit(pd.DataFrame(OLD, columns=["a", "b"])).save(places["model"], overwrite=True)
    asked = ("-k", 2, "--init-from", places["model"], "--fixed", "covariances", "--tol", 1e-3)
    done("fit", table, *asked, "-o", places["output"])
    done("survey", table, *asked, "--part", "1/1", "-o", tmp_path / "S")
    result = done("start", tmp_path / "S", "-o", tmp_path / "M0")
    for i in range(40):
        if result["next"] is None:
            break
        done("stats", tmp_path / f"M{i}", table, "--part", "1/1", "-o", tmp_path / f"P{i}")
        result = json.loads(_either("mstep", tmp_path / f"M{i}", tmp_path / f"P{i}", "-o", tmp_path / f"M{i + 1}"))
    one, parts = GaussianMixture.load(places["output"]), GaussianMixture.load(result["output"])
    assert_array_equal(parts.means_, one.means_)
    assert_array_equal(parts.covariances_, GaussianMixture.load(places["model"]).covariances_)
    assert list(parts.feature_names_in_) == ["a", "b"]
    planned = done("plan", table, *asked, "--json")
    assert planned["features"] == 2


def _either(*arguments: Any) -> str:
    """Return what a command printed that has converged, or goes on."""
    from click.testing import CliRunner

    from daskgmm.cli.commands import gmm

    found = CliRunner().invoke(gmm, [str(a) for a in arguments])
    assert found.exit_code in (0, 3), found.stderr
    return found.stdout
