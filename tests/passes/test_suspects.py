"""Which of the tasks that a scheduler gave up is to blame."""

from __future__ import annotations

import numpy as np
import pytest

from daskgmm.errors import ClusterError
from daskgmm.passes.rows import Rows
from daskgmm.passes.suspects import WorkersDiedError, try_alone
from daskgmm.sources.array_source import ArraySource

KEYS = [
    ("daskgmm-fill-em-1", 0),
    ("daskgmm-partition-em-1", 0),
    ("daskgmm-merge-em-1-1", 0),
    ("daskgmm-partition-em-1", 2),
]


@pytest.fixture
def rows() -> Rows:
    found = Rows.plan(ArraySource(np.zeros((300_000, 8))), None)
    assert found.n_tasks > 2
    return found


def test_the_task_that_workers_die_at_alone_is_named(rows: Rows) -> None:
    tried = []

    def run(i: int) -> None:
        tried.append(i)
        if i == 2:
            raise WorkersDiedError.at(["alone"])

    with pytest.raises(ClusterError, match=f"at rows {rows.edges[2]} to {rows.edges[3]} of"):
        try_alone(WorkersDiedError.at(KEYS), rows, run)
    assert tried == [0, 2]


def test_where_none_is_to_blame_what_else_it_may_be_is_told(rows: Rows) -> None:
    found = try_alone(WorkersDiedError.at(KEYS), rows, lambda _: None)
    assert f"while running tasks for rows 0 to {rows.edges[1]}, rows" in str(found)
    assert "each task succeeds when run alone" in str(found)
    assert "fewer threads" in str(found)


def test_a_task_of_the_input_is_told_by_its_key(rows: Rows) -> None:
    with pytest.raises(WorkersDiedError, match=r"while running the task \('random_normal-7', 1, 0\)"):
        try_alone(WorkersDiedError.at([("random_normal-7", 1, 0)]), rows, lambda _: None)
