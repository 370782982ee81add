"""What a pass says of itself: what it needs beside its rows, stated before anything is read."""

from __future__ import annotations

from dataclasses import dataclass

import dask

from daskgmm.kernels.loops import can_compile
from daskgmm.mixture.shapes.shape import Shape

#: Rows times components times numbers of Phi from which on the compiled kernel is taken: 100,000 rows of two features
#: with eight components. numba's start, half a second once a process, is worth more than a first fit gains there, and
#: less than what all later ones do.
COMPILED_FROM = 4_000_000


@dataclass(frozen=True)
class Need:
    """What a pass needs beside its rows.

    Attributes
    ----------
    shape, n_components : Shape, int
        Of a candidate.
    n_candidates : int
        Candidates that share a pass.
    extra_bytes : int
        Bytes that a worker holds beside: pieces of a sample, a chunk of predictions.
    own_bytes : int
        Bytes that the process holds which begins the passes: the sample, and what is begun on it.
    compiled : bool
        Whether the pass uses the compiled kernel.
    by_partition : bool
        Whether each partition is a task: it writes what it finds, and no state is worth keeping from the network.
    device : {"cpu", "cuda", "auto"}
        What is to compute: a process with a card takes more memory of its own too.
    given : bool
        Whether the components are those of a mixture that there is: fewer, or other ones, cannot be asked for.
    """

    shape: Shape
    n_components: int
    n_candidates: int = 1
    extra_bytes: int = 0
    compiled: bool = False
    own_bytes: int = 0
    by_partition: bool = False
    device: str = "cpu"
    given: bool = False

    @property
    def may_shrink(self) -> bool:
        """Whether who asks may ask for fewer components."""
        return not self.given and self.n_components > 1

    def state_bytes(self, n_features: int) -> int:
        """Return the bytes of the states of all candidates, in either form."""
        return self.n_candidates * 8 * (self.n_components * self.shape.n_statistics(n_features, exact=True) + 3)


def takes_compiled_kernel(n_rows: float, shape: Shape, n_components: int, n_features: int) -> bool:
    """Return whether passes use the compiled kernel: a function of data, model and configuration.

    Dask's configuration "daskgmm.compiled" (DASK_DASKGMM__COMPILED in the environment) forces it on or off. A number of
    rows that is not known, NaN, counts as large.
    """
    wanted = dask.config.get("daskgmm.compiled", None)
    if wanted is not None:
        return bool(wanted)
    n_values = n_rows * n_components * shape.n_statistics(n_features, exact=False)
    return not n_values < COMPILED_FROM and can_compile()
