"""`daskgmm plan` beside what happened: seconds of a pass, for formats, sizes, kinds of covariance and workers.

`python plan.py` takes ten minutes on two quiet cores; it needs `pip install ".[parquet,hdf5]"`. In each of some rounds
a plan is made and then the fit is run, both as a person would; the JSON has every round, the table medians.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from machine import machine, write

HERE = Path(__file__).parent
#: Decoded bytes of an input, and how far a planned pass may be from what happens.
MIB, FACTOR = 1 << 20, 1.5


@dataclass(frozen=True)
class Combination:
    """An input, a model and the workers."""

    file_format: str
    n_features: int
    n_components: int
    kind: str
    workers: int
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        extra = "".join(f", {option.removeprefix('--')}" for option in self.options)
        return f"{self.file_format}, {self.n_features} features, K={self.n_components}, {self.kind}{extra}"


COMBINATIONS = (
    Combination("zarr", 16, 32, "full", 2),
    Combination("zarr", 4, 8, "full", 2),
    Combination("zarr", 32, 16, "diag", 1),
    Combination("zarr", 64, 20, "full", 2, ("--precision=single",)),
    Combination("parquet", 16, 8, "full", 2),
    Combination("parquet", 8, 16, "spherical", 1),
    Combination("hdf5", 16, 16, "full", 2),
    Combination("hdf5", 8, 4, "diag", 2),
    Combination("npy", 16, 16, "tied", 2),
    Combination("npy", 8, 32, "full", 1),
)


def made_rows(n_rows: int, n_features: int) -> np.ndarray:
    """Return rows around 8 centres, rounded to two digits, (n_rows, n_features), float32."""
    random = np.random.default_rng(0)
    centres = random.normal(scale=4, size=(8, n_features))
    rows = centres[random.integers(8, size=n_rows)] + random.standard_normal((n_rows, n_features))
    return rows.round(2).astype("f4")


def write_rows(folder: Path, file_format: str, rows: np.ndarray) -> Path:
    """Write rows in a format, in pieces of 2 MiB where it has such; return the path."""
    path = folder / f"rows.{ {'hdf5': 'h5'}.get(file_format, file_format) }"
    length = 2 * MIB // (4 * rows.shape[1])
    if file_format == "npy":
        np.save(path, rows)
    elif file_format == "zarr":
        import zarr

        zarr.create_array(path, data=rows, chunks=(length, rows.shape[1]))
    elif file_format == "hdf5":
        import h5py

        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=rows, chunks=(length, rows.shape[1]), compression="lzf")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({f"x{i}": column for i, column in enumerate(rows.T)}), path, row_group_size=4 * length)
    return path


def run(*arguments: object) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the result of a command, and its log."""
    command = [sys.executable, "-m", "daskgmm", *map(str, arguments), "--log-format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)
    return json.loads(done.stdout), [json.loads(line) for line in done.stderr.splitlines()]


def measured(combination: Combination, folder: Path, n_bytes: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of a pass that were planned, and that it took, in each round."""
    c = combination
    path = write_rows(folder, c.file_format, made_rows(n_bytes // (4 * c.n_features), c.n_features))
    options = (
        path, "-k", c.n_components, "--covariance", c.kind, "--workers", c.workers, "--cache", "no", *c.options,
        "--start-rows", 20_000, "--restarts", 2, "--no-escape", "--tol", 0, "--max-iter", 4,
    )  # fmt: skip
    planned, happened = [], []
    for _ in range(rounds):
        plan, _ = run("plan", *options, "--json")
        _, log = run("fit", *options, "-o", folder / "model.zarr", "--force")
        planned.append(plan["pass"]["seconds"])
        happened.append(median(line["seconds"] for line in log if line.get("what") == "em"))
    ratios = [a / b for a, b in zip(planned, happened, strict=True)]
    return {
        "combination": c.name, **asdict(c), "n_rows": plan["rows"], "planned": planned, "happened": happened,
        "ratio": median(ratios), "ratios": ratios, "binds": plan["pass"]["binds"], "tried": plan["tried"],
    }  # fmt: skip


def table(records: list[dict[str, Any]]) -> str:
    """Return the results as a table."""
    lines = [
        "| input and model | workers | rows | planned, s | happened, s | ratio |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in records:
        a, b = median(r["planned"]), median(r["happened"])
        ratio = f"{r['ratio']:.2f} ({min(r['ratios']):.2f}–{max(r['ratios']):.2f})"
        lines.append(f"| {r['combination']} | {r['workers']} | {r['n_rows']:,} | {a:.2f} | {b:.2f} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256, help="decoded MiB of an input")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of combinations, from 0")
    parser.add_argument("--output", default=str(HERE / "results" / "plan.json"))
    options = parser.parse_args()
    chosen = range(len(COMBINATIONS)) if options.only is None else options.only
    results: dict[str, Any] = {**machine(), "records": []}
    for i in chosen:
        with tempfile.TemporaryDirectory() as folder:
            results["records"].append(measured(COMBINATIONS[i], Path(folder), options.mib * MIB, options.rounds))
        print(table(results["records"][-1:]).splitlines()[-1], flush=True)
        write(Path(options.output), results)
    within = [1 / FACTOR <= r["ratio"] <= FACTOR for r in results["records"]]
    print(f"\n{table(results['records'])}\n\n{sum(within)} of {len(within)} within a factor of {FACTOR}.")


if __name__ == "__main__":
    main()
