"""Files of a checkpoint: whole or not there, in a folder of this machine and in an S3 service."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daskgmm.errors import DataError, OutputError
from daskgmm.stores.storage import Storage, storage_at
from tests.conftest import S3_KEY


@pytest.fixture(params=["folder", "file://", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "s3":
        yield storage_at(f"{request.getfixturevalue('bucket')}/c")
    else:
        yield storage_at(f"{'file://' if request.param == 'file://' else ''}{tmp_path / 'c'}")


def test_what_is_written_is_there_once_and_never_changed(storage: Storage) -> None:
    assert storage.names() == []
    with pytest.raises(FileNotFoundError):
        storage.read("b", most_bytes=9)
    storage.write("b", b"two")
    storage.write("a", b"")
    assert storage.names() == ["a", "b"]
    with pytest.raises(FileExistsError):
        storage.write("b", b"other")
    assert (storage.read("a", most_bytes=9), storage.read("b", most_bytes=9)) == (b"", b"two")
    storage.remove("a")
    storage.remove("a")
    assert storage.names() == ["b"]
    storage.clear()
    storage.clear()
    assert storage.names() == []
    storage.write("b", b"three")
    assert storage.read("b", most_bytes=9) == b"three"


def test_what_is_larger_than_it_may_be_is_not_read(storage: Storage) -> None:
    storage.write("b", b"three")
    assert storage.read("b", most_bytes=5) == b"three"
    with pytest.raises(DataError, match="a file of the checkpoint must have at most 4 bytes; got 5 in .*/c/b. Remove"):
        storage.read("b", most_bytes=4)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_waited_for(make: Callable[[Path], None], tmp_path: Path) -> None:
    storage = storage_at(str(tmp_path / "c"))
    storage.write("a", b"one")
    make(tmp_path / "c" / "b")
    with pytest.raises(DataError, match="must be a file; got .*/c/b, which is none"):
        storage.read("b", most_bytes=9)


#: What writing calls, in this order.
_CALLS = ("mkdir", "open", "fsync", "link", "unlink")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")])
@pytest.mark.parametrize("at", range(8))
def test_a_write_that_fails_leaves_nothing_half(
    at: int, error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = storage_at(str(tmp_path / "c"))
    calls: list[str] = []

    def failing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **others: Any) -> Any:
            calls.append(name)
            if len(calls) - 1 == at:
                raise error
            return real(*arguments, **others)

        return call

    with monkeypatch.context() as patched:
        for name in _CALLS:
            patched.setattr(os, name, failing(name, getattr(os, name)))
        said = "nothing"
        try:
            storage.write("x", b"content")
        except OutputError as found:
            said = str(found)
    written = said == "nothing"
    assert written or f"the checkpoint must be writable; got {error}" in said
    assert len(calls) > at, "else this tests nothing"
    if "x" in storage.names():
        assert storage.read("x", most_bytes=9) == b"content"
    else:
        assert not written
    storage.remove("x")
    storage.write("x", b"content")
    assert storage.read("x", most_bytes=9) == b"content"


def test_a_file_system_without_hard_links_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", unable)
    storage = storage_at(str(tmp_path / "c"))
    storage.write("x", b"content")
    with pytest.raises(FileExistsError):
        storage.write("x", b"other")
    assert (storage.names(), storage.read("x", most_bytes=9)) == (["x"], b"content")
    assert os.listdir(tmp_path / "c") == ["x"]


def test_a_folder_that_was_removed_is_not_made_again(tmp_path: Path) -> None:
    storage = storage_at(str(tmp_path / "gone" / "c"))
    with pytest.raises(OutputError, match="the checkpoint must be writable; got .*gone"):
        storage.write("x", b"content")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    storage = storage_at(str(tmp_path / "c"))
    storage.write("x", b"content")
    (tmp_path / "c").chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(OutputError, match="Permission denied"):
        storage.write("y", b"content")
    (tmp_path / "c").chmod(stat.S_IRWXU)
    assert storage.names() == ["x"]


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("mine")
    with pytest.raises(OutputError, match="the checkpoint's place must be free; got a file at"):
        storage_at(str(tmp_path / "c")).names()


#: (In a process of its own: s3fs keeps its sessions, and each test of this one has the service of all.)
OUT_OF_REACH = """
import s3fs
from daskgmm.stores.storage import storage_at
from daskgmm.errors import OutputError
from daskgmm.stores.checkpoint import Checkpoint

s3fs.S3FileSystem.retries = 1
storage = storage_at("s3://bucket/c")
for call in (
    storage.names, lambda: storage.read("x", most_bytes=10), storage.clear, lambda: Checkpoint(storage, every=1.0),
    lambda: storage.write("x", b"content"), lambda: storage.remove("x"),
):
    try:
        print("no error", call())
    except OutputError as error:
        print(error)
"""


def test_a_service_that_cannot_be_reached_is_no_damage() -> None:
    """Names, read, write and remove each say so; nothing listens on port 9."""
    pytest.importorskip("s3fs", reason="S3 needs s3fs: the extra 's3'")
    network = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_REACH], env={**os.environ, **S3_KEY, **network}, capture_output=True, text=True,
        timeout=100, check=True,
    )  # fmt: skip
    said, error = done.stdout.splitlines(), r"got Could not connect to the endpoint URL: .* for s3://bucket/c\."
    assert len(said) == 6
    for line in said[:4]:
        assert re.match(f"the checkpoint must be readable; {error} Check the network, the service and the cred", line)
    for line in said[4:]:
        assert re.match(f"the checkpoint must be writable; {error} What was written before stands: check the n", line)
