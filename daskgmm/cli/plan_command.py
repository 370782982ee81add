"""The command `daskgmm plan`: what a fit will take, before it is begun."""

# click keeps the lines of a paragraph apart that begins with a backspace, "\b".
# ruff: noqa: D301

from __future__ import annotations

import sys
from typing import Any

import click

from daskgmm.cli.fit_options import fit_options, model_options
from daskgmm.cli.group import SectionCommand
from daskgmm.cli.options import cluster_options, input_options, log_options, option


@click.command(cls=SectionCommand, short_help="Say what a fit will take: memory, time, storage.")
@click.argument("input")
@model_options
@fit_options
@input_options(weights=True, labels=True, errors=True)
@option(
    "--for",
    "target",
    type=click.Choice(["slurm", "kubernetes"]),
    section="Output",
    help="Print what to ask of a batch system: #SBATCH lines, or resources of pods. This machine then stands for "
    "each of --workers machines of one core.",
)
@option("--json", "as_json", is_flag=True, section="Output", help="Print JSON also where stdout is a terminal.")
@cluster_options
@log_options
def plan(
    *, components: int, covariance: str, init_from: str | None, how: dict[str, Any], data: Any, target: str | None,
    as_json: bool, cluster: Any,
) -> dict[str, Any]:  # fmt: skip
    """Say what daskgmm fit with the same options will take, before it is begun. Nothing is written.

    Metadata are read, and at most one partition of INPUT (64 MiB of most), which is timed where the fit would run: by
    as many workers, here or on --scheduler. Memory is what the fit itself states and keeps to. Time is an estimate: a
    pass as storage and processors are now, and the number of passes that nine in ten fits need.

    \b
    Examples:
      daskgmm plan data.zarr --components 8
      daskgmm plan data.zarr -k 32 --covariance diag --workers 4 --memory-limit 1GiB
      daskgmm plan data.zarr -k 32 --scheduler tcp://10.0.0.5:8786 --json
      daskgmm plan data.zarr -k 32 --workers 40 --for slurm

    Exit code 65: it can never fit into this memory; the message says what would.
    """
    from daskgmm.cli import planning
    from daskgmm.cli.given_start import begun_with
    from daskgmm.cli.plan_text import plan_text, resource_lines
    from daskgmm.fitting.options import FitOptions
    from daskgmm.places.log import say

    how = {**how, "n_components": components, "covariance_type": covariance, "non_finite": data.non_finite}
    begun = begun_with(init_from, how)
    options = FitOptions(**begun.how)
    result, planned = planning.plan(data, options, cluster=cluster, elsewhere=target is not None, begun=begun)
    lines = None if target is None else resource_lines(planned, target)
    for text in result["advice"] if lines is not None else ():
        say(text)
    if not as_json and (lines is not None or sys.stdout.isatty()):
        click.echo(plan_text(result) if lines is None else lines)
        raise click.exceptions.Exit(0)
    return result if lines is None else {**result, "resources": lines}
