"""What a streamed pass costs, beside what the disk, the decoding and the kernel must cost.

For each store (codec and layout, with its files in the page cache and dropped from it), in interleaved rounds:

    disk     wall time of reading the store's files as bytes, by as many threads as there are workers
    decode   CPU time of reading every partition with zarr, or with pyarrow, nothing else
    kernel   CPU time of the same E-step on the same rows in memory (blocks made of them included)
    pass     wall time of the streamed E-step, as a fit runs it
    ratio    pass / max(disk, (decode + kernel) / workers): 1 is what the machine must charge
    larger   pass / max(disk, decode / workers, kernel / workers): 1 only if decoding took no cores from the kernel
    cpu      CPU time of the workers during the pass / (decode + kernel): what is above 1 is needless work
    idle     share of the machine's cores that stood idle during the pass; what else is in the ratio went to others

decode and kernel are measured on the workers, all at the same time: memory bandwidth and clock are those of the pass.
The layout parquet is a file of 40 columns, of which 16 (--features) are read, in row groups of 32 MiB of these.
With --memory instead: peak memory of a worker in a pass over 1 to 32 GiB, whose chunks are links to a single file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import distributed
import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import zarr
from distributed import Client, LocalCluster
from zarr.codecs import BloscCodec, ZstdCodec

from daskgmm.kernels.estep import EStep
from daskgmm.kernels.loops import can_compile
from daskgmm.kernels.plan import make_plan
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.client_executor import ClientExecutor
from daskgmm.passes.current import for_passes
from daskgmm.passes.rows import Cut, Rows, blocks, cuts
from daskgmm.passes.tree import run_pass
from daskgmm.sources.opening import open_rows

GIB, MIB = 1 << 30, 1 << 20
CODECS: dict[str, Any] = {
    "zstd": ZstdCodec(),
    "blosc-lz4": BloscCodec(cname="lz4", shuffle="shuffle"),
    "none": None,
}
#: How Parquet files are compressed, and how many columns they have for each that is read.
PARQUET_CODECS, PARQUET_COLUMNS = ("zstd", "snappy"), 2.5
#: Decoded bytes of a chunk, and of a shard (whose inner chunks are half as large as plain ones).
CHUNK_BYTES, SHARD_BYTES = 2 * MIB, 32 * MIB
MEMORY_GIB = (1, 4, 16, 32)


# -- the stores ----------------------------------------------------------------------------------------------------


def made_rows(n_rows: int, n_features: int) -> np.ndarray:
    """Return rows around 8 centres, rounded to two digits, (n_rows, n_features), float32."""
    random = np.random.default_rng(0)
    centres = random.normal(scale=4, size=(8, n_features))
    rows = centres[random.integers(8, size=n_rows)] + random.standard_normal((n_rows, n_features))
    return rows.round(2).astype("f4")


def make_store(path: Path, rows: np.ndarray, n_rows: int, *, codec: str, layout: str) -> float:
    """Write `rows`, repeated to n_rows, and return decoded over stored bytes. (Chunks are compressed one by one.)"""
    n_features = rows.shape[1]
    per_row = 4 * n_features
    shard = SHARD_BYTES // per_row
    chunk = CHUNK_BYTES // per_row
    array = zarr.create_array(
        path,
        shape=(n_rows, n_features),
        dtype="f4",
        chunks=(chunk if layout == "plain" else chunk // 2, n_features),
        shards=None if layout == "plain" else (shard, n_features),
        compressors=CODECS[codec],
    )
    for start in range(0, n_rows, shard):
        length, begin = min(shard, n_rows - start), start % (len(rows) - shard + 1)
        array[start : start + length] = rows[begin : begin + length]
    os.sync()
    return n_rows * per_row / sum(file.stat().st_size for file in files_of(path))


def make_parquet(path: Path, rows: np.ndarray, n_rows: int, *, codec: str) -> float:
    """Write a file of columns f0, f1, ... of which rows fill the first; return decoded over stored bytes of these."""
    n_features = rows.shape[1]
    group = SHARD_BYTES // (4 * n_features)
    names = [f"f{i}" for i in range(round(n_features * PARQUET_COLUMNS))]
    schema = pyarrow.schema([(name, pyarrow.float32()) for name in names])
    with pyarrow.parquet.ParquetWriter(path, schema, compression=codec, use_dictionary=False) as writer:
        for start in range(0, n_rows, group):
            length, begin = min(group, n_rows - start), start % (len(rows) - group + 1)
            taken = rows[begin : begin + length]
            columns = [np.ascontiguousarray(taken[:, i % n_features]) for i in range(len(names))]
            writer.write_table(pyarrow.table(columns, schema=schema), row_group_size=group)
    os.sync()
    metadata = pyarrow.parquet.read_metadata(path)
    chunks = (metadata.row_group(i).column(j) for i in range(metadata.num_row_groups) for j in range(n_features))
    return n_rows * 4 * n_features / sum(chunk.total_compressed_size for chunk in chunks)


def opened_rows(path: Path, n_features: int) -> Any:
    """Return a store's rows as a fit has them: of a Parquet file, the first columns."""
    return open_rows(path, columns=[f"f{i}" for i in range(n_features)] if path.suffix == ".parquet" else None)


def make_linked_store(path: Path, rows: np.ndarray, n_rows: int) -> None:
    """Write a store of one chunk many times over: a file, and links to it."""
    chunk = CHUNK_BYTES // (4 * rows.shape[1])
    n_rows -= n_rows % chunk
    array = zarr.create_array(path, shape=(n_rows, rows.shape[1]), dtype="f4", chunks=(chunk, rows.shape[1]))
    array[:chunk] = rows[:chunk]
    for i in range(1, n_rows // chunk):
        (path / f"c/{i}").mkdir()
        os.link(path / "c/0/0", path / f"c/{i}/0")


def files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def drop_caches(path: Path) -> None:
    """Drop a store's files from the page cache: all of it as root, else these files as the kernel agrees to."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
        return
    except OSError:
        pass
    for file in files_of(path):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# -- what is measured ----------------------------------------------------------------------------------------------


def disk_seconds(path: Path, n_threads: int) -> float:
    """Return the wall time of reading all files of a store, each thread into one buffer."""
    files = files_of(path)

    def read(own: list[Path]) -> None:
        buffer = memoryview(bytearray(4 * MIB))
        for file in own:
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(buffer):
                    pass

    start = time.perf_counter()
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(read, (files[i::n_threads] for i in range(n_threads))))
    return time.perf_counter() - start


def decode_cpu_seconds(path: Path, own: list[Cut]) -> float:
    """Return the CPU time of zarr for the runs of some partitions, or of pyarrow; runs on a worker."""
    if path.suffix == ".parquet":
        return parquet_cpu_seconds(path, own)
    array = zarr.open_array(path, mode="r")
    start = time.process_time()
    for cut in own:
        for low, high in zip(cut.runs[:-1], cut.runs[1:], strict=True):
            array[low:high]
    return time.process_time() - start


def parquet_cpu_seconds(path: Path, own: list[Cut]) -> float:
    """Return the CPU time of pyarrow for the row groups that begin in some partitions."""
    file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
    lengths = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    start = time.process_time()
    for cut in own:
        names = [f"f{i}" for i in range(cut.n_features)]
        for i in np.flatnonzero((begins >= cut.runs[0]) & (begins < cut.runs[-1])):
            for _ in file.iter_batches(row_groups=[int(i)], columns=names, use_threads=False):
                pass
    return time.process_time() - start


class _Held:
    """Reads rows of an array in memory."""

    def __init__(self, array: np.ndarray, first: int) -> None:
        self._array, self._first = array, first

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._array[start - self._first : stop - self._first]


def kernel_cpu_seconds(path: Path, own: list[Cut], work: EStep) -> float:
    """Return the CPU time of blocks and E-step for some partitions, each in memory before; runs on a worker."""
    seconds = 0.0
    for cut in own:
        start, stop = cut.runs[0], cut.runs[-1]
        held = _Held(opened_rows(path, cut.n_features).reader().read(start, stop), start)
        begun, state = time.process_time(), work.zero()
        for block in blocks(Cut(cut.index, (start, stop), cut.n_features, cut.check, False), held, None):
            state = work.update(state, block)
        seconds += time.process_time() - begun
    return seconds


def on_workers(client: Client, measure: Callable[..., float], path: Path, rows: Rows, *arguments: Any) -> float:
    """Return the sum over the workers of what each measures on its share of the partitions."""
    every, addresses = cuts(rows), sorted(client.nthreads())
    futures = [
        client.submit(measure, path, every[i :: len(addresses)], *arguments, workers=[address], pure=False)
        for i, address in enumerate(addresses)
    ]
    return float(sum(client.gather(futures)))


def pass_seconds(client: Client, rows: Rows, work: EStep) -> dict[str, float]:
    """Return the wall time of a streamed pass, the CPU time of the workers in it, and the share of idle cores."""
    cpu, machine = sum(client.run(time.process_time).values()), psutil.cpu_times()
    start = time.perf_counter()
    run_pass(work, rows, ClientExecutor(client), name="benchmark")
    wall, after = time.perf_counter() - start, psutil.cpu_times()
    idle = (after.idle - machine.idle + getattr(after, "iowait", 0) - getattr(machine, "iowait", 0)) / wall
    return {
        "pass": wall,
        "pass_cpu": sum(client.run(time.process_time).values()) - cpu,
        "idle": idle / (os.cpu_count() or 1),
    }


def estep(n_components: int, n_features: int) -> EStep:
    """Return the pass of one full mixture, made of the numbers that the rows were made of, and others."""
    means = np.random.default_rng(0).normal(scale=4, size=(n_components, n_features))
    weights, covariances = np.full(n_components, 1 / n_components), np.stack([np.eye(n_features)] * n_components)
    parameters = Parameters.from_covariances(family_called("full"), weights, means, covariances)
    return EStep([make_plan(parameters, origin=np.zeros(n_features), compiled=can_compile())])


def measured(
    client: Client, path: Path, source: Any, work: EStep, *, caches: list[str], rounds: int
) -> list[dict[str, Any]]:
    """Return for each state of the page cache the medians over interleaved rounds, and their ratios."""
    rows = Rows.plan(source, None).trusted()
    n_workers = len(client.nthreads())
    every: dict[str, list[float]] = {"decode": [], "kernel": []}
    own: dict[str, dict[str, list[float]]] = {
        cache: {"disk": [], "pass": [], "pass_cpu": [], "idle": []} for cache in caches
    }
    pass_seconds(client, rows, work)  # opens the store, loads libraries, and fills the page cache
    for _ in range(rounds):
        every["decode"].append(on_workers(client, decode_cpu_seconds, path, rows))
        every["kernel"].append(on_workers(client, kernel_cpu_seconds, path, rows, work))
        for cache, runs in own.items():
            if cache == "cold":
                drop_caches(path)
            runs["disk"].append(disk_seconds(path, n_workers))
            if cache == "cold":
                drop_caches(path)
            for what, value in pass_seconds(client, rows, work).items():
                runs[what].append(value)
    return [{"cache": cache, **summary(every | runs, n_workers)} for cache, runs in own.items()]


def summary(runs: dict[str, list[float]], n_workers: int) -> dict[str, Any]:
    """Return the medians, their ratios, and the runs themselves."""
    medians = {what: statistics.median(values) for what, values in runs.items()}
    cpu = medians["decode"] + medians["kernel"]
    ratio = medians["pass"] / max(medians["disk"], cpu / n_workers)
    either = max(medians["disk"], medians["decode"] / n_workers, medians["kernel"] / n_workers)
    return {
        **medians,
        "ratio": ratio,
        "larger": medians["pass"] / either,
        "cpu": medians["pass_cpu"] / cpu,
        "runs": runs,
    }


# -- the two benchmarks --------------------------------------------------------------------------------------------


@contextmanager
def workers(n_workers: int, **options: Any) -> Iterator[Client]:
    """Start one-thread worker processes, each with one BLAS thread."""
    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=":0", **options) as cluster,
        Client(cluster) as client,
        for_passes(ClientExecutor(client)),
    ):
        yield client


def benchmark(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure every store, print a line for each, and return them."""
    n_features = options.features
    n_rows = int(options.gib * GIB) // (4 * n_features)
    rows = made_rows(min(n_rows, 2 * SHARD_BYTES // (4 * n_features)), n_features)
    caches = ["warm"] * options.warm + ["cold"] * options.cold
    columns = ("disk", "decode", "kernel", "pass", "ratio", "larger", "cpu", "idle")
    results = []
    print(f"{options.gib:g} GiB of float32, {n_rows} rows, D={n_features}; {options.workers} workers; seconds")
    print("codec      layout   stored    K  cache" + "".join(f"{column:>8}" for column in columns))
    chosen = list(itertools.product(options.codecs.split(","), options.layouts.split(",")))
    chosen = [(codec, layout) for codec, layout in chosen if layout != "parquet"]
    if "parquet" in options.layouts.split(","):
        chosen += [(codec, "parquet") for codec in PARQUET_CODECS]
    for codec, layout in chosen:
        path = folder / f"{codec}-{layout}.{'parquet' if layout == 'parquet' else 'zarr'}"
        if layout == "parquet":
            compression = make_parquet(path, rows, n_rows, codec=codec)
        else:
            compression = make_store(path, rows, n_rows, codec=codec, layout=layout)
        for n_components in map(int, options.components.split(",")):
            store = {"codec": codec, "layout": layout, "compression": compression, "n_components": n_components}
            with workers(options.workers) as client:
                lines = measured(
                    client,
                    path,
                    opened_rows(path, n_features),
                    estep(n_components, n_features),
                    caches=caches,
                    rounds=options.rounds,
                )
            for line in lines:
                results.append(store | line)
                print(
                    f"{codec:10} {layout:8} {1 / compression:5.0%} {n_components:5}  {line['cache']} "
                    + "".join(f"{line[column]:8.2f}" for column in columns),
                    flush=True,
                )
        path.unlink() if path.is_file() else shutil.rmtree(path)
    return results


def peak_mib() -> float:
    """Return the largest resident size that this process ever had, MiB."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def memory_benchmark(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure the peak of fresh workers for inputs of growing size, print a line for each, and return them."""
    n_features, results = options.features, []
    rows = made_rows(CHUNK_BYTES // (4 * n_features), n_features)
    work = estep(2, n_features)
    print("decoded   pass   peak of each worker, MiB")
    for gib in map(float, options.memory_gib.split(",")):
        path = folder / "linked.zarr"
        make_linked_store(path, rows, int(gib * GIB) // (4 * n_features))
        with workers(options.workers) as client:
            seconds = pass_seconds(client, Rows.plan(open_rows(path), None).trusted(), work)["pass"]
            peaks = sorted(client.run(peak_mib).values())
        results.append({"gib": gib, "pass": seconds, "peak_mib": peaks})
        print(f"{gib:5g} GiB {seconds:5.1f}s  {'  '.join(f'{peak:.0f}' for peak in peaks)}", flush=True)
        shutil.rmtree(path)
    highest = [max(line["peak_mib"]) for line in results]
    print(f"largest over smallest: {max(highest) / min(highest):.3f}")
    return results


def circumstances(options: argparse.Namespace) -> dict[str, Any]:
    """Return versions, cores, commit and options, as JSON."""
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return {
        "commit": found.stdout.strip() or None,
        "python": platform.python_version(),
        "versions": {module.__name__: module.__version__ for module in (dask, distributed, np, zarr)},
        "cores": os.cpu_count(),
        "options": {name: value for name, value in vars(options).items() if name not in ("json", "folder")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=0.5, help="decoded size of each store")
    parser.add_argument("--codecs", default=",".join(CODECS))
    parser.add_argument("--layouts", default="plain,sharded,parquet")
    parser.add_argument("--components", default="8", help="one or more numbers of components")
    parser.add_argument("--features", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread")
    parser.add_argument("--cold", action=argparse.BooleanOptionalAction, default=True, help="with dropped page cache")
    parser.add_argument("--warm", action=argparse.BooleanOptionalAction, default=True, help="with the files in it")
    parser.add_argument("--memory", action="store_true", help="peak memory of a worker instead of times")
    parser.add_argument("--memory-gib", default=",".join(map(str, MEMORY_GIB)), help="decoded sizes for --memory")
    parser.add_argument("--folder", type=Path, help="where the stores are made (and deleted); default: a temporary one")
    parser.add_argument("--json", type=Path, help="where the results are written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results = (memory_benchmark if options.memory else benchmark)(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps({**circumstances(options), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
