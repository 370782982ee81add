"""What rows with gaps take in memory beside what any rows do."""

from __future__ import annotations

from daskgmm.kernels.block import GAP_TILE, block_length, tile_length
from daskgmm.kernels.gap_lanes import LANES, n_lanes_of
from daskgmm.kernels.tile import buffer_bytes
from daskgmm.mixture.shapes.shape import Shape

#: Matrices of gaps that are held at once, and what is made of them.
_MATRICES = 4 * 8 * (1 << 19)


def derived_bytes(shape: Shape, n_components: int, n_features: int) -> int:
    """Return the bytes that a candidate's plan derives for gaps: precisions twice, covariances, sums of products."""
    if not shape.correlates:
        return 8 * n_components * 2 * n_features
    return 8 * LANES * n_lanes_of(n_components) * 4 * n_features**2


def gap_bytes(shape: Shape, n_components: int, n_features: int, *, n_candidates: int = 1) -> int:
    """Return the bytes of buffers of a thread where every row lacks values, and some as many as rows may.

    They are the rows of a block once more, apart by whether they lack any, masks and numbers of the gaps, and
    responsibilities once more; where features are correlated also matrices, and of each candidate numbers of each gap,
    of as many as a tile may have, for each component, and the rows of a block and numbers of these for each component;
    and what longer tiles take.
    """
    tile, block = max(tile_length(n_features), GAP_TILE), block_length(n_features)
    found = (8 + 2) * block * n_features + 8 * tile * (8 * n_features + 2 * n_components)
    found += (tile // tile_length(n_features) - 1) * buffer_bytes(shape, n_components, n_features)
    if not shape.correlates:
        return found
    in_lanes = LANES * n_lanes_of(n_components)
    kept = tile_length(n_features) * n_features * in_lanes + block * (LANES * n_lanes_of(n_features) + 3 * in_lanes)
    # (NumPy has numbers of each gap of a tile twice, for its sums too, but of one candidate at a time.)
    return found + _MATRICES + 8 * max(n_candidates * kept, 2 * tile * n_features * n_components)
