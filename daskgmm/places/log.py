"""What a command says while it works: its own log, and the loggers of others that are silent meanwhile."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger("daskgmm")

#: Loggers whose words are for developers, mostly at shutdown; what a user must know comes as an error of daskgmm.
QUIET = ("distributed", "tornado", "asyncio", "bokeh")
#: The exception: why a worker process was killed.
HEARD = "distributed.nanny.memory"


def say(message: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log a message; the fields stand beside it where the log is JSON."""
    logger.log(level, message, extra={"fields": fields})


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
