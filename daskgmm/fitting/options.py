"""The options of a fit, checked before any data is read."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from daskgmm.errors import OptionError
from daskgmm.fitting.main_options import MainOptions
from daskgmm.fitting.option import declared
from daskgmm.fitting.options_json import json_value
from daskgmm.fitting.stopping import StoppingRule, Tolerance
from daskgmm.mixture.record import Record

if TYPE_CHECKING:
    from daskgmm.mixture.acceleration import Accelerator
    from daskgmm.mixture.arrays import Floats
    from daskgmm.mixture.family import Family
    from daskgmm.mixture.prior import Prior


@dataclass(frozen=True)
class FitOptions(MainOptions):
    """What a user asks of a fit: what its bases declare, and what follows from it.

    What is declared is a parameter of the estimator and, with a flag, an option of the command line.
    """

    def __post_init__(self) -> None:
        for name, (_, option) in declared(type(self)).items():
            option.check(name, self)
        from daskgmm.mixture.family import family_of

        # (Its name travels into records; one that is given itself is registered under it.)
        object.__setattr__(self, "covariance_type", family_of(self.covariance_type).name)

    @property
    def family(self) -> Family:
        from daskgmm.mixture.family import family_called

        return family_called(self.covariance_type)

    @property
    def accelerator(self) -> Accelerator:
        """The accelerator in its first state."""
        from daskgmm.mixture.acceleration import Accelerator, accelerator_called

        given = self.acceleration
        return given if isinstance(given, Accelerator) else accelerator_called(given)  # type: ignore[arg-type]

    @property
    def whole_prior(self) -> Prior:
        """What M-steps add to the rows: the prior, and reg_covar."""
        from daskgmm.mixture.prior import OfUser, Ridge, Together

        ridge = Ridge(self.reg_covar)
        return ridge if self.prior is None else Together((OfUser(self.prior), ridge))  # type: ignore[arg-type]

    def on_sample(self, share: float) -> FitOptions:
        """Return the options for a sample of so many of all rows: the prior weighs as much against them."""
        from daskgmm.mixture.prior import OfUser

        if self.prior is None:
            return self
        return replace(self, prior=OfUser(self.prior).scaled(share).prior)  # type: ignore[arg-type]

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
    def any_given(self) -> bool:
        """Whether the user gave any initial parameter."""
        return any(given is not None for given in (self.weights_init, self.means_init, self.precisions_init))

    @property
    def is_closed_form(self) -> bool:
        """Whether one E-step from anywhere ends at the optimum: one component, of rows that have all values."""
        return self.is_one_component and self.non_finite != "marginalize" and self.prior is None

    @property
    def is_one_component(self) -> bool:
        """Whether nothing is to be searched for: one component, whose responsibilities are all 1."""
        return self.n_components == 1 and self.max_iter > 0 and not self.any_given

    def given(self, n_features: int) -> Given:
        """Return the given initial parameters, checked against the number of features."""
        from daskgmm.mixture.parameters import check_means, check_precisions, check_weights

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
        return {f.name: json_value(getattr(self, f.name)) for f in fields(self) if f.name != "cache"}

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


@dataclass(frozen=True)
class Given:
    """Initial parameters that the user gave; None where not."""

    weights: Floats | None
    means: Floats | None
    precisions: Floats | None
