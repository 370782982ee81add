"""What the commands do that make a model of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from daskgmm.cli.outputs import check_place, finished_fit
from daskgmm.errors import OptionError
from daskgmm.estimator import GaussianMixture
from daskgmm.places.log import say
from daskgmm.sources.columns import chosen_features
from daskgmm.stores.model_file import Model, checksum, load_model, save_model

Result = dict[str, Any]


def marginal(model: str, output: str, *, features: tuple[str, ...], force: bool) -> Result:
    """Return the result of a marginal mixture, which is then at `output`."""
    asked = {"features": list(features)}
    return _made("marginal", model, output, asked, lambda gm: gm.marginal(features_of(gm, features)), force=force)


def condition(model: str, output: str, *, given: dict[str, float], force: bool) -> Result:
    """Return the result of a conditional mixture, which is then at `output`."""

    def make(gm: GaussianMixture) -> GaussianMixture:
        return gm.condition(features_of(gm, tuple(given), given=True), list(given.values()))

    return _made("condition", model, output, {"given": given}, make, force=force)


def reduce(model: str, output: str, *, components: int, force: bool) -> Result:
    """Return the result of a mixture of fewer components, which is then at `output`."""
    asked = {"components": components}
    return _made("reduce", model, output, asked, lambda gm: gm.reduced(components), force=force)


def _made(
    command: str, model: str, output: str, asked: Result,
    make: Callable[[GaussianMixture], GaussianMixture], *, force: bool,
) -> Result:  # fmt: skip
    check_place(output, inputs={"MODEL": model})
    fitted = load_model(model)
    now = {"command": command, "options": asked, "input": {"model": checksum(fitted.parameters)}}
    stored = finished_fit(output, now, force=force)
    if stored is not None:
        say(f"{output} is complete, from the same model and options: nothing to do (--force does it again).")
        return {**stored, "output": output, "skipped": True}
    made = make(GaussianMixture.load(model))
    p = made._parameters()
    result = {
        "command": command,
        "status": "done",
        **asked,
        "components": p.n_components,
        "covariance": p.family.name,
        "features": p.n_features,
        "feature_names": [str(name) for name in getattr(made, "feature_names_in_", ())] or None,
        "weights": p.weights.tolist(),
        **({"groups": made.groups_.tolist()} if hasattr(made, "groups_") else {}),
        "output": output,
    }
    record = {**made._model().record, **now, "result": result}
    save_model(Model(p, record), output, overwrite=force)
    return {**result, "skipped": False}


def features_of(gm: GaussianMixture, named: tuple[str, ...], *, given: bool = False) -> list[str | int]:
    """Return features as Python has them: numbers from 1 become those from 0, where features have no names.

    With `given` they are known, by --given, and others must be left.
    """
    argument, n_features = "--given" if given else "features", np.shape(gm.means_)[1]
    found: list[str | int] = list(named)
    if hasattr(gm, "feature_names_in_"):
        chosen_features(found, [str(name) for name in gm.feature_names_in_], argument=argument)
    else:
        for name in named:
            if not name.isdecimal() or not 1 <= int(name) <= n_features:
                must = f"be numbers from 1 to {n_features}: this model's features have no names"
                raise OptionError(f"`{argument}`", must, repr(name))
        found = [int(name) - 1 for name in named]
    if given and len(set(found)) == n_features:
        raise OptionError("--given", "leave a feature that is not known", "all of them", "Name fewer.")
    return found
