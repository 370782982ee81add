"""Predictions written in the order of the rows or of a grid: a pass that writes, one writer a piece.

What is written stands beside the output until it is whole. With a `Saved` a later process finds it there, and goes on
with the parts of the pass that were not done.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from daskgmm.errors import DataError, OptionError, OutputError
from daskgmm.kernels.block import Workspace
from daskgmm.kernels.prediction import Predictor
from daskgmm.mixture.record import Record
from daskgmm.passes.current import current_executor, for_passes
from daskgmm.passes.executor import Executor
from daskgmm.passes.memory import promise_memory
from daskgmm.passes.need import Need
from daskgmm.passes.prediction import refuse_dropped, refuse_row, with_kernel
from daskgmm.passes.rows import Rows
from daskgmm.passes.tree import Memory, Passes
from daskgmm.sources.credentials import shown
from daskgmm.sources.failures import refused, unreachable
from daskgmm.sources.parquet_kept import KeptColumns
from daskgmm.sources.source import Source
from daskgmm.sources.stamps import file_stamp
from daskgmm.stores.parquet_parts import PartsLayout, check_kind, is_parquet, parts_record
from daskgmm.stores.storage import plain_path, storage_at
from daskgmm.stores.targets import Layout, Target, stored_dtype
from daskgmm.stores.writing import explained, publish, remove_unfinished, unfinished_place
from daskgmm.stores.zarr_grid import GridLayout
from daskgmm.stores.zarr_rows import RowsLayout, zarr_record

logger = logging.getLogger("daskgmm")


class Saved(Memory, Protocol):
    """What survives the process; `daskgmm.stores.checkpoint` is one."""

    def get(self, name: str) -> Any:
        """Return a value, None where there is none."""

    def put(self, values: Mapping[str, Any]) -> None:
        """Keep values, and let go of the parts of passes."""


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes
    ----------
    n_rows, n_dropped : int
        Rows predicted, and rows that got -1 or NaN because they hold a NaN or an infinity.
    counts : tuple of int
        Rows by component; empty unless labels were written.
    """

    n_rows: int
    n_dropped: int
    counts: tuple[int, ...]
    bytes_read: int
    seconds: float
    output: str
    n_passes: int = 1


def write_predictions(
    predictor: Predictor,
    X: Source,
    output: str,
    *,
    record: dict[str, Any],
    result: Callable[[Written], Mapping[str, Any]] | None = None,
    non_finite: str = "error",
    executor: Executor | None = None,
    saved: Saved | None = None,
    kept: KeptColumns | None = None,
    columns: Mapping[str, Source] | None = None,
) -> Written:
    """Return what was written: predictions for all rows of X, (n_rows,) or (n_rows, n_components), in bounded memory.

    Those of the points of a grid are in its shape, in a group, called as what is predicted. Labels are int32, all else
    (log-densities in nats) float64. A local output is written beside its place and renamed when it is complete; at a
    URL its attribute says complete at the end.

    Parameters
    ----------
    output : str
        Path or URL of a Zarr array; path of a folder of Parquet files where it ends as these do. What is there is
        replaced.
    record : dict
        JSON that identifies input, model and options; kept in the attributes.
    result : callable, optional
        Gives what the attributes are to say as "result"; called when all rows are written, and none is in its place.
    saved : Saved, optional
        Where to find, and to leave, what is done where this is cut short. It is of this input, model and output.
    kept : KeptColumns, optional
        Columns of the input, `X.kept(names)`, that stand before the predictions where the output is Parquet.
    columns : mapping of str to Source, optional
        What else comes with each row, by name, for a kernel of the predictor's that knows it.

    Raises
    ------
    DataError
        A row with NaN or infinity, unless they are to be dropped.
    OutputError
        The output cannot be written.
    """
    began = perf_counter()
    if executor is None:
        executor = current_executor(travels=X.travels)
    layout = layout_of(predictor, X, output, kept)
    rows, _ = promise_memory(_with(layout.rows.checked(non_finite), columns), _need(layout, predictor), executor)
    try:
        with explained(output):
            place, target = _target(output, layout, saved)
            with for_passes(executor), Passes(rows, executor, memory=saved) as passes:
                work = WritePass(with_kernel(predictor, X.n_rows), target, non_finite)
                _ = passes.files  # (as they are before anything is read)
                state = passes.run(work, name="write")
                passes.check_files(None)
            n_rows, counts = sum(state.counts), state.counts if predictor.what == "label" else ()
            check_all_rows(X, n_rows + state.n_dropped)
            written = Written(n_rows, state.n_dropped, counts, rows.n_bytes, perf_counter() - began, output)
            found = {} if result is None else {"result": dict(result(written))}
            layout.complete(place, {"complete": True, **record, **found})
            if place != plain_path(output):
                publish(place, os.path.abspath(plain_path(output)))
    except BaseException as error:
        if saved is None or isinstance(error, DataError):  # (rows that are mended are others)
            remove_unfinished(output, after_seconds=(0.0, 0.1, 0.4))
        raise
    remove_unfinished(output)
    return written


def check_all_rows(X: Source, n_rows: int) -> None:
    """Raise a DataError unless a pass counted the rows of the input."""
    if n_rows != X.n_rows:
        raise DataError(
            "every row",
            "be counted once in a pass",
            f"{n_rows} of {X.n_rows} rows of {X.label}",
            "Start again, on a copy that nobody writes to.",
        )


def layout_of(predictor: Predictor, X: Source, output: str, kept: KeptColumns | None = None) -> Layout:
    """Return the kind of output that a path or URL means for some rows; nothing is read or written."""
    if is_parquet(output):
        check_kind(output)
        return PartsLayout.of(predictor, X, kept)
    if kept is not None:
        raise OptionError(
            "`keep`",
            "be left out where the output is no Parquet",
            f"{', '.join(map(repr, kept.names))} with {shown(output)}",
            "Name the output so that it ends in .parquet.",
        )
    return GridLayout.of(predictor, X) or RowsLayout.of(predictor, X)


def plan_predictions(
    predictor: Predictor,
    X: Source,
    output: str,
    kept: KeptColumns | None = None,
    columns: Mapping[str, Source] | None = None,
) -> tuple[Rows, Need]:
    """Return the rows as the writing pass goes over them, and what it needs beside them; nothing is read."""
    layout = layout_of(predictor, X, output, kept)
    return _with(layout.rows, columns), _need(layout, predictor)


def _with(rows: Rows, columns: Mapping[str, Source] | None) -> Rows:
    """Return rows with what else comes with each."""
    return replace(rows, columns={name: each.rechunked_to(rows.edges) for name, each in (columns or {}).items()})


def _need(layout: Layout, predictor: Predictor) -> Need:
    plan = with_kernel(predictor, layout.rows.X.n_rows).plan
    beside = 0 if plan.given is None else plan.given[0].n_bytes(plan.shape, *plan.means.shape)
    held = layout.held_bytes + beside + predictor.held_bytes
    return Need(plan.shape, plan.n_components, extra_bytes=held, compiled=plan.compiled, by_partition=True, given=True)


def prediction_record(output: str) -> dict[str, Any] | None:
    """Return the record of the predictions that stand at `output`, None where nothing does.

    Raises
    ------
    OutputError
        Something else stands there.
    """
    output = plain_path(output)
    try:
        for name in () if "://" in output else ("zarr.json", ".zarray", ".zgroup"):
            file_stamp(os.path.join(output, name))  # (a pipe would never answer)
        record = parts_record(output) if is_parquet(output) else zarr_record(output)
    except FileNotFoundError:
        # (All that is below an output is removed when it is written anew: at a URL too it must be ours.)
        if storage_at(output).names() if "://" in output else os.path.lexists(output):
            raise _other(output) from None
        return None
    except Exception as error:
        if "://" in output and (refused(error) or unreachable(error)):
            raise OutputError(
                "the output",
                "be reachable, to see what is there",
                f"{error} for {shown(output)}",
                "Check the address, the network and the credentials.",
            ) from error
        # Whatever a file that is no Zarr array makes Zarr raise.
        raise _other(output) from error
    if not isinstance(record, dict):
        raise _other(output)
    return record


@dataclass(frozen=True)
class Progress(Record):
    """The state of the writing pass; `held` is the piece being filled; neither it nor the buffers leave a partition.

    `counts` are the rows predicted, by component where labels are written.
    """

    n_dropped: int
    counts: tuple[int, ...]
    held: NDArray[Any] | None = None
    first_row: int = 0
    filled: int = 0
    work: Workspace | None = None


class WritePass:
    """The pass that writes predictions: each task fills and writes the pieces of its own partition."""

    def __init__(self, predictor: Predictor, target: Target, non_finite: str) -> None:
        self._predictor, self._target, self._non_finite = predictor, target, non_finite
        self._n_counts = predictor.plan.n_densities if predictor.what == "label" else 1
        self.on_card = getattr(predictor, "on_card", False)

    def zero(self) -> Progress:
        return Progress(0, (0,) * self._n_counts, work=Workspace())

    def update(self, state: Progress, block: Any) -> Progress:
        if self.on_card:
            n_rows = len(block.stored)
            found = self._predictor.empty(n_rows)
            refuse_row(self._predictor.predict_block(block, found), self._non_finite)  # type: ignore[attr-defined]
            first = found.reshape(n_rows, -1)[:, 0]
            n_counted = int(np.count_nonzero(first >= 0 if self._predictor.what == "label" else ~np.isnan(first)))
        else:
            refuse_dropped(block, self._non_finite, self._predictor)
            n_rows = block.x.shape[1]
            n_counted = block.n_rows if block.gaps is None else n_rows  # (a row without any value has a prediction too)
            found = self._predictor.empty(n_rows)
            self._predictor.predict(block, found, state.work or Workspace())
        n_dropped = state.n_dropped + n_rows - n_counted
        seen = [n_counted]
        if self._predictor.what == "label":
            seen = np.bincount(found[found >= 0], minlength=self._n_counts).tolist()
        counts = tuple(int(a + b) for a, b in zip(state.counts, seen, strict=True))
        state = replace(state, n_dropped=n_dropped, counts=counts)
        if state.held is None:
            state = self._begin(replace(state, first_row=block.first_row))
        taken = 0
        while taken < n_rows and state.held is not None:
            n = min(n_rows - taken, len(state.held) - state.filled)
            state.held[state.filled : state.filled + n] = found[taken : taken + n]
            state, taken = replace(state, filled=state.filled + n), taken + n
            if state.held is not None and state.filled == len(state.held):
                state = self._flush(state)
                state = self._begin(state) if taken < n_rows else replace(state, held=None)
        return state

    def finish(self, state: Progress) -> Progress:
        return replace(self._flush(state) if state.filled else state, held=None, work=None)

    def merge(self, state: Progress, other: Progress) -> Progress:
        counts = tuple(a + b for a, b in zip(state.counts, other.counts, strict=True))
        return Progress(state.n_dropped + other.n_dropped, counts)

    def _begin(self, state: Progress) -> Progress:
        n_rows, dtype = self._target.piece_rows(state.first_row), stored_dtype(self._predictor)
        columns = () if self._predictor.n_columns is None else (self._predictor.n_columns,)
        return replace(state, held=np.empty((n_rows, *columns), dtype), filled=0)

    def _flush(self, state: Progress) -> Progress:
        if state.held is not None:
            self._target.write(state.first_row, state.held[: state.filled])
        return replace(state, first_row=state.first_row + state.filled, filled=0)


def _target(output: str, layout: Layout, saved: Saved | None) -> tuple[str, Target]:
    """Return the place to write to, and what writes: what an earlier process left, or a new one."""
    token = None if saved is None else saved.get("array")
    if isinstance(token, str) and token.isalnum():
        place = unfinished_place(output, token)
        target = layout.found(place, token)
        if target is not None:
            logger.info("Going on with %s.", place)
            return place, target
    remove_unfinished(output)
    token = uuid4().hex
    if saved is not None:
        saved.put({"array": token})
    place = unfinished_place(output, token)
    if "://" not in place:
        os.makedirs(os.path.dirname(place), exist_ok=True)
    return place, layout.make(place, token)


def _other(output: str) -> OutputError:
    return OutputError(
        "the output", "be free, or hold predictions of daskgmm", f"something else at {output}", "Choose another path."
    )
