"""What a fit knows of its parameters beforehand, made of the options and the survey of all rows: before any M-step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from daskgmm.errors import CollapsedComponentError, OptionError
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.prior_options import FIXABLE, relative_share
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.conjugate import Conjugate
from daskgmm.mixture.fixed import Fixed
from daskgmm.mixture.floor import Floor
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.row_set import RowSet
from daskgmm.mixture.scaling import Scaling

#: The strength of a weak prior on means, rows (Fraley and Raftery 2007).
WEAK_ROWS = 0.01


def needs_scatter(options: Sequence[FitOptions]) -> bool:
    """Return whether the survey must find the rows' covariance, not their variances alone."""
    return any(
        _is_matrix(o) and (_is_weak(o.covariance_prior) or relative_share(o.covariance_floor) is not None)
        for o in options
    )


def check_known(options: FitOptions, n_features: int) -> None:
    """Raise an OptionError for arrays of another shape, or no prior: all that is known before anything is read."""
    if not (options.has_prior or options.fixed or options.covariance_floor is not None):
        return  # (nor is a matrix made, of many features)
    rows = RowSet(2, 2.0, np.zeros(n_features), np.eye(n_features))
    settled(options, rows)


def settled(
    options: FitOptions, rows: RowSet, *, scaling: Scaling | None = None, warm: Parameters | None = None
) -> FitOptions:
    """Return the options with what they say of the parameters, of all rows of the fit.

    Parameters
    ----------
    rows : RowSet
        As passes see them; with `needs_scatter` its scatter is a matrix.
    scaling : Scaling or None
        How rows are mapped, where they are.
    warm : Parameters or None
        A mixture to go on from: where it has what is fixed already, that keeps its bits.
    """
    known = _conjugate(options, rows, warm) if options.has_prior or options.fixed else None
    floor = None if options.covariance_floor is None else _floor(options, rows, scaling)
    return options if known is None and floor is None else replace(options, known=known, least=floor)


def _conjugate(options: FitOptions, rows: RowSet, warm: Parameters | None) -> Conjugate:
    o, k, d = options, options.n_components, len(rows.mean)
    weak = _is_weak(o.covariance_prior)
    kappa = o.mean_precision_prior if o.mean_precision_prior is not None else WEAK_ROWS if weak else 0.0
    mean = o.mean_prior if o.mean_prior is not None else rows.mean
    alpha, scale = o.weight_concentration_prior, None
    nu: Floats | None = None
    if o.covariance_prior is not None:
        order, _ = o.family.shape.wishart(d)
        n_own = len(o.family.shape.row_sums(np.ones(k)))
        degrees = d + 2.0 if o.degrees_of_freedom_prior is None else o.degrees_of_freedom_prior
        nu = _each("degrees_of_freedom_prior", degrees, (n_own,), ((), (n_own,)))
        if not (nu > order - 1).all():
            _refuse(
                "degrees_of_freedom_prior", f"be above {order - 1}, as {order} features need", f"{nu.min():g}",
                "Leave it out for the number of features + 2.",
            )  # fmt: skip
        scale = _scale(o, rows, weak=weak)
    return Conjugate(
        None if alpha is None else _each("weight_concentration_prior", alpha, (k,), ((), (k,))),
        _each("mean_precision_prior", kappa, (k,), ((), (k,))),
        _each("mean_prior", mean, (k, d), ((), (d,), (k, d))),
        nu,
        scale,
        _fixed(o, d, warm),
    )


def _scale(options: FitOptions, rows: RowSet, *, weak: bool) -> Floats:
    """Return the scale of the prior on covariances, in their shape."""
    k, d, shape = options.n_components, len(rows.mean), options.family.shape
    form = shape.array_shape(k, d)
    if weak:
        whole = _whole("covariance_prior", options, rows) / k ** (2 / d)
        return np.array(np.broadcast_to(whole, form))
    found = _covariances("covariance_prior", options.covariance_prior, options, d)
    return np.array(np.broadcast_to(found, form))


def _floor(options: FitOptions, rows: RowSet, scaling: Scaling | None) -> Floor:
    d, shape = len(rows.mean), options.family.shape
    share = relative_share(options.covariance_floor)
    if share is not None:
        whole = share * _whole("covariance_floor", options, rows)
    else:
        whole = _covariances("covariance_floor", options.covariance_floor, options, d)
        if scaling is not None:
            whole = shape.rescaled(whole, whole, 1 / scaling.scale)[0]
    return Floor(whole)


def _whole(name: str, options: FitOptions, rows: RowSet) -> Floats:
    """Return the covariance of all rows, unbiased, in the shape of one component's; an OptionError if singular.

    Of rows with gaps it is that of their features alone, as if these were independent.
    """
    d, shape = len(rows.mean), options.family.shape
    form = shape.array_shape(1, d)
    found = rows.scatter / rows.weight if _is_matrix(options) else rows.variances
    if _is_matrix(options) and found.ndim == 1:  # (of rows with gaps: each feature's own)
        found = np.diag(found)
    if rows.weight > 1:
        found = found * (rows.weight / (rows.weight - 1))
    found = np.reshape(found.mean() if np.prod(form) == 1 else found, form)
    try:
        shape.precisions_cholesky(found)
    except CollapsedComponentError as error:
        raise OptionError(
            f"`{name}`",
            "be of rows whose covariance is positive definite",
            "rows whose covariance is singular",
            "Drop the features that are constant or follow from others, or give a number.",
        ) from error
    return found


def _covariances(name: str, value: Any, options: FitOptions, n_features: int) -> Floats:
    """Return given covariances of one component, or of each, in their shape; an OptionError where they are none."""
    k, shape = options.n_components, options.family.shape
    one, each = shape.array_shape(1, n_features), shape.array_shape(k, n_features)
    found = np.asarray(value, dtype=np.float64)
    alone = one if _is_matrix(options) and len(one) == 2 else one[1:]  # (that of a component, not of one of many)
    if found.shape == () and alone:
        found = found * (np.eye(n_features) if _is_matrix(options) else np.ones(n_features))
    elif found.shape == (n_features,) and _is_matrix(options):
        found = np.diag(found)
    elif found.shape == (n_features, n_features) and not _is_matrix(options) and _is_diagonal(found) and alone:
        found = np.diagonal(found)
    allowed = [alone] if name == "covariance_floor" else list(dict.fromkeys([alone, each]))
    if found.shape not in allowed:
        _refuse(name, f"have shape {' or '.join(map(str, [(), *allowed]))}", found.shape, _OF_SHAPE)
    whole = np.reshape(found, one) if found.shape == alone else found
    shape.check_definite(whole, name)
    return whole


_OF_SHAPE = "The shape follows `n_components`, the number of features and `covariance_type`."


def _fixed(options: FitOptions, n_features: int, warm: Parameters | None) -> Fixed | None:
    """Return what is fixed, at the values that were given."""
    if not options.fixed:
        return None
    k, given, family = options.n_components, options.given(n_features), options.family
    masks = {name: np.broadcast_to(options.fixed.get(name, False), k).astype(bool) for name in FIXABLE}
    weights = given.weights if given.weights is not None else np.full(k, 1 / k)
    means = given.means if given.means is not None else np.zeros((k, n_features))
    if given.precisions is None:
        covariances = np.ones(family.shape.array_shape(k, n_features))
        values = Parameters(family, weights, means, covariances, covariances)
    else:
        cholesky = family.shape.cholesky_of_precisions(given.precisions)
        values = Parameters(family, weights, means, family.shape.covariances(cholesky), cholesky)
        if warm is not None and np.allclose(warm.precisions_cholesky, cholesky, rtol=1e-9, atol=0):
            values = replace(values, covariances=warm.covariances, precisions_cholesky=warm.precisions_cholesky)
    if masks["weights"].any() and not masks["weights"].all() and not weights[masks["weights"]].sum() < 1:
        _refuse("fixed", "leave some weight to the others", "a sum of 1", "Fix all weights, or smaller ones.")
    return Fixed(values, masks["weights"], masks["means"], masks["covariances"])


def _each(name: str, value: Any, shape: tuple[int, ...], allowed: Sequence[tuple[int, ...]]) -> Floats:
    """Return a number or an array of an allowed shape, as one a component."""
    found = np.asarray(value, dtype=np.float64)
    if found.shape not in allowed:
        _refuse(name, f"have shape {' or '.join(map(str, dict.fromkeys(allowed)))}", found.shape, _OF_SHAPE)
    return np.array(np.broadcast_to(found, shape))


def _refuse(name: str, must: str, got: object, remedy: str) -> None:
    raise OptionError(f"`{name}`", must, got, remedy)


def _is_weak(value: Any) -> bool:
    return isinstance(value, str) and value == "weak"


def _is_matrix(options: FitOptions) -> bool:
    """Return whether a covariance is a matrix."""
    return options.family.shape.wishart(2)[0] == 2


def _is_diagonal(matrix: Floats) -> bool:
    return bool((matrix == np.diag(np.diagonal(matrix))).all())
