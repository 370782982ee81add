"""Are new rows like those that a mixture was fitted to: by its own log-likelihoods, and by the shares of components."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import chdtrc, erfc

from daskgmm.fitting.seen import Past, Seen
from daskgmm.mixture.old_rows import OldRows
from daskgmm.mixture.record import plain_json

#: New rows are told to be unlike the old where their mean log-likelihood lies below by so many standard errors, and by
#: so much of the standard deviation of a row: of many rows each difference is sure, however small.
SURE, MUCH = 5.0, 0.25


def drift_of(
    past: Past, new: Seen, old: OldRows | None, *, after: float, has_all_features: bool = True
) -> dict[str, Any]:
    """Return how new rows differ from those before, as JSON.

    Parameters
    ----------
    past : Past
        The mixture before them.
    new : Seen
        The new rows under it.
    old : OldRows or None
        What became of the old rows' components.
    after : float
        Mean log-likelihood of the new rows under the mixture that was fitted to both, nats.
    has_all_features : bool
        Whether each feature has a value in some new row. Log-likelihoods of fewer features are no measure of drift.

    Returns
    -------
    dict
        `rows` and `weight` of the new rows; `mean_before` and `deviation_before`, nats, of the rows before under their
        own mixture; `mean` and `deviation` of the new ones under that, and `mean_after` under the new mixture; `z`,
        (mean - mean_before) / (deviation_before / sqrt(weight)), and `p_value`, two-sided. `components`: `found` and
        `expected` rows of each, z and p_value (binomial); `chi_square` of all of them, with `degrees_of_freedom` and
        `chi_square_p_value`. `moves`: components that were freed for new groups, as [freed, into]. Null where the
        model does not know, and z and its p_value where a feature is wanting altogether.
    """
    before, weight = past.seen, new.weight
    with np.errstate(divide="ignore", invalid="ignore"):
        z = float((new.mean - before.mean) / (before.deviation / np.sqrt(weight))) if has_all_features else np.nan
    shares = past.parameters.weights
    expected = weight * shares
    some = (shares > 0) & (shares < 1)
    spread = np.sqrt(np.where(some, expected * (1 - shares), np.nan))
    each = (new.resp_sums - expected) / spread
    chi_square = float((np.square(new.resp_sums - expected)[some] / expected[some]).sum())
    degrees = max(int(some.sum()) - 1, 0)
    found: dict[str, Any] = plain_json(
        {
            "rows": int(new.n_rows),
            "weight": weight,
            "mean_before": before.mean,
            "deviation_before": before.deviation,
            "mean": new.mean,
            "deviation": new.deviation,
            "mean_after": after,
            "z": z,
            "p_value": _two_sided(z),
            "components": [
                {"found": float(n), "expected": float(e), "z": float(one), "p_value": _two_sided(float(one))}
                for n, e, one in zip(new.resp_sums, expected, each, strict=True)
            ],
            "chi_square": chi_square,
            "degrees_of_freedom": degrees,
            "chi_square_p_value": float(chdtrc(degrees, chi_square)) if degrees else np.nan,
            "moves": [] if old is None else [[j, i] for j, i in zip(old.freed, old.into, strict=True)],
        }
    )
    return found


def said_of(drift: dict[str, Any]) -> Iterator[str]:
    """Yield what a person should know of it, with the remedy."""
    if drift["z"] is None and drift["deviation_before"] is not None:
        return
    if drift["z"] is None:
        yield (
            "The model, of an earlier version, does not know how much the log-likelihoods of its rows vary: this time "
            "there is no z of the drift. From the next update on there is."
        )
        return
    fall = drift["mean_before"] - drift["mean"]
    if not (drift["z"] < -SURE and fall > MUCH * drift["deviation_before"]):
        return
    moves = [f"component {j} is theirs now, and its old rows are component {i}'s" for j, i in drift["moves"]]
    became = f"; {', '.join(moves)}" if moves else ""
    yield (
        f"The new rows are unlike those before: their mean log-likelihood under the old mixture is {drift['mean']:.4g} "
        f"nats, that of the old was {drift['mean_before']:.4g} (z = {drift['z']:.3g}). Under the new mixture it is "
        f"{drift['mean_after']:.4g}{became}. Look at them. "
        "If they are to stay, compare numbers of components on old and new rows together (select)."
    )


def _two_sided(z: float) -> float:
    return float(erfc(abs(z) / np.sqrt(2)))
