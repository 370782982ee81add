"""`daskgmm impute`: rows with their gaps filled in by what a model expects there."""

# click keeps the lines of a paragraph apart that begins with a backspace, "\b".
# ruff: noqa: D301

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from daskgmm.cli.group import SectionCommand
from daskgmm.cli.options import cluster_options, force_option, input_options, keep_option, log_options, output_option
from daskgmm.cli.saving_options import saving_options
from daskgmm.errors import OptionError


@click.command(cls=SectionCommand, short_help="Fill in missing values by what a model expects there.")
@click.argument("model")
@click.argument("input")
@keep_option
@input_options(weights=False)
@output_option("PLACE", "a Zarr array, such as filled.zarr, or a folder of Parquet files, such as filled.parquet")
@saving_options
@force_option
@cluster_options
@log_options
def impute(
    *,
    model: str,
    keep: tuple[tuple[str, ...], ...],
    data: Any,
    output: str,
    saving: Any,
    force: bool,
    cluster: Any,
) -> dict[str, Any]:
    """Write the rows of INPUT as float64, each NaN replaced by its mean under a MODEL given the rest of its row.

    The mean is that of the components, by their probabilities given what the row has. It is a best guess, not a draw:
    filled rows vary less than complete ones would. A row without any value gets the mean of the mixture. If the command
    is interrupted, run it again: it goes on where it was.

    \b
    Example:
      daskgmm impute model.zarr stars.parquet --output filled.parquet
    """
    from daskgmm.cli import jobs

    if not data.as_fitted and data.non_finite != "marginalize":
        raise OptionError("`non_finite`", "be marginalize", data.non_finite, "Leave it out: gaps are filled.")
    data = replace(data, non_finite="marginalize", as_fitted=False)
    names = [name for line in keep for name in line] or None
    return jobs.predict(
        model, data, output, what="impute", keep=names, cluster=cluster, saving=saving, force=force, command="impute"
    )
