"""What rows with gaps take in memory beside what any rows do."""

from __future__ import annotations

from daskgmm.kernels.block import block_length, gap_tile_length, tile_length
from daskgmm.kernels.tile import buffer_bytes
from daskgmm.mixture.shapes.shape import Shape

#: Matrices of gaps that are held at once, and what is made of them.
_MATRICES = 4 * 8 * (1 << 19)


def derived_bytes(shape: Shape, n_components: int, n_features: int) -> int:
    """Return the bytes that a candidate's plan derives for gaps: precisions twice, covariances, sums of products."""
    return 8 * n_components * (4 * n_features**2 if shape.correlates else 2 * n_features)


def gap_bytes(shape: Shape, n_components: int, n_features: int) -> int:
    """Return the bytes of buffers where every row of a tile lacks values, which candidates share.

    They are the rows of a block once more, apart by whether they lack any, masks and numbers of the gaps, and
    responsibilities once more; where features are correlated also numbers of each gap for each component, half of the
    values missing, and matrices; and what longer tiles take.
    """
    tile, block = gap_tile_length(n_features), block_length(n_features)
    found = (8 + 2) * block * n_features + 8 * tile * (6 * n_features + 2 * n_components)
    if shape.correlates:
        found += 8 * tile * n_features * n_components + _MATRICES
    longer = tile // tile_length(n_features) - 1
    return found + longer * buffer_bytes(shape, n_components, n_features)
