"""At a URL nothing can be renamed: a command that ends before any of its puts, and runs again, leaves the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from fsspec.implementations.memory import MemoryFileSystem

from daskgmm.cli.commands import gmm
from daskgmm.errors import DataError, InputMissingError
from daskgmm.stores.model_file import checksum, is_unfinished, load_model
from daskgmm.stores.output import prediction_record

#: What changes an object store.
CHANGES = ("pipe_file", "rm", "rm_file")
FIT = ("-k", 3, "--tol", 0, "--max-iter", 1, "--no-escape", "--restarts", 1)


class Ended(BaseException):
    """The process has come to its end here: nothing that it would still do changes the store."""


class Changes:
    """Counts the changes at and below an output; number `at` does not come about, and none at all after it."""

    def __init__(self, patch: pytest.MonkeyPatch, place: str, at: int | None = None) -> None:
        self.n, self._place = 0, place.removeprefix("memory:/")
        for name in CHANGES:
            patch.setattr(MemoryFileSystem, name, self._counting(getattr(MemoryFileSystem, name), at))

    def _counting(self, real: Any, at: int | None) -> Any:
        def change(system: Any, path: str, *arguments: Any, **others: Any) -> Any:
            own = f"{system._strip_protocol(path)}/".startswith(f"{self._place}/")
            if at is not None and self.n + own > at:
                raise Ended
            self.n += own
            return real(system, path, *arguments, **others)

        return change


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    yield f"memory:/{tmp_path}"
    MemoryFileSystem().rm(str(tmp_path), recursive=True)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(gmm, [str(a) for a in arguments], prog_name="daskgmm")


def model_there(place: str) -> Any:
    """What tells a model from another; None where there is none, or one that is said to be unfinished."""
    if is_unfinished(place):
        with pytest.raises(DataError, match=f"must be whole; got one that is unfinished at {place}, .*Run the command"):
            load_model(place)
        return None
    try:
        found = load_model(place)
    except InputMissingError:
        return None
    return checksum(found.parameters), found.record["n_passes"]


def array_there(place: str) -> Any:
    """Shape and values of an array; None where there is none, or one that is said to be incomplete."""
    record = prediction_record(place)
    if record is None or not record["complete"]:
        return None
    found = np.asarray(zarr.open_array(place, mode="r")[...])
    return found.shape, found.tobytes()


COMMANDS: dict[str, tuple[Any, tuple[object, ...], tuple[object, ...]]] = {
    # (What is read back; the command; the same with other options, which leaves what is to be replaced.)
    "fit": (model_there, ("fit", "ROWS", *FIT), ("fit", "ROWS", *FIT[2:], "-k", 2)),
    "predict": (array_there, ("predict", "MODEL", "ROWS"), ("predict", "MODEL", "ROWS", "--what", "score")),
    "sample": (array_there, ("sample", "MODEL", "--rows", 50), ("sample", "MODEL", "--rows", 60)),
}


@pytest.mark.parametrize("replaces", [False, True])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_put_may_be_the_last(
    name: str, replaces: bool, small_store: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("fit", small_store, *FIT, "-o", f"{url}/model").exit_code == 3
    places = {"ROWS": small_store, "MODEL": f"{url}/model"}
    there, *both = COMMANDS[name]
    wanted, other = ([places.get(str(a), a) for a in arguments] for arguments in both)
    force = ["--force"] if replaces else []

    def prepared(at: object) -> str:
        place = f"{url}/{at}/out"
        assert not replaces or call(*other, "-o", place).exit_code in (0, 3)
        return place

    place = prepared("plain")
    with monkeypatch.context() as patch:
        undisturbed = Changes(patch, place)
        code = call(*wanted, *force, "-o", place).exit_code
    expected = there(place)
    assert code in (0, 3)
    assert expected is not None
    n_unfinished = 0
    for at in range(undisturbed.n):
        place = prepared(at)
        before = there(place)
        with monkeypatch.context() as patch:
            Changes(patch, place, at)
            with pytest.raises(Ended):
                call(*wanted, *force, "-o", place)
        found = there(place)
        assert found in (None, before, expected), at
        n_unfinished += found is None
        again = call(*wanted, *force, "-o", place)
        assert again.exit_code == code, (at, again.output)
        assert there(place) == expected, at
    assert n_unfinished > 2, "else this tests nothing"


def test_a_command_without_force_goes_on_where_one_with_it_was_killed(
    small_store: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{url}/model"
    assert call("fit", small_store, *FIT, "-o", place).exit_code == 3
    wanted, at = ("fit", small_store, *FIT[2:], "-k", 2, "-o", place), 0
    while not is_unfinished(place):
        with monkeypatch.context() as patch:
            Changes(patch, place, at)
            with pytest.raises(Ended):
                call(*wanted, "--force")
        at += 1
    for reader in (("inspect", place), ("predict", place, small_store, "-o", f"{url}/labels"), ("score", place)):
        done = call(*reader, *([small_store] if reader[0] == "score" else []))
        assert done.exit_code == 65
        assert f"the model must be whole; got one that is unfinished at {place}" in done.stderr
    assert call(*wanted).exit_code == 3
    assert load_model(place).parameters.n_components == 2


@pytest.mark.parametrize("name", ["fit", "predict", "sample"])
def test_what_is_below_a_url_and_no_output_is_never_removed(name: str, small_store: Path, url: str) -> None:
    assert call("fit", small_store, *FIT, "-o", f"{url}/model").exit_code == 3
    MemoryFileSystem().pipe_file(f"{url}/mine/notes.txt", b"mine")
    wanted = [{"ROWS": small_store, "MODEL": f"{url}/model"}.get(str(a), a) for a in COMMANDS[name][1]]
    done = call(*wanted, "--force", "-o", f"{url}/mine")
    assert MemoryFileSystem().cat_file(f"{url}/mine/notes.txt") == b"mine"
    assert done.exit_code == 73
    assert f"got something else at {url}/mine" in done.stderr
