"""`daskgmm update`: in place and elsewhere, done once, with all rows again, and what it refuses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from daskgmm import GaussianMixture
from daskgmm.cli.commands import gmm as command
from daskgmm.stores.model_file import load_model


def rows(seed: int, n: int, mean: float = 0.0) -> Any:
    random = np.random.default_rng(seed)
    return mean + np.concatenate([random.normal(0, 1, (n, 2)), random.normal(9, 1, (n, 2))])


def run(*arguments: object, exit_code: int = 0) -> tuple[dict[str, Any], str]:
    done = CliRunner().invoke(command, [str(a) for a in arguments])
    assert done.exit_code == exit_code, done.output
    return (json.loads(done.stdout) if exit_code == 0 else {}), done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, values in (("old", rows(0, 300)), ("new", rows(1, 50)), ("more", rows(2, 40))):
        np.save(tmp_path / f"{name}.npy", values)
    run("fit", tmp_path / "old.npy", "-k", 2, "--tol", 1e-8, "-o", tmp_path / "model.zarr")
    return tmp_path


def test_in_place_and_once(place: Path) -> None:
    found, _ = run("update", place / "model.zarr", place / "new.npy")
    assert (found["rows"], found["weight"], found["skipped"]) == (100, 700, False)
    assert abs(found["drift"]["z"]) < 4
    model = GaussianMixture.load(place / "model.zarr")
    # As Python does.
    expected = GaussianMixture(2, tol=1e-8, random_state=0).fit(rows(0, 300)).partial_fit(rows(1, 50))
    np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-9)
    again, said = run("update", place / "model.zarr", place / "new.npy")
    assert again["skipped"]
    assert "nothing to do" in said
    assert GaussianMixture.load(place / "model.zarr").means_.tolist() == model.means_.tolist()
    run("update", place / "model.zarr", place / "more.npy")
    told, _ = run("inspect", place / "model.zarr")
    assert [one["command"] for one in told["updates"]] == ["fit", "update", "update"]
    assert [one.get("rows") for one in told["updates"]] == [None, 100, 80]
    # Rows that it has seen are not counted twice: those of the fit, of an update before the last.
    for seen in ("old", "new"):
        _, said = run("update", place / "model.zarr", place / f"{seen}.npy", exit_code=64)
        assert "NEW must be rows that MODEL has not seen" in said
    forced, _ = run("update", place / "model.zarr", place / "new.npy", "--force")
    assert forced["weight"] == 880


def test_elsewhere_and_with_all_rows_again(place: Path) -> None:
    found, _ = run("update", place / "model.zarr", place / "new.npy", "-o", place / "next.zarr", "--forgetting", 0.5)
    assert found["weight"] == 400
    assert load_model(place / "model.zarr").record.get("updates") is None
    again, _ = run("update", place / "model.zarr", place / "new.npy", "-o", place / "next.zarr", "--forgetting", 0.5)
    assert again["skipped"]
    _, said = run("update", place / "model.zarr", place / "new.npy", "-o", place / "next.zarr", exit_code=73)
    assert "--forgetting is 0.5 there, 0.0 now" in said
    full = ("--full", place / "old.npy")
    found, _ = run("update", place / "model.zarr", place / "new.npy", *full, "-o", place / "full.zarr")
    assert (found["rows"], found["weight"]) == (700, 700)
    model = GaussianMixture.load(place / "model.zarr")
    was, now = model.score_samples(rows(0, 300)), model.score_samples(rows(1, 50))
    assert found["drift"]["z"] == pytest.approx((now.mean() - was.mean()) / (was.std() / 10), rel=1e-6)
    both = GaussianMixture(2, tol=1e-9, random_state=0).fit(np.concatenate([rows(0, 300), rows(1, 50)]))
    np.testing.assert_allclose(
        np.sort(GaussianMixture.load(place / "full.zarr").means_, axis=0), np.sort(both.means_, axis=0), atol=1e-4
    )
    zarr.create_array(place / "old.zarr", data=rows(0, 300).astype("f4"))
    _, said = run(
        "update",
        place / "model.zarr",
        place / "new.npy",
        "--full",
        place / "old.zarr",
        "-o",
        place / "x.zarr",
        exit_code=65,
    )
    assert "all have the features, the dtype and the units of the first" in said


def test_what_cannot_follow_is_refused_and_the_remedy_works(place: Path) -> None:
    run("fit", place / "old.npy", "-k", 2, "--standardize", "-o", place / "other.zarr")
    _, said = run("update", place / "other.zarr", place / "new.npy", exit_code=64)
    assert "--standardize of a model that new rows update must be left out; got it: what is added" in said
    assert "Fit old and new rows together: --full with the old rows" in said
    found, _ = run("update", place / "other.zarr", place / "new.npy", "--full", place / "old.npy")
    assert found["rows"] == 700
    run("reduce", place / "model.zarr", "-k", 1, "-o", place / "one.zarr")
    _, said = run("update", place / "one.zarr", place / "new.npy", exit_code=64)
    assert "MODEL must know how many rows it was fitted to" in said
    np.save(place / "three.npy", np.ones((9, 3)))
    run("update", place / "model.zarr", place / "three.npy", exit_code=65)
    run("update", place / "model.zarr", place / "new.npy", "--forgetting", 2, exit_code=64)


def test_what_an_update_would_leave_out_is_refused_with_the_old_rows_too(place: Path) -> None:
    """(--full would fit rows without their errors or labels, and said nothing.)"""
    np.save(place / "errors.npy", np.full((600, 2), 0.1))
    np.save(place / "labels.npy", np.where(np.arange(600) < 9, 0, -1))
    beside = {"errors": place / "errors.npy", "labels": place / "labels.npy", "bayesian": "dirichlet_process"}
    for name, value in beside.items():
        run("fit", place / "old.npy", "-k", 2, f"--{name}", value, "-o", place / "m.zarr", "--force")
        for more in ((), ("--full", place / "old.npy")):
            _, said = run("update", place / "m.zarr", place / "new.npy", *more, exit_code=64)
            assert re.search(r"error: (MODEL|a model that new rows update) must be of ", said)
            assert re.search(
                rf"Fit old and new rows together, as one (INPUT: daskgmm fit|input,) with --{name}\.", said
            )
        if name != "bayesian":  # (where the old rows are forgotten, nothing of them is left out)
            run("update", place / "m.zarr", place / "new.npy", "--forgetting", 1, "-o", place / "n.zarr", "--force")


def test_with_the_old_rows_a_mixture_keeps_its_noise(place: Path) -> None:
    run("fit", place / "old.npy", "-k", 2, "--noise", "yes", "-o", place / "noisy.zarr")
    before = GaussianMixture.load(place / "noisy.zarr")
    _, said = run("update", place / "noisy.zarr", place / "new.npy", exit_code=64)
    assert "--noise of a model that new rows update must be left out; got yes. Fit old and new rows together" in said
    found, _ = run("update", place / "noisy.zarr", place / "new.npy", "--full", place / "old.npy")
    assert found["rows"] == 700
    assert found["drift"]["mean"] == pytest.approx(before.score(np.load(place / "new.npy")), rel=1e-9)


def test_gaps_are_taken_as_the_model_was_fitted(tmp_path: Path) -> None:
    old, new = rows(0, 300), rows(1, 60)
    old[::5, 0] = new[::4, 1] = np.nan
    np.save(tmp_path / "old.npy", old)
    np.save(tmp_path / "new.npy", new)
    gm = GaussianMixture(1, non_finite="marginalize", random_state=0).fit(old)
    gm.save(tmp_path / "m.zarr")
    asked = ("update", tmp_path / "m.zarr", tmp_path / "new.npy")
    run(*asked, "-o", tmp_path / "alone.zarr")
    alone = gm.partial_fit(new)
    np.testing.assert_allclose(GaussianMixture.load(tmp_path / "alone.zarr").means_, alone.means_, rtol=1e-12)
    found, _ = run(*asked, "--full", tmp_path / "old.npy", "-o", tmp_path / "full.zarr")
    assert (found["incomplete_rows"], found["dropped_rows"]) == (120 + 30, 0)


def test_new_rows_may_all_lack_a_feature(tmp_path: Path) -> None:
    old, new = rows(0, 300), rows(1, 50)
    new[:, 1] = np.nan
    np.save(tmp_path / "old.npy", old)
    np.save(tmp_path / "new.npy", new)
    run("fit", tmp_path / "old.npy", "-k", 2, "--non-finite", "marginalize", "-o", tmp_path / "model.zarr")
    found, said = run("update", tmp_path / "model.zarr", tmp_path / "new.npy", "-o", tmp_path / "next.zarr")
    full, _ = run("update", tmp_path / "model.zarr", tmp_path / "new.npy", "--full", tmp_path / "old.npy")
    assert "warning" not in said
    means = [np.sort(GaussianMixture.load(tmp_path / f"{one}.zarr").means_, axis=0) for one in ("next", "model")]
    np.testing.assert_allclose(*means, atol=1e-3)
    for one in (found, full):
        assert one["weight"] == 700
        assert one["drift"]["z"] is None


def test_a_model_of_an_earlier_version(place: Path) -> None:
    group = zarr.open_group(place / "model.zarr", mode="r+")
    record = dict(group.attrs["record"])  # type: ignore[arg-type]
    for name in ("seen", "drift"):
        del record[name]
    group.attrs["record"] = record
    whole, _ = run("update", place / "model.zarr", place / "new.npy", "-o", place / "next.zarr")
    assert whole["weight"] == 700
    assert whole["drift"]["z"] is None
    assert whole["drift"]["deviation"] > 0
    assert "of an earlier version" in whole["remarks"][0]
    found, _ = run("update", place / "next.zarr", place / "more.npy")
    assert abs(found["drift"]["z"]) < 4
    assert found["remarks"] == []


def test_killed_and_run_again(place: Path) -> None:
    np.save(place / "many.npy", rows(5, 2_000, mean=0.3))
    line = ["update", place / "model.zarr", place / "many.npy", "--tol", 0, "--max-iter", 40, "--accept-not-converged"]
    run(*line, "--output", place / "whole.zarr")
    program = [sys.executable, "-m", "daskgmm", *map(str, line)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as victim:
        assert victim.stderr is not None
        assert any(b"pass  10" in told for told in victim.stderr)
        victim.kill()
    assert load_model(place / "model.zarr").record["result"]["command"] == "fit"
    found, said = run(*line)
    assert "Going on from" in said
    assert found["skipped"] is False
    means = [load_model(place / name).parameters.means.tolist() for name in ("model.zarr", "whole.zarr")]
    assert means[0] == means[1]
