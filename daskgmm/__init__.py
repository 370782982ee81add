"""Gaussian mixtures by exact EM, on data that does not fit in memory, through Dask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Family", "GaussianMixture", "Selection", "register_family", "select"]

if TYPE_CHECKING:
    from daskgmm.estimator import GaussianMixture
    from daskgmm.mixture.family import Family, register_family
    from daskgmm.selection import Selection, select


def __getattr__(name: str) -> Any:
    # Workers import daskgmm.data and daskgmm.mixture only: scikit-learn costs 100 MB and a second.
    if name == "GaussianMixture":
        from daskgmm.estimator import GaussianMixture

        return GaussianMixture
    if name in ("Selection", "select"):
        from daskgmm import selection

        return getattr(selection, name)
    if name in ("Family", "register_family"):
        from daskgmm.mixture import family

        return getattr(family, name)
    raise AttributeError(f"module 'daskgmm' has no attribute {name!r}")
