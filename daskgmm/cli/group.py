"""The click classes of the command line: help in sections; every way to end is an exit code and one clear sentence."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import click

from daskgmm.cli.config import origins, variables
from daskgmm.cli.terminal import command_line_words, is_text, log_on_stderr
from daskgmm.errors import ClusterError, DaskgmmError, MemoryLimitError, OptionError, causes_of
from daskgmm.passes.addresses import address_limit
from daskgmm.places.log import say
from daskgmm.places.signals import Interrupted, interrupts

EXIT_USAGE, EXIT_BUG, EXIT_INTERRUPTED = 64, 70, 75
#: Where the context of the command that is called is kept: it knows which options were not typed.
_CALLED = f"{__name__}.called"


class SectionOption(click.Option):
    """An option that the help lists under a heading."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return what the environment says of the option by its long name, as it is typed, or by its own."""
        found = super().resolve_envvar_value(ctx)
        if found is None and ctx.auto_envvar_prefix:
            found = next((os.environ[name] for name in variables(self, ctx)), None)
        return found

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """Return what the environment says; an option that may come several times comes once (click: once a word)."""
        found = self.resolve_envvar_value(ctx)
        return [found] if found is not None and self.multiple else super().value_from_envvar(ctx)


class SectionCommand(click.Command):
    """A command whose help lists its options under headings, in the order they were declared."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the options, those that are known only when it is called among them (`options.cluster_options`)."""
        further: Callable[[], list[click.Parameter]] = getattr(self.callback, "further_options", list)
        own = super().get_params(ctx)
        taken = {name for parameter in own for name in parameter.opts}
        for parameter in further():
            if clash := taken.intersection(parameter.opts):
                raise OptionError(
                    "The options of a place", "be its own", f"{min(clash)}, which daskgmm has", "Rename it."
                )
            own.append(parameter)
        return own

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_CALLED] = ctx
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a section after the other."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            line = parameter.get_help_record(ctx)
            if line is not None and isinstance(parameter, click.Option):
                section = parameter.section if isinstance(parameter, SectionOption) else "Log and help"
                sections.setdefault(section, []).append(line)
        for section, lines in sections.items():
            with formatter.section(section):
                formatter.write_dl(lines)


class Commands(click.Group):
    """A group that ends every command by the exit codes of the project, also as a part of `dask`."""

    command_class = SectionCommand

    def list_commands(self, ctx: click.Context) -> list[str]:
        # In the order of their declaration, which is that of their use.
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[__name__] = list(args)
        with exit_codes(args):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with exit_codes(ctx.meta[__name__], meta=ctx.meta):
            _check_addresses()
            return super().invoke(ctx)


@contextmanager
def exit_codes(args: Sequence[str], *, meta: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Run a command: log on stderr, signals handled, and each exception turned into its message and exit code.

    Parameters
    ----------
    args : sequence of str
        The arguments as they were typed: where they are wrong, they still say how to log.
    meta : mapping or None
        Of the context (click's).
    """
    debug = "--debug" in args or os.environ.get("DASKGMM_DEBUG", "") not in ("", "0")
    with log_on_stderr(log_format(args)), _attended(), interrupts.watched():
        try:
            yield
        except (click.exceptions.Exit, click.Abort):
            raise
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            raise click.exceptions.Exit(EXIT_USAGE) from error
        except (Exception, KeyboardInterrupt) as error:
            code, message = outcome(error, debug=debug, called=(meta or {}).get(_CALLED))
            fields = {"traceback": "".join(traceback.format_exception(error))} if debug else {}
            for text in fields.values():
                if is_text():
                    click.echo(text, err=True, nl=False)
            say(message, level=logging.ERROR, exit_code=code, **fields)
            raise click.exceptions.Exit(code) from error


@contextmanager
def _attended() -> Iterator[None]:
    """End a command for which not even the thread that attends to signals can start."""
    try:
        yield
    except RuntimeError as error:
        short = None if isinstance(error, click.exceptions.Exit) else _shortage(error)
        if short is None:
            raise
        say(short.worded(command_line_words()), level=logging.ERROR, exit_code=short.exit_code)
        raise click.exceptions.Exit(short.exit_code) from error


def outcome(error: BaseException, *, debug: bool = False, called: click.Context | None = None) -> tuple[int, str]:
    """Return the exit code of an exception that ends a command, and what the user is told; `called` is the command."""
    if isinstance(error, click.ClickException):
        return EXIT_USAGE, _usage(error)
    # (What is half imported where a signal comes early cannot be asked what another exception means.)
    known = None if isinstance(error, KeyboardInterrupt) else _known(error)
    # A signal to a group of processes ends the workers too: that they are lost is then no news.
    if isinstance(error, KeyboardInterrupt) or (interrupts.came and isinstance(known, ClusterError | None)):
        name = error.args[0] if isinstance(error, Interrupted) else interrupts.came or "SIGINT"
        return EXIT_INTERRUPTED, (
            f"Interrupted by {name} before the end; no complete output was written. "
            "Run the same command again: fit, select and predict go on where they were."
        )
    if known is not None:
        said = known.worded(command_line_words(called))
        return known.exit_code, said if called is None else said + origins(called, said)
    hint = "" if debug else " Run it again with --debug for the traceback, and"
    line = (str(error).splitlines() or [""])[0]
    return EXIT_BUG, f"This is a bug of daskgmm: {type(error).__name__}: {line}.{hint or ' Please'} report it."


def _known(error: BaseException) -> DaskgmmError | None:
    """Return the error of daskgmm that an exception is, was raised from, or means."""
    for cause in causes_of(error):
        if isinstance(cause, DaskgmmError):
            # (What takes any failure to read for damage knows nothing of memory.)
            return _shortage(cause) or cause
    short = _shortage(error)
    if short is not None:
        return short
    try:
        from daskgmm.places.lost import explained
    except Exception as broken:
        line = (str(broken).splitlines() or [""])[0].rstrip(" :,")
        return OptionError(
            "Dask",
            "be one that can be imported",
            f"{type(broken).__name__}: {line}",
            "Look at its configuration: files such as ~/.config/dask/*.yaml, or variables of the environment "
            "that begin with DASK_.",
        )
    return explained(error)


#: What the C library and Python say where a limit of memory or of threads is reached (ulimit, a batch system's).
_SHORT = ("can't start new thread", "failed to map segment", "cannot allocate memory", "unable to allocate")


def _shortage(error: BaseException) -> MemoryLimitError | None:
    """Return what is said where an exception comes of memory, or threads, that the system did not give; else None."""
    for found in causes_of(error, contexts=True):
        if isinstance(found, MemoryLimitError):
            return None
        text = str(found)
        if isinstance(found, MemoryError) or (
            not isinstance(found, DaskgmmError) and any(said in text.lower() for said in _SHORT)
        ):
            line = (text.splitlines() or [""])[0] or type(found).__name__
            return MemoryLimitError(
                "Memory",
                "suffice, and threads",
                line,
                "Raise the limit of this process (ulimit -v or -u, or the job's), or use fewer workers, smaller "
                "chunks or fewer components.",
            )
    return None


#: Addresses that Python takes with the libraries of a command, bytes (measured: 580 MiB with one thread of BLAS).
_LEAST_ADDRESSES = 640 << 20


def _check_addresses() -> None:
    """Raise a MemoryLimitError where the limit of this process is too low even to import what a command needs.

    Some of these libraries crash there, and threads that could not start are waited for.
    """
    limit = address_limit()
    if limit is not None and limit < _LEAST_ADDRESSES:
        raise MemoryLimitError(
            "Memory",
            f"suffice for Python and its libraries, {_LEAST_ADDRESSES >> 20} MiB of addresses",
            f"a limit of {limit >> 20} MiB for this process (ulimit -v, or the job's)",
            "Raise it.",
        )


def _usage(error: click.ClickException) -> str:
    message = error.format_message()
    ctx = getattr(error, "ctx", None)
    return f"{message}{origins(ctx, message)} See: {ctx.command_path} --help" if ctx is not None else message


def log_format(args: Sequence[str]) -> str:
    """Return "json" where the arguments ask for it, whatever else is wrong with them."""
    asked = [b for a, b in pairwise(args) if a == "--log-format"]
    asked += [a.partition("=")[2] for a in args if a.startswith("--log-format=")]
    return "json" if asked[-1:] == ["json"] else "text"
