"""The commands that make a model of a model, and read no rows: `daskgmm marginal`, `condition`, `reduce`; `combine`."""

# click keeps the lines of a paragraph apart that begins with a backspace, "\b".
# ruff: noqa: D301

from __future__ import annotations

from typing import Any

import click

from daskgmm.cli.group import SectionCommand
from daskgmm.cli.options import (
    cluster_options,
    force_option,
    input_options,
    log_options,
    names_type,
    option,
    output_option,
    parsed_type,
)


def _given(text: str) -> dict[str, float]:
    """Return "a=1,b=2" as numbers by names."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.rpartition("=")
        if not equals or not name.strip() or name.strip() in found:
            raise ValueError("is not NAME=VALUE, with commas between them, each name once")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise ValueError(f"has no number for {name.strip()}") from None
    return found


_MODEL = ("PLACE", "the new model, such as marginal.zarr")


@click.command(cls=SectionCommand, short_help="Write the mixture of some features alone.")
@click.argument("model")
@option(
    "--features",
    type=names_type("features"),
    required=True,
    section="Mixture",
    metavar="NAMES",
    help="Features in the order in which they are to come, such as ra,dec, or their numbers from 1 where they have "
    "none.",
)
@output_option(*_MODEL)
@force_option
@log_options
def marginal(*, model: str, features: tuple[str, ...], output: str, force: bool) -> dict[str, Any]:
    """Write the mixture that a MODEL is of some features alone, with the same components.

    \b
    Example:
      daskgmm marginal model.zarr --features g,r --output colours.zarr
    """
    from daskgmm.cli import model_jobs

    return model_jobs.marginal(model, output, features=features, force=force)


@click.command(cls=SectionCommand, short_help="Write the mixture where some features have known values.")
@click.argument("model")
@option(
    "--given",
    type=parsed_type("given", _given),
    required=True,
    section="Mixture",
    metavar="NAME=VALUE,...",
    help="Values of features, by their names or numbers from 1, such as g=17.5,r=16.",
)
@output_option(*_MODEL)
@force_option
@log_options
def condition(*, model: str, given: dict[str, float], output: str, force: bool) -> dict[str, Any]:
    """Write the mixture that a MODEL is of its other features, where some have known values.

    \b
    Example:
      daskgmm condition model.zarr --given depth=10 --output shallow.zarr
    """
    from daskgmm.cli import model_jobs

    return model_jobs.condition(model, output, given=given, force=force)


@click.command(cls=SectionCommand, short_help="Write a mixture of fewer components near a model.")
@click.argument("model")
@option(
    "-k",
    "--components",
    type=click.IntRange(min=1),
    required=True,
    section="Mixture",
    metavar="N",
    help="Number of Gaussians, at most those of MODEL.",
)
@output_option(*_MODEL)
@force_option
@log_options
def reduce(*, model: str, components: int, output: str, force: bool) -> dict[str, Any]:
    """Write a mixture of fewer components that is near a MODEL; it reads no rows.

    Step by step the two components become one whose union costs least (Runnalls 2007). "groups" in the result says
    what has become of each component.

    \b
    Example:
      daskgmm reduce model.zarr --components 10 --output smaller.zarr
    """
    from daskgmm.cli import model_jobs

    return model_jobs.reduce(model, output, components=components, force=force)


@click.command(cls=SectionCommand, short_help="Say which components together are a group.")
@click.argument("model")
@click.argument("input")
@option(
    "--groups",
    type=click.IntRange(min=1),
    section="Groups",
    metavar="N",
    show_default="where the assignment of rows begins to be less sure",
    help="Number of groups.",
)
@input_options(weights=True)
@cluster_options
@log_options
def combine(*, model: str, groups: int | None, data: Any, cluster: Any) -> dict[str, Any]:
    """Say which components of a MODEL together are a group of another shape, from a sample of the rows of INPUT.

    Step by step those two become one whose union makes the assignment of rows surest (Baudry et al. 2010). "groups"
    in the result is the group of each component, from 0; "entropies" are those for 1, 2, ... groups, in nats.

    \b
    Example:
      daskgmm combine model.zarr data.zarr --groups 3
    """
    from daskgmm.cli import scoring

    return scoring.combine(model, data, n_groups=groups, cluster=cluster)


MODEL_COMMANDS = (marginal, condition, reduce, combine)
