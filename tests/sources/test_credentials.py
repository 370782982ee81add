"""Passwords and signatures in URLs, and in any part of a chain of them: refused, never shown, never in what travels."""

from __future__ import annotations

import logging
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from daskgmm import GaussianMixture
from daskgmm.cli.commands import gmm
from daskgmm.errors import OptionError
from daskgmm.sources.credentials import has_secret, refuse_secrets, shown, without_secrets
from daskgmm.sources.zarr_locating import locate, location_of
from daskgmm.stores.model_file import load_model
from tests.conftest import S3_KEY

SECRET = "hunter2"
#: A URL, and how messages show it.
WITH_SECRETS = {
    f"https://me:{SECRET}@host/x.zarr": "https://host/x.zarr",
    f"https://me:a/{SECRET}@host/x.zarr": "https://host/x.zarr",
    f"https://me:a::{SECRET}@host/x.zarr": "https://host/x.zarr",
    f"simplecache::http://me:{SECRET}@host/x.zarr": "simplecache::http://host/x.zarr",
    f"zip://x.zarr::blockcache::http://me:{SECRET}@host/y.zip": "zip://x.zarr::blockcache::http://host/y.zip",
    f"https://host/x.zarr?sig={SECRET}": "https://host/x.zarr",
    f"https://host/x.zarr?v=1&X-Amz-Signature={SECRET}#a": "https://host/x.zarr",
    f"https://host/x.zarr#token={SECRET}": "https://host/x.zarr",
    f"zip://x.zarr?sig={SECRET}::https://host/y.zip": "zip://x.zarr::https://host/y.zip",
    f"zip://x.zarr::https://host/y.zip?sp=r&sig={SECRET}": "zip://x.zarr::https://host/y.zip",
}
WITHOUT = (
    "/data/x.zarr", "/data/a:b@c/x.zarr?sig=1", "s3://bucket/x.zarr", "http://host:8080/a@b/x.zarr",
    "zip://x.zarr::http://host:80/a@b.zip", "simplecache::s3://bucket/x.zarr",
)  # fmt: skip


@pytest.mark.parametrize("url", WITH_SECRETS)
def test_secrets_are_refused_in_every_part_and_shown_nowhere(url: str) -> None:
    assert has_secret(url)
    assert shown(url) == WITH_SECRETS[url]
    for refused in (lambda: refuse_secrets(url, argument="X"), lambda: locate(url), lambda: load_model(url)):
        with pytest.raises(OptionError, match="must be a URL without a (password|signature)") as caught:
            refused()
        assert f"got {WITH_SECRETS[url]}. Put " in str(caught.value)
        assert SECRET not in str(caught.value)
    assert without_secrets({"proxy": url, "proxies": [url]}) == {}


@pytest.mark.parametrize("url", WITHOUT)
def test_what_is_no_secret_stays(url: str) -> None:
    assert not has_secret(url)
    refuse_secrets(url, argument="X")
    assert shown(url) == url
    assert without_secrets({"url": url}) == {"url": url}


def test_a_query_without_a_secret_is_used_and_not_shown() -> None:
    found = locate("https://host/get?file=x.zarr")
    assert (found.url, found.label) == ("https://host/get?file=x.zarr", "https://host/get")


@pytest.mark.parametrize("url", WITH_SECRETS)
def test_no_command_prints_or_keeps_one(
    url: str, tmp_path: Path, small_store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "m.zarr"
    GaussianMixture(1).fit(np.random.default_rng(1).normal(size=(50, 2))).save(model)
    before = sorted(os.listdir(tmp_path))
    rows, out = str(small_store), str(tmp_path / "out")
    for arguments in (
        ("fit", url, "-k", "2", "-o", out), ("fit", rows, "-k", "2", "-o", url),
        ("fit", rows, "--weights", url, "-k", "2", "-o", out), ("select", rows, "-k", "1:2", "-o", url),
        ("predict", url, rows, "-o", out), ("predict", str(model), url, "-o", out),
        ("predict", str(model), rows, "-o", url), ("inspect", url), ("score", url, rows),
        ("sample", str(model), "--rows", "5", "-o", url),
        ("sample", str(model), "--rows", "5", "-o", out, "--labels", url), ("report", url, "-o", f"{out}.html"),
    ):  # fmt: skip
        with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.DEBUG):
            done = CliRunner().invoke(gmm, arguments, prog_name="daskgmm")
        assert done.exit_code == 64, (arguments, done.output)
        assert "must be a URL without a" in done.stderr
        assert SECRET not in done.output + caplog.text + "".join(str(w.message) for w in warned), arguments
    assert sorted(os.listdir(tmp_path)) == before


def test_an_open_array_whose_url_bears_a_secret_does_not_travel_by_it() -> None:
    """Its owner has opened it, in this process alone."""
    pytest.importorskip("aiohttp", reason="http needs fsspec and aiohttp: the extra 'http'")
    from fsspec.implementations.http import HTTPFileSystem

    for url in (f"https://me:{SECRET}@host/x.zarr", f"https://host/x.zarr?sig={SECRET}", "https://host/x.zarr"):
        store = zarr.storage.FsspecStore(HTTPFileSystem(asynchronous=True), path=url, read_only=True)
        array = zarr.create_array({}, shape=(3, 2), dtype="f8")
        path = zarr.storage.StorePath(store, "")
        node = zarr.Array(type(array.async_array)(array.metadata, path))
        found = location_of(node)
        assert (found is None) == has_secret(url)
        assert SECRET.encode() not in pickle.dumps(found)


def test_keys_of_the_environment_are_in_nothing_that_is_put(
    small_store: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in the checkpoint nor in the model, nor in predictions, results and logs."""
    import s3fs

    put: dict[str, bytes] = {}
    real = s3fs.S3FileSystem._call_s3

    async def noting(system: Any, method: str, *arguments: Any, **others: Any) -> Any:
        if method == "put_object":
            put[others["Key"]] = bytes(others["Body"])
        return await real(system, method, *arguments, **others)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", noting)
    said = ""
    with caplog.at_level(logging.DEBUG, logger="daskgmm"):
        for arguments in (
            ("fit", str(small_store), "-k", "3", "-o", f"{bucket}/m.zarr", "--checkpoint-every", "0"),
            ("predict", f"{bucket}/m.zarr", str(small_store), "-o", f"{bucket}/labels.zarr"),
            ("inspect", f"{bucket}/m.zarr"),
        ):
            done = CliRunner().invoke(gmm, arguments, prog_name="daskgmm")
            assert done.exit_code == 0, done.output
            said += done.output
    for name in ("m.zarr.checkpoint/manifest-", "m.zarr.checkpoint/part-", "m.zarr/zarr.json", "labels.zarr/c/0"):
        assert any(name in path for path in put), name
    for value in S3_KEY.values():
        assert value not in said + caplog.text
        assert [path for path, content in put.items() if value.encode() in content] == []
