"""The place where commands run by default: a local cluster of Dask's, or a scheduler that runs already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from daskgmm.errors import OptionError
from daskgmm.fitting.option import Option, declare
from daskgmm.places.log import say
from daskgmm.places.machines import Machines
from daskgmm.places.place import Place

if TYPE_CHECKING:
    from distributed.security import Security


#: Less memory than this no process takes at all: what is typed without its unit.
_LEAST_BYTES = 1 << 20
#: A number below this, typed alone, may be meant in MiB.
_MOST_MIB = 1 << 17


def typed_bytes(text: str) -> int:
    """Return a number of bytes that was typed with its unit; a ValueError where it is none, or too few to be meant."""
    from dask.utils import parse_bytes

    try:
        n_bytes = int(parse_bytes(text))
    except (ValueError, OverflowError):
        n_bytes = 0
    if n_bytes < 1:
        raise ValueError("is not a number of bytes. Write for example 2GiB or 500MB.")
    if n_bytes < _LEAST_BYTES:
        meant = str(text).strip()
        few = meant.isdigit() and n_bytes < _MOST_MIB
        meant = f"{meant}{'GiB' if n_bytes < 64 else 'MiB'}" if few else "2GiB or 500MB"
        raise ValueError(f"is {n_bytes:,} byte{'' if n_bytes == 1 else 's'}. Write {meant}, with its unit.")
    return n_bytes


def _option(default: Any, flag: str, help: str, **others: Any) -> Any:
    return declare(
        default,
        Option(
            help=help, flag=flag,
            section="Where to run (without --scheduler: a cluster on this machine, for this command)", **others,
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class DaskCluster(Place):
    """A local cluster of one process a core, or what the user said of a scheduler to join.

    Attributes
    ----------
    scheduler, scheduler_file : str or None
        Address of a running scheduler, or the JSON file that it wrote; without either, that of Dask's configuration
        is joined, or else a local cluster is started.
    workers : int or None
        Processes of the local cluster; None means one a core, and no more than there are partitions.
    memory_limit : int or None
        Bytes of each of them; None divides the memory of the machine.
    workers_timeout : float
        Seconds to wait for the scheduler and its first worker, also where all are lost later.
    scheduler_wait : float
        Seconds to wait for a scheduler that was lost, and for its first worker.
    priority : int
        Of the tasks, among those of others on the same scheduler.
    upload_package : bool
        Whether daskgmm is sent to workers that have none.
    tls_ca_file, tls_cert, tls_key : str or None
        Files of an authority, and of the certificate and key by which this side is known: all connections are
        encrypted then, and authenticated on both sides. None leaves it to Dask's own configuration.
    own_cards : bool
        Whether each process of the local cluster has a card of this machine to itself.
    """

    workers: int | None = _option(
        None, "--workers", "Worker processes on this machine.", metavar="N", number=int, least=1,
        default_text="one a core",
    )  # fmt: skip
    memory_limit: int | None = _option(
        None, "--memory-limit", "Memory of each worker, such as 2GiB.", metavar="BYTES", parse=typed_bytes,
        default_text="the machine's memory, divided among them",
    )  # fmt: skip
    scheduler: str | None = _option(
        None, "--scheduler", "Running Dask scheduler to use, such as tcp://10.0.0.5:8786.", metavar="ADDRESS"
    )
    scheduler_file: str | None = _option(
        None, "--scheduler-file", "Running Dask scheduler to use, by the JSON file that it wrote.", metavar="FILE"
    )
    workers_timeout: float = _option(
        60.0, "--workers-timeout",
        "How long to wait for the scheduler and its first worker, at the start or when all workers are lost or paused.",
        metavar="SECONDS", number=float, above_least=True,
    )  # fmt: skip
    scheduler_wait: float = _option(
        60.0, "--scheduler-wait", "How long a fit waits for a lost scheduler to come back. 0: end at once.",
        metavar="SECONDS", number=float,
    )  # fmt: skip
    priority: int = _option(
        0, "--priority",
        "Of commands that share a scheduler those of larger priority go first; they may be negative.",
        metavar="N", number=int, least=-1000, most=1000,
    )  # fmt: skip
    upload_package: bool = _option(
        False, "--upload-package",
        "Send daskgmm itself to workers that have none. They need the packages that it imports, and keep it until they "
        "are restarted.", choices=(False, True),
    )  # fmt: skip
    tls_ca_file: str | None = _option(
        None, "--tls-ca-file",
        "Certificate authority (PEM) of the scheduler, the workers and this command.", metavar="FILE",
    )  # fmt: skip
    tls_cert: str | None = _option(None, "--tls-cert", "Certificate of this command (PEM).", metavar="FILE")
    tls_key: str | None = _option(None, "--tls-key", "Its key (PEM).", metavar="FILE")
    own_cards: bool = False

    def __post_init__(self) -> None:
        given = [f"`{n}`" for n in ("scheduler", "scheduler_file") if getattr(self, n) is not None]
        local = [f"`{n}`" for n in ("workers", "memory_limit") if getattr(self, n) is not None]
        if len(given) > 1:
            raise OptionError(
                text=f"Only one scheduler can be joined; got {' and '.join(given)}. Leave one of them out."
            )
        if given and local:
            raise OptionError(
                text=f"{' and '.join(local)} must be left out with {given[0]}, whose workers run already with limits "
                "of their own. They are for a local cluster."
            )
        if self.upload_package and not self.joins:
            raise OptionError(
                "`upload_package`", "be left out without a scheduler", "it alone", "Workers here have it."
            )
        files = {f"`{n}`": getattr(self, n) for n in ("tls_ca_file", "tls_cert", "tls_key")}
        lacking = [name for name, file in files.items() if file is None]
        if 0 < len(lacking) < len(files):
            raise OptionError(
                " and ".join(lacking),
                f"be given with {' and '.join(name for name in files if name not in lacking)}",
                "some of the three files of TLS",
                "Name all of them.",
            )
        if self.tls_by_options:
            from daskgmm.places.tls import check_files

            check_files(self.security, "client", by_options=True)

    @property
    def tls_by_options(self) -> bool:
        """Whether connections are protected by what the options name, and not by Dask's configuration."""
        return self.tls_ca_file is not None

    @property
    def security(self) -> Security:
        """What connections are protected by."""
        from daskgmm.places.tls import security_of

        return security_of(self.tls_ca_file, self.tls_cert, self.tls_key)

    @property
    def joins(self) -> bool:
        return self.scheduler is not None or self.scheduler_file is not None or self.configured is not None

    @property
    def configured(self) -> str | None:
        """The scheduler of Dask's own configuration, "scheduler-address", where nothing is said of a local cluster."""
        import dask

        if self.workers is not None or self.memory_limit is not None:
            return None
        found = dask.config.get("scheduler-address", None)
        return None if found is None else str(found)

    def n_processes(self, n_partitions: int) -> int:
        from dask.system import CPU_COUNT

        return self.workers or min(CPU_COUNT, n_partitions)

    def for_device(self, device: str) -> DaskCluster:
        if device == "cpu" or self.joins:
            return self
        from daskgmm.fitting.device import check_cards
        from daskgmm.passes.card import card_here, n_cards

        n = n_cards()
        if n:
            return replace(self, workers=min(self.workers or n, n), own_cards=True)
        if device == "cuda":
            check_cards({"": card_here()})
        return self

    def limit_bytes(self, n_partitions: int) -> int | None:
        from distributed.system import MEMORY_LIMIT

        if self.joins:
            return None
        return self.memory_limit or MEMORY_LIMIT // (1 if n_partitions == 1 else self.n_processes(n_partitions))

    @contextmanager
    def machines(self, n_partitions: int) -> Iterator[Machines]:
        from dask.base import annotate

        from daskgmm.passes.client_executor import ClientExecutor
        from daskgmm.passes.local_executor import LimitedExecutor
        from daskgmm.places.cluster import joined, started  # (distributed takes a second: --help needs it not)

        if n_partitions == 1 and not self.joins:
            if self.workers is not None and not self.own_cards:
                say(f"Of {self.workers} workers none is started: all rows are one partition, which this process does.")
            yield Machines(LimitedExecutor(self.limit_bytes(1)), 0, "this process")
            return
        tls: Any = {"security": self.security, "by_options": self.tls_by_options}
        if self.joins:
            typed = self.scheduler is not None or self.scheduler_file is not None
            address = self.scheduler if typed else self.configured
            if not typed:
                tls["said_by"] = ", which Dask's configuration names (DASK_SCHEDULER_ADDRESS)"
            opened = joined(
                address, self.scheduler_file, timeout=self.workers_timeout, upload=self.upload_package, **tls
            )
        else:
            n_workers, limit = self.n_processes(n_partitions), self.limit_bytes(n_partitions)
            opened = started(
                n_workers, memory_limit=limit, timeout=self.workers_timeout, own_cards=self.own_cards, **tls
            )
        # (Not without one: the annotation would take that of whoever calls.)
        before_others = annotate(priority=self.priority) if self.priority else nullcontext()
        with opened as (client, where), before_others:
            yield Machines(ClientExecutor(client), len(client.nthreads()), where, client)
