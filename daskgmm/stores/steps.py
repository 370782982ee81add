"""The steps of a start, as a checkpoint keeps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daskgmm.stores.checkpoint import Checkpoint


class Steps:
    """The steps of a start, which reads nothing: those that are done are written when it is time, or it is cut short.

    Parameters
    ----------
    checkpoint : Checkpoint or None
    name : str
        What the names of the steps begin with.
    spent : callable
        Returns what a checkpoint keeps beside every value.
    """

    def __init__(self, checkpoint: Checkpoint | None, name: str, spent: Callable[[], dict[str, Any]]) -> None:
        self._checkpoint, self._name, self._spent = checkpoint, name, spent
        self._n_done = 0
        self._pending: dict[str, Any] = {}
        self._beside: dict[str, Any] = {}

    def __call__(self, compute: Callable[[], Any], /) -> Any:
        """Return what a step gives, which another process may have done."""
        if self._checkpoint is None:
            return compute()
        name, self._n_done = f"{self._name}{self._n_done}", self._n_done + 1
        found = self._checkpoint.get(name)
        if found is None:
            found = self._pending[name] = compute()
            self._beside = self._spent()  # as it is now: a step that is cut short has noted something already
            if self._checkpoint.is_due:
                self.write()
        return found

    def write(self) -> None:
        """Write what is done and not written yet."""
        if self._pending and self._checkpoint is not None:
            self._checkpoint.put({**self._pending, **self._beside})
            self._pending = {}
