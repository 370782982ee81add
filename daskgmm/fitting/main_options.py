"""The options of every fit, declared."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

from daskgmm.fitting.option import Option, declare
from daskgmm.fitting.stopping import StoppingRule
from daskgmm.fitting.typed import numbers_of
from daskgmm.mixture.record import Record


def _acceleration_rule(options: Any, value: Any) -> str:
    from daskgmm.mixture.acceleration import Accelerator  # (NumPy: the command line's help needs it not)

    wrong = isinstance(value, Record) and not isinstance(value, Accelerator)
    return "one of None, squarem, or an Accelerator" if wrong else ""


def _reg_covar_rule(options: Any, value: Any) -> str:
    floored = getattr(options, "covariance_floor", None) is not None
    return "left out with `covariance_floor`, which takes its place" if floored and value not in (0, 1e-6) else ""


def _prior_rule(options: Any, value: Any) -> str:
    from daskgmm.mixture.prior import Prior

    return "" if value is None or isinstance(value, Prior) else "None or a Prior"


def _standardize_rule(options: Any, value: Any) -> str:
    if value is not True:
        return ""
    if not options.family.rescales:
        return f"False with `covariance_type` {options.family.name}, which has no such covariances in other units"
    if options.prior is not None or isinstance(options.kernel, Record):
        return "False with a prior or a kernel of yours, which are in units of the data"
    return ""


def _kernel_rule(options: Any, value: Any) -> str:
    from daskgmm.kernels.kernel import Kernel

    named = isinstance(value, str) and value in ("rule", "phi", "exact")
    return "" if named or isinstance(value, Kernel) else "one of rule, phi, exact, or a Kernel"


def _non_finite_rule(options: Any, value: Any) -> str:
    if value == "marginalize" and options.noise is not False:
        return "'error' or 'drop' with noise, whose density is of all features together; or leave out `noise`"
    own = value == "marginalize" and isinstance(options.kernel, Record)
    return "'error' or 'drop' with a kernel of yours, which knows of no gaps" if own else ""


def _start_rows_rule(options: Any, value: Any) -> str:
    number = isinstance(value, Integral) and not isinstance(value, bool)
    enough = value is None or (number and value >= options.n_components)
    return "" if enough else f"an integer of at least `n_components` = {options.n_components}"


_FOUND = "found on the sample"


@dataclass(frozen=True)
class MainOptions(Record):
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
    non_finite : {"error", "drop", "marginalize"}
        What to do with rows that hold a NaN or an infinity. Marginalized, a NaN is a value that is missing, and the
        rest of its row counts: exact EM on what is observed. An infinity is then an error.
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
        Rows of the sample on which a start is found, at most; None leaves it to the rule. As many as there are, or
        more, ask for a start on all of them.
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
            help="Which covariances components may have.", flag="--covariance", section="Mixture",
        ),
    )  # fmt: skip
    reg_covar: float = declare(
        1e-6,
        Option(
            help="Added to every variance, in squared units of the data.", flag="--reg-covar", section="Mixture",
            metavar="FLOAT", number=float, rule=_reg_covar_rule, remedy="Leave it out.",
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
            help="Rows of the sample at most; as many as there are: start on all.", flag="--start-rows", metavar="N",
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
        "error",
        Option(
            help="What to do with rows that hold a NaN or an infinity.", choices=("error", "drop", "marginalize"),
            rule=_non_finite_rule,
        ),
    )  # fmt: skip
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
    weights_init: Any = declare(
        None,
        Option(
            help="Weights of the start: numbers such as 0.3,0.7; a .npy or .json file; or a model, whose weights are "
            "meant.",
            flag="--weights-init", section="Start", metavar="NUMBERS|FILE", parse=numbers_of("weights"),
            default_text=_FOUND,
        ),
    )  # fmt: skip
    means_init: Any = declare(
        None,
        Option(
            help="Means of the start, likewise: [[0,0],[8,1]].", flag="--means-init", section="Start",
            metavar="NUMBERS|FILE", parse=numbers_of("means"), default_text=_FOUND,
        ),
    )  # fmt: skip
    precisions_init: Any = declare(
        None,
        Option(
            help="Inverses of the covariances of the start, likewise.", flag="--precisions-init", section="Start",
            metavar="NUMBERS|FILE", parse=numbers_of("precisions"), default_text=_FOUND,
        ),
    )  # fmt: skip
    kernel: str | Record = declare(
        "rule",
        Option(
            help="The form of the E-step.", choices=("rule", "phi", "exact"), types=(Record,), rule=_kernel_rule,
            remedy="Leave it out for the rule.",
        ),
    )  # fmt: skip
