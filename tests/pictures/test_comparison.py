"""A selection as text: no more digits than are known, what is level with the best, what lies below a smaller model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from daskgmm.pictures.comparison import digits, selection_lines, with_points_aligned
from daskgmm.pictures.plot import plot_selection


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [(0.0, 2), (1e-9, 2), (0.01, 2), (0.02, 2), (0.1, 1), (0.7, 1), (1.0, 0), (8000.0, 0), (None, 0)],
)
def test_digits_follow_the_resolution(resolution: float | None, expected: int) -> None:
    assert digits(resolution, 2) == expected


def row(k: int, bic: float, **others: Any) -> dict[str, Any]:
    """A model of 1,000 rows."""
    n_free = 6 * k - 1
    mean = -(bic - n_free * np.log(1000)) / 2000
    found = {
        "n_components": k, "covariance_type": "full", "n_free": n_free, "mean_log_likelihood": mean,
        "log_likelihood": 1000 * mean, "aic": bic, "bic": bic, "icl": bic, "held_out": None, "converged": True,
        "n_iter": 3, "reach": 1e-3, "resolution": 2.0, "tie": False, "below": None, "chosen": False,
    }  # fmt: skip
    return found | others


TABLE = [
    row(1, 7000.1234, reach=0.0, resolution=0.0),
    row(2, 6001.5678, chosen=True),
    row(3, 6002.4321, tie=True),
    row(4, 6090.9876, below=3, reach=2e-5, resolution=0.04),
    row(5, 6099.0, reach=None, resolution=None),
]


def test_text_says_what_is_known() -> None:
    (heading, *lines), said = selection_lines(TABLE, "bic", {}, {})
    bic, away, resolution = heading.index("BIC"), heading.index("BIC to best"), heading.index("resolution")
    assert [line[bic].strip() for line in lines] == ["7,000.12", "6,002", "6,002", "6,090.99", "6,099"]
    assert [line[away].strip() for line in lines] == ["+998.56", "", "+1", "+89.42", "+97"]
    assert [line[resolution] for line in lines] == ["0", "2", "2", "0.04", ""]
    assert [line[-1] for line in lines] == ["", "<- best", "level", "below 3", ""]
    points = {len(line[bic]) - len(line[bic].rstrip()) for line in lines if "." not in line[bic]}
    assert points == {3}, "points are below each other"
    text = " ".join(said)
    assert "Level with it: full with 3. Their BIC may still change by the resolution." in text
    assert "At a poor optimum: full with 4. A model of fewer components has a higher log-likelihood" in text


def test_points_stay_below_each_other_in_html() -> None:
    (_, *lines), _ = selection_lines(TABLE, "bic", {}, {})
    for before, after in zip(lines, with_points_aligned(lines), strict=True):
        assert [len(cell) for cell in after] == [len(cell) for cell in before]
        assert not any(cell.endswith(" ") for cell in after)
        assert [cell.rstrip() for cell in after] == [cell.rstrip() for cell in before]


def test_tables_of_other_versions_are_read() -> None:
    old = [{k: v for k, v in r.items() if k not in ("reach", "resolution", "tie", "below")} for r in TABLE]
    (_, *lines), said = selection_lines(old, "bic", {}, {})
    assert any("7,000.12" in cell for cell in lines[0])
    assert said == ["Best by BIC: 2 components, full."]


def test_the_picture_shows_how_far_figures_may_move_and_what_is_level() -> None:
    pytest.importorskip("matplotlib")
    (axes,) = plot_selection(TABLE, "bic").axes
    bars, rings = axes.collections
    segments = {tuple(map(tuple, np.round(segment, 4))) for segment in bars.get_segments()}
    assert ((2.0, 5999.5678), (2.0, 6001.5678)) in segments
    assert len(segments) == 3, "one is known, and of one nobody knows"
    np.testing.assert_allclose(rings.get_offsets(), [[3, 6002.4321]])
    assert [text.get_text() for text in axes.get_legend().get_texts()][-1] == "level with it"
