"""What the commands of a fit by parts do: each is one process alone, and what it finds is a file."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any

from daskgmm.cli.given_start import Begun
from daskgmm.cli.input import Input, identity_of, meaning
from daskgmm.cli.jobs import fit_result, model_record, places, say_remarks
from daskgmm.cli.outputs import check_place, differences, finished_fit
from daskgmm.cli.part_files import (
    Part,
    joined,
    nothing_of,
    read_part,
    stamps_in,
    stored_part,
    whole,
)
from daskgmm.cli.passes_shown import passes_shown
from daskgmm.errors import DataError, MemoryLimitError, OutputError
from daskgmm.fitting.by_parts import Asked, Awaited, Standing, Turn, first_pass, go_on
from daskgmm.fitting.checks import check_shape
from daskgmm.fitting.device_options import refuse_cards
from daskgmm.fitting.measured import Measured
from daskgmm.fitting.need import fit_need
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.run import column_of_labels
from daskgmm.fitting.status import Status
from daskgmm.kernels.labels import LABELS
from daskgmm.mixture.record import Record, finite_or_none
from daskgmm.passes.blas import blas_limit
from daskgmm.passes.fingerprint import check_unchanged
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.memory import check_machine, mib, peak_own_bytes, remedy_here
from daskgmm.passes.parts import compute_part, share, stamps_of
from daskgmm.passes.provenance import provenance
from daskgmm.passes.rows import Rows
from daskgmm.places.log import say
from daskgmm.places.machines import peak_bytes
from daskgmm.places.signals import interrupts
from daskgmm.sources.opening import takes_columns
from daskgmm.sources.source import Source
from daskgmm.stores.model_file import Model, load_model, save_model
from daskgmm.stores.record_file import read_beside, refuse_urls, write_record

Result = dict[str, Any]
_OF_A_FIT_BY_PARTS = "a model that daskgmm start or mstep wrote"


@dataclass(frozen=True)
class Waiting(Record):
    """What a task must know of a model file: the pass that its fit waits for.

    Attributes
    ----------
    asked, awaited : Asked, Awaited
    stamps : list of str
        The checksum of the stored form of each partition, as the survey found it.
    """

    asked: Asked
    awaited: Awaited
    stamps: list[str]


def survey(
    data: Input, output: str, options: FitOptions, *, part: tuple[int, int], memory_limit: int | None, force: bool,
    begun: Begun,
) -> Result:  # fmt: skip
    """Return the result of a part of the survey, which is then at `output`."""
    refuse_cards(options, "for a fit in parts")
    names = begun.record.get("feature_names")
    if names and data.columns is None and data.features is None and takes_columns(data.location):
        data = replace(data, columns=tuple(names))
    X, rows, errors = _opened(data, options)
    _check_output(output, places(X, rows.weights, data.open_labels(), errors) | begun.check(X, rows.weights))
    check_shape(X, n_components=options.least_rows, given=options.any_given)
    options.family.check(X.n_features)
    opened = {name: value for name, value in asdict(data).items() if name != "location"}
    asked = Asked.of(
        options, rows, input=_identity(data), meaning=meaning(X), opened=opened, warm=begun.warm, common=errors.common
    )
    waiting = Waiting(asked, first_pass(asked), [])
    return _part("survey", waiting, rows, part, output, memory_limit=memory_limit, force=force)


def stats(
    model: str, location: str, output: str, *, part: tuple[int, int], memory_limit: int | None, force: bool
) -> Result:
    """Return the result of a part of the pass that a model waits for, which is then at `output`."""
    waiting = _waiting(model)[0]
    asked = waiting.asked
    data = Input(location, **asked.opened)
    X, rows, errors = _opened(data, asked.options)
    _check_output(output, {**places(X, rows.weights, data.open_labels(), errors), "MODEL": model})
    now = _identity(data)
    # (When it was written to, stamps tell, partition by partition.)
    if found := differences({"input": _lasting(asked.input)}, {"input": _lasting(now)}):
        raise DataError("INPUT", f"be what {model} is fitted to", "; ".join(found), "Name that input.")
    if rows.edges.tolist() != asked.edges.tolist():
        raise DataError(
            "INPUT",
            f"have the partitions that it had when {model} was begun",
            f"{rows.n_partitions} others, by another version of daskgmm",
            "Begin again, with daskgmm survey.",
        )
    return _part("stats", waiting, rows, part, output, memory_limit=memory_limit, force=force)


def _part(
    command: str, waiting: Waiting, rows: Rows, part: tuple[int, int], output: str, *, memory_limit: int | None,
    force: bool,
) -> Result:  # fmt: skip
    began, (number, n_parts) = perf_counter(), part
    asked, awaited = waiting.asked, waiting.awaited
    begin, end = share(number, n_parts, rows.n_partitions)
    wanted = replace(nothing_of(asked, awaited), n_parts=n_parts, numbers=(number,))
    result = {
        "command": command, "status": "done", "part": f"{number}/{n_parts}", "what": awaited.name,
        "pass": awaited.number, "partitions": end - begin, "rows": int(rows.edges[end] - rows.edges[begin]),
        "output": output,
    }  # fmt: skip
    if stored_part(output, wanted, force=force):
        return _skipped(result, output)
    rows, stated = _in_memory(awaited.seen(rows), asked.model.options, memory_limit)
    say(
        f"Part {number} of {n_parts} of pass {awaited.number} ({awaited.name}): rows {rows.edges[begin]:,} to "
        f"{rows.edges[end]:,} of {rows.X.label}, in this process alone, with at most {mib(stated)} of memory.",
        stated_peak_bytes=stated,
    )  # fmt: skip
    before = waiting.stamps[begin:end] or stamps_of(rows, begin, end)
    if waiting.stamps:
        _check_unchanged(before, rows, begin, end)
    with blas_limit.held():
        subtrees = compute_part(awaited.work(asked), rows, begin, end)
    _check_unchanged(before, rows, begin, end)
    seconds = perf_counter() - began
    interrupts.defer()
    write_record(
        output,
        replace(
            wanted, subtrees=tuple(subtrees), stamps={str(number): before}, seconds=seconds, by=(provenance(),)
        ),
    )  # fmt: skip
    return {
        **result,
        "bytes_read": sum(each.partial.bytes_read for each in subtrees),
        "seconds": seconds,
        "peak_bytes": peak_bytes(),
        "stated_peak_bytes": stated,
        "memory_limit": memory_limit,
        "skipped": False,
    }


def _in_memory(rows: Rows, options: FitOptions, limit: int | None) -> tuple[Rows, int]:
    """Return rows as they fit in the memory of this process, which reads ahead if it can, and the bytes at peak."""
    n_columns = sum(column.n_features for column in rows.columns.values())
    need = replace(fit_need([options], rows.X, n_columns=n_columns, labels=LABELS in rows.columns), own_bytes=0)
    ahead = replace(rows, per_task=1 << (rows.n_partitions - 1).bit_length())  # (one task at once, of any size)
    for found in ahead, replace(ahead, prefetch=False):
        stated = peak_own_bytes(found, need, driving=False)
        if limit is None or stated <= limit:
            check_machine(stated, rows.X, what="A part", remedy=remedy_here(need, found))
            return found, stated
    raise MemoryLimitError(
        "`memory_limit`",
        f"be at least the {mib(stated)} that a part takes",
        mib(limit or 0),
        f"Give that much, {'decrease `n_components`, ' if need.may_shrink else ''}or store INPUT in smaller chunks.",
    )


def merge(parts: Sequence[str], output: str, *, force: bool) -> Result:
    """Return the result of adding parts up, which are then one file at `output`."""
    began = perf_counter()
    _check_output(output, {})
    if inside := [place for place in parts if os.path.realpath(place) == os.path.realpath(output)]:
        raise OutputError("--output", "be none of PARTS", inside[0], "Name another place.")
    total = joined(parts)
    result = {
        "command": "merge", "status": "done", "parts": len(total.numbers), "of_parts": total.n_parts,
        "complete": len(total.numbers) == total.n_parts, "what": total.name, "pass": total.pass_number,
        "output": output,
    }  # fmt: skip
    if stored_part(output, total, force=force):
        return _skipped(result, output)
    interrupts.defer()
    write_record(output, total)
    return {**result, "seconds": perf_counter() - began, "peak_bytes": peak_bytes(), "skipped": False}


def start(parts: Sequence[str], output: str, *, force: bool) -> Result:
    """Return the result of finding a start on the sample of a survey; the model is then at `output`."""
    begun = read_part(parts[0])
    if begun.name != "survey":
        raise DataError(
            "PARTS", "be of a survey", f"{parts[0]}, of pass {begun.pass_number} ({begun.name})",
            "Name what daskgmm survey wrote.",
        )  # fmt: skip
    first = begun.asked
    total = joined(parts, of=nothing_of(first, first_pass(first)))
    standing = Standing(stamps=stamps_in(total) if len(total.numbers) == total.n_parts else [])
    return _next("start", Waiting(first, first_pass(first), standing.stamps), standing, total, output, "", force=force)


def mstep(model: str, parts: Sequence[str], output: str, *, force: bool) -> Result:
    """Return the result of an M-step, or of the end of a fit, with what a pass has found; the model is at `output`."""
    waiting, standing = _waiting(model, standing=True)
    total = joined(parts, of=nothing_of(waiting.asked, waiting.awaited), called=model)
    return _next("mstep", waiting, standing, total, output, model, force=force)


def _next(
    command: str, waiting: Waiting, standing: Standing, total: Part, output: str, model: str, *, force: bool
) -> Result:
    began = perf_counter()
    asked, awaited = waiting.asked, waiting.awaited
    _check_output(output, {"MODEL": model} if model else {})
    now = {"command": command, **asked.json, **asked.meaning}
    stored = finished_fit(output, now, force=force)
    if stored is not None:
        if stored.get("of_pass") != total.key:
            raise OutputError(
                "--output",
                "be free, or hold the same work",
                f"{output}, a model after another pass",
                "Use --force to replace it, or choose another --output.",
            )
        return _skipped({**stored, "output": output}, output)
    found = whole(total, awaited)
    _warn_of_mixture(total)
    with passes_shown(LocalExecutor()) as hear:
        turn = go_on(asked, standing, found, place=model or "the survey", listener=hear)
    result = {
        "command": command,
        **(_going_on(turn) if turn.fit is None else fit_result(turn.fit)),
        "bytes_read": turn.bytes_read,
        "next": None if turn.awaited is None else turn.awaited.name,
        "of_pass": total.key,
        "seconds": perf_counter() - began,
        "peak_bytes": peak_bytes(),
        "output": output,
    }
    interrupts.defer()
    save_model(_model(turn, asked, now, result), output, overwrite=force)
    if turn.fit is not None:
        say_remarks(turn.fit)
    return {**result, "skipped": False}


def _going_on(turn: Turn) -> Result:
    """Return what a fit has come to that goes on, as a part of a result."""
    best = turn.candidate
    if best is None:
        raise DataError("PARTS", "be of a survey", "another pass", "Name what daskgmm survey wrote.")
    return {
        "status": Status.RUNNING.value,
        "converged": False,
        "n_iter": best.n_iter,
        "n_passes": turn.n_passes,
        "mean_log_likelihood": finite_or_none(best.lower_bound - turn.volume),
        "change": finite_or_none(best.change),
        "components": best.options.n_components,
        "covariance": best.options.covariance_type,
    }


def _model(turn: Turn, asked: Asked, now: Result, result: Result) -> Model:
    if turn.fit is not None:
        return Model(turn.fit.parameters, model_record(turn.fit, now, result))
    if turn.candidate is None or turn.parameters is None or turn.awaited is None:
        raise DataError("PARTS", "be of a survey", "another pass", "Name what daskgmm survey wrote.")
    bounds = [bound - turn.volume for bound in turn.candidate.lower_bounds]
    record = {
        **now,
        "result": result,
        "converged": False,
        "lower_bound": bounds[-1] if bounds else None,
        "lower_bounds": bounds,
        "n_iter": turn.candidate.n_iter,
        "n_passes": turn.n_passes,
        "history": list(turn.history),
        "provenance": provenance(),
    }
    waiting = Waiting(asked, turn.awaited, turn.standing.stamps)
    return Model(turn.parameters, record, {"waiting": waiting, "standing": turn.standing})


def _waiting(model: str, *, standing: bool = False) -> tuple[Waiting, Standing]:
    """Return what a model file waits for, and with `standing` what its fit goes on from."""
    record = load_model(model).record
    checksums = record.get("beside")
    if not isinstance(checksums, dict):
        by_parts = (record.get("result") or {}).get("command") == "mstep"
        raise DataError(
            "MODEL",
            f"be {_OF_A_FIT_BY_PARTS}, and whose fit goes on",
            f"{model}, {'whose fit has ended' if by_parts else 'another model'}",
            "Use it as it is: predict, score and inspect take it." if by_parts else "Begin with daskgmm survey.",
        )
    how: dict[str, Any] = {"argument": "MODEL", "what": _OF_A_FIT_BY_PARTS}
    found = read_beside(model, "waiting", str(checksums.get("waiting")), Waiting, **how)
    if not standing:
        return found, Standing()
    return found, read_beside(model, "standing", str(checksums.get("standing")), Standing, **how)


def _check_output(output: str, inputs: dict[str, Any]) -> None:
    refuse_urls(output, argument="--output")
    check_place(output, inputs=inputs)


def _opened(data: Input, options: FitOptions) -> tuple[Source, Rows, Measured]:
    """Return the rows of an input, the same with all that comes with them, and their measurement errors."""
    (X, weights), errors = data.open(), data.measured(data.open()[0]) or Measured()
    beside = {**column_of_labels([options], X, data.open_labels()), **errors.columns}
    return X, Rows.plan(X, weights, beside).checked(options.non_finite), errors


def _identity(data: Input) -> Result:
    X, weights = data.open()
    return identity_of(X, weights, data.open_labels(), data.measured(X))


def _lasting(identity: Result) -> Result:
    """Return what tells an input from others, but not when it was written to."""
    return {
        name: None if one is None else {k: v for k, v in one.items() if k != "modified"}
        for name, one in identity.items()
    }


def _check_unchanged(before: Sequence[str], rows: Rows, begin: int, end: int) -> None:
    part = replace(rows, edges=rows.edges[begin : end + 1])
    try:
        check_unchanged(before, stamps_of(rows, begin, end), part, checkpoint=None)
    except DataError as error:
        remedy = "Bring them back with their times, or begin again with daskgmm survey, for other outputs."
        raise DataError(error.argument, error.requirement, error.got, remedy) from error


def _warn_of_mixture(total: Part) -> None:
    """Warn where parts were computed by other versions or kinds of processors: their last bits may differ."""
    if len(total.by) < 2:
        return
    first, *others = total.by
    told = sorted({f"{name} {first.get(name)} and {one[name]}" for one in others for name in one
                   if one[name] != first.get(name)})  # fmt: skip
    say(f"Parts were computed by {'; '.join(told)}: last bits may differ from run to run.", level=logging.WARNING)


def _skipped(result: Result, output: str) -> Result:
    say(f"{output} is complete, from the same input and options: nothing to do (--force does it again).")
    return {**result, "skipped": True}
