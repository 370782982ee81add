"""What `daskgmm status` says: the record that a command leaves, judged by its age and by what its process does."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from daskgmm.cli.results import Shown, write_result
from daskgmm.errors import UNLIKE_WRITTEN, DaskgmmError, DataError, InputMissingError, OutputError
from daskgmm.fitting.events import duration, rate
from daskgmm.places.alive import is_alive
from daskgmm.sources.credentials import refuse_secrets
from daskgmm.stores.status_file import checkpoint_place, read_status

#: Seconds without a record after which a process that cannot be seen has gone silent: six are written meanwhile.
SILENT_AFTER_SECONDS = 30.0
#: States in which a command may still say something.
_GOING_ON = ("running", "silent")

Found = dict[str, Any]


def status(place: str, *, watch: bool, every: float, as_json: bool) -> Found:
    """Return how far the command of an output or checkpoint is; with `watch` when it has ended, told every so often.

    Raises
    ------
    InputMissingError
        No command has left a record there, and no output.
    """
    refuse_secrets(place, argument="PLACE")
    found = _asked(place)
    n_lines = 0
    try:
        while watch and found["state"] in _GOING_ON:
            n_lines = _shown_again(found, n_lines, as_json=as_json)
            time.sleep(every)
            found = _asked(place)
    except KeyboardInterrupt:  # (how one ends it)
        pass
    _erase(n_lines)
    return found if as_json else Shown(found, status_text(found))


def _shown_again(found: Found, n_lines: int, *, as_json: bool) -> int:
    """Write a status over the one before, which had so many lines, where stdout is a terminal; return its own."""
    if as_json or not sys.stdout.isatty():
        write_result(found)
        return 0
    _erase(n_lines)
    text = status_text(found)
    write_result(Shown(found, text))
    return text.count("\n") + 1


def _erase(n_lines: int) -> None:
    if n_lines:
        sys.stdout.write(f"\x1b[{n_lines}F\x1b[J")


def _asked(place: str) -> Found:
    """Return the status of a place, as it is now."""
    for beside in (checkpoint_place(place), place):
        try:
            content = read_status(beside)
        except (NotADirectoryError, DataError):  # (a file, a pipe: an output that is none of ours)
            continue
        except PermissionError as error:
            raise InputMissingError("PLACE", "be readable", error, "Ask its owner for the permission.") from error
        if content is not None:
            found = judged(_record_in(content, beside), now=time.time())
            left = found["state"] in ("dead", "silent", "interrupted") and not found["replaces"]
            return (_of_output(place) if left and beside != place else None) or found
    for output in (place, place.rstrip("/").removesuffix(".checkpoint")):
        if (done := _of_output(output)) is not None:
            return done
    raise InputMissingError(
        "PLACE",
        "be the --output or the --checkpoint of a fit, a selection or a prediction that was begun",
        f"{place}, where none has left a record",
        "Name the place that was given as --checkpoint, or begin: a record is there as soon as INPUT is open.",
    )


def judged(record: Mapping[str, Any], *, now: float) -> Found:
    """Return the status that a record means at a time: whether its process lives, and what is left by then."""
    age = max(0.0, now - record["written"])
    alive: bool | None = False
    found = {**record, "silent_seconds": age}
    if record["state"] == "running":
        alive = is_alive(record)
        if alive is None and age <= SILENT_AFTER_SECONDS:
            alive = True
        found["state"] = {True: "running", False: "dead", None: "silent"}[alive]
    left = record["remaining_seconds"]
    left = max(0.0, left - age) if left is not None and alive else None
    again = None if record["state"] == "done" else record["again"] or None
    return {
        "command": "status",
        "of": record["command"],
        "alive": alive,
        **{key: value for key, value in found.items() if key not in ("command", "format", "format_version")},
        "remaining_seconds": left,
        "expected_end": None if left is None else now + left,
        "again": again,
        "seconds": (record.get("ended") or record["written"]) - record["began"],
    }


def _record_in(content: bytes, place: str) -> Found:
    try:
        record = json.loads(content)
        if record["format"] != "daskgmm-status" or record["format_version"] != 1:
            raise ValueError("it has another format")
        judged(record, now=0.0)  # (it has all that is asked of it)
        return dict(record)
    except UNLIKE_WRITTEN as error:
        raise DataError(
            "The record of a command",
            "be as daskgmm wrote it",
            f"{type(error).__name__}: {error!s:.100} in {place}",
            "A command that runs writes it anew within seconds: ask again.",
        ) from error


def _of_output(place: str) -> Found | None:
    """Return the status of a command whose output is complete; None where there is none."""
    # (A second that whoever asks again and again for a record does not pay.)
    from daskgmm.stores.model_file import is_model, load_model
    from daskgmm.stores.output import prediction_record

    try:
        record = load_model(place).record if is_model(place) else prediction_record(place)
        result = dict(record["result"]) if record and record.get("complete", True) else None
    except (*UNLIKE_WRITTEN, DaskgmmError, OSError) as error:
        if isinstance(error, OutputError) and "://" in place and error.__cause__ is not None:
            raise
        return None
    if result is None:
        return None
    return {"command": "status", "of": result.get("command"), "alive": False, "state": "done", "output": place,
            "seconds": result.get("seconds"), "again": None, "result": result}  # fmt: skip


def status_text(found: Mapping[str, Any]) -> str:
    """Return a status as a person reads it."""
    command, state = f"daskgmm {found['of']}", found["state"]
    if state == "done":
        result = found.get("result") or {}
        what = result.get("status", "done")
        took = "" if found.get("seconds") is None else f" in {duration(found['seconds'])}"
        lines = [f"{found['output']}: {command} is done{took}" + ("." if what == "done" else f": {what}.")]
        if result.get("mean_log_likelihood") is not None:
            nats, n_passes = result["mean_log_likelihood"], result["n_passes"]
            lines.append(f"  mean log-likelihood {nats:.6f} after {n_passes} passes over {result['rows']:,} rows")
        return "\n".join(lines)
    share = f", {found['share']:.0%} of it done" if found["share"] else ""
    doing = f"{found['doing']}{share}"
    who = f"process {found['process']} on {found['host']}"
    said = {
        "running": f"runs: {doing}.",
        "silent": f"has not been heard of for {duration(found['silent_seconds'])}: last in {doing}.",
        "dead": f"died without a word in {doing}.",
        "interrupted": f"was interrupted in {doing}.",
        "failed": f"failed in {doing}.",
    }[state]
    lines = [f"{found['output']}: {command} {said}"]
    workers = "" if not found["workers"] else f" with {found['workers']} workers"
    lines.append(f"  since {_time(found['began'])} ({duration(found['seconds'])}), {who}{workers}")
    if found["mean_log_likelihood"] is not None:
        change = "" if found["change"] is None else f", change {found['change']:+.1e}"
        lines.append(f"  mean log-likelihood {found['mean_log_likelihood']:.6f}{change}")
    if found["rows_per_second"] is not None:
        lines.append(f"  {rate(found['rows_per_second'])} rows/s, {duration(found['pass_seconds'])} a pass")
    if found["remaining_seconds"] is not None:
        lines.append(f"  about {duration(found['remaining_seconds'])} left, until {_time(found['expected_end'])}")
    saved = "not saved yet" if found["saved"] is None else f"saved at {_time(found['saved'])} in {found['checkpoint']}"
    lines.append(f"  last word {duration(found['silent_seconds'])} ago; progress {saved}")
    if found.get("message"):
        lines.append(f"  exit code {found['exit_code']}: {found['message']}")
    if state == "silent":
        lines.append(f"  Look on {found['host']} whether it lives; if it does not, go on with:")
    elif state in ("dead", "interrupted"):
        lines.append("  To go on:")
    if state in ("silent", "dead", "interrupted") and found["again"]:
        lines.append(f"    cd {shlex.quote(found['folder'])} && {found['again']}")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    """Return a time as a clock of this place shows it, with its day where that is another."""
    time_there = datetime.fromtimestamp(seconds)
    today = time_there.date() == datetime.now().date()
    return f"{time_there:%H:%M:%S}" if today else f"{time_there:%Y-%m-%d %H:%M:%S}"
