"""`cluster/systemd/`: its units by systemd's own checks, and their commands as processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from daskgmm import GaussianMixture
from tests.pods import COMMANDS, Network, Pod

FOLDER = Path(__file__).parents[1] / "cluster" / "systemd"
SERVICES = ["daskgmm-scheduler.service", "daskgmm-worker.service", "daskgmm-fit@.service"]


def analyze(*arguments: object) -> str:
    """What systemd-analyze says, of which its exit code is the smaller part."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here: apt-get install systemd")
    completed = subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    said = completed.stdout + completed.stderr
    assert completed.returncode == 0, said
    return said


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units in a folder, with a command that is there."""
    for path in FOLDER.glob("daskgmm-*"):
        text = re.sub(r"/opt/daskgmm/bin/\w+", "/bin/true", path.read_text())
        (tmp_path / path.name).write_text(text)
    return tmp_path


def said_of(folder: Path, *names: str) -> str:
    said = analyze("verify", "--man=no", *(folder / name for name in names))
    # (Units of the machine's own may have faults.)
    return "\n".join(line for line in said.splitlines() if "daskgmm" in line)


def test_units_are_valid(installed: Path) -> None:
    assert said_of(installed, *SERVICES[:2], "daskgmm-fit@nightly.service", "daskgmm-fit@nightly.timer") == ""


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ("RestartForceExitStatus=69 75", "RestartForceExit=69 75", "Unknown key"),
        ("Type=exec", "Type=oneshot", "RestartForceExitStatus= set, which isn't allowed for Type=oneshot"),
    ],
)
def test_a_slip_of_the_pen_would_be_found(installed: Path, line: str, instead: str, said: str) -> None:
    unit = installed / "daskgmm-fit@.service"
    unit.write_text(unit.read_text().replace(line, instead))
    completed = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", installed / "daskgmm-fit@nightly.service"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said in completed.stderr


def setting(name: str, of: str) -> str:
    """The last value of a setting in a unit."""
    return re.findall(rf"^{name}=(.*)$", (FOLDER / of).read_text(), re.MULTILINE)[-1]


def test_only_what_goes_on_is_tried_again() -> None:
    fit = SERVICES[-1]
    assert setting("RestartForceExitStatus", fit) == "69 75"
    assert setting("Restart", fit) == "no"
    assert setting("SuccessExitStatus", fit) == "3"


def test_the_timer_is_each_night() -> None:
    said = analyze("calendar", "--iterations=2", setting("OnCalendar", "daskgmm-fit@.timer"))
    assert len(re.findall(r"\d{4}-\d\d-\d\d 02:00:00", said)) == 2


@pytest.mark.parametrize("name", SERVICES)
def test_units_are_closed(installed: Path, name: str) -> None:
    """Exposure by systemd's own count: 9.6 without options; about as low as what reads data and computes can have."""
    if "--offline" not in analyze("--help"):
        pytest.skip("this systemd-analyze rates no files: version 250 or later does")
    name = name.replace("@", "@nightly")
    (installed / name).write_text((installed / name.replace("nightly", "")).read_text())
    (exposure,) = re.findall(
        r"exposure level for \S+: ([\d.]+)", analyze("security", "--offline=yes", installed / name)
    )
    assert float(exposure) < 2


def variables(*names: str) -> dict[str, str]:
    """Variables of environment files."""
    lines = "\n".join((FOLDER / name).read_text() for name in names)
    return dict(re.findall(r"^(\w+)=(.*)$", lines, re.MULTILINE))


def command_of(unit: str, environment: dict[str, str], folder: Path) -> list[str]:
    """The command that a unit starts, as systemd would read it: ${NAME} is a part of a word, $NAME several words."""
    line = setting("ExecStart", unit).removeprefix("/opt/daskgmm/bin/")
    specifiers = {"%i": "nightly", "%S": str(folder / "var/lib"), "%C": str(folder / "var/cache")}
    found = []
    for word in line.split():
        if (name := word.removeprefix("$")) in environment:
            found += shlex.split(environment[name])
            continue
        word = re.sub(r"\$\{(\w+)\}", lambda match: environment[match[1]], word)
        found.append(re.sub(r"%[iSC]", lambda match: specifiers[match[0]], word))
    return found


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Network]:
    """A network where the scheduler's port is free."""
    if os.geteuid() != 0 or not all(map(shutil.which, ["unshare", "nsenter", "ip"])):
        pytest.skip("only root has networks of its own, by unshare, nsenter and ip")
    network = Network(tmp_path, [], {"OPENBLAS_NUM_THREADS": "1"})
    try:
        yield network
    finally:
        network.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_commands_of_the_units(machine: Network, tmp_path: Path) -> None:
    state = tmp_path / "var/lib/daskgmm"
    state.mkdir(parents=True)
    (tmp_path / "var/cache/daskgmm").mkdir(parents=True)
    rows = np.random.default_rng(20261128).gamma(2.0, size=(6000, 2))
    zarr.create_array(state / "rows.zarr", data=rows, chunks=(1000, 2))
    given = variables("cluster.conf", "nightly.conf")
    given |= {name: value.replace("/var/lib", str(tmp_path / "var/lib")) for name, value in given.items()}

    def started(unit: str, name: str) -> Pod:
        return machine.start(name, *command_of(unit, given, tmp_path), environment=given)

    started(SERVICES[0], "scheduler")
    workers = started(SERVICES[1], "workers")
    stopped = started(SERVICES[2], "stopped")
    stopped.wait_for(lambda: "Looking for a start" in stopped.log, timeout=200)
    stopped.send(signal.SIGTERM)  # systemctl stop
    assert stopped.wait(60) == 75, stopped.log
    fit = started(SERVICES[2], "fit")
    assert fit.wait(300) in {0, 3}, fit.log + workers.log
    assert "Going on from" in fit.log
    assert json.loads((state / "nightly.json").read_text())["rows"] == 6000
    assert GaussianMixture.load(state / "nightly.zarr").means_.shape == (8, 2)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_line_of_cron(tmp_path: Path) -> None:
    (line,) = re.findall(r"^    0 2 \* \* \* daskgmm (.*)$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    zarr.create_array(tmp_path / "rows.zarr", data=np.random.default_rng(0).gamma(2.0, size=(2000, 2)))
    program = " ".join(map(shlex.quote, COMMANDS["daskgmm"]))
    here = line.replace("/var/lib/daskgmm", shlex.quote(str(tmp_path))).replace("/opt/daskgmm/bin/daskgmm", program)
    assert "%" not in line  # cron makes line breaks of them
    completed = subprocess.run(["sh", "-c", here], capture_output=True, text=True, check=False, timeout=300)
    assert completed.returncode == 0, (tmp_path / "nightly.log").read_text()
    assert completed.stdout + completed.stderr == ""  # cron would send a letter
    assert json.loads((tmp_path / "nightly.json").read_text())["skipped"] is False
    assert GaussianMixture.load(tmp_path / "nightly.zarr").means_.shape == (8, 2)
