"""`cluster/workflows/`: its Snakefile is run by Snakemake, and the commands of the others as they would run them."""

from __future__ import annotations

import ast
import importlib.util
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
from pathlib import Path

import numpy as np
import psutil
import pytest
import zarr

from daskgmm import GaussianMixture
from tests.pods import COMMANDS

FOLDER = Path(__file__).parents[1] / "cluster" / "workflows"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a person with daskgmm on the PATH."""
    script = " ".join(map(shlex.quote, COMMANDS["daskgmm"]))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/daskgmm").write_text(f'#!/bin/sh\nexec {script} "$@"\n')
    (tmp_path / "bin/daskgmm").chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DASK")}
    return {**inherited, "PATH": path, "HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with rows of no mixture in particular."""
    rows = np.random.default_rng(20261129).gamma(2.0, size=(6000, 2))
    zarr.create_array(tmp_path / "rows.zarr", data=rows, chunks=(1000, 2))
    return tmp_path


def fits_of(process: int) -> Iterator[psutil.Process]:
    """The fits among the processes that a process has started."""
    for child in psutil.Process(process).children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        if words[:1] == COMMANDS["daskgmm"][:1] and "fit" in words:
            yield child


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_snakemake_goes_on_after_an_interruption(folder: Path, environment: dict[str, str]) -> None:
    if importlib.util.find_spec("snakemake") is None:
        pytest.skip("Snakemake is not here: the extra 'test-clusters' brings it")
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(FOLDER / name, folder)
    command = [sys.executable, "-m", "snakemake", "--cores", "2"]
    log, snakemake_log = folder / "logs/fit.log", folder / "snakemake.log"
    with (
        snakemake_log.open("wb") as written,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=written, stderr=written) as process,
    ):
        deadline = time.monotonic() + 200
        while not (log.exists() and "Looking for a start" in log.read_text()):
            assert process.poll() is None, snakemake_log.read_text()
            assert time.monotonic() < deadline, snakemake_log.read_text()
            time.sleep(0.05)
        next(fits_of(process.pid)).send_signal(signal.SIGTERM)
        assert process.wait(300) == 0, snakemake_log.read_text() + log.read_text()
    assert "Trying to restart job" in snakemake_log.read_text()
    assert re.search(r"Going on from .*results/model\.checkpoint", log.read_text())
    result = json.loads((folder / "results/fit.json").read_text())
    assert result["rows"] == 6000
    # (Snakemake leaves a file of its own in a folder that is an output.)
    assert GaussianMixture.load(folder / "results/model.zarr").means_.shape == (8, 2)
    assert zarr.open_array(folder / "results/labels.zarr").shape == (6000,)
    again = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_the_script_of_nextflow(folder: Path, environment: dict[str, str]) -> None:
    """What Nextflow would make of it, run by bash in a new folder, as it would be."""
    (script,) = re.findall(r'"""\n(.*?)"""', (FOLDER / "fit.nf").read_text(), re.DOTALL)
    values = {"rows": folder / "rows.zarr", "params.components": 2, "params.results": folder / "out", "task.cpus": 1}
    filled = re.sub(r"\$\{([\w.]+)\}", lambda match: str(values[match[1]]), script).replace("\\\\\n", "\\\n")
    (folder / "work").mkdir()
    completed = subprocess.run(
        ["bash", "-ue", "-c", filled], cwd=folder / "work", env=environment, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    assert GaussianMixture.load(folder / "work/model.zarr").means_.shape == (2, 2)
    assert json.loads((folder / "work/fit.json").read_text())["components"] == 2
    assert (folder / "out").is_dir()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_python_files_are_python(path: Path) -> None:
    ast.parse(path.read_text())


def test_codes_that_are_tried_again_are_the_same_everywhere() -> None:
    assert "task.exitStatus in [69, 75] ? 'retry' : 'terminate'" in (FOLDER / "fit.nf").read_text()
    assert "MAY_PASS = {69, 75}" in (FOLDER / "prefect_flow.py").read_text()
