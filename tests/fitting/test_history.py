"""The history: a record of each pass and candidate, as JSON; its passes and rows add up to what was done."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from daskgmm.fitting.events import PassDone
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.history import COLUMNS
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.race import STAGE_PASSES
from daskgmm.fitting.result import Fit
from daskgmm.fitting.status import Status
from daskgmm.sources.opening import open_rows
from tests.fitting.driving import KINDS, Blocks, given_start, well_separated

#: Starts that differ in what is read for them: none given, k-means||, and given.
STARTS = ("kmeans", "k-means||", "given")


def fitted(kind: str, start: str, *, X: Any = None, **others: Any) -> tuple[Fit, list[PassDone]]:
    case, told = well_separated(kind), list[PassDone]()
    own: dict[str, Any] = {
        "n_components": 3,
        "covariance_type": kind,
        "init_params": start,
        "n_init": 2,
        "escape": False,
    }
    if start == "given":
        own = given_start(case) | {"n_init": 1}
    options = FitOptions(**own | {"tol": 1e-5} | others)
    return fit_mixture(open_rows(case.X if X is None else X), options, listener=told.append), told


def of(fit: Fit, what: str) -> list[dict[str, Any]]:
    return [record for record in fit.history if record["what"] == what]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", STARTS)
def test_records_have_their_columns_and_are_json(kind: str, start: str) -> None:
    fit, _ = fitted(kind, start)
    for record in fit.history:
        assert tuple(record) == COLUMNS
    assert tuple(json.loads(json.dumps(fit.history, allow_nan=False))) == fit.history
    statuses = {None, *(status.value for status in Status)}
    for record in fit.history:
        assert record["status"] in statuses
        assert (record["candidate"] is None) == (record["what"] in ("survey", "search")) == (record["status"] is None)
        assert record["seconds"] >= 0
    (closing,) = of(fit, "closing")
    assert closing["status"] == of(fit, "em")[-1]["status"] == fit.status.value == "converged"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", STARTS)
def test_passes_are_numbered_to_the_last(kind: str, start: str) -> None:
    fit, told = fitted(kind, start)
    whats = [record["what"] for record in fit.history]
    order = ["survey", "search", "start", "em", "closing"]
    assert whats == sorted(whats, key=order.index)
    numbers = [record["pass"] for record in fit.history]
    assert numbers == sorted(numbers)
    assert numbers[-1] == fit.n_passes
    reading = [record["pass"] for record in fit.history if record["what"] != "start"]
    assert sorted(set(reading)) == list(range(1, fit.n_passes + 1)), "no pass without a record"
    assert {record["pass"] for record in of(fit, "start")} <= {1}, "the sample is read with the survey"
    assert bool(of(fit, "start")) == (start == "kmeans")
    assert len(of(fit, "search")) == (6 if start == "k-means||" else 0)
    assert [event.what for event in told] == sorted((event.what for event in told), key=order.index)
    assert [e.number for e in told if e.what != "start"] == list(range(1, fit.n_passes + 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", STARTS)
def test_rows_are_those_that_were_computed(kind: str, start: str) -> None:
    """Passes over the input, against what a Dask array was asked for; for the sample, against the events."""
    case = well_separated(kind)
    blocks = Blocks(case.X)
    fit, told = fitted(kind, start, X=blocks.array, cache=False)
    reading = {record["pass"]: record["rows"] for record in fit.history if record["what"] != "start"}
    assert sum(reading.values()) == blocks.n_rows == 600 * fit.n_passes
    em = of(fit, "em")
    assert all(record["rows"] == 600 for record in em)
    assert all(record["n_bytes"] == 600 * 3 * 8 for record in fit.history if record["what"] != "start")
    assert all(record["n_bytes"] == 0 for record in of(fit, "start"))
    sampled = sum(record["rows"] for record in of(fit, "start"))
    assert sampled == sum(event.rows for event in told if event.what == "start")
    assert fit.bytes_read == 600 * 3 * 8 * fit.n_passes


@pytest.mark.parametrize("kind", KINDS)
def test_em_records_are_the_iterations(kind: str) -> None:
    fit, _ = fitted(kind, "given", acceleration=None, tol=1e-7)
    em = of(fit, "em")
    assert tuple(record["mean_log_likelihood"] for record in em) == fit.lower_bounds
    assert em[0]["change"] is None, "before the first there is none"
    for before, record in pairwise(em):
        assert record["change"] == record["mean_log_likelihood"] - before["mean_log_likelihood"]
    assert [record["step"] for record in em] == [1.0] * len(em)
    assert all(record["accepted"] for record in em)
    assert [record["status"] for record in em] == ["running"] * (len(em) - 1) + ["converged"]
    (closing,) = of(fit, "closing")
    assert closing["mean_log_likelihood"] == fit.mean_log_likelihood
    assert (closing["change"], closing["step"]) == (None, None)


@pytest.mark.parametrize("kind", KINDS)
def test_leaps_are_longer_than_an_em_step(kind: str) -> None:
    X = np.random.default_rng(0).standard_normal((600, 3))
    fit, _ = fitted(kind, "given", X=X, tol=0.0, max_iter=15)
    em = of(fit, "em")
    assert any(record["step"] > 1 for record in em)
    assert all(record["step"] >= 1 for record in em)
    assert [r["mean_log_likelihood"] for r in em if r["accepted"]] == list(fit.lower_bounds)
    assert all((r["change"] is None) == (r["step"] > 1) for r in em[1:] if r["accepted"])
    plain, _ = fitted(kind, "given", X=X, tol=0.0, max_iter=15, acceleration=None)
    assert {record["step"] for record in of(plain, "em")} == {1.0}
    assert fit.lower_bound > plain.lower_bound


@pytest.mark.parametrize("kind", KINDS)
def test_restarts_have_records_of_their_own_until_they_are_given_up(kind: str) -> None:
    X = np.random.default_rng(0).standard_normal((400, 3))
    fit, _ = fitted(kind, "k-means||", X=X, tol=0.0, max_iter=20, n_init=4)
    em = of(fit, "em")
    for number in sorted({record["pass"] for record in em}):
        candidates = [record["candidate"] for record in em if record["pass"] == number]
        assert candidates == sorted(set(candidates)), "one record a pass and candidate"
    lengths = sorted(sum(record["candidate"] == i for record in em) for i in range(4))
    assert lengths == [STAGE_PASSES, STAGE_PASSES, 2 * STAGE_PASSES, 20]
    last = {record["candidate"]: record["status"] for record in em}
    assert sorted(last.values()) == ["max_iter", "retired", "retired", "retired"]
    assert of(fit, "closing")[0]["candidate"] in {r["candidate"] for r in em if r["pass"] == fit.n_passes - 1}


@pytest.mark.parametrize("start", STARTS)
def test_events_say_what_goes_on(start: str) -> None:
    fit, told = fitted("full", start)
    assert [event.mean_log_likelihood is None for event in told if event.what in ("survey", "search")].count(False) == 0
    em = [event for event in told if event.what == "em"]
    assert em[-1].n_running == 0
    assert em[-1].mean_log_likelihood == pytest.approx(fit.lower_bound, rel=1e-12)
    assert em[-1].remaining_seconds is not None
    assert told[-1].what == "closing"
    assert told[-1].mean_log_likelihood == fit.mean_log_likelihood
    assert sum(event.what == "start" for event in told) == (start == "kmeans")
