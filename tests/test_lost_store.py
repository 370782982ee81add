"""An object store that goes away while a command works with it: the error says so, and what was kept is whole."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daskgmm.stores.model_file import checksum, load_model
from tests.conftest import S3_KEY

FIT = ("-k", 3, "--tol", 0, "--max-iter", 30, "--checkpoint-every", 0, "--workers", 1, "--no-escape")


def test_a_fit_whose_store_goes_away_goes_on_when_it_is_back(
    tmp_path: Path, small_store: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto_server = pytest.importorskip("moto.server", reason="the tests of S3 need moto[server]: the extra 'test'")

    def serve(port: int) -> Any:
        """Serve what `bucket` is in, on a port that may go away."""
        server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        server.start()
        return server

    server = serve(0)
    host, port = server.get_host_and_port()
    environment = {**os.environ, **S3_KEY, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}

    def command(output: object) -> list[str]:
        return [sys.executable, "-m", "daskgmm", *map(str, ("fit", small_store, "-o", output, *FIT))]

    output = f"{bucket}/m.zarr"
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command(output), **pipes) as process:
        assert process.stderr is not None
        assert any("pass   4" in line for line in process.stderr)
        server.stop()
        said = process.stderr.read()
    assert process.returncode == 73, said
    assert re.search(r"the checkpoint must be (writable|readable); got .*endpoint URL", said), said
    assert "heck the network, the service and the credentials" in said
    while_away = subprocess.run(command(output), check=False, timeout=100, **pipes)
    assert while_away.returncode == 73, while_away.stderr
    assert (
        "--output must be reachable, to see what is there; got this: the model must be reachable" in while_away.stderr
    )
    server = serve(port)
    try:
        again = subprocess.run(command(output), check=False, timeout=100, **pipes)
    finally:
        server.stop()
    assert re.search(rf"Going on from {output}.checkpoint, after pass \d+\.", again.stderr), again.stderr
    assert again.returncode == 3
    plain = subprocess.run(command(tmp_path / "m.zarr"), capture_output=True, check=False, timeout=100)
    assert plain.returncode == 3
    found = [load_model(place).parameters for place in (output, tmp_path / "m.zarr")]
    assert checksum(found[0]) == checksum(found[1])
