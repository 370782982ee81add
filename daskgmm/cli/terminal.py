"""How the program speaks: its log on stderr as text or JSON lines, one JSON object on stdout; and what signals do."""

from __future__ import annotations

import _thread
import json
import logging
import math
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, NoReturn

from daskgmm.errors import OutputError
from daskgmm.fitting.option import flags
from daskgmm.fitting.options import FitOptions

logger = logging.getLogger("daskgmm")

#: Loggers whose words are for developers, mostly at shutdown; what a user must know comes as an error of daskgmm.
QUIET = ("distributed", "tornado", "asyncio", "bokeh")
#: The exception: why a worker process was killed.
HEARD = "distributed.nanny.memory"

#: Seconds after a signal that a command has to close what it has opened; then it ends anyhow.
_CUT_OFF_AFTER = 7.0


#: What messages of the library call things that are no options of a fit, and what a person on the command line does.
_WORDS = {
    "n_folds": "--folds",
    "held_out": "held-out",
    "sample_weight": "--weights",
    "X": "INPUT",
}


def say(message: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log a message; the fields stand beside it where the log is JSON."""
    logger.log(level, message, extra={"fields": fields})


def strict_json(value: Any, *, indent: int | None = None) -> str:
    """Return strict JSON: numbers that are not finite become null."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def write_result(result: Mapping[str, Any]) -> None:
    """Write the one JSON object of a command to stdout; an OutputError where that takes nothing."""
    try:
        sys.stdout.write(strict_json(result, indent=2) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    except (OSError, AttributeError) as error:  # (Python has no stdout where it was closed)
        if sys.stdout is not None:
            with suppress(OSError):
                sys.stdout.close()  # what it still holds must not fail again at the end
        raise OutputError(
            f"stdout must take the result; got {error}. The work itself is done and written: run the same command "
            "again, which says its result without doing it again."
        ) from error


def in_words_of_the_command_line(message: str) -> str:
    """Return a message of the library with the names of options and arguments that a person typed."""
    words = {name: flag for name, flag in flags(FitOptions).items() if flag != f"--no-{name}"} | _WORDS
    # Whole words alone: not part of a path, a file name, a quotation or a call.
    whole = rf"(?<![\w/.'\"(-])({'|'.join(map(re.escape, words))})(?![\w/'\"=()]|\.\w)"
    return re.sub(whole, lambda match: words[match.group(1)], message)


@contextmanager
def log_on_stderr(log_format: str) -> Iterator[None]:
    """Send the log, warnings and what distributed says of killed workers to stderr while the block runs.

    Parameters
    ----------
    log_format : {"text", "json"}
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if log_format == "json" else _Text())
    if log_format == "json":
        handler.addFilter(lambda record: not getattr(record, "fields", {}).get("text_only"))
    heard = logging.getLogger(HEARD)
    before = (logger.level, logger.propagate, heard.level, heard.propagate, warnings.showwarning)
    logger.setLevel(logging.INFO)
    heard.setLevel(logging.WARNING)
    logger.propagate = heard.propagate = False
    warnings.showwarning = _warner()
    try:
        with quiet():
            logger.addHandler(handler)
            heard.addHandler(handler)
            yield
    finally:
        logger.removeHandler(handler)
        heard.removeHandler(handler)
        logger.level, logger.propagate, heard.level, heard.propagate, warnings.showwarning = before


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the loggers of QUIET that there are, here and in processes that start meanwhile."""
    names = [n for n in logging.root.manager.loggerDict if n.split(".")[0] in QUIET and n != HEARD]
    loggers = [logging.getLogger(name) for name in {*names, *QUIET}]
    levels = [found.level for found in loggers]
    # Read by distributed where it is imported: here, if it was not yet, and in every worker process.
    variables = {f"DASK_LOGGING__{name.upper()}": "critical" for name in QUIET}
    environment = {name: os.environ.get(name) for name in variables}
    for found in loggers:
        found.setLevel(logging.CRITICAL + 1)
    os.environ.update(variables)
    try:
        yield
    finally:
        for found, level in zip(loggers, levels, strict=True):
            found.setLevel(level)
        for name, value in environment.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class _Text(logging.Formatter):
    """Information as it is; warnings and errors say what they are."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{level}{record.getMessage()}"


class _JsonLines(logging.Formatter):
    """One JSON object a line: time, level, message and the fields of the event."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "message": record.getMessage().strip()}
        return strict_json({**line, **getattr(record, "fields", {})})


def _warner() -> Callable[..., None]:
    """Return what logs a warning of any package as one line, without the place in its code; once, if it comes again.

    (k-means says of every restart that rows are alike.)
    """
    said = set()

    def warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        text = in_words_of_the_command_line(" ".join(str(message).split()))
        if (category, text) not in said:
            said.add((category, text))
            say(text, level=logging.WARNING, category=category.__name__)

    return warning


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


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
