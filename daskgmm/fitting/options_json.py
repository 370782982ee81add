"""Options as a model file holds them: values of JSON, and records by their classes' names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, get_args, get_origin, get_type_hints

from daskgmm.mixture.record import Record, record_called, record_name


def from_json(value: Any) -> Any:
    """Return the value of an option that `as_json` wrote: a record where its class is defined here, or as it stands."""
    cls = record_called(value["class"]) if isinstance(value, dict) and isinstance(value.get("class"), str) else None
    if cls is None:
        return value
    hints = get_type_hints(cls)
    return cls(**{name: _field(v, hints.get(name)) for name, v in value.items() if name != "class"})


def _field(value: Any, hint: Any) -> Any:
    """Return a field of a record: a list of JSON's as a tuple where the field's annotation says so, or as an array."""
    if not isinstance(value, list):
        return from_json(value)
    of_texts = any(item is None or isinstance(item, str | dict) for item in value)
    if get_origin(hint) is tuple or of_texts:
        return tuple(_field(item, (*get_args(hint), Any)[0]) for item in value)
    import numpy as np

    return np.asarray(value, dtype=np.float64)


def json_value(value: Any) -> Any:
    """Return an option's value as JSON's: a record as its class and fields, an array as nested lists."""
    if isinstance(value, Record):
        found = {f.name: json_value(getattr(value, f.name)) for f in fields(value)}  # type: ignore[arg-type]
        if any(isinstance(item, dict) and "class" not in item for item in found.values()):
            raise TypeError("a record holds a dict")  # (which would not come back as it was)
        return {"class": record_name(type(value)), **found}
    if isinstance(value, tuple) and any(isinstance(item, Record | str | tuple) or item is None for item in value):
        return [json_value(item) for item in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(name): json_value(item) for name, item in value.items()}
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    import numpy as np

    array = np.asarray(value)
    return (array if array.dtype == bool else array.astype(np.float64)).tolist()
