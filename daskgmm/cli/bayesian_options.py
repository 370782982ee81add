"""The options of `fit` that ask for variational Bayes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import field, fields
from typing import Any

from daskgmm.cli.options import declared_option, typed_value, with_options
from daskgmm.errors import OptionError
from daskgmm.fitting.bayesian_options import BayesianOptions
from daskgmm.fitting.option import declared, flags
from daskgmm.fitting.options import FitOptions

#: The option that asks for it; without it the others here ask for nothing.
_TYPE = "weight_concentration_prior_type"


def bayesian_options(command: Callable[..., Any]) -> Any:
    """Declare the options of a prior; the function gets the class of all options as `of`, and theirs within `how`."""
    own = {
        n: found for n, found in declared(BayesianOptions).items() if found[1].flag and n not in declared(FitOptions)
    }

    @functools.wraps(command)
    def run(*args: Any, how: dict[str, Any], **given: Any) -> Any:
        values = {name: typed_value(given.pop(name), *found) for name, found in own.items()}
        if values[_TYPE] is None:
            _refuse(
                [own[name][1].flag for name, value in values.items() if value is not None], without=own[_TYPE][1].flag
            )
            return command(*args, how=how, of=FitOptions, **given)
        offered, names = declared(BayesianOptions), flags(FitOptions)
        others = {f.name: f.default for f in fields(FitOptions) if f.name not in offered}
        _refuse([names[n] for n in how if n in others and how[n] != others[n]], beside=own[_TYPE][1].flag)
        how = {name: value for name, value in how.items() if name not in others}
        return command(*args, how=how | values, of=BayesianOptions, **given)

    # (Here nothing is the default of the type, too: it is what asks for variational Bayes.)
    asked: dict[str, Any] = {
        name: (field(default=None, metadata=f.metadata), option) for name, (f, option) in own.items()
    }
    return with_options(run, [declared_option(name, *found) for name, found in asked.items()])


def _refuse(given: list[str], *, without: str = "", beside: str = "") -> None:
    """Raise an OptionError where one of these options was given."""
    if given:
        where = f"without {without}, whose prior it is part of" if without else f"with {beside}"
        remedy = f"Add {without}." if without else f"Leave {given[0]} or {beside} out."
        raise OptionError(given[0], f"be left out {where}", "it", remedy)
