"""The noise of a fit: its volume, once the sample is known, and models that begin with it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace

from daskgmm.errors import DataError
from daskgmm.fitting.model import Model
from daskgmm.fitting.sample import Sample
from daskgmm.mixture.noise import Noise, box_of
from daskgmm.mixture.scaling import Scaling
from daskgmm.sources.source import Source

logger = logging.getLogger("daskgmm")


def noise_over(sample: Sample, X: Source) -> Noise:
    """Return noise over the robust box of a sample of rows, of weight zero."""
    found = box_of(sample.X, sample.weights, weight=0.0) if len(sample) else None
    if found is None:
        raise DataError(
            "`X`",
            "vary in each direction of its features where the volume of the noise is to be found",
            f"{len(sample):,} rows of {X.label} in {X.n_features} features that do not",
            "Give a volume as `noise`, or leave out features that are constant or that others determine.",
        )
    return found


def beside_noise(model: Model, scaling: Scaling | None, box: Callable[[], Noise]) -> Model:
    """Return a model whose options know the volume of the noise, in units in which passes see the rows.

    A mixture to go on from keeps its own noise; it gets one, or loses it, where the options say so.
    """
    options, warm = model.options, model.warm
    if not options.noise:
        return model if warm is None else replace(model, warm=(warm[0].of_components, warm[1]))
    weight = options.noise_weight_init
    if warm is not None and warm[0].noise is not None:
        found = warm[0].noise if scaling is None else scaling.mapped(warm[0]).noise
    elif isinstance(options.noise, Noise):
        found = options.noise
    elif options.noise is True:
        found = box().with_weight(weight)
    else:
        log_volume = math.log(float(options.noise))  # type: ignore[arg-type]
        if scaling is not None:
            log_volume -= sum(map(math.log, scaling.scale.tolist()))
        found = Noise(weight, log_volume)
    if found is None:
        raise ValueError("noise must be known by then; got None.")
    in_units = found if scaling is None else found.moved(scaling.shift, scaling.scale)
    logger.info("Noise begins with %s.", in_units)
    if warm is not None and warm[0].noise is None:
        warm = warm[0].beside_noise(in_units), warm[1]
    return replace(model, options=replace(options, noise=found), warm=warm)
