"""Points of a grid as rows: any cells, any ranges, against the cells written out one by one."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from daskgmm.sources.grid import Grid, same_order


def written_out(grid: Grid) -> list[np.ndarray]:
    """The points of each cell, as their numbers in C order."""
    points = np.arange(grid.n_rows).reshape(grid.shape)
    lows = product(*(range(0, n, c) for n, c in zip(grid.shape, grid.cell, strict=True)))
    return [points[tuple(slice(a, a + c) for a, c in zip(low, grid.cell, strict=True))].ravel() for low in lows]


shapes = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=4)


@given(shapes, st.data())
@settings(max_examples=150, deadline=None)
def test_rows_are_the_points_cell_by_cell(lengths: list[tuple[int, int]], data: Any) -> None:
    shape, cell = zip(*lengths, strict=True)
    grid = Grid(shape, tuple(min(n, c) for n, c in zip(shape, cell, strict=True)))
    cells = written_out(grid)
    rows = np.concatenate(cells)
    assert (grid.n_rows, grid.n_cells) == (len(rows), len(cells))
    assert_array_equal(grid.edges(), np.cumsum([0, *map(len, cells)]))
    assert [grid.cell_of(row) for row in range(len(rows))] == [i for i, one in enumerate(cells) for _ in one]
    assert grid.is_in_c_order == bool((rows == np.arange(len(rows))).all())
    assert_array_equal(grid.to_grid(rows), np.arange(len(rows)).reshape(shape))
    start = data.draw(st.integers(0, len(rows) - 1))
    stop = data.draw(st.integers(start + 1, len(rows)))
    points, found, last = np.arange(grid.n_rows).reshape(shape), [], None
    for first, box in grid.boxes(start, stop):
        found += [points[box][one].ravel() for one in grid.cells(box)]
        assert last is None or first == last
        last = first + sum(map(len, found[-sum(1 for _ in grid.cells(box)) :]))
    whole = range(grid.cell_of(start), grid.cell_of(stop - 1) + 1)
    assert_array_equal(np.concatenate(found), np.concatenate([cells[i] for i in whole]))


def test_a_million_cells_cost_nothing() -> None:
    edges = Grid((10**5, 10**5), (10, 10)).edges()
    assert len(edges) <= 2**20 + 1
    assert (np.diff(edges) > 0).all()
    assert edges[-1] == 10**10


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (None, None, True),
        (Grid((4, 6), (2, 6)), None, True),
        (Grid((4, 6), (4, 2)), None, False),
        (Grid((4, 6), (4, 2)), Grid((4, 6), (4, 2)), True),
        (Grid((4, 6), (4, 2)), Grid((4, 6), (4, 3)), False),
        (Grid((4, 6), (2, 6)), Grid((4, 6), (1, 6)), True),
        (Grid((4, 6), (2, 6)), Grid((6, 4), (2, 4)), False),
    ],
)
def test_which_rows_are_of_the_same_points(one: Any, other: Any, same: bool) -> None:
    assert same_order(one, other) is same
    assert same_order(other, one) is same
