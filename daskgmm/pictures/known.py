"""What a person should see of a fit beside its numbers: gaps, errors, classes, priors, what is fixed; in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from daskgmm.fitting.prior_options import FIXABLE

#: Features, classes or components that a sentence lists at most; and numbers of an array.
_LISTED, _NUMBERS = 8, 12
_ERRORS = {
    "covariance": "was one covariance of measurement errors for all rows",
    "deviations": "were standard deviations of the measurement errors of each row",
    "covariances": "was a covariance of the measurement errors of each row",
}
_PRIORS = {
    "weight_concentration_prior": "weights of concentration {}",
    "mean_prior": "means expected at {}",
    "mean_precision_prior": "which count as {} rows",
    "degrees_of_freedom_prior": "covariances of {} degrees of freedom",
    "covariance_prior": "their scale is {}",
}


def known_of(record: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return what the record of a model file says, a sentence each; those that apply.

    Parameters
    ----------
    names : sequence of str
        Of the features.
    """
    about, options = record.get("about") or {}, record.get("options") or {}
    return [
        *_of_gaps(about, names),
        *([f"The mixture is that of true values: there {_ERRORS[about['errors']]}."] if "errors" in about else []),
        *_of_classes(about),
        *_of_prior(about, options),
        *_of_fixed(options.get("fixed") or {}),
        *_of_floor(options.get("covariance_floor")),
    ]


def _of_gaps(about: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    if not about.get("incomplete_rows"):
        return []
    by = sorted(zip(about["missing_shares"], names, strict=True), key=lambda one: -one[0])
    listed = _listed([f"{name} {share:.1%}" for share, name in by if share > 0])
    return [f"{about['incomplete_rows']:,} rows have gaps, and count by what they have. Missing: {listed}."]


def _of_classes(about: Mapping[str, Any]) -> list[str]:
    if "rows_by_class" not in about:
        return []
    listed = _listed([f"{n:,.6g} of class {k}" for k, n in enumerate(about["rows_by_class"]) if n])
    return [f"Rows of known classes: {listed or 'none'}; {about['unlabelled_rows']:,.6g} of unknown class."]


def _of_prior(about: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    if "prior" not in about:
        return []
    found = [form.format(_shown(about["prior"][name])) for name, form in _PRIORS.items() if name in about["prior"]]
    weak = "weak prior" if options.get("covariance_prior") == "weak" else "prior"
    return [f"There is a {weak}: {'; '.join(found)}. Its log density is {about['log_prior']:,.2f} nats."]


def _of_fixed(fixed: Mapping[str, Any]) -> list[str]:
    found = []
    for name in FIXABLE:
        mask = fixed.get(name)
        if mask is True or (mask and all(mask)):
            found.append(f"all {name}")
        elif mask and any(mask):
            which = [str(k) for k in np.flatnonzero(mask)]
            found.append(f"the {name} of component{'s' if len(which) > 1 else ''} {_listed(which)}")
    return [f"As they were given stay {' and '.join(found)}."] if found else []


def _of_floor(floor: Any) -> list[str]:
    if floor is None:
        return []
    least = f"{floor.split()[1]} times the covariance of all rows" if isinstance(floor, str) else _shown(floor)
    return [f"No covariance is below {least}."]


def _shown(value: Any) -> str:
    """Return a number or a short array of JSON's for a person."""
    array = np.asarray(value, dtype=np.float64) if value is not None else np.empty(_NUMBERS + 1)
    if array.size > _NUMBERS:
        return "as the model file says"
    return f"{float(array):.4g}" if array.ndim == 0 else str([_rounded(one) for one in array.tolist()]).replace("'", "")


def _rounded(value: Any) -> Any:
    return [_rounded(one) for one in value] if isinstance(value, list) else f"{value:.4g}"


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - _LISTED} more" if len(words) > _LISTED else ""
    return ", ".join(words[:_LISTED]) + more
