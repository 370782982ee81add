"""The options of a fit, checked before any data is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.data.cache import Cache
from daskgmm.errors import OptionError
from daskgmm.mixture.family import Family, family_called, family_of
from daskgmm.mixture.parameters import check_means, check_precisions, check_weights
from daskgmm.mixture.plan import Kernel

Floats = NDArray[np.float64]

INIT_PARAMS = ("kmeans", "k-means++", "random", "random_from_data", "k-means||")
NON_FINITE = ("error", "drop")
PRECISIONS = ("double", "single")
ACCELERATIONS = (None, "squarem")


@dataclass(frozen=True)
class FitOptions:
    """What a user asks of a fit; names, meanings and defaults are scikit-learn's where it has them.

    Attributes
    ----------
    tol : float
        A fit has converged when the mean log-likelihood changes by less than this, nats per unit of row weight.
        With 0 it goes on for max_iter iterations.
    max_iter : int
        Iterations of a candidate at most.
    n_init : int
        Restarts; on a sample two in five of them are started (`start.ways`), and one goes on to all rows.
    seed : int
        Seed of the sample and of the starts.
    non_finite : {"error", "drop"}
        What to do with rows that hold a NaN or an infinity.
    precision : {"double", "single"}
        Arithmetic of the products by Phi; "single" is faster and good to about 1e-3 nats. Components for which it is
        not are computed in double precision, and so are shifts, sums over blocks, M-steps and the closing pass.
    cache : {"auto", True, False}
        Whether rows that must be decoded stay in memory after the first pass: where all of them fit in half of the
        memory limits, as many as fit, or none. It changes no bits.
    acceleration : {"squarem", None}
        How EM is sped up on the way to its fixed point; None is plain EM.
    escape : bool
        Whether components are split and merged on the sample where that promises a better optimum. Never where the
        start is given.
    start_rows : int or None
        Rows of the sample on which a start is found, at most; None leaves it to the rule.
    kernel : {"rule", "phi", "exact"}
        The form of the E-step; anything but the rule is for tests and measurements.
    """

    n_components: int = 1
    covariance_type: str = "full"
    tol: float = 1e-3
    reg_covar: float = 1e-6
    max_iter: int = 100
    n_init: int = 10
    init_params: str = "kmeans"
    weights_init: Any = None
    means_init: Any = None
    precisions_init: Any = None
    seed: int = 0
    non_finite: str = "error"
    precision: str = "double"
    cache: Cache = "auto"
    acceleration: str | None = "squarem"
    escape: bool = True
    start_rows: int | None = None
    kernel: Kernel = "rule"

    def __post_init__(self) -> None:
        for name, least in (("n_components", 1), ("max_iter", 0), ("n_init", 1)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise OptionError(f"{name} must be an integer of at least {least}; got {value!r}.")
        for name in ("tol", "reg_covar"):
            value = getattr(self, name)
            if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) < np.inf:
                raise OptionError(f"{name} must be a finite number of at least 0; got {value!r}.")
        for name, allowed in (
            ("init_params", INIT_PARAMS),
            ("non_finite", NON_FINITE),
            ("precision", PRECISIONS),
            ("acceleration", ACCELERATIONS),
            ("kernel", ("rule", "phi", "exact")),
        ):
            if getattr(self, name) not in allowed:
                raise OptionError(f"{name} must be one of {', '.join(map(str, allowed))}; got {getattr(self, name)!r}.")
        if not (isinstance(self.cache, bool) or self.cache == "auto"):
            raise OptionError(f"cache must be 'auto', True or False; got {self.cache!r}. Leave it out for 'auto'.")
        if not isinstance(self.escape, bool):
            raise OptionError(f"escape must be True or False; got {self.escape!r}.")
        least = self.n_components
        if self.start_rows is not None and not (isinstance(self.start_rows, Integral) and self.start_rows >= least):
            raise OptionError(
                f"start_rows must be an integer of at least n_components = {least}; got {self.start_rows!r}. "
                "Leave it out for the rule."
            )
        # (Its name travels into records; one that is given itself is registered under it.)
        object.__setattr__(self, "covariance_type", family_of(self.covariance_type).name)

    @property
    def family(self) -> Family:
        return family_called(self.covariance_type)

    @property
    def starts_on_all_rows(self) -> bool:
        """Whether starts are found by passes over all rows, which a sample might miss."""
        return self.init_params == "k-means||" and not self.start_is_given

    @property
    def start_is_given(self) -> bool:
        """Whether the user gave every initial parameter, so that no sample is needed."""
        return self.weights_init is not None and self.means_init is not None and self.precisions_init is not None

    @property
    def any_given(self) -> bool:
        """Whether the user gave any initial parameter."""
        return any(given is not None for given in (self.weights_init, self.means_init, self.precisions_init))

    @property
    def is_closed_form(self) -> bool:
        """Whether one E-step from anywhere ends at the optimum: one component, whose responsibilities are all 1."""
        return self.n_components == 1 and self.max_iter > 0 and not self.any_given

    def given(self, n_features: int) -> Given:
        """Return the given initial parameters, checked against the number of features."""
        k = self.n_components
        return Given(
            None if self.weights_init is None else check_weights(self.weights_init, k),
            None if self.means_init is None else check_means(self.means_init, k, n_features),
            None
            if self.precisions_init is None
            else check_precisions(self.precisions_init, self.family, k, n_features),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the options that decide the result as JSON values, given arrays as nested lists."""
        return {name: _json_value(value) for name, value in asdict(self).items() if name != "cache"}


@dataclass(frozen=True)
class Given:
    """Initial parameters that the user gave; None where not."""

    weights: Floats | None
    means: Floats | None
    precisions: Floats | None


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    return np.asarray(value, dtype=np.float64).tolist()
