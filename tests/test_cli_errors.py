"""Measurement errors on the command line: columns of the input, a place, one for all rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from numpy.testing import assert_allclose

from daskgmm import GaussianMixture
from daskgmm.cli.commands import gmm
from tests.reference_data import faithful

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

X = faithful()
E = np.sqrt(np.stack([0.01 * (1 + np.arange(272) % 3), 4.0 * (1 + np.arange(272) % 2)], axis=1))


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(gmm, [str(a) for a in arguments])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    place = tmp_path / "geyser.parquet"
    names = {"e_wait": E[:, 1], "length": X[:, 0], "wait": X[:, 1], "e_length": E[:, 0]}
    parquet.write_table(pyarrow.table(names), place)
    return place


def test_errors_are_columns_in_the_order_of_the_features(table: Path, tmp_path: Path) -> None:
    model, errors = tmp_path / "m.zarr", ("--errors", "e_length,e_wait")
    done = call("fit", table, *errors, "-k", 2, "-o", model)
    assert done.exit_code == 0, done.stderr
    found = GaussianMixture.load(model)
    assert list(found.feature_names_in_) == ["length", "wait"]
    expected = GaussianMixture(2, random_state=0).fit(X, errors=E)
    assert_allclose(found.covariances_, expected.covariances_, rtol=1e-9)
    assert json.loads(call("inspect", model).stdout)["input"]["errors"]["location"] is not None
    scored = json.loads(call("score", model, table, *errors).stdout)
    assert_allclose(scored["log_likelihood"], expected.score(X, errors=E) * 272, rtol=1e-12)
    del found.feature_names_in_  # (X here has no names)
    for what, of in (("score", found.score_samples), ("proba", found.predict_proba), ("label", found.predict)):
        output = tmp_path / f"{what}.zarr"
        assert call("predict", model, table, *errors, "--what", what, "-o", output).exit_code == 0
        assert_allclose(zarr.open_array(output)[:], of(X, errors=E), rtol=1e-12)
    # Without errors it is another command, which is told.
    again = call("predict", model, table, "--what", "score", "-o", tmp_path / "score.zarr")
    assert again.exit_code == 73
    assert "errors" in again.stderr


def test_columns_of_an_upper_triangle_are_told_for_what_they_are_taken(tmp_path: Path) -> None:
    covariances = np.stack([E[:, 0] ** 2, 0.3 * E[:, 0] * E[:, 1], E[:, 1] ** 2], axis=1)
    names = {"length": X[:, 0], "wait": X[:, 1]} | dict(zip(("v_length", "both", "v_wait"), covariances.T, strict=True))
    parquet.write_table(pyarrow.table(names), tmp_path / "t.parquet")
    errors, model = ("--errors", "v_length,both,v_wait"), tmp_path / "m.zarr"
    done = call("fit", tmp_path / "t.parquet", *errors, "-k", 2, "-o", model)
    assert done.exit_code == 0, done.stderr
    assert (
        "Errors are taken for covariances of each row, upper triangles row by row: v_length of length, both of length "
        "and wait, v_wait of wait."
    ) in done.stderr
    expected = GaussianMixture(2, random_state=0).fit(X, errors=covariances[:, [[0, 1], [1, 2]]])
    assert_allclose(GaussianMixture.load(model).covariances_, expected.covariances_, rtol=1e-9)


def test_errors_are_a_place_of_one_for_all_rows_or_of_one_each(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    for name, errors in (("each", E), ("all", np.array([0.1, 3.0])), ("matrix", np.diag([0.01, 9.0]))):
        np.save(tmp_path / f"{name}.npy", errors)
        model = tmp_path / f"{name}.zarr"
        given = ("--errors", tmp_path / f"{name}.npy")
        assert call("fit", tmp_path / "x.npy", *given, "-k", 2, "-o", model).exit_code == 0
        expected = GaussianMixture(2, random_state=0).fit(X, errors=errors)
        assert_allclose(GaussianMixture.load(model).covariances_, expected.covariances_, rtol=1e-9)
        scored = json.loads(call("score", model, tmp_path / "x.npy", *given).stdout)
        assert_allclose(scored["log_likelihood"], expected.log_likelihood_, rtol=1e-10)
        output = tmp_path / f"p-{name}.zarr"
        assert call("predict", model, tmp_path / "x.npy", *given, "--what", "score", "-o", output).exit_code == 0
        assert_allclose(zarr.open_array(output)[:], expected.score_samples(X, errors=errors), rtol=1e-9)


def test_rows_without_errors_are_told_to_be_taken_as_exact(table: Path, tmp_path: Path) -> None:
    """Once a command, where the model is of true values and rows have none of their own errors."""
    model, errors = tmp_path / "m.zarr", ("--errors", "e_length,e_wait")
    assert call("fit", table, *errors, "-k", 2, "-o", model).exit_code == 0
    said = "MODEL is of the true values of rows with measurement errors; these rows are taken as exact, and score lower"
    commands = [("score", model, table), ("predict", model, table, "-o", tmp_path / "labels.zarr")]
    for command in commands:
        done = call(*command)
        assert (done.exit_code, done.stderr.count(said)) == (0, 1)
        assert "--errors gives them" in done.stderr
        assert said not in call(*command, *errors, *(["--force"] if command[0] == "predict" else [])).stderr
    # (It is so: the noise of the rows is not that of the mixture.)
    exact, noisy = (json.loads(call("score", model, table, *given).stdout) for given in ((), errors))
    assert exact["mean_log_likelihood"] < noisy["mean_log_likelihood"]
    plain = tmp_path / "plain.zarr"
    assert call("fit", table, "--columns", "length,wait", "-k", 2, "-o", plain).exit_code == 0
    assert said not in call("score", plain, table).stderr
    # A mixture that Python has saved says so too.
    GaussianMixture.load(model).save(tmp_path / "again.zarr")
    assert said in call("score", tmp_path / "again.zarr", table).stderr


def test_a_selection_takes_errors(table: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.zarr"
    done = call("select", table, "--errors", "e_length,e_wait", "-k", "1:3", "-o", model)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["components"] == 2
    alone = GaussianMixture(2, random_state=0, tol=1e-6).fit(X, errors=E)
    assert_allclose(json.loads(done.stdout)["log_likelihood"], alone.log_likelihood_, atol=0.2)


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        (
            "e_length",
            "--errors must name 2 columns of standard deviations, one for each feature (length, wait), or 4 of a",
        ),
        ("e_size,e_wait", "e_size"),
        ("there.npy", "there.npy"),
        ("e_wait,e_wait", "--errors must name each column once; got e_wait twice. Store the errors of each feature"),
    ],
)
def test_errors_that_are_not_there_are_told(errors: str, said: str, table: Path, tmp_path: Path) -> None:
    done = call("fit", table, "--columns", "length,wait", "--errors", errors, "-k", 2, "-o", tmp_path / "m.zarr")
    assert done.exit_code in (64, 65, 66), done.stderr
    assert said in done.stderr
