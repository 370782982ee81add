"""Signals that end a command in order, whatever it waits for just then."""

from __future__ import annotations

import _thread
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, NoReturn

from daskgmm.places.log import say

#: Seconds after a signal that a command has to close what it has opened; then it ends anyhow.
_CUT_OFF_AFTER = 7.0

#: Signals that end a command in order: beside Control-C and TERM a terminal that closes, and what batch systems send
#: before a job's time is over (USR1) or its processor time is spent (XCPU).
ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU") if hasattr(signal, name)
)


class Interrupted(KeyboardInterrupt):
    """One of the signals came that end a command; the argument is its name."""


class Interrupts:
    """The first of the signals ENDING raises `Interrupted` in the main thread, the second ends the process at once.

    So does the time where the first is not enough: a cluster that does not answer is not waited for.
    Once the result is certain and only has to be written, `defer` lets the command finish instead.
    """

    def __init__(self) -> None:
        self._deferred, self._came = False, ""
        self._deaf: set[int] = set()  # signals that were ignored before
        self._error: BaseException | None = None
        self._raised: BaseException | None = None
        self._told: SimpleQueue[Any] = SimpleQueue()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Handle the signals while the block runs; does nothing outside the main thread.

        One that was ignored at the start stays ignored: HUP under nohup, INT in the background of a script. (INT has a
        handler all the same: it is what this process wakes itself with.)
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._deferred, self._came = False, ""
        # (A handler may come at any point of other code: what takes a thread or time it only says, to a SimpleQueue.)
        self._told = SimpleQueue()
        threading.Thread(target=self._attend, args=[self._told], name="daskgmm-signals", daemon=True).start()
        self._deaf = {number for number in ENDING if signal.getsignal(number) is signal.SIG_IGN}
        heeded = [number for number in ENDING if number is signal.SIGINT or number not in self._deaf]
        before = {number: signal.signal(number, self._signalled) for number in heeded}
        nudging = _nudged() if hasattr(signal, "pthread_kill") else nullcontext()
        unraisable, sys.unraisablehook = sys.unraisablehook, partial(self._passed_over, sys.unraisablehook)
        try:
            with nudging:
                yield
        finally:
            sys.unraisablehook, self._raised = unraisable, None
            self._told.put(None)
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Raise at the end of the block what comes during it: for steps that leave a mess where they are cut short."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
            if self._came:
                raise Interrupted(self._came)

    @property
    def came(self) -> str:
        """The name of the signal that came; "" if none has."""
        return self._came

    def defer(self) -> None:
        """Let the command finish in spite of a first signal."""
        self._deferred = True

    def _passed_over(self, before: Callable[[Any], object], unraisable: Any) -> None:
        """Raise again what was raised where Python passes it over: in a finaliser, or a callback of the collector."""
        if unraisable.exc_value is None or unraisable.exc_value is not self._raised:
            before(unraisable)
            return
        self._told.put(unraisable.exc_value)

    def _attend(self, told: SimpleQueue[Any]) -> None:
        """Do what takes time and a thread: raise again what was passed over, end what does not end."""
        deadline: float | None = None
        while True:
            try:
                found = told.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except Empty:
                self._cut_off()
            if found is None:
                return
            if isinstance(found, BaseException):
                time.sleep(0.05)
                self.end_with(found)
            else:
                deadline = time.monotonic() + _CUT_OFF_AFTER

    def end_with(self, error: BaseException) -> None:
        """Raise an error in the main thread, which waits for something that will not come; from another thread.

        Where the command was to finish (`defer`) it does.
        """
        self._error = error
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        else:
            _thread.interrupt_main(signal.SIGINT)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        error, self._error = self._error, None
        if error is not None:
            if self._deferred:  # what is left to do needs nobody else
                return
            self._raise(error)
        if number in self._deaf:
            return
        if self._came:
            os._exit(75)
        self._came = signal.Signals(number).name
        if not self._deferred:
            self._told.put("came")
            self._raise(Interrupted(self._came))

    def _cut_off(self) -> NoReturn:
        say(
            f"Interrupted by {self._came} before the end, and cut off: something did not answer for "
            f"{_CUT_OFF_AFTER:g} s. Run the same command again: fit, select and predict go on where they were.",
            level=logging.ERROR,
            exit_code=75,
        )
        os._exit(75)

    def _raise(self, error: BaseException) -> NoReturn:
        self._raised = error
        raise error


@contextmanager
def _nudged() -> Iterator[None]:
    """Wake the main thread after each signal that ends a command, until the block ends.

    Python notes a signal, and calls its handler when the main thread does something: that thread may just have begun to
    wait for a lock, or another thread may have got the signal, and then nothing would happen until the next one.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    main = threading.main_thread().ident or 0

    def nudge() -> None:
        while noted := os.read(read, 64):
            if any(number in noted for number in ENDING):
                for seconds in (0.05, 0.2, 0.5):
                    time.sleep(seconds)
                    signal.pthread_kill(main, signal.SIGURG)
        os.close(read)

    before = signal.signal(signal.SIGURG, lambda *_: None)
    noting = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=nudge, name="daskgmm-nudge", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(noting)
        os.close(write)
        signal.signal(signal.SIGURG, before)


#: Signal handlers belong to the process, and so does this.
interrupts = Interrupts()
