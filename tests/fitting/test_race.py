"""The race of restarts on the sample: the best wins, whatever the order of the rows, and what it costs is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from daskgmm.errors import CollapsedComponentError
from daskgmm.fitting import race as race_module
from daskgmm.fitting.annealing import PLAIN, SHRUNK
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.loop import Candidate
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.race import (
    ESCAPE_MOVES,
    ESCAPE_ROUNDS,
    FEW,
    FINAL_PASSES,
    SMALL,
    STAGE_PASSES,
    STAGES,
    Race,
)
from daskgmm.fitting.sample import Sample
from daskgmm.fitting.status import Status
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.rows import Rows
from daskgmm.passes.survey import SurveyPass, sample_threshold
from daskgmm.passes.tree import run_pass
from daskgmm.sources.opening import open_rows
from tests import oracle
from tests.fitting.driving import KINDS
from tests.kernels.driving import oracle_of
from tests.passes.test_tree import CountingExecutor, Pieces

CENTRES = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])


def three_groups(n_rows: int = 500, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return CENTRES[rng.integers(0, 3, n_rows)] + rng.standard_normal((n_rows, 2))


def sample_of(X: np.ndarray, weights: Any = None, *, step: int = 10**9, n: int = 10**9, seed: int = 0) -> Sample:
    source = Pieces(X, step)
    rows = Rows(source, None if weights is None else open_rows(weights), source.chunk_edges)
    work = SurveyPass(X.shape[1], False, seed, sample_threshold(len(X), n))
    return Sample.of(run_pass(work, rows, CountingExecutor(), name="s"), seed)


class Notes:
    """What a race has told: the candidates after each pass, and the rows that it visited for each."""

    def __init__(self) -> None:
        self.passes: list[tuple[tuple[Candidate, ...], int]] = []

    def __call__(self, candidates: Sequence[Candidate], n_rows: int, seconds: float) -> None:
        assert seconds >= 0
        self.passes.append((tuple(candidates), n_rows))

    @property
    def visits(self) -> int:
        return sum(len(candidates) * n_rows for candidates, n_rows in self.passes)


def run_race(
    sample: Sample, *, n_rows: int = 10**9, whole: bool = True, n_all: int | None = None, notes: Notes | None = None,
    **options: Any,
) -> Candidate:  # fmt: skip
    found = FitOptions(**({"n_components": 3} | options))
    return Race(
        sample, found, n_rows=n_rows, whole=whole, n_all=n_all or len(sample), compiled=False,
        note=notes or Notes(), step=lambda compute: compute(),
    ).run()  # fmt: skip


def mixture(kind: str, means: Any, variance: float = 1.0, weights: Any = None) -> Parameters:
    means = np.asarray(means, dtype=float)
    k, n_features = means.shape
    one = {"full": (k, 1, 1), "tied": (1, 1), "diag": (k, 1), "spherical": (k,)}[kind]
    unit = np.eye(n_features) if kind in ("full", "tied") else np.ones(n_features if kind == "diag" else ())
    w = np.full(k, 1 / k) if weights is None else np.asarray(weights)
    return Parameters.from_covariances(family_called(kind), w, means, variance * np.ones(one) * unit)


def stuck(kind: str) -> Parameters:
    """Return an optimum that EM never leaves: two components are one and the same, the third has two groups."""
    return mixture(kind, [CENTRES[0], CENTRES[0], (CENTRES[1] + CENTRES[2]) / 2], 4.0)


def planted(monkeypatch: pytest.MonkeyPatch, found: list[Parameters]) -> None:
    monkeypatch.setattr(race_module, "starts_by", lambda *args, **others: [(p, PLAIN) for p in found])


def mean_score(X: np.ndarray, parameters: Parameters) -> float:
    return float(oracle.log_likelihood(X, oracle_of(parameters))) / len(X)


def found_all(parameters: Parameters) -> bool:
    """Whether there is a component at each centre."""
    distances = np.linalg.norm(parameters.means[:, np.newaxis] - CENTRES, axis=2)
    return bool((distances.min(axis=0) < 0.5).all())


def same(a: Parameters, b: Parameters) -> bool:
    return all((getattr(a, n) == getattr(b, n)).all() for n in ("weights", "means", "covariances"))


def test_the_winner_goes_on_until_what_is_left_is_small_beside_the_error_of_the_sample() -> None:
    sample = sample_of(three_groups(4000))
    for tol, expected in ((1e-3, 1e-4), (1e-6, 1e-6)):  # (an error of 9 / 8000 nats)
        assert run_race(sample, whole=False, n_rows=2000, n_all=8000, tol=tol).options.tol == expected
    few = sample_of(three_groups(400))
    # Three weights, six means, and nine numbers of covariances: 18 / 2 (1 / 400 - 1 / 400,000), and a fiftieth of it.
    found = run_race(few, whole=False, n_rows=200, n_all=400_000, tol=1e-2)
    assert found.options.tol == pytest.approx(9 * (1 / 400 - 1 / 400_000) / 50)
    assert run_race(few, whole=False, n_rows=200, n_all=400_000, tol=2e-4).options.tol == 2e-4


# -- who wins ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("place", [0, 4])
def test_the_one_good_start_among_bad_ones_wins(
    kind: str, whole: bool, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = stuck(kind)
    starts = [replace(bad, means=bad.means + 1e-3 * i) for i in range(4)]  # (equal ones would count as one)
    starts.insert(place, mixture(kind, CENTRES + 2, 4.0))
    planted(monkeypatch, starts)
    best = run_race(sample_of(three_groups()), whole=whole, covariance_type=kind, n_init=5, escape=False)
    assert best.index == place
    assert found_all(best.parameters)


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_bad_optimum_is_left_by_an_escape_only(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X = three_groups()
    planted(monkeypatch, [stuck(kind)])
    options = {"covariance_type": kind, "n_init": 1}
    for whole in (True, False):
        stays = run_race(sample_of(X), whole=whole, escape=False, **options)
        leaves = run_race(sample_of(X), whole=whole, escape=True, **options)
        assert not found_all(stays.parameters)
        assert found_all(leaves.parameters)
        assert mean_score(X, leaves.parameters) > mean_score(X, stays.parameters) + 0.2


def test_a_move_is_judged_on_rows_that_neither_mixture_has_seen() -> None:
    """Few rows a parameter: what has seen the rows that it is judged on is further ahead than any move takes it."""
    X, notes = np.random.default_rng(0).standard_normal((800, 2)), Notes()
    run_race(sample_of(X), whole=False, notes=notes, n_init=1, escape=True, tol=1e-9)
    first, visited = notes.passes[: len(SHRUNK)], [n for _, n in notes.passes[len(SHRUNK) :]]
    assert {n for _, n in first} == {200}, "the first EM steps"
    judged = visited.index(200)
    assert set(visited[:judged]) == {600}
    assert visited[-1] == 800, "the best goes on on all of them"
    last = visited.index(800)
    assert set(visited[last:]) == {800}
    assert set(visited[judged:last]) - {200, 600} == {visited[last - 1]}, "what moves look at, last without a move"
    assert visited[last - 1] > 1600, "all rows twice, and splits on 600 of them"


def test_the_winner_goes_on_alone_on_the_rest_of_the_sample() -> None:
    X, notes = np.random.default_rng(0).standard_normal((8000, 2)), Notes()
    options = {"n_init": 4, "escape": False, "tol": 1e-9, "init_params": "random_from_data"}
    best = run_race(sample_of(X), n_rows=2000, whole=False, notes=notes, **options)
    visited = [(len(found), n) for found, n in notes.passes]
    assert {n for count, n in visited if count > 1} == {500, 1000}
    last = visited.index((1, 8000))
    assert set(visited[last:]) == {(1, 8000)}
    assert 0 < len(visited) - last <= FINAL_PASSES
    raced = run_race(sample_of(X).shuffled().part(0, 2000), whole=True, **options)
    assert mean_score(X, best.parameters) > mean_score(X, raced.parameters)


def test_an_escape_never_makes_it_worse() -> None:
    X = np.random.default_rng(5).standard_normal((200, 2)) * [1, 4]
    options = {"whole": True, "n_init": 2}
    stays, leaves = (run_race(sample_of(X), escape=escape, **options) for escape in (False, True))
    assert mean_score(X, leaves.parameters) > mean_score(X, stays.parameters) - 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_weights_count_in_a_race(kind: str) -> None:
    """Rows of a fourth group weigh next to nothing."""
    X = np.concatenate([three_groups(), three_groups(200)[:, ::-1] + [40, 40]])
    w = np.append(np.ones(500), np.full(200, 1e-9))
    assert found_all(run_race(sample_of(X, w), covariance_type=kind, n_init=4).parameters)


# -- what it does not depend on --------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_race_is_seeded_and_the_same_for_any_chunks_and_order(kind: str) -> None:
    X = np.random.default_rng(3).standard_normal((500, 2))
    options = {"covariance_type": kind, "n_init": 2, "whole": False}
    samples = [sample_of(X, step=step, n=300, seed=1) for step in (10**9, 100)]
    samples.append(samples[0].shuffled())  # in another order before the race
    one, *others = [run_race(s, seed=1, **options) for s in samples]
    for other in others:
        assert same(one.parameters, other.parameters)
        assert one.lower_bounds == other.lower_bounds
    assert not same(one.parameters, run_race(sample_of(X, n=300, seed=2), seed=2, **options).parameters)


@pytest.mark.parametrize("kind", KINDS)
def test_sorted_rows_start_as_well_as_shuffled_ones(kind: str) -> None:
    """A drift in time: the first rows of the input know nothing of the later ones."""
    rng = np.random.default_rng(2)
    of_group = np.sort(rng.integers(0, 3, 1500))
    X = CENTRES[of_group] + rng.standard_normal((1500, 2)) + np.linspace(0, 1, 1500)[:, np.newaxis]
    scores = []
    for rows in (X, X[::-1], rng.permutation(X)):
        best = run_race(sample_of(rows, n=500), whole=False, covariance_type=kind, n_init=3)
        scores.append(mean_score(X, best.parameters))
    truth = run_race(sample_of(X), whole=True, covariance_type=kind, n_init=3)
    assert min(scores) > mean_score(X, truth.parameters) - 0.02


# -- collapsed restarts ----------------------------------------------------------------------------------------------
def with_duplicates() -> tuple[np.ndarray, Parameters, Parameters]:
    """Return rows of which some are equal, a start that ends on these, and one that does not."""
    X = np.concatenate([three_groups(300), np.full((30, 2), [2.5, 2.5])])
    means, covariances = np.array([[0.0, 0], [9, 0], [2.5, 2.5]]), np.array([9.0, 9, 1e-3])[:, None, None] * np.eye(2)
    bad = Parameters.from_covariances(family_called("full"), np.full(3, 1 / 3), means, covariances)
    return X, bad, mixture("full", CENTRES)


def test_a_restart_that_collapses_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    X, bad, good = with_duplicates()
    planted(monkeypatch, [bad, good, bad])
    notes = Notes()
    best = run_race(sample_of(X), notes=notes, n_init=3, reg_covar=0, escape=False)
    assert best.status is not Status.COLLAPSED
    assert best.index == 1
    assert {c.index for c in notes.passes[-1][0]} == {1}
    assert any(c.status is Status.COLLAPSED for found, _ in notes.passes for c in found)


def test_a_move_that_collapses_later_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A component that closes in on equal rows gains more than any other before it is singular."""
    X, _, good = with_duplicates()
    means = np.array([[0.0, 0], [9, 0.0], [2.5, 2.5]])
    covariances = np.array([40.0, 40, 1e-2])[:, None, None] * np.eye(2)
    lure = Parameters.from_covariances(family_called("full"), np.array([0.6, 0.3, 0.1]), means, covariances)
    planted(monkeypatch, [good])
    monkeypatch.setattr(race_module, "proposals", lambda *args, **others: [lure])
    notes = Notes()
    best = run_race(sample_of(X), notes=notes, n_init=1, reg_covar=0, escape=True)
    assert any(c.status is Status.COLLAPSED for found, _ in notes.passes for c in found), "else this tests nothing"
    assert best.status is not Status.COLLAPSED
    assert np.linalg.norm(best.parameters.means - CENTRES, axis=1).max() < 1


@pytest.mark.parametrize("n_init", [1, 2, 5])
@pytest.mark.parametrize("escape", [False, True])
def test_where_all_collapse_it_is_an_error(n_init: int, escape: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    X, bad, _ = with_duplicates()
    planted(monkeypatch, [bad] * n_init)
    with pytest.raises(
        CollapsedComponentError, match="component 2 .*Decrease n_components, increase reg_covar, or res"
    ):
        run_race(sample_of(X), n_init=n_init, reg_covar=0, escape=escape)


# -- what it costs ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("n_init", "whole"), [(1, False), (4, True), (10, False)])
def test_visits_are_noted_and_bounded(n_init: int, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates x rows x passes: the stages of half the candidates on twice the rows, the last, and the moves."""
    monkeypatch.setattr(race_module, "SMALL", 0)
    X = np.random.default_rng(0).standard_normal((800, 2))
    notes = Notes()
    run_race(sample_of(X), whole=whole, notes=notes, n_init=n_init, n_components=3, tol=0)
    bound, left = 0, n_init
    for stage in range(STAGES):
        size = 800 if whole else 800 >> (STAGES - 1 - stage)
        if left > 1:
            bound += left * (STAGE_PASSES * size + size)  # and as many unseen rows to compare them
            left = max(1, left // 2)
    bound += left * FINAL_PASSES * 800
    proposals = sum(ESCAPE_MOVES >> stage for stage in range(STAGES))
    a_round = 2 + 26 / 3 + proposals * (STAGE_PASSES + 1) + FINAL_PASSES + 1
    bound += (1 + ESCAPE_ROUNDS * a_round) * 800
    assert n_init * STAGE_PASSES * 200 < notes.visits <= bound
    for found, n_rows in notes.passes:
        assert 0 < len(found) <= n_init or len(found) <= ESCAPE_MOVES
        assert 0 < n_rows <= (2 + 26 / 3) * 800


@pytest.mark.parametrize("n_rows", [FEW - 1, SMALL - 1, SMALL])
def test_all_restarts_go_on_to_the_end_where_all_rows_are_few(n_rows: int) -> None:
    X, notes = np.random.default_rng(0).standard_normal((n_rows, 2)), Notes()
    options = {"n_init": 8, "init_params": "random_from_data", "tol": 0, "n_components": 2, "max_iter": 30}
    run_race(sample_of(X), whole=True, notes=notes, escape=False, **options)
    together = [len(found) for found, _ in notes.passes]
    if n_rows < SMALL:
        assert set(together) == {8}
        assert len(together) >= 30
    else:
        assert together[-1] == 1


def test_stages_have_half_of_the_candidates_and_twice_the_rows() -> None:
    X = np.random.default_rng(0).standard_normal((800, 2))
    notes = Notes()
    options = {"n_init": 8, "init_params": "random_from_data", "tol": 0, "n_components": 2}
    run_race(sample_of(X), whole=False, notes=notes, escape=False, **options)
    seen = [(len(found), n_rows) for found, n_rows in notes.passes]
    # After each stage but the last, which leaves nothing unseen, as many rows to compare them by.
    stages = [[(8, 200)] * (STAGE_PASSES + 1), [(4, 400)] * (STAGE_PASSES + 1), [(2, 800)] * STAGE_PASSES]
    expected = [pair for stage in stages for pair in stage]
    assert (len(stages), seen[: len(expected)]) == (STAGES, expected)
    assert set(seen[len(expected) :]) == {(1, 800)}
    assert len(seen) - len(expected) == FINAL_PASSES


def test_a_candidate_that_has_ended_is_visited_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate's state is noted after the pass that made it, and not again."""
    near, far = [mixture("full", CENTRES + 1e-3 * i) for i in range(3)], mixture("full", CENTRES + 2, 9.0)
    planted(monkeypatch, [*near, far])
    monkeypatch.setattr(race_module, "STAGE_PASSES", 12)
    notes = Notes()
    run_race(sample_of(three_groups()), whole=False, notes=notes, n_init=4, escape=False)
    noted = [c for found, _ in notes.passes for c in found]
    assert any(c.status is Status.CONVERGED and c.n_passes < 12 for c in noted), "else this tests nothing"
    assert max(sum(c is other for other in noted) for c in noted) == 1


@pytest.mark.parametrize("n_rows", [30, 60, 200])
def test_few_rows_are_no_trouble(n_rows: int) -> None:
    for whole in (True, False):
        best = run_race(sample_of(three_groups(n_rows)), whole=whole, n_init=5, reg_covar=1e-3)
        assert np.isfinite(best.lower_bound)


# -- in a fit --------------------------------------------------------------------------------------------------------
def test_start_rows_cap_the_sample() -> None:
    X = open_rows(three_groups(5000))
    for start_rows in (400, 1000, 10_000):
        done = fit_mixture(X, FitOptions(n_components=3, n_init=3, start_rows=start_rows, escape=False))
        most = max(record["rows"] for record in done.history if record["what"] == "start")
        assert most <= min(5000, start_rows + 5 * np.sqrt(start_rows))
        assert most >= min(5000, start_rows - 5 * np.sqrt(start_rows)) * 0.99
        assert found_all(done.parameters)


def test_the_race_decides_what_goes_on_to_all_rows() -> None:
    X, notes = three_groups(1000), Notes()
    options = {"n_components": 3, "n_init": 3, "tol": 0.0, "max_iter": 4, "acceleration": None}
    best = run_race(sample_of(X), notes=notes, **options)
    done = fit_mixture(open_rows(X), FitOptions(**options))
    assert done.lower_bounds[0] == pytest.approx(mean_score(X, best.parameters), rel=1e-12)
    start = [record["rows"] for record in done.history if record["what"] == "start"]
    assert start == [n for found, n in notes.passes for _ in found]
