"""Ways out of a poor local optimum: two components become one, and a third becomes two, where that promises a gain.

EM moves components a little at a time: two that share one group of rows, and one that spans two groups, stay so. Such a
mixture is a maximum of the likelihood all the same; a step over the valley needs one component less here and one more
there at once (Ueda, Nakano, Ghahramani and Hinton 2000, doi:10.1162/089976600300015088). What each costs and gains is
computed here on rows in memory; EM then settles the proposals, and the likelihood says which to keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import CollapsedComponentError
from daskgmm.fitting.merge import Merge, Outlook
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.split import NOISE, Split

#: Without a component less where there is none more.
Move = tuple[Split, Merge | None]

#: A single move is proposed where its cost is less than the gain of the split on the rows that it was fitted to; where
#: there is a gain on other rows too, up to so many times that. It is what a split gives if nothing else moves, and EM
#: often makes much more of it (photographs: +0.015 nats of a move whose cost was four times its gain). Without a gain
#: on other rows there is nothing to hope for (Gaussians of 16 features, 470 rows each: all such moves lost).
HOPE = 20.0


def exchanges(outlook: Outlook, found: Sequence[Split], spikes: NDArray[np.bool_]) -> list[Move]:
    """Return moves that can all be made at once, no component in two of them, the most promising first.

    Each takes a component from where it is worth least to where a split gains most: it gains more than is lost, or what
    is taken away is a spike.

    Parameters
    ----------
    outlook : Outlook
        Of a mixture at, or near, a maximum of the likelihood of some rows.
    found : sequence of Split
        Of its components, their gains on rows that they were not fitted to.
    spikes : (n_components,), bool
        Components whose likelihood is worth nothing: they go first, at any price, and are not split.
    """
    spikes = np.append(spikes, False)  # (the noise, which is last, is none)
    to_split = sorted((s for s in found if not spikes[s.k]), key=lambda s: -s.gain)
    to_go = sorted(outlook.merges, key=lambda m: (not (spikes[m.i] or spikes[m.j]), m.cost))
    taken = np.zeros(len(spikes), dtype=bool)
    moves: list[Move] = []
    for split in to_split:
        if taken[split.k]:
            continue
        if not split.adds:
            if split.gain > 0 and not taken[NOISE]:
                moves.append((split, None))
                taken[[split.k, NOISE]] = True
            continue
        for merge in to_go:
            if taken[merge.i] or taken[merge.j] or split.k in (merge.i, merge.j):
                continue
            if merge.cost < split.gain or spikes[merge.i] or spikes[merge.j]:
                moves.append((split, merge))
                taken[[split.k, merge.i, merge.j]] = True
            break
    return moves


def moved(parameters: Parameters, moves: Sequence[Move]) -> Parameters | None:
    """Return the mixture after moves of which none meets another; None where it is singular or not finite."""
    p = parameters
    weights, means, covariances = p.weights.copy(), p.means.copy(), p.covariances.copy()
    for split, merge in moves:
        if merge is not None:
            merge.write(p.shape, weights, means, covariances)
        split.write(p, split.k if merge is None else merge.j, weights, means, covariances)
    try:
        left = p.with_more_noise(sum(split.given(p) for split, _ in moves))
        child = left.changed(weights, means, p.family.together(weights / weights.sum(), covariances))
    except CollapsedComponentError:
        return None
    finite = (child.weights, child.means, child.covariances, child.precisions_cholesky)
    return child if all(np.isfinite(a).all() for a in finite) else None


def proposals(parameters: Parameters, outlook: Outlook, splits: Sequence[Split], *, n_most: int) -> list[Parameters]:
    """Return mixtures of as many components that EM may take to a higher log-likelihood, the most promising first.

    In each, two components of the given mixture are merged (or one that is hardly needed is dropped) and another is
    split in two, or is found among the rows of the noise. None is given where no such move promises a gain.

    Parameters
    ----------
    parameters : Parameters
        A mixture at, or near, a maximum of the likelihood of some rows.
    outlook : Outlook
        Of the mixture.
    splits : sequence of Split
        Of its components.
    n_most : int
        Number of mixtures at most; they split different components as far as there are such.
    """
    found: list[Parameters] = []
    if parameters.n_components < 3 and parameters.noise is None:
        return found
    for move in _ranked(splits, outlook.merges):
        child = moved(parameters, [move])
        if child is not None:
            found.append(child)
        if len(found) == n_most:
            break
    return found


def _ranked(splits: Sequence[Split], merges: Sequence[Merge]) -> Iterator[Move]:
    """Yield the moves that promise a gain: the best of each component to split, then the second best, and so on."""
    moves = [_in_order(split, merges) for split in splits]
    for turn in range(max(map(len, moves), default=0)):
        yield from sorted((own[turn] for own in moves if turn < len(own)), key=_cost)


def _in_order(split: Split, merges: Sequence[Merge]) -> list[Move]:
    """Return the moves of one split that promise a gain, the cheapest first."""
    if not split.adds:
        return [(split, None)]
    most = (HOPE if split.gain > 0 else 1.0) * split.hope
    found = [m for m in merges if split.k not in (m.i, m.j) and m.cost < most]
    return [(split, m) for m in sorted(found, key=lambda m: m.cost)]


def _cost(move: Move) -> float:
    split, merge = move
    return (0.0 if merge is None else merge.cost) - split.hope
