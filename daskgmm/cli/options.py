"""The options that several commands share, and how they reach a command: as one record each."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Callable
from dataclasses import Field
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from daskgmm.cli.config import apply_config
from daskgmm.cli.group import SectionOption
from daskgmm.errors import OptionError
from daskgmm.fitting.option import Option, declared
from daskgmm.places.dask_cluster import DaskCluster
from daskgmm.places.place import Place, registered_places

Command = TypeVar("Command", bound=Callable[..., Any])


if TYPE_CHECKING:
    _AnyType = click.ParamType[Any]  # generic since click 8.4
else:
    _AnyType = click.ParamType


class _Parsed(_AnyType):
    """What a function makes of a text."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)


def _names(text: str) -> tuple[str, ...]:
    (line,) = csv.reader([text], skipinitialspace=True)
    names = tuple(name.strip() for name in line)
    if not names or not all(names):
        raise ValueError("is not names with commas between them")
    return names


def names_type(name: str) -> _AnyType:
    """Return the type of an option that is names, with commas between them."""
    return parsed_type(name, _names)


def parsed_type(name: str, parse: Callable[[str], Any]) -> _AnyType:
    """Return the type of an option that a function reads; it raises a ValueError that ends "'text' ..."."""
    return _Parsed(name, parse)


def option(*names: str, section: str, **attributes: Any) -> Callable[[Command], Command]:
    """Return the decorator that declares an option below a heading of the help."""
    return click.option(*names, cls=SectionOption, section=section, **attributes)


def declared_option(name: str, declaration: Field[Any], found: Option) -> Callable[[Any], Any]:
    """Return the declaration to click of an option that is declared as a field of a dataclass."""
    attributes: dict[str, Any] = {"section": found.section, "help": found.help}
    if found.is_switch:
        return option(found.flag, name, is_flag=True, **attributes)
    if found.parse is not None:
        attributes["type"] = _Parsed(name, found.parse)
    elif found.number is not None:
        most = None if math.isinf(found.most) else found.number(found.most)
        bounds: Any = click.IntRange if found.number is int else click.FloatRange
        attributes["type"] = bounds(min=found.least, max=most, min_open=found.above_least)
    elif found.choices:
        attributes["type"] = click.Choice([found.words.get(choice, choice) for choice in found.choices])
    default = found.words.get(declaration.default, declaration.default)
    shown = found.default_text or default is not None
    return option(found.flag, name, default=default, show_default=shown, metavar=found.metavar, **attributes)


def typed_value(typed: Any, declaration: Field[Any], found: Option) -> Any:
    """Return the value of such an option of which something was typed."""
    return typed != declaration.default if found.is_switch else found.typed(typed)


def input_options(*, weights: bool, labels: bool = False, errors: bool = False) -> Callable[[Command], Command]:
    """Declare the options that say what INPUT is; the function gets an `Input` as `data`."""

    def declare(command: Callable[..., Any]) -> Any:
        @functools.wraps(command)
        def run(
            *args: Any,
            input: Any,
            columns: tuple[tuple[str, ...], ...],
            array: str | None,
            features: str | None,
            non_finite: str | None,
            missing_chunks: str,
            weights: str | None = None,
            weights_array: str | None = None,
            labels: str | None = None,
            labels_array: str | None = None,
            errors: str | None = None,
            **kwargs: Any,
        ) -> Any:
            from daskgmm.cli.input import Input

            for named, beside, flag in ((weights_array, weights, "--weights"), (labels_array, labels, "--labels")):
                if named is not None and beside is None:
                    raise OptionError(f"{flag}-array", f"come with {flag}", f"no {flag}", f"Add {flag}.")
            data = Input(
                input, columns=tuple(chain(*columns)) or None, array=array, features=features, weights=weights,
                weights_array=weights_array, labels=labels, labels_array=labels_array, errors=errors,
                non_finite=non_finite or "error", missing_chunks=missing_chunks, as_fitted=non_finite is None,
            )  # fmt: skip
            return command(*args, data=data, **kwargs)

        return with_options(run, _declarations_of_input(weights=weights, labels=labels, errors=errors))

    return declare


def data_options(command: Command) -> Any:
    """Declare `--data` and what says what it is; the function gets an `Input` as `data`, or None without it."""

    @functools.wraps(command)
    def run(*args: Any, data: Any, **kwargs: Any) -> Any:
        if data.location is None:
            source = click.get_current_context().get_parameter_source
            beside = ("columns", "array", "features", "weights", "weights_array", "non_finite", "missing_chunks")
            for name in beside:
                if source(name) not in (None, ParameterSource.DEFAULT):
                    flag = f"--{name.replace('_', '-')}"
                    raise OptionError(flag, "come with --data", "no --data", "Name the rows that it is about.")
        return command(*args, data=None if data.location is None else data, **kwargs)

    declare = option(
        "--data",
        "input",
        metavar="INPUT",
        section="Input",
        help="Rows to draw the corner plot over: one pass takes a sample of them. Default: none.",
    )
    return declare(input_options(weights=True)(run))


#: The options that say what INPUT is: of what (of every one, or what a command may ask for), flag, metavar, and help.
_OF_INPUT: tuple[tuple[str, str, str | None, str, dict[str, Any]], ...] = (
    ("", "--columns", "NAMES",
     "Columns of INPUT that are the features, such as ra,dec or z_*; !id leaves one out. Names with commas stand in "
     "double quotes. Default: all but the weights, or those that MODEL was fitted to.",
     {"type": _Parsed("columns", _names), "multiple": True}),
    ("", "--array", "NAME", "Array to take, where INPUT is a Zarr group or an HDF5 file.", {}),
    ("", "--features", "NAME",
     "Dimension along which the features lie, where the dimensions of INPUT have names.", {}),
    ("weights", "--weights", "COLUMN|PLACE",
     "A weight for each row: a column of INPUT, or the path or URL of an array of shape (rows,). 2 counts a row twice, "
     "0 leaves it out.", {}),
    ("weights", "--weights-array", "NAME", "Array to take, where --weights is a Zarr group.", {}),
    ("labels", "--labels", "COLUMN|PLACE",
     "The class of each row, a whole number, and -1 where nobody knows: a column of INPUT, or the path or URL of an "
     "array of shape (rows,). Component 0 is class 0, and so on.", {}),
    ("labels", "--labels-array", "NAME", "Array to take, where --labels is a Zarr group.", {}),
    ("errors", "--errors", "COLUMNS|PLACE",
     "Standard deviations of the measurement errors, not variances: columns of INPUT in the order of the features, as "
     "e_ra,e_dec; or the path or URL of an array, (rows, features), or of covariances, (rows, features^2), or their "
     "upper triangles row by row. What is (features,) or (features, features) holds for all rows. MODEL is of the "
     "true values.", {}),
    ("", "--missing-chunks", None,
     "What to do about a chunk that is missing from a Zarr store. error: stop. fill: read the array's fill value, for "
     "writers that leave out chunks of nothing else.",
     {"type": click.Choice(["error", "fill"]), "default": "error", "show_default": True}),
    ("", "--non-finite", None,
     "What to do with rows that hold a NaN or an infinity. error: stop. drop: leave them out. marginalize: a NaN is a "
     "value that is missing, and the rest of its row counts.  [default: error, or marginalize with a model that was "
     "fitted so]", {"type": click.Choice(["error", "drop", "marginalize"]), "default": None}),
)  # fmt: skip


def _declarations_of_input(**asked: bool) -> list[Callable[[Any], Any]]:
    """Return the declarations to click of the options that say what INPUT is, and what else a command asks for."""
    return [
        option(flag, metavar=metavar, section="Input", help=text, **more)
        for of, flag, metavar, text, more in _OF_INPUT
        if not of or asked[of]
    ]


def cluster_options(command: Callable[..., Any]) -> Any:
    """Declare the options that say where to run; the function gets a `Place` as `cluster`.

    Those of registered places are declared when the command is called (`SectionCommand`).
    """

    @functools.wraps(command)
    def run(*args: Any, **given: Any) -> Any:
        kinds = {"": DaskCluster} | registered_places()
        typed = {name: _list_typed(place, name) for name, place in kinds.items()}
        places = {name: _place(place, name, given) for name, place in kinds.items()}
        chosen = [name for name, flags_typed in typed.items() if flags_typed]
        if len(chosen) > 1:
            raise OptionError(
                "Passes",
                "run in one place",
                f"options of several, {', '.join(typed[name][0] for name in chosen)} among them",
                "Leave those of the others out.",
            )
        return command(*args, cluster=places[chosen[0] if chosen else ""], **given)

    run.further_options = _options_of_places  # type: ignore[attr-defined]
    return with_options(run, _options_of("", DaskCluster))


def _options_of(name: str, place: type[Place]) -> list[Callable[[Any], Any]]:
    """Return the declarations to click of the options of a place."""
    known = {own: found for own, found in declared(place).items() if found[1].flag}
    return [declared_option(_parameter(name, own), *found) for own, found in known.items()]


def _options_of_places() -> list[click.Parameter]:
    """Return the options of all places that are registered by now."""

    def command() -> None:
        """Hold them."""

    for name, place in registered_places().items():
        with_options(command, _options_of(name, place))
    return list(reversed(getattr(command, "__click_params__", [])))


def _parameter(place: str, name: str) -> str:
    return f"{place}_{name}" if place else name


def _list_typed(place: type[Place], name: str) -> list[str]:
    """Return the options of a place that were typed, or stand in a file."""
    source = click.get_current_context().get_parameter_source
    return [
        option.flag
        for own, (_, option) in declared(place).items()
        if option.flag and source(_parameter(name, own)) not in (None, ParameterSource.DEFAULT)
    ]


def _place(place: type[Place], name: str, given: dict[str, Any]) -> Place:
    """Return a place of what was typed, which is taken out of `given`."""
    known = {own: found for own, found in declared(place).items() if found[1].flag}
    return place(**{own: typed_value(given.pop(_parameter(name, own)), *found) for own, found in known.items()})


def _log_as(ctx: click.Context, param: click.Parameter, log_format: str) -> None:
    from daskgmm.cli.terminal import log_as

    log_as(log_format)


def log_options(command: Callable[..., Any]) -> Any:
    """Declare what every command has; `group` acts on them, and the result of the function is written."""

    @functools.wraps(command)
    def run(*args: Any, result: str | None, accept_not_converged: bool = False, **kwargs: Any) -> None:
        from daskgmm.cli.results import check_result_place, write_result

        check_result_place(result, click.get_current_context())
        found = command(*args, **kwargs)
        write_result(found, result)
        unfinished = found.get("converged") is False and found["command"] in ("fit", "select", "update", "mstep")
        if unfinished and not accept_not_converged:
            raise click.exceptions.Exit(3)

    section = "Log and help"
    return with_options(
        run,
        [
            option(
                "--result",
                metavar="FILE",
                section=section,
                help="Write the result, which stdout gets, to a file too, such as result.json. An older one is removed "
                "first.",
            ),
            option(
                "--config",
                metavar="FILE",
                is_eager=True,
                expose_value=False,
                callback=apply_config,
                section=section,
                help="Read options from a TOML file, with lines such as memory_limit = '2GiB', below [fit] for it. "
                "Options that are typed take precedence, and before the file so does the environment, by names such as "
                "DASKGMM_FIT_MEMORY_LIMIT. Paths in it are relative to the working directory.",
            ),
            option(
                "--log-format",
                type=click.Choice(["text", "json"]),
                default="text",
                show_default=True,
                expose_value=False,
                callback=_log_as,
                section=section,
                help="Format of the log on stderr. text: for people. json: one JSON object a line.",
            ),
            option(
                "--debug", is_flag=True, expose_value=False, section=section, help="Show the traceback of an error."
            ),
        ],
    )


def with_options(run: Callable[..., Any], options: list[Callable[..., Any]]) -> Any:
    """Return a command with options, in the order in which the help lists them."""
    for declare in reversed(options):
        run = declare(run)
    return run


def output_option(metavar: str, what: str) -> Callable[[Command], Command]:
    """Return the decorator that declares where a command writes its result."""
    return option("-o", "--output", required=True, section="Output", metavar=metavar, help=f"Where to write {what}.")


keep_option = option(
    "--keep",
    type=_Parsed("columns", _names),
    multiple=True,
    metavar="NAMES",
    section="Prediction",
    help="Columns of INPUT to write before the predictions, where both are Parquet, such as id,ra,dec or *; !z leaves "
    "one out. They keep their types; an index of pandas, all of whose columns are among them, stays one.",
)


def kept_names(keep: tuple[tuple[str, ...], ...]) -> list[str] | None:
    """Return what was typed for `--keep`, once or several times; None where it was not."""
    return [name for line in keep for name in line] or None


force_option = option(
    "--force",
    is_flag=True,
    section="Output",
    help="Replace an existing output, and discard a checkpoint of other work.",
)
