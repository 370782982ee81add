"""The command line: `daskgmm fit`, `select`, `predict`, and so on; the same as `dask gmm`."""

# click keeps the lines of a paragraph apart that begins with a backspace, "\b".
# ruff: noqa: D301

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import suppress
from typing import Any

import click

from daskgmm.cli.adapt_command import adapt
from daskgmm.cli.filled_commands import FILLED_COMMANDS
from daskgmm.cli.fit_commands import fit, select
from daskgmm.cli.fit_options import device_option
from daskgmm.cli.group import Commands
from daskgmm.cli.model_commands import MODEL_COMMANDS
from daskgmm.cli.options import (
    cluster_options,
    data_options,
    force_option,
    input_options,
    keep_option,
    kept_names,
    log_options,
    names_type,
    option,
    output_option,
    parsed_type,
)
from daskgmm.cli.part_commands import PART_COMMANDS
from daskgmm.cli.plan_command import plan
from daskgmm.cli.saving_options import saving_options
from daskgmm.cli.status_command import status
from daskgmm.cli.update_command import update
from daskgmm.places.dask_cluster import typed_bytes
from daskgmm.places.signals import ENDING
from daskgmm.version import __version__

#: Seconds that Python has to end in after an error; one that comes by a signal has to end within 10.
_ENDS_WITHIN = 2.0


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "auto_envvar_prefix": "DASKGMM"}


@click.group(cls=Commands, context_settings=_SETTINGS)
@click.version_option(__version__, allow_from_autoenv=False)
def gmm() -> None:
    """Fit Gaussian mixtures to data that need not fit in memory.

    \b
    Start here (no data needed):
      daskgmm demo

    \b
    Your own data, an array of shape (rows, features) in a Zarr store or .npy file, by path or URL:
      daskgmm fit data.zarr --components 8 --output model.zarr
      daskgmm predict model.zarr data.zarr --output labels.zarr

    \b
    If you do not know how many Gaussians, compare:
      daskgmm select data.zarr --components 1:20 --output model.zarr --plot criterion.png

    The result is one JSON object on stdout; the log goes to stderr. Run again, a command that is complete does nothing.

    \b
    Exit codes: 0 done, 3 done but not converged, 64 wrong usage, 65 bad data, 66 input missing,
    69 no scheduler or workers, 70 a bug, 73 output cannot be written, 75 interrupted.
    """


gmm.add_command(fit)
gmm.add_command(select)
gmm.add_command(plan)
gmm.add_command(adapt)


@gmm.command(short_help="Write label, probabilities or log-density of each row.")
@click.argument("model")
@click.argument("input")
@option(
    "--what",
    type=click.Choice(["label", "proba", "score"]),
    default="label",
    show_default=True,
    section="Prediction",
    help="label: the most probable component (int32). proba: the probability of each component (rows x components). "
    "score: the log-density in nats.",
)
@keep_option
@device_option("Prediction")
@input_options(weights=False, errors=True)
@output_option("PLACE", "a Zarr array, such as labels.zarr, or a folder of Parquet files, such as labels.parquet")
@saving_options
@force_option
@cluster_options
@log_options
def predict(
    *,
    model: str,
    what: Any,
    keep: tuple[tuple[str, ...], ...],
    device: str,
    data: Any,
    output: str,
    saving: Any,
    force: bool,
    cluster: Any,
) -> dict[str, Any]:
    """Write label, probabilities or log-density of each row of INPUT under a MODEL, in the same order.

    PLACE ends in .zarr, or anything else, for a Zarr array; in .parquet for a folder of Parquet files, whose columns
    are label, score, or proba_0, proba_1 and so on. Where INPUT is a grid, the array has its shape, and its
    coordinates beside it, for xarray.open_zarr. With --non-finite drop, rows that hold a NaN or an infinity get the
    label -1, or NaN; with --non-finite marginalize, or a model that was fitted so, a NaN is a missing value.

    All is written to PLACE.unfinished-... and renamed when it is whole. (At a URL an array is written in place, with
    the attribute "complete" false until then; Parquet needs a path.) Progress is saved in PLACE.checkpoint. If the
    command is interrupted, run it again: it goes on where it was.

    \b
    Examples:
      daskgmm predict model.zarr data.zarr --output labels.zarr
      daskgmm predict model.zarr data.zarr --what proba --output probabilities.parquet
      daskgmm predict model.zarr stars.parquet --keep id,ra,dec --output labels.parquet
    """
    from daskgmm.cli.predicting import Asked, predict

    asked = Asked(what, kept_names(keep), device=device)
    return predict(model, data, output, asked, cluster=cluster, saving=saving, force=force)


for _command in FILLED_COMMANDS:
    gmm.add_command(_command)
gmm.add_command(status)


@gmm.command(short_help="Print log-likelihood, AIC and BIC of a model on rows.")
@click.argument("model")
@click.argument("input")
@option(
    "--standard-errors",
    is_flag=True,
    section="Score",
    help="Print the standard errors of the parameters too, where INPUT is what MODEL was fitted to; a pass more.",
)
@device_option("Score")
@input_options(weights=True, errors=True)
@cluster_options
@log_options
def score(*, model: str, standard_errors: bool, device: str, data: Any, cluster: Any) -> dict[str, Any]:
    """Print how well a MODEL describes the rows of INPUT: log-likelihood in nats, AIC and BIC.

    \b
    Examples:
      daskgmm score model.zarr other-data.zarr
      daskgmm score model.zarr data.zarr --standard-errors
    """
    from daskgmm.cli import scoring

    return scoring.score(model, data, errors=standard_errors, cluster=cluster, device=device)


@gmm.command(short_help="Draw rows from a model.")
@click.argument("model")
@option("-n", "--rows", type=click.IntRange(min=1), required=True, section="Sample", metavar="N", help="Rows to draw.")
@option(
    "--seed",
    type=click.IntRange(min=0, max=2**32 - 1),
    default=0,
    show_default=True,
    section="Sample",
    metavar="N",
    help="Seed: the same one draws the same rows.",
)
@output_option("PLACE", "the rows: a Zarr array, such as sample.zarr, or Parquet, such as sample.parquet")
@option("--labels", section="Output", metavar="PLACE", help="Where to write the component of each row, likewise.")
@force_option
@log_options
def sample(*, model: str, rows: int, seed: int, output: str, labels: str | None, force: bool) -> dict[str, Any]:
    """Draw rows from a MODEL, and write them as float64, in random order: the same whatever they are written as.

    \b
    Example:
      daskgmm sample model.zarr --rows 1000000 --output sample.zarr --labels components.zarr
    """
    from daskgmm.cli import jobs

    return jobs.sample(model, output, n_rows=rows, seed=seed, labels=labels, force=force)


@gmm.command(short_help="Show what a model holds.")
@click.argument("model")
@option("--history", is_flag=True, section="Show", help="Show each pass of the fit too, as a table and in the JSON.")
@log_options
def inspect(*, model: str, history: bool) -> dict[str, Any]:
    """Show what a MODEL holds: a table on stderr, everything as JSON on stdout.

    \b
    Example:
      daskgmm inspect model.zarr
      daskgmm inspect model.zarr --history
    """
    from daskgmm.cli import jobs
    from daskgmm.cli.terminal import command_line_words, strict_json
    from daskgmm.pictures.comparison import COMPARED, selection_text
    from daskgmm.pictures.report import component_table, history_text
    from daskgmm.places.log import say
    from daskgmm.stores.model_file import as_written

    result = jobs.inspect(model, history=history)
    with as_written(model):
        strict_json(result)  # (before anything is said: what is nested too deeply cannot be written either)
        texts = [component_table(result)]
        if result["selection"]:
            compared = [result["selection"][name] for name in COMPARED]
            texts.append(selection_text(*compared, words=command_line_words()))
        if history:
            texts.append(history_text(result["history"]) if result["history"] else "The model holds no history.")
    for text in texts:
        say(text)
    return result


@gmm.command(short_help="Draw a model.")
@click.argument("model")
@option(
    "--kind",
    type=click.Choice(["corner", "weights", "history", "criterion"]),
    default="corner",
    show_default=True,
    section="Picture",
    help="corner: densities of the features, and the components in every two of them. weights: rows of each component. "
    "history: log-likelihood by pass. criterion: that of a selection by number of components.",
)
@option(
    "--only",
    type=names_type("only"),
    metavar="NAMES",
    section="Picture",
    help="Features of the corner plot, such as ra,dec, or their numbers from 1. Default: all up to five, else the five "
    "in which components differ most.",
)
@data_options
@output_option("FILE", "the picture, as .png, .pdf or .svg")
@force_option
@cluster_options
@log_options
def plot(
    *, model: str, kind: str, only: tuple[str, ...] | None, data: Any, output: str, cluster: Any, force: bool
) -> dict[str, Any]:
    """Draw a MODEL as a picture. It needs matplotlib.

    \b
    Examples:
      daskgmm plot model.zarr --output corner.png
      daskgmm plot model.zarr --data data.zarr --only ra,dec --output corner.pdf
      daskgmm plot model.zarr --kind weights --output weights.svg
    """
    from daskgmm.cli import drawing

    return drawing.plot(model, output, kind=kind, only=only, data=data, cluster=cluster, force=force)


@gmm.command(short_help="Write what a model holds as a page for a browser.")
@click.argument("model")
@data_options
@output_option("FILE", "the page, such as report.html")
@force_option
@cluster_options
@log_options
def report(*, model: str, data: Any, output: str, cluster: Any, force: bool) -> dict[str, Any]:
    """Write what a MODEL holds, how it was fitted and from what, as one HTML page to look at, print or send.

    The page is one file: it loads nothing and runs no program. Its pictures need matplotlib. It holds the model as JSON
    too.

    \b
    Examples:
      daskgmm report model.zarr --output report.html
      daskgmm report model.zarr --data data.zarr --output report.html
    """
    from daskgmm.cli import drawing

    return drawing.report(model, output, data=data, cluster=cluster, force=force)


def _sized(text: str) -> str:
    """Return a number of bytes as it was typed, which the demo shows; a ValueError where it is none."""
    typed_bytes(text)
    return text


@gmm.command(short_help="Fit a mixture to real photographs, end to end, and draw it.")
@option(
    "--output-dir",
    default="daskgmm-demo",
    show_default=True,
    section="Output",
    metavar="FOLDER",
    help="Where to write everything; made if need be.",
)
@force_option
@option(
    "-k",
    "--components",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    section="Demo",
    metavar="N",
    help="Number of Gaussians.",
)
@option(
    "--height",
    type=click.IntRange(min=24),
    show_default="all",
    section="Demo",
    metavar="PIXELS",
    help="Lines of each photograph to use; fewer make a quicker demo.",
)
@option(
    "--tol",
    type=click.FloatRange(min=0),
    default=0.2,
    show_default=True,
    section="Demo",
    metavar="NATS",
    help="As for daskgmm fit.",
)
@option(
    "--workers",
    type=click.IntRange(min=1),
    show_default="one a core",
    section="Demo",
    metavar="N",
    help="As for daskgmm fit.",
)
@option(
    "--memory-limit",
    default="512MiB",
    show_default=True,
    type=parsed_type("bytes", _sized),
    section="Demo",
    metavar="BYTES",
    help="As for daskgmm fit.",
)
@log_options
def demo(*, output_dir: str, components: int, **options: Any) -> dict[str, Any]:
    """Fit a mixture to patches of real photographs, and draw what it found. Nothing is downloaded.

    It cuts two photographs that scikit-learn ships into half a million overlapping patches in a Zarr store, fits a
    mixture in less memory than the patches take, predicts, and draws a picture. It prints the commands that it runs,
    so that you can repeat them. It takes a minute or two on two cores.

    \b
    Example:
      daskgmm demo
    """
    from daskgmm.cli.terminal import is_text
    from daskgmm.demo.demo import Demo, run_demo

    return run_demo(Demo(output_dir, components, log_format="text" if is_text() else "json", **options))


for _command in (update, *MODEL_COMMANDS, *PART_COMMANDS):
    gmm.add_command(_command)


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        gmm(prog_name="daskgmm")
    except SystemExit as end:
        if end.code:
            _end_within(_ENDS_WITHIN, end.code)
        raise
    finally:
        # All is done and said: reads that an error has left under way may end as they like,
        logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
        # and a signal during Python's shutdown must not make a failure of it.
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)


def _end_within(seconds: float, code: Any) -> None:
    """End the process even if a thread of it waits for a read that does not come back; Python waits for all threads."""
    timer = threading.Timer(seconds, os._exit, [code if isinstance(code, int) else 1])
    timer.daemon = True
    with suppress(RuntimeError):  # (where no thread can start, none may be waited for either)
        timer.start()
