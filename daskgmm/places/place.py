"""Places: where the passes of a command run, and how that is started and ended.

To add one, derive a frozen dataclass from `Place`, declare its options as its fields, and register it; the options are
then options of every command that runs passes, and whoever types one of them has chosen the place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import is_dataclass

from daskgmm.errors import OptionError
from daskgmm.fitting.option import flags
from daskgmm.places.machines import Machines


class Place(ABC):
    """Somewhere that runs passes: a frozen dataclass, whose declared fields are options of the command line."""

    #: Seconds to wait for it where it is lost while a command runs; 0 ends the command.
    scheduler_wait = 0.0

    @abstractmethod
    def machines(self, n_partitions: int) -> AbstractContextManager[Machines]:
        """Provide machines for passes over so many partitions, and stop what was started for it.

        Raises
        ------
        ClusterError
            No scheduler, or no workers in time.
        """

    @property
    def joins(self) -> bool:
        """Whether its workers run already, with limits that are known once it is joined."""
        return True

    def n_processes(self, n_partitions: int) -> int:
        """Return the processes that it starts for so many partitions."""
        return 0

    def for_device(self, device: str) -> Place:
        """Return the place for passes on a device, "cpu", "cuda" or "auto"; one whose workers run already stays.

        Raises
        ------
        OptionError
            It starts processes on this machine, and there is no card.
        """
        return self

    def limit_bytes(self, n_partitions: int) -> int | None:
        """Return the bytes that a process of it will have; None where that is known once it is joined."""
        return None


_places: dict[str, type[Place]] = {}


def register_place(name: str, place: type[Place]) -> None:
    """Make a place known by a name, in this process; one that was registered under the name before is replaced.

    The process that runs the commands must do this: a script that ends with `daskgmm.cli.commands.main()`.
    """
    if not (isinstance(place, type) and issubclass(place, Place) and is_dataclass(place)):
        raise OptionError("place", "be a class derived from Place, and a dataclass", repr(place), "Decorate its class.")
    others = {flag for known, other in _places.items() if known != name for flag in flags(other).values()}
    if taken := others.intersection(flags(place).values()):
        raise OptionError("The options of a place", "be its own", f"{min(taken)}, which another has", "Rename it.")
    _places[name] = place


def registered_places() -> dict[str, type[Place]]:
    """Return the places that were registered, by their names."""
    return dict(_places)
