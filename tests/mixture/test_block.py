"""What a kernel receives: counts of rows and weights, the length of a block, buffers."""

import numpy as np
import pytest

from daskgmm.mixture.block import Block, Workspace, block_length


@pytest.mark.parametrize(
    ("n_features", "length"),
    [
        *[(1, 8192), (4, 8192), (5, 1024)],
        *[(17, 1024), (32, 1024), (33, 256), (64, 256), (1000, 256)],
    ],
)
def test_block_length_is_a_function_of_the_number_of_features(n_features, length):
    assert block_length(n_features) == length


def test_a_block_counts_its_rows_and_their_weight():
    x = np.zeros((2, 5))
    assert Block(x, None, 0).n_rows == 5
    assert Block(x, None, 0).total_weight == 5.0
    dropped = np.array([False, True, False, False, True])
    block = Block(x, np.where(dropped, 0.0, 0.5), 100, dropped)
    assert (block.n_rows, block.total_weight, block.first_row) == (3, 1.5, 100)


def test_a_workspace_reuses_the_largest_buffer_of_a_name():
    work = Workspace()
    large = work.get("a", (4, 8))
    small = work.get("a", (3, 5))
    assert small.shape == (3, 5)
    assert small.flags.c_contiguous
    assert small.dtype == np.float64
    assert np.shares_memory(small, large)
    assert not np.shares_memory(work.get("b", (3, 5)), large)
    assert not np.shares_memory(work.get("a", (5, 8)), large)
