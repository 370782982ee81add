"""How a pass computes a candidate: which components by Phi, which by the exact form, and from which origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import OptionError, verbatim
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.shapes.shape import Shape


@dataclass(frozen=True)
class Precision:
    """The arithmetic of the products by Phi, and what the rule lets pass. The exact form is always in float64.

    Attributes
    ----------
    name : {"double", "single"}
    dtype : float64 or float32
    unit_roundoff : float
    tolerance : float
        Largest error of a log-density in units of max(1, q^2), nats (numerically: B_k <= 1e5; single: 2e3).
    hopeless : float
        Where u B_k is above this, no probe is made.
    smallest_log_resp : float
        Responsibilities below exp of this become exact zeros: none is a denormal number, nor a product with one.
    cost : float
        Time of a component by Phi, against double precision.
    count_tolerance : float
        Largest difference between the sum of all responsibilities and the weight of the rows, relative to the latter.
        Measured: 2e-14, and in single precision 1.4e-5, where all rows of a tile add the same number.
    """

    name: str
    dtype: type[np.float64] | type[np.float32]
    unit_roundoff: float
    tolerance: float
    hopeless: float
    smallest_log_resp: float
    cost: float
    count_tolerance: float


DOUBLE = Precision("double", np.float64, 2.0**-53, 1e-10, 1e-3, -100.0, 1.0, 1e-9)
SINGLE = Precision("single", np.float32, 2.0**-24, 1e-3, 1e-2, -60.0, 0.6, 1e-4)
_PRECISIONS = {p.name: p for p in (DOUBLE, SINGLE)}


def precision_called(name: str) -> Precision:
    """Return the precision of this name: double or single."""
    return _PRECISIONS[name]


#: The factor of the bound, and of the probe; 260 random mixtures and real data never exceeded it.
SAFETY = 8.0
#: Features for which products are stacked: above, a component's own is wide enough, and below, as fast.
STACKED_FROM, STACKED_TO = 32, 192


@dataclass(frozen=True)
class Plan:
    """One candidate as the workers see it: what its densities need, and the form of each component.

    Attributes
    ----------
    shape : Shape
        Of the covariances; which of them an M-step may give is no concern of a pass.
    log_weights : (n_components,), float64
    means : (n_components, n_features), float64
    precisions_cholesky : float64, in this shape
    origin : (n_features,), float64
        The point c from which the rows of a component by Phi are measured.
    exact : (n_components,), bool
        Components in the exact form: their sums are about their own mean, in units of their own covariance.
    stacked : (n_components,), bool
        Exact components that are computed together, about the origin: for them that costs no digits that matter.
    common_by_row : bool
        Whether the pass adds the term that all components have in common to each row's log-likelihood, D^2 flops a row.
        Otherwise the total comes from the scatter of the row set, which is free, and exact to u s'|Sigma^-1|s only.
    precision : Precision
    compiled : bool
        Whether compiled loops do what they can. It is decided once for a candidate: last bits depend on it.
    given : (Kernel, (n_components,) bool) or None
        A kernel that the user has given, and the components that it computes; they count as exact.
    log_noise : float or None
        Log of weight times density of the noise, nats: one row more of log-densities, and no sums. None without noise.
    classes : (n_components,), int64, or None
        The class of each component, -1 for none, for rows that come with labels.
    gaps : bool
        Whether rows may have gaps: sums then tell what they were filled with.
    """

    shape: Shape
    log_weights: Floats
    means: Floats
    precisions_cholesky: Floats
    origin: Floats
    exact: NDArray[np.bool_]
    stacked: NDArray[np.bool_]
    common_by_row: bool = False
    precision: Precision = DOUBLE
    compiled: bool = False
    given: tuple[Any, NDArray[np.bool_]] | None = None
    log_noise: float | None = None
    classes: NDArray[np.int64] | None = None
    gaps: bool = False

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return unpacked, (self.shape, self.packed, self.given)

    @property
    def packed(self) -> tuple[Any, ...]:
        """What travels of it beside its shape and a given kernel: arrays, texts and truths.

        Half of a precision Cholesky is zeros; workers derive the rest themselves, once per process.
        """
        return (
            self.log_weights, self.log_noise, self.means, self.shape.pack(self.precisions_cholesky), self.origin,
            self.exact, self.stacked, self.common_by_row, self.precision.name, self.compiled, self.classes, self.gaps,
        )  # fmt: skip

    @property
    def n_components(self) -> int:
        return int(self.means.shape[0])

    @property
    def n_densities(self) -> int:
        """Number of the densities of a row: those of the components and, last, of the noise."""
        return self.n_components + (self.log_noise is not None)

    @cached_property
    def derived(self) -> dict[str, Any]:
        """What kernels derive from the plan, by name: once for each process and pass."""
        return {}

    @cached_property
    def weightless(self) -> tuple[int, ...]:
        """Numbers of the components of weight zero."""
        return tuple(int(k) for k in np.flatnonzero(~np.isfinite(self.log_weights)))

    @property
    def cost(self) -> float:
        """Time of a pass, roughly, in units of a component by Phi in double precision.

        Measured with the compiled kernel for 2 to 100 features: 1.7 to 5.9 for a component in the exact form, and 3 to
        13 for the first, with which a block no longer is one call.
        """
        n_exact = int(self.exact.sum())
        # (Products by Phi go over all components unless most of them are exact.)
        n_phi = self.n_components if 2 * n_exact <= self.n_components else self.n_components - n_exact
        return n_phi * self.precision.cost + 3 * n_exact + 5 * bool(n_exact)

    @cached_property
    def n_statistics(self) -> int:
        """Number of sums per component."""
        return self.shape.n_statistics(self.means.shape[1], exact=bool(self.exact.any()))

    @property
    def n_values(self) -> int:
        """Number of all sums of a pass (`Statistics`)."""
        return self.n_components * self.n_statistics + self.n_filled + 3

    @property
    def n_filled(self) -> int:
        """How many of them tell what stands in the gaps."""
        return int(self.means.shape[1]) if self.gaps else 0

    @property
    def n_bytes(self) -> int:
        """Bytes that the plan takes on its way to the workers."""
        return sum(a.nbytes for a in (self.log_weights, *self.packed[2:6]))

    @cached_property
    def log_constants(self) -> Floats:
        """Log of weight times density at the mean, (n_components,), nats; minus infinity for a weight of zero."""
        n_components, n_features = self.means.shape
        return self.log_weights + self.shape.log_norm(self.precisions_cholesky, n_components, n_features)

    @cached_property
    def natural_parameters(self) -> Floats:
        """Natural parameters eta of all components about the origin, (n_components, n_phi), in the precision's dtype.

        A weight of zero keeps a finite constant here: an infinity would spread through the product.
        """
        constants = np.where(np.isfinite(self.log_constants), self.log_constants, 0.0)
        eta = self.shape.natural_parameters(self.means - self.origin, self.precisions_cholesky, constants)
        return np.ascontiguousarray(eta, dtype=self.precision.dtype)

    @cached_property
    def transposed_parameters(self) -> NDArray[Any]:
        """The same, (n_phi, n_components), C order, as the compiled kernel takes them."""
        return np.ascontiguousarray(self.natural_parameters.T)


def unpacked(shape: Shape, packed: tuple[Any, ...], given: Any = None) -> Plan:
    """Return the plan of a shape that `Plan.packed` tells of."""
    log_weights, log_noise, means, factors, *rest, precision, compiled, classes, gaps = packed
    factors, found = shape.unpack(factors, means.shape[1]), precision_called(precision)
    of: list[Any] = [shape, log_weights, means, factors, *rest, found, compiled, given, log_noise, classes, gaps]
    return Plan(*of)


def make_plan(
    parameters: Parameters,
    *,
    origin: Floats,
    kernel: Any = "rule",
    precision: Precision = DOUBLE,
    compiled: bool = False,
    gaps: bool = False,
) -> Plan:
    """Return the plan for the next pass: the rule of the design, from the parameters alone, O(K D^2) on the driver.

    Parameters
    ----------
    parameters : Parameters
    origin : (n_features,), float64
        The first choice of an origin: the mean of the rows. Another one is taken only where it lets more components go
        by Phi. (It must not depend on other candidates, or a candidate's bits would.)
    kernel : {"rule", "phi", "exact"} or Kernel
        "phi" and "exact" force one form, for tests and measurements. A kernel that is given computes the components
        that it chooses, and the rule says how the others are.
    precision : Precision
        Of the components by Phi: single is taken where that is faster than all that double can do by Phi.
    compiled, gaps : bool
        Whether the compiled kernel does what it can; whether rows may have gaps.
    """
    if gaps:
        # (What is common to all components drops out of complete rows alone: each then has second moments.)
        kernel = "exact" if parameters.shape.leaves_common_term() else kernel
        plan = make_plan(parameters, origin=origin, kernel=kernel, precision=precision, compiled=compiled)
        return replace(plan, gaps=True)
    if not isinstance(kernel, str):
        plan = make_plan(parameters, origin=origin, precision=precision, compiled=compiled)
        mask: Any = kernel.chosen(parameters, plan.origin)
        if np.shape(mask) != (parameters.n_components,) or np.asarray(mask).dtype != bool:
            name = f"{type(kernel).__name__}.chosen"
            raise OptionError(
                f"what {verbatim(name)} returns",
                f"be bool, of shape ({parameters.n_components},)",
                f"{mask!r:.80}",
                f"Return True for each component that it computes, in {verbatim(name)}.",
            )
        chosen = parameters.shape.by_one_form(mask)
        return replace(plan, exact=plan.exact | chosen, stacked=plan.stacked & ~chosen, given=(kernel, chosen))
    if kernel != "rule":
        forced = np.full(parameters.n_components, kernel == "exact")
        return _plan(parameters, origin, forced, precision, compiled)
    plan = _by_the_rule(parameters, origin, precision, compiled)
    if precision is DOUBLE or not plan.exact.any():
        return plan
    in_double = _by_the_rule(parameters, origin, DOUBLE, compiled)
    return in_double if in_double.cost <= plan.cost else plan


def _by_the_rule(parameters: Parameters, origin: Floats, precision: Precision, compiled: bool) -> Plan:
    p, shape = parameters, parameters.shape
    if not shape.phi_pays(p.n_components, p.n_features):
        # (Bounds and probes take n_features^3 operations, seconds for 2000 features, and could not change it.)
        return _plan(p, origin, np.ones(p.n_components, dtype=bool), precision, compiled)
    best, flagged = origin, flagged_components(p, origin, precision)
    if flagged.any():
        smallest = precision.tolerance / (SAFETY * precision.unit_roundoff)
        for other in shape.other_origins(
            p.weights, p.means, p.precisions, p.deviations, origin=origin, smallest=smallest
        ):
            flagged_there = flagged_components(p, other, precision)
            if flagged_there.sum() < flagged.sum():
                best, flagged = other, flagged_there
    flagged = shape.by_one_form(flagged)
    if not shape.phi_pays(int((~flagged).sum()), p.n_features) or _stack_pays(p, best, flagged):
        flagged[:] = True
    return _plan(p, best, flagged, precision, compiled)


def _stack_pays(parameters: Parameters, origin: Floats, flagged: NDArray[np.bool_]) -> bool:
    """Return whether all components are faster in stacked products than by Phi with the flagged ones replaced.

    (20 and 50 components of 64 features, two threads, time of the former over that of the latter where a quarter is
    flagged: 0.6 to 0.9 where components lie apart, 0.75 to 1.15 where all rows count for all of them. For one flagged
    component: 0.6 to 1.1, and up to 1.6.)
    """
    return 4 * int(flagged.sum()) >= len(flagged) and bool(_loses_little(parameters, origin).all())


def flagged_components(parameters: Parameters, origin: Floats, precision: Precision = DOUBLE) -> NDArray[np.bool_]:
    """Return the components that Phi about `origin` cannot compute to the tolerance, (n_components,), bool.

    The bound 8 u B_k decides, but is 20 to 150 times pessimistic for correlated features; where it flags a component
    that is not hopeless, a probe of 32 points around it measures the error.
    """
    p = parameters
    bound = p.shape.bound(p.means, p.precisions, p.deviations, origin) * precision.unit_roundoff
    flagged = ~(SAFETY * bound <= precision.tolerance)
    doubtful = np.flatnonzero(flagged & (bound < precision.hopeless))
    if len(doubtful):
        plan = _plan(parameters, origin, np.zeros(parameters.n_components, dtype=bool), precision)
        flagged[doubtful] = ~(SAFETY * _probe(plan, doubtful) <= precision.tolerance)
    return flagged


def _plan(
    parameters: Parameters, origin: Floats, exact: NDArray[np.bool_], precision: Precision, compiled: bool = False
) -> Plan:
    p, c = parameters, np.asarray(origin, dtype=np.float64)
    log_noise = None if p.noise is None else p.noise.log_term
    if log_noise is not None and p.shape.leaves_common_term():
        # (What the components have in common the noise has not, and the scatter of all rows is not theirs.)
        exact = np.ones_like(exact)
    common_bound = p.shape.common_bound(p.precisions, p.deviations)
    common_by_row = not SAFETY * DOUBLE.unit_roundoff * common_bound <= DOUBLE.tolerance
    stacked = exact & _loses_little(p, c) if exact.any() else np.zeros_like(exact)
    return Plan(
        p.shape, p.log_weights, p.means, p.precisions_cholesky, c, exact, stacked, common_by_row, precision, compiled,
        log_noise=log_noise, classes=p.classes,
    )  # fmt: skip


def _loses_little(p: Parameters, origin: Floats) -> NDArray[np.bool_]:
    """Return the components whose z about the origin has the tolerance's digits, (n_components,), bool.

    q = |z|^2 is wrong by at most 2 |z| |dz|, in units of max(1, q) by 2 |dz|, and |dz| <= u |P|'(|x - c| + |mu - c|),
    which at typical rows is u |P|'(2 |mu - c| + s). (72 mixtures and photograph patches reached 0.22 of it.)
    """
    factors = p.shape.factors(p.precisions_cholesky)
    if factors is None or not STACKED_FROM <= p.n_features <= STACKED_TO:
        return np.zeros(p.n_components, dtype=bool)
    v = np.abs(p.means - origin) + p.deviations
    lost = 2 * np.linalg.norm((v[:, np.newaxis] @ np.abs(factors))[:, 0], axis=1)
    return np.asarray(DOUBLE.unit_roundoff * lost <= DOUBLE.tolerance)


def _probe(plan: Plan, components: Sequence[int] | NDArray[np.int64]) -> Floats:
    """Return the largest difference of eta Phi from the exact form over 32 points around each component, nats.

    In units of max(1, q^2), as the bound is: at 64 features a typical point has q^2 = 64, and without the division the
    probe of photograph patches flagged ten of twelve components where the bound did too (with it, three).
    """
    shape, n_features = plan.shape, plan.means.shape[1]
    z = _probe_points(n_features)
    unit = np.maximum(1.0, np.einsum("dn,dn->n", z, z))
    n_points, n_phi = z.shape[1], shape.n_statistics(n_features, exact=False)
    at_once = max(1, min(8, _PROBE_VALUES // (n_phi * n_points)))
    worst = np.empty(len(components))
    for begin in range(0, len(components), at_once):
        own = np.asarray(components[begin : begin + at_once])
        x, exact = np.empty((n_features, len(own), n_points)), np.empty((len(own), n_points))
        z_exact, work = np.empty_like(z), np.empty_like(z)
        for i, k in enumerate(own):
            precision_cholesky = shape.component(plan.precisions_cholesky, int(k))
            points = np.ascontiguousarray(plan.means[k][:, np.newaxis] + shape.spread(z, precision_cholesky))
            shape.standardise(points, plan.means[k], precision_cholesky, z_exact, work)
            exact[i], x[:, i] = -0.5 * np.einsum("dn,dn->n", z_exact, z_exact), points
        constants = np.where(np.isfinite(plan.log_constants[own]), plan.log_constants[own], 0.0)
        exact += constants[:, np.newaxis]
        phi = np.empty((n_phi, len(own) * n_points), plan.precision.dtype)
        shifted = fill_phi(shape, x.reshape(n_features, -1), plan.origin, phi)
        products = (plan.natural_parameters[own] @ phi).reshape(len(own), len(own), n_points)
        by_phi = products[np.arange(len(own)), np.arange(len(own))].astype(np.float64)
        common = shape.common_term(shifted, plan.precisions_cholesky, np.empty(shifted.shape))
        if common is not None:
            by_phi += common.reshape(by_phi.shape)
        worst[begin : begin + at_once] = (np.abs(by_phi - exact) / unit).max(axis=1)
    return worst


#: Values of Phi of the probes that are computed at once.
_PROBE_VALUES = 1 << 18


def fill_phi(shape: Shape, x: Floats, origin: Floats, phi: NDArray[Any]) -> NDArray[Any]:
    """Fill Phi(x - origin), (n_phi, n_rows), and return its rows x - origin, (n_features, n_rows), a view.

    Rows are shifted in float64, then rounded to the dtype of `phi`.
    """
    n_features = x.shape[0]
    shifted = phi[-1 - n_features : -1]
    np.subtract(x, origin[:, np.newaxis], out=shifted, casting="same_kind")
    phi[-1] = 1.0
    shape.fill_phi(phi, n_features)
    return shifted


@cache
def _probe_points(n_features: int) -> Floats:
    """Return 32 points, (n_features, 32): 16 at radii 0 to 3, 8 from N(0, I) and 8 from 3 N(0, I); always the same."""
    z = np.random.default_rng(0).standard_normal((n_features, 32))
    z[:, :16] *= np.linspace(0, 3, 16) / np.linalg.norm(z[:, :16], axis=0)
    z[:, 24:] *= 3
    z.flags.writeable = False
    return z
