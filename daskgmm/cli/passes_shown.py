"""The passes of a command as a person sees them: a table that grows on a terminal, by rich, or lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from daskgmm.cli.terminal import is_text
from daskgmm.fitting.events import HEADER, Listener, PassDone, duration, rate
from daskgmm.passes.executor import Executor
from daskgmm.places.log import say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Lines of a terminal that the table leaves to others.
_OTHER_LINES = 8


@contextmanager
def passes_shown(executor: Executor) -> Iterator[Listener]:
    """Provide a listener that shows each pass: in a table on a terminal, where rich is installed, else by a line."""
    console = _terminal()
    if console is None:
        yield _lines()
        return
    from rich.live import Live

    table = _Passes(console, executor)
    # (What others write to stderr meanwhile comes above the table, which stays when all is done.)
    with Live(get_renderable=table.drawn, console=console, refresh_per_second=4, redirect_stdout=False) as live:
        try:
            yield table.hear
        finally:
            table.ended = True
            live.refresh()


def _terminal() -> Console | None:
    """Return the terminal that stderr is; None where it is none, or rich is not installed."""
    if not (sys.stderr.isatty() and is_text()):
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console(stderr=True, highlight=False)
    return console if console.is_terminal and not console.is_dumb_terminal else None


def _lines() -> Listener:
    told = False

    def hear(event: PassDone) -> None:
        nonlocal told
        if not told:
            say(HEADER, text_only=True)
            told = True
        say(event.line(), **event.fields())

    return hear


class _Passes:
    """The passes so far, as a table."""

    def __init__(self, console: Console, executor: Executor) -> None:
        self._console, self._executor = console, executor
        self._done: list[PassDone] = []
        self._since, self.ended = perf_counter(), False

    def hear(self, event: PassDone) -> None:
        """Add a row."""
        if self._done and not self._done[-1].ended:
            self._done.pop()
        self._done.append(event)
        self._since = perf_counter()

    def drawn(self) -> Table:
        """Return the table of the last passes, and what is going on."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        several = any(event.model for event in self._done)
        for name in ("pass", "", "mean log-lik.", "change", "rows/s", *(["model"] if several else []), "running"):
            table.add_column(name, justify="left" if name in ("", "model") else "right", no_wrap=True)
        most = max(self._console.height - _OTHER_LINES, 3)
        if len(self._done) > most:
            table.add_row("…")
        for event in self._done[-most:]:
            table.add_row(*_cells(event, several=several))
        table.caption, table.caption_justify = self._caption(), "left"
        return table

    def _caption(self) -> str | None:
        if self.ended:
            return None
        last = self._done[-1] if self._done else None
        said = f"{duration(perf_counter() - self._since)} in this pass"
        threads = self._executor.n_threads()
        if threads:
            said += f", {threads} threads"
        if last is not None and last.remaining_seconds is not None:
            said += f", about {duration(last.remaining_seconds)} left"
        return said


def _cells(event: PassDone, *, several: bool) -> list[Any]:
    likelihood = "" if event.mean_log_likelihood is None else f"{event.mean_log_likelihood:.6f}"
    change = "" if event.change is None else f"{event.change:+.1e}"
    seen = rate(event.rows / event.seconds) if event.seconds > 0 else "done before"
    running = f"{event.n_running}" if event.what == "em" else ""
    return [f"{event.number}", event.what, likelihood, change, seen, *([event.model] if several else []), running]
