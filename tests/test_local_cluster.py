"""The local cluster of a command: worker processes that do not start."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.stores import two_groups


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of 73 MiB in four partitions."""
    return two_groups(tmp_path_factory.mktemp("local") / "rows.zarr", 300_000)


def fit(store: Path, output: Path, *options: object) -> list[str]:
    arguments = ("fit", store, "-k", 2, "-o", output, "--restarts", 1, "--start-rows", 2000, "--workers", 2, *options)
    return [sys.executable, "-m", "daskgmm", *map(str, arguments)]


# -- workers that do not start -----------------------------------------------------------------------------------------
def with_workers_that(do: str, folder: Path) -> dict[str, str]:
    """The environment in which worker processes, and no others, begin with these lines; each makes a file first."""
    lines = [
        "import os, pathlib, sys, time",
        "if '--multiprocessing-fork' in sys.orig_argv:",
        f"    pathlib.Path({str(folder)!r}, f'{{os.getpid()}}.worker').touch()",
        f"    {do}",
    ]
    (folder / "sitecustomize.py").write_text("\n".join(lines))
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def workers_of(folder: Path) -> list[int]:
    """The numbers of the worker processes that have begun."""
    return [int(path.stem) for path in folder.glob("*.worker")]


HANG = "time.sleep(600)"
DIE = "print('no memory', file=sys.stderr, flush=True); os._exit(3)"


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (HANG, r"Worker processes must start within 4 s; got some that had not\. .* wait longer \(--workers-timeout\)"),
        # The second cannot make the folder, and starts.
        (
            "try: os.mkdir(__file__ + '.first')\n    except OSError: pass\n    else: time.sleep(600)",
            r"must start within 4 s",
        ),
        (DIE, r"Worker processes must start; got one that ended before it had \(.+\)\. Look at what it wrote above"),
    ],
    ids=["hang", "one hangs", "die"],
)
def test_workers_that_do_not_start_end_the_command_in_time(store: Path, tmp_path: Path, do: str, message: str) -> None:
    began = time.monotonic()
    done = subprocess.run(
        fit(store, tmp_path / "m.zarr", "--workers-timeout", 4),
        env=with_workers_that(do, tmp_path), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 69, done.stderr
    assert time.monotonic() - began < 20  # (4 s are the cluster's; Python's imports take the others on a busy machine)
    last = done.stderr.splitlines()[-1]
    assert re.search(message, last)
    assert "Traceback" not in done.stderr
    assert ("no memory" in done.stderr) == (do == DIE)
    assert workers_of(tmp_path)
    assert not any(psutil.pid_exists(number) for number in workers_of(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_whose_workers_do_not_start(
    store: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(
        fit(store, tmp_path / "m.zarr"), stderr=subprocess.PIPE, text=True, env=with_workers_that(HANG, tmp_path)
    ) as process:
        while len(workers_of(tmp_path)) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=30) == 75
        assert time.monotonic() - began < 10
        assert process.stderr is not None
        assert f"Interrupted by {number.name}" in process.stderr.read()
    assert not any(psutil.pid_exists(number) for number in workers_of(tmp_path))
