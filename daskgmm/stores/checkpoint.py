"""What a fit has done, kept beside its output so that the same command goes on from there.

A checkpoint is a folder, or the objects below a URL, of files that are never changed: *parts*, each a value under the
name of its checksum, and *manifests*, numbered, of which the last one names the parts that count. A manifest is written
after its parts, under a number that must be free, and what it does not name is removed after that. So a crash at any
moment leaves the state before a step or after it, and of two processes that write the same checkpoint one fails: before
it reads a row where the other one holds the folder, else when it looks or writes next.
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

from daskgmm.errors import UNLIKE_WRITTEN, DaskgmmError, DataError, OutputError, UndefinedError
from daskgmm.passes.task import Partial
from daskgmm.passes.tree import Underway
from daskgmm.stores.encoding import decode, encode
from daskgmm.stores.holding import HeldError
from daskgmm.stores.status_file import STATUS_FILE
from daskgmm.stores.storage import Storage, storage_at

Value = TypeVar("Value")

FORMAT, FORMAT_VERSION = "daskgmm-checkpoint", 5
_MANIFEST, _PART, _ROOTS = "manifest-", "part-", "roots-"
#: Bytes of a manifest at most: 400,000 values.
_MANIFEST_BYTES = 64 << 20


class Checkpoint:
    """Values by name that survive the process, and the partials of a pass that is not yet done.

    Parameters
    ----------
    storage : Storage
    every : float
        Seconds between two writes within a pass.

    Attributes
    ----------
    underway : Underway or None
        The pass that goes on; None between passes.
    saved : float or None
        When it was last written, in seconds since 1970; None before this process has.
    """

    underway: Underway | None = None
    saved: float | None = None

    def __init__(self, storage: Storage, *, every: float) -> None:
        self._storage, self._every = storage, every
        self._number, self._record, self._slots = _latest(storage)
        self._goes_on = self._record is not None
        self._roots: dict[str, dict[int, Partial[Any]]] | None = None
        self._pending: dict[str, dict[int, Partial[Any]]] = {}
        self._written = time.monotonic()

    @classmethod
    def at(cls, place: str, *, every: float = 60.0) -> Checkpoint:
        """Return the checkpoint at a path or URL, empty where there is none.

        Raises
        ------
        DataError
            It is damaged.
        OutputError
            Something else stands there, or it has the format of another version.
        """
        return cls(storage_at(place), every=every)

    @staticmethod
    def remove(place: str, *, but_status: bool = False) -> None:
        """Remove the checkpoint at a path or URL, whole or damaged; an OutputError where something else is there.

        With `but_status` the record stays of how far the work is (`daskgmm.stores.status_file`).
        """
        storage = storage_at(place)
        _refuse_others(storage)
        if not but_status:
            storage.clear()
            return
        for name in storage.names():
            if name != STATUS_FILE:
                storage.remove(name)

    @staticmethod
    @contextmanager
    def held(place: str) -> Iterator[None]:
        """Keep the checkpoint at a path to this process while the block runs; an OutputError where another has it."""
        with ExitStack() as stack:
            try:
                stack.enter_context(storage_at(place).held())
            except HeldError as error:
                raise _of_another(place, str(error)) from error
            yield

    @property
    def place(self) -> str:
        return self._storage.place

    @property
    def is_there(self) -> bool:
        """Whether something is written."""
        return self._number > 0

    @property
    def record(self) -> dict[str, Any] | None:
        """The JSON that `begin` was given: which work this is the state of; None before."""
        return self._record

    def begin(self, record: Mapping[str, Any]) -> None:
        """Note which work this is the state of; nothing is written before there is something to keep."""
        self._record = dict(record)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Report a checkpoint whose checksums are right but whose contents are not what this version writes.

        A bug in what the block does looks the same, so the cause is kept. Where nothing is resumed, exceptions pass; so
        do those of code of the user's (a kernel, a prior, an executor).
        """
        try:
            yield
        except UNLIKE_WRITTEN as error:
            if isinstance(error, DaskgmmError) or not self._goes_on or is_of_the_user(error):
                raise
            raise DataError(
                "the checkpoint",
                "be as daskgmm wrote it",
                f"{type(error).__name__}: {error!s:.100} going on from {self.place}",
                "Give the options that it was begun with, remove it to start again, or bring it back from a copy.",
            ) from error

    def get(self, name: str) -> Any:
        """Return a value, None where there is none of that name; a DataError where it is damaged."""
        return None if name not in self._slots else self._read(name)

    def once(
        self, name: str, compute: Callable[[], Value], *, beside: Callable[[], Mapping[str, Any]], instead: str = ""
    ) -> Value:
        """Return the value of that name; where there is none, compute and keep it, with what `beside` returns then.

        Raises
        ------
        OutputError
            It cannot be written, or another process has written to it: before anything is computed if it has by then.
        """
        found: Value | None = self.get(name)
        if found is None:
            if max(map(_number_of, self._storage.names()), default=0) > self._number:
                raise _of_another(self.place)
            found = compute()
            self.put({name: found, **beside()}, instead=instead)
        return found

    @property
    def is_due(self) -> bool:
        """Whether it is time to write what is done of something long."""
        return time.monotonic() - self._written >= self._every

    def put(self, values: Mapping[str, Any], *, instead: str = "") -> None:
        """Keep values under their names, all of them or none; the partials of the pass before are let go.

        And so are the values whose names begin with `instead`, if that is given.

        Raises
        ------
        OutputError
            It cannot be written, or another process has written to it meanwhile.
        """
        gone = (_ROOTS, instead) if instead else (_ROOTS,)
        kept = {name: slot for name, slot in self._slots.items() if not name.startswith(gone)}
        self._write({**kept, **{name: self._part(value) for name, value in values.items()}})
        self._roots, self._pending = {}, {}
        self.underway = None

    def clear(self) -> None:
        """Remove it: the output is complete, or what it was computed from has changed."""
        self._storage.clear()
        self._number, self._record, self._slots = 0, None, {}

    def check(self) -> None:
        """Read everything; a DataError where something is damaged."""
        for name in self._slots:
            self._read(name)

    def give_up(self) -> None:
        """Remove it if it holds nothing but parts of the first pass: the input is mended before it is read again."""
        if all(name.startswith(_ROOTS) for name in self._slots):
            self._pending = {}
            with suppress(OutputError):
                self.clear()

    # -- partials of a pass that is not yet done: what `Passes` remembers by ------------------------------------------
    def known(self, key: str) -> dict[int, Partial[Any]]:
        """Return the partials of a pass that were done before, by number."""
        if self._roots is None:
            self._roots = {}
            for name in [name for name in self._slots if name.startswith(_ROOTS)]:
                for of_pass, partials in self._read(name).items():
                    self._roots.setdefault(of_pass, {}).update({int(i): partial for i, partial in partials.items()})
        return dict(self._roots.get(key, {}))

    def passing(self, underway: Underway) -> None:
        """Hear how far a pass is."""
        self.underway = underway

    def add(self, key: str, number: int, partial: Partial[Any]) -> None:
        """Remember a partial; it is written with others when it is time."""
        self._pending.setdefault(key, {})[number] = partial
        if self.is_due:
            self.flush()

    def flush(self) -> None:
        """Write the partials that are not written yet."""
        if not self._pending:
            return
        found = {key: {str(i): p for i, p in partials.items()} for key, partials in self._pending.items()}
        name = f"{_ROOTS}{sum(name.startswith(_ROOTS) for name in self._slots)}"
        self._write({**self._slots, name: self._part(found)})
        self._pending = {}

    # -- files --------------------------------------------------------------------------------------------------------
    def _part(self, value: Any) -> dict[str, Any]:
        content = encode(value)
        checksum = hashlib.sha256(content).hexdigest()
        with suppress(FileExistsError):  # of the same value, whole
            self._storage.write(f"{_PART}{checksum}", content)
        return {"sha256": checksum, "bytes": len(content)}

    def _write(self, slots: dict[str, Any]) -> None:
        number = self._number + 1
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, "number": number}
        content |= {"record": self._record or {}, "slots": slots}
        text = json.dumps(content, separators=(",", ":")).encode()
        name, whole = _manifest_name(number), hashlib.sha256(text).hexdigest().encode() + b"\n" + text
        try:
            self._storage.write(name, whole)
        except FileExistsError as error:
            # (A signal may have come when it was written, and before that was noted.)
            if not self._holds(name, whole):
                raise _of_another(self.place) from error
        self._number, self._slots, self._written = number, slots, time.monotonic()
        self.saved = time.time()
        used = {name, STATUS_FILE, *(f"{_PART}{slot['sha256']}" for slot in slots.values())}
        for other in self._storage.names():
            if other not in used and _number_of(other) < number:
                self._storage.remove(other)

    def _holds(self, name: str, content: bytes) -> bool:
        """Return whether a file is there, and holds just that."""
        with suppress(DataError):  # (another one, which is larger)
            return self._storage.read(name, most_bytes=len(content)) == content
        return False

    def _read(self, name: str) -> Any:
        slot = self._slots[name]
        try:
            content = self._storage.read(f"{_PART}{slot['sha256']}", most_bytes=slot["bytes"])
        except OutputError:
            raise  # the storage is out of reach: nothing is known to be damaged
        except (OSError, DataError) as error:
            if isinstance(error, FileNotFoundError) and _latest(self._storage)[0] > self._number:
                raise _of_another(self.place) from error
            raise _damaged(self.place, f"{name} cannot be read ({error})") from error
        if len(content) != slot["bytes"] or hashlib.sha256(content).hexdigest() != slot["sha256"]:
            raise _damaged(self.place, f"{name} does not match its checksum")
        try:
            return decode(content)
        except UndefinedError:
            raise
        except DataError as error:
            raise _damaged(self.place, f"{name}: {error}") from error


def is_of_the_user(error: BaseException) -> bool:
    """Return whether an error went through code that is neither daskgmm's nor installed beside it."""
    places = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    installed = tuple({os.path.join(os.path.realpath(place), "") for place in places})
    trace, inside = error.__traceback__, False
    while trace is not None:
        name, file = trace.tb_frame.f_globals.get("__name__", ""), os.path.realpath(trace.tb_frame.f_code.co_filename)
        own = name.partition(".")[0] == "daskgmm"
        if inside and not own and not file.startswith(installed) and os.path.exists(file):
            return True
        inside, trace = inside or own, trace.tb_next
    return False


def _latest(storage: Storage) -> tuple[int, dict[str, Any] | None, dict[str, dict[str, Any]]]:
    """Return number, record and slots of the last manifest; zero, None and none where there is no checkpoint."""
    _refuse_others(storage)
    manifests = [name for name in storage.names() if name.startswith(_MANIFEST)]
    if not manifests:
        return 0, None, {}
    try:
        checksum, _, text = storage.read(manifests[-1], most_bytes=_MANIFEST_BYTES).partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() != checksum:
            raise ValueError("its manifest does not match its checksum")
        found = json.loads(text)
        if found["format"] != FORMAT or manifests[-1] != _manifest_name(found["number"]):
            raise ValueError("its manifest is none")
        if found["format_version"] != FORMAT_VERSION:
            raise OutputError(
                "the checkpoint",
                f"have format version {FORMAT_VERSION}",
                f"{found['format_version']!r:.40} in {storage.place}",
                "Go on with the version of daskgmm that wrote it, or start again (`overwrite=True`).",
            )
        slots = {
            name: {"sha256": _hexadecimal(slot["sha256"]), "bytes": int(slot["bytes"])}
            for name, slot in found["slots"].items()
        }
        return int(found["number"]), dict(found["record"]), slots
    except OutputError:
        raise
    except (*UNLIKE_WRITTEN, OSError) as error:
        raise _damaged(storage.place, str(error) or type(error).__name__) from error


def _refuse_others(storage: Storage) -> None:
    """Raise an OutputError where there are files that are of no checkpoint."""
    others = [name for name in storage.names() if not name.startswith((_MANIFEST, _PART)) and name != STATUS_FILE]
    if others:
        raise OutputError(
            "the checkpoint's place",
            "be free",
            f"{storage.place} with {others[0]} in it",
            "Move that away, or choose another output.",
        )


def _manifest_name(number: int) -> str:
    return f"{_MANIFEST}{number:09d}.json"


def _number_of(name: str) -> int:
    """Return the number of a manifest; -1 for any other file."""
    digits = name.removeprefix(_MANIFEST).removesuffix(".json")
    return int(digits) if name.startswith(_MANIFEST) and digits.isdecimal() else -1


def _hexadecimal(text: str) -> str:
    """Return a checksum, which is a part of a file's name, if it is one."""
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise ValueError("a checksum is none")
    return text


def _of_another(place: str, who: str = "") -> OutputError:
    return OutputError(
        "the checkpoint",
        "be written by one process alone",
        f"one that {who or 'another process'} writes to, {place}",
        "Wait for that one to end, or stop it, and run the same command again.",
    )


def _damaged(place: str, what: str) -> DataError:
    return DataError(
        "the checkpoint",
        "be whole",
        f"a damaged one in {place}: {what}",
        "Start again without it (`overwrite=True`, or remove it), or bring it back from a copy.",
    )
