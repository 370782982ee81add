"""The arithmetic of a card, on every machine: its steps in NumPy, and its loops as the system's compiler makes them.

On a machine with a card the same tests run on it too.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from daskgmm.kernels import cuda
from daskgmm.kernels.block import Block, Workspace
from daskgmm.kernels.cuda import card_bytes, tile_length
from daskgmm.kernels.cuda_passes import CardEStep, CardPredictor, CardScorePass, CardSupportPass
from daskgmm.kernels.cuda_rows import SHORTEST, CardBlock, block_length
from daskgmm.kernels.cuda_source import DTYPES
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.folds import Fold
from daskgmm.kernels.plan import make_plan
from daskgmm.kernels.prediction import Predictor
from daskgmm.kernels.score import ScorePass, SupportPass
from daskgmm.mixture.family import family_called
from daskgmm.mixture.noise import Noise
from daskgmm.mixture.scaling import Scaling
from tests.kernels.driving import KINDS, blocks_of, parameters_of, row_set_of
from tests.kernels.host_card import HostCard, ThreadsCard
from tests.strategies import make_case


def on_card(card, X, row_weights=None, cuts=None, *, checked=False, scaling=None):
    """The rows as blocks on a card."""
    cuts = [0, len(X)] if cuts is None else cuts
    for a, b in pairwise(cuts):
        weights = None if row_weights is None else card.array(np.asarray(row_weights[a:b], dtype=float))
        yield CardBlock(card, card.array(X[a:b]), weights, a, checked, scaling)


def run(work, blocks):
    """The statistics of a pass over blocks."""
    state = work.zero()
    for block in blocks:
        state = work.update(state, block)
    return work.finish(state)


def agree(found, right, n_components, *, rtol=1e-11):
    """Sums agree, each in units of the largest of its kind, as they are added up from terms of both signs."""
    assert found.values.shape == right.values.shape
    assert found.n_rows == right.n_rows
    np.testing.assert_allclose(found.values[-3:], right.values[-3:], rtol=rtol)
    for ours, theirs in zip(found.panel(n_components).T, right.panel(n_components).T, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=rtol * max(np.abs(theirs).max(), 1e-300))


def plan_of(case, kernel="rule", **more):
    return make_plan(parameters_of(case), origin=row_set_of(case.X).mean, kernel=kernel, **more)


@pytest.mark.parametrize("n_features", range(1, 10))
def test_few_features_with_phi_in_memory_and_without(card, n_features, monkeypatch):
    case = make_case("full", seed=13, n_rows=1100, n_components=5, n_features=n_features)
    plan, found = plan_of(case, "phi"), []
    (right,) = run(EStep([plan]), blocks_of(case.X))
    for most in (0, cuda.WITHOUT_PHI):
        monkeypatch.setattr(cuda, "WITHOUT_PHI", most)
        plan.derived.clear()
        found.append(*run(CardEStep([plan]), on_card(card, case.X)))
        agree(found[-1], right, 5)
        assert plan.derived["card"].without_phi == (n_features <= most)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", ["phi", "exact"])
@pytest.mark.parametrize("n_components", [1, 3, 17])
def test_bits_do_not_depend_on_how_many_threads_a_block_has(kind, kernel, n_components):
    case = make_case(kind, seed=15, n_rows=1300, n_components=n_components, n_features=3)
    plan = plan_of(case, kernel)
    for work in (CardEStep, CardSupportPass):
        found = []
        for card in (HostCard(), ThreadsCard()):
            plan.derived.clear()
            found.append(*run(work([plan]), on_card(card, case.X)))
        assert (found[0].values == found[1].values).all()


def test_components_for_which_there_is_no_room_without_phi(card):
    case = make_case("full", seed=14, n_rows=600, n_components=180, n_features=2)
    plan = plan_of(case, "phi")
    (right,), (found,) = run(EStep([plan]), blocks_of(case.X)), run(CardEStep([plan]), on_card(card, case.X))
    assert not plan.derived["card"].without_phi
    agree(found, right, 180)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kernel", ["phi", "exact", "rule"])
@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_those_of_the_processor(card, kind, kernel, weighted):
    case = make_case(kind, seed=3, n_rows=500, n_components=4, n_features=5)
    weights = np.random.default_rng(0).uniform(0, 2, 500) if weighted else None
    plan, cuts = plan_of(case, kernel), [0, 200, 201, 500]
    (right,) = run(EStep([plan]), blocks_of(case.X, weights, cuts))
    (found,) = run(CardEStep([plan]), on_card(card, case.X, weights, cuts))
    agree(found, right, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_some_components_exact_and_others_by_phi(card, kind, monkeypatch):
    case = make_case(kind, seed=4, n_rows=300, n_components=5, n_features=3)
    plan = plan_of(case, "phi")
    (right,) = run(EStep([plan_of(case, "exact")]), blocks_of(case.X))
    for exact in ([1, 0, 0, 0, 0], [1, 0, 1, 1, 1]) if kind != "tied" else ([1] * 5,):
        mixed = replace(plan, exact=np.array(exact, dtype=bool))
        (theirs,) = run(EStep([mixed]), blocks_of(case.X))
        for most in (cuda.Z_VALUES, 1):  # (all in one group, or each by itself)
            monkeypatch.setattr(cuda, "Z_VALUES", most)
            mixed.derived.clear()
            (found,) = run(CardEStep([mixed]), on_card(card, case.X))
            agree(found, theirs, 5)
        assert found.log_sum == pytest.approx(right.log_sum, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_are_those_of_a_candidate_alone(card, kind, monkeypatch):
    monkeypatch.setattr(cuda, "TILE_VALUES", 1 << 14)
    small, large = (make_case(kind, seed=5, n_rows=2000, n_components=k, n_features=4) for k in (2, 40))
    plans = [plan_of(case, "phi") for case in (small, large)]
    lengths = {tile_length(plan.shape, plan.n_components, 4) for plan in plans}
    assert len(lengths) == 2
    assert max(lengths) < 2000
    folds = [Fold(0, 3, 7), Fold(1, 3, 7, held_out=True), None]
    both = [*plans, plans[0]]
    together = run(CardEStep(both, folds), on_card(card, small.X))
    for plan, fold, found, right in zip(
        both, folds, together, run(EStep(both, folds), blocks_of(small.X)), strict=True
    ):
        (alone,) = run(CardEStep([plan], [fold]), on_card(card, small.X))
        assert (alone.values == found.values).all()
        agree(found, right, plan.n_components)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_scores_and_what_components_are_worth(card, kind, weighted):
    case = make_case(kind, seed=6, n_rows=700, n_components=3, n_features=4)
    weights = np.where(np.arange(700) % 7 == 0, 0.0, 1.5) if weighted else None
    plan = plan_of(case)
    for ours, theirs in ((CardScorePass, ScorePass), (CardSupportPass, SupportPass)):
        (found,), (right,) = (
            run(ours([plan]), on_card(card, case.X, weights)),
            run(theirs([plan]), blocks_of(case.X, weights)),
        )
        np.testing.assert_allclose(found.values, right.values, rtol=1e-11)


def test_support_of_one_component_and_of_weightless_ones(card):
    for k in (1, 3):
        case = make_case("full", seed=7, n_rows=100, n_components=k, n_features=2)
        plan = plan_of(case)
        if k > 1:
            plan = replace(plan, log_weights=np.array([-np.inf, *plan.log_weights[1:]]))
        for ours, theirs in ((CardEStep, EStep), (CardSupportPass, SupportPass)):
            (found,), (right,) = run(ours([plan]), on_card(card, case.X)), run(theirs([plan]), blocks_of(case.X))
            np.testing.assert_allclose(found.values, right.values, rtol=1e-11, atol=1e-11)


def test_noise_stands_beside_the_components(card):
    case = make_case("diag", seed=8, n_rows=400, n_components=3, n_features=2)
    noisy = replace(parameters_of(case), noise=Noise(0.2, float(np.log(50.0))))
    plan = make_plan(noisy, origin=row_set_of(case.X).mean)
    for ours, theirs in ((CardEStep, EStep), (CardScorePass, ScorePass), (CardSupportPass, SupportPass)):
        (found,), (right,) = run(ours([plan]), on_card(card, case.X)), run(theirs([plan]), blocks_of(case.X))
        np.testing.assert_allclose(found.values, right.values, rtol=1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_read_as_they_are_stored(card, dtype):
    X = np.random.default_rng(1).integers(0, 100, (50, 3)).astype(dtype)
    if X.dtype.kind == "f":
        X[:4, 0] = -0.0, np.finfo(dtype).tiny, -np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    scaling = Scaling(np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 0.5]))
    (block,) = on_card(card, X, scaling=scaling)
    expected = X.T.astype(float)
    scaling.apply(expected)
    assert (card.host(block.tile().x) == expected).all()


def test_rows_that_are_not_finite_do_not_count(card):
    case = make_case("full", seed=9, n_rows=90, n_components=2, n_features=3)
    X, plan = case.X.copy(), plan_of(case)
    X[3, 1], X[40, 0], X[41, 2] = np.nan, np.inf, -np.inf
    good = np.isfinite(X).all(axis=1)
    (found,) = run(CardEStep([plan]), on_card(card, X, checked=True))
    (right,) = run(EStep([plan]), blocks_of(X[good]))
    agree(found, right, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["label", "proba", "score"])
def test_predictions(card, kind, what):
    case = make_case(kind, seed=10, n_rows=300, n_components=3, n_features=4)
    predictor, X = Predictor.of(parameters_of(case), what), case.X.copy()
    X[7] = np.nan
    found = predictor.empty(300)
    for block in on_card(card, X, cuts=[0, 100, 300], checked=True):
        CardPredictor(predictor.plan, what).predict_block(
            block, found[block.first_row : block.first_row + len(block.stored)]
        )
    x = case.X.copy()
    x[7] = 0.0
    bad = np.arange(300) == 7
    right = predictor.empty(300)
    block = Block(np.ascontiguousarray(x.T), np.where(bad, 0.0, 1.0), 0, bad)
    predictor.predict(block, right, Workspace())
    np.testing.assert_allclose(found, right, rtol=1e-11, atol=1e-14)


def test_what_overflows_is_found(card):
    case = make_case("full", seed=11, n_rows=50, n_components=2, n_features=2)
    X, plan = case.X.copy(), plan_of(case, "phi")
    X[3] = 1e200
    (block,) = on_card(card, X)
    with np.errstate(all="ignore"):
        (found,) = run(CardEStep([plan]), [block])
    assert not np.isfinite(found.log_sum)
    with (
        np.errstate(all="ignore"),
        pytest.raises(ValueError, match=r"must lie within 1e150, or squares overflow; got 1e\+200 near row 0"),
    ):
        CardPredictor(Predictor.of(parameters_of(case), "score").plan, "score").predict_block(block, np.empty(50))


@pytest.mark.parametrize("n_features", [1, 2, 16, 64, 300])
def test_lengths_keep_within_what_is_stated(n_features):
    shape = family_called("full").shape
    for k in (1, 50, 1000):
        length = tile_length(shape, k, n_features)
        n_phi = shape.n_statistics(n_features, exact=False)
        assert length <= block_length(n_features)
        assert length == SHORTEST or length * (n_phi + 2 * k) <= cuda.TILE_VALUES
        assert card_bytes(shape, k, n_features, n_candidates=1, n_ahead=3) >= 8 * length * (n_phi + 2 * k)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_pass_takes_is_within_what_is_stated(kind, card):
    case = make_case(kind, seed=12, n_rows=3000, n_components=6, n_features=8)
    taken = 0

    class Counting(Workspace):
        def get(self, name, shape, dtype=np.float64):
            found = super().get(name, shape, dtype)
            nonlocal taken
            taken = sum(each.nbytes for each in self._buffers.values())
            return found

    card.work = Counting(card.xp.empty)
    for kernel in ("phi", "exact"):
        run(CardEStep([plan_of(case, kernel)]), on_card(card, case.X))
    shape = family_called(kind).shape
    assert taken <= card_bytes(shape, 6, 8, n_candidates=1, n_ahead=3)
