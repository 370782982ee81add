"""The results as a table: `python table.py results/latest.json README.md …` writes it between a file's markers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from targets import ours

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
PEERS = {"onedal": "oneDAL", "sklearn": "scikit-learn", "sklearn-heap": "heap reused", "spark": "Spark"}


def markdown(results: dict[str, Any]) -> str:
    """Return a table for each dtype, with what it was measured on."""
    parts = []
    for dtype in ("float64", "float32"):
        records = [record for record in results["cases"] if record["dtype"] == dtype]
        if records:
            parts += [_heading(dtype), _table(records), ""]
    return "\n".join([*parts, _footer(results)])


def write_into(path: Path, table: str) -> None:
    """Write the table between the markers of a file."""
    text = path.read_text()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{path} must have the lines {BEGIN} and {END}.")
    before, after = text.split(BEGIN, 1)[0], text.split(END, 1)[1]
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def _heading(dtype: str) -> str:
    note = ', ours with `precision="single"`' if dtype == "float32" else ""
    return f"Seconds an iteration, and how many times as long the peer takes; {dtype}{note}:\n"


def _table(records: list[dict[str, Any]]) -> str:
    peers = [peer for peer in PEERS if any(peer in {*r["rounds"], *r["failed"]} for r in records)]
    double = any("daskgmm" in r["rounds"] for r in records) and records[0]["dtype"] == "float32"
    head = ["case", "rows × features, K", "daskgmm", *(["in double"] if double else [])]
    head += [PEERS[peer] for peer in peers] + ["of gemm"]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    for record in records:
        found = record["summary"]
        size = f"{record['n_rows']:,} × {record['n_features']}, {record['n_components']}"
        size += "" if record["kind"] == "full" else f", {record['kind']}"
        cells = [record["case"], size, _seconds(found, ours(record))]
        cells += [_seconds(found, "daskgmm")] if double else []
        cells += [_peer(record, peer) for peer in peers]
        lines.append([*cells, f"{found['rate']:.0%}" if "rate" in found else ""])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _seconds(summary: dict[str, Any], name: str) -> str:
    return f"{summary['seconds'][name]:.3g}" if name in summary["seconds"] else ""


def _peer(record: dict[str, Any], peer: str) -> str:
    summary = record["summary"]
    if peer not in summary["seconds"]:
        return "fails" if peer in record["failed"] else ""
    ratio = f" (**{summary['ratios'][peer][0]:.2g}×**)" if peer in summary["ratios"] else ""
    return _seconds(summary, peer) + ratio


def _footer(results: dict[str, Any]) -> str:
    limits, versions = results["limits"], results["versions"]
    cores = str(limits["cores"])
    met = [target for target in results.get("targets", []) if target["met"] is not None]
    lines = [
        f"Measured {results['date'][:10]} at commit `{(results['commit'] or 'unknown')[:9]}`"
        f"{' with changes' if results['changed'] else ''} on {cores} cores ({results['processor']}), "
        f"Python {results['python']}, NumPy {versions['numpy']}, scikit-learn {versions['scikit-learn']}"
        + "".join(f", {name} {version}" for name, version in _peer_versions(results).items())
        + ".",
        f"The machine: matrix product {limits['dgemm_gflops'][cores]:.0f} GFLOP/s in double and "
        f"{limits['sgemm_gflops'][cores]:.0f} in single precision, exp {limits['exp_float64_nanoseconds']:.1f} ns, "
        f"copy {limits['copy_gb_per_second']:.1f} GB/s, "
        f"fresh memory {limits['first_touch_seconds_per_gib']:.2f} s/GiB.",
        f"Targets met: {sum(target['met'] for target in met)} of {len(met)} measured.",
    ]
    return "\n".join(lines)


def _peer_versions(results: dict[str, Any]) -> dict[str, str]:
    return {PEERS[name]: v for record in results["cases"] for name, v in record["versions"].items() if name in PEERS}


if __name__ == "__main__":
    found = markdown(json.loads(Path(sys.argv[1]).read_text()))
    for name in sys.argv[2:]:
        write_into(Path(name), found)
    if not sys.argv[2:]:
        print(found)
