"""The promise of memory on every road: what is said beforehand, and what is measured of all processes from outside."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr

import daskgmm
from daskgmm import GaussianMixture, select
from daskgmm.cli.work import Work
from daskgmm.errors import MemoryLimitError
from daskgmm.fitting.need import fit_need
from daskgmm.fitting.options import FitOptions
from daskgmm.mixture.family import family_called
from daskgmm.passes import memory as memory_module
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.memory import check_own_memory, peak_own_bytes
from daskgmm.passes.need import Need
from daskgmm.passes.rows import Rows
from daskgmm.places.dask_cluster import DaskCluster
from daskgmm.sources.opening import open_rows
from daskgmm.sources.partition import MIB
from daskgmm.stores.parquet_parts import LIBRARY_BYTES
from tests.groups import two_groups

PYTHON = """
import sys, warnings
from daskgmm import GaussianMixture
warnings.simplefilter("ignore")
mixture = GaussianMixture(4, max_iter=2, random_state=0).fit(sys.argv[1])
print('{"mean_log_likelihood": %r}' % mixture.score(sys.argv[1]))
"""


def measured(*arguments: object, code: str | None = None, ends: int = 0) -> tuple[int, int, dict[str, Any]]:
    """The high-water marks of a command's process, and of its largest worker, bytes; and its result."""
    command = [sys.executable, *(("-c", code) if code else ("-m", "daskgmm")), *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(daskgmm.__file__).parents[1])},
    )  # fmt: skip
    peaks: dict[int, list[int]] = {}
    told: list[str] = []
    waiting = threading.Thread(target=lambda: told.extend(process.communicate()))
    waiting.start()
    while waiting.is_alive():
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            if _session(pid) == process.pid:
                peaks.setdefault(pid, []).append(_high_water(pid))
        waiting.join(0.02)
    assert process.returncode == ends, told[1]
    own = max(peaks.pop(process.pid))
    # (A process that runs another program is for a moment as large as its parent: whoever stays is seen more often.)
    return own, max((max(seen) for seen in peaks.values() if len(seen) > 5), default=0), json.loads(told[0])


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _high_water(pid: int) -> int:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii"))
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def clusters(path: Path, n_rows: int, n_features: int, chunk_bytes: int = MIB) -> Path:
    """Path of rows of twenty Gaussians."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, n_features))[rng.integers(20, size=n_rows)] * 4 + rng.normal(size=(n_rows, n_features))
    zarr.create_array(path, data=X, chunks=(max(1, chunk_bytes // (8 * n_features)), n_features))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("promise")
    clusters(folder / "small.zarr", 3000, 2)
    X = clusters(folder / "wide.zarr", 20_000, 32)
    two_groups(folder / "large.zarr", 600_000)
    GaussianMixture(4, random_state=0, n_init=1, tol=1.0, escape=False, start_rows=500).fit(X).save(
        folder / "wide-model.zarr"
    )
    GaussianMixture(2, random_state=0, start_rows=500, tol=1.0).fit(folder / "large.zarr").save(
        folder / "large-model.zarr"
    )
    return folder


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")


@needs_proc
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", "small.zarr", "-k", 3),
        ("fit", "wide.zarr", "-k", 8, "--max-iter", 2),
        ("select", "small.zarr", "-k", "1:4"),
        ("predict", "wide-model.zarr", "wide.zarr"),
        ("predict", "wide-model.zarr", "wide.zarr", "--what", "proba"),
        ("predict", "wide-model.zarr", "wide.zarr", "--what", "score"),
        ("predict", "wide-model.zarr", "wide.zarr", "--what", "proba", "--output", "out.parquet"),
        ("score", "wide-model.zarr", "wide.zarr"),
    ],
    ids=lambda arguments: " ".join(map(str, arguments)),
)
def test_this_process_takes_no_more_than_it_says(arguments: tuple[str, ...], folder: Path, tmp_path: Path) -> None:
    own, workers, found = measured(*_placed(arguments, folder, tmp_path))
    assert workers < 50 * MIB, "there are none"
    most = 640 * MIB + (LIBRARY_BYTES if "out.parquet" in arguments else 0)
    assert 100 * MIB < own <= found["stated_peak_bytes"] == found["stated_driver_bytes"] <= most
    assert found["peak_driver_bytes"] == found["peak_worker_bytes"] <= found["stated_peak_bytes"]


@needs_proc
@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", "large.zarr", "-k", 2),
        ("predict", "large-model.zarr", "large.zarr", "--what", "proba"),
        ("predict", "large-model.zarr", "large.zarr", "--what", "proba", "--output", "out.parquet"),
    ],
    ids=lambda arguments: " ".join(map(str, arguments)),
)
def test_workers_and_what_drives_them_take_no_more(arguments: tuple[str, ...], folder: Path, tmp_path: Path) -> None:
    own, worker, found = measured(*_placed(arguments, folder, tmp_path), "--workers", 2, "--memory-limit", "512MiB")
    assert 100 * MIB < own <= found["stated_driver_bytes"] <= 768 * MIB
    assert 100 * MIB < worker <= found["stated_peak_bytes"] <= 512 * MIB
    assert 100 * MIB < found["peak_driver_bytes"] <= own + MIB, "which was asked for every 20 ms"


@needs_proc
def test_a_fit_in_python_takes_no_more(folder: Path) -> None:
    place = folder / "wide.zarr"
    own, _, _ = measured(place, code=PYTHON)
    X = open_rows(place)
    stated = peak_own_bytes(Rows.plan(X, None), fit_need([FitOptions(4)], X), driving=False)
    assert 100 * MIB < own <= stated


# -- refused before anything is read -------------------------------------------------------------------------------
@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 200 MiB, which is asked whatever is needed."""
    monkeypatch.setattr(memory_module, "_NO_QUESTION_BYTES", 0)
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 200 * MIB)


@pytest.mark.usefixtures("small_machine")
def test_python_refuses_what_this_process_cannot_hold(folder: Path) -> None:
    place, X = folder / "wide.zarr", np.ones((1000, 32))
    told = r"(This process|A task) must fit in the memory of this machine, 200 MiB; got a need of \d+ MiB for 32 "
    mixture = GaussianMixture.load(folder / "wide-model.zarr")
    for refused in (
        lambda: GaussianMixture(40).fit(place),
        lambda: GaussianMixture(40).fit(X),
        lambda: select(place, n_components=[40]),
        lambda: mixture.predict_proba(place),
        lambda: mixture.predict_proba(da.from_zarr(place)),
        lambda: mixture.score(place),
    ):
        with pytest.raises(MemoryLimitError, match=told):
            refused()
    big = np.broadcast_to(np.zeros(32, dtype=np.float32), (10_000_000, 32))
    with pytest.raises(MemoryLimitError, match="The prediction must fit in the memory of this machine, 200 MiB; got"):
        mixture.predict_proba(big)


@pytest.mark.usefixtures("small_machine")
def test_python_refuses_what_would_drive_workers(folder: Path, client: Any) -> None:
    with pytest.raises(MemoryLimitError, match="This process must fit in the memory of this machine, 200 MiB; got"):
        GaussianMixture(40).fit(folder / "large.zarr")


@pytest.mark.usefixtures("small_machine")
def test_workers_on_this_machine_are_counted(folder: Path) -> None:
    X = open_rows(folder / "large.zarr")
    rows, need = Rows.plan(X, None), fit_need([FitOptions(2)], X)
    message = "This process and 7 workers must fit in the memory of this machine, .* Take fewer workers, decrease"
    with pytest.raises(MemoryLimitError, match=message):
        check_own_memory(rows, need, LocalExecutor(), n_workers=7)
    work = Work(rows, need, DaskCluster(workers=3, memory_limit=1 << 40))
    with pytest.raises(MemoryLimitError, match="This process and 3 workers must"), work.on_machines(0.0):
        raise AssertionError("workers were started")


def test_what_drives_workers_grows_with_states_and_tasks(folder: Path, client: Any) -> None:
    rows, full = Rows.plan(open_rows(folder / "large.zarr"), None), family_called("full").shape
    few, many = (peak_own_bytes(rows, Need(full, 8, n_candidates=n), driving=True) for n in (1, 10))
    assert many - few == pytest.approx(9 * 2 * rows.n_tasks * Need(full, 8).state_bytes(32), rel=0.01)
    cut = Rows(rows.X, None, np.linspace(0, 600_000, 3001).astype(int), per_task=100)
    assert 20 * MIB < peak_own_bytes(cut, Need(full, 8), driving=True) - few < 100 * MIB


def _placed(arguments: tuple[Any, ...], folder: Path, tmp_path: Path) -> list[Any]:
    placed = [folder / a if str(a).endswith(".zarr") else a for a in arguments]
    if "--output" in placed:
        placed[-1] = tmp_path / placed[-1]
    return placed if arguments[0] == "score" or "--output" in placed else [*placed, "--output", tmp_path / "out.zarr"]
