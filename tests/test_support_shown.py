"""What a person sees of support: estimator, model file, `inspect`, report, results as JSON and tables of `select`."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from numpy.testing import assert_allclose, assert_array_equal

from daskgmm import GaussianMixture
from daskgmm.cli.commands import gmm
from daskgmm.errors import DataError, FitWarning
from daskgmm.pictures.page import page
from daskgmm.stores.model_file import load_model, save_model
from tests.kernels.test_support import expected


def call(*arguments: object) -> Result:
    done = CliRunner().invoke(gmm, [str(a) for a in arguments], prog_name="daskgmm")
    assert done.exit_code == 0, (done.stderr, done.exception)
    return done


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("weighted", [False, True])
def test_support_and_counts_are_of_all_rows(small_rows: np.ndarray, weighted: bool) -> None:
    w = np.random.default_rng(0).integers(0, 3, 3000).astype(float) if weighted else None
    gm = GaussianMixture(3, n_init=1, random_state=0, start_rows=300).fit(small_rows, sample_weight=w)
    nats, counts = expected(small_rows, gm._parameters(), w)
    assert_allclose(gm.support_, nats, rtol=1e-9)
    assert_allclose(gm.counts_, counts, rtol=1e-9)
    assert (gm.support_.dtype, gm.counts_.dtype) == (np.float64, np.float64)


@pytest.mark.parametrize("n_components", [1, 3])
def test_a_model_file_keeps_them_to_the_bit(small_rows: np.ndarray, n_components: int, tmp_path: Path) -> None:
    gm = GaussianMixture(n_components, n_init=1, random_state=0).fit(small_rows)
    gm.save(tmp_path / "m.zarr")
    loaded = GaussianMixture.load(tmp_path / "m.zarr")
    assert_array_equal(loaded.support_, gm.support_)
    assert_array_equal(loaded.counts_, gm.counts_)
    strict((tmp_path / "m.zarr" / "zarr.json").read_text())
    loaded.save(tmp_path / "again.zarr")
    assert_array_equal(GaussianMixture.load(tmp_path / "again.zarr").support_, gm.support_)


def test_files_of_an_earlier_version_have_none(small_rows: np.ndarray, tmp_path: Path) -> None:
    GaussianMixture(3, n_init=1, random_state=0).fit(small_rows).save(tmp_path / "m.zarr")
    model = load_model(tmp_path / "m.zarr")
    old = {k: v for k, v in model.record.items() if k not in ("support", "counts", "remarks")}
    save_model(replace(model, record=old), tmp_path / "old.zarr")
    loaded = GaussianMixture.load(tmp_path / "old.zarr")
    assert np.isnan(loaded.support_).all()
    assert loaded.counts_.shape == (3,)
    found = strict(call("inspect", tmp_path / "old.zarr").stdout)
    assert (found["support"], found["counts"], found["remarks"]) == (None, None, None)
    assert "<th>support, nats</th>" in page(load_model(tmp_path / "old.zarr"), name="m")
    save_model(replace(model, record={**model.record, "counts": [1.0]}), tmp_path / "bad.zarr")
    with pytest.raises(DataError, match="support and counts of 3 and 1 components"):
        GaussianMixture.load(tmp_path / "bad.zarr")


def test_the_command_line_shows_them(small_store: Path, small_rows: np.ndarray, tmp_path: Path) -> None:
    place = tmp_path / "m.zarr"
    found = strict(call("fit", small_store, "-k", 3, "-o", place).stdout)
    gm = GaussianMixture.load(place)
    assert found["support"] == gm.support_.tolist()
    assert found["counts"] == gm.counts_.tolist()
    assert sum(found["counts"]) == pytest.approx(3000, rel=1e-9)
    assert (found["unsupported"], found["remarks"]) == ([], [])
    shown = call("inspect", place)
    inspected = strict(shown.stdout)
    assert (inspected["support"], inspected["counts"]) == (found["support"], found["counts"])
    for text in (f"{gm.counts_[0]:,.0f}", f"{gm.support_[0]:,.1f}"):
        assert text in shown.stderr
        assert f"<td>{text}</td>" in page(load_model(place), name="m")
    one = strict(call("fit", small_store, "-k", 1, "-o", tmp_path / "one.zarr").stdout)
    assert (one["support"], one["counts"]) == ([None], [pytest.approx(3000)])
    assert "support/nats" in call("inspect", tmp_path / "one.zarr").stderr


def test_a_warning_is_one_line_in_words_that_were_typed(small_rows: np.ndarray, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "rows.zarr", data=1e-5 * small_rows)
    done = call("fit", tmp_path / "rows.zarr", "-k", 3, "-o", tmp_path / "m.zarr")
    (line,) = [line for line in done.stderr.splitlines() if line[10:].startswith("warning: ")]
    assert line[10:].startswith("warning: --reg-covar = 1e-06 is more than 1% of the variance of 3 of 3 components")
    assert "Take --reg-covar 1e-1" in line
    (remark,) = strict(done.stdout)["remarks"]
    assert "Take reg_covar 1e-1" in remark
    assert strict(call("inspect", tmp_path / "m.zarr").stdout)["remarks"] == [remark]
    assert f'<p class="warning">{remark}</p>' in page(load_model(tmp_path / "m.zarr"), name="m")
    with pytest.warns(FitWarning) as told:
        GaussianMixture(3, random_state=0).fit(1e-5 * small_rows)
    assert [str(w.message) for w in told] == [remark]


def test_a_selection_has_columns_of_them(small_store: Path, tmp_path: Path) -> None:
    for end in ("csv", "json"):
        done = call(
            "select", small_store, "-k", "1:3", "--restarts", 1, "-o", tmp_path / f"{end}.zarr", "--table",
            tmp_path / f"t.{end}",
        )  # fmt: skip
    table = strict((tmp_path / "t.json").read_text())
    assert [row["unsupported"] for row in table] == [0, 0, 0]
    assert table[0]["least_support"] is None
    assert table[2]["least_support"] == min(strict(done.stdout)["support"])
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["unsupported"] for row in rows] == ["0", "0", "0"]
    assert float(rows[2]["least_support"]) == table[2]["least_support"]
    heading = next(line for line in done.stderr.splitlines() if "mean log-lik." in line and "BIC" in line)
    assert "unsupported  least support" in heading
    assert f"{table[2]['least_support']:,.1f}" in done.stderr
