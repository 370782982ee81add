"""What is loaded from files that nobody has written so: an error that says it, or what is there.

CI tries some; `pytest tests/test_loaders.py --hypothesis-profile explore` tries a thousand for each loader, and
`DASKGMM_FUZZ_SECONDS=300` goes on with others for so long.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from daskgmm import GaussianMixture
from daskgmm.cli import jobs
from daskgmm.data.opening import open_source
from daskgmm.data.passes import Partial
from daskgmm.data.rows import Rows
from daskgmm.errors import DaskgmmError
from daskgmm.fitting.checkpoint import Checkpoint
from daskgmm.fitting.model_file import as_written, load_model
from daskgmm.page import page
from daskgmm.report import COMPARED, component_table, history_text, selection_text
from tests.data.test_zarr_source import reader_of

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
    return folder


def model_is_shown(place: Path) -> None:
    found = load_model(place)
    with as_written(str(place)):
        text = page(found, name="model")
        assert "<script" not in text
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
    checkpoint.known("pass")


def rows_are_read(place: Path) -> None:
    source = open_source(str(place))
    Rows.plan(source, None)
    # (What the metadata say that a chunk takes is what the plan of memory refuses: here it is not read.)
    if source.chunk_bytes < 1 << 20 and source.n_rows < 10**4 and source.n_features < 100:
        reader_of(source).read(0, source.n_rows)


LOADED: dict[str, Callable[[Path], None]] = {
    "model.zarr": model_is_shown,
    "checkpoint": checkpoint_is_read,
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
    whole = path.read_bytes()
    if path.suffix == ".json" and name == "checkpoint":
        body = whole.partition(b"\n")[2]
        other = other_json(data, body) if data.draw(st.booleans()) else other_bytes(data, body)
        other = hashlib.sha256(other).hexdigest().encode() + b"\n" + other
    elif path.suffix == ".json" or path.name.startswith(".z"):
        other = other_json(data, whole) if data.draw(st.integers(0, 3)) else other_bytes(data, whole)
    else:
        other = other_bytes(data, whole)
    path.write_bytes(other)
    try:
        tried(lambda: load(place))
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", LOADED)
@given(data=st.data())
def test_whatever_a_file_holds(folder: Path, name: str, data: st.DataObject) -> None:
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
