"""The options of low-rank covariances."""

from __future__ import annotations

from dataclasses import dataclass

from daskgmm.fitting.option import Option, declare
from daskgmm.mixture.record import Record


@dataclass(frozen=True)
class FactorOptions(Record):
    """Of `covariance_type="lowrank"`; others leave them as they are.

    Attributes
    ----------
    n_factors : int or None
        Directions in which the variance of a component is its own.
    factor_noise : {"isotropic", "feature"}
        Variance in all directions: the same, or each feature's own.
    """

    n_factors: int | None = declare(
        None,
        Option(
            help="Directions of --covariance lowrank in which the variance of a component is its own.",
            flag="--factors", section="Mixture", metavar="N", default_text="none", number=int, least=1,
            choices=(None,), remedy="Take 2. To compare several: select.",
        ),
    )  # fmt: skip
    factor_noise: str = declare(
        "isotropic",
        Option(
            help="The variance of --covariance lowrank beside them: the same in all directions, or each feature's own.",
            flag="--factor-noise", section="Mixture", choices=("isotropic", "feature"),
        ),
    )  # fmt: skip
