"""The command `daskgmm status`: how far a fit, a selection or a prediction is, asked from another shell or host."""

# click keeps the lines of a paragraph apart that begins with a backspace, "\b".
# ruff: noqa: D301

from __future__ import annotations

from typing import Any

import click

from daskgmm.cli.group import SectionCommand
from daskgmm.cli.options import log_options, option


@click.command(cls=SectionCommand, short_help="Say how far a command is, from another shell or host.")
@click.argument("place")
@option("--watch", is_flag=True, section="Status", help="Go on until the command has ended, or is dead.")
@option(
    "--every",
    type=click.FloatRange(min=0.1, max=1e6),
    default=5.0,
    show_default=True,
    section="Status",
    metavar="SECONDS",
    help="With --watch: how often to look.",
)
@option("--json", "as_json", is_flag=True, section="Status", help="Print JSON also where stdout is a terminal.")
@log_options
def status(*, place: str, watch: bool, every: float, as_json: bool) -> dict[str, Any]:
    """Say how far daskgmm fit, select or predict is, while it runs or after it ended or died.

    PLACE is the command's --output, or its --checkpoint where it was given one. The command notes there every 5
    seconds how far it is. On a terminal the answer is text, elsewhere one line of JSON.

    \b
    Examples:
      daskgmm status model.zarr
      daskgmm status s3://bucket/night.checkpoint --watch

    Exit code 0: it is known how far the command is, whatever came of it. "state" is running, silent (no word from
    another host for 30 seconds), dead (the process is gone), interrupted, failed or done; "again" is the command that
    goes on. 66: nothing is there.
    """
    from daskgmm.cli import watching

    return watching.status(place, watch=watch, every=every, as_json=as_json)
