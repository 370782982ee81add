"""A fit that begins with the components of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from daskgmm.cli.input import note_weights
from daskgmm.errors import DataError, InputMissingError, OptionError
from daskgmm.fitting.prior_options import FIXABLE
from daskgmm.fitting.score import check_features
from daskgmm.mixture.family import family_of
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.variational import Posterior
from daskgmm.sources.source import Source
from daskgmm.stores.model_file import Model, load_model

#: What the option is called that names the model.
INIT_FROM = "--init-from"


@dataclass(frozen=True)
class Begun:
    """A fit that begins with a model.

    Attributes
    ----------
    how : dict
        The options of the fit.
    place : str
        Of the model; "" for none.
    model : Model or None
    warm : Parameters or None
        The mixture itself, where such a fit may go on from it: what is fixed then keeps its bits.
    command : str
    """

    how: dict[str, Any]
    place: str = ""
    model: Model | None = None
    warm: Parameters | None = None
    command: str = "fit"

    @property
    def record(self) -> dict[str, Any]:
        """What the model says beside its parameters."""
        return {} if self.model is None else self.model.record

    def check(self, X: Source, weights: Source | None) -> dict[str, str]:
        """Return where an output must not be; a DataError for rows of other features than the model's."""
        if self.model is None:
            return {}
        check_features(X, self.model.parameters, units=self.record.get("units"), names=self.record.get("feature_names"))
        if self.command == "fit":
            return {INIT_FROM: self.place}
        note_weights(self.record, weights)
        return {"MODEL": self.place}


def begun_with(place: str | None, how: Mapping[str, Any]) -> Begun:
    """Return the options of a fit with the mixture in a model file as their start, if one is named.

    Parameters
    ----------
    place : str or None
    how : mapping
        Options by their names; `n_components` and `covariance_type` among them.

    Raises
    ------
    OptionError
        It has other components than are asked for, or covariances of a kind that is no start of theirs; or part of the
        start is given otherwise.
    """
    if place is None:
        return Begun(dict(how))
    given = [name for name in FIXABLE.values() if how.get(name) is not None]
    model = _loaded(place)
    p = model.parameters
    if given:
        raise OptionError(f"`{given[0]}`", f"be left out with {INIT_FROM}", "both", f"Leave {INIT_FROM} out.")
    if how["n_components"] != p.n_components:
        must = f"be {p.n_components}, the components of {INIT_FROM}"
        raise OptionError("`n_components`", must, how["n_components"], f"Leave {INIT_FROM} out for another number.")
    factors = {name: how[name] for name in ("n_factors", "factor_noise") if name in how}
    family = family_of(how["covariance_type"], **factors)
    dense = (p.n_components, p.n_features, p.n_features)
    is_same = family.name == p.family.name
    if not is_same and not family.takes_any_start and family.shape.array_shape(*p.means.shape) != dense:
        must, got = f"be {p.family.name}, that of {INIT_FROM}, or a kind that takes any start", family.name
        raise OptionError("`covariance_type`", must, got, "Take full, or a family of mclust's such as VVI.")
    precisions = p.precisions if is_same else np.stack([_precision(p, k) for k in range(p.n_components)])
    left = 1.0 - how["noise_weight_init"] if how.get("noise") else 1.0
    start = {
        "weights_init": p.of_components.weights * left,
        "means_init": p.means,
        "precisions_init": precisions,
    }
    return Begun({**how, **start}, place, model, p if is_same and not isinstance(p, Posterior) else None)


def _loaded(place: str) -> Model:
    try:
        return load_model(place)
    except (DataError, InputMissingError) as error:
        argument, *others = error.fields
        raise type(error)(f"{INIT_FROM}: {argument}", *others) from error


def _precision(p: Parameters, k: int) -> Any:
    """Return the precision of a component as a matrix."""
    root = p.shape.scale_noise(np.eye(p.n_features), p.covariances, k)
    return np.linalg.inv(root.T @ root)
