"""What a kernel receives: counts of rows and weights, the length of a block, buffers."""

import numpy as np
import pytest

from daskgmm.kernels.block import Block, Workspace, block_length, tile_length


@pytest.mark.parametrize(
    ("n_features", "length"),
    [
        *[(1, 8192), (4, 8192), (5, 1024)],
        *[(17, 1024), (32, 1024), (33, 256), (64, 256), (1000, 256)],
    ],
)
def test_lengths_are_functions_of_the_number_of_features(n_features, length):
    assert tile_length(n_features) == length
    assert block_length(n_features) == 8 * length


def test_tiles_are_the_block_in_pieces():
    x, weights = np.arange(4 * 20_000.0).reshape(4, -1), np.arange(20_000.0)
    dropped = np.zeros(20_000, dtype=bool)
    dropped[17_000] = True
    tiles = list(Block(x, weights, 50, dropped).tiles())
    assert [(tile.x.shape[1], tile.first_row) for tile in tiles] == [(8192, 50), (8192, 8242), (3616, 16_434)]
    np.testing.assert_array_equal(np.concatenate([tile.x for tile in tiles], axis=1), x)
    np.testing.assert_array_equal(np.concatenate([tile.weights for tile in tiles]), weights)
    assert [tile.n_rows for tile in tiles] == [8192, 8192, 3615]
    assert all(np.shares_memory(tile.x, x) for tile in tiles)
    (whole,) = Block(x[:, :8192], None, 0).tiles()
    assert whole.weights is None


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
