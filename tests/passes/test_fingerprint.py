"""What is stored is watched: files or objects that are written to are told apart from what they were."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr

from daskgmm.errors import DataError
from daskgmm.passes.fingerprint import check_unchanged, fingerprints
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Rows
from daskgmm.sources.opening import open_rows
from tests.strategies import make_case

X = make_case("full", seed=1, n_rows=4000, n_components=3, n_features=2).X


@pytest.fixture(autouse=True)
def many_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions of 200 rows, or the next chunks above."""
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 3200)


def of(data: Any, weights: Any = None) -> list[str]:
    return fingerprints(rows_of(data, weights), LocalExecutor())


def rows_of(data: Any, weights: Any = None) -> Rows:
    return Rows.plan(open_rows(data), None if weights is None else open_rows(weights))


def touched(path: Path) -> None:
    """Set the time of a file a nanosecond later."""
    found = os.stat(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


def changed(before: list[str], now: list[str]) -> list[int]:
    return [i for i, (a, b) in enumerate(zip(before, now, strict=True)) if a != b]


@pytest.mark.parametrize(
    ("layout", "file", "partitions"),
    [
        ({"chunks": (200, 2)}, "c/3/0", [3]),
        ({"chunks": (200, 1)}, "c/3/1", [3]),
        ({"chunks": (100, 2)}, "c/7/0", [3]),
        ({"chunks": (50, 2), "shards": (1000, 2)}, "c/1/0", [5, 6, 7, 8, 9]),
        ({"chunks": (200, 2), "zarr_format": 2}, "3.0", [3]),
    ],
    ids=["rows", "columns", "small", "shards", "v2"],
)
def test_of_a_folder_each_partition_knows_its_own_files(
    layout: dict[str, Any], file: str, partitions: list[int], tmp_path: Path
) -> None:
    zarr.create_array(tmp_path / "X.zarr", data=X, **layout)
    before = of(tmp_path / "X.zarr")
    assert len(before) == rows_of(tmp_path / "X.zarr").n_partitions == 20
    assert of(tmp_path / "X.zarr") == before
    touched(tmp_path / "X.zarr" / file)
    assert changed(before, of(tmp_path / "X.zarr")) == partitions
    (tmp_path / "X.zarr" / file).unlink()
    with pytest.raises(DataError, match="got none for row"):
        of(tmp_path / "X.zarr")
    with dask.config.set({"daskgmm.missing-chunks": "fill"}):
        assert changed(before, of(tmp_path / "X.zarr")) == partitions
    os.mkfifo(tmp_path / "X.zarr" / file)
    with pytest.raises(DataError, match="What is read must be a file; got"):
        of(tmp_path / "X.zarr")


def test_of_other_stores_and_of_weights(tmp_path: Path) -> None:
    with zarr.storage.ZipStore(tmp_path / "X.zip", mode="w") as store:
        zarr.create_array(store, data=X, chunks=(200, 2))
    np.save(tmp_path / "X.npy", X)
    zarr.create_array(tmp_path / "w.zarr", data=np.ones(4000), chunks=(400,))
    for place in tmp_path / "X.zip", tmp_path / "X.npy":
        before = of(place)
        assert before
        touched(place)
        assert changed(before, of(place)) == list(range(len(before)))
    before = of(X, tmp_path / "w.zarr")
    touched(tmp_path / "w.zarr" / "c" / "0")
    assert changed(before, of(X, tmp_path / "w.zarr"))[0] == 0


@pytest.mark.parametrize("version", [2, 3])
def test_how_rows_are_stored_is_part_of_all(version: int, tmp_path: Path) -> None:
    """Attributes are not; the order of bytes is."""
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(200, 2), zarr_format=version, compressors=None)
    before = of(tmp_path / "X.zarr")
    zarr.open_array(tmp_path / "X.zarr", mode="r+").attrs["note"] = "of somebody else"
    assert of(tmp_path / "X.zarr") == before
    place = tmp_path / "X.zarr" / ("zarr.json" if version == 3 else ".zarray")
    text = place.read_text()
    changes = ('"little"', '"big"') if version == 3 else ('"<f8"', '">f8"')
    assert changes[0] in text
    place.write_text(text.replace(*changes))
    assert changed(before, of(tmp_path / "X.zarr")) == list(range(20))


def test_of_an_object_store(bucket: str) -> None:
    zarr.create_array(f"{bucket}/X.zarr", data=X, chunks=(200, 2))
    with dask.config.set(scheduler="synchronous"):
        before = of(f"{bucket}/X.zarr")
        assert of(f"{bucket}/X.zarr") == before
        zarr.open_array(f"{bucket}/X.zarr", mode="r+")[700] = 5.0
        assert changed(before, of(f"{bucket}/X.zarr")) == [3]
        import s3fs

        s3fs.S3FileSystem().rm(f"{bucket}/X.zarr/c/9/0")
        with pytest.raises(DataError, match="got none for row 1800"):
            of(f"{bucket}/X.zarr")
        with dask.config.set({"daskgmm.missing-chunks": "fill"}):
            assert changed(before, of(f"{bucket}/X.zarr")) == [3, 9]


def test_rows_in_memory_have_none() -> None:
    assert of(X) == of(da.from_array(X, chunks=(200, 2))) == []


def test_the_first_partition_is_named(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(200, 2))
    rows, before = rows_of(tmp_path / "X.zarr"), of(tmp_path / "X.zarr")
    check_unchanged(before, before, rows, checkpoint=None)
    now = [*before[:3], "", "", *before[5:]]
    with pytest.raises(DataError, match=r"rows 600 to 800 of .*: partition 3, and 1 more, of 20\. Run the same again"):
        check_unchanged(before, now, rows, checkpoint=None)
    with pytest.raises(DataError, match=r"remove /a/checkpoint and run the same command again"):
        check_unchanged(before, now, rows, checkpoint="/a/checkpoint")
