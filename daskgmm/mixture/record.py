"""Records: frozen dataclasses that a checkpoint holds by their names, those that are defined elsewhere too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class Record:
    """Base of the frozen dataclasses that the state of a fit is made of.

    A checkpoint writes their fields, and the name of their class; it reads those alone that are defined by then, and
    checks each field against its annotation. So whoever defines one (an accelerator, a rule to stop by) does so before
    a fit goes on from a checkpoint, and need do nothing else. What a script defines that is run itself is known by the
    name `__main__:...`, so that script alone can go on, or load the model; in a module that is imported any can.
    """

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        _records[record_name(cls)] = cls


_records: dict[str, type[Record]] = {}


def record_name(cls: type[Record]) -> str:
    """Return the name of a class of records: its own, and before it the module that it is of where that is not ours."""
    return cls.__qualname__ if cls.__module__.startswith("daskgmm.") else f"{cls.__module__}:{cls.__qualname__}"


def is_frozen(cls: type[Record]) -> bool:
    """Return whether a class is a frozen dataclass, as those of records are."""
    parameters = cls.__dict__.get("__dataclass_params__")
    return parameters is not None and bool(parameters.frozen)


def record_called(name: str) -> type[Record] | None:
    """Return the class of records of this name; None where none is defined."""
    return _records.get(name)


def finite_or_none(value: float) -> float | None:
    """Return a number as JSON has it: None for what is not finite."""
    return float(value) if math.isfinite(value) else None


def plain_json(value: Any) -> Any:
    """Return a value as strict JSON has it: numbers that are not finite become None."""
    if isinstance(value, float):
        return finite_or_none(value)
    if isinstance(value, Mapping):
        return {str(name): plain_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return value
