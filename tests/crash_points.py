"""Each change of the disk that a command makes fails, tears, or is the last of the process: the same again, same bits.

`python -m tests.crash_points` tries all of them, for a fit, a selection, predictions and samples. What came of each is
a line of a file; `--resume` goes on with those that are not in it. (The tests try some, drawn by DASKGMM_SEED.)
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from daskgmm.errors import InputMissingError
from daskgmm.stores.model_file import checksum, load_model
from daskgmm.stores.output import prediction_record
from daskgmm.stores.parquet_parts import RECORD
from daskgmm.stores.targets import ATTRIBUTE
from tests.crashes import HOWS, Crashes
from tests.strategies import make_case

CASE = make_case("full", seed=1, n_rows=1000, n_components=3, n_features=2)
FIT = ("--restarts", 2, "--no-escape", "--max-iter", 2, "--checkpoint-every", 0)
COMMANDS: dict[str, tuple[object, ...]] = {
    "fit": ("fit", "X.zarr", "-k", 2, "-o", "out", *FIT),
    "select": ("select", "X.zarr", "-k", "1:2", "--criterion", "bic", "-o", "out", "--table", "out.json", *FIT),
    "predict": ("predict", "m.zarr", "X.zarr", "-o", "out", "--what", "proba", "--checkpoint-every", 0),
    "predict-grid": ("predict", "m.zarr", "grid.zarr", "--columns", "a,b", "-o", "out", "--checkpoint-every", 0),
    "predict-parquet": ("predict", "m.zarr", "X.zarr", "-o", "out.parquet", "--checkpoint-every", 0),
    "sample": ("sample", "m.zarr", "-n", 500, "-o", "out"),
    "sample-parquet": ("sample", "m.zarr", "-n", 500, "-o", "out.parquet"),
}
_PLACES = {"X.zarr", "grid.zarr", "m.zarr", "out", "out.json", "out.parquet"}


def model_there(folder: Path) -> Any:
    """What tells a model from another, None where there is none; half of one is an error."""
    try:
        found = load_model(folder / "out")
    except InputMissingError:
        return None
    return checksum(found.parameters), found.record["n_passes"], found.record.get("selection", {}).get("n_components")


def predictions_there(folder: Path) -> Any:
    """The predictions, None where there are none; such as are not complete are an error."""
    record = prediction_record(str(folder / "out"))
    if record is None:
        return None
    assert record["complete"] is True
    return np.asarray(zarr.open_array(folder / "out", mode="r")[...]).tobytes(), record["result"]["rows"]


def grid_there(folder: Path) -> Any:
    """The predictions for a grid, and its coordinate."""
    record = prediction_record(str(folder / "out"))
    if record is None:
        return None
    assert record["complete"] is True
    group = zarr.open_group(folder / "out", mode="r")
    found = {name: np.asarray(array[...]).tobytes() for name, array in group.arrays()}
    assert set(found) == {"label", "y"}
    return found, record["result"]["rows"]


def files_there(folder: Path) -> Any:
    """The bytes of files of predictions, None where there are none; such as are not complete are an error."""
    output = folder / "out.parquet"
    record = prediction_record(str(output))
    if record is None:
        return None
    assert record["complete"] is True
    names = sorted(set(os.listdir(output)) - {RECORD})
    return [(name, (output / name).read_bytes()) for name in names], record["result"]["rows"]


def sample_there(folder: Path) -> Any:
    """The rows that were drawn, None where there are none; such as are not complete are an error."""
    if not (folder / "out").exists():
        return None
    array = zarr.open_array(folder / "out", mode="r")
    assert array.attrs[ATTRIBUTE]["complete"] is True
    return np.asarray(array[...]).tobytes()


THERE: dict[str, Callable[[Path], Any]] = {
    "fit": model_there,
    "select": model_there,
    "predict": predictions_there,
    "predict-grid": grid_there,
    "predict-parquet": files_there,
    "sample": sample_there,
    "sample-parquet": files_there,
}


class Undisturbed:
    """A command that nothing happens to: what it leaves, and how many changes of the disk it makes."""

    def __init__(self, name: str, folder: Path, crashes: Crashes) -> None:
        self.name, self.folder, self._crashes = name, folder, crashes
        plain = self._filled("plain")
        fitted = [plain / "X.zarr", "-k", 2, "-o", plain / "m.zarr", "--max-iter", 2]
        assert crashes.run(["fit", *fitted], plain)[0] in (0, 3)
        os.rename(plain / "m.zarr", folder / "m.zarr")
        shutil.copytree(folder / "m.zarr", plain / "m.zarr")
        self.code, self.n_changes = crashes.run(self._arguments(plain), plain)
        assert self.code in (0, 3)
        self.expected, self.files = THERE[name](plain), sorted(os.listdir(plain))
        assert self.expected is not None

    def wrong(self, how: str, at: int) -> str:
        """What is wrong where change number `at` fails in that way, and the same command runs again; "" for nothing."""
        folder, there = self._filled(f"{how}-{at}"), THERE[self.name]
        shutil.copytree(self.folder / "m.zarr", folder / "m.zarr")
        ended, _ = self._crashes.run(self._arguments(folder), folder, at=at, how=how)
        if ended not in ((73, self.code) if how == "raises" else (-9,)):
            return f"it ended with {ended}"
        found = there(folder)
        if found not in (None, self.expected) or (found is None and ended == self.code):
            return "something else is there"
        again, _ = self._crashes.run(self._arguments(folder), folder)
        if again != self.code:
            return f"the same command ended with {again}"
        if there(folder) != self.expected:
            return "other bits"
        if sorted(os.listdir(folder)) != self.files:
            return f"left behind: {', '.join(sorted(os.listdir(folder)))}"
        shutil.rmtree(folder)
        return ""

    def _filled(self, name: str) -> Path:
        """A new folder with rows in five partitions."""
        folder = self.folder / name
        folder.mkdir()
        zarr.create_array(folder / "X.zarr", data=CASE.X, chunks=(200, 2))
        if self.name == "predict-grid":
            grid = zarr.create_group(folder / "grid.zarr")
            for name, values in (("a", CASE.X[:, 0]), ("b", CASE.X[:, 1])):
                named = {"dimension_names": ("x", "y"), "chunks": (10, 25)}
                grid.create_array(name, data=values.reshape(20, 50), **named)
            grid.create_array("y", data=np.arange(50.0), dimension_names=("y",))
        return folder

    def _arguments(self, folder: Path) -> list[object]:
        return [folder / a if isinstance(a, str) and a in _PLACES else a for a in COMMANDS[self.name]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="crash-points.txt", help="where the lines go")
    parser.add_argument("--resume", action="store_true", help="keep the lines that are there")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    options = parser.parse_args()
    output, began = Path(options.output), time.monotonic()
    lines = output.read_text().splitlines() if options.resume and output.exists() else []
    done = {tuple(line.split(" ")[:3]) for line in lines}
    with tempfile.TemporaryDirectory() as folder, Crashes() as crashes, output.open("a" if lines else "w") as file:
        for name in options.commands.split(","):
            (Path(folder) / name).mkdir()
            undisturbed = Undisturbed(name, Path(folder) / name, crashes)
            for how in HOWS:
                for at in range(undisturbed.n_changes):
                    if (name, how, str(at)) not in done:
                        lines.append(f"{name} {how} {at} {undisturbed.wrong(how, at)}".rstrip())
                        print(lines[-1], file=file, flush=True)
            print(f"{name}: {undisturbed.n_changes} changes of the disk, each in {len(HOWS)} ways", flush=True)
    bad = [line for line in lines if line.count(" ") > 2]
    print(f"{len(lines)} crash points, {len(bad)} wrong, {time.monotonic() - began:.0f} s", *bad, sep="\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
