"""The HTML page of a model: it says what the model holds, and nothing that comes from data is more than text in it."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from daskgmm import GaussianMixture
from daskgmm.cli.commands import gmm
from daskgmm.pictures.page import page
from daskgmm.stores.model_file import Model, load_model, save_model

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;"
ELEMENTS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "table", "tr", "th", "td", "meter",
    "span", "details", "summary", "img", "thead", "tbody", "script",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "name", "content", "http-equiv", "class", "value", "max", "title", "alt", "src", "type", "id",
}  # fmt: skip


class Read(HTMLParser):
    """What a browser would see: elements, attributes, sources of pictures, and text."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.sources: list[str] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._script: dict[str, str | None] | None = None
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self._script = dict(attrs) if tag == "script" else None
        self.attributes |= {name for name, _ in attrs}
        self.sources += [str(value) for name, value in attrs if name == "src"]

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.texts.append(data)
        else:
            self.scripts.append((self._script, data))


@pytest.fixture(scope="module")
def fitted() -> GaussianMixture:
    rows = np.random.default_rng(0).normal(size=(400, 3)) * [1, 2, 3]
    rows[:200] += 9
    return GaussianMixture(2, random_state=0).fit(rows)


def saved(mixture: GaussianMixture, place: Path, **changes: Any) -> Model:
    """The model file of a mixture, with another record; and the model in it."""
    mixture.save(place, overwrite=True)
    model = load_model(place)
    model = replace(model, record={**model.record, **changes})
    save_model(model, place, overwrite=True)
    return model


def run(*arguments: object) -> Result:
    return CliRunner().invoke(gmm, [str(a) for a in arguments], prog_name="daskgmm")


def test_it_says_what_the_model_holds(fitted: GaussianMixture, tmp_path: Path) -> None:
    read = Read(page(saved(fitted, tmp_path / "m.zarr", feature_names=["x", "y", "z"]), name="m.zarr"))
    for text in ("m.zarr", "x", "y", "z", f"{fitted.weights_.max():.4f}", "condition", "daskgmm"):
        assert text in read.texts, text
    for mean, covariance in zip(fitted.means_, fitted.covariances_, strict=True):
        assert f"{mean[2]:.1f} ± {covariance[2, 2] ** 0.5:.1f}" in read.texts
    assert f"Converged after {fitted.n_iter_} iterations." in read.texts
    assert len(read.sources) == 2, "the corner plot, and the likelihood by pass"
    assert all(picture.startswith("data:image/svg+xml;base64,") for picture in read.sources)
    assert any("Dempster, Laird and Rubin 1977" in text and "SQUAREM" in text for text in read.texts)


def test_its_json_is_the_model_to_the_last_bit(fitted: GaussianMixture, tmp_path: Path) -> None:
    model = saved(fitted, tmp_path / "m.zarr", feature_names=["x", "y", "</script>"], log_likelihood=float("nan"))
    ((attributes, data),) = Read(page(model, name="m.zarr")).scripts
    assert attributes == {"type": "application/json", "id": "model"}

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    held = json.loads(data, parse_constant=refuse)
    assert held["covariance_type"] == "full"
    for name in ("weights", "means", "covariances", "precisions_cholesky"):
        np.testing.assert_array_equal(np.array(held[name]), getattr(fitted, f"{name}_"))
    again = GaussianMixture.from_parameters(held["weights"], held["means"], held["covariances"])
    rows = np.random.default_rng(1).normal(size=(50, 3))
    np.testing.assert_array_equal(again.score_samples(rows), fitted.score_samples(rows))
    assert held["record"]["feature_names"] == ["x", "y", "</script>"]
    assert held["record"]["log_likelihood"] is None
    assert held["checksum"] == json.loads(run("inspect", tmp_path / "m.zarr").stdout)["checksum"]


def test_warnings_come_first(fitted: GaussianMixture, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "converged": False, "result": {"status": "max_iter", "rows": 90, "dropped_rows": 10},
        "remarks": ["The rows do not tell components 0 and 1 of 2 apart."],
    }  # fmt: skip
    content = page(saved(fitted, tmp_path / "m.zarr", **changes), name="m.zarr", words={"max_iter": "--max-iter"})
    for warning in (
        "Not converged. The fit ended at --max-iter without converging. Increase --max-iter",
        "10 of 100 rows were left out, since they hold a NaN or an infinity.",
        "The rows do not tell components 0 and 1 of 2 apart.",
    ):
        assert 0 < content.index(warning) < content.index('<p class="lead">')
    assert 'class="warning"' not in page(saved(fitted, tmp_path / "m.zarr"), name="m.zarr")


def test_many_features_come_in_tables_that_fit_paper(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 15))
    rows[:150, [14, 3]] += 20
    mixture = GaussianMixture(2, covariance_type="diag", random_state=0).fit(rows)
    content = page(saved(mixture, tmp_path / "m.zarr"), name="m.zarr")
    heads = [text for text in Read(content).texts if text.startswith("feature ")]
    assert len(heads) == 12
    assert set(heads[:2]) == {"feature 15", "feature 4"}, "what tells most comes first"
    assert "Shown: the 12 of 15 features in which components differ most." in content


def test_a_selection_is_in_it(tmp_path: Path, small_store: Path) -> None:
    output, place = tmp_path / "m.zarr", tmp_path / "report.html"
    run("select", small_store, "-k", "1:4", "--covariance", "full,diag", "-o", output, "--workers", 1)
    done = run("report", output, "-o", place)
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["output"], result["bytes"]) == (str(place), place.stat().st_size)
    read = Read(place.read_text())
    assert "Best by BIC: 3 components, diag." in read.texts
    assert len(read.sources) == 3, "the corner plot, the criterion, and the likelihood by pass"
    assert "3 components (diag covariances), 2 features, 14 free parameters, fitted to 3,000 rows." in read.texts
    assert str(small_store) in read.texts
    again = run("report", output, "-o", place)
    assert (again.exit_code, "must not exist yet" in again.stderr) == (73, True)
    assert run("report", output, "-o", place, "--force").exit_code == 0


@pytest.mark.parametrize("where", ["names", "input", "options", "provenance", "status", "history", "name"])
def test_everything_is_escaped(fitted: GaussianMixture, tmp_path: Path, where: str) -> None:
    """Whatever a record holds is text: no element, no attribute and no source that the page has not by itself."""
    history = [{**record, "what": HOSTILE, "status": HOSTILE} for record in fitted.history_]
    record: dict[str, dict[str, Any]] = {
        "names": {"feature_names": [HOSTILE] * 3},
        "input": {"input": {"X": {"location": HOSTILE, HOSTILE: HOSTILE, "shape": [HOSTILE]}}},
        "options": {"options": {HOSTILE: HOSTILE, "seed": HOSTILE}},
        "provenance": {"provenance": {"python": HOSTILE}},
        "status": {"result": {"status": HOSTILE, "rows": 5}, "converged": False},
        "history": {"history": history},
        "name": {},
    }
    model = saved(fitted, tmp_path / "m.zarr", **record[where])
    content = page(model, name=HOSTILE if where == "name" else "m.zarr")
    read = Read(content)
    assert read.elements <= ELEMENTS
    assert read.attributes <= ATTRIBUTES
    assert all(source.startswith("data:image/svg+xml;base64,") for source in read.sources)
    assert content.count("<script") == content.count("</script") == len(read.scripts) == 1, "the model as JSON"
    assert read.scripts[0][0]["type"] == "application/json", "which nothing runs"
    assert where == "status" or any(HOSTILE in text for text in read.texts), "and it is all there"
    assert "default-src 'none'" in content, "nothing would run even so"


RECORDS: list[dict[str, Any]] = [
    {"history": 3},
    {"history": [3]},
    {"history": [{"what": "em", "mean_log_likelihood": "x", "candidate": 0, "pass": []}]},
    {"result": [1]},
    {"result": {"rows": "many"}},
    {"selection": {"table": 3}},
    {"selection": {"table": [], "criterion": "bic", "stopped": {}, "collapsed": {}}},
    {"feature_names": 7},
    {"input": [3]},
    {"n_iter": {"a": 1}, "result": {"n_iter": []}},
    {"result": {"aic": 10**400}},
]


@pytest.mark.parametrize("changes", RECORDS, ids=str)
def test_a_record_of_another_shape_is_bad_data(
    fitted: GaussianMixture, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Whoever has written it: no command calls it a bug of its own, and none writes half a page."""
    saved(fitted, tmp_path / "m.zarr", **changes)
    done = run("report", tmp_path / "m.zarr", "-o", tmp_path / "report.html")
    assert (done.exit_code, "the model's record must be as daskgmm wrote it" in done.stderr) == (65, True)
    assert not (tmp_path / "report.html").exists()
    shown = run("inspect", tmp_path / "m.zarr", "--history")
    assert shown.exit_code in (0, 65), shown.stderr


def test_where_it_cannot_be_written(fitted: GaussianMixture, tmp_path: Path) -> None:
    saved(fitted, tmp_path / "m.zarr")
    for place, code, said in (
        (tmp_path / "none" / "r.html", 73, "must exist"),
        (tmp_path, 64, "must be a path of a file"),
        ("s3://bucket/r.html", 64, "must be a path of a file"),
        (tmp_path / "m.zarr" / "r.html", 64, "must lie outside of MODEL"),
    ):
        done = run("report", tmp_path / "m.zarr", "-o", place)
        assert (done.exit_code, said in done.stderr) == (code, True), done.stderr
    assert run("report", tmp_path / "none.zarr", "-o", tmp_path / "r.html").exit_code == 66
