"""Two jobs at one output: the second is told before it reads a row, and may start when the first has ended, however."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from daskgmm.stores.holding import LOCK, HeldError, held
from tests.test_cli import call, command
from tests.test_exits import STUCK, reading


def test_a_job_whose_output_another_one_works_at_is_refused_before_it_reads_a_row(
    tmp_path: Path, small_store: Path
) -> None:
    call("fit", small_store, "-k", 2, "-o", tmp_path / "fitted.zarr", "--restarts", 1)
    for output, arguments in (
        (tmp_path / "m.zarr", ("fit", small_store, "-k", 2, "--restarts", 1)),
        (tmp_path / "l.zarr", ("predict", tmp_path / "fitted.zarr", small_store)),
    ):
        arguments = (*arguments, "-o", output)
        with reading(STUCK, *arguments) as process:
            for options in ((), ("--force",)):
                (said,) = call(*arguments, *options, code=73).stderr.splitlines()
                assert said.startswith("error: the checkpoint must be written by one process alone; got one that ")
                assert f"that process {process.pid} on {os.uname().nodename} writes to, {output}.checkpoint. " in said
                assert said.endswith("Wait for that one to end, or stop it, and run the same command again.")
            process.kill()
        assert LOCK in os.listdir(f"{output}.checkpoint")
        call(*arguments)
    assert sorted(os.listdir(tmp_path)) == ["fitted.zarr", "l.zarr", "m.zarr", small_store.name]


def test_of_many_that_start_at_once_one_works_at_a_time(tmp_path: Path, small_store: Path) -> None:
    arguments = command("fit", small_store, "-k", 2, "-o", tmp_path / "m.zarr", "--restarts", 1)
    started = [subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    for process in started:
        process.communicate(timeout=100)
    codes = sorted(process.returncode for process in started)
    assert codes[0] == 0
    assert set(codes) <= {0, 73}
    assert sorted(os.listdir(tmp_path)) == ["m.zarr", small_store.name]


def test_a_folder_is_held_by_one_process_and_again_by_the_same(tmp_path: Path) -> None:
    folder = str(tmp_path / "c")
    program = f"from daskgmm.stores.holding import held\nwith held({folder!r}): pass"
    with held(folder), held(folder):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert f"{HeldError.__name__}: process {os.getpid()} on " in done.stderr
    assert not os.path.exists(folder)
    subprocess.run([sys.executable, "-c", program], check=True)


def _gets_in(folder: str) -> bool:
    program = f"from daskgmm.stores.holding import held\nwith held({folder!r}): pass"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


def test_it_is_held_until_the_last_one_of_a_process_has_left(tmp_path: Path) -> None:
    folder = str(tmp_path / "c")
    first, second = held(folder), held(f"{tmp_path}/./c")
    first.__enter__()
    with second:
        first.__exit__(None, None, None)
        assert not _gets_in(folder)
    assert _gets_in(folder)


def test_a_link_in_the_place_of_the_lock_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / LOCK).symlink_to(tmp_path / "mine")
    with held(str(tmp_path / "c")):
        pass
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_does_not_keep_what_its_parent_held(tmp_path: Path) -> None:
    folder = str(tmp_path / "c")
    program = f"""
import os, time
from daskgmm.stores.holding import held
with held({folder!r}):
    child = os.fork()
    if not child:
        time.sleep(60)
    print(child, flush=True)
    os._exit(0)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            parent.wait(30)
            assert _gets_in(folder)
        finally:
            os.kill(child, signal.SIGKILL)
