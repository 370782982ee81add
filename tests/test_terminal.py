"""What a fit shows on a terminal: a real one, of which pyte is the screen."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pyte
import pytest

import daskgmm

COLUMNS, LINES = 120, 30


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("terminal") / "rows.npy"
    rows = np.random.default_rng(0).normal(size=(2000, 2))
    rows[::3] += 3
    np.save(path, rows)
    return path


def on_a_terminal(*arguments: object, code: str = "", **environment: str) -> tuple[bytes, list[str]]:
    """What a command writes to a terminal that is its stderr, and the lines that then stand there."""
    leader, follower = pty.openpty()
    fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    program = f"{code}\nfrom daskgmm.cli.commands import main\nmain()"
    known = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    root = str(Path(daskgmm.__file__).parents[1])
    command = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=follower,
        env={**known, "PYTHONPATH": root, "TERM": "xterm-256color", **environment},
    )  # fmt: skip
    os.close(follower)
    written = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # (nobody has the other end any more)
            break
        if not piece:
            break
        written += piece
    os.close(leader)
    assert command.wait() in (0, 3), "done, converged or not"
    screen = pyte.Screen(COLUMNS, LINES)
    pyte.ByteStream(screen).feed(written)
    return written, [line.rstrip() for line in screen.display if line.strip()]


def test_a_table_grows_and_stays(rows: Path, tmp_path: Path) -> None:
    written, lines = on_a_terminal("fit", rows, "-k", 2, "-o", tmp_path / "m.zarr", "--tol", 1e-5)
    assert b"\x1b[1A" in written, "it is drawn over"
    (heading,) = (i for i, line in enumerate(lines) if line.split()[:1] == ["pass"])
    assert lines[heading].split() == ["pass", "mean", "log-lik.", "change", "rows/s", "running"]
    assert any("rows.npy: 2,000 rows" in line for line in lines[:heading])
    mixture = daskgmm.GaussianMixture.load(tmp_path / "m.zarr")
    what = [line.split()[1] for line in lines[heading + 1 :]][: mixture.n_passes_ + 1]
    assert what == ["survey", "start", *["em"] * (mixture.n_passes_ - 2), "closing"]
    last = lines[heading + 1 + mixture.n_passes_].split()
    assert last[:3] == [f"{mixture.n_passes_}", "closing", f"{mixture.log_likelihood_ / 2000:.6f}"]
    assert not any("in this pass" in line for line in lines), "what went on has ended"


def test_a_long_fit_keeps_to_the_screen(rows: Path, tmp_path: Path) -> None:
    arguments = ("fit", rows, "-k", 3, "-o", tmp_path / "m.zarr", "--tol", 0, "--max-iter", 50)
    _, lines = on_a_terminal(*arguments)
    (heading,) = (i for i, line in enumerate(lines) if line.split()[:1] == ["pass"])
    assert lines[heading + 1] == "   …"
    passes = [int(line.split()[0]) for line in lines[heading + 2 :] if line.split()[0].isdigit()]
    assert passes == list(range(passes[0], 53))
    assert passes[0] > 20


def test_several_models_have_names(rows: Path, tmp_path: Path) -> None:
    _, lines = on_a_terminal("select", rows, "-k", "1:3", "-o", tmp_path / "m.zarr")
    starts = [line.split() for line in lines if line.split()[1:2] == ["start"]]
    assert [start[-2:] for start in starts] == [["2", "full"], ["3", "full"]]


def test_no_colour_where_that_is_asked(rows: Path, tmp_path: Path) -> None:
    arguments = ("fit", rows, "-k", 2, "-o", tmp_path / "m.zarr")
    written, lines = on_a_terminal(*arguments, NO_COLOR="1")
    assert not [code for code in written.split(b"\x1b[")[1:] if code.partition(b"m")[0] in (b"31", b"32", b"33")]
    assert any(line.split()[:1] == ["pass"] for line in lines)


@pytest.mark.parametrize(
    ("code", "environment", "options"),
    [
        ("import sys; sys.modules['rich'] = None", {}, []),
        ("", {"TERM": "dumb"}, []),
        ("", {}, ["--log-format", "json"]),
    ],
    ids=["without rich", "dumb", "json"],
)
def test_lines_elsewhere(
    code: str, environment: dict[str, str], options: list[str], rows: Path, tmp_path: Path
) -> None:
    arguments = ("fit", rows, "-k", 2, "-o", tmp_path / "m.zarr", *options)
    written, _ = on_a_terminal(*arguments, code=code, **environment)
    assert b"\x1b" not in written
    assert sum(b"closing" in line for line in written.splitlines()) == 1
