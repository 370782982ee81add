"""Memory of a worker that its nanny would give back at once: used again while a fit lasts, and given back after it."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import zarr
from distributed import Client

from daskgmm.passes.client_executor import ClientExecutor
from daskgmm.passes.current import for_passes
from daskgmm.sources import heap
from daskgmm.sources.heap import ReusedHeap
from daskgmm.sources.opening import open_rows
from tests.sources.test_zarr_source import elsewhere

MIB = 1 << 20


def first_touches(dask_worker: Any = None) -> int:
    """Return how many pages of memory are new to this process in twenty allocations like those of a decoded chunk."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bytes(bytearray(MIB))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_workers_use_memory_again_while_a_fit_lasts(client: Client) -> None:
    if not all(client.run(lambda: heap._thresholds() is not None).values()):
        pytest.skip("malloc of these workers is not glibc's, or no nanny has set it")
    fresh = 20 * 2 * MIB // resource.getpagesize()

    def found() -> list[int]:
        client.run(first_touches)  # the first of them fill the heap
        return list(client.run(first_touches).values())

    assert min(found()) >= fresh // 2
    with for_passes(ClientExecutor(client)), for_passes(ClientExecutor(client)):
        assert max(found()) < fresh // 100
    assert min(found()) >= fresh // 2, "as it was before"


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What malloc of this process would be set to: bytes at which it trims, and at which it maps."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(heap, "_set", lambda *thresholds: found.append(thresholds))
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setattr("ctypes.CDLL", lambda name: type("Library", (), {"malloc_trim": staticmethod(int)}))
    return found


def held_twice() -> None:
    """Take the heap twice, as two fits in the threads of a worker do."""
    held = ReusedHeap()
    held.expect(MIB)  # a reader outside of a fit
    held.take()
    held.take()
    held.expect(MIB)
    held.release()
    held.release()


@pytest.mark.parametrize(
    ("environment", "during", "after"),
    [
        ({"TRIM": "65536"}, (8 * MIB, 32 * MIB), (65536, 128 << 10)),  # what a nanny sets
        ({"TRIM": "65536", "MMAP": "1048576"}, (8 * MIB, 32 * MIB), (65536, MIB)),
        ({"TRIM": "268435456"}, (256 * MIB, 32 * MIB), (256 * MIB, 128 << 10)),  # what a user sets to the same end
    ],
)
def test_the_first_sets_and_the_last_restores(
    settings: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    during: tuple[int, int],
    after: tuple[int, int],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"MALLOC_{name}_THRESHOLD_", value)
    held_twice()
    assert settings == [during, after]


def test_larger_chunks_keep_more_up_to_a_bound(
    settings: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    held = ReusedHeap()
    for _ in range(2):  # a second fit starts anew
        held.take()
        for n_bytes in 4 * MIB, 3 * MIB, 1024 * MIB, 512 * MIB:
            held.expect(n_bytes)
        held.release()
        assert [kept // MIB for kept, _ in settings] == [8, 16, 64, 0]
        settings.clear()


def test_readers_of_zarr_say_how_large_chunks_are(
    settings: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    layout = {"shape": (2 * MIB, 2), "chunks": (MIB // 2, 1), "shards": (MIB, 2), "dtype": "f8"}
    zarr.create_array(tmp_path / "X.zarr", **layout)
    reader = elsewhere(open_rows(tmp_path / "X.zarr", missing_chunks="fill"))
    heap.reused_heap.take()
    assert (reader.read(0, 3) == 0).all()
    heap.reused_heap.release()
    assert [kept // MIB for kept, _ in settings] == [8, 16, 0]


@pytest.mark.parametrize(
    ("environment", "library"), [({}, "glibc"), ({"TRIM": "64k"}, "glibc"), ({"TRIM": "65536"}, "")]
)
def test_where_malloc_learns_by_itself_nothing_is_set(
    settings: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], library: str
) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: (library, ""))
    for name, value in environment.items():
        monkeypatch.setenv(f"MALLOC_{name}_THRESHOLD_", value)
    held_twice()
    assert settings == []
