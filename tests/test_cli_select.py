"""`daskgmm select`, the options of a start, and the history of a model, as a person types them."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from daskgmm import GaussianMixture, select
from daskgmm.stores.model_file import load_model
from tests.test_cli import call, run, strict

#: Keys of the result that are those of a row of the table by other names.
SAME = {"components": "n_components", "covariance": "covariance_type"}


def chosen(result: dict[str, Any]) -> dict[str, Any]:
    (row,) = [row for row in result["table"] if row["chosen"]]
    return row


def test_select_writes_the_best_model_table_and_plot(tmp_path: Path, small_store: Path, small_rows: np.ndarray) -> None:
    model, table, plot = tmp_path / "model.zarr", tmp_path / "table.csv", tmp_path / "bic.png"
    arguments = ("select", small_store, "--components", "1:12", "--covariance", "full,tied", "--output", model)
    done = run(*arguments, "--seed", 1, "--restarts", 2, "--table", table, "--plot", plot)
    result = strict(done.stdout)
    assert (result["command"], result["status"], result["criterion"]) == ("select", "converged", "bic")
    assert result["components"] == 3
    assert result["rows"] == 3000
    assert result["skipped"] is False
    assert (result["output"], result["table_output"], result["plot_output"]) == (str(model), str(table), str(plot))
    row = chosen(result)
    for name in ("components", "covariance", "bic", "aic", "icl", "log_likelihood", "mean_log_likelihood", "n_iter"):
        assert result[name] == row[SAME.get(name, name)], name
    assert result["bic"] == min(entry["bic"] for entry in result["table"])
    assert set(result["stopped"]) == {"full", "tied"}, "more than three is clearly worse"
    assert result["bytes_read"] == small_rows.nbytes, "read once for all models, and kept"
    assert result["peak_worker_bytes"] <= result["stated_peak_bytes"]

    # What is said: each pass and start, then the table.
    text = done.stderr
    searched = [entry for entry in result["table"] if entry["n_components"] > 1]
    assert len(re.findall(r"^\S+  pass +1  start ", text, re.MULTILINE)) == len(searched)
    assert len(re.findall(r"^\S+  pass +\d+  (?!start)", text, re.MULTILINE)) == result["n_passes"]
    assert f"Best by BIC: 3 components, {result['covariance']}." in text
    assert len([line for line in text.splitlines() if line.endswith("<- best")]) == 1
    assert f"full with more than {result['stopped']['full']} components" in text

    # The same as in Python, and as that model fitted alone.
    python = select(zarr.open_array(small_store), n_components=range(1, 13), covariance_type=["full", "tied"],
                    random_state=1, n_init=2)  # fmt: skip
    assert result["table"] == python.table
    loaded = GaussianMixture.load(model)
    alone = GaussianMixture(3, covariance_type=result["covariance"], random_state=1, n_init=2).fit(
        zarr.open_array(small_store)
    )
    np.testing.assert_array_equal(loaded.means_, alone.means_)
    np.testing.assert_array_equal(loaded.covariances_, alone.covariances_)
    assert loaded.get_params() == alone.get_params()
    assert result["bic"] == pytest.approx(loaded.to_sklearn().bic(small_rows), rel=1e-10)

    # The files.
    assert plot.read_bytes()[:4] == b"\x89PNG"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [list(entry) for entry in rows] == [list(row)] * len(result["table"])
    assert [float(entry["bic"]) for entry in rows] == [entry["bic"] for entry in result["table"]]
    record = load_model(model).record
    assert record["selection"]["criterion"] == "bic"
    assert record["selection"]["table"] == result["table"]
    assert record["selection"]["stopped"] == result["stopped"]
    assert sorted(os.listdir(tmp_path)) == ["bic.png", "model.zarr", "rows.zarr", "table.csv"]

    # A model of select serves the other commands.
    call("predict", model, small_store, "-o", tmp_path / "labels.zarr")
    inspected = call("inspect", model)
    assert strict(inspected.stdout)["selection"]["table"] == result["table"]
    assert "Best by BIC: 3 components" in inspected.stderr


def test_the_same_again_does_nothing_and_another_is_refused(tmp_path: Path, small_store: Path) -> None:
    model = tmp_path / "m.zarr"
    arguments = ("select", small_store, "-k", "2,3", "-o", model, "--restarts", 2)
    first = strict(call(*arguments).stdout)
    before = (model / "zarr.json").stat().st_mtime_ns
    again = call(*arguments, "--table", tmp_path / "t.json", "--plot", tmp_path / "p.svg")
    assert strict(again.stdout) == {
        **first, "skipped": True, "table_output": str(tmp_path / "t.json"), "plot_output": str(tmp_path / "p.svg"),
    }  # fmt: skip
    assert "is complete, from the same input and options: nothing to do" in again.stderr
    assert "Best by BIC: 3 components" in again.stderr
    assert (model / "zarr.json").stat().st_mtime_ns == before
    # Table and plot need no row, and are written where they were not.
    assert json.loads((tmp_path / "t.json").read_text()) == first["table"]
    assert b"<svg" in (tmp_path / "p.svg").read_bytes()

    for options, difference in (
        (("-k", "1:3"), r"--components is \[2, 3\] there, \[1, 2, 3\] now"),
        (("--covariance", "diag"), r'--covariance is \["full"\] there, \["diag"\] now'),
        (("--criterion", "held-out"), r"--criterion is bic there, held-out now; --folds is 0 there, 5 now"),
        (("--folds", "3"), r"where --folds is 0 there, 3 now\."),
        (("--all",), r"where --all is false there, true now\."),
        (("--tol", "0.1"), r"where --tol is 0\.001 there, 0\.1 now\."),
        (("--acceleration", "none"), r"where --acceleration is squarem there, none now\."),
        (("--no-escape",), r"where escape \(--no-escape\) is true there, false now\."),
        (("--start-rows", 50), r"where --start-rows is not given there, 50 now\."),
    ):
        assert re.search(difference, call(*arguments, *options, code=73).stderr)
    other = tmp_path / "other.zarr"
    zarr.create_array(other, data=np.random.default_rng(0).normal(size=(100, 2)))
    assert "of INPUT is" in call("select", other, "-k", "2,3", "-o", model, code=73).stderr
    as_fit = call("fit", small_store, "-k", 3, "-o", model, code=73)
    assert "a model that daskgmm select wrote. Use --force to replace it" in as_fit.stderr
    call("fit", small_store, "-k", 3, "-o", model, "--force")
    as_select = call(*arguments, code=73)
    assert "a model that daskgmm fit wrote. Use --force" in as_select.stderr
    assert strict(call(*arguments, "--force").stdout)["table"] == first["table"]


def test_all_fits_them_all_and_chooses_the_same(tmp_path: Path, small_store: Path) -> None:
    early, whole = (
        strict(
            call(
                "select", small_store, "-k", "1:8", "-o", tmp_path / f"{len(more)}.zarr", "--restarts", 2, *more
            ).stdout
        )
        for more in ((), ("--all",))
    )
    assert (len(whole["table"]), whole["stopped"]) == (8, {})
    assert len(early["table"]) == early["stopped"]["full"] < 8
    assert chosen(early) == chosen(whole)


def test_held_out_rows_in_five_folds(tmp_path: Path, small_store: Path) -> None:
    done = call(
        "select", small_store, "-k", "2,4,3", "--criterion", "held-out", "-o", tmp_path / "m.zarr", "--restarts", 2
    )
    result = strict(done.stdout)
    assert [row["n_components"] for row in result["table"]] == [2, 3, 4]
    assert result["components"] == 3
    assert result["held_out"] == max(row["held_out"] for row in result["table"])
    assert result["held_out"] < result["mean_log_likelihood"]
    assert "Best by held-out log-lik.: 3 components, full." in done.stderr


def test_weights_on_local_processes(tmp_path: Path) -> None:
    """Three partitions, two workers, weights: rows of weight 0 are a group that must not be found."""
    random = np.random.default_rng(4)
    label = random.integers(3, size=600_000)
    rows = 9.0 * label[:, np.newaxis] + random.standard_normal((600_000, 32))
    zarr.create_array(tmp_path / "X.zarr", data=rows, chunks=(60_000, 32), compressors=None)
    zarr.create_array(tmp_path / "w.zarr", data=(label != 1).astype("f4"), chunks=(60_000,))
    options = ("--covariance", "diag", "--weights", tmp_path / "w.zarr", "--workers", 2, "--memory-limit", "500MiB")
    done = run(
        "select",
        tmp_path / "X.zarr",
        "-k",
        "1:3",
        "-o",
        tmp_path / "m.zarr",
        *options,
        "--start-rows",
        4000,
        "--restarts",
        2,
    )
    result = strict(done.stdout)
    assert result["workers"] == 2
    assert result["partitions"] > 1
    assert result["weight"] == np.sum(label != 1)
    assert result["components"] == 2
    means = GaussianMixture.load(tmp_path / "m.zarr").means_
    np.testing.assert_allclose(np.sort(means[:, 0]), [0.0, 18.0], atol=0.1)
    assert result["peak_worker_bytes"] < result["stated_peak_bytes"] <= 500 << 20


def test_not_converged_is_exit_code_3(tmp_path: Path, small_store: Path) -> None:
    arguments = ("select", small_store, "-k", 3, "-o", tmp_path / "m.zarr", "--max-iter", 1, "--tol", 1e-12)
    done = call(*arguments, code=3)
    assert strict(done.stdout)["converged"] is False
    assert "warning: The fit ended at --max-iter without converging. Increase --max-iter or --tol" in done.stderr
    assert strict(call(*arguments, code=3).stdout)["skipped"] is True


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", [3]), ("1:4", [1, 2, 3, 4]), ("2:9:3", [2, 5, 8]), ("8,2,4,2", [2, 4, 8]), ("1:3,10", [1, 2, 3, 10])],
)
def test_numbers_of_components_are_written_as_ranges_or_lists(text: str, expected: list[int]) -> None:
    from daskgmm.cli.fit_options import Numbers

    assert Numbers().convert(text, None, None) == expected


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-k", "3:1"), 64, r"'3:1' are no numbers of components\. Write for example 1:20, 2,4,8 or 2:20:2\. See: "),
        (("-k", "0:3"), 64, r"'0:3' are no numbers of components"),
        (("-k", "1:9:0"), 64, r"'1:9:0' are no numbers of components"),
        (("-k", "1:2:3:4"), 64, r"'1:2:3:4' are no numbers of components"),
        (("-k", "two"), 64, r"'two' are no numbers of components"),
        (("--covariance", "full,round"), 64, r"'round' is not one of full, .*VVV, lowrank\. Write for"),
        (("--criterion", "dic"), 64, r"'dic' is not one of"),
        (("--criterion", "held-out", "--folds", 0), 64, r"--folds must be at least 2 for .* held-out; got 0"),
        (("--folds", 1), 64, r"--folds must be 0 or at least 2; got 1"),
        (("--tol", "nan"), 64, r"--tol must be a finite number .* got nan\."),
        (("--start-rows", 2), 64, r"--start-rows must be an integer of at least --components = 3; got 2"),
        (("--table", "t.txt"), 64, r"--table must be a path that ends with \.csv or \.json; got t\.txt"),
        (("--plot", "s3://a/p.png"), 64, r"--plot must be a path that ends with \.png or \.pdf or \.svg; got s3:"),
        (("--table", "rows.zarr/t.csv"), 64, r"--table must lie outside of INPUT; got rows\.zarr/t\.csv"),
        (("--table", "m.zarr/t.csv"), 64, r"--table must lie outside of --output; got m\.zarr/t\.csv"),
        (("--plot", "no/p.png"), 73, r"The folder of --plot must exist; got .*/no"),
        (("--table", "there.csv"), 73, r"--table must not exist yet; got there\.csv, which does\. Use --force"),
        (("-k", "1:3001"), 65, r"at least --components = 3001 rows; got 3000"),
    ],
)  # fmt: skip
def test_errors_come_before_anything_is_read(
    tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], code: int,
    message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("there.csv").write_text("precious")
    before = sorted(os.listdir())
    done = call("select", "rows.zarr", "-o", "m.zarr", *arguments, code=code)
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(message, last)
    assert "pass " not in done.stderr
    assert sorted(os.listdir()) == before
    assert Path("there.csv").read_text() == "precious"


def test_a_plot_without_matplotlib_is_refused_at_once(
    tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = call("select", small_store, "-k", 1, "-o", tmp_path / "m.zarr", "--plot", tmp_path / "p.png", code=64)
    assert "--plot must have matplotlib; got" in done.stderr
    assert 'pip install "daskgmm[plot]"' in done.stderr
    assert "pass " not in done.stderr


# -- options of a fit, and its history -------------------------------------------------------------------------------
def test_a_fit_takes_the_options_of_start_and_acceleration(tmp_path: Path, small_store: Path) -> None:
    model = tmp_path / "m.zarr"
    options = ("--acceleration", "none", "--no-escape", "--start-rows", 500, "--restarts", 2)
    call("fit", small_store, "-k", 3, "-o", model, *options)
    loaded = GaussianMixture.load(model)
    assert (loaded.acceleration, loaded.escape, loaded.start_rows, loaded.n_init) == (None, False, 500, 2)
    expected = GaussianMixture(3, random_state=0, n_init=2, acceleration=None, escape=False, start_rows=500)
    np.testing.assert_array_equal(loaded.means_, expected.fit(zarr.open_array(small_store)).means_)
    started = [record["rows"] for record in loaded.history_ if record["what"] == "start"]
    assert 0 < max(started) < 700


def test_history_is_shown_on_request(tmp_path: Path, small_store: Path) -> None:
    model = tmp_path / "m.zarr"
    call("fit", small_store, "-k", 3, "-o", model)
    plain, full = call("inspect", model), call("inspect", model, "--history")
    assert "history" not in strict(plain.stdout)
    history = strict(full.stdout)["history"]
    assert history == GaussianMixture.load(model).history_
    assert {"step", "accepted", "rows"} <= set(history[0])
    lines = full.stderr.splitlines()[len(plain.stderr.splitlines()) :]
    assert lines[0].split() == list(history[0])
    assert len(lines) == 1 + len(history)
    for line, record in zip(lines[1:], history, strict=True):
        assert line.split()[:2] == [str(record["pass"]), record["what"]]
        if record["mean_log_likelihood"] is not None:
            assert f"{record['mean_log_likelihood']:.8g}" in line
    assert lines[-1].split()[1] == "closing"


def test_the_memory_that_a_selection_asks_for_is_enough(tmp_path: Path) -> None:
    store = tmp_path / "X.zarr"
    zarr.create_array(store, data=np.random.default_rng(0).normal(size=(60_000, 4)), chunks=(20_000, 4))
    arguments = ("select", store, "-k", "1:2", "--workers", 1, "--output", tmp_path / "m.zarr", "--memory-limit")
    told = run(*arguments, "300MiB", code=65).stderr
    (asked,) = re.findall(r"Give more memory \(--memory-limit (\d+MiB)\)", told)
    assert strict(run(*arguments, asked).stdout)["rows"] == 60_000
