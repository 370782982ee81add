"""The options of a fit, checked before any data is read."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from daskgmm.errors import OptionError
from daskgmm.fitting.option import Option, declare, declared
from daskgmm.fitting.stopping import StoppingRule, Tolerance
from daskgmm.mixture.record import Record, record_called, record_name

if TYPE_CHECKING:
    from daskgmm.mixture.acceleration import Accelerator
    from daskgmm.mixture.arrays import Floats
    from daskgmm.mixture.family import Family
    from daskgmm.mixture.prior import Prior


def _acceleration_rule(options: FitOptions, value: Any) -> str:
    from daskgmm.mixture.acceleration import Accelerator  # (NumPy: the command line's help needs it not)

    wrong = isinstance(value, Record) and not isinstance(value, Accelerator)
    return "one of None, squarem, or an Accelerator" if wrong else ""


def _prior_rule(options: FitOptions, value: Any) -> str:
    from daskgmm.mixture.prior import Prior

    return "" if value is None or isinstance(value, Prior) else "None or a Prior"


def _standardize_rule(options: FitOptions, value: Any) -> str:
    if value is not True:
        return ""
    if not options.family.rescales:
        return f"False with `covariance_type` {options.family.name}, which has no such covariances in other units"
    if options.prior is not None or isinstance(options.kernel, Record):
        return "False with a prior or a kernel of yours, which are in units of the data"
    return ""


def _kernel_rule(options: FitOptions, value: Any) -> str:
    from daskgmm.kernels.kernel import Kernel

    named = isinstance(value, str) and value in ("rule", "phi", "exact")
    return "" if named or isinstance(value, Kernel) else "one of rule, phi, exact, or a Kernel"


def _start_rows_rule(options: FitOptions, value: Any) -> str:
    number = isinstance(value, Integral) and not isinstance(value, bool)
    enough = value is None or (number and value >= options.n_components)
    return "" if enough else f"an integer of at least `n_components` = {options.n_components}"


@dataclass(frozen=True)
class FitOptions(Record):
    """What a user asks of a fit; names, meanings and defaults are scikit-learn's where it has them.

    One that is declared here is a parameter of the estimator and, with a flag, an option of the command line.

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
    prior : Prior or None
        What is known of the parameters beside the rows; None for maximum likelihood. reg_covar comes after it.
    acceleration : {"squarem", None} or Accelerator
        How EM is sped up on the way to its fixed point; None is plain EM.
    stopping : StoppingRule or None
        When a candidate on all rows ends; None where the mean log-likelihood changes by less than `tol`.
    standardize : bool
        Whether rows are seen less their mean, over their standard deviations. What is asked and reported is in units
        of the data, but for reg_covar.
    escape : bool
        Whether components are split and merged on the sample where that promises a better optimum. Never where the
        start is given.
    start_rows : int or None
        Rows of the sample on which a start is found, at most; None leaves it to the rule.
    kernel : {"rule", "phi", "exact"} or Kernel
        The form of the E-step; "phi" and "exact" are for tests and measurements. A kernel computes the components that
        it chooses, and the rule is for the others.
    """

    n_components: int = declare(
        1,
        Option(help="Number of Gaussians.", flag="--components", section="Mixture", metavar="N", number=int, least=1),
    )
    covariance_type: str = declare(
        "full",
        Option(
            help="A full matrix each; one for all; axis-parallel; one variance each.", flag="--covariance",
            section="Mixture",
        ),
    )  # fmt: skip
    reg_covar: float = declare(
        1e-6,
        Option(
            help="Added to every variance, in squared units of the data.", flag="--reg-covar", section="Mixture",
            metavar="FLOAT", number=float,
        ),
    )  # fmt: skip
    prior: Record | None = declare(
        None,
        Option(
            help="What is known of the parameters beforehand.", choices=(None,), types=(Record,),
            must_be="None or a Prior", rule=_prior_rule, remedy="Leave it out for maximum likelihood.",
        ),
    )  # fmt: skip
    tol: float = declare(
        1e-3,
        Option(
            help="The fit has converged when the mean log-likelihood of a row changes by less. 0: always do --max-iter "
            "iterations.",
            flag="--tol", metavar="NATS", number=float,
        ),
    )  # fmt: skip
    max_iter: int = declare(
        100,
        Option(
            help="Iterations at most; each is one pass over the data.", flag="--max-iter", metavar="N", number=int
        ),
    )  # fmt: skip
    n_init: int = declare(
        10,
        Option(
            help="Starts to try, on a sample of the rows; the best goes on to all rows.", flag="--restarts",
            metavar="N", number=int, least=1,
        ),
    )  # fmt: skip
    init_params: str = declare(
        "kmeans",
        Option(
            help="How to find a start. k-means|| takes six passes over all rows, and finds small groups far from the "
            "others; the other ways use a sample of the rows, which would miss such groups.",
            flag="--init", choices=("kmeans", "k-means++", "random", "random_from_data", "k-means||"),
        ),
    )  # fmt: skip
    seed: int = declare(
        0,
        Option(
            help="Seed of the sample and of the starts.", flag="--seed", metavar="N", number=int, most=2**32 - 1,
            of_estimator=False,
        ),
    )  # fmt: skip
    start_rows: int | None = declare(
        None,
        Option(
            help="Rows of the sample at most.", flag="--start-rows", metavar="N",
            default_text="as many as a start needs", number=int, least=1, choices=(None,), rule=_start_rows_rule,
            remedy="Leave it out for the rule.",
        ),
    )  # fmt: skip
    escape: bool = declare(
        True,
        Option(
            help="Do not search for a better optimum by splitting and merging components on the sample.",
            flag="--no-escape", choices=(True, False), must_be="True or False",
        ),
    )  # fmt: skip
    acceleration: str | Record | None = declare(
        "squarem",
        Option(
            help="squarem: accelerated EM, fewer passes. none: plain EM.", flag="--acceleration",
            choices=(None, "squarem"), types=(Record,), words={None: "none"}, rule=_acceleration_rule,
        ),
    )  # fmt: skip
    stopping: StoppingRule | None = declare(
        None,
        Option(
            help="When a fit ends, on all rows.", choices=(None,), types=(StoppingRule,),
            must_be="None or a StoppingRule", remedy="Leave it out for `tol`.",
        ),
    )  # fmt: skip
    precision: str = declare(
        "double",
        Option(
            help="Precision of the large matrix products. single is faster, and good to 1e-3 nats a row.",
            flag="--precision", choices=("double", "single"),
        ),
    )  # fmt: skip
    cache: Literal["auto"] | bool = declare(
        "auto",
        Option(
            help="Keep decoded rows in memory after the first pass. auto: if all fit in half of the workers' memory. "
            "yes: as many as fit. no: none.",
            flag="--cache", choices=("auto", True, False), words={True: "yes", False: "no"},
            must_be="'auto', True or False", remedy="Leave it out for 'auto'.",
        ),
    )  # fmt: skip
    non_finite: str = declare(
        "error", Option(help="What to do with rows that hold a NaN or an infinity.", choices=("error", "drop"))
    )
    standardize: bool = declare(
        False,
        Option(
            help="Fit features in units of their standard deviations: starts and --reg-covar no longer depend on "
            "units. The model is in units of the data.",
            flag="--standardize", section="Mixture", choices=(False, True), must_be="True or False",
            rule=_standardize_rule,
        ),
    )  # fmt: skip
    # (Arrays are checked against the rows, whose number of features that takes: `given`.)
    weights_init: Any = declare(None, Option(help="Weights of the start."))
    means_init: Any = declare(None, Option(help="Means of the start."))
    precisions_init: Any = declare(None, Option(help="Precisions of the start."))
    kernel: str | Record = declare(
        "rule",
        Option(
            help="The form of the E-step.", choices=("rule", "phi", "exact"), types=(Record,), rule=_kernel_rule,
            remedy="Leave it out for the rule.",
        ),
    )  # fmt: skip

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
        """Whether one E-step from anywhere ends at the optimum: one component, whose responsibilities are all 1."""
        return self.n_components == 1 and self.max_iter > 0 and not self.any_given and self.prior is None

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
        return {f.name: _json_value(getattr(self, f.name)) for f in fields(self) if f.name != "cache"}

    def check_records(self) -> None:
        """Raise an OptionError for an object of the user's that holds what no file can."""
        for name, value in ((f.name, getattr(self, f.name)) for f in fields(self)):
            try:
                _json_value(value if isinstance(value, Record) else None)
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


def from_json(value: Any) -> Any:
    """Return the value of an option that `as_json` wrote: a record where its class is defined here, or as it stands."""
    cls = record_called(value["class"]) if isinstance(value, dict) and isinstance(value.get("class"), str) else None
    if cls is None:
        return value
    hints = get_type_hints(cls)
    return cls(**{name: _field(v, hints.get(name)) for name, v in value.items() if name != "class"})


def _field(value: Any, hint: Any) -> Any:
    """Return a field of a record: a list of JSON's as a tuple where the field's annotation says so, or as an array."""
    if not isinstance(value, list):
        return from_json(value)
    of_texts = any(item is None or isinstance(item, str | dict) for item in value)
    if get_origin(hint) is tuple or of_texts:
        return tuple(_field(item, (*get_args(hint), Any)[0]) for item in value)
    import numpy as np

    return np.asarray(value, dtype=np.float64)


def _json_value(value: Any) -> Any:
    if isinstance(value, Record):
        found = {f.name: _json_value(getattr(value, f.name)) for f in fields(value)}  # type: ignore[arg-type]
        return {"class": record_name(type(value)), **found}
    if isinstance(value, tuple) and any(isinstance(item, Record | str | tuple) or item is None for item in value):
        return [_json_value(item) for item in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    import numpy as np

    return np.asarray(value, dtype=np.float64).tolist()
