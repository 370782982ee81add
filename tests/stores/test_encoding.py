"""Records as bytes and back: the same bits and types, and nothing but a clean error for other bytes."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskgmm.errors import DataError
from daskgmm.fitting.loop import Candidate
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.polishing import Polishing
from daskgmm.fitting.status import Status
from daskgmm.kernels.folds import Fold
from daskgmm.kernels.statistics import Statistics
from daskgmm.passes.survey import SurveyPass
from daskgmm.passes.task import Partial
from daskgmm.sources.digest import digest
from daskgmm.stores.encoding import decode, encode
from tests.fitting.driving import KINDS
from tests.kernels.driving import parameters_of
from tests.strategies import make_case


def candidate(kind: str) -> Candidate:
    parameters = parameters_of(make_case(kind, seed=0, n_rows=9, n_components=3, n_features=2))
    options = FitOptions(n_components=3, covariance_type=kind, means_init=np.arange(6.0).reshape(3, 2))
    started = Candidate.start(2, parameters, options, fold=Fold(1, 5, 7), previous=-1.5)
    moved = started.accelerator.advance(started.move, -3.25, parameters)
    object.__setattr__(started, "accelerator", moved.accelerator)
    object.__setattr__(started, "status", Status.CONVERGED)
    return started


VALUES: list[Any] = [
    None, True, -3, 2**64 - 1, 0.1, -0.0, math.inf, -math.inf, "ü", [], (), {}, [1, (2.5, "x"), {"a": None}],
    np.float64(0.1), np.int64(3), np.arange(3, dtype=np.uint64), np.zeros((0, 4)), np.array(2.5),
    np.array([True, False]),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(24.0).reshape(2, 3, 4)[:, ::2], np.float32([1, 2]),
    Statistics(np.array([1.0, np.nan, -np.inf])), Partial([Statistics(np.arange(4.0))], 7, 8), *map(candidate, KINDS),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_there_and_back_is_the_same(value: Any) -> None:
    found = decode(encode(value))
    expected = value.item() if isinstance(value, np.generic) else value
    assert type(found) is type(expected)
    assert digest(found) == digest(expected)
    assert encode(found) == encode(value)


def test_an_array_keeps_its_memory_order_and_stands_once() -> None:
    # Matrix products of arrays in another order have other last bits.
    by_column = np.asfortranarray(np.random.default_rng(0).random((300, 200)))
    content = encode([by_column, (by_column, {"again": by_column})])
    assert len(content) < 1.01 * by_column.nbytes
    first, (second, _) = decode(content)
    assert first.flags.f_contiguous
    assert not first.flags.c_contiguous
    assert first is second
    assert first.flags.writeable
    np.testing.assert_array_equal(first, by_column)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", len, np.array(["a"]), np.array([1j]), FitOptions])
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="must"):
        encode(value)


def content_of(head: Any, tail: bytes = b"") -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + tail


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff" * 8, b"\0" * 8, pickle.dumps({"a": 1}), content_of([]), content_of({}),
        content_of({"arrays": [], "value": None}, b"x"),
        content_of({"arrays": [["<f8", [1 << 62, 1 << 62], "C"]], "value": None}),
        content_of({"arrays": [["<f8", [-1], "C"]], "value": None}),
        content_of({"arrays": [["|O", [1], "C"]], "value": None}, b"\0" * 8),
        content_of({"arrays": [["<f8", [1], "K"]], "value": None}, b"\0" * 8),
        content_of({"arrays": [], "value": {"array": 0}}), content_of({"arrays": [], "value": {"os.system": "ls"}}),
        content_of({"arrays": [], "value": {"Candidate": {}}}), content_of({"arrays": [], "value": {"a": 1, "b": 2}}),
        content_of({"arrays": [], "value": {"float": "1e999"}}), content_of({"arrays": [], "value": {"kind": "x"}}),
        content_of({"arrays": [], "value": {"status": "great"}}),
        content_of(b'{"arrays":[],"value":' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
        content_of(b'{"arrays":[],"value":' + b"9" * 10**5 + b"}"),
    ],
)  # fmt: skip
def test_hostile_bytes_are_a_clean_error(content: bytes) -> None:
    with pytest.raises(DataError, match="a record must be as it was written"):
        decode(content)


SURVEY = SurveyPass(2, False, 0, -1, n_folds=2).zero()


@pytest.mark.parametrize(
    "value",
    [
        replace(candidate("full"), lower_bounds=(1.0, "x")), replace(candidate("full"), lower_bounds=[1.0]),
        replace(candidate("full"), index=True), replace(candidate("full"), move=None),
        replace(candidate("full"), change="x"), replace(candidate("full"), accelerator=Fold(1, 2, 3)),
        replace(SURVEY, n_rows=1.5), replace(SURVEY, mean=np.zeros(2, np.float32)), replace(SURVEY, folds=(SURVEY, 3)),
        replace(SURVEY, sample_rows=(np.zeros(2),)), Polishing((0,), (candidate("tied"),), ("x",)),
        Statistics(np.zeros(3, np.int64)), Statistics(np.zeros((2, 2))),
    ],
    ids=lambda v: type(v).__name__,
)  # fmt: skip
def test_records_with_values_of_other_types_are_a_clean_error(value: Any) -> None:
    with pytest.raises(DataError, match="a record must be as it was written; got TypeError: .* of "):
        decode(encode(value))


WHOLE = encode([candidate("full"), {"n": 1, "x": (1.5, "text")}, Partial([Statistics(np.arange(4.0))], 7, 8)])


@given(at=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255), cut=st.booleans())
def test_any_change_is_found_or_makes_plain_records(at: int, byte: int, cut: bool) -> None:
    content = WHOLE[:at] if cut else WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :]
    try:
        found = decode(content)
    except DataError:
        return
    assert isinstance(found, list | tuple | dict | int | float | str | None)
