"""Seams: what a person adds lands in one place. A toy of each kind is defined here, and works through the public door.

The package is not touched, and knows nothing of these toys. Each works in this process, and on a cluster of processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import dask
import numpy as np
import pytest
from click.testing import CliRunner
from distributed import Client

from daskgmm import GaussianMixture, Reader, Source, register_source
from daskgmm.cli import gmm
from daskgmm.data import failures, partition
from daskgmm.data.opening import open_source
from daskgmm.errors import ClusterError, DataError, InputMissingError, MemoryLimitError, OptionError

SEED = 20261127


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Rows of three Gaussians in two features, (3000, 2), float64."""
    random = np.random.default_rng(SEED)
    centres = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    return centres[random.integers(3, size=3000)] + random.standard_normal((3000, 2))


# -- options: one declaration gives the estimator's check, the command line and the message ----------------------------


# -- stopping rules and accelerators -----------------------------------------------------------------------------------


# -- families of covariances -------------------------------------------------------------------------------------------


# -- priors ------------------------------------------------------------------------------------------------------------


# -- kernels -----------------------------------------------------------------------------------------------------------


# -- columns -----------------------------------------------------------------------------------------------------------


# -- sources -----------------------------------------------------------------------------------------------------------


def computed_rows(seed: int, start: int, stop: int) -> np.ndarray:
    """Rows start to stop of three Gaussians in two features, each 500 of them by a seed of their own."""
    blocks = []
    for i in range(start // 500, -(-stop // 500)):
        random = np.random.default_rng((seed, i))
        centres = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
        blocks.append(centres[random.integers(3, size=500)] + random.standard_normal((500, 2)))
    return np.concatenate(blocks)[start % 500 :][: stop - start]


@dataclass(frozen=True)
class ToyReader(Reader):
    """Rows by a function; each read leaves a file in a folder, where there is one."""

    function: Callable[[int, int], np.ndarray]
    notes: Path | None = None

    def read(self, start: int, stop: int) -> np.ndarray:
        if self.notes is not None:
            (self.notes / f"{os.getpid()} {uuid4().hex}").touch()
        return self.function(start, stop)


class ToySource(Source):
    """Rows made by a function."""

    label, n_rows, n_features, dtype, chunk_rows = "a function", 3000, 2, np.dtype("f8"), 500

    def __init__(self, function: Callable[[int, int], np.ndarray], notes: Path | None = None) -> None:
        self._reader = ToyReader(function, notes)

    def reader(self) -> Reader:
        return self._reader


@dataclass(frozen=True)
class Recipe:
    """What a person may have instead of rows."""

    seed: int


def open_recipe(recipe: Recipe) -> ToySource:
    return ToySource(partial(computed_rows, recipe.seed))


def open_file(path: str) -> ToySource:
    """Open a file that holds a seed."""
    source = open_recipe(Recipe(int(Path(path).read_text())))
    source.label = source.path = path
    return source


def fitted(X: Any, **options: Any) -> GaussianMixture:
    return GaussianMixture(3, means_init=[[0, 0], [6, 0], [0, 6]], random_state=0, **options).fit(X)


@pytest.fixture
def toy_file(tmp_path: Path) -> Path:
    """A file of a kind that the package does not know, registered by its suffix."""
    register_source(".toy", open_file)
    (tmp_path / "X.toy").write_text("7")
    return tmp_path / "X.toy"


@pytest.fixture
def short_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every chunk a partition, so that few rows are work for a cluster."""
    for name in ("PARTITION_BYTES", "IN_PROCESS_BYTES"):
        monkeypatch.setattr(partition, name, 1)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


@pytest.fixture(scope="module")
def of_rows() -> GaussianMixture:
    """A fit to the rows of recipe 7, as an array."""
    return fitted(computed_rows(7, 0, 3000))


@pytest.mark.parametrize("how", ["source", "suffix", "type", "name of a type", "question"])
def test_a_source_made_of_a_function_is_fitted_as_its_rows_are(
    how: str, toy_file: Path, of_rows: GaussianMixture
) -> None:
    X: Any = Recipe(7)
    if how == "source":
        X = open_recipe(X)
    elif how == "suffix":
        X = toy_file
    else:
        claims = {"type": Recipe, "name of a type": "tests.Recipe", "question": lambda data: isinstance(data, Recipe)}
        register_source(claims[how], open_recipe)
    rows, found = computed_rows(7, 0, 3000), fitted(X)
    np.testing.assert_allclose(found.means_, of_rows.means_, rtol=1e-9)
    np.testing.assert_allclose(found.covariances_, of_rows.covariances_, rtol=1e-9)
    assert found.score(X) == pytest.approx(of_rows.score(rows), rel=1e-12)
    np.testing.assert_array_equal(found.predict(X).compute(), of_rows.predict(rows))


@pytest.mark.usefixtures("short_partitions")
def test_the_function_is_called_by_the_workers(client: Client, toy_file: Path, notes: Path) -> None:
    source = ToySource(partial(computed_rows, 7), notes)
    quick: dict[str, Any] = {"tol": 0.1, "escape": False}
    found = fitted(source, cache=False, **quick)
    readers = {int(path.name.split()[0]) for path in notes.iterdir()}
    assert readers
    assert readers <= set(client.run(os.getpid).values())
    np.testing.assert_array_equal(fitted(toy_file, **quick).means_, found.means_)
    rows = computed_rows(7, 0, 3000)
    np.testing.assert_array_equal(found.predict(toy_file).compute(), found.predict(rows))
    with dask.config.set(scheduler="sync"):
        np.testing.assert_array_equal(fitted(toy_file, **quick).means_, found.means_)


@pytest.mark.usefixtures("short_partitions")
def test_what_cannot_travel_to_the_workers_is_refused_before_it_is_sent(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_rows: GaussianMixture
) -> None:
    lock = Lock()

    def locked_rows(start: int, stop: int) -> np.ndarray:
        with lock:
            return computed_rows(7, start, stop)

    locked = ToySource(locked_rows)
    sent = r"What reads X must be able to travel to the workers; got ToyReader, which cannot \(.*lock.*\)\. Let it hold"
    with pytest.raises(OptionError, match=sent):
        fitted(locked)
    with pytest.raises(OptionError, match=sent):
        of_rows.predict(locked)
    (tmp_path / "only_here.py").write_text("def rows(start, stop): return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    only_here = ToySource(import_module("only_here").rows)
    with pytest.raises(ClusterError, match=r"installed on the scheduler and all workers; got .*No module named"):
        fitted(only_here)
    locked.travels = False
    assert fitted(locked).converged_, "computed in this process"
    assert fitted(open_recipe(Recipe(7))).converged_, "the workers are as well as before"


def fails_twice(folder: Path, start: int, stop: int) -> np.ndarray:
    for i in range(2):
        if start <= 700 < stop and not (folder / str(i)).exists():
            (folder / str(i)).touch()
            raise OSError("the disk is busy")
    return computed_rows(7, start, stop)


def test_a_read_that_fails_is_repeated_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, of_rows: GaussianMixture
) -> None:
    found = fitted(ToySource(partial(fails_twice, tmp_path)))
    np.testing.assert_allclose(found.means_, of_rows.means_, rtol=1e-9)
    assert "Reads of a function failed and were repeated: 2 in this pass, 2 so far" in caplog.text


def test_a_read_that_fails_for_good_says_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception, start: int, stop: int) -> np.ndarray:
        raise error

    monkeypatch.setattr(failures, "RETRY_SECONDS", (0.0,))
    with pytest.raises(InputMissingError, match=r"Rows 0 to 3000 must be readable; got OSError \(gone\) from Toy"):
        fitted(ToySource(partial(fail, OSError("gone"))))
    with pytest.raises(ZeroDivisionError, match="of the function"):
        fitted(ToySource(partial(fail, ZeroDivisionError("of the function"))))


class Greedy(ToySource):
    """Says that reading holds a mebibyte for each byte."""

    def read_bytes(self, n_bytes: int) -> int:
        return n_bytes << 20


@pytest.mark.usefixtures("short_partitions")
def test_what_a_source_says_that_reading_holds_is_believed(client: Client, notes: Path) -> None:
    greedy = Greedy(partial(computed_rows, 7), notes)
    with pytest.raises(MemoryLimitError, match=r"in a worker's memory, 2048 MiB a task; got a need of \d{4,} MiB"):
        fitted(greedy)
    with dask.config.set(scheduler="threads"), pytest.raises(MemoryLimitError, match="the memory of this machine"):
        fitted(greedy)
    assert list(notes.iterdir()) == [], "nothing was read"


def test_bytes_are_counted_and_another_input_is_told(toy_file: Path, tmp_path: Path) -> None:
    arguments = ["fit", str(toy_file), "-k", "1", "--output", str(tmp_path / "model.zarr")]
    first = CliRunner().invoke(gmm, arguments)
    assert json.loads(first.stdout)["bytes_read"] == 3000 * 2 * 8, "read once, and kept"
    assert json.loads(CliRunner().invoke(gmm, arguments).stdout)["skipped"]
    toy_file.write_text("8")
    other = CliRunner().invoke(gmm, arguments)
    assert other.exit_code == 73
    assert "--output must be free, or hold the same work" in other.stderr


@pytest.mark.parametrize("what", ["file", "folder"])
def test_rows_that_change_while_they_are_read_are_noticed(toy_file: Path, what: str) -> None:
    class Changing(ToySource):
        path = str(toy_file if what == "file" else toy_file.parent)

        def reader(self) -> Reader:
            os.utime(toy_file, ns=(1, 1))
            return super().reader()

    with pytest.raises(DataError, match="X must stay as it is while it is read; got other files for rows 0 to 3000"):
        fitted(Changing(partial(computed_rows, 7)))


def test_an_installed_package_opens_its_files_by_an_entry_point(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "toys-1.0.dist-info").mkdir(parents=True)
    (site / "toys.py").write_text("from tests.test_seams import open_file")
    (site / "toys-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (site / "toys-1.0.dist-info" / "entry_points.txt").write_text(
        "[daskgmm.sources]\n.toy = toys:open_file\n.h5 = toys:nothing\n"
    )
    (tmp_path / "X.toy").write_text("7")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(Path(__file__).parents[1])])}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=150)

    done = run("-m", "daskgmm", "fit", "X.toy", "-k", "1", "--output", "model.zarr")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 3000
    broken = run("-c", "from daskgmm.data.opening import open_source; open_source('X.h5')")
    assert "What opens '.h5' must be installed whole; got module 'toys' has no attribute 'nothing'" in broken.stderr


def test_sources_that_are_none_are_refused(toy_file: Path) -> None:
    with pytest.raises(OptionError, match=r"claim must be a suffix with its dot, .*; got 'toy'\."):
        register_source("toy", open_file)
    with pytest.raises(OptionError, match=r"opener must be a function or a class .*; got 'open_file'\."):
        register_source(".toy", "open_file")
    with pytest.raises(
        OptionError, match=r"array must be left out where X has no named arrays; got array='a' with .*y"
    ):
        open_source(toy_file, array="a")
    register_source(".toy", Path)
    with pytest.raises(OptionError, match=r"What opens X must return a daskgmm\.Source; got a PosixPath\."):
        fitted(toy_file)

    class Nameless(ToySource):
        label = n_rows = property()

    with pytest.raises(OptionError, match=r"A source must have label, n_rows, .*; got a Nameless without label\."):
        fitted(Nameless(partial(computed_rows, 7)))
    source = ToySource(partial(computed_rows, 7))
    source.reader = lambda: partial(computed_rows, 7)
    with pytest.raises(OptionError, match=r"must be a daskgmm\.Reader; got a partial\."):
        fitted(source)


# -- places ------------------------------------------------------------------------------------------------------------
