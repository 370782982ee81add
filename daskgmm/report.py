"""What a fitted mixture looks like, as text and numbers for a person."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskgmm.mixture.parameters import Parameters

Floats = NDArray[np.float64]

#: Lines and columns of the table at most; the JSON has them all.
_ROWS, _COLUMNS = 20, 5


def component_table(found: dict[str, Any]) -> str:
    """Return the components of an inspected model as lines of text, the heaviest first."""
    n_components, n_features = found["components"], found["features"]
    shown = min(n_features, _COLUMNS)
    order = sorted(range(n_components), key=lambda k: -found["weights"][k])[:_ROWS]
    means = f"mean of {'the feature' if n_features == 1 else f'features 1 to {shown}'}"
    state = {True: "converged", False: "not converged", None: "state unknown"}[found["converged"]]
    lines = [
        f"{n_components} components ({found['covariance']}), {n_features} features, "
        f"{found['free_parameters']:,} free parameters; {state} after {found['n_iter']} iterations",
        f"component   weight   condition   {means}",
    ]
    for k in order:
        row = "".join(f"{value:11.4g}" for value in found["means"][k][:shown])
        lines.append(f"{k:9d}  {found['weights'][k]:7.4f}  {found['condition_numbers'][k]:10.3g} {row}")
    if n_components > _ROWS:
        lines.append(f"... and {n_components - _ROWS} more components, of smaller weight")
    return "\n".join(lines)


def directions(parameters: Parameters, k: int) -> tuple[Floats, Floats]:
    """Return the standard deviations and directions of a component's covariance, the largest first.

    Returns
    -------
    deviations : (n_features,), float64
    vectors : (n_features, n_features), float64
        One direction a row.
    """
    root = parameters.kind.scale_noise(np.eye(parameters.n_features), parameters.covariances, k)
    _, deviations, vectors = np.linalg.svd(root)
    return deviations, vectors
