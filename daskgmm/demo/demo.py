"""The demo: patches of real photographs in a Zarr store, the plain commands on it, and a picture of what they found."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import click
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from daskgmm.demo.photographs import SIDE, Photograph, load_photographs
from daskgmm.errors import OptionError, OutputError
from daskgmm.places.log import say

#: Lines of patches in a chunk of the store: 16 x 633 patches of 64 float32 values are 2.5 MiB.
CHUNK_LINES = 16
_ATTRIBUTE = "daskgmm-demo"


@dataclass(frozen=True)
class Demo:
    """What to demonstrate; the defaults make it a minute or so on two cores.

    Attributes
    ----------
    folder : str
        Where everything is written.
    height : int or None
        Lines of each photograph to take, from the middle; None takes all.
    memory_limit : str
        Of each worker, as the command line has it.
    log_format : str
        Of the commands.
    """

    folder: str = "daskgmm-demo"
    n_components: int = 20
    height: int | None = None
    tol: float = 0.2
    memory_limit: str = "512MiB"
    workers: int | None = None
    force: bool = False
    log_format: str = "text"

    def place(self, name: str) -> str:
        """Return a path in the folder."""
        return os.path.join(self.folder, name)

    def commands(self) -> list[list[str]]:
        """Return the commands that a person would type."""
        shared = ["--memory-limit", self.memory_limit]
        shared += ["--workers", str(self.workers)] if self.workers else []
        shared += ["--log-format", self.log_format] if self.log_format != "text" else []
        shared += ["--force"] if self.force else []
        patches, model, labels = map(self.place, ("patches.zarr", "model.zarr", "labels.zarr"))
        fit = ["--components", str(self.n_components), "--tol", f"{self.tol:g}", "--output", model]
        return [
            ["daskgmm", "fit", patches, *fit, *shared],
            ["daskgmm", "predict", model, patches, "--output", labels, *shared],
        ]


def run_demo(demo: Demo) -> dict[str, Any]:
    """Return the result of the demo: its picture is then in the folder, beside all that it was made from.

    Raises
    ------
    OptionError
        A package is missing, or an option cannot be used.
    OutputError
        The folder cannot be written.
    """
    began = perf_counter()
    _check_packages()
    photographs = load_photographs(demo.height)
    try:
        os.makedirs(demo.folder, exist_ok=True)
        _store(photographs, demo)
    except OSError as error:
        raise OutputError(
            "--output-dir", "be writable", f"{error} for {demo.folder}", "Choose another place."
        ) from error
    _compare(photographs, demo)
    results = [_run(command) for command in demo.commands()]
    from daskgmm.demo.picture import draw_patches

    say("Drawing the picture.")
    picture = demo.place("patches.png")
    draw_patches(photographs, demo.place("model.zarr"), demo.place("labels.zarr"), picture)
    say(f"Look at {picture}")
    return {
        "command": "demo",
        "status": "done",
        "output": picture,
        "commands": [shlex.join(command) for command in demo.commands()],
        "fit": results[0],
        "predict": results[1],
        "seconds": perf_counter() - began,
    }


def _check_packages() -> None:
    try:
        import matplotlib  # noqa: F401
        import PIL  # noqa: F401
    except ImportError as error:
        raise OptionError(
            "daskgmm demo",
            "have matplotlib and pillow to read photographs and to draw",
            error,
            'Install them: pip install "daskgmm[demo]".',
        ) from error


def _store(photographs: Sequence[Photograph], demo: Demo) -> None:
    """Write the patches as a Zarr array of float32, a chunk at a time, unless they are there."""
    place = demo.place("patches.zarr")
    n_rows = sum(int(np.prod(p.patch_shape)) for p in photographs)
    record: dict[str, Any] = {
        "photographs": [p.name for p in photographs],
        "shapes": [list(p.grey.shape) for p in photographs],
    }
    if _stored(place) == record and not demo.force:
        say(f"{place} is complete: {n_rows:,} patches of {SIDE} x {SIDE} pixels.")
        return
    say(f"Writing {place}: {n_rows:,} overlapping patches of {SIDE} x {SIDE} pixels, each less its mean.")
    beside = f"{place}.part"
    rows = zarr.create_array(
        beside,
        shape=(n_rows, SIDE * SIDE),
        chunks=(CHUNK_LINES * photographs[0].patch_shape[1], SIDE * SIDE),
        dtype="f4",
        compressors=ZstdCodec(level=3, checksum=True),
        overwrite=True,
    )
    start = 0
    for piece in _pieces(photographs):
        rows[start : start + len(piece)] = piece
        start += len(piece)
    rows.attrs[_ATTRIBUTE] = record
    shutil.rmtree(place, ignore_errors=True)
    os.rename(beside, place)


def _pieces(photographs: Sequence[Photograph]) -> Iterator[NDArray[np.float32]]:
    for photograph in photographs:
        for line in range(0, photograph.patch_shape[0], CHUNK_LINES):
            yield photograph.patches(slice(line, line + CHUNK_LINES))


def _stored(place: str) -> Any:
    """Return the record of a complete store, None where there is none; an OutputError where something else stands."""
    if not os.path.lexists(place):
        return None
    try:
        record = zarr.open_array(place, mode="r").attrs.get(_ATTRIBUTE)
    except Exception:
        # Whatever something that is no Zarr array makes Zarr raise.
        record = None
    if record is None:
        raise OutputError("--output-dir", "not hold other things called patches.zarr", place, "Choose another.")
    return record


def _compare(photographs: Sequence[Photograph], demo: Demo) -> None:
    """Say what the fit would take in memory at once, and what it gets here."""
    n_rows = sum(int(np.prod(p.patch_shape)) for p in photographs)
    # scikit-learn 1.9 took 1.35 GiB for 531,720 rows of 64 features and 20 components, the interpreter included.
    at_once = 8 * n_rows * (4 * SIDE * SIDE + 3 * demo.n_components)
    say(
        f"All at once in float64, as scikit-learn does it, this fit takes about {at_once / (1 << 20):,.0f} MiB: "
        "patches, probabilities of components, and copies of both. "
        f"Here each worker may use {demo.memory_limit}, Python included."
    )


def _run(command: Sequence[str]) -> dict[str, Any]:
    """Run a command of this program in a process of its own, and return its result; its log goes on to stderr."""
    say(f"\n$ {shlex.join(command)}", argv=list(command))
    # -P: what lies in the current folder is not imported.
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-m", *command], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        stdout, _ = process.communicate()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode not in (0, 3):
        # It has said why.
        raise click.exceptions.Exit(process.returncode)
    result: dict[str, Any] = json.loads(stdout)
    return result
