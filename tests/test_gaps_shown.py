"""Missing values on the command line, in model files and on workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from click.testing import CliRunner
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.utils import get_tags

from daskgmm import GaussianMixture
from daskgmm.cli.commands import gmm
from tests.fitting.test_gaps import groups


def run(*arguments: Any, code: int = 0) -> dict[str, Any]:
    found = CliRunner().invoke(gmm, [str(a) for a in arguments], catch_exceptions=False)
    assert found.exit_code == code, found.stderr
    return dict(json.loads(found.stdout)) if found.stdout else {"stderr": found.stderr}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    place = tmp_path / "rows.zarr"
    zarr.create_array(store=place, data=groups(), chunks=(100, 4))
    return place


def test_from_rows_with_gaps_to_filled_rows(stored: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.zarr"
    refused = run("fit", stored, "--components", 2, "--output", model, code=65)
    assert "--non-finite marginalize" in refused["stderr"]
    fitted = run("fit", stored, "--components", 2, "--output", model, "--non-finite", "marginalize")
    assert (fitted["dropped_rows"], fitted["rows"]) == (
        int(np.isnan(groups()).all(axis=1).sum()),
        600 - fitted["dropped_rows"],
    )
    python = GaussianMixture.load(model)
    assert python.non_finite == "marginalize"
    assert run("score", model, stored)["log_likelihood"] == pytest.approx(python.log_likelihood_, rel=1e-9)
    # (A row without any value has a prediction too.)
    assert run("predict", model, stored, "--what", "score", "--output", tmp_path / "s.zarr")["dropped_rows"] == 0
    assert_allclose(zarr.open_array(tmp_path / "s.zarr")[:], python.score_samples(groups()), rtol=1e-12)
    assert sum(run("predict", model, stored, "--output", tmp_path / "labels.zarr")["rows_by_component"]) == 600
    assert sorted(run("combine", model, stored, "--groups", 2)["groups"]) == [0, 1]
    assert run("report", model, "--data", stored, "--output", tmp_path / "r.html")["rows_drawn"] > 500
    refused = run("score", model, stored, "--non-finite", "error", code=65)
    assert "NaN or infinity" in refused["stderr"]
    done = run("impute", model, stored, "--output", tmp_path / "filled.zarr")
    assert (done["command"], done["status"]) == ("impute", "done")
    assert_array_equal(zarr.open_array(tmp_path / "filled.zarr")[:], python.impute(groups()))
    assert run("impute", model, stored, "--output", tmp_path / "filled.zarr")["skipped"]
    refused = run("impute", model, stored, "--non-finite", "drop", "--output", tmp_path / "f", code=64)
    assert "--non-finite must be marginalize; got drop" in refused["stderr"]


def test_filled_tables_have_the_names_of_their_columns(tmp_path: Path) -> None:
    table = pd.DataFrame(groups(), columns=list("abcd"))
    table.to_parquet(tmp_path / "rows.parquet")
    mixture = GaussianMixture(2, non_finite="marginalize", random_state=0).fit(table)
    mixture.save(tmp_path / "model.zarr")
    arguments = (tmp_path / "model.zarr", tmp_path / "rows.parquet", "--output", tmp_path / "filled.parquet")
    run("impute", *arguments)
    filled = pd.read_parquet(tmp_path / "filled.parquet")
    assert list(filled) == list("abcd")
    assert_array_equal(filled.to_numpy(), mixture.impute(table))


def test_scikit_learn_is_told() -> None:
    assert get_tags(GaussianMixture(non_finite="marginalize")).input_tags.allow_nan
    assert not get_tags(GaussianMixture()).input_tags.allow_nan
