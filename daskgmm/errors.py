"""All errors that daskgmm raises, in one tree; each is also a built-in, and carries its exit code. And the warnings.

A message reads "<argument> must <requirement>; got <got>. <remedy>". An error carries these four apart, and each
interface words them: names of options and arguments stand between backticks, as in "Decrease `n_components`.", where
Python says the name, and the command line its flag.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def worded(text: str, words: Mapping[str, str] | None = None) -> str:
    """Return a text in an interface's words: what it calls the names between backticks, the others as they are."""
    parts = text.split("`")
    parts[1::2] = [(words or {}).get(name, name) for name in parts[1::2]]
    return "".join(parts).replace(_BACKTICK, "`")


def verbatim(data: object) -> str:
    """Return what a user gave (a path, a label, the name of a column) as a piece of a text that holds no names."""
    return str(data).replace("`", _BACKTICK)


def as_typed(value: Any) -> str:
    """Return the value of an option as a person types it: text, numbers with commas between them, names, or JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and all(part is True for part in value.values()):
        return ",".join(map(str, value))
    if isinstance(value, tuple | list) and not any(isinstance(part, tuple | list) for part in value):
        return ",".join(map(str, value))
    words = {None: "none", True: "yes", False: "no"}
    if value is None or isinstance(value, bool):
        return words[value]
    try:
        return json.dumps(value) if isinstance(value, Mapping | tuple | list) else str(value)
    except TypeError:
        return str(value)


#: What stands for a backtick of the user's in a text.
_BACKTICK = "\0"


#: Characters of a piece of a message at most. (Where a message has more than 10,000, distributed makes another error of
#: it on its way from a worker: "Long error message must ...".)
_LONGEST = 2400


def causes_of(error: BaseException, *, contexts: bool = False) -> Iterator[BaseException]:
    """Yield an exception, what it was raised from, and so on: each once, also where one comes of itself.

    `contexts` says whether what was being handled counts, where it was raised from nothing.
    """
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and not any(found is one for one in seen):
        seen.append(found)
        yield found
        found = found.__cause__ or (found.__context__ if contexts else None)


def _bounded(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


class DaskgmmError(Exception):
    """Root of the errors that daskgmm raises: "<argument> must <requirement>; got <got>. <remedy>".

    Parameters
    ----------
    argument, requirement : str
        What is wrong, and what it must be. Names stand between backticks; what a user gave goes through `verbatim`.
    got : object
        What was found; of its text nothing is taken for a name.
    remedy : str
        Whole sentences, with names as above.
    typed : str
        What was found as the command line has it, where a value of Python was.
    text : str
        Instead of these, whole sentences of another form, with names as above; it is then the argument.

    Attributes
    ----------
    exit_code : int
        What the command line returns.
    """

    exit_code = 70

    def __init__(
        self, argument: str = "", requirement: str = "", got: object = "", remedy: str = "", *, text: str = "",
        typed: str = "",
    ) -> None:  # fmt: skip
        self.typed = _bounded(typed)
        argument, requirement, got, remedy = map(_bounded, (argument or text, requirement, str(got), remedy))
        self._fields = (argument, requirement, got, remedy)
        super().__init__(self.worded())

    @property
    def fields(self) -> tuple[str, str, str, str]:
        """Argument, requirement, got and remedy: of these another error like it can be made."""
        return self._fields

    @property
    def argument(self) -> str:
        return self._fields[0]

    @property
    def requirement(self) -> str:
        return self._fields[1]

    @property
    def got(self) -> str:
        return self._fields[2]

    @property
    def remedy(self) -> str:
        return self._fields[3]

    def worded(self, words: Mapping[str, str] | None = None) -> str:
        """Return the message in an interface's words for names of options and arguments; without these in Python's."""
        argument, requirement, got, remedy = self._fields
        if not requirement:
            return worded(argument, words)
        found = got if words is None else self.typed or got
        return worded(f"{argument} must {requirement}; got {verbatim(found)}.{remedy and f' {remedy}'}", words)

    def __reduce__(self) -> tuple[Any, ...]:
        # (Errors of the operating system would otherwise be made again of the message alone.)
        return type(self), self._fields, self.__dict__


class OptionError(DaskgmmError, ValueError):
    """An option or argument that cannot be used (exit code 64)."""

    exit_code = 64


class DataError(DaskgmmError, ValueError):
    """Rows, weights or metadata of the input that no mixture can be fitted to (exit code 65)."""

    exit_code = 65


class NoRowsError(DataError):
    """An input without any row (exit code 65)."""


class NotNumbersError(DataError, TypeError):
    """Objects that cannot be numbers (exit code 65); a TypeError too, as scikit-learn has it."""


class ChangedDataError(DataError):
    """Rows of a pass that are not those of the survey (exit code 65)."""


class CollapsedComponentError(DataError):
    """A component whose covariance is singular to working precision (exit code 65)."""


class NotFiniteError(DataError):
    """Sums of a pass, or parameters, that overflowed (exit code 65)."""


class MemoryLimitError(DaskgmmError, MemoryError):
    """A task would need more memory than its worker has (exit code 65)."""

    exit_code = 65


class UndefinedError(DataError):
    """What is to be read needs a class that nobody has defined in this process: it is whole, and no other error."""


class InputMissingError(DaskgmmError, FileNotFoundError):
    """An input path, array name or model that is not there or may not be read (exit code 66)."""

    exit_code = 66


class ClusterError(DaskgmmError, ConnectionError):
    """No scheduler, or no workers in time (exit code 69)."""

    exit_code = 69


class SilentSchedulerError(ClusterError):
    """A scheduler that does not answer any more (exit code 69)."""


class OutputError(DaskgmmError, OSError):
    """An output that cannot be written, or that exists with other contents (exit code 73)."""

    exit_code = 73


class DaskgmmWarning(UserWarning):
    """Root of the warnings that daskgmm raises.

    Parameters
    ----------
    text : str
        Whole sentences; names of options and arguments stand between backticks.
    """

    def __init__(self, text: str) -> None:
        super().__init__(worded(text))
        self.text = text

    def worded(self, words: Mapping[str, str]) -> str:
        """Return the sentences in an interface's words."""
        return worded(self.text, words)


class FitWarning(DaskgmmWarning):
    """What a person should know of a fit that is done: see `daskgmm.fitting.remarks`."""


#: What comes of reading a record that is not what this project writes: it lacks a name, or has another type or size.
#: (Errors of this project may be among them: they have said what it is.)
UNLIKE_WRITTEN = (
    LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration, RecursionError,
)  # fmt: skip
