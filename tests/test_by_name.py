"""Columns by name: on the command line and in predictions; the weights may be one of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import daskgmm
from daskgmm import GaussianMixture, open_rows
from daskgmm.errors import DataError, InputMissingError, OptionError
from tests.test_cli import call

pq = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    group = rng.integers(0, 2, 4000)
    return {
        "id": np.arange(4000),
        "ra": rng.normal(5.0 * group, 1.0),
        "dec": rng.normal(-3.0 * group, 0.5),
        "w": rng.uniform(0.5, 2.0, 4000),
        "name": ["x"] * 4000,
    }


@pytest.fixture
def stars(tmp_path: Path, table: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table(table), "stars.parquet", row_group_size=1000)
    # The same in another order, with something else beside it.
    pq.write_table(pa.table({name: table[name] for name in ("w", "dec", "name", "ra")}), "turned.parquet")
    return tmp_path / "stars.parquet"


def rows_of(table: dict[str, Any]) -> np.ndarray:
    return np.stack([table["ra"], table["dec"]], axis=1)


def result(*arguments: object) -> dict[str, Any]:
    return dict(json.loads(call(*arguments).stdout))


def test_the_command_line_takes_columns_and_predicts_by_name(stars: Path, table: dict[str, Any]) -> None:
    fitted = result("fit", stars, "--columns", "ra, dec", "--weights", "w", "-k", 2, "-o", "m.zarr")
    by_hand = GaussianMixture(2, random_state=0).fit(rows_of(table), sample_weight=table["w"])
    assert fitted["weight"] == pytest.approx(table["w"].sum())
    assert fitted["mean_log_likelihood"] == pytest.approx(by_hand.score(rows_of(table), sample_weight=table["w"]), 1e-9)
    assert result("inspect", "m.zarr")["feature_names"] == ["ra", "dec"]
    for i, place in enumerate((stars, "turned.parquet")):
        result("predict", "m.zarr", place, "-o", f"labels{i}.zarr")
        labels = np.asarray(zarr.open_array(f"labels{i}.zarr", mode="r")[...])
        expected = GaussianMixture.load("m.zarr").predict(open_rows(stars, columns=["ra", "dec"]))
        np.testing.assert_array_equal(labels, np.asarray(expected))
    scored = result("score", "m.zarr", "turned.parquet", "--weights", "w")
    assert scored["mean_log_likelihood"] == pytest.approx(fitted["mean_log_likelihood"], 1e-12)
    refused = call("score", "m.zarr", stars, "--columns", "dec,ra", code=65).stderr
    assert "must be in the same order" in refused
    assert refused.strip().endswith("To select the same columns in the same order, leave --columns out.")
    assert call("score", "m.zarr", stars)
    assert "where none has that name" in call("score", "m.zarr", stars, "--columns", "ra,de", code=66).stderr


def test_the_column_of_the_weights_is_no_feature(stars: Path) -> None:
    found = result("fit", stars, "--columns", "!name,!id", "--weights", "w", "-k", 1, "-o", "m.zarr")
    assert found["features"] == 2
    selected = result("select", stars, "--columns", "ra,dec", "--weights", "w", "-k", "1:2", "-o", "s.zarr")
    assert selected["components"] == 2
    assert result("inspect", "s.zarr")["feature_names"] == ["ra", "dec"]
    message = call("fit", stars, "--columns", "ra,w", "--weights", "w", "-k", 1, "-o", "n.zarr", code=64).stderr
    assert "--columns must leave out the column of --weights; got 'w' in both" in message
    twice = result("fit", stars, "--columns", "ra", "--columns", "dec", "-k", 1, "-o", "twice.zarr")
    assert twice["features"] == 2
    Path("job.toml").write_text('columns = ["ra", "dec"]\n')
    assert result("fit", stars, "--config", "job.toml", "-k", 1, "-o", "config.zarr")["features"] == 2
    pq.write_table(pa.table({"a,b": [1.0, 2.0, 4.0], "c": [2.0, 1.0, 7.0]}), "commas.parquet")
    assert result("fit", "commas.parquet", "--columns", '"a,b", c', "-k", 1, "-o", "commas.zarr")["features"] == 2


def test_errors_are_as_many_columns_as_features(stars: Path, table: dict[str, Any]) -> None:
    asked = ("fit", stars, "-k", 1, "-o", "m.zarr", "--columns", "ra,dec", "--errors")
    message = call(*asked, "w", code=64).stderr
    assert (
        "error: --errors must name 2 columns of standard deviations, one for each feature (ra, dec), or 4 of a "
        in message
    )
    assert "got 1, w. Name one for each feature, in their order. Where it is that of all, python -c " in message
    (code,) = re.findall(r'python -c "(.*)" writes it for each, for --errors errors.npy\.$', message.strip())
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_array_equal(np.load("errors.npy"), np.stack([table["w"]] * 2, axis=1))
    assert result(*asked, "errors.npy")["features"] == 2
    many = call(*asked, "w,ra,dec,id,w2", "--force", code=66).stderr
    assert "--errors must name columns of INPUT; got 'w2'" in many
    two = call("fit", stars, "-k", 1, "-o", "n.zarr", "--columns", "ra", "--errors", "w,dec", code=64).stderr
    assert "--errors must name one column, of standard deviations (ra); got 2, w, dec. Leave the others out." in two
    three = call("fit", stars, "-k", 1, "-o", "n.zarr", "--columns", "ra,dec,id", "--errors", "w,dec", code=64).stderr
    assert "got 2, w, dec. Name one for each feature, in their order; those that are equal" in three


def test_no_option_takes_what_folders_are_named_by_for_a_column(stars: Path) -> None:
    Path("hive/w=1").mkdir(parents=True)
    pq.write_table(pq.read_table(stars, columns=["ra", "dec"]), "hive/w=1/a.parquet")
    said = call("fit", "hive", "-k", 1, "-o", "m.zarr").stderr
    assert said.count(f"Folders of {Path('hive').resolve()} are named by values, w=...: these are no columns.") == 1
    for command in (
        ("fit", "hive", "-k", 1, "-o", "n.zarr", "--columns", "ra,w"),
        ("fit", "hive", "-k", 1, "-o", "n.zarr", "--weights", "w"),
        ("fit", "hive", "-k", 1, "-o", "n.zarr", "--labels", "w"),
        ("fit", "hive", "-k", 1, "-o", "n.zarr", "--errors", "ra,w"),
        ("fit", "hive", "-k", 1, "-o", "n.zarr", "--columns", "r*", "--errors", "w"),
        ("predict", "m.zarr", "hive", "-o", "n.parquet", "--keep", "ra,w"),
    ):
        message = call(*command, code=65).stderr
        assert f"{command[-2]} must name columns that the files of INPUT have; got 'w', by which folders" in message
    typo = call("fit", "hive", "-k", 1, "-o", "n.zarr", "--columns", "d*", "--errors", "dex", code=66).stderr
    assert "--errors must name columns of INPUT; got 'dex' with" in typo
    typo = call("fit", "hive", "-k", 1, "-o", "n.zarr", "--errors", "ra,dex", code=66).stderr
    assert "--errors must name columns of INPUT; got 'dex' with" in typo
    assert "Did you mean 'dec'?" in typo


def test_weights_that_could_be_a_column_and_a_place(stars: Path, table: dict[str, Any]) -> None:
    zarr.create_array("w", data=np.ones(4000))
    asked = ("fit", stars, "--columns", "ra,dec", "-k", 1, "-o", "m.zarr", "--weights")
    message = call(*asked, "w", code=64).stderr
    assert "--weights must name a column of INPUT, or a place; got w, which is both. Type ./w for the place" in message
    assert result(*asked, "./w")["weight"] == 4000
    zarr.create_array("ones", data=np.ones(4000))
    assert result(*asked, "ones", "--force")["weight"] == 4000, "a place that is no column"
    neither = call(*asked, "v", "--force", code=66).stderr
    assert "--weights must name a column of INPUT, or a place; got 'v', which is neither" in neither
    zarr.create_array("X.zarr", data=rows_of(table))
    assert result("fit", "X.zarr", "-k", 1, "-o", "x.zarr", "--weights", "ones")["weight"] == 4000
    assert "INPUT has" not in call("fit", "X.zarr", "-k", 1, "-o", "y.zarr", "--weights", "v", code=66).stderr


def test_what_was_fitted_to_other_columns_is_not_gone_on_with(stars: Path) -> None:
    done = call("fit", stars, "--columns", "ra,dec", "-k", 1, "-o", "m.zarr")
    assert "rows of 2 features (ra, dec), float64" in done.stderr
    assert result("fit", stars, "--columns", "ra,dec", "-k", 1, "-o", "m.zarr")["skipped"]
    assert "columns of INPUT is" in call("fit", stars, "--columns", "dec,ra", "-k", 1, "-o", "m.zarr", code=73).stderr


def test_python_takes_the_fitted_columns_of_a_file(stars: Path, table: dict[str, Any]) -> None:
    gm = GaussianMixture(2, random_state=0).fit(open_rows(stars, columns=["ra", "dec"]))
    assert list(gm.feature_names_in_) == ["ra", "dec"]
    expected = gm.predict(open_rows(stars, columns=["ra", "dec"]))
    np.testing.assert_array_equal(np.asarray(gm.predict("turned.parquet")), np.asarray(expected))
    assert gm.score("turned.parquet", sample_weight=open_rows(stars, columns="w")) < 0
    with pytest.raises(DataError, match="must be in the same order"):
        gm.predict(open_rows(stars, columns=["dec", "ra"]))
    pq.write_table(pa.table({"ra": table["ra"]}), "less.parquet")
    with pytest.raises(InputMissingError, match=r"got no 'dec' with .*less\.parquet"):
        gm.predict("less.parquet")
    # An array has no names: scikit-learn's warning, and the rows as they are.
    zarr.create_array("X.zarr", data=rows_of(table))
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        np.testing.assert_array_equal(np.asarray(gm.predict("X.zarr")), np.asarray(expected))


def test_a_group_is_predicted_by_name(tmp_path: Path, table: dict[str, Any]) -> None:
    group = zarr.create_group(tmp_path / "g.zarr")
    for name in ("w", "dec", "ra"):
        group.create_array(name, data=table[name])
    call("fit", tmp_path / "g.zarr", "--columns", "ra,dec", "--weights", "w", "-k", 2, "-o", tmp_path / "m.zarr")
    # Labels may join the group, where the arrays of the rows are not.
    call("predict", tmp_path / "m.zarr", tmp_path / "g.zarr", "-o", tmp_path / "g.zarr" / "label")
    assert zarr.open_group(tmp_path / "g.zarr", mode="r")["label"].shape == (4000,)
    message = call(
        "predict", tmp_path / "m.zarr", tmp_path / "g.zarr", "-o", tmp_path / "g.zarr" / "ra", code=64
    ).stderr
    assert "--output must lie outside of INPUT" in message
    gm = GaussianMixture.load(tmp_path / "m.zarr")
    assert gm.score(tmp_path / "g.zarr") == pytest.approx(gm.score(open_rows(group, columns=["ra", "dec"])), 1e-12)


def test_labels_of_a_grid_have_its_shape_and_the_log_says_where_they_cannot(
    tmp_path: Path, table: dict[str, Any]
) -> None:
    group = zarr.create_group(tmp_path / "g.zarr")
    for name in ("dec", "ra"):
        group.create_array(name, data=table[name].reshape(40, 100), chunks=(40, 25))
    call("fit", tmp_path / "g.zarr", "--columns", "ra,dec", "-k", 2, "-o", tmp_path / "m.zarr")
    gm = GaussianMixture.load(tmp_path / "m.zarr").to_sklearn()
    del gm.feature_names_in_
    expected = gm.predict(rows_of(table)).reshape(40, 100)
    call("predict", tmp_path / "m.zarr", tmp_path / "g.zarr", "-o", tmp_path / "labels.zarr")
    labels: Any = zarr.open_group(tmp_path / "labels.zarr", mode="r")["label"]
    np.testing.assert_array_equal(labels[...], expected)
    assert labels.chunks == (40, 25)
    done = call("predict", tmp_path / "m.zarr", tmp_path / "g.zarr", "-o", tmp_path / "labels.parquet")
    assert "points of a grid of shape (40, 100), chunk by chunk, and so are those of the table" in done.stderr
    flat = open_rows(tmp_path / "labels.parquet").reader().read(0, 4000)[:, 0]
    assert not np.array_equal(flat, expected.reshape(-1)), "in another order"
    found = open_rows(tmp_path / "g.zarr", columns=["ra", "dec"]).to_grid(flat)
    np.testing.assert_array_equal(found, expected)


def test_columns_of_what_has_none(tmp_path: Path) -> None:
    for data in (np.ones((3, 2)), [[1.0, 2.0]]):
        with pytest.raises(OptionError, match="columns must be left out where X has no columns with names"):
            open_rows(data, columns=["a"])
        with pytest.raises(OptionError, match=r"columns must be names of columns; got \[0, 1\]"):
            open_rows(data, columns=[0, 1])  # type: ignore[list-item]
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"], "c": [3, 4]})
    source = daskgmm.open_rows(frame, columns=["c", "a"])
    assert source.column_labels == ["c", "a"]
    np.testing.assert_array_equal(source.reader().read(0, 2), [[3, 1], [4, 2]])
    with pytest.raises(InputMissingError, match="got 'd' with a DataFrame, where none has that name"):
        open_rows(frame, columns="d")
    with pytest.raises(OptionError, match="columns must be left out where X has no columns with names; got a Series"):
        open_rows(frame["a"], columns="a")


def test_dropped_rows_are_told_by_feature(tmp_path: Path, table: dict[str, Any]) -> None:
    """In the log, the result, what inspect and a report say, and the attributes of a model that is loaded."""
    spoilt = {name: np.array(values) for name, values in table.items()}
    spoilt["ra"][[3, 5]], spoilt["dec"][[5, 6, 1000, 3999]] = np.nan, [np.inf, -np.inf, np.nan, np.nan]
    group = zarr.create_group(tmp_path / "g.zarr")
    for name in ("dec", "ra"):
        group.create_array(name, data=spoilt[name], chunks=(1500,))
    fit = ("fit", tmp_path / "g.zarr", "--columns", "ra,dec", "-k", 2, "-o", tmp_path / "m.zarr")
    assert "5 rows with NaN or infinity in" in (said := call(*fit, code=65).stderr)
    assert "(dec in 4, ra in 2), the first in partition 0, row 3. Drop them with --non-finite drop" in said
    done = call(*fit, "--non-finite", "drop")
    assert "5 of 4,000 rows are left out, for a NaN or an infinity: dec in 4, ra in 2." in done.stderr
    result = json.loads(done.stdout)
    assert (result["dropped_rows"], result["dropped_rows_by_feature"]) == (5, [2, 4])
    shown = call("inspect", tmp_path / "m.zarr")
    assert "5 rows were left out, for a NaN or an infinity: dec in 4, ra in 2" in shown.stderr
    assert json.loads(shown.stdout)["n_dropped_by_feature"] == [2, 4]
    call("report", tmp_path / "m.zarr", "-o", tmp_path / "m.html")
    assert "dec in 4, ra in 2" in (tmp_path / "m.html").read_text()
    gm = GaussianMixture.load(tmp_path / "m.zarr")
    gm.save(tmp_path / "again.zarr")
    for path in ("m.zarr", "again.zarr"):
        assert GaussianMixture.load(tmp_path / path).n_dropped_by_feature_ == [2, 4]
    same = GaussianMixture(2, random_state=0, non_finite="drop").fit(open_rows(group, columns=["ra", "dec"]))
    assert (same.n_dropped_, same.n_dropped_by_feature_) == (5, [2, 4])


# -- what is said where names are not as they are thought to be ------------------------------------------------------
def test_a_file_without_the_columns_of_the_model_says_whose_they_are(stars: Path) -> None:
    result("fit", stars, "--columns", "ra,dec", "-k", 1, "-o", "m.zarr")
    pq.write_table(pa.table({"RA": [1.0, 2.0], "dec": [2.0, 1.0]}), "other.parquet")
    said = call("predict", "m.zarr", "other.parquet", "-o", "l.zarr", code=66).stderr
    assert "INPUT must have the columns that the mixture was fitted to; got no 'ra' with" in said
    assert "Did you mean 'RA'? Rename a column that has another name there" in said
    call("predict", "m.zarr", "other.parquet", "--columns", "RA,dec", "-o", "l.zarr", code=65)  # (other names)


def test_a_weighted_model_is_told_where_rows_have_no_weights(stars: Path) -> None:
    result("fit", stars, "--columns", "ra,dec", "--weights", "w", "-k", 1, "-o", "m.zarr")
    note = "MODEL was fitted to rows with weights; these have none: --weights gives them."
    assert note in call("score", "m.zarr", stars).stderr
    assert note not in call("score", "m.zarr", stars, "--weights", "w").stderr
    call("report", "m.zarr", "-o", "r.html")
    assert re.search(r"fitted to 4,000 rows with weights, of [\d,.]+ in all", Path("r.html").read_text())


def test_a_page_is_html(stars: Path) -> None:
    result("fit", stars, "--columns", "ra", "-k", 1, "-o", "m.zarr")
    said = call("report", "m.zarr", "-o", "r.pdf", code=64).stderr
    assert "--output must be a path of a file that ends with .html or .htm; got r.pdf" in said


def test_weights_by_the_name_of_a_column_in_python(stars: Path) -> None:
    with pytest.raises(InputMissingError, match=r"daskgmm.open_rows\(X, columns=\['w'\]\) of a file"):
        GaussianMixture(1).fit(open_rows(stars, columns=["ra"]), sample_weight="w")
    fitted = GaussianMixture(1).fit(open_rows(stars, columns=["ra"]), sample_weight=open_rows(stars, columns=["w"]))
    loaded = result("fit", stars, "--columns", "ra", "--weights", "w", "-k", 1, "-o", "m.zarr")
    assert fitted.log_likelihood_ == pytest.approx(loaded["log_likelihood"], rel=1e-12)


def test_an_option_of_a_file_that_is_nearly_one(stars: Path) -> None:
    Path("job.toml").write_text('nonfinite = "drop"\n')
    said = call("fit", stars, "-k", 1, "-o", "m.zarr", "--config", "job.toml", code=64).stderr
    assert "Did you mean non_finite" in said


def test_a_group_of_grids_names_what_can_be_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ocean = xr.Dataset(
        {name: (("t", "y", "x"), np.random.default_rng(i).normal(size=(3, 4, 5))) for i, name in enumerate("ab")},
        coords={"lat": (("y", "x"), np.ones((4, 5)))},
    )
    ocean.to_zarr("g.zarr", consolidated=False)
    ocean.to_netcdf("g.nc", engine="h5netcdf")
    for name in ("g.zarr", "g.nc"):
        said = call("fit", name, "-k", 1, "-o", "m.zarr", code=65).stderr
        assert "Name arrays by --columns" in said or "Name data sets by --columns" in said
        assert "lat'" not in said.partition("--columns")[2]
        assert result("fit", name, "--columns", "a,b", "-k", 1, "-o", f"{name}.model")["rows"] == 60
    weights = xr.DataArray(np.ones((3, 4, 5)), dims=("t", "y", "x"))
    ocean.assign(w=weights).drop_vars("lat").to_netcdf("w.nc", engine="h5netcdf")
    assert result("fit", "w.nc", "--columns", "a,b", "--weights", "w", "-k", 1, "-o", "w.model")["features"] == 2
