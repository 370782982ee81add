"""The options that `fit` and `select` share, and the lists that `select` takes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import Field
from typing import TYPE_CHECKING, Any

import click

from daskgmm.cli.options import option, with_options
from daskgmm.fitting.option import Option, declared
from daskgmm.fitting.options import FitOptions

KINDS = ("full", "tied", "diag", "spherical")

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


class Kinds(_ListType):
    """Kinds of covariance, with commas between them."""

    name = "kinds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        kinds = [kind.strip() for kind in str(value).split(",")]
        for kind in kinds:
            if kind not in KINDS:
                self.fail(f"{kind!r} is not one of {', '.join(KINDS)}. Write for example full,diag.", param, ctx)
        return list(dict.fromkeys(kinds))


def fit_options(command: Callable[..., Any], *, of: type[FitOptions] = FitOptions) -> Any:
    """Declare how a mixture is fitted; the function gets the keywords of its options as `how`.

    How many components of which kind it has is the command's own: one model, or several.
    """
    known = {name: found for name, found in declared(of).items() if found[1].flag and name not in _OF_A_MODEL}

    @functools.wraps(command)
    def run(*args: Any, **given: Any) -> Any:
        how = {name: _value(given.pop(name), *found) for name, found in known.items()}
        return command(*args, how=how, **given)

    return with_options(run, [_option(name, *found) for name, found in known.items()])


#: Options of a fit that each command declares in its own way.
_OF_A_MODEL = ("n_components", "covariance_type")


def _option(name: str, declaration: Field[Any], found: Option) -> Callable[[Any], Any]:
    """Return the declaration of an option of the command line."""
    attributes: dict[str, Any] = {"section": found.section, "help": found.help}
    if found.is_switch:
        return option(found.flag, name, is_flag=True, **attributes)
    if found.number is None:
        attributes["type"] = click.Choice([found.words.get(choice, choice) for choice in found.choices])
    else:
        most = None if math.isinf(found.most) else found.number(found.most)
        bounds: Any = click.IntRange if found.number is int else click.FloatRange
        attributes["type"], attributes["metavar"] = bounds(min=found.least, max=most), found.metavar
    default = found.words.get(declaration.default, declaration.default)
    return option(found.flag, name, default=default, show_default=found.default_text or True, **attributes)


def _value(typed: Any, declaration: Field[Any], found: Option) -> Any:
    """Return the value of an option of which something was typed."""
    return typed != declaration.default if found.is_switch else found.typed(typed)


model_output = option(
    "-o",
    "--output",
    required=True,
    section="Output",
    metavar="MODEL",
    help="Where to write the model, such as model.zarr.",
)
