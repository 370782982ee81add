"""Every kind of file at 2 GiB: `python -m tests.large_inputs`, half an hour on two cores.

For each kind: a fit on 1, 2 and 4 workers, each with just the memory that the command says it needs, and one that is
killed with all its processes in a pass, and started again. The models must have the same bits, no process may take
more than was stated, and the same numbers in a .npy file must give the same mixture to nine digits. What came of each
kind is a record in a JSON file; `--resume` goes on with the kinds that are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import zarr
from numpy.lib.format import open_memmap

from daskgmm import GaussianMixture
from tests.chaos import checksum, ended, passes_done, started
from tests.test_memory_promise import measured

N_FEATURES, GIB, MIB = 16, 1 << 30, 1 << 20
NAMES = [f"f{i}" for i in range(N_FEATURES)]
#: Rows that are written at once.
RUN = 1 << 19
FIT = ("-k", 4, "--tol", 0, "--max-iter", 3, "--restarts", 1, "--no-escape", "--start-rows", 20_000, "--cache", "no")


def runs(n_rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Rows of four groups, run by run, float32 and the same for every kind, with the number of the first."""
    centres = np.random.default_rng(0).normal(scale=4, size=(4, N_FEATURES))
    for start in range(0, n_rows, RUN):
        random = np.random.default_rng(start + 1)
        n = min(RUN, n_rows - start)
        rows = centres[random.integers(4, size=n)] + random.standard_normal((n, N_FEATURES))
        yield start, rows.round(2).astype("f4")


# -- the kinds: each writes into a folder, and returns INPUT and its options ---------------------------------------


def npy(folder: Path, n_rows: int) -> list[object]:
    array = open_memmap(folder / "X.npy", mode="w+", dtype="f4", shape=(n_rows, N_FEATURES))
    for start, rows in runs(n_rows):
        array[start : start + len(rows)] = rows
    array.flush()
    return [folder / "X.npy"]


def zarr_array(folder: Path, n_rows: int) -> list[object]:
    array = zarr.create_array(folder / "X.zarr", shape=(n_rows, N_FEATURES), chunks=(1 << 16, N_FEATURES), dtype="f4")
    for start, rows in runs(n_rows):
        array[start : start + len(rows)] = rows
    return [folder / "X.zarr"]


def zarr_group(folder: Path, n_rows: int) -> list[object]:
    group = zarr.create_group(folder / "X.zarr")
    for name in NAMES:
        group.create_array(name, shape=(n_rows,), chunks=(1 << 18,), dtype="f4", dimension_names=("t",))
    for start, rows in runs(n_rows):
        for i, name in enumerate(NAMES):
            group[name][start : start + len(rows)] = rows[:, i]  # type: ignore[index]
    return [folder / "X.zarr", "--columns", "f*"]


def parquet(folder: Path, n_rows: int) -> list[object]:
    schema = pyarrow.schema([("id", pyarrow.string()), *((name, pyarrow.float32()) for name in NAMES)])
    (folder / "X").mkdir()
    for start, rows in runs(n_rows):
        columns = [pyarrow.array([f"row {start + i}" for i in range(len(rows))])]
        columns += [pyarrow.array(np.ascontiguousarray(column)) for column in rows.T]
        table = pyarrow.table(columns, schema=schema)
        pyarrow.parquet.write_table(table, folder / "X" / f"{start:010}.parquet", compression="zstd")
    return [folder / "X", "--columns", "f*"]


def hdf5(folder: Path, n_rows: int) -> list[object]:
    with h5py.File(folder / "X.h5", "w") as file:
        array = file.create_dataset("g/x", (n_rows, N_FEATURES), "f4", chunks=(1 << 14, N_FEATURES), compression="lzf")
        for start, rows in runs(n_rows):
            array[start : start + len(rows)] = rows
    return [f"{folder / 'X.h5'}::/g/x"]


def netcdf(folder: Path, n_rows: int) -> list[object]:
    """Variables packed as 16-bit integers, as netCDF-4 has them: two files, one after the other."""
    half = n_rows // 2 // RUN * RUN or n_rows // 2
    files = [h5py.File(folder / f"{i}.nc", "w") for i in range(2)]
    for file, length in zip(files, (half, n_rows - half), strict=True):
        file["t"] = np.zeros(length, "f4")
        file["t"].make_scale("t")
        for name in NAMES:
            array = file.create_dataset(name, (length,), "i2", chunks=(1 << 18,), compression=1, shuffle=True)
            array.attrs["scale_factor"], array.attrs["_FillValue"] = 0.01, np.array([-32768], "i2")
            array.dims[0].attach_scale(file["t"])
    for start, rows in runs(n_rows):
        for j, name in enumerate(NAMES):
            packed = np.rint(rows[:, j].astype("f8") * 100).astype("i2")
            low = max(0, half - start)
            if low:
                files[0][name][start : start + min(low, len(rows))] = packed[:low]
            if low < len(rows):
                begin = start + low - half
                files[1][name][begin : begin + len(rows) - low] = packed[low:]
    for file in files:
        file.close()
    return [str(folder / "*.nc"), "--columns", "f*"]


KINDS: dict[str, Callable[[Path, int], list[object]]] = {
    "npy": npy,
    "zarr": zarr_array,
    "zarr group": zarr_group,
    "parquet": parquet,
    "hdf5": hdf5,
    "netcdf": netcdf,
}


# -- what is done with each ----------------------------------------------------------------------------------------


def needed(given: list[object], output: Path) -> str:
    """The least memory of a worker that a fit accepts, as its errors say it."""
    limit = "1MiB"
    command = [sys.executable, "-m", "daskgmm", "fit", *given, *FIT, "--max-iter", 1, "-o", output, "--workers", 2]
    for _ in range(3):
        done = subprocess.run(
            [*map(str, command), "--memory-limit", limit], capture_output=True, text=True, check=False
        )
        if done.returncode == 3:
            shutil.rmtree(output)
            return limit
        found = re.search(r"(?:at least the|a need of) ([\d.]+ [MG]iB)", done.stderr)
        assert found, done.stderr
        limit = found[1].replace(" ", "")
    raise AssertionError(f"not even with the {limit} that it asks for")


def killed(given: list[object], output: Path, limit: str, folder: Path) -> tuple[int | None, str]:
    """Kill a fit with all its processes in its second iteration, start it again; its exit code, and its log."""
    command = [sys.executable, "-m", "daskgmm", "fit", *given, *FIT, "-o", output, "--workers", 2]
    command += ["--memory-limit", limit, "--checkpoint-every", 0]
    log = folder / "fit.log"
    with started(list(map(str, command)), log) as process:
        while passes_done(log) < 2 and process.poll() is None:
            time.sleep(0.05)
        time.sleep(1)
        assert process.poll() is None, log.read_text()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with started(list(map(str, command)), log) as process:
        return ended(process), log.read_text()


def tried(kind: str, n_rows: int, folder: Path) -> dict[str, Any]:
    """Return the record of a kind."""
    given = KINDS[kind](folder, n_rows)
    limit = needed(given, folder / "m.zarr")
    record: dict[str, Any] = {"kind": kind, "rows": n_rows, "needed": limit, "peaks": [], "seconds": [], "wrong": ""}
    checksums = []
    for n_workers in (1, 2, 4):
        began = time.monotonic()
        output = folder / f"{n_workers}.zarr"
        where = ("--workers", n_workers, "--memory-limit", limit)
        own, worker, found = measured("fit", *given, *FIT, "-o", output, *where, ends=3)
        record["seconds"].append(round(time.monotonic() - began, 1))
        record["stated"] = found["stated_peak_bytes"]
        record["peaks"].append(worker)
        if worker > found["stated_peak_bytes"] or own > found["stated_driver_bytes"]:
            record["wrong"] += f"{n_workers} workers: more memory than stated. "
        checksums.append(checksum(output))
    record["code"], log = killed(given, folder / "again.zarr", limit, folder)
    checksums.append(checksum(folder / "again.zarr"))
    record["resumed"] = "Going on from" in log
    if not record["resumed"] or record["code"] != 3:
        record["wrong"] += "it did not go on. "
    if len(set(checksums)) > 1:
        record["wrong"] += "other bits. "
    mixture = GaussianMixture.load(folder / "2.zarr")
    record["found"] = [np.sort(mixture.weights_).tolist(), float(mixture.lower_bound_)]
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="large-inputs.json", help="where the records go")
    parser.add_argument("--resume", action="store_true", help="keep the records that are there")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--gib", type=float, default=2.0, help="decoded size of each input")
    options = parser.parse_args()
    output, n_rows = Path(options.output), int(options.gib * GIB) // (4 * N_FEATURES)
    records = json.loads(output.read_text()) if options.resume and output.exists() else []
    for kind in options.kinds.split(","):
        if any(record["kind"] == kind for record in records):
            continue
        folder = Path(tempfile.mkdtemp())
        records.append(tried(kind, n_rows, folder))
        print(records[-1], flush=True)
        output.write_text(json.dumps(records, indent=1))
        shutil.rmtree(folder)
    for record in records[1:]:
        if not np.allclose(np.hstack(record["found"]), np.hstack(records[0]["found"]), rtol=1e-6):
            record["wrong"] += f"another mixture than of {records[0]['kind']}. "
    print("| kind | stated, MiB | largest worker of 1, 2, 4, MiB | seconds | killed and resumed | wrong |")
    print("| --- | ---: | ---: | ---: | --- | --- |")
    for record in records:
        peaks = ", ".join(f"{peak / MIB:.0f}" for peak in record["peaks"])
        seconds = ", ".join(f"{second:.0f}" for second in record["seconds"])
        cells = (f"{record['stated'] / MIB:.0f}", peaks, seconds, "the same bits", record["wrong"])
        print(f"| {record['kind']} | {' | '.join(cells)} |")
    sys.exit(any(record["wrong"] for record in records))


if __name__ == "__main__":
    main()
