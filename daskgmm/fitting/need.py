"""What the fits of some models need in a worker's memory, stated before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from daskgmm.data.executor import Executor
from daskgmm.data.memory import Need, check_memory, takes_compiled_kernel
from daskgmm.data.rows import Rows
from daskgmm.data.source import Source
from daskgmm.errors import MemoryLimitError
from daskgmm.fitting.evaluate import WAVE_BYTES
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.sample import sample_size


def fit_need(models: Sequence[FitOptions], X: Source) -> Need:
    """Return what the fits of some models in the same passes need beside the rows.

    It is stated as for candidates that are all as large as the largest.
    """
    n_features = X.n_features
    sizes = [o.n_components * o.kind.n_statistics(n_features, exact=True) for o in models]
    largest = models[sizes.index(max(sizes))]
    n_candidates = min(-(-sum(sizes) // max(sizes)), max(1, WAVE_BYTES // (8 * max(sizes))))
    sample = 8 * (n_features + 2) * max(sample_size(o, X.n_rows, n_features) for o in models)
    n_components = max(o.n_components for o in models)
    return Need(largest.kind, n_components, n_candidates, sample, any(is_compiled(o, X) for o in models))


def is_compiled(options: FitOptions, X: Source) -> bool:
    """Return whether the compiled kernel is used for a model: a matter of model and data, never of its company."""
    return takes_compiled_kernel(X.n_rows, options.kind, options.n_components, X.n_features)


def in_waves(rows: Rows, need: Need, executor: Executor) -> tuple[Rows, Need]:
    """Return the rows as tasks, and the need of a wave: as many candidates in a pass as the workers' memory allows."""
    while True:
        cut = rows.in_tasks(state_bytes=need.state_bytes(rows.X.n_features), n_threads=executor.n_threads())
        try:
            return check_memory(cut, need, executor), need
        except MemoryLimitError:
            if need.n_candidates == 1:
                raise
        need = replace(need, n_candidates=need.n_candidates // 2)
