"""The option of fits to rows of which some have known classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from daskgmm.errors import OptionError
from daskgmm.fitting.option import Option, declare
from daskgmm.mixture.record import Record


def _parsed(text: str) -> tuple[int, ...]:
    """Return what is typed: 0,0,1."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError("are no classes, one for each component: 0,0,1") from None


@dataclass(frozen=True)
class LabelOptions(Record):
    """What is asked of known classes.

    Attributes
    ----------
    label_components : tuple of int, or None
        The class of each component, -1 for none; components beyond it have none. None: component k is class k.
    """

    label_components: tuple[int, ...] | None = declare(
        None,
        Option(
            help="Class of each component, where --labels are given: 0,0,1 makes the first two components class 0. "
            "Components without a class take rows without a label alone.",
            flag="--label-components", section="Mixture", metavar="CLASSES", parse=_parsed,
            default_text="component k is class k", choices=(None,), types=(tuple,),
        ),
    )  # fmt: skip


def classes_of(given: Any) -> tuple[int, ...] | None:
    """Return the class of each component, of a tuple of them or of the components of each class.

    Parameters
    ----------
    given : None, sequence of int, or mapping of int to int or sequence of int
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        pairs = [(k, c) for c, own in given.items() for k in (own if isinstance(own, Sequence) else [own])]
        numbers = [number for pair in pairs for number in pair]
        if pairs and all(_is_whole(n) and n >= 0 for n in numbers) and len({k for k, _ in pairs}) == len(pairs):
            of_component = dict(pairs)
            return tuple(int(of_component.get(k, -1)) for k in range(int(max(of_component)) + 1))
    elif isinstance(given, tuple | list) and all(map(_is_whole, given)) and min(given, default=-2) >= -1 < max(given):
        return tuple(int(n) for n in given)
    raise OptionError(
        "`label_components`",
        "be the class of each component, as (0, 0, 1), or the components of each class, as {0: [0, 1], 1: [2]}",
        f"{given!r:.80}",
        "Number classes and components from 0, and name each component once; -1 is no class.",
    )


def _is_whole(n: Any) -> bool:
    return not isinstance(n, bool) and (isinstance(n, Integral) or (isinstance(n, Real) and float(n).is_integer()))
