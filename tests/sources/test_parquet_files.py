"""Which files a Parquet input is: folders, patterns, Hive folders and HATS catalogs, here, on S3 and by HTTP."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import zarr

from daskgmm import open_rows
from daskgmm.errors import DataError, InputMissingError, OptionError
from daskgmm.passes.fingerprint import fingerprints
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Rows
from daskgmm.sources import failures
from daskgmm.sources.parquet_files import is_parquet, listing
from daskgmm.sources.zarr_source import ZarrSource
from tests.conftest import S3_KEY
from tests.sources.test_zarr_remote import served
from tests.sources.test_zarr_source import bare_reader_of, elsewhere

pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow: the extra 'parquet'")
pq = pytest.importorskip("pyarrow.parquet")


def put(path: Path, *numbers: float) -> Path:
    """Write a file of a column x, and one of words that nobody wants."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"x": [float(n) for n in numbers], "name": ["a"] * len(numbers)}), path)
    return path


def numbers_of(place: Any) -> list[float]:
    source = open_rows(place, columns="x")
    return list(elsewhere(source).read(0, source.n_rows)[:, 0])


def catalog(root: Path, *, kind: str = "object", folders: bool = False, first: float = 0) -> Path:
    """Write a HATS catalog of five rows in three pixels, with all that lies beside them."""
    inner = "/part-0.parquet" if folders else ".parquet"
    put(root / f"dataset/Norder=0/Dir=0/Npix=2{inner}", first, first + 1)
    put(root / f"dataset/Norder=0/Dir=0/Npix=10{inner}", first + 2)
    put(root / f"dataset/Norder=5/Dir=10000/Npix=10003{inner}", first + 3, first + 4)
    for name in ("_metadata", "_common_metadata", "data_thumbnail.parquet"):
        put(root / "dataset" / name, 100, 101)
    put(root / "per_partition_statistics.parquet", 102)
    (root / "partition_info.csv").write_text("Norder,Npix,num_rows\n0,2,2\n0,10,1\n5,10003,2\n")
    lines = [
        "#HATS catalog", "obs_collection=small", f"dataproduct_type={kind}", "hats_nrows=5",
        "hats_primary_table_url=s3\\://b/other", f"hats_npix_suffix={'/' if folders else '.parquet'}",
    ]  # fmt: skip
    for name in ("hats.properties", "properties"):
        (root / name).write_text("\n".join(lines))
    return root


def collection(root: Path) -> Path:
    catalog(root / "main")
    catalog(root / "main_10arcs", kind="margin", first=200)
    put(root / "main_id/dataset/index/part.parquet", 300)
    (root / "collection.properties").write_text(
        "#HATS Collection\nobs_collection=all\nhats_primary_table_url=main\nall_margins=main_10arcs\n"
        "default_margin=main_10arcs\nall_indexes=id main_id\n"
    )
    return root


# -- here ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_as_people_count(tmp_path: Path) -> None:
    root = tmp_path / "X"
    for i, name in enumerate(["b/part-0.parquet", "part-2.parquet", "part-10.PQ", "a/part-1.parquet"]):
        put(root / name, i)
    for name in ("_hidden.parquet", ".hidden.parquet", "_logs/x.parquet", ".x/x.parquet", "a/_x.parquet"):
        put(root / name, 100)
    (root / "_SUCCESS").touch()
    (root / "notes.txt").write_text("none of the data")
    assert numbers_of(root) == [3.0, 0.0, 1.0, 2.0]
    assert numbers_of(f"{root}/") == numbers_of(f"file://{root}") == [3.0, 0.0, 1.0, 2.0]
    os.symlink(tmp_path, root / "a" / "again")
    assert numbers_of(root) == [3.0, 0.0, 1.0, 2.0], "not read twice"
    os.rename(root, tmp_path / "X.parquet")
    assert numbers_of(tmp_path / "X.parquet") == [3.0, 0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.parquet", [2.0]),
        ("part-?.parquet", [2.0]),
        ("year=*", [0.0, 1.0]),
        ("year=*/*.parquet", [0.0, 1.0]),
        ("**/*.parquet", [2.0, 0.0, 1.0]),
        ("*", [2.0, 0.0, 1.0]),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, found: list[float]) -> None:
    for i, name in enumerate(["year=9/a.parquet", "year=10/a.parquet", "part-1.parquet"]):
        put(tmp_path / name, i)
    put(tmp_path / "year=9/_x.parquet", 100)
    (tmp_path / "notes.txt").touch()
    assert sorted(numbers_of(f"{tmp_path}/{pattern}")) == sorted(found)
    assert numbers_of(f"{tmp_path}/{pattern}")[-2:] == found[-2:]


def test_columns_of_hive_folders_are_no_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "year=2024/month=1/a.parquet", 1)
    put(tmp_path / "year=2025/month=1/a.parquet", 2)
    put(tmp_path / "year=2025/month=2/a.parquet", 3)
    with caplog.at_level("INFO", logger="daskgmm"):
        open_rows(tmp_path, columns="x"), open_rows(tmp_path, columns="x*", argument="sample_weight")
        assert not caplog.records
        assert numbers_of(tmp_path) == [1.0, 2.0, 3.0]
        open_rows(tmp_path, columns=["x*"])
    said = f"Folders of {tmp_path} are named by values, month=..., year=...: these are no columns."
    assert [one.getMessage() for one in caplog.records] == [said]
    for asked, key, rows in (
        ("year", "year", [1.0]), ("ye*", "year", [1.0]), ("Year", "year", [1.0]), ("!year", "year", [1.0]),
        ("month", "month", [1.0, 2.0]),
    ):  # fmt: skip
        for ask in (
            lambda name: open_rows(tmp_path, columns=["x", name]),
            lambda name: open_rows(tmp_path, columns=["x"]).kept(["x", name]),
        ):
            with pytest.raises(DataError, match="must name columns that the files of X have; got ") as caught:
                ask(asked)
            assert f"got '{asked}', by which folders of {tmp_path} are named ({key}=...)" in str(caught.value)
            (place,) = re.findall(r"one of its values, give '(.*)'\.$", str(caught.value))
            assert numbers_of(place) == rows, "the remedy, run as it stands"


def test_a_key_of_folders_that_is_a_column_too_is_one(tmp_path: Path) -> None:
    (tmp_path / "x=7").mkdir()
    put(tmp_path / "x=7/a.parquet", 1)
    assert open_rows(tmp_path, columns="x").n_rows == 1


@pytest.mark.parametrize("folders", [False, True])
def test_of_a_catalog_the_pixels_count_alone(tmp_path: Path, folders: bool) -> None:
    root = catalog(tmp_path / "small", folders=folders)
    for place in (root, root / "dataset", f"{root}/dataset/**/*.parquet"):
        assert numbers_of(place) == [0.0, 1.0, 2.0, 3.0, 4.0]
    (root / "hats.properties").unlink()
    assert numbers_of(root) == [0.0, 1.0, 2.0, 3.0, 4.0]
    with pytest.raises(DataError, match="got 'Npix', by which" if folders else "got 'Norder', by which"):
        open_rows(root, columns=["x", "Npix" if folders else "Norder"])


def test_of_a_collection_the_primary_table_counts_alone(tmp_path: Path) -> None:
    root = collection(tmp_path / "all")
    assert numbers_of(root) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert open_rows(root, columns="x").label == str(root)
    with pytest.raises(DataError, match=r"a catalog with rows of its own; got the margin in .*main_10arcs, which has"):
        open_rows(root / "main_10arcs")
    (root / "collection.properties").unlink()
    with pytest.raises(OptionError, match=r"be one catalog; got a folder with 2 in it, .*such as .*all/main\."):
        open_rows(root)
    (root / "collection.properties").write_text("obs_collection=all\n")
    with pytest.raises(DataError, match=r"names its primary table; got .*no hats_primary_table_url"):
        open_rows(root)
    shutil.rmtree(root / "main/dataset/Norder=0")
    shutil.rmtree(root / "main/dataset/Norder=5")
    with pytest.raises(DataError, match=r"have the rows of a HATS catalog in files Npix=; got none in .*main\."):
        open_rows(root / "main")


def test_who_opens_what(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "plain", data=np.ones((3, 2)))
    zarr.create_group(tmp_path / "group").create_array("X", data=np.ones((3, 2)))
    zarr.create_array(tmp_path / "old", data=np.ones((3, 2)), zarr_format=2)
    for name in ("plain", "group", "old"):
        if name != "group":
            put(tmp_path / name / "export.parquet", 1)
        assert isinstance(open_rows(tmp_path / name), ZarrSource), "a folder of Zarr is one, whatever else is in it"
    put(tmp_path / "deep/a/b/x.parquet", 1)
    put(tmp_path / "hidden/_x/x.parquet", 1)
    (tmp_path / "empty").mkdir()
    shutil.copy(put(tmp_path / "x.parquet", 1), tmp_path / "part-00000")
    (tmp_path / "X.csv").write_text("a,b\n1,2\n")
    told = {name: is_parquet(str(tmp_path / name)) for name in ("deep", "hidden", "empty", "part-00000", "X.csv", "no")}
    assert told == {"deep": True, "hidden": False, "empty": False, "part-00000": True, "X.csv": False, "no": False}
    assert numbers_of(tmp_path / "part-00000") == [1.0]
    assert not is_parquet(np.ones(3))
    assert not is_parquet("s3://bucket/X.csv")
    assert not is_parquet("https://me:secret@host/x")
    with pytest.raises(OptionError, match=r"be a URL without a password.*got https://host/x\."):
        open_rows("https://me:secret@host/x")


def test_nothing_there(tmp_path: Path) -> None:
    for name in ("none.parquet", "none/*.parquet", "*.parquet"):
        with pytest.raises(InputMissingError, match=rf"X must be an existing Parquet file.*{re.escape(name)}, where"):
            open_rows(tmp_path / name)
    (tmp_path / "X.parquet").mkdir()
    (tmp_path / "X.parquet" / "notes.txt").touch()
    with pytest.raises(InputMissingError, match=r"got .*X\.parquet, where no file ends in \.parquet, \.pq or \.parq"):
        open_rows(tmp_path / "X.parquet")
    os.mkfifo(tmp_path / "pipe.parquet")
    with pytest.raises(DataError, match="What is read must be a file"):
        open_rows(tmp_path / "pipe.parquet")


# -- at URLs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def far(bucket: str, tmp_path: Path) -> str:
    """A bucket with a collection, Hive folders and a Zarr array, to which the environment has the key."""
    import s3fs

    collection(tmp_path / "all")
    put(tmp_path / "hive/year=9/a.parquet", 1, 2)
    put(tmp_path / "hive/year=10/a.parquet", 3)
    rng = np.random.default_rng(0)
    table = pa.table({f"c{i}": rng.normal(size=5000) for i in range(6)})
    pq.write_table(table, tmp_path / "wide.parquet", row_group_size=2000)
    zarr.create_array(tmp_path / "array", data=np.ones((3, 2)))
    s3fs.S3FileSystem().put(f"{tmp_path}/", bucket, recursive=True)
    return bucket


def test_s3(far: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert numbers_of(f"{far}/all") == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert numbers_of(f"{far}/hive") == numbers_of(f"{far}/hive/*/*.parquet") == [1.0, 2.0, 3.0]
    assert numbers_of(f"{far}/hive/year=10/a.parquet") == [3.0]
    assert isinstance(open_rows(f"{far}/array"), ZarrSource)
    with pytest.raises(InputMissingError, match=r"X must be an existing Parquet file.*none\.parquet, where there is"):
        open_rows(f"{far}/none.parquet")
    whole = np.column_stack(pq.read_table(tmp_path / "wide.parquet", columns=["c4", "c1"]).columns)
    source = open_rows(f"{far}/wide.parquet", columns=["c4", "c1"])
    assert (source.label, source.travels) == (f"{far}/wide.parquet", True)
    np.testing.assert_array_equal(elsewhere(source).read(0, 5000), whole)
    # Row groups that are too large to be fetched at once are read piece by piece.
    for name, n_bytes in (("FETCHED_BYTES", 1000), ("LEAST_FETCHED_BYTES", 32_768)):
        monkeypatch.setattr(f"daskgmm.sources.parquet_footers.{name}", n_bytes)
    source = open_rows(f"{far}/wide.parquet", columns=["c4", "c1"])
    np.testing.assert_array_equal(elsewhere(source).read(1000, 4500), whole[1000:4500])
    rows = Rows.plan(source, None)
    before = fingerprints(rows, LocalExecutor())
    assert fingerprints(rows, LocalExecutor()) == before
    import s3fs

    s3fs.S3FileSystem().pipe(f"{far}/wide.parquet", (tmp_path / "wide.parquet").read_bytes()[:-1] + b"?")
    assert fingerprints(rows, LocalExecutor()) != before


def test_s3_reader_travels_without_secrets(far: str) -> None:
    pickled = pickle.dumps(bare_reader_of(open_rows(f"{far}/all", columns="x")))
    assert not any(secret.encode() in pickled for secret in S3_KEY.values())
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AWS_ACCESS") and not k.startswith("AWS_SECRET")}
    clean |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}
    code = (
        "import pickle, sys; from daskgmm.sources.source import as_reader; "
        "print(as_reader(pickle.load(sys.stdin.buffer), 0).read(0, 5).sum())"
    )

    refused = subprocess.run([sys.executable, "-c", code], input=pickled, env=clean, capture_output=True)
    assert b"InputMissingError" in refused.stderr
    assert b"credentials into the environment" in refused.stderr


def test_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a server that lists no folders; of a catalog its own list tells which pixels there are."""
    pytest.importorskip("aiohttp", reason="http needs fsspec and aiohttp: the extra 'http'")
    monkeypatch.setattr(failures, "RETRY_SECONDS", (0.0, 0.0))
    catalog(tmp_path / "small")
    troubles: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        """Answers byte ranges, and forbids lists."""

        def list_directory(self, path: Any) -> None:
            self.send_error(404)

        def do_GET(self) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            path = tmp_path / self.path.lstrip("/")
            if wanted is None or not path.is_file() or "whole" in troubles:
                super().do_GET()
                return
            content = path.read_bytes()[int(wanted[1]) : int(wanted[2]) + 1]
            if "503" in troubles:
                troubles.remove("503")
                self.send_error(503)
                return
            self.send_response(206)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    with served(partial(Handler, directory=str(tmp_path))) as url:
        assert numbers_of(f"{url}/small") == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert numbers_of(f"{url}/small/dataset/Norder=0/Dir=0/Npix=2.parquet") == [0.0, 1.0]
        reader = elsewhere(open_rows(f"{url}/small", columns="x"))
        troubles.append("503")
        assert list(reader.read(0, 3)[:, 0]) == [0.0, 1.0, 2.0]
        troubles.append("whole")
        with pytest.raises(DataError, match=r"on a server that answers byte ranges; got \d+ bytes for bytes"):
            elsewhere(open_rows(f"{url}/small", columns="x")).read(0, 3)
        with pytest.raises(InputMissingError, match=r"X must be an existing Parquet file.*none\.parquet, where"):
            open_rows(f"{url}/none.parquet")
    with pytest.raises(InputMissingError, match=r"X must be reachable; got http://127\.0\.0\.1:9/X\.parquet"):
        open_rows("http://127.0.0.1:9/X.parquet")


def test_a_list_of_files_is_in_order(tmp_path: Path) -> None:
    for name in ("10/a.parquet", "9/b.parquet", "9/a1.parquet", "9/a10.parquet", "9/a9.parquet", "9/a09.parquet"):
        put(tmp_path / name, 0)
    found = [name for name, _ in listing(str(tmp_path), argument="X").files]
    assert found == ["9/a1.parquet", "9/a09.parquet", "9/a9.parquet", "9/a10.parquet", "9/b.parquet", "10/a.parquet"]


@pytest.mark.parametrize(
    ("mark", "kind"),
    [
        ("_delta_log/00000000000000000000.json", "Delta Lake"),
        (".hoodie/hoodie.properties", "Hudi"),
        ("metadata/00000-abc.metadata.json", "Iceberg"),
    ],
)
@pytest.mark.parametrize("far", [False, True])
def test_a_table_whose_log_says_which_files_count_is_refused(mark: str, kind: str, far: bool, tmp_path: Path) -> None:
    """Files of rows that were replaced or removed are still there: they would count."""
    from fsspec import filesystem

    pq.write_table(pa.table({"a": [1.0, 2.0]}), tmp_path / "part-0.parquet")
    (tmp_path / mark).parent.mkdir()
    (tmp_path / mark).write_text("{}")
    place = str(tmp_path)
    if far:
        place = f"memory://tables/{uuid4().hex}"
        filesystem("memory").put(str(tmp_path), place, recursive=True)
    with pytest.raises(DataError, match=f"be Parquet files all of which hold rows; got a {kind} table, "):
        open_rows(place)
