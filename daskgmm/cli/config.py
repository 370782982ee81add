"""`--config FILE.toml`: options that are not typed each time. What is typed, or in the environment, comes before it."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from daskgmm.errors import InputMissingError, OptionError

#: A long option within a text.
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def apply_config(ctx: click.Context, param: click.Parameter, place: str | None) -> None:
    """Take defaults of a command's options from a TOML file.

    Its keys are long options with underscores, as in memory_limit, at the top for every command that has them, or in a
    table of the command's name for that one alone. Which options there are is known to click: an option needs no line
    here.

    Raises
    ------
    InputMissingError
        There is no such file, or it may not be read.
    OptionError
        It is no TOML, or names no option of the command.
    """
    if place is None:
        return
    try:
        found = tomllib.loads(Path(place).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputMissingError("--config", "name a file", f"{place} ({error.strerror})", "Name another.") from error
    except ValueError as error:
        raise OptionError(
            "--config", "be TOML in UTF-8", f"{place}: {error}", "Write lines such as restarts = 3."
        ) from error
    command, commands = ctx.command.name or "", _commands(ctx)
    tables = {key: value for key, value in found.items() if isinstance(value, dict)}
    if strange := [name for name in tables if name not in commands]:
        raise OptionError(
            "--config",
            "have tables of commands alone",
            f"[{strange[0]}] in {place}",
            f"There are {', '.join(commands)}.",
        )
    general = _by_option({key: value for key, value in found.items() if key not in tables}, place)
    special = _by_option(tables.get(command, {}), place)
    own, known = general | special, _keys(ctx.command.get_params(ctx))
    written = {name.replace("-", "_"): name for name in found if name not in tables}
    written |= {name.replace("-", "_"): f"[{command}] {name}" for name in tables.get(command, {})}
    of_others = {key for other in commands.values() for key in _keys(other.params)}
    if unknown := [key for key in own if key not in known and (key in special or key not in of_others)]:
        raise OptionError(
            "--config",
            f"name options of daskgmm {command}",
            f"{written[unknown[0]]} in {place}",
            _remedy(unknown[0], sorted(known)),
        )
    for key in own.keys() & known.keys():
        _check(written[key], own[key], known[key], place)
    ctx.meta[__name__] = {known[key].name: f"{place}: {name}" for key, name in written.items() if key in known}
    ctx.default_map = {str(known[key].name): _text(value, known[key]) for key, value in own.items() if key in known}


def origins(ctx: click.Context, text: str) -> str:
    """Return sentences, each after a space, that say where options come from that a text names and nobody typed.

    A value of theirs is in a file, or in the environment, and only there can it be mended.
    """
    written, named = ctx.meta.get(__name__, {}), set(_FLAG.findall(text))
    found = {}
    for parameter in options_of(ctx):
        flags, source = named.intersection(parameter.opts), ctx.get_parameter_source(str(parameter.name))
        if not flags:
            continue
        if source is ParameterSource.DEFAULT_MAP and parameter.name in written:
            found[max(flags)] = written[parameter.name]
        elif source is ParameterSource.ENVIRONMENT:
            found[max(flags)] = f"the environment: {' or '.join(variables(parameter, ctx))}"
    return "".join(f" ({flag} is set in {place}.)" for flag, place in sorted(found.items()))


def options_of(ctx: click.Context) -> list[click.Option]:
    """Return the options of the command that is called."""
    try:
        found = ctx.command.get_params(ctx)
    except OptionError:  # (a place's clash with others, which is then what is told)
        found = ctx.command.params
    return [parameter for parameter in found if isinstance(parameter, click.Option)]


def variables(option: click.Option, ctx: click.Context) -> list[str]:
    """Return the variables of the environment that set an option of a command, as they are there; often one."""
    keys = dict.fromkeys([str(option.name), *_keys([option])])
    return [name for name in (f"{ctx.auto_envvar_prefix}_{key.upper()}" for key in keys) if os.environ.get(name)]


def _by_option(found: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return what a table says by the keys of options; dashes are read as underscores."""
    values: dict[str, Any] = {}
    for name, value in found.items():
        key = name.replace("-", "_")
        if key in values:
            raise OptionError("--config", "name an option once", f"{key} and {name} in {place}", "Remove one of them.")
        values[key] = value
    return values


def _keys(parameters: Iterable[click.Parameter]) -> dict[str, click.Option]:
    """Return the options that a file may set, by their keys."""
    return {
        name.removeprefix("--").replace("-", "_"): parameter
        for parameter in parameters
        if isinstance(parameter, click.Option) and (parameter.expose_value or parameter.name == "log_format")
        for name in parameter.opts
        if name.startswith("--")
    }


def _remedy(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=3)
    return f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(known)}."


def _commands(ctx: click.Context) -> dict[str, click.Command]:
    """Return all commands of the program."""
    group = ctx.parent.command if ctx.parent is not None else None
    return dict(group.commands) if isinstance(group, click.Group) else {}


def _check(key: str, value: Any, option: click.Option, place: str) -> None:
    """Raise an OptionError for a value that could not have been typed, or would be another than it looks."""
    values, said = value if isinstance(value, list) else [value], ""
    if option.is_flag:
        said = "" if isinstance(value, bool) else "true or false"
    elif not all(isinstance(item, str | int | float) for item in values):
        said = "a text, a number, or a list of these"
    elif any(isinstance(item, bool) for item in values) and not isinstance(option.type, click.Choice):
        said = "a text or a number"
    if said:
        raise OptionError(f"{key} in {place}", f"be {said}", str(value), "Write it as the help says.")


def _text(value: Any, option: click.Option) -> Any:
    """Return a value as it would be typed: a list with commas, and true as yes where that is a choice."""
    if isinstance(value, bool):
        choices = option.type.choices if isinstance(option.type, click.Choice) else ()
        return ("no", "yes")[value] if "yes" in choices else value
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return [text] if option.multiple else text
