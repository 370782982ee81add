"""Faults on purpose: a storage of which one operation fails, is torn, or ends the process; damaged files."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from daskgmm.errors import OutputError
from daskgmm.stores.storage import Storage


class Torn(BaseException):
    """The machine went down in the middle of an operation: nothing that the process does afterwards counts."""


@dataclass
class Faulty:
    """A storage that counts its changes, of which number `at` has a fault.

    Attributes
    ----------
    inner : Storage
    at : int
        Number of the operation, from 0; -1 for no fault.
    how : {"raises", "torn", "after", "kills"}
        It raises an OutputError and does nothing; or the machine goes down before it, after it, or by a real SIGKILL.
    """

    inner: Storage
    at: int = -1
    how: str = "raises"
    done: list[str] = field(default_factory=list)
    down: bool = False

    @property
    def place(self) -> str:
        return self.inner.place

    def names(self) -> list[str]:
        return self.inner.names()

    def read(self, name: str, *, most_bytes: int) -> bytes:
        return self.inner.read(name, most_bytes=most_bytes)

    def write(self, name: str, content: bytes) -> None:
        if self._reached(f"write {name}"):
            self._fail(lambda: self._tear(name, content))
        self.inner.write(name, content)
        self._afterwards()

    def remove(self, name: str) -> None:
        if self._reached(f"remove {name}"):
            self._fail(lambda: None)
        self.inner.remove(name)
        self._afterwards()

    def clear(self) -> None:
        if self._reached("clear"):
            self._fail(self._clear_half)
        self.inner.clear()
        self._afterwards()

    def _reached(self, what: str) -> bool:
        if self.down:
            raise Torn
        self.done.append(what)
        return len(self.done) - 1 == self.at and self.how != "after"

    def _fail(self, half: object) -> None:
        if self.how == "raises":
            raise OutputError("the checkpoint must be writable; got a fault on purpose. Run it again.")
        half()  # type: ignore[operator]
        self._die()

    def _afterwards(self) -> None:
        if self.how == "after" and len(self.done) - 1 == self.at:
            self._die()

    def _die(self) -> None:
        if self.how == "kills":
            os.kill(os.getpid(), 9)
        self.down = True
        raise Torn

    def _tear(self, name: str, content: bytes) -> None:
        """Leave what a process leaves that dies while it writes: an unfinished file of half of it."""
        os.makedirs(self.place, exist_ok=True)
        with open(os.path.join(self.place, f".unfinished-{name[:20]}"), "wb") as file:
            file.write(content[: len(content) // 2])

    def _clear_half(self) -> None:
        for name in self.names()[::2]:
            self.inner.remove(name)


def mutilate(path: Path, rng: np.random.Generator) -> str:
    """Cut a file, flip a bit of it, turn it round, or remove it; return which."""
    content, how = bytearray(path.read_bytes()), ("cut", "flipped", "turned", "removed")[rng.integers(4)]
    if how == "cut":
        del content[rng.integers(len(content)) :]
    elif how == "flipped":
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content[::-1] if how == "turned" else content)
    if how == "removed":
        path.unlink()
    return how
