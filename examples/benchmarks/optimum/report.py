"""The results as tables: `python report.py results/latest.json README.md …` writes them between a file's markers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from math import inf, isfinite
from pathlib import Path
from statistics import median
from typing import Any

from data_sets import DATA_SETS, SPEED, STORED
from judge import by_set, differences, escape_differences, of, passes, plain, stopped, verdict
from judge_kept import Pair, pairs
from kept_sets import KEPT_SETS

BEGIN, END = "<!-- optimum:begin -->", "<!-- optimum:end -->"
Rows = list[list[str]]


def markdown(results: dict[str, Any]) -> str:
    """Return the targets, a table a part that was measured, and what it was measured on."""
    records = results["records"]
    parts = [_targets(results.get("targets", []))]
    for table in (_paths, _acceleration, _quality, _kept, _speed, _reading, _escape, _far):
        parts += [found] if (found := table(records)) else []
    parts += [f"Errors: {'; '.join(errors)}."] if (errors := _errors(records)) else []
    return "\n\n".join([*parts, _footer(results)])


def write_into(path: Path, table: str) -> None:
    """Write the tables between the markers of a file."""
    text = path.read_text()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{path} must have the lines {BEGIN} and {END}.")
    before, after = text.split(BEGIN, 1)[0], text.split(END, 1)[1]
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def _table(title: str, head: list[str], rows: Rows, *, texts: int = 1) -> str:
    """Return a table whose first columns are text and the others numbers; nothing where it has no rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * texts + ["---:"] * (len(head) - texts), *rows]
    return f"{title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _targets(found: list[dict[str, Any]]) -> str:
    rows = [
        [t["what"], f"{t['sense']} {t['limit']:g}", _number(inf if t["value"] is None else t["value"], 4),
         "met" if t["met"] else "**missed**"]
        for t in found if t["met"] is not None
    ]  # fmt: skip
    return _table("Targets:", ["target", "aim", "measured", ""], rows)


def _paths(records: list[dict[str, Any]]) -> str:
    ours, theirs = of(records, "paths"), by_set(of(records, "acceleration"), plain)
    cut = {name for name, found in by_set(of(records, "acceleration"), stopped).items() if any(found)}
    needed, visits = by_set(ours, passes), by_set(ours, lambda record: passes(record, "visits"))
    whole = by_set(ours, lambda record: record.get("visits_all", inf))
    rows = [
        [name, _size(name, ours), DATA_SETS[name].story, _spread(needed[name]), _spread(visits[name]),
         _middle(whole[name]), ("≥ " if name in cut else "") + _spread(theirs.get(name, []))]
        for name in DATA_SETS if name in needed
    ]  # fmt: skip
    head = ["data set", "rows × features, K", "", "passes", "pass-equivalents", "to 1e-7", "plain EM, passes"]
    title = "Passes over all rows, and pass-equivalents in all, until within 1e-3 nats a row of the end:"
    return _table(title, head, rows, texts=3)


def _acceleration(records: list[dict[str, Any]]) -> str:
    measured = [record for record in of(records, "acceleration") if "modes" in record]
    modes = list(dict.fromkeys(m for r in measured for m, found in r["modes"].items() if "error" not in found))

    def best(record: dict[str, Any]) -> float:
        return max(float(found["final"]) for found in record["modes"].values() if "final" in found)

    rows = []
    for name in DATA_SETS:
        own = [record for record in measured if record["data_set"] == name]
        if own:
            cells = []
            for mode in modes:
                found = [record["modes"][mode] for record in own]
                stopped = "" if all(each["converged"] for each in found) else "≥ "
                cells.append(stopped + _number(median(each["n_iter"] for each in found)))
                below = median(r["modes"][mode]["final"] - best(r) for r in own)
                cells.append("0" if below > -1e-6 else f"{below:.1e}")
            rows.append([name, *cells])
    head = ["data set"]
    for mode in modes:
        head += ["plain" if mode == "None" else mode, "below the best"]
    title = (
        "Passes to a change of less than 1e-7 from one k-means start, and nats a row below the best of them "
        "(≥: stopped after five seconds):"
    )
    return _table(title, head, rows)


def _quality(records: list[dict[str, Any]]) -> str:
    found = differences(records)
    ours = by_set(of(records, "quality"), lambda record: record.get("seconds", inf))
    theirs = by_set(of(records, "quality-sklearn"), lambda record: record.get("seconds", inf))
    rows = [
        [name, _size(name, of(records, "quality")), _signed(median(v)), _signed(min(v)), _signed(max(v)),
         _middle(ours[name]), _middle(theirs[name])]
        for name, v in found.items()
    ]  # fmt: skip
    head = ["data set", "rows × features, K", "median", "least", "most", "s", "scikit-learn, s"]
    title = "Final mean log-likelihood at the defaults less that of scikit-learn's best of `n_init=10`, nats a row:"
    return _table(title, head, rows, texts=2)


def _kept(records: list[dict[str, Any]]) -> str:
    found = [pair for pair in pairs(of(records, "kept"), of(records, "kept-sklearn")) if "train" in pair.ours]
    rows = []
    for name, data_set in KEPT_SETS.items():
        if own := [pair for pair in found if pair.ours["data_set"] == name]:
            both = [pair for pair in own if pair.theirs]
            cells = [_size(name, [own[0].ours]), data_set.story + ("" if data_set.judged else " (not judged)")]
            for key in ("train", "held"):
                cells += [f"{median(pair.ours[key] for pair in own):.4f}", _gains([pair.gain(key) for pair in both])]
            cells += [_worst(own, both, key) for key in ("below", "unsupported")]
            cells += [_middle([pair.ours["cpu_seconds"] for pair in own])]
            starts = f" ({data_set.n_init})" if data_set.n_init != 10 else ""
            rows.append([name, *cells, _middle([pair.theirs["cpu_seconds"] for pair in both]) + starts])
    head = ["data set", "rows × features, K", "", "train", "less scikit-learn's", "held out", "less scikit-learn's"]
    head += ["too few rows", "unsupported", "CPU s", "scikit-learn, CPU s"]
    title = (
        "Fits at the defaults beside scikit-learn's best of ten (or of as many as are in brackets), nats a row, on the "
        "rows that were fitted and on bands held out; components with too few rows and unsupported ones, ours / "
        "scikit-learn's, in the worst run:"
    )
    return _table(title, head, rows, texts=3)


def _gains(values: list[float]) -> str:
    """Return the median of some differences, and the least of them where they differ."""
    if not values:
        return ""
    least = f" ({_signed(min(values))})" if len(values) > 1 else ""
    return f"{_signed(median(values))}{least}"


def _worst(own: list[Pair], both: list[Pair], key: str) -> str:
    theirs = str(max(pair.theirs[key] for pair in both)) if both else "–"
    return f"{max(pair.ours[key] for pair in own)} / {theirs}"


def _speed(records: list[dict[str, Any]]) -> str:
    rows: Rows = []

    def add(name: str, part: str, seconds: Callable[[dict[str, Any]], float]) -> None:
        found = [record for record in of(records, part) if "error" not in record]
        if found:
            n = str(len(found))
            rows.append([name, n, _middle([seconds(r) for r in found]), f"{median(r['final'] for r in found):.5f}"])

    add("daskgmm, `tol=1e-5`", "speed", lambda record: record["seconds"])
    add("scikit-learn", "speed-sklearn", lambda record: record["seconds"])
    add("oneDAL, with its start", "speed-onedal", lambda record: record["start_seconds"] + record["em_seconds"])
    add("oneDAL, EM alone", "speed-onedal", lambda record: record["em_seconds"])
    size = _size(SPEED, of(records, "speed")) if of(records, "speed") else ""
    title = f"Seconds of whole fits of {SPEED} ({size}), and where they end, nats a row:"
    return _table(title, ["", "seeds", "s", "ends at"], rows)


def _reading(records: list[dict[str, Any]]) -> str:
    rows: Rows = []

    def add(name: str, part: str, find: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        found = [find(record) for record in of(records, part) if "error" not in record]
        if found:
            middle = {key: median(each[key] for each in found) for key in ("bytes_read", "seconds")}
            rows.append([name, _number(middle["bytes_read"] / 1e6), _number(middle["seconds"])])

    add("`n_init=1`, K=8", "restarts", lambda record: record["one"])
    add("`n_init=10`, K=8", "restarts", lambda record: record["ten"])
    add("fit of K=20", "select", lambda record: record["single"])
    add("`select`, K=1..20", "select", lambda record: record)
    n_rows = max((record["n_rows"] for record in of(records, "restarts") + of(records, "select")), default=0)
    title = f"A Zarr array of {n_rows:,} × {STORED.n_features}, float32, nothing kept in memory:"
    return _table(title, ["", "MB read", "s"], rows)


def _escape(records: list[dict[str, Any]]) -> str:
    kept = [record for record in of(records, "escape") if "error" not in record]
    restarts = by_set(kept, lambda record: record["n_init"])
    moves = by_set(kept, lambda record: record["escape"]["visits_all"])
    more = by_set(kept, lambda record: record["restarts"]["visits_all"])
    rows = [
        [name, _signed(median(v)), _signed(min(v)), _signed(max(v)), _middle(moves[name]), _middle(more[name]),
         _middle(restarts[name])]
        for name, v in escape_differences(records).items()
    ]  # fmt: skip
    head = ["data set", "median", "least", "most", "pass-equivalents", "of the restarts", "restarts"]
    title = "Escape moves less as many pass-equivalents of restarts without them, final nats a row:"
    return _table(title, head, rows)


def _far(records: list[dict[str, Any]]) -> str:
    found = [record for record in of(records, "far") if "parallel" in record]
    rows = [[f"seed {r['seed']}", f"{r['usual']['final']:.5f}", f"{r['parallel']['final']:.5f}"] for r in found]
    title = "Four components of a dozen rows each, far away, final nats a row:"
    return _table(title, ["", "default start", "`k-means\\|\\|`"], rows)


def _errors(records: list[dict[str, Any]]) -> list[str]:
    return [f"{r['part']} {r['data_set']} {r['seed']}: {r['error']}" for r in records if "error" in r]


def _size(name: str, records: list[dict[str, Any]]) -> str:
    record = next(r for r in records if r["data_set"] == name)
    size = f"{record['n_rows']:,} × {record['n_features']}, {record['n_components']}"
    return size if record["kind"] == "full" else f"{size}, {record['kind']}"


def _middle(values: list[float]) -> str:
    return _number(median(values)) if values else ""


def _spread(values: list[float]) -> str:
    """Return the median, and least and most where they differ."""
    if not values or min(values) == max(values):
        return _middle(values)
    return f"{_middle(values)} ({_number(min(values))}–{_number(max(values))})"


def _signed(value: float) -> str:
    return f"{value:+.5f}" if abs(value) >= 5e-6 else "0"


def _number(value: float, digits: int = 3) -> str:
    if not isfinite(value):
        return "never"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.{digits}g}"


def _footer(results: dict[str, Any]) -> str:
    versions = results["versions"]
    measured = [target for target in results.get("targets", []) if target["met"] is not None]
    records = results["records"]
    # What scikit-learn found on the rows with bands held out was measured before.
    minutes = sum(record["unit_seconds"] for record in records if record["part"] != "kept-sklearn") / 60
    onedal = next((record["version"] for record in of(records, "speed-onedal") if "version" in record), None)
    return (
        f"Measured {results['date'][:10]} at commit `{(results['commit'] or 'unknown')[:9]}`"
        f"{' with changes' if results['changed'] else ''} on {results['cores']} cores ({results['processor']}), "
        f"Python {results['python']}, NumPy {versions['numpy']}, scikit-learn {versions['scikit-learn']}"
        f"{f', oneDAL {onedal}' if onedal else ''}, in {minutes:.0f} minutes.\n"
        f"Targets met: {sum(target['met'] for target in measured)} of {len(measured)} measured."
    )


if __name__ == "__main__":
    results = json.loads(Path(sys.argv[1]).read_text())
    for name in sys.argv[2:]:
        write_into(Path(name), markdown(results))
    if not sys.argv[2:]:
        print(markdown(results))
        print("\n".join(verdict(target) for target in results["targets"] if target["met"] is not None))
