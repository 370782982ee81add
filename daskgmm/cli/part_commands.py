"""The commands of a fit by parts: `daskgmm survey`, `start`, `stats`, `merge` and `mstep`."""

# click keeps the lines of a paragraph apart that begins with a backspace, "\b".
# ruff: noqa: D301

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from daskgmm.cli.fit_options import fit_options, model_options
from daskgmm.cli.group import SectionCommand
from daskgmm.cli.options import (
    declared_option,
    force_option,
    input_options,
    log_options,
    option,
    output_option,
    with_options,
)
from daskgmm.fitting.option import declared
from daskgmm.places.dask_cluster import DaskCluster

if TYPE_CHECKING:
    _PartType = click.ParamType[tuple[int, int]]  # generic since click 8.4
else:
    _PartType = click.ParamType


class _PartOf(_PartType):
    """A part of a pass: 3/40."""

    name = "part"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(value))
        number, n_parts = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= n_parts:
            self.fail(f"{value!r} is no part. Write for example 3/40, the third of 40; the last is 40/40.", param, ctx)
        return number, n_parts


def _task_options(command: Callable[..., Any]) -> Any:
    """Declare what says which part a task does, and in how much memory."""
    declaration, found = declared(DaskCluster)["memory_limit"]
    found = replace(
        found, section="Part", help="Memory of this process, such as 2GiB: what does not fit is refused first.",
        default_text="the machine's memory",
    )  # fmt: skip
    return with_options(
        command,
        [
            option(
                "--part",
                type=_PartOf(),
                required=True,
                section="Part",
                metavar="I/N",
                help="Which part of the rows, such as 3/40. All parts of a pass have one N, at most one a partition.",
            ),
            declared_option("memory_limit", declaration, found),
        ],
    )


@click.command(cls=SectionCommand, short_help="Fit by parts, 1: survey a part of the rows.")
@click.argument("input")
@_task_options
@model_options
@fit_options
@input_options(weights=True, labels=True, errors=True)
@output_option("PART", "what the part finds, such as S3")
@force_option
@log_options
def survey(
    *, part: tuple[int, int], memory_limit: int | None, components: int, covariance: str, init_from: str | None,
    how: dict[str, Any], data: Any, output: str, force: bool,
) -> dict[str, Any]:  # fmt: skip
    """Survey a part of the rows of INPUT, for a fit by parts.

    A fit by parts needs no scheduler and no network: each command is one process, and what it finds is a file in a
    folder that all see. The parts of a step may run anywhere, in any order. The model is, bit for bit, that of
    daskgmm fit with the same options.

    \b
    Example, in two parts:
      daskgmm survey data.zarr --components 8 --part 1/2 --output S1      (and --part 2/2 --output S2)
      daskgmm start S1 S2 --output M0
      daskgmm stats M0 data.zarr --part 1/2 --output P1                   (and --part 2/2 --output P2)
      daskgmm mstep M0 P1 P2 --output M1
    and so on with stats and mstep, as long as the result of mstep has a "next" pass.

    The options of the fit are given here, and the later commands know them. --cache has no effect.
    """
    from daskgmm.cli import part_jobs
    from daskgmm.cli.given_start import begun_with
    from daskgmm.fitting.options import FitOptions

    how = {**how, "n_components": components, "covariance_type": covariance, "non_finite": data.non_finite}
    begun = begun_with(init_from, how)
    options = FitOptions(**begun.how)
    return part_jobs.survey(data, output, options, part=part, memory_limit=memory_limit, force=force, begun=begun)


@click.command(cls=SectionCommand, short_help="Fit by parts, 2: find a start on the sample.")
@click.argument("parts", nargs=-1, required=True)
@output_option("MODEL", "the model, such as M0")
@force_option
@log_options
def start(*, parts: tuple[str, ...], output: str, force: bool) -> dict[str, Any]:
    """Find a start on the sample of a survey, of which all PARTS are given, and write it as a model.

    \b
    Example:
      daskgmm start S* --output M0
    """
    from daskgmm.cli import part_jobs

    return part_jobs.start(parts, output, force=force)


@click.command(cls=SectionCommand, short_help="Fit by parts, 3: do a part of the next pass.")
@click.argument("model")
@click.argument("input")
@_task_options
@output_option("PART", "what the part finds, such as P3")
@force_option
@log_options
def stats(
    *, model: str, input: str, part: tuple[int, int], memory_limit: int | None, output: str, force: bool
) -> dict[str, Any]:
    """Do a part of the pass over INPUT that MODEL waits for: the sums of an E-step, or at the end the closing pass.

    INPUT is that of the survey; its columns, weights and other options are known. A part that is complete is not done
    again, so that a task that was killed is just run once more.

    \b
    Example:
      daskgmm stats M0 data.zarr --part 3/40 --output P3
    """
    from daskgmm.cli import part_jobs

    return part_jobs.stats(model, input, output, part=part, memory_limit=memory_limit, force=force)


@click.command(cls=SectionCommand, short_help="Fit by parts: make one file of several parts.")
@click.argument("parts", nargs=-1, required=True)
@output_option("PART", "the parts together, such as P")
@force_option
@log_options
def merge(*, parts: tuple[str, ...], output: str, force: bool) -> dict[str, Any]:
    """Make one file of several PARTS of a survey or a pass, in any order, of all of them or some.

    start and mstep take many files as well as one: this is for more files than a command should open.

    \b
    Example:
      daskgmm merge P* --output P
    """
    from daskgmm.cli import part_jobs

    return part_jobs.merge(parts, output, force=force)


@click.command(cls=SectionCommand, short_help="Fit by parts, 4: make the next model of all parts of a pass.")
@click.argument("model")
@click.argument("parts", nargs=-1, required=True)
@output_option("MODEL", "the next model, such as M1")
@force_option
@log_options
def mstep(*, model: str, parts: tuple[str, ...], output: str, force: bool) -> dict[str, Any]:
    """Make the next model of MODEL and all PARTS of the pass that it waited for.

    Each model can be used for predictions. The result says what comes "next": "em" or "closing" for a pass that the new
    model waits for, null where the fit has ended, with all that daskgmm fit writes. Exit code 0: it has ended, and
    converged. 3: it goes on, or has ended without converging.

    \b
    Example:
      daskgmm mstep M0 P* --output M1
    """
    from daskgmm.cli import part_jobs

    return part_jobs.mstep(model, parts, output, force=force)


PART_COMMANDS = (survey, start, stats, merge, mstep)
