"""The options of commands that take long: where their progress is kept, and what is made of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from daskgmm.cli.options import option, with_options


def saving_options(command: Callable[..., Any]) -> Any:
    """Declare where and how often progress is kept; the function gets a `Saving` as `saving`."""

    @functools.wraps(command)
    def run(*args: Any, checkpoint: str | None, checkpoint_every: float, metrics: str | None, **kwargs: Any) -> Any:
        from daskgmm.cli.saving import Saving

        return command(*args, saving=Saving(checkpoint_every, checkpoint, metrics), **kwargs)

    return with_options(
        run,
        [
            option(
                "--checkpoint",
                metavar="PLACE",
                show_default="beside the output",
                section="Output",
                help="Where to keep the progress: a folder of its own, or a URL, such as s3://bucket/night.checkpoint. "
                "For jobs whose working folder is a new one at each try.",
            ),
            option(
                "--checkpoint-every",
                type=click.FloatRange(min=0, max=1e9),
                default=60.0,
                show_default=True,
                metavar="SECONDS",
                section="Output",
                help="How often to save the progress of a long pass.",
            ),
            option(
                "--metrics",
                metavar="FILE",
                section="Output",
                help="Write how far it is to a file too, every few seconds, such as fit.prom: for Prometheus, by the "
                "textfile collector of its node_exporter.",
            ),
        ],
    )


accept_option = option(
    "--accept-not-converged",
    is_flag=True,
    section="Output",
    help="Exit with 0 instead of 3 where the model is written, but has not converged.",
)
