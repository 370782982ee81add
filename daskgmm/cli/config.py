"""`--config FILE.toml`: options that are not typed each time. What is typed comes before what the file says."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click

from daskgmm.errors import InputMissingError, OptionError


def apply_config(ctx: click.Context, param: click.Parameter, place: str | None) -> None:
    """Take defaults of a command's options from a TOML file.

    Its keys are options without their dashes, at the top for every command that has them, or in a table of the
    command's name for that one alone. Which options there are is known to click: an option needs no line here.

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
        found = tomllib.loads(Path(place).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputMissingError("--config", "name a file", f"{place} ({error.strerror})", "Name another.") from error
    except ValueError as error:
        raise OptionError("--config", "be TOML", f"{place}: {error}", "Write lines such as restarts = 3.") from error
    command, commands = ctx.command.name or "", _commands(ctx)
    tables = {key: value for key, value in found.items() if isinstance(value, dict)}
    if strange := [name for name in tables if name not in commands]:
        raise OptionError(
            "--config",
            "have tables of commands alone",
            f"[{strange[0]}] in {place}",
            f"There are {', '.join(commands)}.",
        )
    general, special = {key: value for key, value in found.items() if key not in tables}, tables.get(command, {})
    own = general | special
    known = {
        name.removeprefix("--"): parameter
        for parameter in ctx.command.get_params(ctx)
        if isinstance(parameter, click.Option) and parameter.expose_value and parameter.name
        for name in parameter.opts
        if name.startswith("--")
    }
    of_others = {name.removeprefix("--") for other in commands.values() for p in other.params for name in p.opts}
    if unknown := [key for key in own if key not in known and (key in special or key not in of_others)]:
        raise OptionError(
            "--config",
            f"name options of daskgmm {command}",
            f"{unknown[0]} in {place}",
            f"There are {', '.join(sorted(known))}.",
        )
    ctx.default_map = {str(known[key].name): _text(value) for key, value in own.items() if key in known}


def _commands(ctx: click.Context) -> dict[str, click.Command]:
    """Return all commands of the program."""
    group = ctx.parent.command if ctx.parent is not None else None
    return dict(group.commands) if isinstance(group, click.Group) else {}


def _text(value: Any) -> Any:
    """Return a value as it would be typed: a list with commas."""
    return ",".join(map(str, value)) if isinstance(value, list) else value
