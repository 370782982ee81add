"""The options of a fit by variational Bayes: those of any fit, and scikit-learn's of the prior."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from daskgmm.errors import CollapsedComponentError, DataError, OptionError
from daskgmm.fitting.option import Option, declare
from daskgmm.fitting.options import FitOptions, Given
from daskgmm.mixture.record import Record

if TYPE_CHECKING:
    from daskgmm.mixture.arrays import Floats
    from daskgmm.mixture.prior import Prior
    from daskgmm.mixture.row_set import RowSet
    from daskgmm.mixture.variational import Variational

PROCESS, DISTRIBUTION = "dirichlet_process", "dirichlet_distribution"
#: What is said of each number of the prior.
_NUMBER: dict[str, Any] = {
    "number": float, "above_least": True, "choices": (None,), "metavar": "FLOAT",
    "must_be": "`None` or a finite number above 0", "remedy": "Leave it out for the default.",
}  # fmt: skip


def _covariance_rule(options: BayesianOptions, value: Any) -> str:
    is_text = isinstance(value, str)
    return "`None` or an array of numbers where a fit is by variational Bayes, whose prior is whole" if is_text else ""


@dataclass(frozen=True)
class BayesianOptions(FitOptions):
    """What a user asks of a fit by variational Bayes; names, meanings and defaults of the prior are scikit-learn's.

    Attributes
    ----------
    prior, standardize, fixed, covariance_floor, noise, label_components, n_factors
        Not offered: the prior is that of the options here, which has the units of the data.
    variational : Variational or None
        The prior with what it takes from the rows; None before a survey.
    """

    prior: Record | None = None
    standardize: bool = False
    fixed: Any = None
    covariance_floor: Any = None
    noise: Any = False
    noise_weight_init: float = 0.0
    label_components: Any = None
    n_factors: Any = None
    factor_noise: str = "isotropic"
    escape: bool = declare(
        True,
        Option(
            help="Do not search for a better optimum by merging components on the sample.",
            flag="--no-escape", choices=(True, False), must_be="True or False",
        ),
    )  # fmt: skip
    variational: Record | None = None
    weight_concentration_prior_type: str = declare(
        PROCESS,
        Option(
            help="Fit by variational Bayes, with this prior on the weights: it empties components that the rows do not "
            "need, up to --components.",
            flag="--bayesian", section="Priors", choices=(PROCESS, DISTRIBUTION),
        ),
    )  # fmt: skip
    weight_concentration_prior: float | None = declare(
        None,
        Option(
            help="The smaller, the fewer components have rows.", flag="--weight-concentration-prior", section="Priors",
            default_text="1 / components", **_NUMBER,
        ),
    )  # fmt: skip
    mean_precision_prior: float | None = declare(
        None,
        Option(
            help="How many rows the prior mean counts.", flag="--mean-precision-prior", section="Priors",
            default_text="1", **_NUMBER,
        ),
    )  # fmt: skip
    mean_prior: Any = declare(None, Option(help="The prior mean; that of the rows by default."))
    degrees_of_freedom_prior: float | None = declare(
        None,
        Option(
            help="How many rows the prior covariance counts: more than the features less 1.",
            flag="--degrees-of-freedom-prior", section="Priors", default_text="the number of features",
            **_NUMBER,
        ),
    )  # fmt: skip
    covariance_prior: Any = declare(
        None,
        Option(
            help="The prior covariance; that of the rows by default.", rule=_covariance_rule,
            remedy="Leave it out for the covariance of the rows.",
        ),
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        from daskgmm.mixture.family import Family

        if type(self.family).maximise is not Family.maximise:
            raise OptionError(
                "`covariance_type`",
                "have all covariances of its shape, which full, tied, diag and spherical have",
                self.covariance_type,
                "Take one of these, or fit by maximum likelihood: `GaussianMixture`.",
            )

    @property
    def whole_prior(self) -> Prior:
        from daskgmm.mixture.prior import Together

        before: Any = super().whole_prior
        return before if self.variational is None else Together((before, self.variational))  # type: ignore[arg-type]

    def on_sample(self, share: float) -> FitOptions:
        found: Any = super().on_sample(share)
        prior: Any = self.variational
        return found if prior is None else replace(found, variational=prior.scaled(share))  # type: ignore[no-any-return]

    @property
    def has_prior(self) -> bool:
        return False  # (of the kind that `known` is)

    @property
    def is_closed_form(self) -> bool:
        return self.n_components == 1 and self.max_iter > 0 and not self.any_given

    @property
    def needs_scatter(self) -> bool:
        return self.covariance_prior is None or super().needs_scatter

    @property
    def criteria(self) -> tuple[str, ...]:
        # (Not BIC and its like: they count parameters, and here a component that is as the prior says has none.)
        return ("bound", "held_out")

    @property
    def rises_with_components(self) -> bool:
        return False

    @property
    def may_be_empty(self) -> bool:
        return True

    def given(self, n_features: int) -> Given:
        """Return the given initial parameters; they, and the prior, are checked against the number of features."""
        self._mean_prior(n_features)
        self._covariance_prior(n_features)
        self._degrees_of_freedom(n_features)
        return super().given(n_features)

    def knowing(self, rows: RowSet) -> BayesianOptions:
        return replace(self, variational=self.prior_given(rows))

    def prior_given(self, rows: RowSet) -> Variational:
        """Return the prior, in which what the user left out is taken from all rows of the fit.

        Raises
        ------
        DataError
            The rows have no covariance.
        """
        from daskgmm.mixture.variational import Variational

        d = len(rows.mean)
        mean, covariance = self._mean_prior(d), self._covariance_prior(d)
        return Variational(
            process=self.weight_concentration_prior_type == PROCESS,
            concentration=float(self.weight_concentration_prior or 1 / self.n_components),
            mean_precision=float(self.mean_precision_prior or 1.0),
            mean=rows.mean if mean is None else mean,
            degrees_of_freedom=self._degrees_of_freedom(d),
            covariance=self._covariance_of(rows) if covariance is None else covariance,
            weight=rows.weight,
        )

    def _covariance_of(self, rows: RowSet) -> Floats:
        """Return the covariance of all rows, scikit-learn's cov(X); where it is singular, with what M-steps add."""
        import numpy as np

        if not rows.weight > 1:
            raise DataError(
                "the rows",
                "have a weight of more than 1 together, as `covariance_prior` is their covariance",
                f"{rows.weight:.6g} of n_samples = {rows.n_rows} ({rows.n_rows} sample{'s' * (rows.n_rows > 1)})",
                "Give `covariance_prior`, or weights that count rows.",
            )
        shape = self.family.shape
        n_features = len(rows.mean)
        scatter = rows.scatter if rows.scatter.ndim == 2 else np.diag(rows.scatter)
        roots, vectors = np.linalg.eigh(scatter / (rows.weight - 1))
        points = vectors * np.sqrt(np.maximum(roots, 0.0) * n_features)
        found = shape.of_points(points, np.full(n_features, 1 / n_features))
        found = found.reshape(shape.array_shape(1, n_features))
        try:
            shape.precisions_cholesky(found)
        except CollapsedComponentError:
            found = shape.regularise(found, self.whole_prior.floor)
            shape.precisions_cholesky(found)
        return found

    def _mean_prior(self, n_features: int) -> Floats | None:
        from daskgmm.mixture.parameters import array_of

        return None if self.mean_prior is None else array_of(self.mean_prior, "mean_prior", (n_features,))

    def _covariance_prior(self, n_features: int) -> Floats | None:
        """Return the given prior covariance as that of one component, checked."""
        import numpy as np

        from daskgmm.mixture.parameters import array_of

        if self.covariance_prior is None:
            return None
        shape = self.family.shape
        whole = shape.array_shape(1, n_features)
        own = np.shape(shape.component(np.empty(whole), 0))
        found = array_of(self.covariance_prior, "covariance_prior", own).reshape(whole)
        shape.check_definite(found, "covariance_prior")
        return found

    def _degrees_of_freedom(self, n_features: int) -> float:
        given = self.degrees_of_freedom_prior
        if given is not None and not given > n_features - 1:
            raise OptionError(
                "`degrees_of_freedom_prior`",
                f"be greater than {n_features - 1}, the number of features less 1",
                f"{given:.3f}",
                "Leave it out for the number of features.",
            )
        return float(n_features if given is None else given)
