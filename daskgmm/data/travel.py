"""Whether what reads the rows arrives on the workers, asked before they are given work: a worker dies of what does not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from daskgmm.data.executor import ClientExecutor, Executor
from daskgmm.data.source import Source
from daskgmm.errors import ClusterError, OptionError


def check_travel(sources: Iterable[Source | None], executor: Executor) -> None:
    """Raise an error that says what to do where scheduler or workers cannot have the readers of some sources.

    What daskgmm brings itself is wherever daskgmm is, and nobody is asked for it.
    """
    streams = [source for source in sources if source is not None and source.travels and source.streams]
    things: list[Any] = [thing for source in streams for thing in (source.reader(), source.stamper())]
    strange = [one for one in things if one is not None and type(one).__module__.partition(".")[0] != "daskgmm"]
    if not strange or not isinstance(executor, ClientExecutor):
        return
    module, kinds = type(strange[0]).__module__, ", ".join(sorted({type(one).__name__ for one in strange}))
    try:
        executor.client.run_on_scheduler(id, strange)
        executor.client.run(id, strange)
    except (ImportError, AttributeError) as error:
        raise ClusterError(
            f"What reads X must be installed on the scheduler and all workers; got {error} for {kinds}. Install it "
            f"there, or send it: client.upload_file('{module.rpartition('.')[2]}.py')."
        ) from error
    except Exception as error:
        # (Whatever an object raises that cannot be taken apart or put together.)
        raise OptionError(
            f"What reads X must be able to travel to the workers; got {kinds}, which cannot ({error}). Let it hold "
            "names, and open what they name where it reads; or set travels = False in its source."
        ) from error
