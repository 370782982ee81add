"""What a person types for options that are numbers or arrays: as text, or the name of a file that holds them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from numbers import Real
from typing import Any


def numbers(text: str) -> Any:
    """Return what is typed, as tuples: a number; numbers with commas between them, or as JSON; the name of a file.

    Raises
    ------
    ValueError
        It is none of these.
    """
    return _parsed(text, None)


def numbers_of(name: str) -> Callable[[str], Any]:
    """Return what does the same, where a model file may be named too: its array of this name is meant."""
    return lambda text: _parsed(text, name)


def fixed_parts(text: str) -> Any:
    """Return which parameters are fixed: names with commas between them, or JSON with a mask, itself or in a file.

    Raises
    ------
    ValueError
        It is none of these.
    """
    if text.lstrip().startswith("{") or text.endswith(".json"):
        found = _json(text) if text.lstrip().startswith("{") else _in_file(text)
        if not isinstance(found, dict):
            raise ValueError('holds no object such as {"means": [true, false]}.')
        return found
    return {name.strip(): True for name in text.split(",")}


def _parsed(text: str, of_model: str | None) -> Any:
    is_list = text.lstrip().startswith("[")
    try:
        found = _json(text if is_list or "," not in text else f"[{text}]")
    except ValueError:
        found = None
    if found is None and not is_list and (os.path.exists(text) or "://" in text or text.endswith((".npy", ".json"))):
        found = _of_model(text, of_model) if of_model and not text.endswith((".npy", ".json")) else _in_file(text)
    if isinstance(found, bool) or not isinstance(found, Real | list):
        files = ", nor a .npy or .json file" + (f", nor a model whose {of_model} are meant" if of_model else "")
        raise ValueError(f"is not a number, nor numbers as in 0.1,35 or [[2,1],[1,3]]{files}.")
    return _tuples(found)


def _json(text: str) -> Any:
    return json.loads(text)


def _in_file(place: str) -> Any:
    """Return what a .npy or .json file holds, as JSON has it; a ValueError where it cannot be read."""
    import numpy as np

    try:
        if place.endswith(".npy"):
            return np.load(place, allow_pickle=False).astype(np.float64).tolist()
        if place.endswith(".json"):
            with open(place, encoding="utf-8") as file:
                return json.load(file)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}.") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"holds no numbers: {error}.") from error
    return None


def _of_model(place: str, name: str) -> Any:
    from daskgmm.stores.model_file import load_model

    return getattr(load_model(place).parameters, name).tolist()


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
