"""Parts of the record of a model file: what a fit has found, as JSON values and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from daskgmm.kernels.support import Support
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.record import finite_or_none


def support_record(support: Support) -> dict[str, list[float | None]]:
    """Return what each component is worth as JSON values; what is not finite becomes null."""
    return {
        name: [finite_or_none(value) for value in values]
        for name, values in (("support", support.nats), ("counts", support.counts))
    }


def support_in(record: Mapping[str, Any], n_components: int) -> Support:
    """Return what `support_record` made JSON of; NaN where a file of an earlier version has none.

    Raises
    ------
    ValueError
        The numbers are not those of so many components.
    """
    unknown: Floats = np.full(n_components, np.nan)
    if "support" not in record:
        return Support(unknown, unknown)
    nats, counts = (
        np.array([missing if value is None else float(value) for value in record[name]])
        for name, missing in (("support", np.inf), ("counts", np.nan))
    )
    if not nats.shape == counts.shape == unknown.shape:
        raise ValueError(f"support and counts of {len(nats)} and {len(counts)} components")
    return Support(nats, counts)


def dropped_in(record: Mapping[str, Any], n_features: int) -> list[int]:
    """Return the dropped rows by feature that a record says; zeros where a file of an earlier version has none.

    Raises
    ------
    ValueError
        The numbers are not those of so many features.
    """
    found = [int(n) for n in record.get("n_dropped_by_feature", [0] * n_features)]
    if len(found) != n_features:
        raise ValueError(f"n_dropped_by_feature of {len(found)} features")
    return found


def unsupported_in(record: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the components that the rows of a fit do not support; none where nobody knows."""
    found = record.get("unsupported", (record.get("result") or {}).get("unsupported")) or []
    return [int(k) for k in found]
