"""What a fit gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from daskgmm.fitting.seen import Seen
from daskgmm.fitting.status import Status
from daskgmm.kernels.support import Support
from daskgmm.mixture.criteria import aic, bic, icl
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.scaling import Scaling
from daskgmm.mixture.variational import Posterior


@dataclass(frozen=True)
class Fit:
    """A finished fit.

    Attributes
    ----------
    parameters : Parameters
    status : Status
    lower_bounds : tuple of float
        Mean log-likelihood of the parameters that went into each iteration, nats.
    lower_bound : float
        The last of these: scikit-learn's lower_bound_.
    log_likelihood : float
        Total log-likelihood of the *final* parameters, nats, from the closing pass.
    log_largest : float
        Sum over rows of the logarithm of the largest responsibility, nats: what tells ICL from BIC.
    held_out : (float, float) or None
        Log-likelihood, nats, and weight of the rows of its fold, to which it was not fitted.
    n_rows, n_dropped : int
        Rows that counted, and rows dropped as non-finite.
    n_dropped_by_feature : tuple of int
        Dropped rows by the features that hold their NaN or infinity: a row counts for each of these.
    weight, n_weighted : float, int
        Sum of the row weights, and rows of positive weight.
    n_passes : int
        Sweeps over the data, survey and closing pass included, and the one that counted the rows of a Dask array.
    bytes_read : int
        Decoded bytes that came from the source in all of them; what was kept after the first is read once.
    cached_bytes : int
        Decoded bytes that stayed in memory for the later passes.
    support : Support
        What each component is worth on the rows of the fit, nats, and how many of them it has.
    spikes : tuple of int
        Numbers of the components that these rows do not support.
    remarks : tuple of str
        What a person should know of the fit, with remedies: see `remarks`.
    history : tuple of dict
        One record a pass and candidate, also of passes over the sample: see `History`.
    seen : Seen
        What is kept of the rows, those before an update among them, so that others can follow.
    provenance : mapping of str to str
        What its bits depend on beside versions and processor: the card, where one computed.
    drift : dict or None
        How new rows differ from those before (`drift_of`); None where there were none before.
    about : dict
        What there was beside the rows, and known beforehand, as JSON (`about`); and which measurement errors.
    reach : float
        How far the mean log-likelihood may still rise, nats per unit of row weight; infinite where nobody knows.
    """

    parameters: Parameters
    status: Status
    lower_bounds: tuple[float, ...]
    lower_bound: float
    log_likelihood: float
    log_largest: float
    held_out: tuple[float, float] | None
    n_rows: int
    n_dropped: int
    n_dropped_by_feature: tuple[int, ...]
    weight: float
    n_passes: int
    bytes_read: int
    cached_bytes: int
    seconds: float
    support: Support
    spikes: tuple[int, ...]
    remarks: tuple[str, ...]
    history: tuple[dict[str, Any], ...]
    reach: float
    n_weighted: int
    seen: Seen
    drift: dict[str, Any] | None = None
    about: dict[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    def in_units(self, scaling: Scaling, volume: float, *, held_out: float) -> Fit:
        """Return a fit to rows that were mapped, in units of the data. (Its history is, already.)

        The mean log-likelihood falls by `volume`, nats, and of the rows outside by `held_out`.
        """
        outside = None if self.held_out is None else (self.held_out[0] - self.held_out[1] * held_out, self.held_out[1])
        return replace(
            self,
            parameters=scaling.back(self.parameters),
            lower_bounds=tuple(bound - volume for bound in self.lower_bounds),
            lower_bound=self.lower_bound - volume,
            log_likelihood=self.log_likelihood - self.weight * volume,
            seen=replace(self.seen, log_likelihood=self.seen.log_likelihood - self.weight * volume),
            held_out=outside,
        )

    @property
    def mean_log_likelihood(self) -> float:
        """Mean log-likelihood of the final parameters per unit of row weight, nats."""
        return self.log_likelihood / self.weight

    @property
    def n_iter(self) -> int:
        return len(self.lower_bounds)

    @property
    def bound(self) -> float:
        """Lower bound on the log evidence of the final posterior, nats; NaN of a mixture that is none."""
        p = self.parameters
        return self.log_likelihood - p.divergence if isinstance(p, Posterior) else float("nan")

    @property
    def n_effective(self) -> int | None:
        """How many components of a posterior have rows of their own; None of a mixture that is none."""
        p = self.parameters
        return p.n_effective(self.support.counts) if isinstance(p, Posterior) else None

    @property
    def aic(self) -> float:
        return aic(self.log_likelihood, self.parameters.n_free)

    @property
    def bic(self) -> float:
        return bic(self.log_likelihood, self.parameters.n_free, self.weight)

    @property
    def icl(self) -> float:
        return icl(self.log_likelihood, self.parameters.n_free, self.weight, self.log_largest)
