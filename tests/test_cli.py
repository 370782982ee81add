"""The command line: results, exit codes and messages; as real processes where processes, signals or streams matter."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from distributed import LocalCluster
from distributed.client import FutureCancelledError

from daskgmm import GaussianMixture
from daskgmm.cli import jobs
from daskgmm.cli.commands import gmm
from daskgmm.cli.group import outcome
from daskgmm.cli.outputs import differences
from daskgmm.cli.terminal import strict_json
from daskgmm.errors import ClusterError, DataError, OutputError
from daskgmm.passes.task import Partial
from daskgmm.places import lost
from daskgmm.places.machines import peak_bytes
from daskgmm.places.signals import Interrupted, interrupts
from daskgmm.stores.checkpoint import Checkpoint
from daskgmm.stores.targets import ATTRIBUTE
from tests.clusters import LOCAL, OwnCluster, free_port
from tests.groups import two_groups

# Without a dashboard its port is still served, by default 8787, which another cluster may have.
COMMANDS = (
    "fit", "select", "plan", "adapt", "predict", "impute", "denoise", "regress", "status", "score", "sample",
    "inspect", "plot", "report", "demo", "update", "marginal", "condition", "reduce", "combine",
    "survey", "start", "stats", "merge", "mstep",
)  # fmt: skip


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "daskgmm", *map(str, arguments)]


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """What a process of its own did, which must end with this code."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, done.stderr
    return done


def call(*arguments: object, code: int = 0) -> Result:
    """The same in this process."""
    done = CliRunner().invoke(gmm, [str(a) for a in arguments], prog_name="daskgmm")
    assert done.exit_code == code, (done.stderr, done.exception)
    return done


def strict(text: str) -> dict[str, Any]:
    """The one JSON object that the text is, without the numbers that JSON does not have."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(text, parse_constant=refuse)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def model(tmp_path: Path, small_store: Path) -> Path:
    path = tmp_path / "model.zarr"
    call("fit", small_store, "-k", 3, "-o", path)
    return path


@pytest.fixture(scope="module")
def large_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of 146 MiB in four partitions."""
    return two_groups(tmp_path_factory.mktemp("large") / "rows.zarr", 600_000)


# -- fit ---------------------------------------------------------------------------------------------------------


def test_fit_writes_a_model_and_one_json_object(tmp_path: Path, small_store: Path, small_rows: np.ndarray) -> None:
    model = tmp_path / "model.zarr"
    done = run("fit", small_store, "--components", 3, "--output", model, "--seed", 1)
    result = strict(done.stdout)
    assert result["status"] == "converged"
    assert result["converged"] is True
    assert result["rows"] == 3000
    assert result["dropped_rows"] == 0
    assert result["n_passes"] >= result["n_iter"] + 2, "a leap that is undone is a pass, and no iteration"
    assert result["bytes_read"] == result["cached_bytes"] == small_rows.nbytes, "read once, and kept"
    assert result["output"] == str(model)
    assert result["skipped"] is False
    assert result["peak_worker_bytes"] <= result["stated_peak_bytes"]

    lines = done.stderr.splitlines()
    assert lines[0].endswith("rows.zarr: 3,000 rows of 2 features, float64; 46.9 KiB in 5 chunks, read as 1 partition.")
    assert all(re.match(r"\d\d:\d\d:\d\d  ", line) for line in lines), "the time of day"
    lines = [line[10:] for line in lines]
    assert lines[1].startswith("Running in this process (one partition) with at most ")
    assert lines[2] == "All decoded rows (46.88 kiB) stay in memory for the later passes."
    assert lines[3].split() == ["mean", "log-lik.", "change"]
    assert lines[4].split()[:3] == ["pass", "1", "survey"]
    assert lines[5] == "Looking for a start of 3 components on a sample of 3,000 rows."
    assert lines[6].split()[:3] == ["pass", "1", "start"], "on the sample: no pass over the input"
    passes = [line.split()[:2] for line in [lines[4], *lines[7:]]]
    assert passes == [["pass", str(i + 1)] for i in range(result["n_passes"])]

    loaded = GaussianMixture.load(model)
    sklearn = loaded.to_sklearn()
    assert loaded.converged_ is True
    assert loaded.n_iter_ == result["n_iter"]
    assert loaded.random_state == 1
    assert len([h for h in loaded.history_ if h["what"] != "start"]) == result["n_passes"]
    assert result["mean_log_likelihood"] == pytest.approx(sklearn.score(small_rows), rel=1e-10)
    assert result["bic"] == pytest.approx(sklearn.bic(small_rows), rel=1e-10)
    assert result["aic"] == pytest.approx(sklearn.aic(small_rows), rel=1e-10)


@pytest.mark.slow
def test_fit_runs_on_local_processes_within_what_it_said(tmp_path: Path, large_store: Path) -> None:
    done = run("fit", large_store, "-k", 2, "-o", tmp_path / "m.zarr", "--workers", 2, "--memory-limit", "500MiB")
    result = strict(done.stdout)
    assert result["workers"] == 2
    assert result["partitions"] == 4
    assert 50 << 20 < result["peak_worker_bytes"] < result["stated_peak_bytes"] <= result["memory_limit"] == 500 << 20
    assert "600,000 rows of 32 features, float64; 146 MiB in 30 chunks, read as 4 partitions." in done.stderr
    told = (
        r"Running in 2 worker processes, each with at most \d+ MiB .* of 500 MiB, and at most \d+ MiB in this process\."
    )
    assert re.search(told, done.stderr)
    assert 50 << 20 < result["peak_driver_bytes"] < result["stated_driver_bytes"]
    for noise in ("distributed", "Traceback", "warning", "Warning", "8787"):
        assert noise not in done.stderr


def test_missing_chunks_stop_a_fit_or_are_filled(tmp_path: Path, small_store: Path) -> None:
    (small_store / "c" / "2" / "0").unlink()
    arguments = ("fit", small_store, "-k", 2, "-o", tmp_path / "m.zarr")
    said = call(*arguments, code=65).stderr
    assert "error: Every chunk must be in the store; got none for row 1400" in said
    assert "say so: --missing-chunks fill" in said
    assert not (tmp_path / "m.zarr.checkpoint").exists()
    filled = strict(call(*arguments, "--missing-chunks", "fill").stdout)
    assert filled["rows"] == 3000
    assert "missing_chunks of INPUT is fill there, not given now" in call(*arguments, code=73).stderr


def test_not_converged_is_exit_code_3_and_says_what_to_do(tmp_path: Path, small_store: Path) -> None:
    done = call("fit", small_store, "-k", 3, "-o", tmp_path / "m.zarr", "--max-iter", 1, code=3)
    assert strict(done.stdout)["status"] == "max_iter"
    assert "warning: The fit ended at --max-iter without converging. Increase --max-iter or --tol" in done.stderr
    again = call("fit", small_store, "-k", 3, "-o", tmp_path / "m.zarr", "--max-iter", 1, code=3)
    assert strict(again.stdout)["skipped"] is True


def test_weights_equal_repetition(tmp_path: Path, small_rows: np.ndarray) -> None:
    weights = np.random.default_rng(0).integers(0, 3, len(small_rows))
    np.save(tmp_path / "rows.npy", small_rows)
    np.save(tmp_path / "repeated.npy", small_rows.repeat(weights, axis=0))
    np.save(tmp_path / "weights.npy", weights)
    options = ("-k", 1, "--covariance", "full")
    weighted = call(
        "fit", tmp_path / "rows.npy", "--weights", tmp_path / "weights.npy", *options, "-o", tmp_path / "w.zarr"
    )
    repeated = call("fit", tmp_path / "repeated.npy", *options, "-o", tmp_path / "r.zarr")
    one, other = strict(weighted.stdout), strict(repeated.stdout)
    assert one["weight"] == weights.sum() == other["rows"]
    for name in ("log_likelihood", "mean_log_likelihood", "bic", "aic"):
        assert one[name] == pytest.approx(other[name], rel=1e-10)
    scored = call("score", tmp_path / "w.zarr", tmp_path / "rows.npy", "--weights", tmp_path / "weights.npy")
    assert strict(scored.stdout)["bic"] == pytest.approx(one["bic"], rel=1e-10)


def test_arrays_of_a_group(tmp_path: Path, small_rows: np.ndarray) -> None:
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.create_array("x", data=small_rows)
    group.create_array("w", data=np.ones(len(small_rows)))
    path = tmp_path / "g.zarr"
    done = call("fit", path, "-k", 1, "-o", tmp_path / "m.zarr", code=64)
    assert "got a group of 2 that it may be" in done.stderr
    assert "--array" in done.stderr
    options = ("--array", "x", "--weights", path, "--weights-array", "w")
    assert strict(call("fit", path, "-k", 1, "-o", tmp_path / "m.zarr", *options).stdout)["weight"] == 3000
    call("predict", tmp_path / "m.zarr", path, "--array", "x", "-o", path / "labels")
    assert zarr.open_array(path / "labels", mode="r").shape == (3000,)


def test_an_array_that_is_called_as_an_argument_is_advised_by_its_name(tmp_path: Path, small_rows: np.ndarray) -> None:
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    for name in ("X", "tol"):
        group.create_array(name, data=small_rows, dimension_names=["max_iter", "n_init"])
    told = call("fit", tmp_path / "g.zarr", "-k", 1, "-o", tmp_path / "m.zarr", code=64).stderr
    assert "'X' (3000, 2) float64 by 'max_iter' and 'n_init', 'tol' (3000, 2) float64" in told
    advised = shlex.split(re.findall(r"its name, (--array \S+)\.", told)[0])
    call("fit", tmp_path / "g.zarr", "-k", 1, "-o", tmp_path / "m.zarr", *advised)


# -- the same command again --------------------------------------------------------------------------------------


def test_fit_again_does_nothing_or_names_what_differs(
    tmp_path: Path, small_store: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwanted(*args: object, **kwargs: object) -> None:
        raise AssertionError("data were read, or a cluster was started")

    first = dict(zarr.open_group(model, mode="r").attrs)["record"]["result"]
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "fit_mixture", unwanted)
        patch.setattr("daskgmm.places.dask_cluster.DaskCluster.machines", unwanted)
        again = call("fit", small_store, "-k", 3, "-o", model)
        assert strict(again.stdout) == {**first, "skipped": True}
        assert "is complete, from the same input and options: nothing to do (--force does it again)." in again.stderr
        differs = call("fit", small_store, "-k", 4, "--tol", 0.01, "-o", model, code=73)
        assert "where --components is 3 there, 4 now; --tol is 0.001 there, 0.01 now. Use --force" in differs.stderr
        other = tmp_path / "other.zarr"
        zarr.create_array(other, data=np.ones((10, 2)))
        differs = call("fit", other, "-k", 3, "-o", model, code=73)
        assert f"where location of INPUT is {small_store} there, {other} now." in differs.stderr
    forced = call("fit", small_store, "-k", 4, "-o", model, "--force")
    assert strict(forced.stdout)["skipped"] is False
    assert GaussianMixture.load(model).n_components == 4


@pytest.mark.parametrize("changes", [{"result": 5}, {"result": ["x"]}, {"result": None}, {"selection": 5}], ids=str)
def test_a_record_of_another_shape_is_no_complete_output(
    changes: dict[str, Any], tmp_path: Path, small_store: Path, model: Path
) -> None:
    labels = tmp_path / "labels.zarr"
    call("predict", model, small_store, "-o", labels)
    array, group = zarr.open_array(labels), zarr.open_group(model)
    group.attrs["record"] = {**group.attrs["record"], **changes}
    said = call("fit", small_store, "-k", 3, "-o", model, code=73).stderr
    assert "--output must be free, or hold a whole model; got this: the model's record must be as daskgmm" in said
    array.attrs[ATTRIBUTE] = {**array.attrs[ATTRIBUTE], "result": 5}
    said = call("predict", model, small_store, "-o", labels, code=73).stderr
    assert "--output must be free, or hold a whole array; got this: the array's record must be as daskgmm" in said


def test_predict_again(tmp_path: Path, small_store: Path, model: Path) -> None:
    labels = tmp_path / "labels.zarr"
    first = strict(call("predict", model, small_store, "-o", labels).stdout)
    assert strict(call("predict", model, small_store, "-o", labels).stdout) == {**first, "skipped": True}
    differs = call("predict", model, small_store, "-o", labels, "--what", "proba", code=73)
    assert "where --what is label there, proba now." in differs.stderr
    call("fit", small_store, "-k", 2, "-o", tmp_path / "two.zarr")
    differs = call("predict", tmp_path / "two.zarr", small_store, "-o", labels, code=73)
    assert "where the checksum of MODEL is " in differs.stderr
    call("predict", model, small_store, "-o", labels, "--what", "proba", "--force")
    assert zarr.open_array(labels, mode="r").shape == (3000, 3)


# -- predict, score, sample, inspect -----------------------------------------------------------------------------


def test_predictions_are_aligned_and_dropped_rows_marked(tmp_path: Path, small_rows: np.ndarray, model: Path) -> None:
    rows = small_rows.copy()
    rows[[5, 1700], [0, 1]] = np.nan, np.inf
    zarr.create_array(tmp_path / "bad.zarr", data=rows, chunks=(700, 2))
    refused = call("predict", model, tmp_path / "bad.zarr", "-o", tmp_path / "l.zarr", code=65)
    assert "got NaN or infinity in row 5" in refused.stderr
    assert "--non-finite drop" in refused.stderr
    assert not list(tmp_path.glob("l.zarr*"))

    good = np.isfinite(rows).all(axis=1)
    python = GaussianMixture.load(model)
    options = ("--non-finite", "drop")
    done = call("predict", model, tmp_path / "bad.zarr", "-o", tmp_path / "l.zarr", *options)
    labels = zarr.open_array(tmp_path / "l.zarr", mode="r")[:]
    assert labels.dtype == np.int32
    assert labels[[5, 1700]].tolist() == [-1, -1]
    np.testing.assert_array_equal(labels[good], python.predict(rows[good]))
    result = strict(done.stdout)
    assert (result["rows"], result["dropped_rows"]) == (2998, 2)
    assert result["rows_by_component"] == np.bincount(labels[good], minlength=3).tolist()
    for what, expected in (("proba", python.predict_proba), ("score", python.score_samples)):
        call("predict", model, tmp_path / "bad.zarr", "-o", tmp_path / f"{what}.zarr", "--what", what, *options)
        found = zarr.open_array(tmp_path / f"{what}.zarr", mode="r")[:]
        assert np.isnan(found[~good]).all()
        np.testing.assert_allclose(found[good], expected(rows[good]), rtol=1e-10, atol=1e-14)


def test_predict_and_score_on_a_running_cluster_each_chunk_by_one_writer(
    tmp_path: Path, large_store: Path, cluster: LocalCluster
) -> None:
    scheduler_file = tmp_path / "scheduler.json"
    scheduler_file.write_text(json.dumps({"address": cluster.scheduler_address}))
    model = tmp_path / "m.zarr"
    done = call("fit", large_store, "-k", 2, "-o", model, "--tol", 1, "--scheduler", cluster.scheduler_address)
    result = strict(done.stdout)
    assert result["workers"] == 2
    assert result["peak_worker_bytes"] > 50 << 20
    assert f"Running in 2 workers of {cluster.scheduler_address}, each with at most" in done.stderr
    labels = tmp_path / "l.zarr"
    predicted = strict(call("predict", model, large_store, "-o", labels, "--scheduler-file", scheduler_file).stdout)
    found = zarr.open_array(labels, mode="r")
    assert predicted["partitions"] == 4
    # Partitions are runs of whole chunks of 20,000 rows.
    assert 160_000 % found.chunks[0] == 0
    assert sum(predicted["rows_by_component"]) == 600_000
    np.testing.assert_array_equal(found[:20_000], found[400_000:420_000])
    assert cluster.scheduler.status.name == "running"


def test_sample_is_seeded_shuffled_and_complete(tmp_path: Path, model: Path) -> None:
    rows, labels = tmp_path / "s.zarr", tmp_path / "c.zarr"
    arguments = ("sample", model, "--rows", 20_000, "--output", rows, "--labels", labels)
    result = strict(call(*arguments).stdout)
    assert result["rows"] == 20_000
    X, components = zarr.open_array(rows, mode="r")[:], zarr.open_array(labels, mode="r")[:]
    assert X.shape == (20_000, 2)
    assert components.dtype == np.int32
    python = GaussianMixture.load(model)
    assert np.abs(np.bincount(components) / 20_000 - python.weights_).max() < 0.02
    for k in range(3):
        np.testing.assert_allclose(X[components == k].mean(axis=0), python.means_[k], atol=0.1)
    assert len(set(components[:100].tolist())) == 3
    assert strict(call(*arguments).stdout) == {**result, "skipped": True}
    differs = call(*arguments, "--seed", 1, code=73)
    assert "where --seed is 0 there, 1 now." in differs.stderr
    call(*arguments, "--force")
    np.testing.assert_array_equal(zarr.open_array(rows, mode="r")[:], X)
    swapped = call("sample", model, "--rows", 20_000, "--output", labels, code=73)
    assert "--array is labels there, rows now" in swapped.stderr


def test_inspect_shows_a_table_and_the_whole_as_json(model: Path) -> None:
    done = call("inspect", model)
    found = strict(done.stdout)
    python = GaussianMixture.load(model)
    assert found["weights"] == python.weights_.tolist()
    assert found["means"] == python.means_.tolist()
    expected = np.linalg.cond(python.covariances_)
    np.testing.assert_allclose(found["condition_numbers"], expected, rtol=1e-8)
    assert found["options"]["n_components"] == 3
    assert found["input"]["X"]["shape"] == [3000, 2]
    assert "3 components (full), 2 features, 17 free parameters; converged after" in done.stderr
    assert f"{python.weights_.max():.4f}" in done.stderr


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_a_model_from_python_is_one_for_the_command_line(
    tmp_path: Path, small_store: Path, small_rows: np.ndarray, covariance: str
) -> None:
    python = GaussianMixture(3, covariance_type=covariance, random_state=0).fit(small_rows)
    path = tmp_path / "python.zarr"
    python.save(path)
    call("predict", path, small_store, "-o", tmp_path / "l.zarr")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "l.zarr", mode="r")[:], python.predict(small_rows))
    found = strict(call("inspect", path).stdout)
    assert len(found["condition_numbers"]) == 3
    assert min(found["condition_numbers"]) >= 1 - 1e-12
    differs = call("fit", small_store, "-k", 3, "-o", path, code=73)
    assert "a model that was saved from Python. Use --force to replace it" in differs.stderr


# -- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("fit", "rows.zarr", "-k", 0, "-o", "m"), 64, r"'-k' / '--components': 0 is not in the range x>=1\. See: "),
        (("fitt",), 64, r"No such command 'fitt'.* See: daskgmm --help"),
        (("fit", "rows.zarr", "-k", 1, "-o", "m", "--bad"), 64, r"No such option:? '?--bad'?"),
        (("fit", "rows.zarr", "-k", 1, "-o", "m", "--tol", "nan"), 64, r"--tol must be a finite number .* got nan\."),
        (("fit", "rows.zarr", "-k", 1, "-o", "m", "--memory-limit", "2Gx"), 64, r"'2Gx' is not a number of bytes"),
        (("fit", "rows.zarr", "-k", 1, "-o", "m", "--memory-limit", "1e400"), 64, r"'1e400' is not a number of bytes"),
        (("plan", "rows.zarr", "-k", 1, "--memory-limit", "2"), 64, r"'2' is 2 bytes\. Write 2GiB, with its unit\."),
        (("plan", "rows.zarr", "-k", 1, "--memory-limit", "1000000"), 64, r"Write 2GiB or 500MB, with its unit\."),
        (("plan", "rows.zarr", "-k", 1, "--memory-limit", "2048"), 64, r"is 2,048 bytes\. Write 2048MiB, with"),
        (("demo", "--memory-limit", "9kB"), 64, r"is 9,000 bytes\. Write 2GiB or 500MB, with its unit"),
        (("fit", "rows.zarr", "-k", 1, "-o", "m", "--scheduler", "foo"), 64, r"address such as tcp://.* got 'foo'"),
        (
            ("fit", "rows.zarr", "-k", 1, "-o", "m", "--scheduler", "tcp://a:1", "--scheduler-file", "f"),
            64,
            r"got --scheduler and --scheduler-file\. Leave one of them out\.",
        ),
        (
            ("fit", "rows.zarr", "-k", 1, "-o", "m", "--scheduler", "tcp://a:1", "--workers", 2),
            64,
            r"--workers must be left out with --scheduler",
        ),
        (("fit", "rows.zarr", "-k", 1, "-o", "rows.zarr"), 64, r"--output must lie outside of INPUT; got rows\.zarr"),
        (("fit", "rows.zarr", "-k", 1, "-o", "rows.zarr/m"), 64, r"--output must lie outside of INPUT"),
        (("fit", "rows.zarr", "-k", 3001, "-o", "m"), 65, r"at least --components = 3001 rows; got 3000 in .*"),
        (("predict", "model.zarr", "one.npy", "-o", "l"), 65, r"INPUT must have the 2 features .* got 1 in .*one\.npy"),
        (("inspect", "rows.zarr"), 65, r"got a Zarr array at rows\.zarr"),
        (
            ("fit", "rows.zarr", "-k", 1, "-o", "m", "--weights", "nan.zarr"),
            65,
            r"--weights must have shape \(3000,\).* got \(10, 2\)",
        ),
        (("predict", "nope.zarr", "rows.zarr", "-o", "l"), 66, r"the model must .* got nothing at nope\.zarr"),
        (("fit", "rows.zarr", "-k", 1, "-o", ""), 64, r"--output must name a place; got nothing"),
        (("predict", "model.zarr", "huge.npy", "-o", "l"), 65, r"INPUT must lie within 1e150.*got 1e\+200 near row 0"),
        (("fit", "rows.zarr", "-k", 1, "-o", "one.npy"), 73, r"must be free, or hold a model; got something else"),
        (("fit", "rows.zarr", "-k", 1, "-o", "nan.zarr"), 73, r"got something else at nan\.zarr"),
        (("fit", "rows.zarr", "-k", 1, "-o", "nan.zarr", "--force"), 73, r"got something else at nan\.zarr"),
        (("predict", "model.zarr", "rows.zarr", "-o", "nan.zarr"), 73, r"what daskgmm wrote; got something"),
        (("predict", "model.zarr", "rows.zarr", "-o", "model.zarr"), 64, r"--output must lie outside of MODEL"),
        (
            ("fit", "rows.zarr", "-k", 1, "-o", "s3://me:hidden@bucket/m"),
            64,
            r"--output must be a URL without a password, .* got s3://bucket/m\. Put the credentials",
        ),
    ],
)  # fmt: skip
def test_errors_are_one_sentence_and_an_exit_code(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    nan = np.ones((10, 2))
    nan[7, 1] = np.nan
    zarr.create_array("nan.zarr", data=nan)
    np.save("one.npy", np.arange(10.0))
    np.save("huge.npy", np.full((10, 2), 1e200))
    before = sorted(os.listdir())
    done = call(*arguments, code=code)
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(message, last)
    assert "Traceback" not in done.stderr
    assert sorted(os.listdir()) == before


def test_no_workers_in_time(tmp_path: Path, small_store: Path) -> None:
    with LocalCluster(n_workers=0, **LOCAL) as empty:
        address = empty.scheduler_address
        options = ("--scheduler", address, "--workers-timeout", 1)
        done = call("fit", small_store, "-k", 1, "-o", tmp_path / "m.zarr", *options, code=69)
    assert re.search(rf"At least 1 worker must join within 1 s; got 0 at {address}\. Start workers", done.stderr)


@pytest.mark.parametrize("package", ["daskgmm", "threadpoolctl"])
def test_workers_without_daskgmm_or_what_it_needs_are_named(tmp_path: Path, small_store: Path, package: str) -> None:
    lines = f"import sys\nif '--multiprocessing-fork' in sys.orig_argv: sys.modules['{package}'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(lines)
    cluster = OwnCluster(free_port(), tmp_path, environment={"PYTHONPATH": str(tmp_path)})
    try:
        options = ("--scheduler", cluster.address, "--workers-timeout", 100)
        done = call("fit", small_store, "-k", 1, "-o", tmp_path / "m.zarr", *options, code=69)
    finally:
        cluster.kill()
    message = rf"Workers must have daskgmm installed; got ModuleNotFoundError: .* from tcp://.* of {cluster.address}\."
    assert re.search(message, done.stderr)


def test_a_cluster_that_adapts_from_no_workers_is_asked_for_some(tmp_path: Path, small_store: Path) -> None:
    with LocalCluster(n_workers=0, threads_per_worker=1, **LOCAL) as cluster:
        cluster.adapt(minimum=0, maximum=1, interval="200ms")
        options = ("--scheduler", cluster.scheduler_address, "--workers-timeout", 60, "--restarts", 1)
        call("fit", small_store, "-k", 1, "-o", tmp_path / "m.zarr", *options)


def test_advice_on_memory_fits_a_cluster_that_is_joined(tmp_path: Path, cluster: LocalCluster) -> None:
    # (Zeros that take no room on disk, in several partitions: of one this process would do the work.)
    np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(1200, 60_000)).flush()
    options = ("--scheduler", cluster.scheduler_address)
    done = call("fit", tmp_path / "x.npy", "-k", 1, "-o", tmp_path / "m.zarr", *options, code=65)
    last = done.stderr.splitlines()[-1]
    assert re.search(
        r"memory, 1639 MiB a task \(.*\); .* more memory where they are started \(dask worker --memory-limit \d+MiB\)",
        last,
    )


def test_a_scheduler_file_that_is_half_written_is_waited_for(
    tmp_path: Path, small_store: Path, cluster: LocalCluster
) -> None:
    file = tmp_path / "s.json"
    whole = json.dumps({"address": cluster.scheduler_address})
    file.write_text(whole[:9])
    writer = threading.Timer(1.0, file.write_text, [whole])
    writer.start()
    call("fit", small_store, "-k", 1, "-o", tmp_path / "m.zarr", "--scheduler-file", file, "--restarts", 1)
    writer.join()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"--scheduler-file must be a file; got .*s\.json, which is none\. Correct the path\."),
        ("[" * 100_000, r"--scheduler-file must be the JSON that dask scheduler .* writes; got RecursionError\("),
        ('{"id": 1}', r"--scheduler-file must be the JSON that dask .* writes; got KeyError\('address'\) for"),
        ('{"addr', r"--scheduler-file must be the JSON that dask scheduler .* writes; got JSONDecodeError\("),
    ],
    ids=["pipe", "deep", "other", "damaged"],
)  # fmt: skip
def test_a_scheduler_file_that_is_none(tmp_path: Path, small_store: Path, content: str | None, message: str) -> None:
    file = tmp_path / "s.json"
    os.mkfifo(file) if content is None else file.write_text(content)
    began = time.monotonic()
    arguments = ("fit", small_store, "-k", 1, "-o", tmp_path / "m.zarr", "--scheduler-file", file)
    last = run(*arguments, code=64).stderr.splitlines()[-1]
    assert time.monotonic() - began < 30  # (--workers-timeout is 60 s)
    assert re.search(message, last)


def test_json_log_is_json_in_every_line_also_of_errors(tmp_path: Path, small_store: Path) -> None:
    done = call("fit", small_store, "-k", 3, "-o", tmp_path / "m.zarr", "--log-format", "json")
    lines = [strict(line) for line in done.stderr.splitlines()]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    passes = [line for line in lines if "number" in line and line["what"] != "start"]
    assert [line["number"] for line in lines if line.get("what") == "start"] == [1]
    assert [line["number"] for line in passes] == list(range(1, len(passes) + 1))
    assert passes[-1]["what"] == "closing"
    for arguments, code in (
        (("fit", small_store, "--log-format", "json"), 64),
        (("fit", "nope.zarr", "-k", 1, "-o", tmp_path / "n.zarr", "--log-format=json"), 66),
    ):
        (line,) = call(*arguments, code=code).stderr.splitlines()
        assert strict(line)["level"] == "error"
        assert strict(line)["exit_code"] == code


def test_a_bug_says_so_and_shows_its_traceback_when_asked(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: str) -> None:
        raise TypeError("seven of nine")

    monkeypatch.setattr(jobs, "load_model", broken)
    done = call("inspect", model, code=70)
    assert "This is a bug of daskgmm: TypeError: seven of nine. Run it again with --debug" in done.stderr
    assert "Traceback" not in done.stderr
    assert "in broken" in call("inspect", model, "--debug", code=70).stderr
    monkeypatch.setenv("DASKGMM_DEBUG", "1")
    assert "in broken" in call("inspect", model, code=70).stderr


def test_errors_of_workers_keep_their_exit_code(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrapped(path: str) -> None:
        raise RuntimeError("from a worker") from DataError("row 7 must be better.")

    monkeypatch.setattr(jobs, "load_model", wrapped)
    assert "error: row 7 must be better." in call("inspect", model, code=65).stderr


def test_errors_of_distributed_are_explained() -> None:
    found = lost.explained(FutureCancelledError("key", "lost"))
    assert isinstance(found, ClusterError)
    assert "the connection to them was lost" in str(found)


def long_fit(store: Path, output: Path) -> list[str]:
    """The command of a fit of 14 passes on two workers."""
    quick = ("--restarts", 1, "--no-escape", "--start-rows", 2000, "--checkpoint-every", 0, "--workers", 2)
    return command("fit", store, "-k", 8, "-o", output, "--tol", 0, "--max-iter", 12, *quick)


@pytest.fixture(scope="module")
def undisturbed(large_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The checksum of the long fit's model."""
    output = tmp_path_factory.mktemp("undisturbed") / "m.zarr"
    subprocess.run(long_fit(large_store, output), capture_output=True, check=False, timeout=100)
    assert os.listdir(output.parent) == ["m.zarr"]
    return str(strict(call("inspect", output).stdout)["checksum"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_interrupted_fit_goes_on_to_the_same_bits(
    tmp_path: Path, large_store: Path, number: signal.Signals, undisturbed: str
) -> None:
    arguments = long_fit(large_store, tmp_path / "m.zarr")
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        seen = ""
        while "pass   4" not in seen:
            line = process.stderr.readline()
            assert line, seen
            seen += line
        began = time.monotonic()
        # As Control-C in a terminal: to the workers, too.
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    assert stdout == ""
    assert os.listdir(tmp_path) == ["m.zarr.checkpoint"]
    if number == signal.SIGKILL:
        assert process.returncode == -9
    else:
        assert process.returncode == 75
        assert time.monotonic() - began < 10
        assert f"error: Interrupted by {number.name} before the end; no complete output was written." in stderr
        assert "Run the same command again: fit, select and predict go on where they were." in stderr
        assert "Traceback" not in stderr
    other = call("fit", large_store, "-k", 7, "-o", tmp_path / "m.zarr", code=73).stderr
    assert re.search(
        r"the checkpoint of --output must be of the same work; got .*--components is 8 there, 7 now", other
    )
    if number == signal.SIGTERM:
        chunk = sorted((large_store / "c").rglob("0"))[-1]
        before = chunk.stat()
        os.utime(chunk, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        changed = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=100)
        os.utime(chunk, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert changed.returncode == 65
        assert re.search(r"got other files for rows \d+ to \d+ of .*partition \d, of 4", changed.stderr), changed.stderr
    again = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=100)
    assert re.search(rf"Going on from {tmp_path}/m.zarr.checkpoint, after pass \d+\.", again.stderr)
    assert "pass   1" not in again.stderr
    assert again.returncode == 3, again.stderr
    assert strict(again.stdout)["n_passes"] == 14
    assert strict(call("inspect", tmp_path / "m.zarr").stdout)["checksum"] == undisturbed
    assert os.listdir(tmp_path) == ["m.zarr"]


def test_a_signal_that_another_thread_gets_is_one() -> None:
    """Python's handler is called in the main thread, when that does something; here it waits for ever."""
    began = time.monotonic()
    threading.Timer(0.5, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)).start()
    with pytest.raises(Interrupted, match="SIGTERM"), interrupts.watched():
        threading.Event().wait(20)
    assert time.monotonic() - began < 10


class Deaf:
    """Its finaliser is where a signal comes: Python passes over what is raised there."""

    def __init__(self, come: Callable[[], None]) -> None:
        self.come = come

    def __del__(self) -> None:
        self.come()
        time.sleep(0.01)


def waits_deaf(come: Callable[[], None]) -> None:
    Deaf(come)
    time.sleep(5)


def test_a_signal_that_python_passes_over_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted, match="SIGTERM"), interrupts.watched():
        waits_deaf(lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(ClusterError, match="lost"), interrupts.watched():
        waits_deaf(lambda: interrupts.end_with(ClusterError("lost")))
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))
    with interrupts.watched():
        Deaf(lambda: print([][1]))
    assert told == [IndexError], "what is none of ours is told as ever"


def test_workers_that_a_signal_to_all_has_ended_are_no_news() -> None:
    for error, code in (
        (ClusterError("lost"), 75), (FutureCancelledError("key", "lost"), 75), (OutputError("no space"), 73),
    ):  # fmt: skip
        with interrupts.watched():
            assert outcome(error)[0] == (69 if code == 75 else code)
            interrupts.defer()
            signal.raise_signal(signal.SIGTERM)
            found, message = outcome(error)
        assert (found, "Interrupted by SIGTERM" in message) == (code, code == 75)


@pytest.mark.slow
def test_a_killed_fit_in_an_object_store_goes_on_to_the_same_bits(
    tmp_path: Path, small_store: Path, bucket: str
) -> None:
    """Rows, model, checkpoint and labels are objects; the fit is killed while it writes a checkpoint, or after."""
    import s3fs

    rows, output = f"{bucket}/rows.zarr", f"{bucket}/m.zarr"
    system = s3fs.S3FileSystem()
    system.put(str(small_store), rows, recursive=True)
    options = ["-k", 3, "--tol", 0, "--max-iter", 20, "--checkpoint-every", 0, "--workers", 1, "--no-escape"]
    call("fit", small_store, "-o", tmp_path / "m.zarr", *options, code=3)
    arguments = [sys.executable, "-m", "daskgmm", *map(str, ["fit", rows, "-o", output, *options])]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("pass   5" in line for line in process.stderr)
        process.kill()
    system.invalidate_cache()
    assert [path.rpartition("/")[2] for path in system.ls(bucket)] == ["m.zarr.checkpoint", "rows.zarr"]
    again = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=100)
    assert re.search(rf"Going on from {output}.checkpoint, after pass [4-9]\.", again.stderr), again.stderr
    assert again.returncode == 3
    checksums = {strict(call("inspect", place).stdout)["checksum"] for place in (tmp_path / "m.zarr", output)}
    assert len(checksums) == 1
    call("predict", output, rows, "-o", f"{bucket}/labels.zarr", "--workers", 1)
    call("predict", output, small_store, "-o", tmp_path / "labels.zarr", "--workers", 1)
    found = [zarr.open_array(place, mode="r")[:] for place in (f"{bucket}/labels.zarr", tmp_path / "labels.zarr")]
    np.testing.assert_array_equal(*found)
    system.invalidate_cache()
    assert [path.rpartition("/")[2] for path in system.ls(bucket)] == ["labels.zarr", "m.zarr", "rows.zarr"]


def test_force_gives_up_a_checkpoint_of_other_work_or_a_damaged_one(tmp_path: Path, small_store: Path) -> None:
    place = tmp_path / "m.zarr.checkpoint"
    arguments = ("fit", small_store, "-k", 3, "-o", tmp_path / "m.zarr")
    for damaged in "manifest", "part", None:
        checkpoint = Checkpoint.at(str(place))
        checkpoint.begin({"command": "fit", "options": {"seed": 5}})
        checkpoint.put({"a": 1})
        if damaged:
            next(place.glob(f"{damaged}*")).write_bytes(b"damaged")
        code, message = (65, "damaged one in") if damaged == "manifest" else (73, "of the same work; got")
        assert message in call(*arguments, code=code).stderr
        assert "--force" in call(*arguments, code=code).stderr
        assert strict(call(*arguments, "--force").stdout)["converged"] is True
        assert not place.exists()
        # What stands in its place and is none does not matter to a complete model.
        place.mkdir()
        (place / "mine.txt").write_text("")
        assert strict(call(*arguments).stdout)["skipped"] is True
        shutil.rmtree(place)
        shutil.rmtree(tmp_path / "m.zarr")


def test_predictions_that_go_on_from_another_thing_are_bad_data(
    tmp_path: Path, small_store: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ending(Checkpoint):
        def flush(self) -> None:
            super().flush()
            raise KeyboardInterrupt

    place = tmp_path / "labels.zarr.checkpoint"
    arguments = ("predict", model, small_store, "-o", tmp_path / "labels.zarr", "--checkpoint-every", 0, "--workers", 1)
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 1000)
    with monkeypatch.context() as patched:
        patched.setattr("daskgmm.cli.saving.Checkpoint", Ending)
        call(*arguments, code=75)
    checkpoint = Checkpoint.at(str(place))
    (roots,) = (checkpoint.get(name) for name in checkpoint._slots if name.startswith("roots"))
    ((key, partials),) = roots.items()
    checkpoint.add(key, int(next(iter(partials))), Partial("another thing", 1, 1))
    checkpoint.flush()
    said = call(*arguments, code=65).stderr
    assert "the checkpoint must be as daskgmm wrote it; got AttributeError: 'str' object has no attribute" in said
    assert place.exists(), "it may be brought back"


# -- help --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_says_what_options_do(name: str) -> None:
    text = call(name, "--help").stdout
    assert f"  daskgmm {name}" in text
    assert "Example" in text
    assert "--log-format" in text
    assert "  INPUT\n" not in text
    options = gmm.commands[name].params
    assert all(getattr(option, "help", "") for option in options if option.param_type_name == "option")


def test_program_without_a_command_shows_its_help() -> None:
    done = call(code=64)
    assert "daskgmm demo" in done.stderr
    assert [line.split()[0] for line in done.stderr.split("Commands:")[1].splitlines() if line] == list(COMMANDS)


# -- parts -------------------------------------------------------------------------------------------------------


def test_json_has_no_numbers_that_are_none() -> None:
    assert strict_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": (1, None)}) == (
        '{"a": null, "b": [null, 1.5], "c": [1, null]}'
    )


@pytest.mark.parametrize(
    ("stored", "now", "expected"),
    [
        ({"options": {"seed": 0}}, {"options": {"seed": 0}}, []),
        ({"options": {"n_init": 1}}, {"options": {"n_init": 2}}, ["--restarts is 1 there, 2 now"]),
        (
            {"input": {"X": {"location": "a", "shape": [1, 2]}, "weights": None}},
            {"input": {"X": {"location": "a", "shape": [3, 2]}, "weights": {"location": "w"}}},
            [
                "shape of INPUT is [1, 2] there, [3, 2] now",
                'source of --weights is not given there, {"location": "w"} now',
            ],
        ),
    ],
)
def test_differences_name_what_a_person_typed(stored: Any, now: Any, expected: list[str]) -> None:
    assert differences(stored, now) == expected


def test_peak_memory_of_this_process() -> None:
    peak = peak_bytes()
    assert peak is not None
    assert 20 << 20 < peak < 1 << 40


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 27 GiB"),
        RuntimeError("can't start new thread"),
        ImportError("libx.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_a_shortage_of_memory_is_told_also_where_it_passes_for_damage(error: Exception) -> None:
    damaged = DataError("the model must be readable. Write it again.")
    damaged.__cause__ = error
    for found in (error, damaged):
        code, message = outcome(found)
        assert code == 65
        assert re.match(r"Memory must suffice, and threads; got .*(llocate|thread|map).* Raise the limit", message)
        assert "rite it again" not in message


def test_an_error_that_is_its_own_cause_is_told_all_the_same() -> None:
    ours, alone = DataError("rows must be finite. Drop them."), KeyError("column")
    ours.__cause__, alone.__cause__ = alone, ours
    assert outcome(ours) == (65, "rows must be finite. Drop them.")
    assert outcome(alone) == (65, "rows must be finite. Drop them.")
    unknown = KeyError("column")
    unknown.__cause__ = unknown
    with interrupts.watched():  # (none came, whatever tests went before)
        code, message = outcome(unknown)
    assert (code, "This is a bug of daskgmm: KeyError: 'column'." in message) == (70, True)


_EARLY = """
import signal, sys
class Half:
    def find_spec(self, name, path=None, target=None):
        if name == "dask.utils":
            signal.raise_signal(signal.SIGTERM)
sys.meta_path.insert(0, Half())
from daskgmm.cli.commands import main
main()
"""


def test_a_signal_while_the_libraries_are_imported_is_one(tmp_path: Path, small_store: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _EARLY, "fit", small_store, "-k", "2", "-o", tmp_path / "m.zarr"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 75, done.stderr
    assert done.stderr.startswith("error: Interrupted by SIGTERM before the end")
    assert "Traceback" not in done.stderr
