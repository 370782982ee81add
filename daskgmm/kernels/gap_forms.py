"""What a plan does about gaps: the one place that asks which features are independent given the component."""

from __future__ import annotations

from daskgmm.kernels.gap_matrices import Matrices
from daskgmm.kernels.gap_scales import Scales
from daskgmm.kernels.gaps import GapForm
from daskgmm.kernels.plan import Plan


def gap_form(plan: Plan) -> GapForm:
    """Return what a plan does about gaps, made once for each process and pass."""
    if "gaps" not in plan.derived:
        independent = plan.shape.scales(plan.precisions_cholesky) is not None
        plan.derived["gaps"] = Scales(plan) if independent else Matrices(plan)
    found: GapForm = plan.derived["gaps"]
    return found
