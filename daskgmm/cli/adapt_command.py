"""The command `daskgmm adapt`: a model becomes that of other rows, as far as these are many."""

# click keeps the lines of a paragraph apart that begins with a backspace, "\b".
# ruff: noqa: D301

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from daskgmm.cli.fit_options import fit_options
from daskgmm.cli.group import SectionCommand
from daskgmm.cli.options import (
    cluster_options,
    force_option,
    input_options,
    log_options,
    names_type,
    option,
    output_option,
)
from daskgmm.cli.saving_options import saving_options

#: Options of a fit that are not given by the model.
_FREE = ("tol", "max_iter", "acceleration", "precision", "cache", "seed")


def _fit_options(command: Callable[..., Any]) -> Any:
    return fit_options(command, only=_FREE)


@click.command(cls=SectionCommand, short_help="Adapt a model to rows, and write the new model.")
@click.argument("model")
@click.argument("input")
@option(
    "--relevance",
    type=click.FloatRange(min=0, min_open=True),
    default=16.0,
    show_default=True,
    section="Mixture",
    metavar="ROWS",
    help="How many rows what the model says of a component counts as.",
)
@option(
    "--adapt",
    type=names_type("adapt"),
    default="means",
    show_default=True,
    section="Mixture",
    metavar="NAMES",
    help="What changes, such as weights,means: some of weights, means and covariances. The rest stays to the bit.",
)
@_fit_options
@input_options(weights=True)
@output_option("NEW", "the new model, such as speaker.zarr")
@saving_options
@force_option
@cluster_options
@log_options
def adapt(
    *, model: str, relevance: float, adapt: tuple[str, ...], how: dict[str, Any], data: Any, output: str, saving: Any,
    force: bool, cluster: Any,
) -> dict[str, Any]:  # fmt: skip
    """Adapt a MODEL to all rows of INPUT, and write the new model.

    A component that gets few rows stays as it is; one that gets many becomes theirs. So a background model becomes that
    of a speaker, with its components in their order (Reynolds, Quatieri and Dunn 2000, who take --max-iter 1).

    \b
    Examples:
      daskgmm adapt background.zarr speaker.npy --output speaker.zarr
      daskgmm adapt background.zarr speaker.npy --relevance 8 --adapt weights,means --max-iter 1 -o speaker.zarr
    """
    from daskgmm.cli import jobs
    from daskgmm.cli.given_start import Begun
    from daskgmm.fitting.adaptation import adapting
    from daskgmm.stores.model_file import load_model

    given = load_model(model)
    begun = Begun({}, model, given, given.parameters, "adapt")
    options = adapting(given.parameters, {**how, "non_finite": data.non_finite}, relevance=relevance, adapt=adapt)
    return jobs.fit(data, output, options, cluster=cluster, saving=saving, force=force, begun=begun)
