"""The output of a command, before it works: may it be written, and is the same work done already."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from daskgmm.cli.terminal import command_line_words, strict_json
from daskgmm.errors import DaskgmmError, DataError, InputMissingError, OptionError, OutputError, verbatim
from daskgmm.fitting.option import flags
from daskgmm.fitting.options import FitOptions
from daskgmm.sources.credentials import refuse_secrets
from daskgmm.stores.model_file import as_written, is_model, is_unfinished, load_model
from daskgmm.stores.output import prediction_record
from daskgmm.stores.storage import of_a_store, storage_at
from daskgmm.stores.writing import unfinished_place, whole_or_nothing

#: What must be the same where a fit is not done again.
_OF_A_FIT = ("options", "input")


def check_place(output: str, *, inputs: Mapping[str, str | Sequence[str]], option: str = "--output") -> None:
    """Raise an error where an output cannot be written, before any work is done.

    Parameters
    ----------
    output : str
        Path or URL. (Of a URL only the comparison with the inputs is checked.)
    inputs : mapping of str to str, or to several
        Argument or option, and the path or URL it names.

    Raises
    ------
    OptionError
        It is one of the inputs, or within one; or a URL with a password or a signature.
    OutputError
        Its folder is not there, or may not be written.
    """
    if not output.strip():
        raise OptionError(option, "name a place", "nothing", "Name one, such as model.zarr.")
    refuse_secrets(output, argument=option)
    place = _resolved(output)
    for name, locations in inputs.items():
        within = [_resolved(one) for one in ([locations] if isinstance(locations, str) else locations)]
        if any(place == one or place.startswith(f"{one}/") for one in within):
            raise OptionError(option, f"lie outside of {name}", output, "Name another place.")
    if "://" in output:
        return
    folder = os.path.dirname(place)
    if not os.path.isdir(folder):
        raise OutputError(
            f"The folder of {option}",
            "exist",
            f"{folder}, which does not",
            f"Make it: mkdir -p {verbatim(folder)}",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"The folder of {option}", "be writable", f"{folder}, which is not", "Choose another place.")
    probe = unfinished_place(place, f"probe{os.getpid()}")
    try:
        # Permissions do not tell everything: quotas, network file systems, /proc.
        os.mkdir(probe)
        os.rmdir(probe)
    except OSError as error:
        raise OutputError(option, "be writable", error, "Choose another place.") from error


def group_around(place: str) -> str:
    """Return the outermost Zarr group that a local place is in, or the place itself: what is written there joins it."""
    found = place
    while "://" not in found and any(
        os.path.exists(os.path.join(os.path.dirname(found), name)) for name in ("zarr.json", ".zgroup")
    ):
        found = os.path.dirname(found)
    return found


def refuse_existing(output: str, *, option: str = "--output") -> None:
    """Raise an OutputError where something stands at a local place."""
    if os.path.lexists(output):
        raise OutputError(
            option,
            "not exist yet",
            f"{output}, which does",
            "Use --force to replace it, or choose another.",
        )


def write_file(output: str, content: bytes) -> None:
    """Write a local file; it has its name when all of it is on disk."""
    with whole_or_nothing(output) as beside, open(beside, "wb") as file:
        file.write(content)


def finished_fit(output: str, now: Mapping[str, Any], *, force: bool) -> dict[str, Any] | None:
    """Return the stored result where a model of the same input and options stands at `output`, None where it is free.

    A model that is unfinished counts as none.

    Parameters
    ----------
    now : mapping
        "command", "options" and "input" of the fit that is asked for, as JSON.
    force : bool
        Whether a model that is there is to be replaced.

    Raises
    ------
    OutputError
        A model of other input or options stands there, or no model.
    """
    if is_unfinished(output) or (force and is_model(output)):
        return None
    try:
        record = load_model(output).record
        with as_written(output):
            return _result_of(record, output, now)
    except InputMissingError as error:
        if "://" in output and not isinstance(error.__cause__, FileNotFoundError):
            raise OutputError("--output", "be reachable, to see what is there", _this(error)) from error
        if storage_at(output).names() if "://" in output else os.path.lexists(output):
            raise _occupied(output, "a model") from error
        return None
    except DataError as error:
        if not is_model(output):
            raise _occupied(output, "a model") from error
        raise OutputError("--output", "be free, or hold a whole model", _this(error), "Use --force.") from error


def _result_of(record: Mapping[str, Any], output: str, now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result in the record of a model; an OutputError where it is of another fit."""
    if "result" not in record:
        raise OutputError(
            "--output",
            "be free, or hold a model of the same fit",
            f"{output}, a model that was saved from Python",
            "Use --force to replace it, or choose another --output.",
        )
    command = record["result"].get("command")
    if command != now["command"]:
        raise OutputError(
            "--output",
            "be free, or hold the same work",
            f"{output}, a model that daskgmm {command} wrote",
            "Use --force to replace it, or choose another --output.",
        )
    # (A selection notes what was asked beside the options of the model that it chose.)
    options = record.get("selection", {}).get("asked", record.get("options"))
    _refuse_differences(output, {"options": options, "input": record.get("input")}, {k: now[k] for k in _OF_A_FIT})
    return _readable(record["result"])


def _readable(stored: Any) -> dict[str, Any]:
    """Return a stored result if it is one: what is nested too deeply cannot be written again."""
    strict_json(stored)
    return dict(stored)


def finished_array(
    output: str, now: Mapping[str, Any], *, force: bool, option: str = "--output"
) -> dict[str, Any] | None:
    """Return the stored result where the same command has completed an array at `output`, None where it has not.

    An incomplete array of this project counts as none.

    Raises
    ------
    OutputError
        An array of other input or options stands there, or something else.
    """
    try:
        record = prediction_record(output)
    except OutputError as error:
        if "://" in output and error.__cause__ is not None and of_a_store(error.__cause__):
            raise
        raise _occupied(output, "what daskgmm wrote", option) from error
    if record is None or force or not record.get("complete"):
        return None
    try:
        with as_written(output, what="array", remedy="Use --force."):
            _refuse_differences(output, {k: record.get(k) for k in now}, now, option=option)
            return _readable(record.get("result", {}))
    except DataError as error:
        raise OutputError(option, "be free, or hold a whole array", _this(error)) from error


def differences(stored: Any, now: Any, name: str = "") -> list[str]:
    """Return a sentence part for each value that differs between two JSON records."""
    if isinstance(stored, dict) and isinstance(now, dict):
        names = dict.fromkeys([*now, *stored])
        if stored.get("location") != now.get("location"):
            names = {"location": None}
        return [d for n in names for d in differences(stored.get(n), now.get(n), f"{name} {n}".strip())]
    if name == "options acceleration":
        stored, now = stored or "none", now or "none"
    return [] if stored == now else [f"{_shown(name)} is {_brief(stored)} there, {_brief(now)} now"]


def _refuse_differences(output: str, stored: Any, now: Any, *, option: str = "--output") -> None:
    found = differences(stored, json.loads(strict_json(now)))
    if found:
        raise OutputError(
            option,
            "be free, or hold the same work",
            f"{output}, where {'; '.join(found)}",
            f"Use --force to replace it, or choose another {option}.",
        )


def _this(error: DaskgmmError) -> str:
    """Return an error as what was got."""
    return f"this: {error.worded(command_line_words()).removesuffix('.')}"


def _shown(name: str) -> str:
    """Return how a person names the value: an option by its own name, INPUT for the rows."""
    group, _, rest = name.partition(" ")
    if group == "options":
        name = flags(FitOptions).get(rest, f"--{rest.replace('_', '-')}")
        return f"{rest} ({name})" if name == f"--no-{rest}" else name
    if group == "input":
        source, _, what = rest.partition(" ")
        named = {"X": "INPUT", "model": "MODEL", "old": "--full"}
        return f"{what or 'source'} of {named.get(source, f'--{source}')}"
    others = {"model": "the checksum of MODEL", "units": "units of INPUT", "feature_names": "features of INPUT"}
    return others.get(name, f"--{name.replace('_', '-')}")


def _brief(value: Any) -> str:
    text = strict_json(value).strip('"')
    return "not given" if value is None else text if len(text) <= 300 else f"{text[:297]}..."


def _occupied(output: str, wanted: str, option: str = "--output") -> OutputError:
    return OutputError(
        option,
        f"be free, or hold {wanted}",
        f"something else at {output}",
        "Choose another place, or remove it.",
    )


def _resolved(location: str) -> str:
    if "://" in location:
        return location.rstrip("/")
    return os.path.realpath(os.path.expanduser(location))
