"""The result of a command: one JSON object on stdout, and in a file where one is named."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import click

from daskgmm.cli.terminal import strict_json
from daskgmm.errors import OptionError, OutputError


class Shown(dict[str, Any]):
    """A result that a person reads as a text, where stdout is a terminal and JSON was not asked for."""

    def __init__(self, result: Mapping[str, Any], text: str) -> None:
        super().__init__(result)
        self.text = text


def write_result(result: Mapping[str, Any], file: str | None = None) -> None:
    """Write the one JSON object of a command to a file, and to stdout: in one line where that is no terminal.

    (What reads the last line of a program's output, as Airflow does, then reads all of it.)

    Raises
    ------
    OutputError
        One of them takes nothing.
    """
    if file is not None:
        from daskgmm.cli.outputs import write_file

        write_file(file, (strict_json(result, indent=2) + "\n").encode())
    try:
        on_terminal = sys.stdout.isatty()
        text = strict_json(result, indent=2 if on_terminal else None)
        sys.stdout.write((result.text if isinstance(result, Shown) and on_terminal else text) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    except (OSError, AttributeError) as error:  # (Python has no stdout where it was closed)
        if sys.stdout is not None:
            with suppress(OSError):
                sys.stdout.close()  # what it still holds must not fail again at the end
        raise OutputError(
            "stdout",
            "take the result",
            error,
            "The work itself is done and written: run the same command again, which says its result without "
            "doing it again.",
        ) from error


def check_result_place(file: str | None, ctx: click.Context) -> None:
    """Raise an error where a result could not be written at the end; remove that of an earlier run.

    So whoever finds the file after the command has the result of this command.
    """
    if file is None:
        return
    from daskgmm.cli.outputs import check_place

    if "://" in file or not file.endswith(".json"):
        raise OptionError("--result", "be a path that ends with .json", file, "Rename it.")
    options = {
        p.name: p.opts[-1] if isinstance(p, click.Option) else p.name.upper() for p in ctx.command.params if p.name
    }
    others = {options[name]: place for name, place in ctx.params.items() if isinstance(place, str) and name in options}
    check_place(file, inputs={name: place for name, place in others.items() if name != "--result"}, option="--result")
    if os.path.isdir(file):
        raise OutputError("--result", "be a file", f"{file}, a folder", "Choose another path.")
    with suppress(FileNotFoundError):
        os.unlink(file)
