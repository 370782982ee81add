"""A given mixture adapted to rows: the options of the fit that does it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from numbers import Real
from typing import Any

import numpy as np

from daskgmm.errors import OptionError, as_typed
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.prior_options import FIXABLE
from daskgmm.mixture.noise import refuse_noise
from daskgmm.mixture.parameters import Parameters


def adaptation(p: Parameters, *, relevance: float, adapt: Collection[str]) -> dict[str, Any]:
    """Return the options, by their names, of the fit that adapts a mixture: maximum a posteriori about its own values.

    Parameters
    ----------
    p : Parameters
        The mixture, which the fit starts from.
    relevance : float
        How many rows what is known of each component counts as.
    adapt : collection of {"weights", "means", "covariances"}
        What changes; the rest is fixed.

    Notes
    -----
    Of n rows with the mean x the new mean is (n x + r mu) / (n + r), with r the relevance (Reynolds, Quatieri and Dunn
    2000, doi:10.1006/dspr.1999.0361); a covariance (W + r Sigma + B) / (n + r), and a weight in proportion to n + r w.
    """
    refuse_noise(p.noise, "whose weight takes its share of those that stay")
    if not isinstance(relevance, Real) or isinstance(relevance, bool) or not 0 < float(relevance) < np.inf:
        raise OptionError("`relevance`", "be a number above 0", repr(relevance), "Take 16.")
    if isinstance(adapt, str) or not adapt or not set(adapt) <= set(FIXABLE):
        must = f"name some of {', '.join(FIXABLE)}"
        raise OptionError("`adapt`", must, repr(adapt), "Take `('means',)`.", typed=as_typed(adapt))
    k, shape, r = p.n_components, p.shape, float(relevance)
    options: dict[str, Any] = {
        "n_components": k, "covariance_type": p.family.name, "reg_covar": 0.0,
        "weights_init": p.weights, "means_init": p.means, "precisions_init": p.precisions,
        "fixed": {name: True for name in FIXABLE if name not in adapt} or None,
    }  # fmt: skip
    if "weights" in adapt:
        options["weight_concentration_prior"] = 1 + r * p.weights
    if "means" in adapt:
        options |= {"mean_prior": p.means, "mean_precision_prior": r}
    if "covariances" in adapt:
        order, draws = shape.wishart(p.n_features)
        rows = draws * shape.row_sums(np.full(k, r))
        of_means = draws * shape.row_sums(np.full(k, float("means" in adapt)))
        degrees = rows - order - 1 - of_means
        if not (degrees > order - 1).all():
            least = (2 * order + of_means[0]) / (draws * shape.row_sums(np.ones(k))[0])
            raise OptionError(
                "`relevance`",
                f"be above {least:.6g} where covariances of {p.n_features} features are adapted",
                f"{r:g}",
                "Take a larger one, or adapt means and weights alone.",
            )
        options |= {"covariance_prior": shape.times(rows, p.covariances), "degrees_of_freedom_prior": degrees}
    return options


def adapting(p: Parameters, how: Mapping[str, Any], *, relevance: float, adapt: Collection[str]) -> FitOptions:
    """Return the options of a fit that adapts a mixture, with others beside these."""
    return FitOptions(**{**how, **adaptation(p, relevance=relevance, adapt=adapt)})
