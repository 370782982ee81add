"""The options of a fit, checked before any data is read."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from daskgmm.errors import OptionError
from daskgmm.fitting.device_options import DeviceOptions
from daskgmm.fitting.factor_options import FactorOptions
from daskgmm.fitting.label_options import LabelOptions, classes_of
from daskgmm.fitting.main_options import MainOptions
from daskgmm.fitting.noise_options import NoiseOptions
from daskgmm.fitting.option import declared
from daskgmm.fitting.options_json import json_value
from daskgmm.fitting.prior_options import PRIORS, PriorOptions
from daskgmm.fitting.stopping import StoppingRule, Tolerance
from daskgmm.mixture.record import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from daskgmm.mixture.acceleration import Accelerator
    from daskgmm.mixture.arrays import Floats
    from daskgmm.mixture.family import Family
    from daskgmm.mixture.parameters import Parameters
    from daskgmm.mixture.prior import Prior
    from daskgmm.mixture.row_set import RowSet


@dataclass(frozen=True)
class FitOptions(PriorOptions, NoiseOptions, LabelOptions, FactorOptions, DeviceOptions, MainOptions):
    """What a user asks of a fit: what its bases declare, and what follows from it.

    What is declared is a parameter of the estimator and, with a flag, an option of the command line.

    Attributes
    ----------
    known : Conjugate or None
        What the options say of the parameters, once the rows are surveyed: see `daskgmm.fitting.known`.
    least : Floor or None
        The floor of covariances, likewise.
    shrunk : float
        Rows of the covariance within all components that each is given, on a sample of few rows.
    """

    known: Record | None = None
    least: Record | None = None
    shrunk: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "label_components", classes_of(self.label_components))
        for name, (_, option) in declared(type(self)).items():
            option.check(name, self)
        # (Its name travels into records; one that is given itself is registered under it.)
        object.__setattr__(self, "covariance_type", self.family.name)

    @property
    def family(self) -> Family:
        from daskgmm.mixture.family import family_of

        return family_of(self.covariance_type, self.n_factors, self.factor_noise)

    @property
    def accelerator(self) -> Accelerator:
        """The accelerator in its first state."""
        from daskgmm.mixture.acceleration import Accelerator, accelerator_called

        given = self.acceleration
        return given if isinstance(given, Accelerator) else accelerator_called(given)  # type: ignore[arg-type]

    @property
    def whole_prior(self) -> Prior:
        """What M-steps add to the rows: the prior, what is fixed, and reg_covar, or a floor in its place."""
        from daskgmm.mixture.prior import OfUser, Ridge, Shrinkage, Together

        first = () if not self.shrunk else (Shrinkage(self.shrunk),)
        own = tuple(OfUser(prior) for prior in (*first, *(() if self.prior is None else (self.prior,))))
        last = (self.least or Ridge(self.reg_covar),) if self.covariance_floor is None or self.least else ()
        every: Any = (*own, *(() if self.known is None else (self.known,)), *last)
        return every[0] if len(every) == 1 else Together(every)

    @property
    def prior_of_starts(self) -> Prior:
        """What the moments of a start are taken under: what is fixed stands in it anyhow, and rows know none of it."""
        known: Any = self.known
        return (self if known is None else replace(self, known=replace(known, fixed=None))).whole_prior

    def log_prior(self, parameters: Parameters) -> float:
        """Return the log density, nats, of what is known of the parameters beforehand, by the options for it."""
        known: Any = self.known
        return 0.0 if known is None else float(known.log_density(parameters))

    def on_sample(self, share: float) -> FitOptions:
        """Return the options for a sample of so many of all rows: the prior weighs as much against them."""
        from daskgmm.mixture.prior import OfUser

        found: Any = self
        if self.prior is not None:
            found = replace(found, prior=OfUser(self.prior).scaled(share).prior)  # type: ignore[arg-type]
        if self.known is not None:
            found = replace(found, known=found.known.scaled(share))
        return found  # type: ignore[no-any-return]

    @property
    def needs_scatter(self) -> bool:
        """Whether a survey finds the covariances of all rows, and not their variances alone."""
        return self.family.shape.leaves_common_term()

    @property
    def criteria(self) -> tuple[str, ...]:
        """What models with these options are compared by; the first where nobody says."""
        return ("bic", "aic", "icl", "held_out")

    @property
    def rises_with_components(self) -> bool:
        """Whether the log-likelihood of an optimum is at least that of fewer components: not under a prior."""
        return self.prior is None and not self.has_prior

    @property
    def may_be_empty(self) -> bool:
        """Whether components without rows are no fault of a fit."""
        return False

    def knowing(self, rows: RowSet) -> FitOptions:
        """Return the options with what they take from a survey of the rows of the fit."""
        return self

    @property
    def rule(self) -> StoppingRule:
        """The rule to stop by, in its first state."""
        return self.stopping or Tolerance(self.tol)

    @property
    def starts_on_all_rows(self) -> bool:
        """Whether starts are found by passes over all rows, which a sample might miss."""
        return self.init_params == "k-means||" and not self.start_is_given

    @property
    def start_is_given(self) -> bool:
        """Whether the user gave every initial parameter, so that no sample is needed."""
        return self.weights_init is not None and self.means_init is not None and self.precisions_init is not None

    @property
    def least_rows(self) -> int:
        """Rows without which nothing can be fitted: as many as components, where what is known does not do alone."""
        fixed = self.fixed or {}
        priors = {
            "weights": self.weight_concentration_prior, "means": self.mean_precision_prior,
            "covariances": self.covariance_prior,
        }  # fmt: skip
        known = all(fixed.get(name) is True or prior is not None for name, prior in priors.items())
        return 1 if self.start_is_given and known else self.n_components

    @property
    def any_given(self) -> bool:
        """Whether the user gave any initial parameter."""
        return any(given is not None for given in (self.weights_init, self.means_init, self.precisions_init))

    @property
    def is_closed_form(self) -> bool:
        """Whether one E-step from anywhere ends at the optimum: one component, of rows that have all values."""
        free = self.prior is None and not self.has_prior
        return self.is_one_component and self.non_finite != "marginalize" and free

    @property
    def is_one_component(self) -> bool:
        """Whether nothing is to be searched for: one component, whose responsibilities are all 1."""
        alone = self.n_components == 1 and not self.noise and not getattr(self.kernel, "completes", False)
        return alone and self.max_iter > 0 and not self.any_given

    @property
    def has_prior(self) -> bool:
        """Whether anything is known of the parameters, by the options for it."""
        return any(getattr(self, name) is not None for name in PRIORS)

    def given(self, n_features: int) -> Given:
        """Return the given initial parameters, checked against the number of features."""
        from daskgmm.mixture.parameters import check_means, check_start, check_weights

        k, beside = self.n_components, self.noise_weight_init if self.noise else 0.0
        weights = None if self.weights_init is None else check_weights(self.weights_init, k, beside=beside)
        return Given(
            weights,
            None if self.means_init is None else check_means(self.means_init, k, n_features),
            None
            if self.precisions_init is None
            else check_start(self.precisions_init, self.family, k, n_features, weights=weights),
        )

    @property
    def known_classes(self) -> NDArray[np.int64] | None:
        """The class of each component, once a survey has seen labels; None without labels."""
        import numpy as np

        given = self.label_components
        return None if given is None or len(given) < self.n_components else np.array(given, dtype=np.int64)

    def as_json(self) -> dict[str, Any]:
        """Return the options that decide the result as JSON values, given arrays as nested lists."""
        return {f.name: json_value(getattr(self, f.name)) for f in fields(self) if f.name not in _NOT_ASKED}

    def check_records(self) -> None:
        """Raise an OptionError for an object of the user's that holds what no file can."""
        for name, value in ((f.name, getattr(self, f.name)) for f in fields(self)):
            try:
                json_value(value if isinstance(value, Record) else None)
            except (TypeError, ValueError) as error:
                raise OptionError(
                    f"`{name}`",
                    "hold numbers, texts, arrays, and tuples of these alone, as a model file does",
                    f"{value!r:.80}",
                    "Keep it in other fields.",
                ) from error


#: Fields that do not decide the result, or follow from the others and the rows.
_NOT_ASKED = ("cache", "known", "least", "shrunk", "variational")


@dataclass(frozen=True)
class Given:
    """Initial parameters that the user gave; None where not."""

    weights: Floats | None
    means: Floats | None
    precisions: Floats | None
