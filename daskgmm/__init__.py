"""Gaussian mixtures by exact EM, on data that does not fit in memory, through Dask."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from daskgmm.version import __version__ as __version__

__all__ = [
    "Accelerator",
    "BayesianGaussianMixture",
    "Family",
    "GaussianMixture",
    "Kernel",
    "Prior",
    "Reader",
    "Selection",
    "Source",
    "StoppingRule",
    "Verdict",
    "open_rows",
    "register_family",
    "register_source",
    "select",
]

if TYPE_CHECKING:
    from daskgmm.bayesian import BayesianGaussianMixture
    from daskgmm.estimator import GaussianMixture
    from daskgmm.fitting.stopping import StoppingRule, Verdict
    from daskgmm.kernels.kernel import Kernel
    from daskgmm.mixture.acceleration import Accelerator
    from daskgmm.mixture.family import Family, register_family
    from daskgmm.mixture.prior import Prior
    from daskgmm.selection import Selection, select
    from daskgmm.sources.opening import open_rows
    from daskgmm.sources.registry import register_source
    from daskgmm.sources.source import Reader, Source

# Workers import nothing above daskgmm.passes: scikit-learn costs 100 MB and a second.
_PLACES = {
    "Accelerator": "daskgmm.mixture.acceleration",
    "BayesianGaussianMixture": "daskgmm.bayesian",
    "Family": "daskgmm.mixture.family",
    "GaussianMixture": "daskgmm.estimator",
    "Kernel": "daskgmm.kernels.kernel",
    "Prior": "daskgmm.mixture.prior",
    "Reader": "daskgmm.sources.source",
    "Selection": "daskgmm.selection",
    "Source": "daskgmm.sources.source",
    "StoppingRule": "daskgmm.fitting.stopping",
    "Verdict": "daskgmm.fitting.stopping",
    "open_rows": "daskgmm.sources.opening",
    "register_family": "daskgmm.mixture.family",
    "register_source": "daskgmm.sources.registry",
    "select": "daskgmm.selection",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'daskgmm' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
