"""A better optimum in fewer passes: `python examples/benchmarks/optimum/run.py` writes JSON, tables, a plot."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))  # machine.py; the modules of this folder come first

from judge import targets, verdict  # noqa: E402
from kept_fits import adopted  # noqa: E402
from machine import machine, write  # noqa: E402
from measures import Unit, all_units  # noqa: E402
from picture import draw  # noqa: E402
from report import markdown, write_into  # noqa: E402


def main() -> None:
    options = parse()
    output = Path(options.output)
    results = json.loads(output.read_text()) if options.resume and output.exists() else {**machine(), "records": []}
    if not options.quick:
        results["records"] = adopted(results["records"])
    results["records"] = [r for r in results["records"] if not {r["part"], r["data_set"]} & set(options.again)]
    units = list(all_units(1 if options.quick else options.seeds, quick=options.quick))
    names = {name for unit in units for name in unit.key[:2]}
    if unknown := (set(options.only) | set(options.again)) - names:
        sys.exit(f"--only and --again must name parts or data sets; got {', '.join(sorted(unknown))}")
    if options.only:
        units = [unit for unit in units if set(unit.key[:2]) & set(options.only)]
    done = {(r["part"], r["data_set"], r["seed"]) for r in results["records"]}
    measure([unit for unit in units if unit.key not in done], results, output, options.budget)
    report(results, output, options.tables)


def measure(units: list[Unit], results: dict[str, Any], output: Path, budget: float | None) -> None:
    """Measure unit after unit, and write each record as soon as it is there; end before the budget, minutes, does."""
    began = perf_counter()
    took = {(r["part"], r["data_set"]): r["unit_seconds"] for r in results["records"]}
    for unit in units:
        expected = perf_counter() - began + took.get(unit.key[:2], 0)
        if budget is not None and expected > 60 * budget:
            print(f"the budget of {budget:g} minutes is used up; --resume goes on", flush=True)
            break
        record = unit.measure()
        took[unit.key[:2]] = record["unit_seconds"]
        print(line(record), flush=True)
        results["records"].append(record)
        results["targets"] = targets(results["records"])
        write(output, results)
    results["targets"] = targets(results["records"])
    write(output, results)


def line(record: dict[str, Any]) -> str:
    """Return what is printed of a record."""
    said = record.get("error") or record.get("missing") or ""
    if record.get("passes") is not None:
        said = f"{record['passes']} passes, {record['visits']:.1f} pass-equivalents"
    name = f"{record['data_set']} {record['seed']}"
    return f"{record['part']:16s} {name:20s} {record['unit_seconds']:7.1f} s  {said}"


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)

    def several(text: str) -> list[str]:
        return [word for word in text.split(",") if word]

    parser.add_argument("--only", type=several, default=[], metavar="NAME,…", help="parts or data sets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="end cleanly before they are used up")
    parser.add_argument("--quick", action="store_true", help="few rows, one seed: shows only that it runs")
    parser.add_argument("--resume", action="store_true", help="keep what the output has, and go on")
    parser.add_argument("--again", type=several, default=[], metavar="NAME,…", help="of what is kept, forget these")
    parser.add_argument("--output", default=str(HERE / "results" / "latest.json"))
    parser.add_argument("--tables", nargs="*", default=[], metavar="README", help="files to write the tables into")
    return parser.parse_args()


def report(results: dict[str, Any], output: Path, readmes: list[str]) -> None:
    """Print the tables and the targets, draw the plot beside the JSON, and write the tables where they are wanted."""
    table = markdown(results)
    print(f"\n{table}\n")
    for target in results["targets"]:
        if target["met"] is not None:
            print(verdict(target))
    for readme in readmes:
        write_into(Path(readme), table)
    draw(results, output.with_suffix(".png"))
    print(f"\n{output}")


if __name__ == "__main__":
    main()
