"""The line of a pass: its numbers, in units that a person reads."""

from __future__ import annotations

import pytest

from daskgmm.fitting.events import HEADER, PassDone, ignore


def test_the_line_of_an_iteration() -> None:
    event = PassDone(7, "em", 2_000_000, 8_000_000_000, 4.0, -3.25, 0.00125, 1, 250.0)
    line = event.line()
    assert line.split() == [
        *("pass", "7", "em", "-3.250000", "+1.25e-03", "500k", "rows/s", "2.000", "GB/s"),
        *("about", "4", "min", "left"),
    ]
    assert line.index("-3.250000") + len("-3.250000") == HEADER.index("log-lik.") + len("log-lik.")
    assert line.index("+1.25e-03") + len("+1.25e-03") == len(HEADER)
    ignore(event)


def test_the_line_of_a_survey_has_blanks_where_nothing_is_known() -> None:
    survey = PassDone(1, "survey", 100, 800, 0.5).line()
    em = PassDone(2, "em", 100, 800, 0.5, 1.0, 1.0).line()
    assert survey.split() == ["pass", "1", "survey", "200", "rows/s", "0.000", "GB/s"]
    assert survey.index("rows/s") == em.index("rows/s")


def test_candidates_are_counted_where_there_are_several() -> None:
    assert "3 candidates" in PassDone(2, "em", 1, 8, 1.0, 0.0, 0.0, n_running=3).line()
    assert "candidates" not in PassDone(2, "em", 1, 8, 1.0, 0.0, 0.0, n_running=1).line()


@pytest.mark.parametrize(
    ("rows", "expected"), [(12, "12 rows/s"), (2.5e4, "25k rows/s"), (1.234e7, "12.3M rows/s"), (3e9, "3G rows/s")]
)
def test_rates_are_short(rows: float, expected: str) -> None:
    assert expected in PassDone(1, "em", int(rows), 0, 1.0).line()


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, "0 s"), (99.4, "99 s"), (600.0, "10 min"), (7200.0, "2.0 h")])
def test_durations_are_short(seconds: float, expected: str) -> None:
    assert PassDone(1, "em", 1, 1, 0.0, remaining_seconds=seconds).line().endswith(f"about {expected} left")


def test_a_start_that_goes_on_says_so() -> None:
    event = PassDone(1, "start", 1_500_000, 0, 9.0, n_running=1, ended=False)
    assert event.line().endswith("1.5M rows seen, and going on")


def test_fields_of_a_log_line_hold_no_arrays() -> None:
    fields = PassDone(2, "em", 1, 8, 1.0, n_iter=3).fields()
    assert "parameters" not in fields
    assert (fields["what"], fields["n_iter"]) == ("em", 3)
