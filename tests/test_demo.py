"""The demo on fewer lines of the photographs: the same code path, its commands as real processes, its picture."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from PIL import Image

from daskgmm import GaussianMixture
from daskgmm.cli.commands import gmm
from daskgmm.demo.demo import Demo
from daskgmm.demo.photographs import SIDE, load_photographs
from daskgmm.pictures.report import directions

#: 40 lines of 640 pixels make 33 lines of 633 patches.
HEIGHT, N_PATCHES = 40, 2 * 33 * 633


def demo(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """The result of the demo, and its log."""
    arguments = [
        "demo",
        "--output-dir",
        "out",
        "--height",
        str(HEIGHT),
        "--components",
        "3",
        "--tol",
        "5",
        "--memory-limit",
        "768MiB",
        *options,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "daskgmm", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result, done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, *demo(folder)


def test_store_holds_the_patches_in_order(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, _, _ = finished
    rows = zarr.open_array(folder / "out" / "patches.zarr", mode="r")
    assert rows.shape == (N_PATCHES, SIDE * SIDE)
    assert rows.dtype == np.float32
    assert rows.nchunks > 2
    assert rows.nchunks_initialized == rows.nchunks
    for number, photograph in enumerate(load_photographs(HEIGHT)):
        assert photograph.patch_shape == (33, 633)
        for line, column in ((0, 0), (17, 400), (32, 632)):
            patch = photograph.grey[line : line + SIDE, column : column + SIDE].ravel().astype(float)
            found = rows[number * 33 * 633 + line * 633 + column]
            np.testing.assert_allclose(found, patch - patch.mean(), atol=1e-6)
        assert photograph.centres.shape == photograph.patch_shape
        assert photograph.centres[17, 400] == photograph.grey[17 + 3, 400 + 3]


def test_picture_is_there_and_has_a_size(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, result, log = finished
    assert result["output"] == "out/patches.png"
    assert "Look at out/patches.png" in log
    path = folder / "out" / "patches.png"
    assert 10_000 < path.stat().st_size < 1_500_000
    with Image.open(path) as picture:
        assert picture.width == 1400
        assert picture.height > 500
        colours = len(picture.convert("RGB").getcolors(1 << 24))
    assert 50 < colours <= 256
    assert sorted(os.listdir(folder / "out")) == ["labels.zarr", "model.zarr", "patches.png", "patches.zarr"]


def test_shown_commands_are_those_that_ran(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, result, log = finished
    shown = [line[2:] for line in log.splitlines() if line.startswith("$ ")]
    assert shown == result["commands"]
    assert [shlex.split(line)[:2] for line in shown] == [["daskgmm", "fit"], ["daskgmm", "predict"]]
    assert result["fit"]["rows"] == result["predict"]["rows"] == N_PATCHES
    assert GaussianMixture.load(folder / "out" / "model.zarr").n_components == 3
    labels = zarr.open_array(folder / "out" / "labels.zarr", mode="r")[:]
    assert np.bincount(labels, minlength=3).tolist() == result["predict"]["rows_by_component"]
    # Typed by hand, they find that their work is done: they were run with the same input and options.
    for line in shown:
        again = subprocess.run(
            [sys.executable, "-m", *shlex.split(line)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert json.loads(again.stdout)["skipped"] is True


def test_demo_again_uses_what_is_complete(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, first, log = finished
    assert re.search(r"takes about \d+ MiB: patches, .* each worker may use 768MiB, Python included\.", log)
    result, log = demo(folder)
    assert f"out/patches.zarr is complete: {N_PATCHES:,} patches of 8 x 8 pixels." in log
    assert result["fit"] == {**first["fit"], "skipped": True}
    assert result["predict"]["skipped"] is True


def test_force_does_it_again() -> None:
    for force in (False, True):
        assert all(("--force" in command) is force for command in Demo(force=force).commands())


def test_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "patches.zarr").write_text("mine")
    done = CliRunner().invoke(gmm, ["demo", "--output-dir", str(tmp_path), "--force"])
    assert done.exit_code == 73
    assert f"must not hold other things called patches.zarr; got {tmp_path}" in done.stderr
    assert (tmp_path / "patches.zarr").read_text() == "mine"


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    done = CliRunner().invoke(gmm, ["demo", "--output-dir", str(tmp_path / "out")])
    assert done.exit_code == 64
    assert 'Install them: pip install "daskgmm[demo]".' in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_directions_are_the_eigenvectors(covariance: str, small_rows: np.ndarray) -> None:
    python = GaussianMixture(2, covariance_type=covariance, random_state=0).fit(small_rows)
    scaled = np.eye(2) if covariance == "spherical" else 1
    expected = {
        "full": python.covariances_[0] if covariance == "full" else None,
        "tied": python.covariances_,
        "diag": np.diag(np.atleast_1d(python.covariances_[0])) if covariance == "diag" else None,
        "spherical": python.covariances_[0] * scaled,
    }[covariance]
    deviations, vectors = directions(python._parameters(), 0)
    np.testing.assert_allclose(vectors.T @ np.diag(deviations**2) @ vectors, expected, rtol=1e-10, atol=1e-12)
    assert deviations[0] >= deviations[1]
