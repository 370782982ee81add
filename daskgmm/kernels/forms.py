"""Which kernel computes which components of a plan: the one place that looks at how a plan was cut."""

from __future__ import annotations

import numpy as np

from daskgmm.kernels.block import Block
from daskgmm.kernels.exact import CompiledStacked, Exact, Stacked
from daskgmm.kernels.kernel import Integers, Kernel
from daskgmm.kernels.labels import has_labels
from daskgmm.kernels.phi import CompiledPhi, Phi, is_all
from daskgmm.kernels.plan import Plan

PHI, COMPILED_PHI, EXACT, STACKED, COMPILED_STACKED = Phi(), CompiledPhi(), Exact(), Stacked(), CompiledStacked()


def forms(plan: Plan) -> tuple[tuple[Kernel, Integers], ...]:
    """Return the kernels of a plan in the order in which they compute, each with the numbers of its components."""
    if "forms" not in plan.derived:
        given, own = plan.given or (None, np.zeros(plan.n_components, dtype=bool))
        found = [
            (COMPILED_PHI if plan.compiled else PHI, ~plan.exact),
            (COMPILED_STACKED if plan.compiled else STACKED, plan.stacked),
            (EXACT, plan.exact & ~plan.stacked & ~own),
            (given, own),
        ]
        plan.derived["forms"] = tuple((kernel, np.flatnonzero(which)) for kernel, which in found if which.any())
    result: tuple[tuple[Kernel, Integers], ...] = plan.derived["forms"]
    return result


def one_call(plan: Plan, rows: Block) -> CompiledPhi | None:
    """Return the kernel that does rows under this plan in one call, softmax included; None where none does."""
    ((kernel, own), *others) = forms(plan)
    if plan.classes is not None and has_labels(rows.columns):
        return None
    return kernel if isinstance(kernel, CompiledPhi) and not others and is_all(plan, own) else None
