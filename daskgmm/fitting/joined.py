"""Pairs of components that the rows may not tell apart: one component in their place would do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from daskgmm.fitting.merge import look, without_one
from daskgmm.fitting.sample import Sample
from daskgmm.mixture.parameters import Parameters

#: A pair is looked at on all rows where its cost, less so many standard errors, may be less than its price.
DOUBT = 2.0


@dataclass(frozen=True)
class Joined:
    """A mixture in which two components are one.

    Support alone does not tell such a pair: without one of them the other stays as it is, too narrow for both.

    Attributes
    ----------
    i, j : int
        Their numbers before.
    parameters : Parameters
        The mixture of one component less.
    asked : float
        What BIC asks for the one more, nats: p_k log(n) / 2, n the sum of the row weights.
    nats : float
        What the log-likelihood of all rows loses, nats; infinite until it is known.
    """

    i: int
    j: int
    parameters: Parameters
    asked: float
    nats: float = np.inf


def suspect(parameters: Parameters, sample: Sample, *, weight: float) -> Joined | None:
    """Return the mixture with those two as one that the sample tells apart least, if they may be one; else None.

    A common covariance stays, so that halves of one group are told only where they lie close. Costs some three E-steps
    on the sample.

    Parameters
    ----------
    weight : float
        Sum of the weights of all rows.
    """
    if parameters.n_components < 2 or not len(sample):
        return None
    outlook = look(parameters, sample.X, sample.weights)
    held = parameters.held
    pairs = [m for m in outlook.merges if m.i != m.j and not (held[m.i] or held[m.j])]
    if not pairs:
        return None
    best = min(pairs, key=lambda m: m.cost)
    asked = 0.5 * parameters.family.n_own(parameters.n_features) * float(np.log(weight))
    if not weight * (best.cost - DOUBT * best.spread / np.sqrt(len(sample))) < asked:
        return None
    merged = without_one(parameters, best)
    return None if merged is None else Joined(best.i, best.j, merged, asked)
