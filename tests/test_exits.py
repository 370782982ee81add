"""Every way out of the command line, by real processes: its documented code, one true line, and nothing half done."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import zarr

from daskgmm import GaussianMixture
from daskgmm.cli.commands import gmm

DASKGMM, FIT = f"{shlex.quote(sys.executable)} -m daskgmm", "fit x.npy --restarts 1 -o m.zarr"
#: Root reads and writes what it likes, but for this.
AS_OTHERS = "setpriv --bounding-set=-dac_override,-dac_read_search " if os.geteuid() == 0 else ""
#: What ends a command: Control-C, and what terminals and batch systems send.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)
#: A process that meets a bug.
BUGGY = "from daskgmm.cli import jobs\nfrom daskgmm.cli.commands import main\ndel jobs.fit_mixture\nmain()"

#: What is typed, its exit code, and its last line on stderr.
WAYS: dict[str, tuple[str, int, str]] = {
    "done": (f"{DASKGMM} {FIT} -k 1", 0, r"pass +\d+  closing .*"),
    "not converged": (f"{DASKGMM} {FIT} -k 2 --max-iter 1", 3, r"warning: The fit ended at --max-iter .*"),
    "usage": (f"{DASKGMM} {FIT}", 64, r"error: Missing option '-k' / '--components'\. See: daskgmm fit --help"),
    "usage of dask": (
        f"{Path(sys.executable).with_name('dask')} gmm {FIT}",
        64, r"error: Missing option .* See: dask gmm fit --help",
    ),
    "no command": (DASKGMM, 64, r" +mstep .*"),
    "bad rows": (f"{DASKGMM} fit nan.npy -k 1 -o m", 65, r"error: INPUT must be finite; got 1 rows .* row 7\..*"),
    "weights too large": (
        f"{DASKGMM} {FIT} -k 1 --weights huge.npy", 65, r"error: --weights must sum to between .* Divide --weights .*",
    ),
    "memory of a worker": (
        f"{DASKGMM} {FIT} -k 1 --memory-limit 99MiB", 65, r"error: --memory-limit must be at least the \d+ MiB .*",
    ),
    "memory of the process": (
        f"ulimit -v 540000; {DASKGMM} {FIT} -k 1", 65, r"error: Memory must suffice.* Raise .*",
    ),
    "threads": (
        f"ulimit -s 3000000; ulimit -v 2500000; {DASKGMM} {FIT} -k 1",
        65, r"error: Memory must suffice, and threads; got can't start new thread\. Raise the limit .*",
    ),
    "no input": (f"{DASKGMM} fit no.npy -k 1 -o m.zarr", 66, r"error: INPUT must be an existing .*no\.npy.*"),
    "no model": (f"{DASKGMM} inspect no.zarr", 66, r"error: the model must be .* got nothing at no\.zarr.*"),
    "an unreadable file in a model": (
        f"{AS_OTHERS}{DASKGMM} inspect locked.zarr",
        66, r"error: the model must be readable; got Permission denied for .*locked\.zarr.*",
    ),
    "no scheduler": (
        f"{DASKGMM} {FIT} -k 1 --scheduler tcp://127.0.0.1:9 --workers-timeout 1",
        69, r"error: The scheduler must answer within 1 s; got nothing from tcp://127\.0\.0\.1:9\. Check that .*",
    ),
    "no scheduler file": (
        f"{DASKGMM} {FIT} -k 1 --scheduler-file no.json --workers-timeout 0.2",
        69, r"error: --scheduler-file must appear within 0\.2 s; got nothing at no\.json\. Start .*",
    ),
    "a bug": (
        f"{shlex.quote(sys.executable)} -c {shlex.quote(BUGGY)} {FIT} -k 1",
        70, r"error: This is a bug of daskgmm: NameError: .*fit_mixture.* --debug .* report it\.",
    ),
    "no folder": (f"{DASKGMM} fit x.npy -k 1 -o no/m", 73, r"error: The folder of --output must exist; .* mkdir .*"),
    "a folder that may not be written": (
        f"{AS_OTHERS}{DASKGMM} fit x.npy -k 1 -o locked/m",
        73, r"error: The folder of --output must be writable; got .*locked, which is not\. Choose another place\.",
    ),
    "the input itself": (
        f"{DASKGMM} fit x.npy -k 1 -o x.npy", 64, r"error: --output must lie outside of INPUT; got x\.npy.*",
    ),
    "a full stdout": (
        f"{DASKGMM} {FIT} -k 1 > /dev/full", 73, r"error: stdout must take the result; got .* The work itself is .*",
    ),
    "no stdout": (
        f"{DASKGMM} {FIT} -k 1 >&-", 73, r"error: stdout must take the result; got .* The work itself is .*",
    ),
}  # fmt: skip


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str
    left: set[str]
    seconds: float


def ended(line: str, folder: Path) -> Ended:
    """What came of a line that is typed in a folder with some inputs."""
    folder.mkdir()
    rows = np.random.default_rng(0).normal(size=(400, 2))
    np.save(folder / "x.npy", rows)
    np.save(folder / "huge.npy", np.full(400, 1.7e308))
    rows[7, 1] = np.nan
    np.save(folder / "nan.npy", rows)
    (folder / "locked").mkdir(0o500)
    if "locked.zarr" in line:
        GaussianMixture(1).fit(rows[8:]).save(folder / "locked.zarr")
        (folder / "locked.zarr" / "means" / "zarr.json").chmod(0)
    before, began = set(os.listdir(folder)), time.monotonic()
    # (Threads of BLAS take addresses, of which some lines have few.)
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    seconds = time.monotonic() - began
    return Ended(done.returncode, done.stdout, done.stderr, set(os.listdir(folder)) - before, seconds)


@pytest.fixture(scope="module")
def ways(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Ended]]]:
    """What comes of each line that is asked for, some at a time."""
    folder = tmp_path_factory.mktemp("exits")
    asked = {test.callspec.params.get("name") for test in request.session.items if hasattr(test, "callspec")}
    with ThreadPoolExecutor(4) as threads:
        yield {
            name: threads.submit(ended, WAYS[name][0], folder / str(i)) for i, name in enumerate(WAYS) if name in asked
        }


@pytest.mark.parametrize("name", WAYS)
def test_each_way_out_has_its_code_and_one_line(name: str, ways: dict[str, Future[Ended]]) -> None:
    line, code, last = WAYS[name]
    if "setpriv" in line and shutil.which("setpriv") is None:
        pytest.skip("root may do everything without setpriv")
    done = ways[name].result()
    lines = done.stderr.splitlines()
    assert done.code == code, done.stderr
    assert re.fullmatch(rf"(\d\d:\d\d:\d\d  )?{last}", lines[-1]), done.stderr
    assert [one for one in lines if one.startswith("error:")] == lines[-1:] * last.startswith("error:")
    for noise in ("Traceback", "Exception ignored", "distributed."):
        assert noise not in done.stderr
    if code in (0, 3):
        assert json.loads(done.stdout)["output"] == "m.zarr"
    else:
        assert done.stdout == ""
    assert done.left == ({"m.zarr"} if code in (0, 3) or "is done" in done.stderr else set())


def test_every_documented_code_is_tried() -> None:
    documented = {int(code) for code in re.findall(r"(\d+) [a-z]", str(gmm.help).split("Exit codes:")[1])}
    assert documented == {code for _, code, *_ in WAYS.values()} | {75}


_BLAS = """
import resource, scipy.linalg
from daskgmm.passes.blas import blas_limit
kib = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, ((kib << 10) + (20 << 20),) * 2)
try:
    blas_limit.take()
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="how much is taken is read from /proc")
def test_buffers_of_blas_without_room_are_not_waited_for() -> None:
    """OpenBLAS would try for ever."""
    done = subprocess.run([sys.executable, "-c", _BLAS], capture_output=True, text=True, check=True, timeout=60)
    assert re.match(r"Memory must suffice for the buffers of BLAS, 68 MiB; got less .* MiB \(ulimit -v,", done.stdout)


#: The command line, whose reads of chunks take a while: say that they begin, and wait.
SLOW = """
import asyncio, sys, threading
from zarr.storage import LocalStore
from daskgmm.cli.commands import main
async def get(self, key, *args, real=LocalStore.get, **options):
    if key.startswith("c/"):
        print("reading", file=sys.stderr, flush=True)
        await asyncio.to_thread(threading.Event().wait, {seconds})
    return await real(self, key, *args, **options)
LocalStore.get = get
main()
"""
STUCK = SLOW.format(seconds=None)


def reading(program: str, *arguments: object, ignored: tuple[int, ...] = ()) -> subprocess.Popen[str]:
    """A process that has begun to read rows."""
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert process.stderr is not None
    while "reading" not in (line := process.stderr.readline()):
        assert line
    return process


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("rows") / "x.zarr"
    zarr.create_array(place, data=np.random.default_rng(0).normal(size=(400, 2)), chunks=(400, 2))
    return place


def test_signals_of_batch_systems_end_a_command_whose_read_never_comes_back(tmp_path: Path, rows: Path) -> None:
    def interrupted(number: signal.Signals) -> tuple[signal.Signals, int, str, str, float]:
        with reading(STUCK, "fit", rows, "-k", 1, "-o", tmp_path / f"{number.name}.zarr") as process:
            began = time.monotonic()
            process.send_signal(number)
            try:
                stdout, stderr = process.communicate(timeout=30)
            finally:
                process.kill()
            return number, process.returncode, stdout, stderr, time.monotonic() - began

    with ThreadPoolExecutor(len(SIGNALS)) as threads:
        for number, code, stdout, stderr, seconds in threads.map(interrupted, SIGNALS):
            assert (code, stdout) == (75, ""), (number, stderr)
            assert re.fullmatch(
                rf"error: Interrupted by {number.name} before the end.* Run the same .*", stderr.splitlines()[-1]
            )
            assert stderr.count("error:") == 1
            assert "Traceback" not in stderr
            assert seconds < 10
    assert os.listdir(tmp_path) == []


def test_signals_that_were_ignored_stay_ignored(tmp_path: Path, rows: Path) -> None:
    """As HUP is under nohup, and INT in the background of a script; one that was not still ends the command."""
    ignored = tuple(number for number in SIGNALS if number is not signal.SIGTERM)
    program, arguments = SLOW.format(seconds=2), ("fit", rows, "-k", 1, "--restarts", 1, "-o", tmp_path / "m.zarr")
    with reading(program, *arguments, ignored=ignored) as process:
        for number in ignored * 2:
            process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["converged"] is True
    with reading(STUCK, *arguments, "--force", ignored=ignored) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75
