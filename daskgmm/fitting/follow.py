"""New rows after old ones: which mixtures their moments follow from, so that an update need not read these again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from numbers import Real
from typing import Any

import numpy as np

from daskgmm.errors import OptionError, as_typed
from daskgmm.fitting.device_options import DeviceOptions
from daskgmm.fitting.main_options import MainOptions
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.options_json import from_json
from daskgmm.fitting.seen import Past, Seen
from daskgmm.mixture.family import Family
from daskgmm.mixture.old_rows import OldRows
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.prior import Ridge
from daskgmm.mixture.record import Record
from daskgmm.stores.model_record import support_in

_REMEDY = "Fit old and new rows together: `fit`."


def following(options: FitOptions, past: Past) -> FitOptions:
    """Return the options of a fit to new rows, of which the old ones are the prior.

    Raises
    ------
    OptionError
        The moments of the old rows do not follow from their mixture; or the options are for another one.
    """
    p, kept = past.parameters, past.kept
    if (options.family.name, options.n_components) != (p.family.name, p.n_components):
        raise OptionError(
            "the mixture",
            f"have {options.n_components} {options.family.name} components, to go on with",
            f"{p.n_components} {p.family.name} ones",
            f"Set `n_components` and `covariance_type` as they were. Or {_REMEDY[0].lower()}{_REMEDY[1:]}",
        )
    if not kept.weight > 0:
        return options
    refuse_beside(past.about)
    check_follows(options)
    if not np.isfinite(kept.floor):
        raise _refused("the fit", "be without priors and standardized features", "one with some of them")
    return replace(options, prior=OldRows.of(p, weight=kept.weight, floor=kept.floor))


def refuse_beside(about: Mapping[str, Any]) -> None:
    """Raise an OptionError for a mixture of rows with errors or labels, of which no new rows tell.

    `about` is what there was beside the rows that it was fitted to.
    """
    found = {"errors": about.get("errors"), "labels": about.get("rows_by_class")}
    for name in (name for name, value in found.items() if value is not None):
        raise OptionError(
            "a model that new rows update",
            f"be of rows without `{name}`",
            "one of rows with them",
            f"Fit old and new rows together, as one input, with `{name}`.",
        )


def floor_of(options: FitOptions) -> float:
    """Return what an M-step adds to every variance, in squared units; NaN where its moments do not follow from it."""
    if isinstance(options.prior, OldRows):
        options = replace(options, prior=None)
    try:
        check_follows(options)
    except OptionError:
        return np.nan
    return options.whole_prior.floor


def options_in(record: Mapping[str, Any], parameters: Parameters) -> FitOptions:
    """Return the options of the fit that the record of a model file tells of; any exception where it is damaged."""
    known = {f.name for f in fields(FitOptions)}
    stored = {name: from_json(value) for name, value in dict(record["options"]).items() if name in known}
    named = {"n_components": parameters.n_components, "covariance_type": parameters.family.name}
    return FitOptions(**{**stored, **named})


def seen_in(record: Mapping[str, Any], parameters: Parameters) -> Seen | None:
    """Return the rows that the record of a model file tells of; None where it does not know how many.

    Any exception where it is damaged. What a command of an earlier version wrote tells all but how much the rows vary.
    """
    if record.get("seen") is not None:
        return Seen.from_json(record["seen"], parameters.n_components)
    p, result = parameters, record.get("result") or {}
    if not {"weight", "rows", "log_likelihood"} <= set(result):
        return None
    weight, nats = float(result["weight"]), support_in(record, p.n_components).nats
    others = (1.0 - np.eye(p.n_components)) @ p.weights
    with np.errstate(divide="ignore"):
        lost = np.where(np.isfinite(nats) & (others > 0), nats - weight * np.log(others), 0.0)
    sure = (result["bic"] - result["icl"]) / 2 if {"bic", "icl"} <= set(result) else np.nan
    floor = floor_of(options_in(record, p))
    counts = weight * p.weights
    return Seen(float(result["rows"]), weight, float(result["log_likelihood"]), sure, np.nan, lost, counts, floor)


def check_follows(options: FitOptions) -> None:
    """Raise an OptionError unless an M-step under these options gives its moments as parameters, and nothing else."""
    family = options.family
    if type(family).maximise is not Family.maximise:
        raise _refused("`covariance_type`", "be one with all covariances of its shape (full, diag)", family.name)
    if options.standardize:
        raise _refused(
            "`standardize`",
            "be `False`",
            "True: what is added to variances is then in other units",
            typed="it: what is added to variances is then in other units",
        )
    known = {f.name for f in (*fields(MainOptions), *fields(DeviceOptions))}
    for f in fields(options):
        value, default = getattr(options, f.name), f.default
        same = value is default or (_is_plain(value) and value == default)
        if f.name not in known and not same:
            raise _refused(f"`{f.name}`", f"be `{f.default!r}`", f"{value!r:.60}", typed=f"{as_typed(value):.60}")
    if options.prior is not None or not isinstance(options.whole_prior, Ridge):
        raise _refused("`prior`", "be `None`", "one, and what it added would count as rows")
    if isinstance(options.kernel, Record):
        raise _refused("`kernel`", "be one of rule, phi, exact", f"{options.kernel!r:.60}")


def _is_plain(value: Any) -> bool:
    return isinstance(value, Real | str | tuple)  # (what compares as one truth)


def check_forgetting(forgetting: Any) -> float:
    """Return the share of the old rows that is forgotten, checked."""
    number = isinstance(forgetting, Real) and not isinstance(forgetting, bool)
    if not number or not 0 <= forgetting <= 1:
        raise OptionError("`forgetting`", "be 0 (all old rows count) to 1 (none does)", repr(forgetting))
    return float(forgetting)


def unknown_rows(who: str) -> OptionError:
    """Return the error that says that nobody knows how many rows a mixture is of."""
    return OptionError(
        who,
        "know how many rows it was fitted to",
        "a mixture without that: of arrays, of scikit-learn, or saved by an earlier version",
        _REMEDY,
    )


def _refused(argument: str, requirement: str, got: str, *, typed: str = "") -> OptionError:
    return OptionError(f"{argument} of a model that new rows update", requirement, got, _REMEDY, typed=typed)
