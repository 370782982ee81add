"""Stores of references (kerchunk): a file that says where in other files the chunks are; it travels by its place."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from zarr.storage import FsspecStore

from daskgmm import GaussianMixture, open_rows
from daskgmm.errors import DataError
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from tests.clusters import LOCAL

X = (np.random.default_rng(0).normal(size=(3000, 3)) + np.repeat([[0.0], [4.0]], [1000, 2000], axis=0)).astype("f4")


def references(folder: Path, at: str | None = None) -> dict[str, Any]:
    """Write X as chunks of an HDF5 file, and return what says where they are, as kerchunk writes it."""
    meta = {"zarr_format": 2, "shape": X.shape, "chunks": [500, 3], "dtype": "<f4", "order": "C"}
    meta |= {"compressor": None, "filters": None, "fill_value": 0}
    found: dict[str, Any] = {".zgroup": '{"zarr_format": 2}', "x/.zarray": json.dumps(meta), "x/.zattrs": "{}"}
    with h5py.File(folder / "x.h5", "w") as file:
        array = file.create_dataset("x", data=X, chunks=(500, 3))
        for i in range(array.id.get_num_chunks()):
            chunk = array.id.get_chunk_info(i)
            key = f"x/{chunk.chunk_offset[0] // 500}.0"
            found[key] = [at or str(folder / "x.h5"), chunk.byte_offset, chunk.size]
    # (A small chunk may stand in the file of references itself.)
    import base64

    found["x/0.0"] = "base64:" + base64.b64encode(X[:500].tobytes()).decode()
    return {"version": 1, "refs": found}


@pytest.fixture
def place(tmp_path: Path) -> str:
    (tmp_path / "references.json").write_text(json.dumps(references(tmp_path)))
    return str(tmp_path / "references.json")


def opened(place: Any, how: str) -> zarr.Array[Any]:
    """The array, through a store as people open one: by zarr, or by a file system of fsspec."""
    if how == "by zarr":
        options = {"fo": place, "remote_protocol": "file"}
        store = FsspecStore.from_url("reference://", storage_options=options, read_only=True)
    else:
        options = {"fo": place, "remote_protocol": "file", "remote_options": {"asynchronous": True}}
        store = FsspecStore(fsspec.filesystem("reference", asynchronous=True, **options), read_only=True)
    found = zarr.open_group(store, mode="r")["x"]
    assert isinstance(found, zarr.Array)
    return found


@pytest.mark.parametrize("how", ["by zarr", "by fsspec", "by path"])
def test_workers_open_the_same_bytes(place: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 12_000)
    monkeypatch.chdir(os.path.dirname(place))
    if how == "by path":
        source = open_rows(f"reference::{place}", array="x")
    else:
        source = open_rows(opened("references.json", how))
    assert source.travels
    assert source.label == f"reference::{place}/x"
    reader = pickle.loads(pickle.dumps(source.reader()))
    np.testing.assert_array_equal(reader.read(0, 3000), X)
    options = FitOptions(2, max_iter=3, tol=1.0)
    alone = fit_mixture(open_rows(X), options)
    with LocalCluster(n_workers=2, threads_per_worker=1, **LOCAL) as cluster, Client(cluster) as client:
        found = fit_mixture(source, options)
        assert min(client.run(lambda dask_worker: dask_worker.state.executed_count).values()) > 0
    np.testing.assert_allclose(found.parameters.means, alone.parameters.means, rtol=1e-12)


def test_references_that_one_process_has_stay_there(tmp_path: Path) -> None:
    source = open_rows(opened(references(tmp_path), "by fsspec"))
    assert not source.travels
    assert GaussianMixture(2, random_state=0).fit(source).converged_


def test_a_file_that_changes_is_noticed(place: str) -> None:
    source = open_rows(f"reference::{place}", array="x")
    reader: Any = source.reader()
    before = reader.stamp(0, 3000)
    assert len(before) == 6
    assert reader.stamp(0, 3000) == before
    file = Path(place).parent / "x.h5"
    os.utime(file, ns=(1, 1))
    after = reader.stamp(0, 3000)
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, *[False] * 5]

    file.unlink()
    with pytest.raises(DataError, match=f"row 500 .*|reference::{place}/x"):
        reader.stamp(0, 3000)


def test_references_and_files_may_be_objects(bucket: str, tmp_path: Path) -> None:
    import s3fs

    system = s3fs.S3FileSystem()
    found = references(tmp_path, f"{bucket}/x.h5")
    system.put(str(tmp_path / "x.h5"), f"{bucket}/x.h5")
    system.pipe(f"{bucket}/references.json", json.dumps(found).encode())
    source = open_rows(f"reference::{bucket}/references.json", array="x")
    assert source.travels
    reader: Any = pickle.loads(pickle.dumps(source.reader()))
    np.testing.assert_array_equal(reader.read(0, 3000), X)
    before = reader.stamp(0, 3000)
    assert len(set(before)) == 6
    system.pipe(f"{bucket}/x.h5", b"other")
    assert not set(reader.stamp(0, 3000)[1:]) & set(before)


def test_a_command_takes_them_by_path(place: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "daskgmm", "fit", f"reference::{place}", "--array", "x", "-k", "2"]
    done = subprocess.run(
        [*command, "--tol", "1", "--output", str(tmp_path / "m.zarr")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 3000
    expected = GaussianMixture(2, tol=1.0, random_state=0).fit(X)
    np.testing.assert_allclose(GaussianMixture.load(tmp_path / "m.zarr").means_, expected.means_, rtol=1e-9)


def test_their_file_alone_names_the_way(place: str) -> None:
    with pytest.raises(DataError, match=f"reference::{place}"):
        open_rows(place)
