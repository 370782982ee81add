"""What the records come to: medians, and the targets of the project."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf, isfinite
from statistics import median
from typing import Any

from judge_kept import kept_targets

Records = list[dict[str, Any]]


def of(records: Iterable[dict[str, Any]], part: str) -> Records:
    """Return the records of a part that were measured."""
    return [record for record in records if record["part"] == part and "missing" not in record]


def passes(record: dict[str, Any], key: str = "passes") -> float:
    """Return passes (or row visits over rows, "visits") until close to the end; infinity where there was none."""
    value = record.get(key)
    return value if value is not None and record.get("converged") else inf


def plain(record: dict[str, Any]) -> float:
    """Return the passes of plain EM; where it had to stop, a number that is no more than what it would have needed."""
    found = record.get("modes", {}).get("None", {})
    value = found.get("passes")
    return float(found.get("n_iter", inf)) if value is None else value


def stopped(record: dict[str, Any]) -> bool:
    """Whether plain EM had to stop before it converged."""
    return not record.get("modes", {}).get("None", {}).get("converged", False)


def by_set(records: Records, value: Callable[[dict[str, Any]], float]) -> dict[str, list[float]]:
    """Return the values over the seeds of each data set."""
    found: dict[str, list[float]] = {}
    for record in records:
        found.setdefault(record["data_set"], []).append(value(record))
    return found


def over_sets(records: Records, value: Callable[[dict[str, Any]], float]) -> float | None:
    """Return the median over data sets of the median over seeds."""
    found = by_set(records, value)
    return median(median(values) for values in found.values()) if found else None


def differences(records: Iterable[dict[str, Any]]) -> dict[str, list[float]]:
    """Return our score less scikit-learn's, nats a row, of each data set."""
    records = list(records)
    theirs = {(r["data_set"], r["seed"]): r["score"] for r in of(records, "quality-sklearn") if "score" in r}
    found: dict[str, list[float]] = {}
    for record in of(records, "quality"):
        if (key := (record["data_set"], record["seed"])) in theirs:
            found.setdefault(record["data_set"], []).append(record.get("score", -inf) - theirs[key])
    return found


def reached(record: dict[str, Any], value: float) -> float:
    """Return the seconds until a fit reached the mean log-likelihood, infinity where it did not."""
    return next((seconds for seconds, best in record.get("path", []) if best >= value), inf)


def times_as_fast(records: Iterable[dict[str, Any]], peer: str, seconds: Callable[[dict[str, Any]], float]) -> Any:
    """Return the peer's seconds over ours to the same log-likelihood, median over seeds; None where not measured."""
    records = list(records)
    ours = {record["seed"]: record for record in of(records, "speed")}
    found = []
    for record in of(records, f"speed-{peer}"):
        if record["seed"] in ours and "error" not in record:
            found.append(seconds(record) / reached(ours[record["seed"]], record["final"]))
    return median(found) if found else None


def ratio(records: Records, above: Callable[[dict[str, Any]], float], below: Callable[[dict[str, Any]], float]) -> Any:
    """Return the median over seeds of a ratio; infinity where a fit raised."""
    found = [inf if "error" in record else above(record) / below(record) for record in records]
    return median(found) if found else None


def escape_differences(records: Iterable[dict[str, Any]]) -> dict[str, list[float]]:
    """Return what escape moves reach less what more restarts reach, nats a row, of each data set."""
    kept = [record for record in of(records, "escape") if "error" not in record]
    return by_set(kept, lambda record: record["escape"]["final"] - record["restarts"]["final"])


def targets(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the targets: what, value, limit, "at most" or "at least", and whether it is met; None: not measured."""
    records = list(records)
    found: list[dict[str, Any]] = []

    def add(what: str, value: float | None, sense: str, limit: float) -> None:
        met = None if value is None else bool(value <= limit if sense == "at most" else value >= limit)
        # JSON has no infinity.
        shown = value if value is None or isfinite(value) else None
        found.append({"what": what, "value": shown, "sense": sense, "limit": limit, "met": met})

    ways = of(records, "paths")
    add("data sets measured", len(by_set(ways, passes)) if ways else None, "at least", 20)
    add("seeds of each", min(map(len, by_set(ways, passes).values()), default=None), "at least", 5)
    add("passes after the sample until within 1e-3 nats of the end, median", over_sets(ways, passes), "at most", 6)
    visits = over_sets(ways, lambda record: passes(record, "visits"))
    add("pass-equivalents in all until then, median", visits, "at most", 12)

    scores = [value for values in differences(records).values() for value in values]
    share = sum(value >= -1e-3 for value in scores) / len(scores) if scores else None
    add("runs no worse than scikit-learn's best of ten less 1e-3 nats, share", share, "at least", 0.95)
    middle = median(scores) if scores else None
    add("nats a row above scikit-learn's best of ten, median", middle, "at least", 0)

    sklearn = times_as_fast(records, "sklearn", lambda record: record["seconds"])
    add("times as fast to scikit-learn's end, its start included", sklearn, "at least", 40)
    onedal = times_as_fast(records, "onedal", lambda record: record["start_seconds"] + record["em_seconds"])
    add("times as fast to oneDAL's end, its start included", onedal, "at least", 2)
    alone = times_as_fast(records, "onedal", lambda record: record["em_seconds"])
    add("the same without its start, ours included", alone, "at least", 2)

    stored = of(records, "restarts")
    for key, what, limit in (("bytes_read", "bytes", 1.2), ("seconds", "seconds", 3)):
        value = ratio(stored, lambda record, key=key: record["ten"][key], lambda record, key=key: record["one"][key])
        add(f"{what} of ten restarts, as a multiple of one's", value, "at most", limit)
    chosen = of(records, "select")
    value = ratio(chosen, lambda record: record["bytes_read"], lambda record: record["single"]["bytes_read"])
    add("bytes of select over K=1..20, as a multiple of the fit of 20's", value, "at most", 2)

    for target in kept_targets(of(records, "kept"), of(records, "kept-sklearn")):
        add(*target)
    return found


def verdict(target: dict[str, Any]) -> str:
    """Return a line for a target that was measured."""
    value = "infinite" if target["value"] is None else f"{target['value']:.4g}"
    met = "met   " if target["met"] else "MISSED"
    return f"{met} {value:>9s} ({target['sense']} {target['limit']:g})  {target['what']}"
