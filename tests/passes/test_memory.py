"""What a task takes at peak: arithmetic beforehand, held against the workers' limit, with a remedy that works."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from daskgmm import GaussianMixture
from daskgmm.errors import MemoryLimitError
from daskgmm.fitting.need import fit_need
from daskgmm.fitting.options import FitOptions
from daskgmm.mixture.family import family_called
from daskgmm.passes.executor import Room
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.memory import (
    BUSY_BYTES,
    INTERPRETER_BYTES,
    check_memory,
    check_own_memory,
    peak_task_bytes,
    peak_worker_bytes,
)  # fmt: skip
from daskgmm.passes.need import Need
from daskgmm.passes.rows import Rows
from daskgmm.sources.opening import open_rows
from daskgmm.sources.partition import MIB, RUN_BYTES
from daskgmm.sources.source import READ_FACTOR
from tests.oracle import KINDS
from tests.strategies import LAWS

DIAG = family_called("diag").shape


@dataclass
class Limited:
    """An executor whose tasks may use so many bytes."""

    limit: int | None

    def memory_limit(self) -> int | None:
        return self.limit

    def task_rooms(self) -> list[Room]:
        return [] if self.limit is None else [Room(self.limit, 1)]

    def n_threads(self) -> int:
        return 2

    def compute(self, graph: Any, keys: Any, *, travels: bool, on_done: Any = None) -> Any:
        raise AssertionError("nothing is computed")


class Unreadable(WrapperStore[Any]):
    """A store whose chunks may not be read."""

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        assert "c/" not in key, f"{key} was read"
        return await super().get(key, *args, **kwargs)


def store(path: Path | MemoryStore, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str = "f4") -> Any:
    """Return an array of metadata alone."""
    place = LocalStore(path) if isinstance(path, Path) else path
    return zarr.create_array(Unreadable(place), shape=shape, chunks=chunks, dtype=dtype)


def rows_of(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str = "f4") -> Rows:
    store(path, shape, chunks, dtype)
    return Rows.plan(open_rows(path), None)


# -- the statement -------------------------------------------------------------------------------------------------


def test_statement_is_arithmetic_on_metadata() -> None:
    """It is the same for an array whose chunks cannot be read, at no cost for a store of any size."""
    array = store(MemoryStore(), (10**9, 64), (10**4, 64))
    rows = Rows.plan(open_rows(array), None)
    stated = peak_worker_bytes(rows, Need(DIAG, 8))
    assert stated == INTERPRETER_BYTES + BUSY_BYTES + peak_task_bytes(rows, Need(DIAG, 8))
    assert isinstance(stated, int)


@pytest.mark.parametrize(
    ("n_rows", "chunk_rows", "run_mib", "ahead_mib"),
    [
        (10**8, 10_000, 16, 16),  # runs of several chunks
        (10**8, 65_536, 16, 16),
        (10**8, 131_072, 32, 32),  # a chunk larger than a run
        (10**7, 10**7, 2441.40625, 0),  # one chunk
        (81_920, 100, 16, 4),  # more than a run in all, and less than two
        (8192, 100, 2, 0),  # less than a run in all
        (8192, 10**6, 2, 0),
    ],
)
def test_runs_are_stated(tmp_path: Path, n_rows: int, chunk_rows: int, run_mib: float, ahead_mib: float) -> None:
    rows = rows_of(tmp_path / "X.zarr", (n_rows, 64), (min(chunk_rows, n_rows), 64))
    one = peak_task_bytes(replace(rows, prefetch=False), Need(DIAG, 4))
    two = peak_task_bytes(rows, Need(DIAG, 4))
    expected = run_mib * MIB * READ_FACTOR
    assert two - one == pytest.approx(ahead_mib * MIB * READ_FACTOR, rel=0.02), "prefetch holds a second run"
    assert 0 < one - expected < 8 * MIB, "the rest is the kernel's"


def test_weights_are_stated_too(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "X.zarr", (10**7, 16), (10**4, 16))
    store(tmp_path / "w.zarr", (10**7,), (4 * MIB,), "f8")
    weighted = Rows.plan(rows.X, open_rows(tmp_path / "w.zarr"))
    more = peak_task_bytes(weighted, Need(DIAG, 4)) - peak_task_bytes(rows, Need(DIAG, 4))
    assert more == 32 * MIB * READ_FACTOR


def test_candidates_are_stated(tmp_path: Path) -> None:
    """The states of ten restarts with 50 components of 64 features take more than reading (measured: 180 MiB)."""
    rows = rows_of(tmp_path / "X.zarr", (64 * 2048, 64), (2048, 64))
    rows = replace(rows, edges=rows.X.chunk_edges)
    full = family_called("full").shape
    assert rows.n_partitions == 64
    one, two, ten = (peak_task_bytes(rows, Need(full, 50, n_candidates=n)) for n in (1, 2, 10))
    assert ten - one == 9 * (two - one)
    state = 50 * (64 * 65 // 2 + 64 + 1) * 8
    assert 19 * state < two - one < 28 * state
    need = peak_worker_bytes(rows, Need(full, 50, n_candidates=10))
    assert check_memory(rows, Need(full, 50, n_candidates=10), Limited(need)) is rows
    assert check_memory(rows, Need(full, 50, n_candidates=10), Limited(need - 1)).prefetch is False


def test_states_that_wait_for_a_merge_are_stated(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "X.zarr", (3000, 64), (1, 64))
    found = []
    for n_partitions in 1, 8, 64, 512, 3000:
        cut = replace(rows, edges=np.linspace(0, 3000, n_partitions + 1).astype(int))
        found.append(peak_task_bytes(cut, Need(DIAG, 10)))
    state = 8 * (10 * 129 + 3)
    assert (np.diff(found) == 7 * state).all()
    # A task of several partitions has a tree of its own: a state a level.
    for per_task, levels in (2, 1), (4, 2), (5, 3), (8, 3), (64, 6):
        assert peak_task_bytes(replace(cut, per_task=per_task), Need(DIAG, 10)) == found[-1] + levels * state


def test_a_task_of_a_dask_array_holds_its_whole_partition() -> None:
    array = dask.array.ones((10**7, 16), chunks=(50_000, 16))
    rows = Rows.plan(open_rows(array), None)
    longest = int(np.diff(rows.edges).max()) * 128
    assert 60 * MIB <= longest < 72 * MIB
    assert longest <= peak_task_bytes(rows, Need(DIAG, 4)) < longest + 64 * MIB


@LAWS
@given(
    kind=st.sampled_from(KINDS), n_components=st.integers(1, 100), n_features=st.integers(1, 128),
    chunk=st.integers(1, 10**6),
)  # fmt: skip
def test_more_of_anything_takes_no_less(kind: str, n_components: int, n_features: int, chunk: int) -> None:
    array = store(MemoryStore(), (10**7, n_features), (chunk, n_features))
    rows = Rows.plan(open_rows(array), None)
    stated = peak_task_bytes(rows, Need(family_called(kind).shape, n_components))
    assert peak_task_bytes(rows, Need(family_called(kind).shape, n_components + 1)) > stated
    assert peak_task_bytes(replace(rows, prefetch=False), Need(family_called(kind).shape, n_components)) < stated
    assert peak_task_bytes(rows, Need(family_called("full").shape, n_components)) >= stated * 0.99


# -- the limit -----------------------------------------------------------------------------------------------------


def test_prefetch_goes_first(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "X.zarr", (10**7, 16), (10**6, 16))
    need = peak_worker_bytes(rows, Need(DIAG, 4))
    frugal = peak_worker_bytes(replace(rows, prefetch=False), Need(DIAG, 4))
    assert need - frugal > 100 * MIB
    for limit in None, need, need + 1:
        assert check_memory(rows, Need(DIAG, 4), Limited(limit)) is rows
    for limit in need - 1, frugal:
        found = check_memory(rows, Need(DIAG, 4), Limited(limit))
        assert (found.X, found.weights, found.check, found.prefetch) == (rows.X, None, rows.check, False)
        np.testing.assert_array_equal(found.edges, rows.edges)
    assert check_memory(rows, Need(DIAG, 4, extra_bytes=1), Limited(need)).prefetch is False
    with pytest.raises(MemoryLimitError):
        check_memory(rows, Need(DIAG, 4), Limited(frugal - 1))
    with pytest.raises(MemoryLimitError):
        check_memory(rows, Need(DIAG, 4, extra_bytes=1), Limited(frugal))


def test_an_array_in_this_process_is_not_held_against_the_workers() -> None:
    rows = Rows.plan(open_rows(np.ones((1000, 10))), None)
    assert check_memory(rows, Need(DIAG, 4), Limited(1)) is rows


def said(caught: pytest.ExceptionInfo[MemoryLimitError]) -> str:
    assert isinstance(caught.value, MemoryError)
    return str(caught.value)


def test_message_has_both_numbers_and_the_chunk(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "X.zarr", (10**7, 16), (2 * MIB, 16))  # chunks of 128 MiB
    with pytest.raises(MemoryLimitError) as caught:
        check_memory(rows, Need(DIAG, 4), Limited(400 * MIB))
    need = peak_worker_bytes(replace(rows, prefetch=False), Need(DIAG, 4)) / MIB
    assert said(caught).startswith(
        f"A task must fit in a worker's memory, 400 MiB a task; got a need of {ceil(need)} MiB for chunks of 128 MiB "
        f"in {tmp_path}/X.zarr. Give workers more memory (memory_limit {ceil(need)}MiB), or rechunk: "
    )


@pytest.mark.parametrize("chunks", [(60_000, 100), (60_000, 25)])
def test_the_command_of_the_message_works(tmp_path: Path, chunks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is run as it stands, and what it makes has the same rows and fits."""
    monkeypatch.chdir(tmp_path)
    X = np.arange(18_000_000, dtype="f4").reshape(180_000, 100)  # (two partitions: one is done in this process)
    zarr.create_array("X.zarr", data=X, chunks=chunks)
    rows = Rows.plan(open_rows("X.zarr"), None)
    assert rows.X.chunk_bytes == 24e6
    fits = Limited(INTERPRETER_BYTES + BUSY_BYTES + 60 * MIB)
    with pytest.raises(MemoryLimitError) as caught:
        check_memory(rows, Need(DIAG, 4), fits)
    (command,) = re.findall(r"or rechunk: (.*)$", said(caught))
    exec(command, {"dask": dask})
    again = Rows.plan(open_rows("rechunked.zarr"), None)
    assert check_memory(again, Need(DIAG, 4), fits).X.chunk_bytes <= RUN_BYTES
    np.testing.assert_array_equal(zarr.open_array("rechunked.zarr")[...], X)


def test_the_command_works_for_an_array_of_a_group_and_for_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    group = zarr.create_group("data.zarr")
    group.create_array("rows", shape=(17 * MIB, 1), chunks=(MIB, 1), dtype="f4")
    group.create_array("weights", shape=(17 * MIB,), chunks=(4 * MIB,), dtype="f8")[...] = 2.0
    X, weights = (open_rows("data.zarr", array=name) for name in ("rows", "weights"))
    fits = Limited(INTERPRETER_BYTES + BUSY_BYTES + 110 * MIB)
    with pytest.raises(MemoryLimitError, match="for chunks of 32 MiB in .*data.zarr/weights. ") as caught:
        check_memory(Rows.plan(X, weights), Need(DIAG, 4), fits)
    exec(said(caught).partition("or rechunk: ")[2], {"dask": dask})
    again = open_rows("rechunked.zarr")
    assert (again.n_rows, again.n_features, again.chunk_bytes) == (17 * MIB, 1, RUN_BYTES)
    assert check_memory(Rows.plan(X, again), Need(DIAG, 4), fits)
    assert (zarr.open_array("rechunked.zarr")[-5:] == 2).all()


def test_the_command_for_a_dask_array_rechunks_it() -> None:
    X = dask.array.ones((10**7, 16), chunks=(5 * 10**6, 16))
    fits = Limited(INTERPRETER_BYTES + BUSY_BYTES + 120 * MIB)
    with pytest.raises(MemoryLimitError, match="for chunks of 611 MiB in Dask array. ") as caught:
        check_memory(Rows.plan(open_rows(X), None), Need(DIAG, 4), fits)
    names = {"X": X}
    exec(said(caught).partition("or rechunk: ")[2], names)
    again = Rows.plan(open_rows(names["X"]), None)
    assert check_memory(again, Need(DIAG, 4), fits).n_partitions > 10


@pytest.mark.parametrize("chunk_rows", [1000, MIB])
def test_rechunking_is_not_advised_where_it_does_not_help(tmp_path: Path, chunk_rows: int) -> None:
    """A run of small chunks takes 16 MiB as well."""
    rows = rows_of(tmp_path / "X.zarr", (10**7, 16), (chunk_rows, 16))
    with pytest.raises(MemoryLimitError) as caught:
        check_memory(rows, Need(DIAG, 4), Limited(INTERPRETER_BYTES + BUSY_BYTES + 40 * MIB))
    of_chunks = "for chunks of 64 MiB " if chunk_rows > 1000 else ""
    assert re.search(
        rf" MiB {of_chunks}in {tmp_path}/X.zarr. Give workers more memory \(memory_limit \d+MiB\)\.$", said(caught)
    )


def test_fewer_components_are_advised_where_they_help(tmp_path: Path) -> None:
    rows, need = rows_of(tmp_path / "X.zarr", (10**6, 64), (1000, 64)), Need(family_called("full").shape, 200)
    enough = Limited(peak_worker_bytes(replace(rows, prefetch=False), replace(need, n_components=1)))
    with pytest.raises(MemoryLimitError, match=r"Give workers more memory \(.*\), or decrease n_components\.$"):
        check_memory(rows, need, enough)
    check_memory(rows, replace(need, n_components=1), enough)


def test_fewer_components_are_not_advised_where_they_are_a_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, need = rows_of(tmp_path / "X.zarr", (10**6, 64), (1000, 64)), Need(family_called("full").shape, 200)
    own = replace(need, given=True)
    enough = Limited(peak_worker_bytes(replace(rows, prefetch=False), replace(need, n_components=1)))
    with pytest.raises(MemoryLimitError, match=r"Give workers more memory \(memory_limit (\d+)MiB\)\.$") as caught:
        check_memory(rows, own, enough)
    (limit,) = re.findall(r"memory_limit (\d+)MiB", said(caught))
    check_memory(rows, own, Limited(int(limit) * MIB))
    monkeypatch.setattr("daskgmm.passes.memory._NO_QUESTION_BYTES", 0)
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 200 * MIB)
    chunky = rows_of(tmp_path / "chunky.zarr", (10**6, 64), (10**5, 64))
    for held, taken, n_workers, remedy in (
        (rows, need, 0, "Decrease n_components, take fewer features, or take another covariance_type."),
        (rows, replace(need, own_bytes=1), 2, "Take fewer workers, decrease n_components, decrease n_init, take fewer"),
        (rows, replace(need, n_components=1), 0, "Take fewer features, or take another covariance_type."),
        (rows, own, 0, "Take a machine with more memory."),
        (rows, own, 1, "Take a machine with more memory."),
        (chunky, own, 3, "Take fewer workers, take a machine with more memory, or store the rows in smaller chunks."),
    ):
        with pytest.raises(MemoryLimitError, match=rf"\. {remedy}"):
            check_own_memory(held, taken, LocalExecutor(), n_workers=n_workers)


def test_what_asks_for_fewer_components_has_none_of_a_model(tmp_path: Path) -> None:
    X = rows_of(tmp_path / "X.zarr", (1000, 2), (1000, 2)).X
    start = FitOptions(2, means_init=np.zeros((2, 2)))
    assert [fit_need([o], X).given for o in (FitOptions(2), start)] == [False, True]
    assert fit_need([FitOptions(2)], X, given=True).given


@pytest.mark.parametrize("n_rows", range(10**6, 10**6 + 16_000, 3_000))
def test_who_gives_what_the_message_asks_for_has_given_enough(tmp_path: Path, n_rows: int) -> None:
    """The need of chunks of 61 MiB and a fraction is not rounded down."""
    rows = rows_of(tmp_path / "X.zarr", (10**7, 16), (n_rows, 16))
    with pytest.raises(MemoryLimitError) as caught:
        check_memory(rows, Need(DIAG, 4), Limited(MIB))
    asked = re.search(r"a need of (\d+) MiB .*\(memory_limit (\d+)MiB\)", said(caught))
    assert asked
    for enough in asked.groups():
        check_memory(rows, Need(DIAG, 4), Limited(int(enough) * MIB))


@pytest.mark.parametrize("where", ["in memory", "a path"])
def test_what_no_machine_can_hold_is_refused_in_python_too(where: str, tmp_path: Path) -> None:
    """One covariance of 600,000 features takes 2.6 TiB."""
    X: Any = np.zeros((10, 600_000), dtype=np.float32)
    if where == "a path":
        np.save(tmp_path / "x.npy", X)
        X = tmp_path / "x.npy"
    with pytest.raises(MemoryLimitError, match=r"A task must fit in the memory of this machine, .* 600000 features in"):
        GaussianMixture(1).fit(X)
