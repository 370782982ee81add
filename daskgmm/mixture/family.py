"""The families of covariances that are known: scikit-learn's four, mclust's fourteen, low rank; and where to add one.

A shape (`shapes/`) says how second moments are packed and computed; many families share one. To add a family, derive
from `Family`, and give an object of the class to `register_family`, or to `covariance_type` itself:

    from daskgmm.mixture.shapes.diagonal import DIAGONAL

    class Floor(daskgmm.Family):  # variances of at least 1
        name, shape = "floor", DIAGONAL

        def n_parameters(self, n_components, n_features):
            return n_components * n_features

        def maximise(self, counts, central, previous):
            return np.maximum(central, 1.0)

Only shapes travel to workers: a family is needed nowhere but where the fit runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from numbers import Integral
from typing import Any

from daskgmm.errors import OptionError, as_typed
from daskgmm.mixture.families.family import Family as Family
from daskgmm.mixture.families.low_rank import LOW_RANK, NOISES, low_rank_called, low_rank_name
from daskgmm.mixture.families.plain import PLAIN
from daskgmm.mixture.families.volume_shape_orientation import VOLUME_SHAPE_ORIENTATION
from daskgmm.mixture.shapes.shape import Shape

_FAMILIES: dict[str, Family] = {family.name: family for family in (*PLAIN, *VOLUME_SHAPE_ORIENTATION)}
_OWN = tuple(_FAMILIES)
#: What stands for several families where they are compared.
GROUPS = {"mclust": tuple(family.name for family in VOLUME_SHAPE_ORIENTATION)}


def register_family(family: Family) -> None:
    """Make a family known by its name: to `covariance_type`, `--covariance`, model files and checkpoints.

    In this process only, where the fit begins: not in the command `daskgmm`, which imports nothing of yours. A family
    that was registered under the name before is replaced.

    Parameters
    ----------
    family : Family
        An object of a class that derives from `daskgmm.Family`.
    """
    if not isinstance(family, Family):
        raise OptionError("family", "be an object of a class derived from daskgmm.Family", repr(family))
    if not (isinstance(getattr(family, "name", None), str) and isinstance(getattr(family, "shape", None), Shape)):
        raise OptionError("a family", "have a name and a shape", repr(family), "Set name, a text, and shape, a Shape.")
    name = family.name
    if not re.fullmatch(r"[\w.-]+", name):
        raise OptionError("name of a family", "be letters, digits, '.', '-' and '_'", repr(name))
    if (name in _OWN and _FAMILIES[name] is not family) or name in GROUPS or name.split("-")[0] == LOW_RANK:
        raise OptionError("name of a family", "not be that of one of daskgmm's own", repr(name), "Choose another.")
    _FAMILIES[name] = family


def family_names() -> tuple[str, ...]:
    """Return the names of all families that are known here; "lowrank" is one for each number of factors."""
    return (*_FAMILIES, LOW_RANK)


def is_family(name: str) -> bool:
    """Return whether a family is known by this name, or will be with a number of factors."""
    return name in family_names() or low_rank_called(name) is not None


def family_called(name: str) -> Family:
    """Return the family of this name; an OptionError where none is registered."""
    family = (_FAMILIES.get(name) or low_rank_called(name)) if isinstance(name, str) else None
    if family is not None:
        return family
    if name == LOW_RANK:
        raise OptionError("`n_factors`", f"be given with `covariance_type` {LOW_RANK}", None, "Take `n_factors` 2.",
            typed="none",
        )  # fmt: skip
    if isinstance(name, str) and name in GROUPS:
        raise OptionError(
            "`covariance_type`",
            "be one family",
            f"{name!r}, which stands for {len(GROUPS[name])}",
            "Compare them: select.",
        )
    raise OptionError(
        "`covariance_type`",
        f"be one of {', '.join(family_names())}",
        repr(name),
        "Register another family first: daskgmm.register_family. Or give an object of it.",
    )


def family_of_shape(shape: Shape) -> Family:
    """Return the family that has all covariances of a shape."""
    return next(family for family in PLAIN if family.shape == shape)


def family_of(covariance_type: str | Family, n_factors: int | None = None, factor_noise: str = NOISES[0]) -> Family:
    """Return the family that a covariance_type asks for; one that is given itself is registered by that.

    Parameters
    ----------
    n_factors : int or None
        For low rank alone; None where its name says it, as lowrank-3 does.
    factor_noise : {"isotropic", "feature"}
    """
    if isinstance(covariance_type, type) and issubclass(covariance_type, Family):
        raise OptionError(
            "`covariance_type`", "be an object", f"the class {covariance_type.__name__}", "Give an object of it."
        )
    if isinstance(covariance_type, Family):
        if low_rank_called(covariance_type.name) is not covariance_type:
            register_family(covariance_type)
        covariance_type = covariance_type.name
    if covariance_type == LOW_RANK and n_factors is not None:
        return family_called(low_rank_name(n_factors, factor_noise))
    found = family_called(covariance_type)
    of_name = low_rank_name(n_factors, factor_noise) if n_factors is not None else None
    if n_factors is not None and found.name not in (of_name, low_rank_name(n_factors, NOISES[1])):
        raise OptionError(
            "`n_factors`", f"be left out with `covariance_type` {found.name}", n_factors, f"{LOW_RANK} has factors."
        )
    if factor_noise != NOISES[0] and (low_rank_called(found.name) is None or not found.name.endswith(factor_noise)):
        raise OptionError(
            "`factor_noise`",
            f"be left out with `covariance_type` {found.name}",
            repr(factor_noise),
            f"{LOW_RANK} has factors.",
            typed=factor_noise,
        )
    return found


def families_of(
    covariance_types: Iterable[str | Family],
    n_factors: int | Iterable[int] | None = None,
    factor_noise: str = NOISES[0],
) -> list[str]:
    """Return the names of the families to compare.

    n_factors, one or several, are those of `lowrank` among them, which there must be.
    """
    kinds = [each for kind in covariance_types for each in _group(kind)]
    if LOW_RANK not in kinds and (n_factors is not None or factor_noise != NOISES[0]):
        name, value = ("n_factors", n_factors) if n_factors is not None else ("factor_noise", factor_noise)
        must = f"be left out where {LOW_RANK} is no `covariance_type`"
        raise OptionError(f"`{name}`", must, repr(value), "Leave it out.", typed=as_typed(value))
    return [
        found.name
        for kind in kinds
        for found in (
            [family_of(kind, q, factor_noise) for q in _several(n_factors)]
            if isinstance(kind, str) and kind == LOW_RANK
            else [family_of(kind)]
        )
    ]


def _several(n_factors: Any) -> list[int | None]:
    """Return numbers of factors, one or several, as a list."""
    several = isinstance(n_factors, Iterable) and not isinstance(n_factors, str)
    found = list(n_factors) if several else [n_factors]
    if not found or any(not isinstance(q, Integral) or isinstance(q, bool) or q < 1 for q in found if q is not None):
        raise OptionError("`n_factors`", "be an integer of at least 1, or several", repr(n_factors), "Take [1, 2, 3].")
    return [None if q is None else int(q) for q in found]


def _group(kind: str | Family) -> tuple[str | Family, ...]:
    return GROUPS.get(kind, (kind,)) if isinstance(kind, str) else (kind,)
