"""`daskgmm update`: a model goes on with new rows."""

# click keeps the lines of a paragraph apart that begins with a backspace, "\b".
# ruff: noqa: D301

from __future__ import annotations

from typing import Any

import click

from daskgmm.cli.group import SectionCommand
from daskgmm.cli.options import cluster_options, force_option, input_options, log_options, option
from daskgmm.cli.saving_options import accept_option, saving_options


@click.command(cls=SectionCommand, short_help="Let a model go on with new rows, and write it.")
@click.argument("model")
@click.argument("input", metavar="NEW")
@option(
    "--forgetting",
    type=click.FloatRange(0.0, 1.0),
    default=0.0,
    show_default=True,
    section="Mixture",
    metavar="SHARE",
    help="Share of each old row that no longer counts, first. 0: all old rows count. 1: none.",
)
@option(
    "--full",
    multiple=True,
    section="Input",
    metavar="OLD",
    help="Read the old rows again, from here, and fit all together, from MODEL on. May come several times.",
)
@option("--tol", type=float, section="Fit", metavar="NATS", help="As of daskgmm fit. Default: that of MODEL.")
@option(
    "--max-iter",
    type=click.IntRange(min=0),
    section="Fit",
    metavar="N",
    help="As of daskgmm fit. Default: that of MODEL.",
)
@option(
    "--device", type=click.Choice(["cpu", "cuda", "auto"]), section="Fit",
    help="What computes, as of daskgmm fit. Default: that of MODEL.",
)  # fmt: skip
@input_options(weights=True)
@option(
    "-o", "--output", section="Output", metavar="PLACE",
    help="Where to write the model. Default: in the place of MODEL, which is replaced when the new one is whole.",
)  # fmt: skip
@saving_options
@force_option
@accept_option
@cluster_options
@log_options
def update(
    *, model: str, data: Any, output: str | None, full: tuple[str, ...], forgetting: float, tol: float | None,
    max_iter: int | None, device: str | None, saving: Any, force: bool, cluster: Any,
) -> dict[str, Any]:  # fmt: skip
    """Let a MODEL go on with rows of NEW, and write what comes of it; the rows that it was fitted to are not read.

    Sums of the old rows follow from the model, and count as they did (incremental EM). Where new rows form a group that
    no component explains, two old components become one, if that pays, and the other goes there. The number of
    components stays.

    \b
    Examples:
      daskgmm update model.zarr tonight.zarr
      daskgmm update model.zarr tonight.parquet --forgetting 0.1 --output tomorrow.zarr
      daskgmm update model.zarr tonight.zarr --full before.zarr

    "drift" in the result says how the new rows differ from those before: z of their mean log-likelihood under the old
    model, and the rows of each component against those expected, with p-values. "rows" are those that were read,
    "weight" is that of all so far; the log-likelihood and BIC of all are bounds from below. The history is that of this
    update; the model lists all "updates".

    Run again with the same NEW, it does nothing, also where the model was replaced. Rows that the model has seen are
    refused (--force counts them once more). If it is interrupted, run it again: it goes on from there.
    """
    from daskgmm.cli import update_jobs

    given = ("tol", tol), ("max_iter", max_iter), ("device", device)
    how = {name: value for name, value in given if value is not None}
    return update_jobs.update(
        model, data, output, full=full, forgetting=forgetting, how=how, cluster=cluster, saving=saving, force=force
    )
