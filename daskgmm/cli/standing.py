"""How far a command is, noted for others: a record beside the checkpoint, and metrics for Prometheus.

A thread writes both every few seconds, from what the passes tell. So a fit never waits for them, and the time of the
last record says whether its process still lives.
"""

from __future__ import annotations

import logging
import os
import shlex
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from daskgmm.cli.group import Commands, outcome
from daskgmm.cli.metrics import metrics_text
from daskgmm.cli.terminal import command_line_words, strict_json
from daskgmm.errors import DaskgmmError, OutputError
from daskgmm.fitting.events import Listener, PassDone
from daskgmm.places.alive import this_process
from daskgmm.places.log import say
from daskgmm.places.machines import Machines
from daskgmm.stores.checkpoint import Checkpoint
from daskgmm.stores.status_file import remove_status, write_status
from daskgmm.stores.storage import replace_file
from daskgmm.version import __version__

#: Seconds between two records.
EVERY_SECONDS = 5.0
#: Seconds that the last record may take: a storage that does not answer is not waited for.
_LAST_WITHIN = 5.0

Record = dict[str, Any]


class Standing:
    """How far a command is.

    Parameters
    ----------
    command, output : str
    place : str
        Of the checkpoint, beside whose files the record is.
    metrics : str or None
        File for Prometheus.
    checkpoint : Checkpoint or None
        That tells how far a pass is.
    replaces : bool
        Whether a complete output is worked on again.
    """

    def __init__(
        self, command: str, output: str, place: str, *, metrics: str | None, checkpoint: Checkpoint | None = None,
        replaces: bool = False,
    ) -> None:  # fmt: skip
        self._place, self._metrics, self._checkpoint = place, metrics, checkpoint
        self._about = {
            "format": "daskgmm-status",
            "format_version": 1,
            "version": __version__,
            "command": command,
            "output": output,
            "checkpoint": place,
            "again": _as_typed(command),
            "folder": os.getcwd(),
            "replaces": replaces,
            **this_process(),
            "began": time.time(),
        }
        self._machines: Machines | None = None
        self._n_workers: int | None = None
        self._last: PassDone | None = None
        self._last_read: PassDone | None = None
        self._heard = time.time()
        self._first: tuple[float, float] | None = None
        self._n_rows = self._n_bytes = 0
        self._state: Record = {"state": "running"}
        self._over, self._has_failed, self._keeps = threading.Event(), False, True
        self._thread = threading.Thread(target=self._note_on, name="daskgmm-status", daemon=True)

    def begin(self) -> None:
        """Write the first record, and go on; an OutputError where it cannot be written."""
        self._write()
        self._thread.start()

    def end(self, state: str, *, keep: bool, **fields: Any) -> None:
        """Write the last record, of a state and what belongs to it; where it is not to be kept, remove it."""
        self._state, self._keeps = {"state": state, "ended": time.time(), **fields}, keep
        if self._thread.ident is None:
            self._note()
        else:
            self._over.set()
            self._thread.join(_LAST_WITHIN)
            if not keep:
                remove_status(self._place)

    @contextmanager
    def on(self, machines: Machines) -> Iterator[None]:
        """Tell of the workers of these machines while the block runs."""
        self._machines, self._n_workers = machines, machines.n_workers
        try:
            yield
        finally:
            self._machines = None

    def telling(self, listener: Listener) -> Listener:
        """Return a listener to passes that tells another one too."""

        def hear(event: PassDone) -> bool | None:
            self._last, self._heard = event, time.time()
            if event.n_bytes and event.seconds > 0:
                self._last_read = event
                self._n_rows += event.rows
                self._n_bytes += event.n_bytes
            return listener(event)

        return hear

    @property
    def goes_on(self) -> bool:
        """Whether there is something that the same command goes on from."""
        return self._checkpoint is not None and self._checkpoint.is_there

    def record(self) -> Record:
        """Return it all as JSON: times in seconds since 1970, durations in seconds, log-likelihoods in nats a row."""
        now, last, read = time.time(), self._last, self._last_read
        under = None if self._checkpoint is None else self._checkpoint.underway
        return {
            **self._about,
            **self._state,
            "written": now,
            "doing": self._doing(),
            "share": None if under is None else under.share,
            "n_passes": 0 if last is None else last.number,
            "n_iter": None if last is None else last.n_iter or None,
            "n_running": None if last is None else last.n_running,
            "mean_log_likelihood": None if last is None else last.mean_log_likelihood,
            "change": None if last is None else last.change,
            "pass_seconds": None if read is None else read.seconds,
            "rows_per_second": None if read is None else read.rows / read.seconds,
            "rows": self._n_rows,
            "bytes": self._n_bytes,
            "remaining_seconds": self._remaining_seconds(now),
            "workers": self._n_workers,
            "saved": None if self._checkpoint is None else self._checkpoint.saved,
        }

    def _remaining_seconds(self, now: float) -> float | None:
        """Return the time to the end, as the passes told it when the last one ended; None where nobody knows.

        A pass that writes predictions is the only one: what is left of it takes as long as what was done, by its share.
        """
        if self._machines is not None and self._machines.n_workers and not self._n_workers:
            return None  # (all workers are lost, and nobody knows when one comes)
        if self._last is not None:
            left = self._last.remaining_seconds
            return None if left is None else max(0.0, left - (now - self._heard))
        under = None if self._checkpoint is None else self._checkpoint.underway
        if under is None or under.name != "write":
            return None
        self._first = self._first or (now, under.share)
        began, share = self._first
        return (1 - under.share) * (now - began) / (under.share - share) if under.share > share else None

    def _doing(self) -> str:
        """Return the stage: "starting", "survey", "search", "start", "pass 3", "closing" or "write"."""
        under = None if self._checkpoint is None else self._checkpoint.underway
        last = self._last
        number = 1 if last is None else last.number + 1
        if under is not None:
            return f"pass {number}" if under.name == "em" else under.name
        if last is None:
            return "starting"
        if last.what == "em":
            return f"pass {number}" if last.n_running else "closing"
        return "start" if last.what in ("survey", "search", "start") else last.what

    def _note_on(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            machines = self._machines
            found = None if machines is None else machines.n_present()
            self._n_workers = self._n_workers if found is None else found
            self._note()
        self._note()

    def _note(self) -> None:
        """Write a record; what keeps it from being written is told once, and does not matter to the work."""
        try:
            self._write()
        except Exception as error:
            if not self._has_failed:
                text = str(error)
                if isinstance(error, DaskgmmError):  # (without its remedy: the work goes on)
                    text = type(error)(error.argument, error.requirement, error.got).worded(command_line_words())
                say(f"Nobody can see how far this is (daskgmm status): {text}", level=logging.WARNING)
            self._has_failed = True

    def _write(self) -> None:
        record = self.record()
        if self._keeps:
            write_status(self._place, (strict_json(record, indent=1) + "\n").encode())
        if self._metrics is not None:
            try:
                replace_file(self._metrics, metrics_text(record).encode())
            except OSError as error:
                raise OutputError("--metrics", "be writable", error, "Choose another place.") from error


def _as_typed(command: str) -> str:
    """Return the command as a person types it to go on, with what the environment says of it.

    A script that calls this one says by DASKGMM_AGAIN what calls itself again: a scheduler of its own ends with it.
    """
    if by_script := os.environ.get("DASKGMM_AGAIN"):
        return by_script
    context = click.get_current_context(silent=True)
    arguments = None if context is None else context.meta.get(Commands.__module__)
    if arguments is None:
        return ""
    prefix = f"DASKGMM_{command.upper()}_"
    set_here = [f"{name}={shlex.quote(value)}" for name, value in os.environ.items() if name.startswith(prefix)]
    return " ".join([*set_here, shlex.join(["daskgmm", *arguments])])


@contextmanager
def told(standing: Standing, *, kept: bool) -> Iterator[Standing]:
    """Note how far a command is while the block runs, and how it ends where it fails.

    Parameters
    ----------
    kept : bool
        Whether the record stays where nothing of a checkpoint is beside it.
    """
    standing.begin()
    try:
        yield standing
    except BaseException as error:
        code, message = outcome(error)
        state = "interrupted" if code == 75 else "failed"
        standing.end(state, keep=kept or standing.goes_on, exit_code=code, message=message)
        raise
