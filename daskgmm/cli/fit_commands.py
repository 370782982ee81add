"""The two commands that fit: `daskgmm fit` one mixture, `daskgmm select` the best of several."""

# click keeps the lines of a paragraph apart that begins with a backspace, "\b".
# ruff: noqa: D301

from __future__ import annotations

from functools import partial
from typing import Any

import click

from daskgmm.cli.bayesian_options import bayesian_options
from daskgmm.cli.fit_options import Kinds, Numbers, fit_options, model_options
from daskgmm.cli.group import SectionCommand
from daskgmm.cli.options import (
    cluster_options,
    force_option,
    input_options,
    log_options,
    option,
    output_option,
)
from daskgmm.cli.saving_options import accept_option, saving_options


@click.command(cls=SectionCommand, short_help="Fit a mixture to rows, and write the model.")
@click.argument("input")
@model_options
@fit_options
@bayesian_options
@input_options(weights=True, labels=True, errors=True)
@output_option("MODEL", "the model, such as model.zarr")
@saving_options
@force_option
@accept_option
@cluster_options
@log_options
def fit(
    *, components: int, covariance: str, init_from: str | None, how: dict[str, Any], of: Any, data: Any, output: str,
    saving: Any, force: bool, cluster: Any,
) -> dict[str, Any]:  # fmt: skip
    """Fit a mixture to all rows of INPUT, and write the model.

    INPUT is the path or URL of an array of numbers of shape (rows, features): a Zarr array, a Zarr group with
    one, or of arrays on one grid, a .npy file, Parquet, HDF5 or netCDF-4 files, or what an installed package opens
    (entry points of the group daskgmm.sources).

    \b
    Examples:
      daskgmm fit data.zarr --components 8 --output model.zarr
      daskgmm fit data.zarr -k 8 -o model.zarr --covariance diag --restarts 10 --memory-limit 2GiB
      daskgmm fit data.zarr -k 20 -o model.zarr --bayesian dirichlet_process
      daskgmm fit new.zarr -k 8 -o new-model.zarr --init-from model.zarr --fixed covariances
      daskgmm fit s3://bucket/data.zarr -k 8 -o model.zarr --scheduler tcp://10.0.0.5:8786

    Prints one line a pass, then the result as JSON. Exit code 3: the model is written, but has not converged. Progress
    is saved after each pass beside the model, in MODEL.checkpoint, until the model is complete. If the command is
    interrupted, run it again: it goes on from there, to the same bits.
    """
    from daskgmm.cli import jobs
    from daskgmm.cli.given_start import begun_with

    how = {**how, "n_components": components, "covariance_type": covariance, "non_finite": data.non_finite}
    begun = begun_with(init_from, how)
    options = of(**begun.how)
    return jobs.fit(data, output, options, cluster=cluster, saving=saving, force=force, begun=begun)


@click.command(cls=SectionCommand, short_help="Fit several mixtures in shared passes, and write the best.")
@click.argument("input")
@option(
    "-k",
    "--components",
    type=Numbers(),
    default="1:10",
    show_default=True,
    section="Mixture",
    metavar="NUMBERS",
    help="Numbers of Gaussians: 1:20 (both ends included), 2:20:2 or 2,4,8.",
)
@option(
    "--covariance",
    type=Kinds(),
    default="full",
    show_default=True,
    section="Mixture",
    metavar="KINDS",
    help="Kinds to compare, such as full,diag: full (a full matrix each), tied (one for all), diag (axis-parallel), "
    "spherical (one variance each); families of mclust's, such as VEE,VVV, or mclust for all fourteen; lowrank, with "
    "--factors.",
)
@option(
    "--factors",
    type=Numbers("factors"),
    default=None,
    section="Mixture",
    metavar="NUMBERS",
    help="Numbers of factors to compare: of directions of --covariance lowrank in which the variance of a component is "
    "its own.",
)
@option(
    "--criterion",
    type=click.Choice(["bic", "aic", "icl", "held-out", "bound"]),
    default=None,
    show_default="bic, or bound with --bayesian",
    section="Comparison",
    help="What to compare models by. BIC finds the number of Gaussians, ICL the number of separate groups; AIC and the "
    "log-likelihood of held-out rows find the best density. Posteriors (--bayesian) have the lower bound on their "
    "evidence in the place of BIC, AIC and ICL.",
)
@option(
    "--folds",
    type=click.IntRange(min=0),
    default=None,
    show_default="5 for held-out, else 0",
    section="Comparison",
    metavar="N",
    help="Number of cross-validation folds. Each model is also fitted with each fold left out, in the same passes, and "
    "scored on that fold.",
)
@option(
    "--all",
    "fit_all",
    is_flag=True,
    section="Comparison",
    help="Fit all numbers of components. By default numbers beyond a clear turn of the criterion are left out (but not "
    "with --init k-means||).",
)
@partial(fit_options, but=["n_factors"])
@bayesian_options
@input_options(weights=True, labels=True, errors=True)
@output_option("MODEL", "the model, such as model.zarr")
@option("--table", section="Output", metavar="FILE", help="Where to write the table, as .csv or .json.")
@option("--plot", section="Output", metavar="FILE", help="Where to draw the criterion, as .png, .pdf or .svg.")
@saving_options
@force_option
@accept_option
@cluster_options
@log_options
def select(
    *, components: list[int], covariance: list[str], factors: list[int] | None, criterion: str | None,
    folds: int | None, fit_all: bool, how: dict[str, Any], of: Any, data: Any, output: str, table: str | None,
    plot: str | None, saving: Any, force: bool, cluster: Any,
) -> dict[str, Any]:  # fmt: skip
    """Fit mixtures of several sizes and kinds to all rows of INPUT, and write the best of them.

    All models share each pass over the data, so ten models need about as many passes as one. INPUT and the model file
    are as for daskgmm fit.

    \b
    Examples:
      daskgmm select data.zarr --components 1:20 --output model.zarr
      daskgmm select data.zarr -k 2,4,8,16 --covariance full,diag -o model.zarr --plot bic.png --table bic.csv
      daskgmm select data.zarr -k 1:20 --criterion held-out -o model.zarr
      daskgmm select data.zarr -k 1:20 --bayesian dirichlet_distribution -o model.zarr

    Prints one line a pass and a table of the models, then the result as JSON. Exit code 3: the best model is written,
    but has not converged. If the command is interrupted, run it again: it goes on where it was.
    """
    from daskgmm.cli.selecting import Comparison, select
    from daskgmm.mixture.family import families_of

    noise = {name: how.pop(name) for name in ("factor_noise",) if name in how}
    comparison = Comparison.of(
        of(non_finite=data.non_finite, **how), n_components=components,
        covariance_types=families_of(covariance, factors, **noise), criterion=criterion, folds=folds, fit_all=fit_all,
    )  # fmt: skip
    return select(
        data,
        output,
        comparison,
        table=table,
        plot=plot,
        cluster=cluster,
        saving=saving,
        force=force,
    )
