"""Nothing is lost: whatever operation of a checkpoint fails or is torn, the same work goes on, to the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import zarr
from distributed import Client

from daskgmm.errors import DataError, OutputError
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.race import Race
from daskgmm.fitting.result import Fit
from daskgmm.fitting.status import Status
from daskgmm.fitting.sweep import Sweep, select_model
from daskgmm.kernels.statistics import Statistics
from daskgmm.passes.client_executor import ClientExecutor
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.provenance import provenance
from daskgmm.passes.task import Partial
from daskgmm.sources.opening import open_rows
from daskgmm.stores.checkpoint import Checkpoint
from daskgmm.stores.encoding import encode
from daskgmm.stores.storage import storage_at
from tests.faults import Faulty, Torn, mutilate
from tests.strategies import make_case

CASE = make_case("full", seed=1, n_rows=4000, n_components=3, n_features=2)
RECORD = {"command": "fit"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of 1,000 rows in 5 partitions; partitions are planned in this process only."""
    return stored(CASE.X[:1000], tmp_path, monkeypatch)


@pytest.fixture
def longer_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of 4,000 rows in 20 partitions."""
    return stored(CASE.X, tmp_path, monkeypatch)


def stored(X: np.ndarray, folder: Path, patched: pytest.MonkeyPatch) -> Path:
    patched.setattr("daskgmm.sources.partition.PARTITION_BYTES", 3200)
    zarr.create_array(folder / "X.zarr", data=X, chunks=(200, 2))
    return folder / "X.zarr"


Work = Callable[[Path, Checkpoint | None], "Fit | Sweep"]


def small_fit(store: Path, checkpoint: Checkpoint | None, **options: Any) -> Fit:
    options = {
        "n_components": 2,
        "n_init": 2,
        "start_rows": 200,
        "tol": 1e-6,
        "max_iter": 2,
        "escape": False,
        **options,
    }
    executor = options.pop("executor", LocalExecutor())
    with dask.config.set(scheduler="synchronous"):
        return fit_mixture(open_rows(store), FitOptions(**options), executor=executor, checkpoint=checkpoint)


def rounds_fit(store: Path, checkpoint: Checkpoint | None) -> Fit:
    return small_fit(store, checkpoint, init_params="k-means||", n_init=3, covariance_type="tied", max_iter=5)


def small_select(store: Path, checkpoint: Checkpoint | None) -> Sweep:
    options = FitOptions(n_init=1, start_rows=200, max_iter=1, escape=False)
    with dask.config.set(scheduler="synchronous"):
        return select_model(
            open_rows(store), options, n_components=[1, 2], covariance_types=["diag"], criterion="held_out",
            n_folds=2, executor=LocalExecutor(), checkpoint=checkpoint,
        )  # fmt: skip


WORKS: dict[str, Work] = {"fit": small_fit, "k-means||": rounds_fit, "select": small_select}


def bits(done: Fit | Sweep) -> bytes:
    """Every number of the outcome but times and reading."""
    if isinstance(done, Sweep):
        return encode([done.best, done.n_passes, [[e.held_out, bits(e.fit).hex()] for e in done.entries]])
    history = [{k: v for k, v in record.items() if k != "seconds"} for record in done.history]
    return encode([done.parameters, done.status, done.lower_bounds, done.log_likelihood, done.n_passes, history])


def at(folder: Path, *, fault: int = -1, how: str = "raises", every: float = 0.0) -> tuple[Checkpoint, Faulty]:
    storage = Faulty(storage_at(str(folder / "c")), fault, how)
    checkpoint = Checkpoint(storage, every=every)
    checkpoint.begin(RECORD)
    return checkpoint, storage


# -- crash points, enumerated ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, bytes]]:
    with pytest.MonkeyPatch.context() as patched:
        store = stored(CASE.X[:1000], tmp_path_factory.mktemp("undisturbed"), patched)
        yield {name: bits(work(store, None)) for name, work in WORKS.items()}


@pytest.mark.parametrize("name", WORKS)
def test_a_checkpoint_changes_no_bits_and_is_gone_at_the_end(
    name: str, store: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    checkpoint, storage = at(tmp_path)
    assert bits(WORKS[name](store, checkpoint)) == undisturbed[name]
    assert len([what for what in storage.done if what.startswith("write manifest")]) > 5
    again, _ = at(tmp_path)
    reads = LocalExecutor.compute
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LocalExecutor, "compute", lambda *_, **__: pytest.fail("nothing is read again"))
        if name != "select":  # (its samples are passed over again)
            assert bits(WORKS[name](store, again)) == undisturbed[name]
    assert LocalExecutor.compute is reads
    checkpoint.clear()
    assert sorted(os.listdir(tmp_path)) == ["X.zarr"]


@pytest.mark.parametrize("how", ["raises", "torn", "after"])
@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("every", [0.0, 1e9], ids=["within passes", "after passes"])
def test_every_operation_may_fail(
    name: str, how: str, every: float, store: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """The same work again gives the same bits; some operations here, each with DASKGMM_ALL_FAULTS=1."""
    (tmp_path / "counted").mkdir()
    checkpoint, counted = at(tmp_path / "counted", every=every)
    WORKS[name](store, checkpoint)
    n = len(counted.done)
    for fault in range(n) if "DASKGMM_ALL_FAULTS" in os.environ else sorted({0, n - 1, *range(3, n, n // 5)}):
        folder = tmp_path / f"{fault}"
        folder.mkdir()
        broken, storage = at(folder, fault=fault, how=how, every=every)
        with pytest.raises(OutputError if how == "raises" else Torn):
            WORKS[name](store, broken)
        assert len(storage.done) > fault
        again, _ = at(folder, every=every)
        assert bits(WORKS[name](store, again)) == undisturbed[name], fault
        again.clear()
        assert list(folder.iterdir()) == []


_KILLED = """
import sys
from pathlib import Path
import tests.stores.test_checkpoint as t
import daskgmm.sources.partition
daskgmm.sources.partition.PARTITION_BYTES = 3200
checkpoint, storage = t.at(Path(sys.argv[2]), fault=int(sys.argv[3]), how="kills")
t.WORKS[sys.argv[4]](Path(sys.argv[1]), checkpoint)
"""


@pytest.mark.parametrize(("name", "fault"), [("fit", 3), ("k-means||", 20), ("select", 31)])
def test_a_killed_process_goes_on(
    name: str, fault: int, store: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    arguments = [sys.executable, "-c", _KILLED, str(store), str(tmp_path), str(fault), name]
    killed = subprocess.run(arguments, cwd=Path(__file__).parents[2], capture_output=True, check=False, timeout=100)
    assert killed.returncode == -9, killed.stderr.decode()
    checkpoint, _ = at(tmp_path)
    assert bits(WORKS[name](store, checkpoint)) == undisturbed[name]


# -- slots shorter than a pass -----------------------------------------------------------------------------------------
class Slot(LocalExecutor):
    """An executor whose time is up after so many parts of passes."""

    def __init__(self, n_parts: int) -> None:
        self.left = n_parts

    def compute(self, *arguments: Any, on_done: Any = None, **others: Any) -> list[Any]:
        def told(number: int, value: Any) -> None:
            if on_done is None:
                return
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            on_done(number, value)

        return super().compute(*arguments, on_done=told, **others)


@pytest.mark.parametrize("every", [0.0, 1e9], ids=["written at once", "written when time is up"])
def test_slots_of_two_fifths_of_a_pass_finish_the_fit(every: float, longer_store: Path, tmp_path: Path) -> None:
    n_slots, undisturbed = 0, small_fit(longer_store, None, cache=False)
    while True:
        n_slots += 1
        checkpoint, _ = at(tmp_path, every=every)
        try:
            done = small_fit(longer_store, checkpoint, executor=Slot(8), cache=False)
            break
        except KeyboardInterrupt:
            assert n_slots < 100
    assert bits(done) == bits(undisturbed)
    assert n_slots == -(-20 * done.n_passes // 8), "nothing that was done is done again"
    assert done.bytes_read == done.n_passes * CASE.X.nbytes


@pytest.mark.parametrize("every", [0.0, 1e9], ids=["written as it comes", "written when cut short"])
def test_a_start_that_is_cut_short_goes_on_too(
    every: float, longer_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut short again and again, each time at its second EM on the sample: one of them gets done each time."""
    options: dict[str, Any] = {"n_components": 4, "n_init": 4, "start_rows": 1000, "escape": True}
    expected, n_calls, real = bits(small_fit(longer_store, None, **options)), [], Race._em

    def cut_short(self: Race, *arguments: Any, **named: Any) -> Any:
        n_calls.append(1)
        if len(n_calls) > 1:
            raise KeyboardInterrupt
        return real(self, *arguments, **named)

    monkeypatch.setattr(Race, "_em", cut_short)
    done, n_slots = None, 0
    while done is None:
        n_slots += 1
        n_calls.clear()
        checkpoint, _ = at(tmp_path, every=every)
        with suppress(KeyboardInterrupt):
            done = small_fit(longer_store, checkpoint, **options)
    assert n_slots > 5
    assert bits(done) == expected
    assert not [name for name in at(tmp_path)[0]._slots if name.startswith("start-0-")], "let go with the start"


def test_on_workers_with_kept_rows_too(
    store: Path, tmp_path: Path, client: Client, undisturbed: dict[str, bytes]
) -> None:
    class Ends(ClientExecutor):
        left = 4  # of two parts a pass

        def _gathered(self, graph: Any, futures: list[Any], on_done: Any) -> list[Any]:
            def told(number: int, value: Any) -> None:
                Ends.left -= 1
                if Ends.left == 0:
                    raise KeyboardInterrupt
                on_done(number, value)

            return super()._gathered(graph, futures, told)

    checkpoint, _ = at(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        small_fit(store, checkpoint, executor=Ends(client), cache=True)
    checkpoint, _ = at(tmp_path)
    done = small_fit(store, checkpoint, executor=ClientExecutor(client), cache=True)
    assert bits(done) == undisturbed["fit"]
    assert done.cached_bytes == CASE.X[:1000].nbytes


# -- what cannot be gone on from -------------------------------------------------------------------------------------
def put_something(folder: Path) -> Path:
    checkpoint, _ = at(folder)
    checkpoint.put({"a": np.arange(1000.0), "b": [1, None]})
    checkpoint.add("pass", 3, Partial(None, 1, 2))
    return folder / "c"


def test_values_are_there_until_they_are_replaced(tmp_path: Path) -> None:
    put_something(tmp_path)
    checkpoint, _ = at(tmp_path)
    assert checkpoint.record == RECORD
    assert checkpoint.get("b") == [1, None]
    assert checkpoint.get("c") is None
    assert checkpoint.known("pass") == {3: Partial(None, 1, 2)}
    assert checkpoint.known("another") == {}
    checkpoint.put({"b": 2, "c": (1,)})
    assert len(os.listdir(tmp_path / "c")) == 4, "a manifest and three values"
    checkpoint, _ = at(tmp_path)
    assert (checkpoint.get("b"), checkpoint.get("c"), checkpoint.known("pass")) == (2, (1,), {})
    np.testing.assert_array_equal(checkpoint.get("a"), np.arange(1000.0))


def test_of_two_processes_one_is_told(tmp_path: Path) -> None:
    put_something(tmp_path)
    (one, _), (two, _) = at(tmp_path), at(tmp_path)
    one.put({"a": 1})
    with pytest.raises(OutputError, match="the checkpoint must be written by one process alone; got one that another"):
        two.put({"a": 2})
    assert at(tmp_path)[0].get("a") == 1
    computed: list[str] = []
    with pytest.raises(OutputError, match="the checkpoint must be written by one process alone"):
        two.once("c", lambda: computed.append("c"), beside=dict)
    assert computed == [], "told before it computes"


def test_one_that_another_process_goes_on_with_is_not_called_damaged(tmp_path: Path) -> None:
    put_something(tmp_path)
    (one, _), (two, _) = at(tmp_path), at(tmp_path)
    one.put({"a": 1})
    with pytest.raises(OutputError, match="the checkpoint must be written by one process alone"):
        two.get("a")


def read_all(folder: Path) -> None:
    checkpoint, _ = at(folder)
    for name in ("a", "b"):
        checkpoint.get(name)
    checkpoint.known("pass")


def test_mutilations_are_a_clean_error(tmp_path: Path) -> None:
    """A hundred files cut, emptied, removed or with a bit flipped."""
    place = put_something(tmp_path)
    whole = {name: (place / name).read_bytes() for name in os.listdir(place)}
    rng = np.random.default_rng(5)
    for _ in range(100):
        name = sorted(whole)[rng.integers(len(whole))]
        how = mutilate(place / name, rng)
        if how == "removed" and name.startswith("manifest"):
            assert at(tmp_path)[0].get("a") is None, "no checkpoint"
        else:
            with pytest.raises(DataError, match="the checkpoint must be whole; got a damaged one in .*overwrite=True"):
                read_all(tmp_path)
        (place / name).write_bytes(whole[name])
    read_all(tmp_path)


def rewritten(place: Path, **changes: Any) -> None:
    """Change the manifest, its checksum right."""
    import hashlib

    (name,) = [name for name in os.listdir(place) if name.startswith("manifest")]
    found = json.loads((place / name).read_bytes().partition(b"\n")[2])
    text = json.dumps(found | changes).encode()
    (place / name).write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)


@pytest.mark.parametrize(
    "slots",
    [
        [], {"a": None}, {"a": {}}, {"a": {"sha256": "../../../etc/passwd", "bytes": 1}},
        {"a": {"sha256": 3, "bytes": 1}}, {"a": {"sha256": "0" * 64, "bytes": "x"}},
        {"a": {"sha256": "0" * 64, "bytes": 5}}, {"a": {"sha256": "0" * 64, "bytes": float("inf")}},
    ],
)  # fmt: skip
def test_hostile_manifests_are_a_clean_error(slots: Any, tmp_path: Path) -> None:
    place = put_something(tmp_path)
    rewritten(place, slots=slots)
    with pytest.raises(DataError, match="the checkpoint must be whole"):
        read_all(tmp_path)


def test_parts_that_have_grown_are_not_read(tmp_path: Path) -> None:
    place = put_something(tmp_path)
    for name in os.listdir(place):
        if name.startswith("part"):
            os.truncate(place / name, 1 << 40)  # (sparse: it takes no disk)
    with pytest.raises(DataError, match="must have at most .* bytes; got 1099511627776 in .*overwrite=True"):
        at(tmp_path)[0].get("a")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("of", ["manifest", "part"])
def test_a_pipe_is_not_waited_for(of: str, tmp_path: Path) -> None:
    place = put_something(tmp_path)
    for path in place.glob(f"{of}*"):
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(
        DataError, match="the checkpoint must be whole; .* must be a file; got .*, which is none.*overwrite=True"
    ):
        read_all(tmp_path)
    Checkpoint.remove(str(place))
    assert not place.exists()


@pytest.fixture
def gone_far(store: Path, tmp_path: Path) -> Checkpoint:
    """The checkpoint of a fit that is done but for its closing pass."""
    checkpoint, _ = at(tmp_path)
    small_fit(store, checkpoint)
    checkpoint.put({"closing": None})
    return checkpoint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spent", 5), ("spent", {}), ("files", []), ("files", 5), ("survey", 3), ("start-0", []), ("start-0", 5),
        ("polishing", 7), ("closing", 7), ("closing", ([], 0)), ("closing", ([Statistics(np.zeros(1))], 1)),
    ],
)  # fmt: skip
def test_values_of_another_kind_are_a_clean_error(
    name: str, value: Any, store: Path, tmp_path: Path, gone_far: Checkpoint
) -> None:
    if name == "start-0":
        gone_far.put({"polishing": None})
    gone_far.put({name: value})
    checkpoint, _ = at(tmp_path)
    with pytest.raises(
        DataError,
        match=r"must be as daskgmm wrote it; got .*/c\. Give the options that it was begun with, r",
    ):
        small_fit(store, checkpoint)


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": "x"}, {"seconds": 10**400}, {"bytes_read": None}, {"by": 5}, {"history": {}},
        *({"history": {"n_passes": 1, "of_model": m, "noted": []}} for m in ([], [[]] * 2, [[3]], [[{"pass": 1}]])),
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_what_is_kept_beside_must_be_what_it_was(
    changes: dict[str, Any], store: Path, tmp_path: Path, gone_far: Checkpoint
) -> None:
    gone_far.put({"spent": gone_far.get("spent") | changes})
    checkpoint, _ = at(tmp_path)
    with pytest.raises(
        DataError,
        match=r"must be as daskgmm wrote it; got .*/c\. Give the options that it was begun with, r",
    ):
        small_fit(store, checkpoint)


def test_candidates_of_other_options_are_not_gone_on_with(store: Path, tmp_path: Path, gone_far: Checkpoint) -> None:
    saved = gone_far.get("polishing")
    options = replace(saved.candidates[0].options, max_iter=10**15, tol=0.0)
    endless = replace(saved.candidates[0], options=options, status=Status.RUNNING)
    gone_far.put({"polishing": replace(saved, candidates=(endless,))})
    checkpoint, _ = at(tmp_path)
    with pytest.raises(DataError, match="got ValueError: candidates of other models going on from"):
        small_fit(store, checkpoint)


def test_a_bug_of_a_fit_that_goes_on_from_nothing_is_called_so(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = eval(
        "lambda race: 1 + None", {"__name__": "daskgmm.fitting.race"}
    )  # (of ours: another's would pass as it is)
    monkeypatch.setattr(Race, "run", bug)
    checkpoint, _ = at(tmp_path)
    with pytest.raises(TypeError, match="unsupported operand"):
        small_fit(store, checkpoint, start_rows=500)
    checkpoint, _ = at(tmp_path)
    with pytest.raises(DataError, match="got TypeError: unsupported operand .* going on from") as found:
        small_fit(store, checkpoint, start_rows=500)
    assert isinstance(found.value.__cause__, TypeError)


def test_another_version_and_other_files_are_refused(tmp_path: Path) -> None:
    place = put_something(tmp_path)
    rewritten(place, format_version=6)
    with pytest.raises(OutputError, match="must have format version 5; got 6 in .*Go on with .*overwrite=True"):
        at(tmp_path)
    (place / "mine.txt").write_text("")
    with pytest.raises(OutputError, match=r"the checkpoint's place must be free; got .* with mine.txt in it"):
        at(tmp_path)
    with pytest.raises(OutputError, match="with mine.txt in it"):
        Checkpoint.remove(str(place))
    (place / "mine.txt").unlink()
    Checkpoint.remove(str(place))
    assert not place.exists()


def test_other_versions_are_told(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, _ = at(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        small_fit(store, checkpoint, executor=Slot(12))
    now = provenance()
    monkeypatch.setattr("daskgmm.fitting.progress.provenance", lambda: {**now, "numpy": "9.9"})
    checkpoint, _ = at(tmp_path)
    small_fit(store, checkpoint)
    assert f"/c was written by numpy {now['numpy']}, now 9.9: last bits may differ." in caplog.text


def test_other_partitions_are_refused(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, _ = at(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        small_fit(store, checkpoint, executor=Slot(12))
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 6400)
    checkpoint, _ = at(tmp_path)
    with pytest.raises(OutputError, match="the checkpoint must have partitions as they are now; got others"):
        small_fit(store, checkpoint)
