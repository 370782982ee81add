"""The commands `plot` and `report` over rows: what they write, and what they refuse before any row is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from daskgmm import GaussianMixture
from daskgmm.cli.commands import gmm

BEGINS = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xm"}


def call(*arguments: object, code: int = 0) -> tuple[dict[str, Any], str]:
    done = CliRunner().invoke(gmm, [str(a) for a in arguments], prog_name="daskgmm")
    assert done.exit_code == code, done.stderr
    return (json.loads(done.stdout) if done.stdout else {}), done.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model") / "m.zarr"
    rows = np.random.default_rng(0).normal(size=(300, 2))
    rows[:100] += 8
    GaussianMixture(2, random_state=0).fit(rows).save(place)
    return place


@pytest.mark.parametrize("kind", ["corner", "weights", "history"])
@pytest.mark.parametrize("end", ["png", "pdf", "svg"])
def test_plot_writes_each_kind(model: Path, tmp_path: Path, kind: str, end: str) -> None:
    output = tmp_path / f"x.{end}"
    result, _ = call("plot", model, "--kind", kind, "-o", output)
    assert output.read_bytes()[:4] == BEGINS[end]
    assert (result["output"], result["bytes"], result["rows_drawn"]) == (str(output), output.stat().st_size, 0)
    assert "must not exist yet" in call("plot", model, "--kind", kind, "-o", output, code=73)[1]
    call("plot", model, "--kind", kind, "-o", output, "--force")


def test_plot_and_report_take_a_sample_of_rows(model: Path, small_store: Path, tmp_path: Path) -> None:
    result, said = call("plot", model, "--data", small_store, "--only", "2,feature 1", "-o", tmp_path / "x.svg")
    assert result["rows_drawn"] == 3000
    assert "3,000 rows of 2 features" in said
    svg = (tmp_path / "x.svg").read_text()
    assert svg.index("<!-- feature 2 -->") < svg.index("<!-- feature 1 -->"), "in the order that they are named in"
    result, _ = call("report", model, "--data", small_store, "-o", tmp_path / "r.html")
    assert result["rows_drawn"] == 3000
    assert "Grey: a sample of 3,000 rows." in (tmp_path / "r.html").read_text()


def test_the_criterion_of_a_selection_is_drawn(small_store: Path, tmp_path: Path) -> None:
    output = tmp_path / "s.zarr"
    call("select", small_store, "-k", "2,3", "-o", output, "--restarts", 2, "--plot", tmp_path / "a.svg")
    call("plot", output, "--kind", "criterion", "-o", tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-o", "x.gif"), 64, r"--output must be a path of a file that ends with .png or .pdf or .svg; got x.gif"),
        (("-o", "s3://a/x.png"), 64, "--output must be a path of a file"),
        (("-o", "none/x.png"), 73, "The folder of --output must exist"),
        (("-o", "x.png", "--columns", "a"), 64, "--columns must come with --data; got no --data."),
        (("-o", "x.png", "--non-finite", "drop"), 64, "--non-finite must come with --data; got no --data."),
        (("-o", "x.png", "--only", "3"), 64, "of the mixture (feature 1, feature 2); got '3'."),
        (("-o", "x.png", "--kind", "weights", "--data", "rows.zarr"), 64, "--kind must be corner where rows or"),
        (("-o", "x.png", "--kind", "criterion"), 64, "got criterion, of a model without a selection. "),
        (("-o", "x.png", "--data", "none.zarr"), 66, "none.zarr"),
        (("-o", "x.png", "--data", "wide.zarr"), 65, "INPUT must have the 2 features that the mixture was fitted to"),
        (("-o", "x.png", "--data", "nan.zarr"), 65, "Drop them with --non-finite drop"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    zarr.create_array("rows.zarr", data=np.zeros((5, 2)))
    zarr.create_array("wide.zarr", data=np.zeros((5, 3)))
    zarr.create_array("nan.zarr", data=np.array([[np.nan, 1.0], [2.0, 3.0]]))
    assert message in call("plot", model, *arguments, code=code)[1]
    assert not Path("x.png").exists()


def test_rows_that_are_dropped_are_not_drawn(model: Path, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "nan.zarr", data=np.array([[np.nan, 1.0], [2.0, 3.0]]))
    found, _ = call("plot", model, "--data", tmp_path / "nan.zarr", "--non-finite", "drop", "-o", tmp_path / "x.png")
    assert found["rows_drawn"] == 1
