"""`daskgmm plan`: it states what the fit states, reads one partition once, and what it advises works."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from click.testing import CliRunner, Result
from distributed import LocalCluster

from daskgmm.cli import plan_command, planning
from daskgmm.cli.advice import advice
from daskgmm.cli.commands import gmm
from daskgmm.cli.input import Input
from daskgmm.cli.planned import Planned
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.forecast import TASK_SECONDS, Range, em_passes, forecast, longest_share
from daskgmm.fitting.need import checkpoint_bytes, fit_need
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.trial import LEAST_BYTES, MOST_BYTES, Costs, Tried, shares, spread, tried
from daskgmm.kernels.gap_bytes import gap_bytes
from daskgmm.mixture.shapes.full import FULL
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.memory import stated_bytes
from daskgmm.passes.rows import Rows
from daskgmm.sources.opening import open_rows
from daskgmm.sources.partition import MIB
from daskgmm.sources.zarr_reader import ZarrReader
from daskgmm.stores.checkpoint import Checkpoint
from tests.clusters import LOCAL
from tests.groups import two_groups


def call(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(gmm, [str(a) for a in arguments], prog_name="daskgmm")
    assert done.exit_code == code, (done.stderr, done.exception)
    return done


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of 78 MiB in four partitions."""
    return two_groups(tmp_path_factory.mktemp("plan") / "rows.zarr", 320_000)


@pytest.fixture(scope="module")
def spare() -> Rows:
    """The rows of an array of zeros that nobody stored: 32 GB in 500 partitions."""
    array = zarr.create_array({}, shape=(10**9, 8), chunks=(10**5, 8), dtype="f4")
    return Rows.plan(open_rows(array), None)


COSTS = Tried(0, 2, 10**6, 32 * 10**6, 0, Costs(2e-7, 1e-7, 1e-7, 4e-7), 1.0, 1.0, 1.0)


# -- what is planned is what happens --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [("-k", 3), ("-k", 5, "--covariance", "diag", "--init", "k-means||", "--restarts", 3)]
)
def test_a_plan_states_what_the_fit_states(options: tuple[Any, ...], store: Path, tmp_path: Path) -> None:
    here = ("--workers", 2, "--memory-limit", "900MiB", "--cache", "no", *options)
    planned = json.loads(call("plan", store, *here).stdout)
    fitted = json.loads(call("fit", store, *here, "--max-iter", 1, "-o", tmp_path / "m.zarr", code=3).stdout)
    for name in ("rows", "partitions", "workers"):
        assert planned[name] == fitted[name]
    memory = planned["memory"]
    for name in ("stated_peak_bytes", "stated_driver_bytes", "memory_limit"):
        assert memory[name] == fitted[name]
    assert fitted["peak_worker_bytes"] <= memory["stated_peak_bytes"] <= memory["memory_limit"]
    assert planned["decoded_bytes"] == 320_000 * 32 * 8
    files = [file for file in store.rglob("*") if file.is_file()]
    assert planned["stored_bytes"] == sum(file.stat().st_size for file in files)
    assert planned["tried"]["bytes_read"] == 80_000 * 32 * 8, "one partition, once"
    assert planned["pass"]["seconds"] > 0
    assert 0 < planned["total_seconds"][0] < planned["total_seconds"][1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.zarr"], "a plan writes nothing"


def test_one_partition_is_tried_in_this_process(small_store: Path, tmp_path: Path) -> None:
    planned = json.loads(call("plan", small_store, "-k", 3, "--standardize").stdout)
    fitted = json.loads(call("fit", small_store, "-k", 3, "--standardize", "-o", tmp_path / "m.zarr").stdout)
    assert (planned["partitions"], planned["workers"], planned["tried"]["threads"]) == (1, 0, 1)
    assert planned["memory"]["stated_driver_bytes"] == fitted["stated_driver_bytes"]
    assert planned["tried"]["bytes_read"] == planned["decoded_bytes"] == planned["memory"]["kept_bytes"] == 3000 * 16


def test_each_row_of_one_partition_is_read_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    read = ZarrReader.read

    def noted(self: ZarrReader, start: int, stop: int) -> Any:
        asked.append((start, stop))
        return read(self, start, stop)

    monkeypatch.setattr(ZarrReader, "read", noted)
    rows = Rows.plan(open_rows(store), None)
    found = tried(rows, FitOptions(n_components=4), LocalExecutor())
    begins, ends = zip(*sorted(asked), strict=True)
    assert begins[1:] == ends[:-1], "none twice, none left out"
    # (A thread alone goes over 32 MiB at most; a partition has 20 MB.)
    assert (begins[0], ends[-1]) == tuple(rows.edges[found.partition : found.partition + 2])
    assert found.n_rows == ends[-1] - begins[0]
    assert all(seconds > 0 for seconds in found.a_row)


def test_weights_are_read_with_the_rows(store: Path, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "w.zarr", data=np.ones(320_000), chunks=(20_000,))
    planned = json.loads(call("plan", store, "-k", 2, "--weights", tmp_path / "w.zarr", "--workers", 1).stdout)
    assert planned["tried"]["bytes_read"] == 80_000 * 33 * 8


def test_errors_and_labels_are_read_with_the_rows(small_rows: np.ndarray, tmp_path: Path) -> None:
    """Standard deviations, covariances, one error for all, and classes; each as in the fit, whose memory is stated."""
    np.save(tmp_path / "X.npy", small_rows)
    np.save(tmp_path / "deviations.npy", np.full((3000, 2), 0.1))
    np.save(tmp_path / "matrices.npy", np.tile([0.1, 0.0, 0.0, 0.1], (3000, 1)))
    np.save(tmp_path / "one.npy", np.diag([0.1, 0.2]))
    np.save(tmp_path / "labels.npy", np.arange(3000) % 4 - 1)
    for option, place, columns in (
        ("--errors", "deviations.npy", 2), ("--errors", "matrices.npy", 4), ("--errors", "one.npy", 0),
        ("--labels", "labels.npy", 1),
    ):  # fmt: skip
        asked = (tmp_path / "X.npy", "-k", 3, option, tmp_path / place)
        planned = json.loads(call("plan", *asked).stdout)
        assert planned["tried"]["bytes_read"] == 3000 * 8 * (2 + columns), place
        done = json.loads(call("fit", *asked, "-o", tmp_path / f"{place}.zarr").stdout)
        assert planned["memory"]["stated_peak_bytes"] == done["stated_peak_bytes"]
    refused = call("plan", tmp_path / "X.npy", "-k", 3, "--errors", tmp_path / "one.npy", "--noise", "yes", code=64)
    assert "--noise must be left out with --errors" in refused.stderr


def test_rows_with_gaps_are_tried_as_a_fit_computes_them(tmp_path: Path) -> None:
    """Nearly each row has a gap: they count, and cost what a correction of each does; their memory is stated."""
    rows = np.random.default_rng(0).normal(size=(20_000, 16))
    full = tmp_path / "full.npy"
    np.save(full, rows)
    rows[np.random.default_rng(1).random(rows.shape) < 0.2] = np.nan
    np.save(tmp_path / "gaps.npy", rows)
    whole = json.loads(call("plan", full, "-k", 16).stdout)
    planned = json.loads(call("plan", tmp_path / "gaps.npy", "-k", 16, "--non-finite", "marginalize").stdout)
    assert not any("NaN" in said for said in planned["advice"])
    # (Of three values a row it took 9 times what complete rows do.)
    assert planned["tried"]["seconds_a_row"]["compute"] > 2 * whole["tried"]["seconds_a_row"]["compute"]
    assert planned["memory"]["stated_peak_bytes"] - whole["memory"]["stated_peak_bytes"] >= gap_bytes(FULL, 16, 16)


def test_what_is_known_of_parameters_can_be_planned(small_store: Path) -> None:
    for options in (("--covariance-prior", "weak"), ("--covariance-floor", "relative 1e-3"), ("--noise", "yes")):
        assert json.loads(call("plan", small_store, "-k", 3, *options).stdout)["components"] == 3


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("n_components", [1, 3])
def test_every_kind_can_be_tried(kind: str, n_components: int, small_store: Path) -> None:
    planned = json.loads(call("plan", small_store, "-k", n_components, "--covariance", kind).stdout)
    assert planned["passes"] == ([3, 3] if n_components == 1 else [4, 6])
    assert planned["pass"]["binds"] in ("storage", "decoding", "computing", "scheduler")


def test_rows_that_are_all_alike_or_not_finite_can_be_tried(tmp_path: Path) -> None:
    rows = np.zeros((5000, 3))
    rows[:2500] = np.nan
    np.save(tmp_path / "X.npy", rows)
    planned = json.loads(call("plan", tmp_path / "X.npy", "-k", 4).stdout)
    assert planned["advice"][0] == (
        "2,500 of the 5,000 rows that were tried hold a NaN or an infinity, which a fit refuses: --non-finite drop "
        "leaves such rows out."
    )
    call("fit", tmp_path / "X.npy", "-k", 4, "-o", tmp_path / "m.zarr", code=65)
    call("fit", tmp_path / "X.npy", "-k", 1, "-o", tmp_path / "m.zarr", "--non-finite", "drop")


def test_a_plan_on_a_running_scheduler_uses_its_workers(store: Path, cluster: Any) -> None:
    planned = json.loads(call("plan", store, "-k", 3, "--scheduler", cluster.scheduler_address).stdout)
    assert (planned["workers"], planned["threads"], planned["tried"]["threads"]) == (2, 2, 2)
    assert planned["memory"]["memory_limit"] == 2 << 30


# -- shares and arithmetic ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2, 3, 7, 200])
@pytest.mark.parametrize("step", [100, 7_000, 200_000])
def test_shares_are_whole_runs_that_overlap_nowhere(n_threads: int, step: int) -> None:
    edges = np.append(np.arange(0, 1_000_000, step), 1_000_000)
    found = shares(edges, 200_000, 600_000, row_bytes=128, n_threads=n_threads)
    assert found[0][0] == 200_000
    assert all(a < b for a, b in found)
    assert all(b == c for (_, b), (c, _) in pairwise(found))
    assert all(b in edges or b == 600_000 for _, b in found)
    assert found[-1][1] <= 600_000
    assert len(found) <= min(n_threads, 400_000 * 128 // LEAST_BYTES)
    assert max(b - a for a, b in found) * 128 <= MOST_BYTES + step * 128
    assert n_threads == 1 or len(found) > 1


def test_threads_of_a_worker_come_after_those_of_others() -> None:
    assert spread({"a": 2, "b": 1, "c": 3}) == ["a", "b", "c", "a", "c", "c"]


def test_a_pass_takes_what_its_longest_thread_takes(spare: Rows) -> None:
    # 500 tasks of 2,000,000 rows, on 200 threads: two or three each.
    rows = replace(spare, per_task=1)
    n_tasks = rows.n_tasks
    most = -(-n_tasks // 200) * int(np.diff(rows.edges).max())
    assert most - int(np.diff(rows.edges).max()) < longest_share(rows, 200) <= most
    assert longest_share(rows, 1) == 10**9
    need = fit_need([FitOptions(n_components=4)], rows.X)
    ahead = forecast(COSTS, rows, need, FitOptions(n_components=4), n_threads=200)
    # One core a thread: decoding and computing one after the other, as reading waits less than they take.
    assert ahead.em.seconds == pytest.approx(1.1 * longest_share(rows, 200) * 5e-7 + 0.02)
    assert ahead.em.binds == "computing"
    spared = forecast(replace(COSTS, threads_a_core=0.5), rows, need, FitOptions(n_components=4), n_threads=200)
    assert spared.em.seconds == pytest.approx(1.1 * longest_share(rows, 200) * 4e-7 + 0.02)
    kept = forecast(COSTS, rows, need, FitOptions(n_components=4), n_threads=200, kept=1.0)
    assert kept.em.seconds == pytest.approx(1.1 * longest_share(rows, 200) * 4e-7 + 0.02)
    assert kept.survey.seconds > kept.em.seconds / 4, "the first pass reads"
    slow = replace(COSTS, a_row=COSTS.a_row._replace(read=1e-6))
    waiting = forecast(slow, rows, need, FitOptions(n_components=4), n_threads=200)
    assert waiting.em.seconds == pytest.approx(1.1 * longest_share(rows, 200) * 1e-6 + 0.02)
    assert waiting.em.binds == "storage"
    many = forecast(COSTS, rows, need, FitOptions(n_components=4), n_threads=10**6)
    assert many.em.schedule == pytest.approx(TASK_SECONDS * n_tasks)
    frugal = forecast(COSTS, replace(rows, prefetch=False), need, FitOptions(n_components=4), n_threads=200)
    assert frugal.em.seconds == pytest.approx(1.1 * longest_share(rows, 200) * 6e-7 + 0.02)


def test_passes_are_a_range_that_follows_tol_and_ends_at_max_iter() -> None:
    options = FitOptions(n_components=4)
    assert em_passes(options) == Range(2, 4)
    assert em_passes(replace(options, tol=5e-4)) == Range(2, 7), "no fewer than the next smaller tol takes"
    assert em_passes(replace(options, tol=1e-7)) == Range(5, 21)
    assert em_passes(replace(options, tol=1e-12)) == Range(5, 21)
    assert em_passes(replace(options, tol=1e-7, max_iter=9)) == Range(5, 9)
    assert em_passes(replace(options, tol=0.0)) == Range(100, 100)
    assert em_passes(replace(options, acceleration=None)) == Range(2, 8)
    assert em_passes(replace(options, init_params="k-means||")) == Range(4, 17)
    assert em_passes(FitOptions()) == Range(1, 1)


@pytest.mark.parametrize("options", [{}, {"init_params": "k-means||", "n_init": 4}])
def test_a_checkpoint_takes_no_more_than_is_planned(options: dict[str, Any], tmp_path: Path) -> None:
    model = FitOptions(n_components=4, tol=1e-12, max_iter=3, **options)
    X = open_rows(two_groups(tmp_path / "rows.zarr", 40_000))
    rows = Rows.plan(X, None)
    planned = checkpoint_bytes(model, rows, fit_need([model], X))
    place, most = tmp_path / "checkpoint", 0

    def look(_: Any) -> None:
        nonlocal most
        most = max(most, sum(file.stat().st_size for file in place.rglob("*") if file.is_file()))

    fit_mixture(X, model, executor=LocalExecutor(), listener=look, checkpoint=Checkpoint.at(str(place), every=0.0))
    assert planned / 10 < most <= planned


# -- memory that does not do ----------------------------------------------------------------------------------------


def test_memory_that_can_never_do_is_an_error_whose_remedy_works(store: Path) -> None:
    here = (store, "-k", 3, "--workers", 2)
    done = call("plan", *here, "--memory-limit", "100MiB", code=65)
    assert re.search(r"A task must fit in a worker's memory, 100 MiB a task; got a need of \d+ MiB", done.stderr)
    (limit,) = re.findall(r"With --memory-limit (\d+)MiB it fits\.", done.stderr)
    planned = json.loads(call("plan", *here, "--memory-limit", f"{limit}MiB").stdout)
    assert planned["memory"]["stated_peak_bytes"] <= int(limit) << 20
    call("plan", *here, "--memory-limit", f"{int(limit) - 64}MiB", code=65)


def test_fewer_workers_are_advised_where_the_machine_has_no_memory_for_all(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 2000 << 20)
    done = call("plan", store, "-k", 3, "--workers", 5, code=65)
    (n_workers,) = re.findall(r"With --workers (\d) it fits\.", done.stderr)
    assert json.loads(call("plan", store, "-k", 3, "--workers", n_workers).stdout)["workers"] == int(n_workers)


def test_one_partition_that_does_not_fit_names_a_limit_that_does(small_store: Path) -> None:
    done = call("plan", small_store, "-k", 3, "--memory-limit", "50MiB", code=65)
    (limit,) = re.findall(r"With --memory-limit (\d+)MiB it fits\.", done.stderr)
    call("plan", small_store, "-k", 3, "--memory-limit", f"{limit}MiB")


def test_workers_that_run_already_are_told_what_would_suffice(store: Path) -> None:
    with LocalCluster(1, threads_per_worker=2, memory_limit="300MiB", **LOCAL) as own:
        done = call("plan", store, "-k", 3, "--scheduler", own.scheduler_address, code=65)
    (limit,) = re.findall(r"more memory where they are started \(dask worker --memory-limit (\w+)\)", done.stderr)
    with LocalCluster(1, threads_per_worker=2, memory_limit=limit, **LOCAL) as own:
        found = json.loads(call("plan", store, "-k", 3, "--scheduler", own.scheduler_address).stdout)["memory"]
        asked = yaml.safe_load(
            call("plan", store, "-k", 3, "--scheduler", own.scheduler_address, "--for", "kubernetes").stdout
        )
    assert found["stated_peak_bytes"] <= 0.8 * found["memory_limit"]
    assert asked["worker"]["args"][-4:] == ["--nthreads", "2", "--memory-limit", limit]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nowhere.zarr", "-k", 3), 66, "nowhere.zarr"),
        (("STORE",), 64, "Missing option '-k' / '--components'"),
        (("STORE", "-k", 3, "--for", "pbs"), 64, "'pbs' is not one of 'slurm', 'kubernetes'"),
        (("STORE", "-k", 4000), 65, "4000"),
        (("STORE", "-k", 3, "--scheduler", "tcp://127.0.0.1:9", "--workers-timeout", 1), 69, "127.0.0.1:9"),
    ],
)
def test_what_is_wrong_ends_as_in_a_fit(
    arguments: tuple[object, ...], code: int, message: str, small_store: Path
) -> None:
    done = call("plan", *(small_store if a == "STORE" else a for a in arguments), code=code)
    assert message in done.stderr
    assert done.stdout == ""


# -- advice ---------------------------------------------------------------------------------------------------------


def planned_of(rows: Rows, found: Tried = COSTS, options: FitOptions | None = None, **changes: Any) -> Planned:
    options = options or FitOptions(n_components=4, cache=False)
    need = changes.pop("need", fit_need([options], rows.X))
    n_threads = changes.get("n_threads", 2)
    ahead = forecast(found, rows, need, options, n_threads=n_threads)
    known: dict[str, Any] = {
        "wanted": need, "n_workers": 2, "n_threads": 2, "worker_bytes": 300 * MIB, "driver_bytes": 400 * MIB,
        "worker_limit": 512 * MIB, "kept_bytes": 0, "startup": 2.0,
    }  # fmt: skip
    return Planned(rows=rows, need=need, tried=found, forecast=ahead, **(known | changes))


def advised(planned: Planned, options: FitOptions | None = None, *, non_finite: str = "error") -> str:
    return "\n".join(advice(planned, options or FitOptions(n_components=4), Input("", non_finite=non_finite)))


def test_reading_ahead_is_advised_with_the_limit_that_lets_it(spare: Rows) -> None:
    needed = stated_bytes(spare, fit_need([FitOptions(n_components=4)], spare.X))
    said = advised(replace(planned_of(replace(spare, prefetch=False)), worker_limit=needed - 1))
    (limit,) = re.findall(r"to read ahead while it computes: --memory-limit (\d+)MiB or more lets it\.", said)
    assert needed <= int(limit) << 20 < needed + 64 * MIB
    paused = advised(replace(planned_of(replace(spare, prefetch=False)), worker_limit=2 * needed))
    (more,) = re.findall(r"to read ahead while it computes: --memory-limit (\d+)MiB or more lets it\.", paused)
    assert int(more) << 20 > 2 * needed, "more than it has, of which Dask or others leave less"
    assert "read ahead" not in advised(planned_of(spare))


def test_candidates_that_do_not_go_together_are_named(spare: Rows) -> None:
    need = replace(fit_need([FitOptions(n_components=4)], spare.X), n_candidates=2)
    said = advised(planned_of(spare, need=need, wanted=replace(need, n_candidates=8)))
    assert "Only 2 of 8 candidates go in one pass for lack of memory" in said
    assert "raise --memory-limit above 512 MiB, or lower --restarts." in said


def test_smaller_chunks_are_advised_by_a_command_that_makes_them() -> None:
    array = zarr.create_array({}, shape=(2 * 10**7, 8), chunks=(2 * 10**6, 8), dtype="f4")
    said = advised(planned_of(Rows.plan(open_rows(array), None)))
    assert "Chunks of 62 MiB are what a worker's memory is taken by." in said
    assert ".rechunk((524288, 8)).to_zarr" in said


def test_threads_are_advised_to_be_processes_and_no_more_than_tasks(spare: Rows) -> None:
    said = advised(planned_of(spare, n_workers=2, n_threads=8))
    assert "Workers have 4 threads each" in said
    assert "dask worker --nthreads 1" in said
    n = spare.n_tasks
    assert f"{n + 5} threads have {n} tasks, so that 5 are idle: take {n}" in advised(
        planned_of(spare, n_workers=n + 5, n_threads=n + 5)
    )


def test_more_workers_are_advised_where_they_gain_and_it_takes_long(spare: Rows) -> None:
    said = advised(planned_of(spare))
    assert re.search(r"Twice as many workers, on cores of their own, bring a pass to \d+ \w+\.", said)
    quick = replace(COSTS, a_row=Costs(2e-9, 1e-9, 1e-9, 4e-9))
    assert "Twice" not in advised(planned_of(spare, quick))


def test_single_precision_is_advised_with_its_gain(spare: Rows) -> None:
    found = replace(COSTS, single=0.6)
    assert "--precision single computes in 60% of the time, good to 1e-3 nats a row." in advised(
        planned_of(spare, found)
    )
    single = FitOptions(n_components=4, precision="single")
    assert "--precision" not in advised(planned_of(spare, found, single), single)
    assert "--precision" not in advised(planned_of(spare))


def test_what_decoding_or_storage_binds_is_told_to_be_kept(spare: Rows) -> None:
    slow = replace(COSTS, a_row=Costs(9e-7, 8e-7, 1e-7, 2e-7))
    said = advised(planned_of(spare, slow))
    (limit,) = re.findall(r"With --memory-limit (\d+)MiB all decoded rows stay in memory, and a pass after", said)
    # Half of both limits holds all rows, beside what the tasks take.
    assert int(limit) * MIB > spare.n_bytes
    waiting = replace(COSTS, a_row=Costs(2e-6, 1e-7, 1e-7, 2e-7))
    assert "Storage binds: more workers on this machine gain nothing" in advised(planned_of(spare, waiting))


def test_the_limit_that_keeps_all_rows_does(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(*args: Any, **kwargs: Any) -> Tried:
        return replace(tried(*args, **kwargs), a_row=Costs(9e-7, 8e-7, 1e-7, 2e-7))

    monkeypatch.setattr(planning, "tried", slowly)
    here = (store, "-k", 2, "--workers", 1, "--start-rows", 1000)
    said = json.loads(call("plan", *here, "--memory-limit", "450MiB").stdout)
    assert said["memory"]["kept_bytes"] == 0
    (limit,) = re.findall(r"With --memory-limit (\d+MiB) all decoded rows stay", "".join(said["advice"]))
    found = json.loads(call("plan", *here, "--memory-limit", limit).stdout)
    assert found["memory"]["kept_bytes"] == found["decoded_bytes"]


def test_it_is_said_where_others_have_the_cores_too(spare: Rows) -> None:
    assert "the threads of the trial got 40% of theirs" in advised(planned_of(spare, replace(COSTS, got=0.4)))
    assert "Other processes" not in advised(planned_of(spare))


def test_the_scheduler_is_named_where_it_binds(spare: Rows) -> None:
    quick = replace(COSTS, a_row=Costs(1e-12, 1e-12, 1e-12, 2e-12))
    assert "The scheduler binds: fewer workers do as well." in advised(planned_of(spare, quick))


def test_a_compiler_is_advised_where_there_is_none(spare: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.cli.advice.can_compile", lambda: False)
    assert 'pip install "daskgmm[compiled]"' in advised(planned_of(spare))
    monkeypatch.setattr("daskgmm.cli.advice.can_compile", lambda: True)
    assert "pip install" not in advised(planned_of(spare))


# -- how it is said -------------------------------------------------------------------------------------------------


def test_on_a_terminal_a_plan_is_text(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_command, "sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setattr(planning, "tried", lambda *_, **__: replace(COSTS, n_rows=80_000))
    here = ("plan", store, "-k", 3, "--workers", 1, "--memory-limit", "2GiB", "--cache", "no")
    lines = call(*here).stdout.splitlines()
    assert lines[0] == "rows        320,000 of 32 features, 78.1 MiB stored, 78.1 MiB decoded"
    assert lines[1] == "work        4 partitions in 4 tasks, on 1 worker of 1 thread"
    assert re.fullmatch(r"memory      a worker at most \d+ MiB of 2 GiB", lines[2])
    assert [line.split("  ")[0] for line in lines[3:] if not line.startswith(" ")] == [
        "tried", "a pass", "survey", "start", "passes", "in all", "checkpoint"
    ]  # fmt: skip
    assert "passes      4 to 6" in lines
    assert json.loads(call(*here, "--json").stdout)["passes"] == [4, 6]


def test_slurm_is_asked_for_what_workers_and_fit_take(store: Path) -> None:
    result = json.loads(call("plan", store, "-k", 3, "--workers", 3, "--for", "slurm", "--json").stdout)
    lines = result["resources"]
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", lines, flags=re.MULTILINE))
    assert set(asked) == {"ntasks", "cpus-per-task", "mem-per-cpu", "time"}
    assert asked["cpus-per-task"] == "1"
    assert re.fullmatch(r"0-\d\d:\d0:00", asked["time"])
    memory, per_task = result["memory"], int(asked["mem-per-cpu"].removesuffix("M")) << 20
    assert result["workers"] == 3
    assert asked["ntasks"] == "3"
    assert memory["stated_peak_bytes"] <= 0.7 * memory["memory_limit"]
    assert per_task >= memory["memory_limit"] + memory["stated_driver_bytes"]
    assert lines.endswith(f"MEMORY_LIMIT={memory['memory_limit'] >> 20}MiB")


def test_kubernetes_is_asked_for_what_workers_and_fit_take(store: Path) -> None:
    done = call("plan", store, "-k", 3, "--workers", 3, "--memory-limit", "700MiB", "--for", "kubernetes")
    asked = yaml.safe_load(done.stdout)
    assert asked["worker"]["replicas"] == 3
    assert asked["worker"]["args"] == [
        "dask", "worker", "--nworkers", "1", "--nthreads", "1", "--memory-limit", "700MiB"
    ]  # fmt: skip
    for name, least in (("worker", 700), ("driver", 300)):
        resources = asked[name]["resources"]
        assert resources["requests"]["cpu"] == "1"
        assert resources["requests"]["memory"] == resources["limits"]["memory"]
        assert int(resources["limits"]["memory"].removesuffix("Mi")) >= least
    assert asked["driver"]["activeDeadlineSeconds"] % 600 == 0


def test_one_partition_needs_no_workers(small_store: Path) -> None:
    """SLURM's job starts one nevertheless, beside a scheduler."""
    asked = yaml.safe_load(call("plan", small_store, "-k", 3, "--workers", 3, "--for", "kubernetes").stdout)
    assert list(asked) == ["driver"]
    result = json.loads(call("plan", small_store, "-k", 3, "--workers", 3, "--for", "slurm", "--json").stdout)
    lines = result["resources"].splitlines()
    assert lines[0] == "#SBATCH --ntasks=1"
    limit = int(lines[-1].rpartition("MEMORY_LIMIT=")[2].removesuffix("MiB")) << 20
    task = int(lines[2].rpartition("=")[2].removesuffix("M")) << 20
    assert result["memory"]["stated_peak_bytes"] <= 0.7 * limit
    assert task >= limit + result["memory"]["stated_driver_bytes"]


def test_the_benchmark_sets_plans_beside_what_happens(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "examples/benchmarks/plan.py"
    command = [sys.executable, script, "--rounds", "1", "--mib", "1", "--only", "8", "--output", tmp_path / "plan.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads((tmp_path / "plan.json").read_text())["records"]
    assert record["combination"] == "npy, 16 features, K=16, tied"
    assert record["n_rows"] == record["tried"]["rows"] == (1 << 20) // 64
    assert record["ratio"] == record["planned"][0] / record["happened"][0] > 0
    assert f"({record['ratio']:.2f}–{record['ratio']:.2f})" in done.stdout
