"""The kinds of pictures of a mixture, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from daskgmm.errors import OptionError
from daskgmm.fitting.sample import Sample
from daskgmm.mixture.parameters import Parameters
from daskgmm.pictures.corner import plot_corner
from daskgmm.pictures.plot import check_matplotlib, drawable, plot_history, plot_selection, plot_weights
from daskgmm.sources.columns import chosen_features
from daskgmm.stores.model_file import Model
from daskgmm.stores.model_record import support_in, unsupported_in

if TYPE_CHECKING:
    from daskgmm.pictures.picture import Picture

KINDS = ("corner", "weights", "history", "criterion")


def draw(
    model: Model, kind: str = "corner", *, only: Sequence[str | int] | None = None, sample: Sample | None = None
) -> Picture:
    """Return a picture of a mixture, as `GaussianMixture.plot` does; rows come as a sample."""
    p, record = model.parameters, model.record
    check_drawn(model, kind, only=only, rows=sample is not None)
    if kind == "corner":
        names = feature_names_of(model)
        return plot_corner(p, names, chosen=_chosen(only, names), sample=sample)
    if kind == "weights":
        return plot_weights(p.weights, support_in(record, p.n_components).counts, unsupported_in(record))
    if kind == "history":
        return plot_history(record["history"])
    return plot_selection(record["selection"]["table"], record["selection"]["criterion"])


def check_drawn(model: Model, kind: str, *, only: Sequence[str | int] | None, rows: bool) -> None:
    """Raise an OptionError for what cannot be drawn, before any row is read.

    That is a kind that is none, or of which the model knows nothing; rows or features beside a kind that shows none of
    them; features that the model has not; anything without matplotlib.
    """
    if kind not in KINDS:
        raise OptionError("`kind`", f"be one of {', '.join(KINDS)}", repr(kind))
    if kind != "corner" and (rows or only is not None):
        raise OptionError(
            "`kind`", "be corner where rows or features are named", kind, "Leave them out: that picture shows neither."
        )
    _chosen(only, feature_names_of(model))
    missing = {
        "history": ("passes over all rows", drawable(model.record.get("history") or []), "A fit has it"),
        "criterion": ("a selection", model.record.get("selection"), "The model that the command select writes has it"),
    }
    what, found, remedy = missing.get(kind, ("", True, ""))
    if not found:
        raise OptionError("`kind`", "be of what the model holds", f"{kind}, of a model without {what}", f"{remedy}.")
    check_matplotlib("A plot")


def _chosen(only: Sequence[str | int] | None, names: Sequence[str]) -> list[int] | None:
    return None if only is None else chosen_features(only, names, argument="only")


def feature_names_of(model: Model) -> list[str]:
    """Return the names of a model's features, or their numbers from 1 where they have none."""
    known = model.record.get("feature_names")
    return [str(name) for name in known] if known else numbered(model.parameters)


def numbered(p: Parameters) -> list[str]:
    """Return names for features that have none."""
    return [f"feature {i + 1}" for i in range(p.n_features)]
