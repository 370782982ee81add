"""Whatever change of the disk fails, is torn, or is the last of the process: the same command again, the same bits."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from daskgmm.cli.outputs import checksum
from daskgmm.data.output import prediction_record
from daskgmm.errors import InputMissingError
from daskgmm.fitting.model_file import load_model
from tests.crashes import HOWS, Crashes
from tests.strategies import make_case

CASE = make_case("full", seed=1, n_rows=1000, n_components=3, n_features=2)
FIT = ("--restarts", 2, "--no-escape", "--max-iter", 2, "--checkpoint-every", 0)
COMMANDS: dict[str, tuple[object, ...]] = {
    "fit": ("fit", "X.zarr", "-k", 2, "-o", "out", *FIT),
    "select": ("select", "X.zarr", "-k", "1:2", "--criterion", "bic", "-o", "out", "--table", "out.json", *FIT),
    "predict": ("predict", "m.zarr", "X.zarr", "-o", "out", "--what", "proba", "--checkpoint-every", 0),
}


def model_there(folder: Path) -> Any:
    """Return what tells a model from another, None where there is none; half of one is an error."""
    try:
        found = load_model(folder / "out")
    except InputMissingError:
        return None
    return checksum(found.parameters), found.record["n_passes"], found.record.get("selection", {}).get("n_components")


def predictions_there(folder: Path) -> Any:
    """Return the predictions, None where there are none; such as are not complete are an error."""
    record = prediction_record(str(folder / "out"))
    if record is None:
        return None
    assert record["complete"] is True
    return np.asarray(zarr.open_array(folder / "out", mode="r")[...]).tobytes(), record["result"]["rows"]


THERE: dict[str, Callable[[Path], Any]] = {"fit": model_there, "select": model_there, "predict": predictions_there}


@pytest.fixture(scope="module")
def crashes() -> Iterator[Crashes]:
    with Crashes() as server:
        yield server


def filled(folder: Path) -> Path:
    """Return a new folder with rows in five partitions."""
    folder.mkdir()
    zarr.create_array(folder / "X.zarr", data=CASE.X, chunks=(200, 2))
    return folder


def arguments(name: str, folder: Path) -> list[object]:
    places = {"X.zarr", "m.zarr", "out", "out.json"}
    return [folder / a if isinstance(a, str) and a in places else a for a in COMMANDS[name]]


@pytest.mark.slow
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_change_of_the_disk_may_be_the_last(name: str, how: str, crashes: Crashes, tmp_path: Path) -> None:
    """Two of them here, others with another DASKGMM_SEED; each of them with DASKGMM_ALL_FAULTS=1."""
    plain, there = filled(tmp_path / "plain"), THERE[name]
    fitted = [plain / "X.zarr", "-k", 2, "-o", plain / "m.zarr", "--max-iter", 2]
    assert crashes.run(["fit", *fitted], plain)[0] in (0, 3)
    code, n = crashes.run(arguments(name, plain), plain)
    assert code in (0, 3)
    expected, files = there(plain), sorted(os.listdir(plain))
    assert expected is not None
    seed = int(os.environ.get("DASKGMM_SEED", "1"))
    print("seed", seed)
    for at in range(n) if "DASKGMM_ALL_FAULTS" in os.environ else random.Random(seed).sample(range(n), 2):
        folder = filled(tmp_path / f"{at}")
        os.rename(plain / "m.zarr", folder / "m.zarr")
        ended, _ = crashes.run(arguments(name, folder), folder, at=at, how=how)
        assert ended in ((73, code) if how == "raises" else (-9,)), at
        found = there(folder)
        assert found in (None, expected), at
        assert found is not None or ended != code, at
        again, _ = crashes.run(arguments(name, folder), folder)
        assert again == code, at
        assert there(folder) == expected, at
        assert sorted(os.listdir(folder)) == files, at
        os.rename(folder / "m.zarr", plain / "m.zarr")
