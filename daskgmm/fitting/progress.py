"""How far the passes of some models have come: what they took, their history, and what a checkpoint keeps of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from daskgmm.errors import DataError, OutputError
from daskgmm.fitting.evaluate import Evaluator
from daskgmm.fitting.events import Listener
from daskgmm.fitting.history import History
from daskgmm.passes.fingerprint import check_unchanged
from daskgmm.passes.provenance import provenance
from daskgmm.sources.digest import digest
from daskgmm.stores.checkpoint import Checkpoint

logger = logging.getLogger("daskgmm")


class Progress:
    """The passes of some models so far; goes on from a checkpoint, where there is something in it.

    Parameters
    ----------
    evaluator : Evaluator
    n_models : int
    listener : callable
    checkpoint : Checkpoint or None

    Attributes
    ----------
    evaluator, passes, history, checkpoint
    """

    def __init__(self, evaluator: Evaluator, n_models: int, listener: Listener, checkpoint: Checkpoint | None) -> None:
        self._began = perf_counter()
        self.evaluator, self.passes, self.checkpoint = evaluator, evaluator.passes, checkpoint
        rows = self.passes.rows
        self.history = History(
            listener, n_models=n_models, n_rows=rows.X.n_rows, n_bytes=rows.n_bytes, n_passes=rows.X.n_counting_passes
        )
        if checkpoint is not None:
            self._go_on(checkpoint)

    @property
    def seconds(self) -> float:
        """Time so far, that of processes before this one included."""
        return perf_counter() - self._began

    @property
    def _by(self) -> dict[str, str]:
        """What last bits depend on."""
        return provenance() | self.evaluator.device.record

    def read(self, what: str, work: Any, models: Sequence[int]) -> Any:
        """Return the state of all rows after a pass that no candidate has part in."""
        found = self.passes.run(work, name=what)
        self.history.read(what, self.passes.seconds, models)
        return found

    def once(self, name: str, compute: Callable[[], Any], *, instead: str = "", **beside: Any) -> Any:
        """Return what a checkpoint has under a name, or compute and keep it, with other values beside it."""
        if self.checkpoint is None:
            return compute()
        return self.checkpoint.once(name, compute, beside=lambda: {**beside, **self.spent()}, instead=instead)

    def kept(self, name: str) -> Any:
        """Return what a checkpoint has under a name; None without."""
        return None if self.checkpoint is None else self.checkpoint.get(name)

    def keep(self, values: dict[str, Any]) -> None:
        """Keep values in the checkpoint, where there is one."""
        if self.checkpoint is not None:
            self.checkpoint.put({**values, **self.spent()})

    def check_files(self) -> None:
        """Raise a DataError where what is stored has changed since the fit began."""
        try:
            self.passes.check_files(None)
        except DataError:
            self.forget()
            raise

    def forget(self) -> None:
        """Clear the checkpoint, of which nobody knows what it was computed from."""
        if self.checkpoint is not None:
            self.checkpoint.clear()

    def spent(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside every value."""
        n_bytes, history, by = self.passes.bytes_read, self.history.state(), self._by
        spent = {"cut": self._cut, "history": history, "bytes_read": n_bytes, "seconds": self.seconds, "by": by}
        return {"spent": spent}

    def _go_on(self, checkpoint: Checkpoint) -> None:
        """Take up history and counts from a checkpoint, if there is something in it."""
        spent = checkpoint.get("spent")
        if spent is None:
            return
        if spent["cut"] != self._cut:
            raise OutputError(
                "the checkpoint",
                "have partitions as they are now",
                f"others in {checkpoint.place}: another version of daskgmm, or of the input's chunks, wrote it",
                "Remove it to start again.",
            )
        self.history.restore(spent["history"])
        changed = [f"{name} {spent['by'].get(name)}, now {now}" for name, now in self._by.items()
                   if spent["by"].get(name) != now]  # fmt: skip
        if changed:
            logger.warning("%s was written by %s: last bits may differ.", checkpoint.place, "; ".join(changed))
        self.passes.bytes_read, self._began = int(spent["bytes_read"]), self._began - float(spent["seconds"])
        check_unchanged(checkpoint.get("files"), self.passes.files, self.passes.rows, checkpoint=checkpoint.place)
        logger.info("Going on from %s, after pass %d.", checkpoint.place, self.history.n_passes)

    @property
    def _cut(self) -> str:
        """What tells one way to cut the rows into partitions from another."""
        return digest(self.passes.rows.edges)
