"""What several tests need: a cluster of real processes, a small seeded data set, and hypothesis' settings."""

import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from hypothesis import settings

from daskgmm.kernels.cuda_rows import Card
from daskgmm.passes.card import card_here, the_card
from tests import slurm as real_slurm
from tests.clusters import LOCAL
from tests.kernels.host_card import HostCard

#: Any key opens the S3 service of the tests.
S3_KEY = {"AWS_ACCESS_KEY_ID": "testing-identity", "AWS_SECRET_ACCESS_KEY": "testing-secret"}

# The same examples every time, here and in CI; `--hypothesis-profile explore` looks for new ones.
settings.register_profile("fixed", deadline=None, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("fixed")

# Tests send signals which what started them may have had ignored: INT by a shell without job control, HUP by nohup.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)


#: Files of tests that start many processes, or wait: the longest first, so that processes side by side end together.
LONG = (
    "test_cluster_slurm", "test_workflows", "test_failures", "test_whole_process", "test_slurm_array", "test_joining",
    "test_promises", "test_cli", "test_crash_points", "test_terminal", "test_hosts", "test_any_batch", "test_examples",
    "test_benchmarks", "test_sharing", "test_plan", "test_kubernetes", "test_systemd", "test_demo", "test_one_job",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of long files first."""
    places = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """Two worker processes of one thread, reachable from this machine only; made by the first test that asks."""
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, memory_limit="2GiB", **LOCAL) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    """The current client, for one test: dask computes on the cluster."""
    with Client(cluster) as client:
        yield client


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real_slurm.Slurm]:
    """A real SLURM of this machine alone, with 16 processors that need not be there; one for all tests."""
    if reason := real_slurm.missing():
        pytest.skip(reason)
    with real_slurm.Slurm(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


@pytest.fixture
def small_rows() -> np.ndarray:
    """Rows of three well separated Gaussians, (3000, 2), float64."""
    random = np.random.default_rng(20260101)
    centres = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    return centres[random.integers(3, size=3000)] + random.standard_normal((3000, 2))


@pytest.fixture
def small_store(tmp_path: Path, small_rows: np.ndarray) -> Path:
    """Path of a Zarr array of the small rows, in chunks of 700 rows."""
    path = tmp_path / "rows.zarr"
    zarr.create_array(path, data=small_rows, chunks=(700, 2))
    return path


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Run an S3 service on a port of this machine; its URL. One for all tests, since s3fs keeps its sessions open."""
    pytest.importorskip("s3fs", reason="S3 needs s3fs: the extra 's3'")
    moto_server = pytest.importorskip("moto.server", reason="the tests of S3 need moto[server]: the extra 'test'")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make an empty bucket, to which the environment has the key; its URL."""
    import s3fs

    for name, value in S3_KEY.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    url = f"s3://{uuid4().hex}"
    s3fs.S3FileSystem().mkdir(url)
    return url


@pytest.fixture(params=["host", pytest.param("card", marks=pytest.mark.card)])
def card(request: pytest.FixtureRequest) -> Card:
    """Where the arithmetic of a card is done: the host in the place of one, and the card of this machine."""
    if request.param == "host":
        return HostCard()
    found = card_here()
    if isinstance(found, str):
        pytest.skip(f"this machine has {found}")
    return the_card()
