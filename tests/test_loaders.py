"""What is loaded from files that nobody has written so: an error that says it, or what is there.

CI tries some; `pytest tests/test_loaders.py --hypothesis-profile explore` tries a thousand for each loader, and
`DASKGMM_FUZZ_SECONDS=300` goes on with others for so long.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dask
import numpy as np
import pytest
import zarr
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from daskgmm import GaussianMixture
from daskgmm.cli import jobs
from daskgmm.cli.outputs import finished_array, finished_fit
from daskgmm.cli.terminal import strict_json
from daskgmm.errors import DaskgmmError
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.result import Fit
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Rows
from daskgmm.passes.task import Partial
from daskgmm.pictures.comparison import COMPARED, selection_text
from daskgmm.pictures.page import page
from daskgmm.pictures.report import component_table, history_text
from daskgmm.sources.opening import open_rows
from daskgmm.stores.checkpoint import Checkpoint
from daskgmm.stores.model_file import Model, as_written, load_model, save_model
from daskgmm.stores.targets import ATTRIBUTE
from tests.sources.test_zarr_source import reader_of

#: Bytes that a loader may allocate, whatever a file says of itself.
MOST_BYTES = 64 << 20
SECONDS = float(os.environ.get("DASKGMM_FUZZ_SECONDS", "0"))

Json = Any
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from([2**31, 2**63, 10**18, -(10**18), 10**400]),
    st.floats(), st.text(max_size=8), st.sampled_from(["../..", "/etc/passwd", "NaN", "bytes", "gzip", "<f8", "full"]),
)  # fmt: skip
values = st.recursive(
    leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3), max_leaves=6
)


def places_in(tree: Json, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a JSON tree, as the keys that lead there."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [before, *(place for key, value in inner for place in places_in(value, (*before, key)))]


def changed(tree: Json, place: tuple[Any, ...], value: Json, *, gone: bool) -> Json:
    """The tree with another value at a place, or with none."""
    if not place:
        return value
    tree = json.loads(json.dumps(tree))
    inner = tree
    for key in place[:-1]:
        inner = inner[key]
    if gone:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return tree


def other_json(data: st.DataObject, content: bytes) -> bytes:
    """A JSON file of which one value is another, or gone."""
    tree = json.loads(content)
    place = data.draw(st.sampled_from(places_in(tree)))
    return json.dumps(changed(tree, place, data.draw(values), gone=data.draw(st.booleans()))).encode()


def other_bytes(data: st.DataObject, content: bytes) -> bytes:
    """A file with other bytes somewhere, more of them, or fewer."""
    at = data.draw(st.integers(0, len(content)))
    return content[:at] + data.draw(st.binary(max_size=16)) + content[at + data.draw(st.integers(0, 16)) :]


def tried(load: Callable[[], object]) -> bool:
    """Whether something could be loaded; nothing but an error of this project, and a moderate allocation, may come."""
    tracemalloc.start()
    try:
        load()
    except DaskgmmError:
        return False
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < MOST_BYTES, f"{most:,} bytes"
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of a selection, a checkpoint, and rows in each form that is read."""
    folder = tmp_path_factory.mktemp("loaders")
    X = np.random.default_rng(0).normal(size=(120, 3))
    mixture = GaussianMixture(2, random_state=0, n_init=2).fit(X)
    mixture.save(folder / "model.zarr")
    table = [{
        "n_components": 2, "covariance_type": "full", "n_free": 9, "mean_log_likelihood": 0.0, "log_likelihood": 0.0,
        "aic": 1.0, "bic": 1.0, "icl": 1.0, "held_out": None, "converged": True, "n_iter": 3, "chosen": True,
    }]  # fmt: skip
    group = zarr.open_group(folder / "model.zarr")
    record = dict(group.attrs["record"])
    record |= {"selection": {"table": table, "criterion": "bic", "stopped": {"full": 3}, "collapsed": {"full": [4]}}}
    record |= {"result": {"status": "converged", "rows": 120, "bic": 1.0}, "feature_names": ["a", "b", "c"]}
    group.attrs["record"] = record
    checkpoint = Checkpoint.at(str(folder / "checkpoint"))
    checkpoint.begin({"command": "fit"})
    checkpoint.put({"a": np.arange(100.0), "b": mixture.history_})
    checkpoint.add("pass", 3, Partial(None, 1, 2))
    checkpoint.flush()
    zarr.create_array(folder / "v3.zarr", data=X, chunks=(50, 3))
    zarr.create_array(folder / "v2.zarr", data=X, chunks=(50, 3), zarr_format=2)
    zarr.create_array(folder / "shards.zarr", data=X, chunks=(10, 3), shards=(50, 3))
    np.save(folder / "rows.npy", X)
    for copy in "taken.zarr", "output.zarr":
        shutil.copytree(folder / "model.zarr", folder / copy)
    group = zarr.open_group(folder / "output.zarr")
    group.attrs["record"] = record | {"options": {}, "input": {}, "result": {"command": "fit"}, "selection": {}}
    array = zarr.create_array(folder / "predictions.zarr", data=X[:, 0], chunks=(50,))
    array.attrs[ATTRIBUTE] = {"complete": True, "command": "predict", "result": {"status": "done", "counts": [1, 2]}}
    shutil.copytree(folder / "v3.zarr", folder / "fitted.zarr")  # (those are written again and again)
    for name, until in CUT.items():
        cut_short = Ending.at(str(folder / name), every=0.0)
        cut_short.until = until
        cut_short.begin({})
        with pytest.raises(KeyboardInterrupt):
            small_fit(folder, cut_short)
    return folder


def model_is_shown(place: Path) -> None:
    found = load_model(place)
    with as_written(str(place)):
        text = page(found, name="model")
        own = '<script type="application/json" id="model"'  # (the model, which nothing runs)
        assert re.findall("<script[^>]*", text) in ([], [own])
    with as_written(str(place)):
        result = jobs.inspect(str(place), history=True)
        component_table(result)
        if result["selection"]:
            selection_text(*(result["selection"][name] for name in COMPARED))
        history_text(result["history"])


def checkpoint_is_read(place: Path) -> None:
    checkpoint = Checkpoint.at(str(place))
    for name in ("a", "b"):
        checkpoint.get(name)
    with checkpoint.going_on():
        checkpoint.known("pass")


def rows_are_read(place: Path) -> None:
    source = open_rows(str(place))
    Rows.plan(source, None)
    # (What the metadata say that a chunk takes is what the plan of memory refuses: here it is not read.)
    if source.chunk_bytes < 1 << 20 and source.n_rows < 10**4 and source.n_features < 100:
        reader_of(source).read(0, source.n_rows)


def model_is_taken(place: Path) -> None:
    GaussianMixture.load(place)


def model_is_an_output(place: Path) -> None:
    """What `fit -o` makes of a model that stands there already."""
    strict_json(finished_fit(str(place), {"command": "fit", "options": {}, "input": {}}, force=False))


def predictions_are_an_output(place: Path) -> None:
    strict_json(finished_array(str(place), {"command": "predict"}, force=False))


def fit_goes_on(place: Path) -> None:
    """A fit goes on from a copy of a checkpoint, and what comes of it can be saved and loaded."""
    with TemporaryDirectory() as folder:
        copy = shutil.copytree(place, Path(folder) / "checkpoint")
        done = small_fit(place.parent, Checkpoint.at(str(copy), every=1e9))
        record = jobs.model_record(done, {}, jobs.fit_result(done))
        save_model(Model(done.parameters, record), Path(folder) / "m.zarr")
        GaussianMixture.load(Path(folder) / "m.zarr")


def small_fit(folder: Path, checkpoint: Checkpoint) -> Fit:
    """A fit to rows in three partitions."""
    options = FitOptions(n_components=2, n_init=2, max_iter=3, tol=0.0)
    with pytest.MonkeyPatch.context() as patched, dask.config.set(scheduler="synchronous"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # (of numbers that overflow, and of rows that are all alike)
        patched.setattr("daskgmm.sources.partition.PARTITION_BYTES", 1000)
        source = open_rows(str(folder / "fitted.zarr"))
        return fit_mixture(source, options, executor=LocalExecutor(), checkpoint=checkpoint)


class Ending(Checkpoint):
    """A checkpoint whose process is cut short when it has written a value of such a name."""

    until = ""

    def _write(self, slots: dict[str, Any]) -> None:
        super()._write(slots)
        if any(name.startswith(self.until) for name in slots):
            raise KeyboardInterrupt


#: How far the fits have gone that are to go on, by the last value that their checkpoints hold.
CUT = {"in-survey": "roots-1", "in-start": "start-0-2", "in-polishing": "polishing"}

LOADED: dict[str, Callable[[Path], None]] = {
    "model.zarr": model_is_shown,
    "taken.zarr": model_is_taken,
    "output.zarr": model_is_an_output,
    "predictions.zarr": predictions_are_an_output,
    "checkpoint": checkpoint_is_read,
    **dict.fromkeys(CUT, fit_goes_on),
    "v3.zarr": rows_are_read,
    "v2.zarr": rows_are_read,
    "shards.zarr": rows_are_read,
    "rows.npy": rows_are_read,
}


def fuzz(folder: Path, name: str, data: st.DataObject) -> None:
    """Change a file of what is loaded, load it, and bring the file back."""
    place, load = folder / name, LOADED[name]
    files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
    path = data.draw(st.sampled_from(files))
    before = {path: path.read_bytes()}
    if path.name.startswith("manifest-"):
        body = before[path].partition(b"\n")[2]
        after = {path: summed(other_json(data, body) if data.draw(st.booleans()) else other_bytes(data, body))}
    elif path.name.startswith("part-") and data.draw(st.integers(0, 7)):
        after = other_part(data, path)
    elif path.suffix == ".json" or path.name.startswith(".z"):
        after = {path: (other_json if data.draw(st.integers(0, 3)) else other_bytes)(data, before[path])}
    else:
        after = {path: other_bytes(data, before[path])}
    before |= {other: other.read_bytes() for other in after if other.exists()}
    try:
        for other, content in after.items():
            other.write_bytes(content)
        tried(lambda: load(place))
    finally:
        for other in after:
            other.unlink()
        for other, content in before.items():
            other.write_bytes(content)


def summed(body: bytes) -> bytes:
    """A manifest, its checksum right."""
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def other_part(data: st.DataObject, path: Path) -> dict[Path, bytes]:
    """A part of a checkpoint with another value or array, and the manifest with its checksum."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    head, arrays = content[8:end], content[end:]
    if not arrays or data.draw(st.integers(0, 3)):
        head = other_json(data, head)
    else:
        at = 8 * data.draw(st.integers(0, len(arrays) // 8 - 1))
        arrays = arrays[:at] + np.float64(data.draw(st.floats())).tobytes() + arrays[at + 8 :]
    content = len(head).to_bytes(8, "little") + head + arrays
    (manifest,) = path.parent.glob("manifest-*")
    found = json.loads(manifest.read_bytes().partition(b"\n")[2])
    checksum = hashlib.sha256(content).hexdigest()
    for slot in found["slots"].values():
        if path.name.endswith(slot["sha256"]):
            slot |= {"sha256": checksum, "bytes": len(content)}
    return {path.parent / f"part-{checksum}": content, manifest: summed(json.dumps(found).encode())}


@pytest.mark.parametrize("name", [name for name in LOADED if name not in CUT])
@given(data=st.data())
def test_whatever_a_file_holds(folder: Path, name: str, data: st.DataObject) -> None:
    fuzz(folder, name, data)


@pytest.mark.parametrize("name", CUT)
@settings(max_examples=settings.default.max_examples // 5)  # (a fit takes longer than a look)
@given(data=st.data())
def test_whatever_a_fit_goes_on_from(folder: Path, name: str, data: st.DataObject) -> None:
    fuzz(folder, name, data)


def test_what_is_whole_is_loaded(folder: Path) -> None:
    assert all(tried(lambda load=load, name=name: load(folder / name)) for name, load in LOADED.items())  # type: ignore[misc]


def _some(folder: Path, name: str, number: int, counts: dict[str, int]) -> None:
    @seed(number)
    @settings(max_examples=200, derandomize=False, database=None)
    @given(data=st.data())
    def some(data: st.DataObject) -> None:
        counts[name] += 1
        fuzz(folder, name, data)

    some()


@pytest.mark.skipif(not SECONDS, reason="DASKGMM_FUZZ_SECONDS says for how long")
@pytest.mark.timeout(0)
def test_for_a_long_time(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends, counts, number = time.monotonic() + SECONDS, dict.fromkeys(LOADED, 0), 0
    while time.monotonic() < ends:
        for name in LOADED:
            _some(folder, name, number, counts)
        number += 1
    with capsys.disabled():
        print(f"\n{sum(counts.values()):,} files in {SECONDS:g} s: {counts}")
