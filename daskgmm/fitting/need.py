"""What the fits of some models need in a worker's memory, stated before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from dask.system import CPU_COUNT

from daskgmm.fitting.evaluate import WAVE_BYTES
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.parallel_start import N_ROUNDS, OVERSAMPLING
from daskgmm.fitting.race import ESCAPE_MOVES, stage_size
from daskgmm.fitting.sample import MOST_TASKS, ahead_size, enough_rows, race_size, sample_size, surveyed_size
from daskgmm.fitting.start import SIDE_BY_SIDE, ways
from daskgmm.kernels.gap_bytes import derived_bytes, gap_bytes
from daskgmm.kernels.kernel import Kernel
from daskgmm.kernels.tile import buffer_bytes
from daskgmm.passes.far_rows import DISTANCES
from daskgmm.passes.need import Need, takes_compiled_kernel
from daskgmm.passes.rows import Rows
from daskgmm.sources.partition import MOST_ROOTS
from daskgmm.sources.source import Source

#: The allocator keeps what the threads of a race have let go, in pieces.
KEPT_FACTOR = 1.5
#: A row with gaps is worth so many others to the compiled kernel: 1,347 rows of 12 features and 10 components, as many
#: numbers as a third of what the kernel is compiled from on, take 1.0 s with it and 1.5 without.
AS_ROWS_WITH_GAPS = 10


def fit_need(
    models: Sequence[FitOptions], X: Source, *, n_columns: int = 0, labels: bool = False, given: bool = False,
    contest: bool = False,
) -> Need:  # fmt: skip
    """Return what the fits of some models in the same passes need beside the rows.

    It is stated as for candidates that are all as large as the largest. `n_columns` numbers come with each row; with
    `labels` a survey holds the moments of their classes; `given` says that they begin with a mixture that there is; in
    a contest more rows are in the sample.
    """
    n_features = X.n_features
    sizes = [o.n_components * o.family.shape.n_statistics(n_features, exact=True) for o in models]
    largest = models[sizes.index(max(sizes))]
    total = sum(size * (o.n_init if o.starts_on_all_rows else 1) for o, size in zip(models, sizes, strict=True))
    n_candidates = min(-(-total // max(sizes)), max(1, WAVE_BYTES // (8 * max(sizes))))
    size = ahead_size if contest else sample_size
    of_columns = 8 * n_columns * max(size(o, X.n_rows, n_features) for o in models)
    beside = max(_start_bytes(o, X, contest=contest) + _kernel_bytes(o, n_features) for o in models) + of_columns
    if labels:  # (a state, what is added to it, and their sum)
        n_classes = max(max(o.label_components or (o.n_components - 1,)) + 1 for o in models)
        beside += 3 * 8 * n_classes * (n_features + 1) ** 2
    n_components = max(o.n_components for o in models)
    compiled = any(is_compiled(o, X) for o in models)
    own = _own_bytes(models, X, contest=contest) + 2 * of_columns  # (the race has the sample in another order)
    given = given or any(o.any_given for o in models)
    return Need(
        largest.family.shape, n_components, n_candidates, beside, compiled, own, device=models[0].device, given=given
    )


def _kernel_bytes(options: FitOptions, n_features: int) -> int:
    """Return the bytes that a kernel of the user's takes in a task, by what it says."""
    kernel = options.kernel
    return kernel.n_bytes(options.family.shape, options.n_components, n_features) if isinstance(kernel, Kernel) else 0


def _own_bytes(models: Sequence[FitOptions], X: Source, *, contest: bool) -> int:
    """Return the bytes of the sample, of the largest race on it, and of the candidates of all models after it.

    After the races of a contest one model after the other is seen on its rows of the sample, of which there is a copy.
    """
    n_sampled = max(surveyed_size(o, X.n_rows, X.n_features, contest=contest) for o in models)
    sample = n_sampled * 8 * (X.n_features + 2)
    started = sum(_candidate_bytes(o, X) * (o.n_init if o.starts_on_all_rows else 1) for o in models)
    searched = [_race_bytes(o, X) for o in models] + [_ahead_bytes(o, X) for o in models if contest]
    return int(sample + started + max(searched))


def _candidate_bytes(options: FitOptions, X: Source) -> int:
    """Return the bytes of a candidate between two passes.

    Four mixtures, two accepted ones and their images, each of covariances, precisions and their factors; the natural
    parameters of a plan in two layouts, and the sums of a pass.
    """
    k, shape = options.n_components, options.family.shape
    mixture = k * (X.n_features + 2) + 3 * prod(shape.array_shape(k, X.n_features))
    return 8 * (4 * mixture + 3 * k * shape.n_statistics(X.n_features, exact=True))


def _race_bytes(options: FitOptions, X: Source) -> int:
    """Return the bytes of the race among the restarts of a model beside its sample.

    The larger of two: k-means with its copies of the rows; and candidates with the sums of every task over the sample,
    the buffers of threads, and responsibilities of rows to be split. All of it beside the sample in another order.
    """
    n_rows, d, k = sample_size(options, X.n_rows, X.n_features), X.n_features, options.n_components
    if options.starts_on_all_rows:
        return options.n_init * 4 * 8 * (1 + N_ROUNDS * OVERSAMPLING * k) * (2 * d + 1)
    if not n_rows:
        return 0
    whole = n_rows >= X.n_rows
    ordered = 8 * n_rows * (d + 2)
    chosen = ways(options, few_rows=whole)
    n_ways = len(chosen)
    # (Whitened rows, and what they are made of.)
    n_copies = min(n_ways, CPU_COUNT, SIDE_BY_SIDE) + 2 * any(way.whitened for way in chosen)
    first = n_rows if whole else stage_size(0, race_size(options, X.n_rows, d), enough_rows(options, d))
    k_means = 2 * whole * ordered + n_copies * 8 * first * (d + 2)
    n_raced = max(n_ways, ESCAPE_MOVES if options.escape else 1)
    return ordered + max(k_means, _em_bytes(options, X, n_raced) + 16 * k * n_rows)


def _ahead_bytes(options: FitOptions, X: Source) -> int:
    """Return the bytes for the end of a model's fit to be seen on the sample: the rows outside a fold, and EM."""
    n_rows = ahead_size(options, X.n_rows, X.n_features)
    return 8 * n_rows * (X.n_features + 2) + _em_bytes(options, X, 1) if n_rows else 0


def _em_bytes(options: FitOptions, X: Source, n_candidates: int) -> int:
    """Return the bytes of EM of some candidates on the sample beside its rows."""
    d, k, shape = X.n_features, options.n_components, options.family.shape
    n_threads = min(CPU_COUNT, MOST_TASKS)
    sums = 8 * k * shape.n_statistics(d, exact=True) * (MOST_TASKS + 2 * n_threads)
    found = n_candidates * (_candidate_bytes(options, X) + sums) + n_threads * buffer_bytes(shape, k, d)
    if options.non_finite == "marginalize":
        found += n_candidates * derived_bytes(shape, k, d)
        found += n_threads * gap_bytes(shape, k, d, n_candidates=n_candidates)
    return int(KEPT_FACTOR * found)


def checkpoint_bytes(options: FitOptions, rows: Rows, need: Need) -> int:
    """Return the bytes of a checkpoint at most, in the making: the sample, candidates, and what is done of a pass.

    The candidates are those of all steps of a race, of which a stage keeps half, or of EM on all rows.
    """
    X = rows.X
    # (Of a sample that is drawn by a hash the number of rows is an expectation.)
    sample = 0 if options.starts_on_all_rows else int(1.05 * _start_bytes(options, X))
    n_raced = 0 if not sample else 2 * len(ways(options, few_rows=False)) + (ESCAPE_MOVES if options.escape else 0)
    n_candidates = 2 + max(n_raced, options.n_init if options.starts_on_all_rows else 1)
    search = _start_bytes(options, X) if options.starts_on_all_rows else 0
    states = min(MOST_ROOTS, rows.n_tasks) * need.state_bytes(X.n_features)
    return sample + search + n_candidates * _candidate_bytes(options, X) + states + _RECORD_BYTES


#: Manifests and history in a checkpoint.
_RECORD_BYTES = 1 << 18


def _start_bytes(options: FitOptions, X: Source, *, contest: bool = False) -> int:
    """Return the bytes that a start takes in a worker: pieces of the sample, or states of k-means|| and distances."""
    n_features = X.n_features
    if options.starts_on_all_rows:
        n_points = 1 + N_ROUNDS * OVERSAMPLING * options.n_components
        return 8 * (32 * n_points * (2 * n_features + 1) + 4 * max(DISTANCES, n_points))
    return 8 * (n_features + 2) * surveyed_size(options, X.n_rows, n_features, contest=contest)


def is_compiled(options: FitOptions, X: Source) -> bool:
    """Return whether the compiled kernel is used for a model: a matter of model and data, never of its company.

    One component takes two passes in all, which do not pay for a second of numba's start.
    """
    n_rows = X.n_rows * (AS_ROWS_WITH_GAPS if options.non_finite == "marginalize" else 1)
    return not options.is_closed_form and takes_compiled_kernel(
        n_rows, options.family.shape, options.n_components, X.n_features
    )
