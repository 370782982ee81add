"""The commands that write what a model expects of rows: `daskgmm impute`, `denoise` and `regress`."""

# click keeps the lines of a paragraph apart that begins with a backspace, "\b".
# ruff: noqa: D301

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from daskgmm.cli.group import SectionCommand
from daskgmm.cli.options import (
    cluster_options,
    force_option,
    input_options,
    keep_option,
    kept_names,
    log_options,
    names_type,
    option,
    output_option,
    with_options,
)
from daskgmm.cli.saving_options import saving_options
from daskgmm.errors import OptionError


def _writes(example: str) -> Callable[[Callable[..., Any]], Any]:
    """Declare where rows go, how that is saved, and where it is done."""
    output = output_option(
        "PLACE", f"a Zarr array, such as {example}.zarr, or a folder of Parquet files, such as {example}.parquet"
    )
    return lambda command: with_options(command, [output, saving_options, force_option, cluster_options, log_options])


@click.command(cls=SectionCommand, short_help="Fill in missing values by what a model expects there.")
@click.argument("model")
@click.argument("input")
@keep_option
@input_options(weights=False)
@_writes("filled")
def impute(*, model: str, keep: Any, data: Any, output: str, **how: Any) -> dict[str, Any]:
    """Write the rows of INPUT as float64, each NaN replaced by its mean under a MODEL given the rest of its row.

    The mean is that of the components, by their probabilities given what the row has. It is a best guess, not a draw:
    filled rows vary less than complete ones would. A row without any value gets the mean of the mixture. If the command
    is interrupted, run it again: it goes on where it was.

    \b
    Example:
      daskgmm impute model.zarr stars.parquet --output filled.parquet
    """
    from daskgmm.cli.predicting import Asked, predict

    if not data.as_fitted and data.non_finite != "marginalize":
        raise OptionError("`non_finite`", "be marginalize", data.non_finite, "Leave it out: gaps are filled.")
    data = replace(data, non_finite="marginalize", as_fitted=False)
    return predict(model, data, output, Asked("impute", kept_names(keep)), **how)


@click.command(cls=SectionCommand, short_help="Write the true values that a model expects behind measured ones.")
@click.argument("model")
@click.argument("input")
@keep_option
@input_options(weights=False, errors=True)
@_writes("true")
def denoise(*, model: str, keep: Any, data: Any, output: str, **how: Any) -> dict[str, Any]:
    """Write the means of the true values behind the rows of INPUT, as float64, given their measurement errors.

    MODEL is a mixture of true values: one that was fitted with --errors. The mean is that of the components, by their
    probabilities given the row. Such means lie closer together than true values do. If the command is interrupted, run
    it again: it goes on where it was.

    \b
    Example:
      daskgmm denoise model.zarr stars.parquet --errors e_ra,e_dec --output true.parquet
    """
    from daskgmm.cli.predicting import Asked, predict

    if data.errors is None:
        raise OptionError("--errors", "be given", "none", "Name columns of INPUT, or an array: --errors e_ra,e_dec")
    return predict(model, data, output, Asked("denoise", kept_names(keep)), **how)


@click.command(cls=SectionCommand, short_help="Predict some features from the others.")
@click.argument("model")
@click.argument("input")
@option(
    "--given",
    type=names_type("given"),
    required=True,
    section="Prediction",
    metavar="NAMES",
    help="Features of MODEL that INPUT has, such as g,r, or their numbers from 1 where it names none; in the order of "
    "the columns of INPUT where these have no names. The others are predicted.",
)
@keep_option
@input_options(weights=False)
@_writes("predicted")
def regress(*, model: str, given: tuple[str, ...], keep: Any, data: Any, output: str, **how: Any) -> dict[str, Any]:
    """Write, for each row of INPUT, the means of a MODEL's other features given those it has (mixture regression).

    The mean is that of the components, by their probabilities given the row; the columns are in the order of MODEL. Of
    a table the columns that --given names are taken, whatever else it has; an array holds these features alone. Where
    gaps are not alike in all rows, impute fills them. If the command is interrupted, run it again: it goes on where it
    was.

    \b
    Example:
      daskgmm regress model.zarr photometry.parquet --given g,r,i --keep id --output redshifts.parquet
    """
    from daskgmm.cli.predicting import Asked, predict

    if data.as_fitted:
        data = replace(data, as_fitted=False)
    elif data.non_finite == "marginalize":
        must, remedy = "be error or drop", "daskgmm impute predicts from what each row has."
        raise OptionError("`non_finite`", must, "marginalize", remedy)
    return predict(model, data, output, Asked("features", kept_names(keep), given), **how)


FILLED_COMMANDS = (impute, denoise, regress)
