"""The local cluster of a command: worker processes that do not start, TLS, and who gets in."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.clusters import certified
from tests.groups import two_groups
from tests.sockets import certified_context, let_in_unencrypted, listening, spoken


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of 73 MiB in four partitions."""
    return two_groups(tmp_path_factory.mktemp("local") / "rows.zarr", 300_000)


def fit(store: Path, output: Path, *options: object, workers: int | None = 2) -> list[str]:
    local = () if workers is None else ("--workers", workers)
    arguments = ("fit", store, "-k", 2, "-o", output, "--restarts", 1, "--start-rows", 2000, *local, *options)
    return [sys.executable, "-m", "daskgmm", *map(str, arguments)]


# -- workers that do not start -----------------------------------------------------------------------------------------
def with_workers_that(do: str, folder: Path) -> dict[str, str]:
    """The environment in which worker processes, and no others, begin with these lines; each makes a file first."""
    lines = [
        "import os, pathlib, sys, time",
        "if '--multiprocessing-fork' in sys.orig_argv:",
        f"    pathlib.Path({str(folder)!r}, f'{{os.getpid()}}.worker').touch()",
        f"    {do}",
    ]
    (folder / "sitecustomize.py").write_text("\n".join(lines))
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def workers_of(folder: Path) -> list[int]:
    """The numbers of the worker processes that have begun."""
    return [int(path.stem) for path in folder.glob("*.worker")]


HANG = "time.sleep(600)"
DIE = "print('no memory', file=sys.stderr, flush=True); os._exit(3)"


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (HANG, r"Worker processes must start within 4 s; got some that had not\. .* wait longer \(--workers-timeout\)"),
        # The second cannot make the folder, and starts.
        (
            "try: os.mkdir(__file__ + '.first')\n    except OSError: pass\n    else: time.sleep(600)",
            r"must start within 4 s",
        ),
        (DIE, r"Worker processes must start; got one that ended before it had \(.+\)\. Look at what it wrote above"),
    ],
    ids=["hang", "one hangs", "die"],
)
def test_workers_that_do_not_start_end_the_command_in_time(store: Path, tmp_path: Path, do: str, message: str) -> None:
    began = time.monotonic()
    done = subprocess.run(
        fit(store, tmp_path / "m.zarr", "--workers-timeout", 4),
        env=with_workers_that(do, tmp_path), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 69, done.stderr
    assert time.monotonic() - began < 20  # (4 s are the cluster's; Python's imports take the others on a busy machine)
    last = done.stderr.splitlines()[-1]
    assert re.search(message, last)
    assert "Traceback" not in done.stderr
    assert ("no memory" in done.stderr) == (do == DIE)
    assert workers_of(tmp_path)
    assert not any(psutil.pid_exists(number) for number in workers_of(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_whose_workers_do_not_start(
    store: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(
        fit(store, tmp_path / "m.zarr"), stderr=subprocess.PIPE, text=True, env=with_workers_that(HANG, tmp_path)
    ) as process:
        while len(workers_of(tmp_path)) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=30) == 75
        assert time.monotonic() - began < 10
        assert process.stderr is not None
        assert f"Interrupted by {number.name}" in process.stderr.read()
    assert not any(psutil.pid_exists(number) for number in workers_of(tmp_path))


# -- TLS ---------------------------------------------------------------------------------------------------------------
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the files of two authorities, own-... and other-..., and of one that is no certificate."""
    folder = tmp_path_factory.mktemp("pems")
    for name in ("own", "other"):
        certified(folder, name)
    (folder / "junk.pem").write_text("junk")
    key = ["-in", str(folder / "own-key.pem"), "-out", str(folder / "locked-key.pem")]
    subprocess.run(["openssl", "rsa", "-aes256", "-passout", "pass:secret", *key], check=True, capture_output=True)
    return folder


def configured(pems: Path, **other: str) -> dict[str, str]:
    """The environment in which Dask's configuration requires encryption by the own files, but for some."""
    files = {
        f"{role}__{what.upper()}": f"own-{what}.pem"
        for role in ("CLIENT", "SCHEDULER", "WORKER") for what in ("cert", "key")
    }  # fmt: skip
    files = {"CA_FILE": "own-ca.pem", **files, **other}
    tls = {f"DASK_DISTRIBUTED__COMM__TLS__{name}": str(pems / file) for name, file in files.items()}
    return {**os.environ, "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true", **tls}


def refused(arguments: list[str], environment: dict[str, str]) -> str:
    """The last line of a command that ends as wrong usage."""
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 64, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@needs_openssl
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"CA_FILE": "none.pem"}, r"distributed\.comm\.tls\.ca-file must be a file; got .*/none\.pem, which is none"),
        ({"CA_FILE": "junk.pem"}, r"distributed\.comm\.tls\.ca-file must be certificates in PEM; got .*/junk\.pem \("),
        ({"WORKER__KEY": "none.pem"}, r"distributed\.comm\.tls\.worker\.key must be a file; got .*/none\.pem"),
        (
            {"SCHEDULER__CERT": "junk.pem"},
            r"tls\.scheduler\.cert and .*\.key must be a certificate and its own key .* got .*/junk\.pem and .*own-key",
        ),
        ({"CA_FILE": "other-ca.pem"}, r"must be a valid one of the authority; got .*CERTIFICATE_VERIFY_FAILED"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_wrong_with_the_files_of_the_configuration_is_named(
    store: Path, tmp_path: Path, pems: Path, other: dict[str, str], message: str
) -> None:
    assert re.search(message, refused(fit(store, tmp_path / "m.zarr"), configured(pems, **other)))


@needs_openssl
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ("junk.pem", "own-cert.pem", "own-key.pem"),
            r"--tls-ca-file must be certificates in PEM; got .*/junk\.pem \(",
        ),
        (
            ("own-ca.pem", "own-cert.pem", "other-key.pem"),
            r"--tls-cert and --tls-key must be a certificate and its own key.*MISMATCH",
        ),
        (
            ("own-ca.pem", "own-cert.pem", "locked-key.pem"),
            r"--tls-key must be .* without a password; got .*/locked-key\.pem",
        ),
    ],
    ids=["authority", "key of another", "password"],
)
def test_what_is_wrong_with_the_files_of_the_options_is_named(
    store: Path, tmp_path: Path, pems: Path, files: tuple[str, ...], message: str
) -> None:
    options = [
        x for name, file in zip(("ca-file", "cert", "key"), files, strict=True) for x in (f"--tls-{name}", pems / file)
    ]
    assert re.search(message, refused(fit(store, tmp_path / "m.zarr", *options), dict(os.environ)))


@needs_openssl
def test_a_configuration_that_requires_encryption_is_kept(store: Path, tmp_path: Path, pems: Path) -> None:
    joining = fit(store, tmp_path / "m.zarr", "--scheduler", "tcp://127.0.0.1:9", workers=None)
    assert re.search(
        r"scheduler must be one with TLS, .* got tcp://127.* Leave distributed\.comm\.require-encryption .* out\.",
        refused(joining, configured(pems)),
    )
    bare = {**os.environ, "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true"}
    assert re.search(
        r"tls\.ca-file and distributed\.comm\.tls\.scheduler\.cert must be set too, .* Name the files there, or by",
        refused(fit(store, tmp_path / "m.zarr"), bare),
    )


@needs_openssl
@pytest.mark.parametrize("protected", ["not", "by options", "by configuration"])
def test_a_fit_listens_on_this_machine_alone_and_lets_in_whom_it_should(
    store: Path, tmp_path: Path, pems: Path, protected: str
) -> None:
    own = [
        f"--tls-{name}={pems / f'own-{file}.pem'}"
        for name, file in (("ca-file", "ca"), ("cert", "cert"), ("key", "key"))
    ]
    options = ["--tol", "0", "--max-iter", "5000", "--no-escape", *(own if protected == "by options" else [])]
    environment = configured(pems) if protected == "by configuration" else dict(os.environ)
    log = tmp_path / "log"
    with log.open("w") as stderr, subprocess.Popen(
        fit(store, tmp_path / "m.zarr", *options), env=environment, stderr=stderr, text=True
    ) as process:  # fmt: skip
        try:
            while "Running in" not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            addresses = listening(process.pid)
            context = certified_context(pems, "own")
            found = {address: spoken(address, context) for address in addresses}
            insiders = [address for address, what in found.items() if what != "http"]
            let_in = let_in_unencrypted(insiders)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 75
        finally:
            process.kill()
    assert {ip for ip, _ in addresses} == {"127.0.0.1"}
    # The scheduler, two workers and their nannies. (What speaks HTTP are the pages of the scheduler and the workers.)
    assert len(insiders) == 5
    assert set(found.values()) - {"http"} <= ({"dask"} if protected == "not" else {"TLSv1.2", "TLSv1.3"})
    assert let_in == (insiders if protected == "not" else [])


# -- Dask's configuration ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "DASK_CONFIG",
            "bad.yaml",
            r"Dask must be one that can be imported; got ValueError: A dask config file at 'bad.yaml' is malf",
        ),
        ("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "banana", r"A cluster must start .*Invalid time unit: banana"),
        ("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "xx", r"A cluster must start .*Invalid time unit: xx"),
    ],
)
def test_a_configuration_of_dask_that_is_none_is_named(
    variable: str, value: str, message: str, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text("{{{")
    done = subprocess.run(
        fit(store, tmp_path / "m.zarr"), capture_output=True, text=True, check=False, cwd=tmp_path, timeout=100,
        env={**os.environ, variable: value},
    )  # fmt: skip
    assert done.returncode == 64, done.stderr
    assert re.search(f"error: {message}", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
