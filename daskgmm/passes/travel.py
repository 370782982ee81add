"""Whether workers can load what passes need (readers, kernels): asked first, for one dies of what it cannot load."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from daskgmm.errors import ClusterError, OptionError
from daskgmm.passes.client_executor import ClientExecutor
from daskgmm.passes.executor import Executor
from daskgmm.sources.source import Source


def check_travel(sources: Iterable[Source | None], executor: Executor) -> None:
    """Raise an error that says what to do where scheduler or workers cannot have the readers of some sources."""
    streams = [source for source in sources if source is not None and source.travels and source.streams]
    check_arrival("What reads `X`", [thing for s in streams for thing in (s.reader(), s.stamper())], executor)


def check_arrival(what: str, things: Iterable[Any], executor: Executor) -> None:
    """Raise an error that says what to do where scheduler or workers cannot have some things.

    What daskgmm brings itself is wherever daskgmm is, and nobody is asked for it.
    """
    strange = [one for one in things if one is not None and type(one).__module__.partition(".")[0] != "daskgmm"]
    if not strange or not isinstance(executor, ClientExecutor):
        return
    from distributed.protocol.pickle import dumps
    from distributed.utils import silence_logging_cmgr

    kinds = ", ".join(sorted({type(one).__name__ for one in strange}))
    with silence_logging_cmgr(logging.CRITICAL):  # (of distributed, which logs what is raised here)
        # (Whatever an object raises that cannot be taken apart or put together.)
        try:
            dumps(strange)
        except Exception as error:
            raise OptionError(
                what,
                "be able to travel to the workers",
                f"{kinds}, which cannot ({error})",
                "Let it hold names, and open what they name where it reads; or set travels = False in its source.",
            ) from error
        try:
            executor.client.run_on_scheduler(id, strange)
            executor.client.run(id, strange)
        except Exception as error:
            raise ClusterError(
                what,
                "be installed on the scheduler and all workers",
                f"{error} for {kinds}",
                "Install it there, or send its file: client.upload_file.",
            ) from error
