"""The options that several commands share, and how they reach a command: as one record each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from daskgmm.cli.config import apply_config
from daskgmm.cli.group import SectionOption

Command = TypeVar("Command", bound=Callable[..., Any])


if TYPE_CHECKING:
    _IntType = click.ParamType[int]  # generic since click 8.4
else:
    _IntType = click.ParamType


class _Bytes(_IntType):
    """A number of bytes with its unit, such as 2GiB."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from dask.utils import parse_bytes

        try:
            n_bytes = int(parse_bytes(value))
        except ValueError:
            n_bytes = 0
        if n_bytes < 1:
            self.fail(f"{value!r} is not a number of bytes. Write for example 2GiB or 500MB.", param, ctx)
        return n_bytes


def option(*names: str, section: str, **attributes: Any) -> Callable[[Command], Command]:
    """Return the decorator that declares an option below a heading of the help."""
    return click.option(*names, cls=SectionOption, section=section, **attributes)


def input_options(*, weights: bool) -> Callable[[Command], Command]:
    """Declare the options that say what INPUT is; the function gets a `jobs.Input` as `data`."""

    def declare(command: Callable[..., Any]) -> Any:
        @functools.wraps(command)
        def run(
            *args: Any,
            input: str,
            array: str | None,
            non_finite: str,
            missing_chunks: str,
            weights: str | None = None,
            weights_array: str | None = None,
            **kwargs: Any,
        ) -> Any:
            from daskgmm.cli.jobs import Input

            data = Input(
                input, array=array, weights=weights, weights_array=weights_array, non_finite=non_finite,
                missing_chunks=missing_chunks,
            )  # fmt: skip
            return command(*args, data=data, **kwargs)

        options = [
            option("--array", metavar="NAME", section="Input", help="Array to take, where INPUT is a Zarr group."),
        ]
        if weights:
            options += [
                option(
                    "--weights",
                    metavar="PATH",
                    section="Input",
                    help="A weight for each row: path or URL of an array of shape (rows,). 2 counts a row twice, 0 "
                    "leaves it out.",
                ),
                option(
                    "--weights-array",
                    metavar="NAME",
                    section="Input",
                    help="Array to take, where --weights is a Zarr group.",
                ),
            ]
        options += [
            option(
                "--missing-chunks",
                type=click.Choice(["error", "fill"]),
                default="error",
                show_default=True,
                section="Input",
                help="What to do about a chunk that is not in a Zarr store: stop, or take the array's fill value "
                "where the writer has left out chunks that hold nothing else.",
            ),
            option(
                "--non-finite",
                type=click.Choice(["error", "drop"]),
                default="error",
                show_default=True,
                section="Input",
                help="What to do with rows that hold a NaN or an infinity: stop, or leave them out.",
            ),
        ]
        return with_options(run, options)

    return declare


def cluster_options(command: Callable[..., Any]) -> Any:
    """Declare the options that say where to run; the function gets a `cluster.ClusterOptions` as `cluster`."""

    @functools.wraps(command)
    def run(
        *args: Any,
        workers: int | None,
        memory_limit: int | None,
        scheduler: str | None,
        scheduler_file: str | None,
        workers_timeout: float,
        scheduler_wait: float,
        tls_ca_file: str | None,
        tls_cert: str | None,
        tls_key: str | None,
        **kwargs: Any,
    ) -> Any:
        from daskgmm.cli.cluster import ClusterOptions

        cluster = ClusterOptions(
            scheduler, scheduler_file, workers, memory_limit, workers_timeout, scheduler_wait, tls_ca_file, tls_cert,
            tls_key,
        )  # fmt: skip
        return command(*args, cluster=cluster, **kwargs)

    section = "Where to run (without --scheduler: a cluster on this machine, for this command)"
    return with_options(
        run,
        [
            option(
                "--workers",
                type=click.IntRange(min=1),
                metavar="N",
                section=section,
                show_default="one a core",
                help="Worker processes on this machine.",
            ),
            option(
                "--memory-limit",
                type=_Bytes(),
                metavar="BYTES",
                section=section,
                show_default="the machine's memory, divided among them",
                help="Memory of each worker, such as 2GiB.",
            ),
            option(
                "--scheduler",
                metavar="ADDRESS",
                section=section,
                help="Running Dask scheduler to use, such as tcp://10.0.0.5:8786.",
            ),
            option(
                "--scheduler-file",
                metavar="FILE",
                section=section,
                help="The same, by the JSON file that the scheduler wrote.",
            ),
            option(
                "--workers-timeout",
                type=click.FloatRange(min=0, min_open=True),
                default=60.0,
                show_default=True,
                metavar="SECONDS",
                section=section,
                help="How long to wait for the scheduler and its first worker, also where all workers are lost later.",
            ),
            option(
                "--scheduler-wait",
                type=click.FloatRange(min=0),
                default=60.0,
                show_default=True,
                metavar="SECONDS",
                section=section,
                help="How long a fit waits for a scheduler that was lost, to go on; 0 ends at once.",
            ),
            option(
                "--tls-ca-file",
                metavar="FILE",
                section=section,
                help="Authority (PEM) whose certificates scheduler, workers and this command must have.",
            ),
            option("--tls-cert", metavar="FILE", section=section, help="Certificate of this command (PEM)."),
            option("--tls-key", metavar="FILE", section=section, help="Its key (PEM)."),
        ],
    )


def log_options(command: Callable[..., Any]) -> Any:
    """Declare what every command has; `group` acts on them, and the result of the function is written."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from daskgmm.cli.terminal import write_result

        result = command(*args, **kwargs)
        write_result(result)
        if result.get("converged") is False and result["command"] in ("fit", "select"):
            raise click.exceptions.Exit(3)

    section = "Log and help"
    return with_options(
        run,
        [
            option(
                "--config",
                metavar="FILE",
                is_eager=True,
                expose_value=False,
                callback=apply_config,
                section=section,
                help="Options as lines of a TOML file, such as restarts = 3; what is typed comes first.",
            ),
            option(
                "--log-format",
                type=click.Choice(["text", "json"]),
                default="text",
                show_default=True,
                expose_value=False,
                section=section,
                help="How to log to stderr: for people, or one JSON object a line.",
            ),
            option(
                "--debug", is_flag=True, expose_value=False, section=section, help="Show the traceback of an error."
            ),
        ],
    )


def with_options(run: Callable[..., Any], options: list[Callable[..., Any]]) -> Any:
    """Return a command with options, in the order in which the help lists them."""
    for declare in reversed(options):
        run = declare(run)
    return run


checkpoint_option = option(
    "--checkpoint-every",
    type=click.FloatRange(min=0, max=1e9),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    section="Output",
    help="How often to keep what is done of a long pass.",
)
force_option = option(
    "--force",
    is_flag=True,
    section="Output",
    help="Replace what stands at the output, and start again where a checkpoint of other work is.",
)
