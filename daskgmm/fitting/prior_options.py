"""The options that say what is known of the parameters beforehand, declared: priors, what is fixed, and a floor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from daskgmm.fitting.option import Option, declare
from daskgmm.fitting.typed import fixed_parts, numbers, numbers_of
from daskgmm.mixture.record import Record

#: What of a mixture may be fixed, and the option that says at which values.
FIXABLE = {"weights": "weights_init", "means": "means_init", "covariances": "precisions_init"}
#: The options of a prior on the parameters.
PRIORS = (
    "weight_concentration_prior", "mean_precision_prior", "mean_prior", "degrees_of_freedom_prior", "covariance_prior",
)  # fmt: skip
#: What to do about covariances of which some are fixed.
_ALL = "Fix all of them, or none."
_RELATIVE = re.compile(r"relative\s+(\S+)")


def relative_share(value: Any) -> float | None:
    """Return the share of the rows' covariance that a floor is, of "relative 1e-4"; None where it is another floor."""
    found = _RELATIVE.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        return float(found[1]) if found else None
    except ValueError:
        return None


def _covariance_prior(text: str) -> Any:
    return text if text == "weak" else numbers(text)


def _covariance_floor(text: str) -> Any:
    return text if relative_share(text) is not None else numbers(text)


def _numbers(value: Any, least: float, *, above: bool = False) -> bool:
    """Return whether a value is a number, or an array of them, each finite and of at least so much."""
    import numpy as np

    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    high = found > least if above else found >= least
    return bool(found.size and np.isfinite(found).all() and high.all()) and not isinstance(value, str | bool)


def _clash(options: Any, value: Any) -> str | tuple[str, str]:
    """Return what a prior must be beside other options, and what to do; "" where they go together."""
    if value is None:
        return ""
    if options.prior is not None:
        return "`None` with a `prior` of yours, which says all that is known", "Leave one of them out."
    if options.standardize is True:
        return "`None` with `standardize`: it is in units of the data", "Leave one of them out."
    if not options.family.is_whole:
        return _of_plain(options)
    return ""


def _of_plain(options: Any) -> tuple[str, str]:
    must = f"`None` with `covariance_type` {options.family.name}: it is for full, tied, diag and spherical"
    return must, "Leave it out, or take one of these."


def _at_least(least: float, words: str, *, above: bool = False) -> Any:
    def rule(options: Any, value: Any) -> str | tuple[str, str]:
        fine = value is None or _numbers(value, least, above=above)
        return _clash(options, value) if fine else f"`None` or {words}, one for all or one a component"

    return rule


def _mean_rule(options: Any, value: Any) -> str | tuple[str, str]:
    weak = isinstance(options.covariance_prior, str)
    if value is not None and options.mean_precision_prior is None and not weak:
        return "left out without `mean_precision_prior`, which says how many rows it counts as"
    fine = value is None or _numbers(value, float("-inf"))
    return (
        _clash(options, value) if fine else "`None` or finite numbers, `(n_features,)` or `(n_components, n_features)`"
    )


def _degrees_rule(options: Any, value: Any) -> str | tuple[str, str]:
    if value is not None and options.covariance_prior is None:
        return "left out without `covariance_prior`, whose it is"
    found: str | tuple[str, str] = _at_least(0, "finite numbers above 0", above=True)(options, value)
    return found


def _covariance_rule(options: Any, value: Any) -> str | tuple[str, str]:
    named = isinstance(value, str) and value == "weak"
    fine = value is None or named or (not isinstance(value, str) and _numbers(value, float("-inf")))
    return _clash(options, value) if fine else "`None`, weak, a positive number or an array of covariances"


def _floor_rule(options: Any, value: Any) -> str | tuple[str, str]:
    if value is None:
        return ""
    share = relative_share(value)
    fine = (share is not None and 0 < share < 1) or (not isinstance(value, str) and _numbers(value, float("-inf")))
    if not fine or (isinstance(value, Real) and not float(value) > 0):
        return "`None`, a positive number, a positive definite matrix, or a share of the rows' as in relative 1e-4"
    if not options.family.is_whole:
        return _of_plain(options)
    return ""


def _fixed_rule(options: Any, value: Any) -> str | tuple[str, str]:
    if value is None:
        return ""
    if not isinstance(value, Mapping) or not value or not set(value) <= set(FIXABLE):
        return f"`None`, or `a dict of True or a mask (n_components,) for` {', '.join(FIXABLE)}"
    for name, mask in value.items():
        if mask is not True and not _is_mask(mask, options.n_components):
            return f"of {options.n_components} truths, one a component, for {name}"
        if getattr(options, FIXABLE[name]) is None and (mask is True or any(mask)):
            return f"about given values: `{FIXABLE[name]}` says at which the {name} are fixed"
    if options.prior is not None or options.standardize is True:
        other = "`standardize`" if options.standardize is True else "a `prior` of yours"
        return f"`None` with {other}", "Leave one of them out."
    mask = value.get("weights")
    if options.noise and mask is not None and (mask is True or any(mask)):
        return "without weights where there is `noise`, which takes its share of all of them", "Leave one of them out."
    mask = value.get("covariances")
    if mask is not None and mask is not True and any(mask) and not all(mask):
        if not options.family.is_whole:
            return f"all or none of the covariances with `covariance_type` {options.family.name}", _ALL
        if options.family.is_common:
            return f"all or none of the covariances with `covariance_type` {options.family.name}, which has one", _ALL
    return ""


def _is_mask(mask: Any, n_components: int) -> bool:
    import numpy as np

    found = np.asarray(mask)
    return found.shape == (n_components,) and found.dtype == bool


@dataclass(frozen=True)
class PriorOptions(Record):
    """What is known of the parameters beforehand.

    Attributes
    ----------
    weight_concentration_prior : float or (n_components,), or None
        Of a Dirichlet prior on the weights: each component has had so many rows more, less one.
    mean_precision_prior : float or (n_components,), or None
        How many rows the prior on a mean counts as.
    mean_prior : (n_features,) or (n_components, n_features), or None
        Where the means are expected; None for the mean of the rows.
    degrees_of_freedom_prior : float or (n_components,), or None
        Of the inverse Wishart prior on covariances; None for n_features + 2.
    covariance_prior : "weak", float or array, or None
        Its scale, a sum of squares: the covariances of the prior alone times their degrees of freedom.
    covariance_floor : float or array, "relative 1e-4", or None
        What no covariance is below; it takes the place of the ridge.
    fixed : dict, or None
        Which of the given weights, means and covariances stay as they are.
    """

    covariance_prior: Any = declare(
        None,
        Option(
            help="Keep covariances from closing in on few rows: weak, a little of the rows' own covariance (Fraley and "
            "Raftery 2007); or a scale in squared units.",
            flag="--covariance-prior", section="Priors", metavar="weak|FLOAT", parse=_covariance_prior,
            rule=_covariance_rule, remedy="Take weak, or leave it out.",
        ),
    )  # fmt: skip
    mean_precision_prior: Any = declare(
        None,
        Option(
            help="How many rows the prior on means, the rows' mean, counts as.", flag="--mean-precision-prior",
            section="Priors", metavar="ROWS", parse=numbers, rule=_at_least(0, "numbers of at least 0"),
            default_text="0.01 with --covariance-prior weak, else none", remedy="Take 0.01, or leave it out.",
        ),
    )  # fmt: skip
    mean_prior: Any = declare(
        None,
        Option(
            help="Where means are expected: one row for all components, or one a component.", flag="--mean-prior",
            section="Priors", metavar="NUMBERS|FILE", parse=numbers_of("means"), rule=_mean_rule,
            default_text="the rows' mean", remedy="Leave it out for the rows' mean.",
        ),
    )  # fmt: skip
    degrees_of_freedom_prior: Any = declare(
        None,
        Option(
            help="Degrees of freedom of the prior on covariances.", flag="--degrees-of-freedom-prior",
            section="Priors", metavar="FLOAT", parse=numbers, rule=_degrees_rule, default_text="features + 2",
            remedy="Leave it out for the number of features + 2.",
        ),
    )  # fmt: skip
    weight_concentration_prior: Any = declare(
        None,
        Option(
            help="Of the prior on weights: one more than the rows that each component is taken to have had.",
            flag="--weight-concentration-prior", section="Priors", metavar="FLOAT", parse=numbers,
            rule=_at_least(1, "numbers of at least 1"), default_text="none", remedy="1 is no prior.",
        ),
    )  # fmt: skip
    covariance_floor: Any = declare(
        None,
        Option(
            help="What no covariance is below, and nothing is added to variances then: a variance in squared units, or "
            "a share of the rows' covariance as in 'relative 1e-4'.",
            flag="--covariance-floor", section="Priors", metavar="FLOAT|'relative FLOAT'", parse=_covariance_floor,
            rule=_floor_rule, default_text="none", remedy="Take relative 1e-4, or leave it out.",
        ),
    )  # fmt: skip
    fixed: Any = declare(
        None,
        Option(
            help="Which given parameters stay as they are, such as weights,covariances; or those of some components, "
            'such as \'{"means": [true, false]}\', as text or a .json file.',
            flag="--fixed", section="Start", metavar="NAMES|FILE", parse=fixed_parts, rule=_fixed_rule,
            default_text="none", remedy="Give for example `{'means': True}` and `means_init`.",
        ),
    )  # fmt: skip
