"""What a checkpoint holds, in memory: whoever goes on from it writes it in his own way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from daskgmm.stores.checkpoint import Checkpoint, Value


class Remembered(Checkpoint):
    """Values by name that survive nothing.

    Parameters
    ----------
    values : mapping of str to object
        Those to begin with.
    place : str
        Where they come from, for messages.

    Attributes
    ----------
    values : dict
    n_puts : int
        How often values were kept.
    """

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        self.values, self._place, self.n_puts = dict(values), place, 0

    @property
    def place(self) -> str:
        return self._place

    @property
    def is_due(self) -> bool:
        return False

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def once(
        self, name: str, compute: Callable[[], Value], *, beside: Callable[[], Mapping[str, Any]], instead: str = ""
    ) -> Value:
        found: Value | None = self.values.get(name)
        if found is None:
            found = compute()
            self.put({name: found, **beside()}, instead=instead)
        return found

    def put(self, values: Mapping[str, Any], *, instead: str = "") -> None:
        kept = {name: value for name, value in self.values.items() if not (instead and name.startswith(instead))}
        self.values, self.n_puts = {**kept, **values}, self.n_puts + 1

    def clear(self) -> None:
        self.values = {}
