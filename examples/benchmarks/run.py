"""The benchmark: `python examples/benchmarks/run.py` measures, and writes JSON, a table and a plot."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from cases import CASES
from contenders import n_cores
from limits import matrix_product, measure_limits, product_size
from machine import machine, write
from plot import draw
from rounds import measure
from table import markdown, write_into
from targets import summary, targets

HERE = Path(__file__).parent


def main() -> None:
    options = parse()
    output = Path(options.output)
    results = json.loads(output.read_text()) if options.resume and output.exists() else {**machine(), "cases": []}
    if "limits" not in results:
        print("limits of the machine", flush=True)
        results["limits"] = measure_limits(quick=options.quick)
    done = {(record["case"], record["dtype"]) for record in results["cases"]}
    for name in options.cases:
        for dtype in options.dtypes:
            if (name, dtype) in done:
                continue
            case = CASES[name].quick() if options.quick else CASES[name]
            print(
                f"{name} {dtype}: {case.n_rows:,} x {case.n_features}, K={case.n_components}, {case.kind}", flush=True
            )
            # The cores' speed changes with what else runs: the matrix product is measured around the rounds.
            product = partial(matrix_product, dtype, n_cores(), product_size(quick=options.quick))
            before = product()
            record = measure(case, dtype, options.peers, options.rounds, budget=options.budget, timeout=options.timeout)
            record["gemm_gflops"] = max(before, product())
            record["summary"] = summary(record)
            results["cases"].append(record)
            results["targets"] = targets(results["cases"])
            write(output, results)
    write(output, results)
    report(results, output, options.tables)


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)

    def several(text: str) -> list[str]:
        return [word for word in text.split(",") if word]

    parser.add_argument("--cases", type=several, default=list(CASES), help="some of " + ",".join(CASES))
    parser.add_argument("--dtypes", type=several, default=["float64", "float32"])
    parser.add_argument("--peers", type=several, default=["sklearn", "onedal", "spark"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--budget", type=float, default=20, help="seconds of a contender in a case, after a first round"
    )
    parser.add_argument("--timeout", type=float, default=240, help="seconds after which a contender is given up")
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the rows: shows only that it runs")
    parser.add_argument("--resume", action="store_true", help="keep the cases that the output has")
    parser.add_argument("--output", default=str(HERE / "results" / "latest.json"))
    parser.add_argument("--tables", nargs="*", default=[], metavar="README", help="files to write the table into")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"--cases must be some of {','.join(CASES)}; got {','.join(sorted(unknown))}")
    return options


def report(results: dict[str, Any], output: Path, readmes: list[str]) -> None:
    """Print the table and the targets, draw the plot beside the JSON, and write the table where it is wanted."""
    table = markdown(results)
    print(f"\n{table}\n")
    for target in results.get("targets", []):
        if target["met"] is not None:
            verdict = "met   " if target["met"] else "MISSED"
            print(f"{verdict} {target['value']:8.2f} (at least {target['least']:g})  {target['what']}")
    for readme in readmes:
        write_into(Path(readme), table)
    draw(results, output.with_suffix(".png"))
    print(f"\n{output}")


if __name__ == "__main__":
    main()
