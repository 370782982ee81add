"""Which class of a pass computes on which device; what is for a card is imported for one alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daskgmm.kernels.prediction import Predictor


def pass_on(device: str, work: type[Any]) -> type[Any]:
    """Return the class that does the work of a pass on a device, "cpu" or "cuda"."""
    if device == "cpu":
        return work
    from daskgmm.kernels.cuda_passes import ON_CARD

    return ON_CARD[work]


def predictor_on(device: str, predictor: Predictor) -> Predictor:
    """Return a predictor that predicts on a device, "cpu" or "cuda"."""
    if device == "cpu":
        return predictor
    from daskgmm.kernels.cuda_passes import CardPredictor

    return CardPredictor(predictor.plan, predictor.what)
