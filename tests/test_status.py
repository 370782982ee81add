"""How far a command is, as others see it: `daskgmm status`, its record, and metrics for Prometheus."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from prometheus_client.parser import text_string_to_metric_families

from daskgmm import open_rows
from daskgmm.cli import standing
from daskgmm.cli.metrics import METRICS, metrics_text
from daskgmm.cli.standing import Standing
from daskgmm.cli.watching import judged, status_text
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.tree import Underway
from daskgmm.places.alive import this_process
from daskgmm.stores.checkpoint import Checkpoint
from daskgmm.stores.status_file import read_status
from tests.groups import two_groups
from tests.test_cli import call, command, strict

QUICK = ("-k", 3, "--restarts", 1, "--no-escape")
#: Where it is written how to watch a job.
CLUSTER = Path(__file__).parents[1] / "cluster"
#: A fit that ends when it is ended.
ENDLESS = ("-k", 4, "--tol", 0, "--max-iter", 10**6, "--restarts", 1, "--no-escape", "--start-rows", 2000)


def status(*arguments: object) -> dict[str, Any]:
    return strict(call("status", *arguments).stdout.splitlines()[-1])


def wait_for(found: Callable[[], Any], *, seconds: float = 100) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value


def record_at(place: str) -> dict[str, Any]:
    return dict(json.loads(read_status(place) or b"{}"))


def in_a_pass(place: str) -> bool:
    return str(record_at(place).get("doing", "")).startswith("pass ")


@contextmanager
def began(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes to a file, and is killed at the end of the block if it lives."""
    with log.open("wb") as file, subprocess.Popen(arguments, stdout=file, stderr=file) as process:
        try:
            yield process
        finally:
            process.kill()


# -- real processes ----------------------------------------------------------------------------------------------


def test_a_fit_that_runs_dies_goes_on_and_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows, place = two_groups(tmp_path / "rows.zarr", 20_000), str(tmp_path / "m.zarr.checkpoint")
    arguments = command("fit", rows, "-o", "m.zarr", *ENDLESS, "--metrics", "fit.prom")
    with began(arguments, tmp_path / "log") as process:
        wait_for(lambda: in_a_pass(place))
        found = status("m.zarr")
        assert (found["state"], found["alive"], found["process"]) == ("running", True, process.pid)
        assert status(place)["process"] == process.pid
        assert np.isfinite([found["mean_log_likelihood"], found["rows_per_second"]]).all()
        assert found["silent_seconds"] < 60
        assert found["rows"] >= 20_000
        assert found["expected_end"] > time.time(), "a million passes at most"
        families = {family.name: family for family in text_string_to_metric_families(Path("fit.prom").read_text())}
        assert families["daskgmm_passes"].samples[0].value > 1
        threading.Timer(1.0, process.kill).start()
        lines = call("status", "m.zarr", "--watch", "--every", 0.2).stdout.splitlines()
        states = [strict(line)["state"] for line in lines]
        assert states[0] == "running"
        assert states[-1] == "dead", "and then it ends"
    assert process.returncode == -9
    found = status("m.zarr")
    assert (found["state"], found["alive"], found["remaining_seconds"]) == ("dead", False, None)
    typed = " ".join(map(str, ["fit", rows, "-o", "m.zarr", *ENDLESS, "--metrics", "fit.prom"]))
    assert found["again"] == f"daskgmm {typed}"
    assert f"  To go on:\n    cd {tmp_path} && daskgmm {typed}" in status_text(found)

    monkeypatch.chdir("/")
    # (A script that calls the command says what calls itself.)
    monkeypatch.setenv("DASKGMM_AGAIN", "sbatch night.sbatch fit")
    again = f"cd {found['folder']} && exec {shlex.quote(sys.executable)} -m {found['again']}"
    with began(["sh", "-c", again], tmp_path / "log") as process:
        wait_for(lambda: "Going on from" in (tmp_path / "log").read_text())
        process.terminate()
        assert process.wait(30) == 75, (tmp_path / "log").read_text()
    found = status(tmp_path / "m.zarr")
    assert (found["state"], found["exit_code"]) == ("interrupted", 75)
    assert found["again"] == "sbatch night.sbatch fit"
    assert "Interrupted by SIGTERM" in found["message"]
    assert "was interrupted in" in status_text(found)
    state = metric_values((tmp_path / "fit.prom").read_text(), "daskgmm_state", "state")
    assert state == {"running": 0, "done": 0, "interrupted": 1, "failed": 0}


def test_a_fit_on_an_object_store_is_seen_from_elsewhere(
    tmp_path: Path, small_store: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "EVERY_SECONDS", 0.05)
    place, seen = f"{bucket}/kept", list[dict[str, Any]]()
    main = threading.get_ident()

    def end_in_a_pass() -> None:
        wait_for(lambda: in_a_pass(place))
        seen.append(record_at(place))
        signal.pthread_kill(main, signal.SIGTERM)

    threading.Thread(target=end_in_a_pass, daemon=True).start()
    call("fit", small_store, "-o", tmp_path / "m.zarr", *ENDLESS, "--checkpoint", place, code=75)
    assert seen[0]["state"] == "running"
    assert seen[0]["process"] == os.getpid()
    found = status(place)
    assert (found["state"], found["checkpoint"]) == ("interrupted", place)
    nothing = call("status", tmp_path / "m.zarr", code=66).stderr
    assert "Name the place that was given as --checkpoint" in nothing


# -- after the end -----------------------------------------------------------------------------------------------


def test_after_the_end_output_and_named_checkpoint_tell_the_result(tmp_path: Path, small_store: Path) -> None:
    model, labels = tmp_path / "m.zarr", tmp_path / "labels.zarr"
    for output, arguments in (
        (model, ("fit", small_store, *QUICK, "-o", model)),
        (labels, ("predict", model, small_store, "-o", labels)),
    ):
        result = strict(call(*arguments).stdout)
        for place in (output, f"{output}.checkpoint"):
            found = status(place)
            assert (found["state"], found["alive"], found["again"]) == ("done", False, None)
            assert found["result"].items() <= result.items()
            assert "is done in" in status_text(found)
        assert not Path(f"{output}.checkpoint").exists()
        shutil.rmtree(output)
        kept = tmp_path / f"{output.stem}-kept"
        result = strict(call(*arguments, "--checkpoint", kept).stdout)
        for _ in range(2):
            found = status(kept)
            assert (found["state"], found["of"]) == ("done", arguments[0])
            assert found["result"].items() <= result.items()
            assert os.listdir(kept) == ["status.json"]
            (kept / "status.json").unlink()  # as if it had been killed before it could say so
            call(*arguments, "--checkpoint", kept)


def test_a_fit_that_failed_says_why_where_its_checkpoint_was_named(tmp_path: Path) -> None:
    rows = np.ones((100, 2))
    rows[7, 1] = np.nan
    zarr.create_array(tmp_path / "rows.zarr", data=rows, chunks=(10, 2))
    arguments = ("fit", tmp_path / "rows.zarr", *QUICK, "-o", tmp_path / "m.zarr")
    call(*arguments, code=65)
    assert os.listdir(tmp_path) == ["rows.zarr"]
    assert "where none has left a record" in call("status", tmp_path / "m.zarr", code=66).stderr
    call(*arguments, "--checkpoint", tmp_path / "kept", "--metrics", tmp_path / "fit.prom", code=65)
    found = status(tmp_path / "kept")
    assert (found["state"], found["exit_code"], found["alive"]) == ("failed", 65, False)
    assert "NaN" in found["message"]
    assert f"exit code 65: {found['message']}" in status_text(found)
    assert metric_values((tmp_path / "fit.prom").read_text(), "daskgmm_exit_code", "output") == {
        str(tmp_path / "m.zarr"): 65
    }


def test_what_is_no_place_of_a_command(tmp_path: Path, small_store: Path) -> None:
    (tmp_path / "rows.npy").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "none", small_store, tmp_path / "rows.npy", tmp_path / "pipe", tmp_path):
        assert "none has left a record" in call("status", place, code=66).stderr
    (tmp_path / "kept").mkdir()
    for content in ("{", "[]", '{"format": "daskgmm-status", "format_version": 1}', '{"format": "other"}'):
        (tmp_path / "kept" / "status.json").write_text(content)
        assert "be as daskgmm wrote it" in call("status", tmp_path / "kept", code=65).stderr
    assert "password" in call("status", "s3://me:secret@bucket/m.zarr", code=64).stderr


# -- the record --------------------------------------------------------------------------------------------------


def record(**others: Any) -> dict[str, Any]:
    """A record of this process, written at time 1000."""
    found = Standing("fit", 'night "1".zarr', "kept", metrics=None).record()
    return {**found, "began": 0.0, "written": 1000.0, "remaining_seconds": 300.0, "share": 0.25, "doing": "pass 3"} | {
        "again": "daskgmm fit rows.zarr", **others
    }  # fmt: skip


@pytest.mark.parametrize(
    ("others", "age", "state", "alive", "said"),
    [
        ({}, 95, "running", True, "runs: pass 3, 25% of it done."),
        ({"process_began": "1"}, 1, "dead", False, "died without a word in pass 3"),
        ({"host": "elsewhere"}, 29, "running", True, "runs: pass 3"),
        ({"host": "elsewhere"}, 95, "silent", None, "has not been heard of for 95 s: last in pass 3"),
        ({"space": "another container"}, 95, "silent", None, "Look on"),
        ({"host": "elsewhere"}, -5, "running", True, "last word 0 s ago"),
        ({"state": "failed", "exit_code": 65, "message": "Bad."}, 5000, "failed", False, "exit code 65: Bad."),
    ],
)
def test_what_a_record_means(others: dict[str, Any], age: float, state: str, alive: bool | None, said: str) -> None:
    found = judged(record(**others), now=1000.0 + age)
    assert (found["state"], found["alive"]) == (state, alive)
    assert said in status_text(found)
    if alive:
        assert found["remaining_seconds"] == 300 - max(age, 0)
        assert found["expected_end"] == 1000 + age + 300 - max(age, 0)
    else:
        assert found["remaining_seconds"] is None


def test_a_process_that_waits_to_be_buried_is_dead() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        began = Path(f"/proc/{process.pid}/stat").read_text().split()[21]
        seen = record(process=process.pid, process_began=began)
        assert judged(seen, now=1001.0)["alive"] is True
        process.kill()
        wait_for(lambda: judged(seen, now=1001.0)["state"] == "dead", seconds=10)
    assert this_process()["process"] == os.getpid()


def test_each_part_of_a_pass_is_told(small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 1000)
    heard: list[Underway] = []

    class Hearing(Checkpoint):
        def passing(self, underway: Underway) -> None:
            super().passing(underway)
            heard.append(underway)

    X, kept = open_rows(str(small_store)), Hearing.at(str(tmp_path / "kept"))
    options = FitOptions(n_components=2, max_iter=2, tol=0.0, escape=False, cache=False)
    fit_mixture(X, options, executor=LocalExecutor(), checkpoint=kept)
    assert kept.underway is None
    assert list(dict.fromkeys(each.name for each in heard)) == ["survey", "em", "closing"]
    last = [each for each, after in zip(heard, [*heard[1:], Underway("")], strict=True) if after.n_done == 0]
    for each in [e for e in last if e.n_done]:
        assert each.share == 1
    assert {each.n_parts for each in heard if each.n_done} == {5}, "chunks, each a partition"
    assert sum(each.n_done == 5 for each in heard) == 4


# -- metrics -----------------------------------------------------------------------------------------------------


def metric_values(text: str, name: str, label: str) -> dict[str, float]:
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return {sample.labels[label]: sample.value for sample in families[name].samples}


def test_metrics_are_what_prometheus_reads() -> None:
    found = record(**{key: 1.5 for *_, key in METRICS})
    families = {family.name: family for family in text_string_to_metric_families(metrics_text(found))}
    for name, kind, text, _ in METRICS:
        family = families.pop(name.removesuffix("_total"))
        assert (family.type, family.documentation) == (kind, text)
        (sample,) = family.samples
        assert (sample.name, sample.labels, sample.value) == (name, {"output": 'night "1".zarr'}, 1.5)
    assert families.keys() == {"daskgmm_info", "daskgmm_state"}
    assert families["daskgmm_info"].samples[0].labels["command"] == "fit"
    assert all(name.endswith("_total") == (kind == "counter") for name, kind, *_ in METRICS)


def test_metrics_are_documented() -> None:
    text = "".join(path.read_text() for path in CLUSTER.glob("*.md"))
    names = {name for name, *_ in METRICS} | {"daskgmm_info", "daskgmm_state", "daskgmm_converged"}
    assert set(re.findall(r"daskgmm_[a-z_]+", text)) == names


def test_metrics_of_a_fit_that_is_done(tmp_path: Path, small_store: Path) -> None:
    arguments = ("fit", small_store, *QUICK, "-o", tmp_path / "m.zarr", "--metrics", tmp_path / "fit.prom")
    result = strict(call(*arguments).stdout)
    for _ in range(2):
        text = (tmp_path / "fit.prom").read_text()
        assert metric_values(text, "daskgmm_state", "state")["done"] == 1
        assert metric_values(text, "daskgmm_converged", "output") == {str(tmp_path / "m.zarr"): 1}
        if "rows_total" in text and result["skipped"] is False:
            assert metric_values(text, "daskgmm_passes", "output") == {str(tmp_path / "m.zarr"): result["n_passes"]}
        (tmp_path / "fit.prom").unlink()
        result = strict(call(*arguments).stdout)
    assert result["skipped"] is True
    assert "must be a path that ends with .prom" in call(*arguments[:-1], tmp_path / "fit.txt", code=64).stderr
    assert "must lie outside of INPUT" in call(*arguments[:-1], small_store / "fit.prom", code=64).stderr
    assert "The folder of --metrics must exist" in call(*arguments[:-1], tmp_path / "no" / "fit.prom", code=73).stderr


def test_what_cannot_be_noted_is_told_once_and_does_not_matter(
    tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "EVERY_SECONDS", 0.01)
    folder = tmp_path / "metrics"
    folder.mkdir()

    def remove() -> None:
        wait_for((folder / "fit.prom").exists)
        while folder.exists():  # (a file may just be written)
            shutil.rmtree(folder, ignore_errors=True)

    threading.Thread(target=remove, daemon=True).start()
    short = ("-k", 3, "--restarts", 1, "--no-escape", "--tol", 0, "--max-iter", 200)
    done = call("fit", small_store, *short, "-o", tmp_path / "m.zarr", "--metrics", folder / "fit.prom", code=3)
    assert done.stderr.count("Nobody can see how far this is (daskgmm status): --metrics must be writable; got ") == 1
    assert strict(done.stdout)["n_iter"] > 0
