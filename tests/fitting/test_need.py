"""The memory of fits in shared passes: what several models need together covers each, and waves make it fit."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from daskgmm.errors import MemoryLimitError
from daskgmm.fitting.evaluate import WAVE_BYTES
from daskgmm.fitting.need import fit_need, is_compiled
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.prospect import Prospect
from daskgmm.fitting.run import Run
from daskgmm.fitting.sample import sample_size
from daskgmm.fitting.start import starts_by, ways
from daskgmm.fitting.sweep import select_model
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.memory import peak_worker_bytes, promise_memory
from daskgmm.passes.rows import Rows
from daskgmm.sources.array_source import ArraySource
from daskgmm.sources.opening import open_rows
from daskgmm.sources.partition import MIB
from tests.fitting.driving import KINDS
from tests.passes.test_memory import Limited


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    zarr.create_array(tmp_path / "X.zarr", shape=(10**7, 16), chunks=(10**4, 16), dtype="f4")
    return Rows.plan(open_rows(tmp_path / "X.zarr"), None)


@pytest.mark.parametrize("kind", KINDS)
def test_the_need_of_several_models_covers_each(kind: str, rows: Rows) -> None:
    models = [FitOptions(n_components=k, covariance_type=kind) for k in (1, 4, 40)]
    models += [
        FitOptions(n_components=8, covariance_type="diag"),
        FitOptions(n_components=200, covariance_type="spherical"),
    ]
    models += [FitOptions(n_components=5, init_params="k-means||", n_init=7)]
    joint = fit_need(models, rows.X)
    for model in models:
        own = fit_need([model], rows.X)
        assert peak_worker_bytes(rows, joint) >= peak_worker_bytes(rows, own)
        assert joint.extra_bytes >= own.extra_bytes
        assert joint.n_components >= own.n_components
        assert joint.compiled or not own.compiled
    assert joint.state_bytes(16) >= sum(
        8 * o.n_components * o.family.shape.n_statistics(16, exact=True) for o in models
    )


@pytest.mark.parametrize("kind", KINDS)
def test_one_model_is_one_candidate_and_its_sample(kind: str, rows: Rows) -> None:
    options = FitOptions(n_components=8, covariance_type=kind)
    need = fit_need([options], rows.X)
    assert (need.shape, need.n_components, need.n_candidates) == (options.family.shape, 8, 1)
    assert need.extra_bytes == 8 * 18 * sample_size(options, 10**7, 16) > 0
    assert need.compiled == is_compiled(options, rows.X)


@pytest.mark.parametrize("kind", KINDS)
def test_restarts_on_all_rows_are_candidates_of_one_pass(kind: str, rows: Rows) -> None:
    need = fit_need([FitOptions(n_components=8, covariance_type=kind, init_params="k-means||", n_init=6)], rows.X)
    assert need.n_candidates == 6
    assert need.extra_bytes > 0
    assert fit_need([FitOptions(n_components=8, covariance_type=kind, n_init=6)], rows.X).n_candidates == 1


def test_candidates_are_no_more_than_a_wave_takes(rows: Rows) -> None:
    need = fit_need([FitOptions(n_components=50)] * 10_000, rows.X)
    assert 1 < need.n_candidates <= WAVE_BYTES // (8 * 50 * (16 * 17 // 2 + 17))


@pytest.mark.parametrize("n_models", [1, 8, 13])
def test_waves_are_halved_until_they_fit(n_models: int, rows: Rows) -> None:
    need = fit_need([FitOptions(n_components=100)] * n_models, rows.X)
    assert need.n_candidates == n_models
    found = []
    for limit in range(290, 600, 2):
        try:
            cut, wave = promise_memory(rows, need, Limited(limit * MIB))
        except MemoryLimitError:
            continue
        assert peak_worker_bytes(cut, wave) <= limit * MIB
        np.testing.assert_array_equal(cut.edges, rows.edges)
        found.append(wave.n_candidates)
    halves = [n_models >> i for i in range(5) if n_models >> i]
    assert found == sorted(found), "more memory, more candidates"
    assert set(found) == set(halves)
    assert promise_memory(rows, need, Limited(None))[1] is need


def test_where_one_candidate_does_not_fit_it_is_an_error(rows: Rows) -> None:
    need = fit_need([FitOptions(n_components=100)] * 8, rows.X)
    with pytest.raises(MemoryLimitError, match="A task must fit in a worker's memory, 150 MiB a task; got a need of "):
        promise_memory(rows, need, Limited(150 * MIB))


def test_tasks_are_cut_for_the_states_of_a_wave(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fewer candidates a wave has, the smaller the states that a task sends, and the fewer partitions it takes."""
    asked: list[int] = []
    in_tasks = Rows.in_tasks

    def noting(self: Rows, *, state_bytes: int, n_threads: int | None) -> Rows:
        asked.append(state_bytes)
        return in_tasks(self, state_bytes=state_bytes, n_threads=n_threads)

    monkeypatch.setattr(Rows, "in_tasks", noting)
    need = fit_need([FitOptions(n_components=100)] * 8, rows.X)
    limit = peak_worker_bytes(replace(rows, prefetch=False), replace(need, n_candidates=3))
    _, wave = promise_memory(rows, need, Limited(limit))
    assert 1 <= wave.n_candidates < 8
    assert asked[0] == need.state_bytes(16)
    assert asked[-1] == wave.state_bytes(16)
    assert len(asked) == 1 + int(np.log2(8 // wave.n_candidates))


def test_a_contest_holds_the_rows_outside_a_fold_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is taken beside the sample while that shows where fits end, as `tracemalloc` counts it."""
    n, d = 60_000, 20
    random = np.random.default_rng(0)
    X = random.standard_normal((n, d), dtype=np.float32)
    X[:, 0] += 2.2 * (random.random(n) < 0.5)
    options = FitOptions(
        n_components=2, covariance_type="spherical", n_init=1, escape=False, start_rows=2000, max_iter=8
    )
    taken, prospect = [], Run.prospect

    def traced(self: Run, i: int, **named: Any) -> Prospect | None:
        if len(taken) == 2:  # (of all rows, and of those outside a fold)
            return None
        tracemalloc.start()
        try:
            found = prospect(self, i, **named)
            taken.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        return found

    monkeypatch.setattr(Run, "prospect", traced)
    select_model(
        ArraySource(X), options, n_components=[2, 3], covariance_types=["spherical"], criterion="held_out", n_folds=5,
        executor=LocalExecutor(),
    )  # fmt: skip
    assert max(taken) > 8 * n * d * 0.75
    need = fit_need([replace(options, n_components=k) for k in (2, 3)], ArraySource(X), contest=True)
    assert max(taken) <= need.own_bytes - 8 * n * (d + 2)


def test_starts_on_all_rows_take_no_more_than_is_stated() -> None:
    """What starts take beside the sample, and the same in another order, as `tracemalloc` counts it; some whitened."""
    n, d = 60_000, 20
    X, options = np.random.default_rng(0).standard_normal((n, d)), FitOptions(n_components=4, start_rows=n)
    starts_by(ways(options, few_rows=True)[:1], X[:500], np.ones(500), options, k_means_iterations=1)  # (imports)
    tracemalloc.start()
    try:
        starts_by(ways(options, few_rows=True), X, np.ones(n), options, k_means_iterations=5)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = 8 * n * (d + 2)
    assert 4 * size < taken <= fit_need([options], ArraySource(X)).own_bytes - 2 * size


def test_what_comes_with_the_rows_of_a_contest_is_counted() -> None:
    X = ArraySource(np.zeros((30_000, 2)))
    alone, beside = (fit_need([FitOptions(start_rows=500)], X, n_columns=m, contest=True) for m in (0, 100))
    assert beside.own_bytes - alone.own_bytes >= 8 * 100 * 30_000
