"""How a fit is cited: the program in its version, the methods that the fit used, and the fit itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What a fit used, by the value of an option of it or by the criterion of its selection.
_OF_ACCELERATION = {
    "squarem": "Varadhan and Roland 2008, Scandinavian Journal of Statistics 35, 335-353, "
    "doi:10.1111/j.1467-9469.2007.00585.x (SQUAREM)"
}
_OF_CRITERION = {
    "bic": "Schwarz 1978, The Annals of Statistics 6, 461-464, doi:10.1214/aos/1176344136 (BIC)",
    "aic": "Akaike 1974, IEEE Transactions on Automatic Control 19, 716-723, doi:10.1109/TAC.1974.1100705 (AIC)",
    "icl": "Biernacki, Celeux and Govaert 2000, IEEE Transactions on Pattern Analysis and Machine Intelligence 22, "
    "719-725, doi:10.1109/34.865189 (ICL)",
    "bound": "Attias 2000, Advances in Neural Information Processing Systems 12, 209-215 (variational Bayes)",
}
_EM = (
    "Dempster, Laird and Rubin 1977, Journal of the Royal Statistical Society B 39, 1-38, "
    "doi:10.1111/j.2517-6161.1977.tb01600.x (EM)"
)


def citation(record: Mapping[str, Any], checksum: str) -> list[str]:
    """Return sentences that cite the fit of a model's record."""
    version = (record.get("provenance") or {}).get("daskgmm")
    program = f"daskgmm {version}" if version else "daskgmm"
    options, selection = record.get("options") or {}, record.get("selection") or {}
    methods = [_EM]
    methods += [found for found in (_OF_ACCELERATION.get(str(options.get("acceleration"))),) if found]
    methods += [found for found in (_OF_CRITERION.get(str(selection.get("criterion"))),) if found]
    return [
        f"{program}: Gaussian mixtures by exact EM, on data that does not fit in memory, through Dask. "
        "Computer program by the daskgmm developers.",
        f"Methods: {'; '.join(methods)}.",
        f"This mixture: SHA-256 of its parameters {checksum}.",
    ]
