"""Zarr arrays at URLs: by HTTP and from S3, without secrets in what travels."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import Crc32cCodec
from zarr.storage import LocalStore

from daskgmm.errors import DataError, InputMissingError, OptionError
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Rows
from daskgmm.passes.survey import SurveyPass
from daskgmm.passes.tree import Passes
from daskgmm.sources import failures
from daskgmm.sources.credentials import without_secrets
from daskgmm.sources.opening import open_rows
from daskgmm.sources.zarr_locating import locate
from daskgmm.sources.zarr_location import ZarrLocation
from tests.conftest import S3_KEY
from tests.sources.test_zarr_source import LAYOUTS, X, elsewhere, reader_of, written


def test_secrets_are_dropped_at_any_depth() -> None:
    options = {
        "key": "KEY",
        "secret": "SECRET",
        "anon": False,
        "endpoint_url": "http://localhost:1",
        "asynchronous": True,
        "client_kwargs": {"region_name": "r", "aws_secret_access_key": "SECRET", "proxy": "http://u:SECRET@h"},
        "config": {"access_key_id": "KEY", "skip_signature": "true", "sas_token": "SECRET"},
        "connection_string": "AccountKey=SECRET",
        "headers": {"Authorization": "SECRET"},
        "session": object(),
        "requester_pays": True,
    }
    assert without_secrets(options) == {
        "anon": False,
        "endpoint_url": "http://localhost:1",
        "client_kwargs": {"region_name": "r"},
        "config": {"skip_signature": "true"},
        "requester_pays": True,
    }
    assert without_secrets({"token": "anon"}) == {"token": "anon"}


def test_passwords_in_urls_are_refused_and_signatures_hidden() -> None:
    with pytest.raises(OptionError, match=r"must be a URL without a password.*got https://host/x\.zarr\.") as caught:
        open_rows("https://me:hidden@host/x.zarr")
    assert "hidden" not in str(caught.value)
    with pytest.raises(OptionError, match=r"must be a URL without a signature.*got https://host/x\.zarr\.") as caught:
        locate("https://host/x.zarr?sig=hidden")
    assert "hidden" not in str(caught.value)
    assert ZarrLocation("fsspec", "https://host/x.zarr?sig=hidden").label == "https://host/x.zarr"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Serve tmp_path on a port of this machine, refusing what is called private."""

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if "private" in self.path:
                self.send_error(403)
            else:
                super().do_GET()

        def log_message(self, *arguments: Any) -> None:
            pass

    with served(partial(Handler, directory=str(tmp_path))) as url:
        yield url


@contextmanager
def served(handler: Any) -> Iterator[str]:
    """Serve on a port of this machine; provide the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_http(tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp", reason="http needs fsspec and aiohttp: the extra 'http'")
    monkeypatch.setattr(failures, "RETRY_SECONDS", ())
    written(tmp_path / "X.zarr", **LAYOUTS["rows"])
    written(LocalStore(tmp_path / "group.zarr"), name="X", **LAYOUTS["columns"])
    source = open_rows(f"{web}/X.zarr")
    assert source.travels
    np.testing.assert_array_equal(elsewhere(source).read(0, 100), X)
    np.testing.assert_array_equal(elsewhere(open_rows(f"{web}/group.zarr/X")).read(5, 10), X[5:10])
    np.testing.assert_array_equal(elsewhere(open_rows(f"{web}/group.zarr", array="X")).read(5, 10), X[5:10])
    # This server ignores byte ranges, which parts of shards need; the checksum of their index notices.
    written(tmp_path / "shards.zarr", **LAYOUTS["sharded"])
    with pytest.raises(
        DataError, match=r"Rows 0 to 5 must be readable; .*shard c/0/0 of .*or the server ignores byte ranges"
    ):
        elsewhere(open_rows(f"{web}/shards.zarr")).read(5, 10)
    again = open_rows(zarr.open_array(f"{web}/X.zarr", mode="r"))
    assert again.label == source.label == f"{web}/X.zarr"
    np.testing.assert_array_equal(elsewhere(again).read(0, 100), X)
    with pytest.raises(InputMissingError, match=r"must be an existing Zarr array or group; got http://.*/none\.zarr"):
        open_rows(f"{web}/none.zarr")
    with pytest.raises(InputMissingError, match=r"X must be readable; got http://.*private.* access was refused"):
        open_rows(f"{web}/private.zarr")
    with pytest.raises(InputMissingError, match=r"X must be reachable; got http://127\.0\.0\.1:9/X\.zarr"):
        open_rows("http://127.0.0.1:9/X.zarr")


def test_a_flaky_server_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that answers 503, cuts a chunk short, closes the connection, and is slow; then it does as it should."""
    pytest.importorskip("aiohttp", reason="http needs fsspec and aiohttp: the extra 'http'")
    monkeypatch.setattr(failures, "RETRY_SECONDS", (0.0, 0.0, 0.0, 0.0))
    # (One chunk: of several, a request that was given up could take the trouble that is meant for the next pass.)
    written(tmp_path / "X.zarr", compressors=Crc32cCodec())
    troubles: list[str] = []

    class Flaky(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            trouble = troubles.pop() if troubles and "/c/" in self.path else ""
            if trouble == "503":
                self.send_error(503)
            elif trouble == "cut short":
                content = (tmp_path / self.path.lstrip("/")).read_bytes()[:-40]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            elif trouble == "closed":
                self.connection.close()
            else:
                if trouble == "slow":
                    time.sleep(0.3)
                super().do_GET()

        def log_message(self, *arguments: Any) -> None:
            pass

    with served(partial(Flaky, directory=str(tmp_path))) as url:
        reader = elsewhere(open_rows(f"{url}/X.zarr"))
        for trouble in ("503", "cut short", "closed", "slow"):
            troubles[:] = [trouble]
            np.testing.assert_array_equal(reader.read(0, 20), X[:20])
        assert [f"attempt {i} of 5" in caplog.text for i in (1, 2)] == [True, False]
        with Passes(Rows.plan(open_rows(f"{url}/X.zarr"), None), LocalExecutor()) as passes:
            for trouble in ("503", "cut short", ""):
                troubles[:] = [trouble]
                found = passes.run(SurveyPass(4, False, 0, -1), name="survey")
                np.testing.assert_allclose(found.mean, X.mean(axis=0))
        counted = [record.message for record in caplog.records if "failed and were repeated" in record.message]
        assert [f"1 in this pass, {i} so far." in message for i, message in enumerate(counted, 1)] == [True, True]
        troubles[:] = ["cut short"] * 100
        with pytest.raises(DataError, match=r"Rows 0 to 100 must be readable; got .* from chunk c/0/0 of"):
            reader.read(0, 20)
        assert 80 < len(troubles) <= 94, "five attempts, a look at which chunk it is, and no more"


READ_ELSEWHERE = "import pickle, sys; print(pickle.load(sys.stdin.buffer).read(0, 100).sum())"
IDENTITY, SECRET = S3_KEY.values()


@pytest.fixture
def options(s3: str) -> dict[str, Any]:
    import s3fs

    given = {"key": IDENTITY, "secret": SECRET, "client_kwargs": {"endpoint_url": s3, "region_name": "us-east-1"}}
    system = s3fs.S3FileSystem(key=IDENTITY, secret=SECRET, client_kwargs={"endpoint_url": s3})
    if not system.exists("data"):
        system.mkdir("data")
        zarr.create_array("s3://data/X.zarr", shape=X.shape, dtype=X.dtype, chunks=(30, 4), storage_options=given)[
            ...
        ] = X
    return given


def test_s3_reader_travels_without_secrets(options: dict[str, Any], s3: str) -> None:
    source = open_rows(zarr.open_array("s3://data/X.zarr", mode="r", storage_options=options))
    assert (source.label, source.travels) == ("s3://data/X.zarr", True)
    np.testing.assert_array_equal(reader_of(source).read(0, 100), X)
    pickled = pickle.dumps(reader_of(source))
    assert IDENTITY.encode() not in pickled
    assert SECRET.encode() not in pickled
    assert s3.encode() in pickled, "where the service is, is no secret"
    assert len(pickled) < 800

    def run(**credentials: str) -> subprocess.CompletedProcess[bytes]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        clean |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent", **credentials}
        return subprocess.run([sys.executable, "-c", READ_ELSEWHERE], input=pickled, env=clean, capture_output=True)

    done = run(AWS_ACCESS_KEY_ID=IDENTITY, AWS_SECRET_ACCESS_KEY=SECRET)
    assert float(done.stdout) == X.sum(), done.stderr.decode()
    refused = run()
    assert refused.returncode != 0
    assert b"credentials into the environment" in refused.stderr
    assert b"InputMissingError" in refused.stderr


def test_s3_url_with_credentials_of_the_environment(options: dict[str, Any], bucket: str) -> None:
    np.testing.assert_array_equal(elsewhere(open_rows("s3://data/X.zarr")).read(0, 100), X)
    for missing in ("s3://data/none.zarr", "s3://no-such-bucket/X.zarr"):
        with pytest.raises(InputMissingError, match=f"must be an existing Zarr array or group; got {missing}"):
            open_rows(missing)


def test_obstore_reader_travels_without_secrets(options: dict[str, Any], s3: str) -> None:
    obstore = pytest.importorskip("obstore.store", reason="object stores of zarr need obstore")
    store = obstore.S3Store(
        "data",
        prefix="X.zarr",
        access_key_id=IDENTITY,
        secret_access_key=SECRET,
        endpoint=s3,
        region="us-east-1",
        client_options={"allow_http": True},
    )
    source = open_rows(zarr.open_array(zarr.storage.ObjectStore(store, read_only=True), mode="r"))
    assert (source.label, source.travels) == ("s3://data/X.zarr", True)
    pickled = pickle.dumps(reader_of(source))
    assert IDENTITY.encode() not in pickled
    assert SECRET.encode() not in pickled
    clean = {**os.environ, "AWS_ACCESS_KEY_ID": IDENTITY, "AWS_SECRET_ACCESS_KEY": SECRET}
    done = subprocess.run([sys.executable, "-c", READ_ELSEWHERE], input=pickled, env=clean, capture_output=True)
    assert float(done.stdout) == X.sum(), done.stderr.decode()


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(OptionError, match=r"X must be at a URL .*got gs://bucket/X\.zarr .*pip install gcsfs"):
        open_rows("gs://bucket/X.zarr")
