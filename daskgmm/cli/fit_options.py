"""The options that `fit` and `select` share, and the lists that `select` takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from daskgmm.cli.options import declared, option

if TYPE_CHECKING:
    _ListType = click.ParamType[list[Any]]  # generic since click 8.4
else:
    _ListType = click.ParamType


class Numbers(_ListType):
    """Numbers of components: 1:20 (both ends included), 2:20:2, 2,4,8, or several of these."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            numbers = [k for part in str(value).split(",") for k in self._range(part)]
        except ValueError:
            numbers = []
        if not numbers or min(numbers) < 1:
            self.fail(f"{value!r} are no numbers of components. Write for example 1:20, 2,4,8 or 2:20:2.", param, ctx)
        return sorted(set(numbers))

    @staticmethod
    def _range(part: str) -> range:
        first, *rest = (int(number) for number in part.split(":"))
        if len(rest) > 2:
            raise ValueError
        last, step = (*rest, 1)[:2] if rest else (first, 1)
        if step < 1 or (last - first) // step > 100_000:
            raise ValueError
        return range(first, last + 1, step)


class Kind(_ListType):
    """A kind of covariance: the name of a family that is known by then."""

    name = "kind"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from daskgmm.mixture.family import family_names  # (no page of help waits for NumPy)

        if value not in family_names():
            self.fail(f"{value!r} is not one of {', '.join(family_names())}. Write for example diag.", param, ctx)
        return value


class Kinds(Kind):
    """Kinds of covariance, with commas between them."""

    name = "kinds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        kinds = [super(Kinds, self).convert(kind.strip(), param, ctx) for kind in str(value).split(",")]
        return list(dict.fromkeys(kinds))


def fit_options(command: Callable[..., Any]) -> Any:
    """Declare how a mixture is fitted; the function gets keywords of `FitOptions` as `how`."""

    @functools.wraps(command)
    def run(
        *args: Any,
        reg_covar: float,
        tol: float,
        max_iter: int,
        restarts: int,
        init: str,
        seed: int,
        precision: str,
        cache: str,
        acceleration: str,
        no_escape: bool,
        start_rows: int | None,
        **kwargs: Any,
    ) -> Any:
        how = {
            "reg_covar": reg_covar,
            "tol": tol,
            "max_iter": max_iter,
            "n_init": restarts,
            "init_params": init,
            "seed": seed,
            "precision": precision,
            "cache": cache if cache == "auto" else cache == "yes",
            "acceleration": None if acceleration == "none" else acceleration,
            "escape": not no_escape,
            "start_rows": start_rows,
        }
        return command(*args, how=how, **kwargs)

    return declared(
        run,
        [
            option(
                "--reg-covar",
                type=click.FloatRange(min=0),
                default=1e-6,
                show_default=True,
                section="Mixture",
                metavar="FLOAT",
                help="Added to every variance, in squared units of the data.",
            ),
            option(
                "--tol",
                type=click.FloatRange(min=0),
                default=1e-3,
                show_default=True,
                section="Fit",
                metavar="NATS",
                help="Converged when the mean log-likelihood of a row changes by less. With 0, --max-iter iterations "
                "are made.",
            ),
            option(
                "--max-iter",
                type=click.IntRange(min=1),
                default=100,
                show_default=True,
                section="Fit",
                metavar="N",
                help="Iterations at most; each is one pass over the data.",
            ),
            option(
                "--restarts",
                type=click.IntRange(min=1),
                default=10,
                show_default=True,
                section="Fit",
                metavar="N",
                help="Starts to try, on a sample of the rows; the best goes on to all rows.",
            ),
            option(
                "--init",
                type=click.Choice(["kmeans", "k-means++", "random", "random_from_data", "k-means||"]),
                default="kmeans",
                show_default=True,
                section="Fit",
                help="How a start is found: on a sample of the rows, or, by k-means||, in six passes over all of them, "
                "which finds small far groups that a sample would miss.",
            ),
            option(
                "--seed",
                type=click.IntRange(min=0, max=2**32 - 1),
                default=0,
                show_default=True,
                section="Fit",
                metavar="N",
                help="Seed of the sample and of the starts.",
            ),
            option(
                "--start-rows",
                type=click.IntRange(min=1),
                default=None,
                section="Fit",
                metavar="N",
                show_default="as many as a start needs",
                help="Rows of the sample at most.",
            ),
            option(
                "--no-escape",
                is_flag=True,
                section="Fit",
                help="Do not split and merge components on the sample in search of a better optimum.",
            ),
            option(
                "--acceleration",
                type=click.Choice(["squarem", "none"]),
                default="squarem",
                show_default=True,
                section="Fit",
                help="squarem takes fewer passes to the same optimum than plain EM, which none is.",
            ),
            option(
                "--precision",
                type=click.Choice(["double", "single"]),
                default="double",
                show_default=True,
                section="Fit",
                help="Arithmetic of the large products: single is faster, and good to 1e-3 nats a row.",
            ),
            option(
                "--cache",
                type=click.Choice(["auto", "yes", "no"]),
                default="auto",
                show_default=True,
                section="Fit",
                help="Keep decoded rows in memory after the first pass: all, if half of it suffices; as many as fit; "
                "none.",
            ),
        ],
    )


model_output = option(
    "-o",
    "--output",
    required=True,
    section="Output",
    metavar="MODEL",
    help="Where to write the model, such as model.zarr.",
)
