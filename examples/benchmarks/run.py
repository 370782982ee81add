"""The benchmark: `python examples/benchmarks/run.py` measures, and writes JSON, a table and a plot."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from cases import CASES
from contenders import n_cores
from limits import matrix_product, measure_limits, product_size
from plot import draw
from rounds import measure
from table import markdown, write_into
from targets import summary, targets
from threadpoolctl import threadpool_info

HERE = Path(__file__).parent
PACKAGES = ("daskgmm", "numpy", "scipy", "scikit-learn", "dask", "distributed", "zarr", "numba")


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


def machine() -> dict[str, Any]:
    """Return what the measurements are tied to: versions, cores, processor, BLAS, commit and date."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    blas = [
        {key: library.get(key) for key in ("internal_api", "version", "architecture", "num_threads")}
        for library in threadpool_info()
        if library["user_api"] == "blas"
    ]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD"),
        "changed": bool(git("status", "--porcelain", "--", "daskgmm")),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": n_cores(),
        "blas": blas,
        "versions": versions,
    }


def git(*arguments: str) -> str | None:
    """Return what git says of the folder that this file is in, None outside a checkout."""
    try:
        done = subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            cwd=HERE.parents[1],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def write(output: Path, results: dict[str, Any]) -> None:
    """Write the results, whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_suffix(".part")
    beside.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(beside, output)


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
