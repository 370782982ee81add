"""The options that `fit` and `select` share, and the lists that `select` takes."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from daskgmm.cli.options import declared_option, option, typed_value, with_options
from daskgmm.fitting.option import declared
from daskgmm.fitting.options import FitOptions

if TYPE_CHECKING:
    _ListType = click.ParamType[list[Any]]  # generic since click 8.4
else:
    _ListType = click.ParamType


class Numbers(_ListType):
    """Numbers of components, or of others: 1:20 (both ends included), 2:20:2, 2,4,8, or several of these."""

    name = "numbers"

    def __init__(self, what: str = "components") -> None:
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            numbers = [k for part in str(value).split(",") for k in self._range(part)]
        except ValueError:
            numbers = []
        if not numbers or min(numbers) < 1:
            self.fail(f"{value!r} are no numbers of {self._what}. Write for example 1:20, 2,4,8 or 2:20:2.", param, ctx)
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
        from daskgmm.mixture.family import family_names, is_family  # (no page of help waits for NumPy)

        if not is_family(value):
            self.fail(f"{value!r} is not one of {', '.join(family_names())}. Write for example diag.", param, ctx)
        return value


class Kinds(Kind):
    """Kinds of covariance, with commas between them."""

    name = "kinds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from daskgmm.mixture.family import GROUPS

        named = [kind for part in str(value).split(",") for kind in GROUPS.get(part.strip(), (part.strip(),))]
        return list(dict.fromkeys(super(Kinds, self).convert(kind, param, ctx) for kind in named))


class OneNumber(click.IntRange):
    """A whole number; who names several is told what compares them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if re.fullmatch(r"\d+([:,-]\d+)+", str(value)):
            self.fail(f"{value!r} are several numbers, and a fit has one. daskgmm select compares several.", param, ctx)
        return super().convert(value, param, ctx)


def model_options(command: Callable[..., Any]) -> Any:
    """Declare how many components of which kind a mixture has, and with which it begins, where a command fits one."""
    return with_options(
        command,
        [
            option(
                "-k",
                "--components",
                type=OneNumber(min=1),
                required=True,
                section="Mixture",
                metavar="N",
                help="Number of Gaussians.",
            ),
            option(
                "--covariance",
                type=Kind(),
                default="full",
                show_default=True,
                section="Mixture",
                metavar="KIND",
                help="full (a full matrix each), tied (one for all), diag (axis-parallel), spherical (one variance "
                "each); a family of mclust's, such as VEE; or lowrank, with --factors.",
            ),
            option(
                "--init-from",
                section="Start",
                metavar="MODEL",
                help="Begin with the components of a model: its weights, means and covariances. --fixed may hold some.",
            ),
        ],
    )


def fit_options(
    command: Callable[..., Any],
    *,
    of: type[FitOptions] = FitOptions,
    only: Sequence[str] | None = None,
    but: Sequence[str] = (),
) -> Any:
    """Declare how a mixture is fitted; the function gets the keywords of its options as `how`.

    How many components of which kind it has is the command's own: one model, or several. `only` names those that are
    declared, where it is not all, and `but` those that are not.
    """
    known = {
        name: found
        for name, found in declared(of).items()
        if found[1].flag and name not in (*_OF_A_MODEL, *but) and (only is None or name in only)
    }

    @functools.wraps(command)
    def run(*args: Any, **given: Any) -> Any:
        how = {name: typed_value(given.pop(name), *found) for name, found in known.items()}
        return command(*args, how=how, **given)

    return with_options(run, [declared_option(name, *found) for name, found in known.items()])


def device_option(section: str) -> Callable[[Any], Any]:
    """Return what declares the device of a command that fits nothing."""
    found, option = declared(FitOptions)["device"]
    return lambda command: with_options(command, [declared_option("device", found, replace(option, section=section))])


#: Options of a fit that each command declares in its own way.
_OF_A_MODEL = ("n_components", "covariance_type")
