"""A checksum of plain objects: equal for equal ones, another for others."""

from __future__ import annotations

import numpy as np

from daskgmm.sources.digest import digest


def test_times_are_told_apart() -> None:
    days = np.array(["2020-01-01", "2020-01-02", "NaT"], "M8[ns]")
    assert digest(days) == digest(days.copy())
    assert len({digest(days), digest(days[::-1]), digest(days.astype("M8[s]")), digest(days - days[0])}) == 4
