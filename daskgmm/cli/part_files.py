"""Parts of a pass as files: what is in one, and whether several belong together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from daskgmm.cli.outputs import differences
from daskgmm.errors import DataError, InputMissingError, OptionError, OutputError
from daskgmm.fitting.by_parts import Asked, Awaited, Found, merge_of
from daskgmm.mixture.record import Record
from daskgmm.passes.parts import Subtree, added_up
from daskgmm.stores.record_file import is_record, read_record

#: Parts that a message names at most.
_NAMED = 12


@dataclass(frozen=True)
class Part(Record):
    """Some parts of a pass.

    Attributes
    ----------
    asked : Asked
        Which fit it is of.
    name, pass_number, key : str, int, str
        Which pass, for a person and for the program.
    n_parts, numbers : int, tuple of int
        How many parts the pass has, and which these are, from 1 on.
    subtrees : tuple of Subtree
        What was found.
    stamps : dict of str to list of str
        By part, the checksum of the stored form of each of its partitions.
    seconds : float
        Of the part that took longest.
    by : tuple of dict
        Versions and processors that computed them.
    """

    asked: Asked
    name: str
    pass_number: int
    key: str
    n_parts: int
    numbers: tuple[int, ...]
    subtrees: tuple[Subtree, ...]
    stamps: dict[str, Any]
    seconds: float
    by: tuple[dict[str, Any], ...]

    @property
    def shown(self) -> str:
        """How messages name them."""
        return f"{_listed(self.numbers)} of {self.n_parts}"


def read_part(place: str) -> Part:
    """Return the parts in a file."""
    return read_record(place, Part, argument="PARTS", what="files that daskgmm survey, stats or merge wrote")


def stored_part(output: str, wanted: Part, *, force: bool) -> bool:
    """Return whether the same parts stand at an output; an OutputError where something else does.

    Parameters
    ----------
    wanted : Part
        The parts that are asked for; what they have found is not looked at.
    """
    if not os.path.lexists(output):
        return False
    if force and is_record(output):
        return False
    if is_record(output):
        try:
            found = read_part(output)
        except (DataError, InputMissingError) as error:
            raise OutputError("--output", "be free, or hold a whole part", str(error), "Use --force.") from error
        said = _unlike(found, wanted)
        if not said and found.numbers != wanted.numbers:
            said = f"the part is {found.shown} there, {wanted.shown} now"
        if not said:
            return True
        raise OutputError(
            "--output", "be free, or hold the same part", f"{output}, where {said}",
            "Use --force to replace it, or choose another --output.",
        )  # fmt: skip
    raise OutputError(
        "--output", "be free, or hold a part", f"something else at {output}", "Choose another place, or remove it."
    )


def joined(places: Sequence[str], *, of: Part | None = None, called: str = "") -> Part:
    """Return the parts of some files together, their sums added as far as they are neighbours.

    Parameters
    ----------
    of : Part or None
        The pass that they must be of; without it that of the first.
    called : str
        How messages name what says that; without it the first.

    Raises
    ------
    DataError
        They are of several passes, or one is there twice.
    """
    total, first, seen = of, called or places[0], dict[int, str]()
    for place in places:
        part = read_part(place)
        if total is None:
            total = replace(part, numbers=(), subtrees=(), stamps={}, seconds=0.0, by=())
        elif said := _unlike(part, total, ours=first):
            raise DataError(
                "PARTS",
                f"be of one pass of one fit, that of {first}",
                f"{place}, where {said}",
                "Leave it out, and make that part again.",
            )
        elif total.n_parts and part.n_parts != total.n_parts:
            raise DataError(
                "PARTS",
                "be of as many parts as the others",
                f"{place}, of {part.n_parts} parts, and others, of {total.n_parts}",
                "Give all of them the same N in --part I/N, and make that part again.",
            )
        if twice := [number for number in part.numbers if number in seen]:
            raise DataError(
                "PARTS",
                "be there once each",
                f"part {twice[0]} of {part.n_parts} twice, in {seen[twice[0]]} and in {place}",
                "Leave one of them out.",
            )
        seen |= dict.fromkeys(part.numbers, place)
        found = (*total.subtrees, *part.subtrees)
        total = replace(
            total,
            n_parts=part.n_parts,
            numbers=tuple(sorted({*total.numbers, *part.numbers})),
            subtrees=added_up(found, merge_of(found), len(part.asked.edges) - 1),
            stamps={**total.stamps, **part.stamps},
            seconds=max(total.seconds, part.seconds),
            by=(*total.by, *(one for one in part.by if one not in total.by)),
        )
    if total is None or not seen:  # (click asks for one file at least)
        raise OptionError("PARTS", "name files", "none", "Name what daskgmm survey or stats wrote.")
    return total


def whole(part: Part, awaited: Awaited) -> Found:
    """Return what a pass has found, of all of its parts; a DataError that names those that are missing."""
    missing = [number for number in range(1, part.n_parts + 1) if number not in part.numbers]
    if missing:
        some = missing[0] if len(missing) == 1 else "I"
        raise DataError(
            "PARTS",
            f"be all {part.n_parts} of the pass",
            f"{len(part.numbers)} without {_listed(missing)}",
            f"Make what is missing, with --part {some}/{part.n_parts}, and name it too.",
        )
    n_partitions = len(part.asked.edges) - 1
    (root,) = added_up(part.subtrees, awaited.work(part.asked).merge, n_partitions)
    return Found(root.partial, part.seconds, awaited.forms)


def stamps_in(part: Part) -> list[str]:
    """Return the checksums of all partitions, in order, of a whole part."""
    return [stamp for number in sorted(map(int, part.stamps)) for stamp in part.stamps[str(number)]]


def nothing_of(asked: Asked, awaited: Awaited) -> Part:
    """Return none of the parts of a pass."""
    return Part(asked, awaited.name, awaited.number, awaited.key(asked), 0, (), (), {}, 0.0, ())


def _unlike(part: Part, other: Part, *, ours: str = "") -> str:
    """Return what tells a part's pass from another, which is asked for now, or that of a file."""
    now = f"in {ours}" if ours else "now"
    if found := differences(part.asked.json, other.asked.json):
        return "; ".join(found).replace(" now", f" {now}") if ours else "; ".join(found)
    if part.asked.edges.tolist() != other.asked.edges.tolist():
        return "the rows are cut into other partitions, by another version of daskgmm or other chunks of INPUT"
    names = [f"pass {one.pass_number} ({one.name})" for one in (part, other)]
    if names[0] != names[1]:
        return f"the pass is {names[0]} there, {names[1]} {now}"
    return "" if part.key == other.key else "the mixture of the pass is another one"


def _listed(numbers: Sequence[int]) -> str:
    """Return numbers as a person writes them: parts 1 to 4, 6 and 9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    said = [" to ".join(map(str, run)) for run in runs[:_NAMED]]
    more = f", and {sum(run[-1] - run[0] + 1 for run in runs[_NAMED:])} more" if len(runs) > _NAMED else ""
    return f"part{'s' if len(numbers) > 1 else ''} {', '.join(said)}{more}"
