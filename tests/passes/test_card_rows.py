"""Rows on their way to a card, and those that stay there: with the host in the place of one, and on a card."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from dask.sizeof import sizeof

from daskgmm.kernels import cuda_rows
from daskgmm.kernels.cuda_passes import CardEStep
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.plan import make_plan
from daskgmm.passes import cache, card_rows
from daskgmm.passes.cache import Keep, KeptReader
from daskgmm.passes.card_survey import CardSurveyPass
from daskgmm.passes.executor import Room
from daskgmm.passes.memory import INTERPRETER_BYTES
from daskgmm.passes.rows import WEIGHT, Cut
from daskgmm.passes.survey import SurveyPass
from daskgmm.passes.task import fill_rows, reuse, stream
from daskgmm.sources.source import Reader
from tests.kernels.driving import parameters_of, row_set_of
from tests.strategies import make_case


class Counted(Reader):
    """Rows in memory that count how often they are read."""

    def __init__(self, X):
        self.X, self.n_read = X, 0

    def read(self, start, stop):
        self.n_read += stop - start
        return self.X[start:stop]


@pytest.fixture
def short(monkeypatch):
    """Blocks of 64 rows."""
    monkeypatch.setattr(cuda_rows, "BLOCK_VALUES", 1)
    monkeypatch.setattr(cuda_rows, "SHORTEST", 64)


@pytest.fixture
def on(card, monkeypatch):
    monkeypatch.setattr("daskgmm.passes.card.the_card", lambda: card)
    return card


RUNS = (0, 10, 100, 130, 299)


def cut_of(X, check="trust", prefetch=False):
    return Cut(0, RUNS, X.shape[1], check, prefetch, None, X.dtype)


@pytest.mark.parametrize("dtype", ["f8", "f4", ">f4", "i2", "f2", "?"])
@pytest.mark.parametrize("prefetch", [False, True])
def test_blocks_do_not_depend_on_runs(card, short, dtype, prefetch):
    X = (100 * np.random.default_rng(0).normal(size=(299, 3))).astype(dtype)
    w = np.random.default_rng(1).uniform(size=299)
    readers = {WEIGHT: Counted(w[:, np.newaxis])}
    numbers = []
    for block in card_rows.card_blocks(cut_of(X, prefetch=prefetch), Counted(X), readers, card):
        low, high = block.first_row, block.first_row + len(block.stored)
        numbers.append(low)
        with card.using():
            assert (card.host(block.tile().x) == X[low:high].T.astype(float)).all()
            assert (card.host(block.weights) == w[low:high]).all()
    assert numbers == [0, 64, 128, 192, 256]


def test_rows_of_another_dtype_than_declared_are_refused(card, short):
    X = np.zeros((299, 3))
    cut = replace(cut_of(X), dtype=np.dtype("f4"))
    with pytest.raises(
        ValueError, match="must have values of dtype float32, as its metadata say; got float64 from row 0"
    ):
        list(card_rows.card_blocks(cut, Counted(X), {}, card))


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_stay_on_the_card_and_are_not_read_again(on, short, weighted):
    case = make_case("full", seed=2, n_rows=299, n_components=2, n_features=3)
    plan = make_plan(parameters_of(case), origin=row_set_of(case.X).mean)
    work, own, x = CardEStep([plan]), [cut_of(case.X)], Counted(case.X)
    names, beside = ((WEIGHT,), [Counted(np.full((299, 1), 2.0))]) if weighted else ((), [])
    right = stream(EStep([plan]), own, names, Counted(case.X), *beside)
    before = cache.card_budget.n_bytes
    keep = Keep(INTERPRETER_BYTES, 0, Room(1 << 40, 1), (), card_bytes=1 << 20)
    filled = fill_rows(work, own, keep, names, x, *beside)
    n_bytes = case.X.nbytes + (299 * 8 if weighted else 0)
    assert filled.partial.bytes_kept == filled.x.bytes_kept == n_bytes  # (on the card alone: the host let them go)
    assert cache.card_budget.n_bytes - before == n_bytes
    # (A worker that counted them would write its results to disk as if its memory were full.)
    assert sizeof(filled) < 500
    again = reuse(work, own, keep, names, filled, *(None for _ in names))
    assert x.n_read == 299
    assert again.bytes_read == 0
    assert (again.state[0].values == filled.partial.state[0].values).all()
    np.testing.assert_allclose(again.state[0].values, right.state[0].values, rtol=1e-11, atol=1e-9)
    filled.x.drop()
    assert cache.card_budget.n_bytes == before
    streamed = stream(work, own, names, x, *beside)
    assert (streamed.state[0].values == again.state[0].values).all()


def test_a_card_that_is_full_leaves_rows_in_memory(on, short):
    case = make_case("full", seed=2, n_rows=299, n_components=2, n_features=3)
    plan = make_plan(parameters_of(case), origin=row_set_of(case.X).mean)
    x = Counted(case.X)
    keep = Keep(INTERPRETER_BYTES, 0, Room(1 << 40, 1), (), card_bytes=case.X.nbytes - 1)
    filled = fill_rows(CardEStep([plan]), [cut_of(case.X)], keep, (), x)
    reuse(CardEStep([plan]), [cut_of(case.X)], keep, (), filled)
    assert x.n_read == 299
    assert filled.x.on_card(0) is None


def test_a_pass_that_fails_gives_its_room_back(on, short):
    class Failing(Counted):
        def read(self, start, stop):
            if start:
                raise OSError("gone")
            return super().read(start, stop)

    X = np.zeros((299, 3))
    reader = KeptReader(Failing(X))
    reader.card_allowance = 1 << 20
    before = cache.card_budget.n_bytes
    with pytest.raises(OSError, match="gone"):
        list(card_rows.card_blocks(cut_of(X), reader, {}, on))
    assert cache.card_budget.n_bytes == before


def test_threads_share_a_card(on, short):
    case = make_case("full", seed=3, n_rows=299, n_components=3, n_features=3)
    plan = make_plan(parameters_of(case), origin=row_set_of(case.X).mean)
    work, own, found = CardEStep([plan]), [cut_of(case.X)], []

    def once():
        found.append(stream(work, own, (), Counted(case.X)).state[0].values)

    threads = [threading.Thread(target=once) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((values == found[0]).all() for values in found)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("with_scatter", [False, True])
def test_a_survey_finds_what_that_of_the_processor_does(on, short, weighted, with_scatter):
    X = np.random.default_rng(4).normal(1e6, 1, (299, 3))
    X[:, 2] = 0.1  # (its mean is exactly that)
    X[7, 1], X[200], X[201, 0] = np.nan, np.inf, np.nan
    names, beside = (
        ((WEIGHT,), [Counted(np.where(np.arange(299) % 5 == 0, 0.0, 1.5)[:, np.newaxis])]) if weighted else ((), [])
    )
    arguments = (3, with_scatter, 3, 1 << 62, 2)
    own = [cut_of(X, check="scan")]
    right, found = (
        stream(work(*arguments), own, names, Counted(X), *beside).state for work in (SurveyPass, CardSurveyPass)
    )
    for ours, theirs in ((found, right), *zip(found.folds, right.folds, strict=True)):
        for name in ("n_rows", "n_dropped", "first_dropped", "weight", "n_weighted", "n_bad_weights"):
            if ours is found or not name.endswith("dropped"):  # (folds are of rows that count)
                assert getattr(ours, name) == getattr(theirs, name), name
        assert (ours.minimum == theirs.minimum).all()
        assert (ours.maximum == theirs.maximum).all()
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-14)
        np.testing.assert_allclose(ours.scatter, theirs.scatter, rtol=1e-11, atol=1e-7)
        assert ours.mean[2] == 0.1
    assert (found.n_spoiled == right.n_spoiled).all()
    for name in ("sample", "sample_weights", "sample_rows"):
        assert (np.concatenate(getattr(found, name)) == np.concatenate(getattr(right, name))).all()
    assert len(found.sample[0])


def test_a_survey_finds_bad_weights(on, short):
    X, w = np.zeros((299, 3)), np.ones((299, 1))
    w[100], w[130] = -1.0, np.nan
    found = stream(CardSurveyPass(3, False, 0, -1), [cut_of(X)], (WEIGHT,), Counted(X), Counted(w)).state
    assert (found.n_bad_weights, found.first_bad_weight) == (2, 100)
