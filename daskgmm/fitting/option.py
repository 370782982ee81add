"""An option of a fit, declared once: what it may be, what it says, and how a person types it.

The estimator's parameters and checks, the command line, configuration files and messages all follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from daskgmm.errors import OptionError, as_typed
from daskgmm.mixture.record import Record, is_frozen


@dataclass(frozen=True, kw_only=True)
class Option:
    """What there is to say of an option. Its values are numbers, choices or objects of some types; or anything.

    Attributes
    ----------
    help : str
        What it does: the text of the command line's help.
    flag : str
        Its name on the command line; "" where it has none.
    section : str
        The heading of the help that it stands below.
    metavar : str or None
        What stands for its value in the help.
    default_text : str or None
        What the help says of a default that no value tells.
    number : {int, float} or None
        The type of its values beside the choices.
    least, most : float
        The smallest number, and the largest.
    above_least : bool
        Whether a number must be larger than the smallest.
    parse : callable or None
        Returns the value of what is typed; a ValueError says what is wrong with it.
    choices : tuple
        Values that it may have. Of True and False alone the flag gives the one that is no default.
    types : tuple of type
        Types of objects that it may be.
    words : mapping
        What is typed for a choice that is no text.
    must_be : str
        What its values are, in words; "" where number and choices say it.
    remedy : str
        What to do about another value.
    rule : callable or None
        Gets all options and any value. Returns what the value must be where it is not, else ""; and where `remedy` is
        none for that, a pair of it and of what to do. Here, in `must_be` and in `remedy` names of options stand between
        backticks (`daskgmm.errors`).
    of_estimator : bool
        Whether it is a parameter of the estimator.
    """

    help: str
    flag: str = ""
    section: str = "Fit"
    metavar: str | None = None
    default_text: str | None = None
    number: type[int] | type[float] | None = None
    least: float = 0
    most: float = math.inf
    above_least: bool = False
    parse: Callable[[str], Any] | None = None
    choices: tuple[Any, ...] = ()
    types: tuple[type[Any], ...] = ()
    words: Mapping[Any, str] = field(default_factory=dict)
    must_be: str = ""
    remedy: str = ""
    rule: Callable[[Any, Any], str | tuple[str, str]] | None = None
    of_estimator: bool = True

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        return self.parse is None and set(map(type, self.choices)) == {bool}

    def check(self, name: str, options: Any) -> None:
        """Raise an OptionError unless the option of this name is what it must be, given all options."""
        value = getattr(options, name)
        if isinstance(value, type) and issubclass(value, Record):
            raise OptionError(f"`{name}`", "be an object", f"the class {value.__name__}", "Give an object of it.")
        if isinstance(value, Record) and not is_frozen(type(value)):
            raise OptionError(
                f"`{name}`",
                "be of a frozen dataclass, whose fields a checkpoint and a model file hold",
                f"a {type(value).__name__}",
                "Decorate its class: @dataclass(frozen=True).",
            )
        if isinstance(value, Mapping) and "class" in value:
            raise OptionError(
                f"`{name}`",
                "be of a class that is defined here",
                f"the {value['class']} of a model file",
                "Import its module before the model is loaded.",
            )
        found = "" if self.rule is None else self.rule(options, value)
        said, remedy = (found, self.remedy) if isinstance(found, str) else found
        if not said and not self._allows(value):
            said = self.must_be or self._allowed
        if said:
            raise OptionError(f"`{name}`", f"be {said}", repr(value), remedy, typed=as_typed(value))

    def typed(self, value: Any) -> Any:
        """Return the choice that a word stands for, or the value itself."""
        return {word: choice for choice, word in self.words.items()}.get(value, value) if self.words else value

    def _allows(self, value: Any) -> bool:
        if any(_is(value, choice) for choice in self.choices) or isinstance(value, self.types):
            return True
        if self.number is None:
            return not (self.choices or self.types)
        integer, number = isinstance(value, Integral), isinstance(value, Real)
        if isinstance(value, bool) or not (integer if self.number is int else number):
            return False
        found = float(value)
        above = found > self.least if self.above_least else found >= self.least
        return above and found <= self.most and math.isfinite(found)

    @property
    def _allowed(self) -> str:
        if self.number is None:
            return f"one of {', '.join(map(str, self.choices))}"
        least = f"above {self.least}" if self.above_least else f"of at least {self.least}"
        most = "" if math.isinf(self.most) else f" and at most {self.most}"
        return f"{'an integer' if self.number is int else 'a finite number'} {least}{most}"


def declare(default: Any, option: Option) -> Any:
    """Return the field of a dataclass of options that declares one."""
    return field(default=default, metadata={"option": option})


def declared(options: type[Any]) -> dict[str, tuple[Field[Any], Option]]:
    """Return the options that a dataclass declares, by their names, in order."""
    return {f.name: (f, f.metadata["option"]) for f in fields(options) if "option" in f.metadata}


def flags(options: type[Any]) -> dict[str, str]:
    """Return what options, and those that others have added to them, are called on the command line, by their names."""
    own = {name: option.flag for name, (_, option) in declared(options).items() if option.flag}
    for added in options.__subclasses__():
        own |= flags(added)
    return own


def _is(value: Any, choice: Any) -> bool:
    """Return whether a value is a choice; 1 is not True."""
    if choice is None or isinstance(choice, bool):
        return value is choice
    return isinstance(value, type(choice)) and bool(value == choice)
