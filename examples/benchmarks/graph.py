"""What a pass costs where nothing is read or computed: seconds of planning, of the graph, and of driver and scheduler.

    python examples/benchmarks/graph.py [--json FILE]

The same 262 GB (decoded; none of it is on the disk but one shard, linked a thousand times) as 3,000, 100,000 and
1,000,000 chunks, which make some 3,000 partitions each. Driver and scheduler are a process each, as they are on a
cluster; 200 workers of one thread share a third, in which the loop over the blocks of a partition is taken out: all
else is what a fit does. So what remains is what does not shrink with more workers. Five minutes on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
import psutil
import zarr
from distributed import Client, Scheduler, Worker

from daskgmm.kernels.estep import EStep
from daskgmm.kernels.plan import make_plan
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes import tree as passes
from daskgmm.passes.cache import Keep
from daskgmm.passes.client_executor import ClientExecutor
from daskgmm.passes.executor import Room
from daskgmm.passes.rows import Rows
from daskgmm.passes.survey import SurveyPass
from daskgmm.passes.tree import Passes, pass_graph
from daskgmm.sources.opening import open_rows

N_FEATURES = 16
N_ROWS = 4096 * 1_000_000
CHUNKS_PER_SHARD = 1000
STEPS = ("survey", "E-step", "survey that keeps", "E-step on kept")


def make_store(path: Path, n_chunks: int) -> None:
    """Make a Zarr array of so many chunks: a million of them in shards, of which one is written and linked."""
    chunk = -(-N_ROWS // n_chunks)
    if n_chunks < 1_000_000:
        zarr.create_array(path, shape=(N_ROWS, N_FEATURES), chunks=(chunk, N_FEATURES), dtype="f4")
        return
    shard = chunk * CHUNKS_PER_SHARD
    array = zarr.create_array(
        path, shape=(N_ROWS, N_FEATURES), chunks=(chunk, N_FEATURES), shards=(shard, N_FEATURES), dtype="f4"
    )
    values = np.random.default_rng(0).integers(4, size=(chunk, N_FEATURES)).astype("f4")
    array[:shard] = np.tile(values, (CHUNKS_PER_SHARD, 1))
    for i in range(1, n_chunks // CHUNKS_PER_SHARD):
        (path / "c" / str(i)).mkdir()
        os.link(path / "c" / "0" / "0", path / "c" / str(i) / "0")


def estep(n_components: int) -> EStep:
    """Return an E-step of seeded components of full covariance."""
    means = np.random.default_rng(0).standard_normal((n_components, N_FEATURES))
    covariances = np.stack([np.eye(N_FEATURES)] * n_components)
    weights = np.full(n_components, 1 / n_components)
    parameters = Parameters.from_covariances(family_called("full"), weights, means, covariances)
    return EStep([make_plan(parameters, origin=np.zeros(N_FEATURES))])


def without_rows(work: Any, cut: Any, x: Any, w: Any) -> Any:
    """Return the state of a partition without reading it."""
    return work.finish(work.zero())


def run_scheduler(address: Any) -> None:
    """Run a scheduler until the process is ended, and send its address."""

    async def serve() -> None:
        async with Scheduler(port=0, dashboard_address="127.0.0.1:0") as scheduler:
            address.send(scheduler.address)
            await scheduler.finished()

    asyncio.run(serve())


def run_workers(address: str, n_workers: int) -> None:
    """Run workers of one thread, all in this process, until it is ended."""
    passes._partition = without_rows
    # These threads share an interpreter, and a heap that a full collection takes 0.5 s to go through: workers of a
    # cluster do neither.
    sys.setswitchinterval(1e-4)
    gc.disable()

    async def serve() -> None:
        # (512 open connections for each would be more than a process may have.)
        options = {"nthreads": 1, "memory_limit": 0, "dashboard": False, "connection_limit": 16}
        workers = [Worker(address, **options) for _ in range(n_workers)]
        await asyncio.gather(*workers)
        await asyncio.gather(*(worker.finished() for worker in workers))

    asyncio.run(serve())


@contextmanager
def cluster(n_workers: int) -> Iterator[tuple[Client, Callable[[], Times]]]:
    """Start scheduler and workers as processes of their own; yield a client, and what reads the clocks."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    scheduler = context.Process(target=run_scheduler, args=(there,), daemon=True)
    scheduler.start()
    address = here.recv()
    workers = context.Process(target=run_workers, args=(address, n_workers), daemon=True)
    workers.start()
    processes = [psutil.Process(process.pid) for process in (scheduler, workers)]

    def clocks() -> Times:
        used = [sum(process.cpu_times()[:2]) for process in processes]
        return Times(perf_counter(), process_time(), *used)

    try:
        with Client(address) as client:
            client.wait_for_workers(n_workers, timeout=120)
            yield client, clocks
    finally:
        for process in workers, scheduler:
            process.terminate()
            process.join()


class Times(NamedTuple):
    """Seconds: of the clock, and of the processor in each process."""

    wall: float
    driver: float
    scheduler: float
    workers: float


def measured(
    path: Path, n_chunks: int, client: Client, clocks: Callable[[], Times], *, rounds: int, n_components: int
) -> dict[str, Any]:
    """Return the seconds of each step, medians over the rounds."""
    work, executor = estep(n_components), ClientExecutor(client)
    survey = SurveyPass(N_FEATURES, False, 0, -1)
    began = perf_counter()
    rows = Rows.plan(open_rows(path), None)
    planned = perf_counter()
    graph, _ = pass_graph(work, rows, name="p")
    built = perf_counter()
    found: dict[str, list[Times]] = {step: [] for step in STEPS}

    def run(step: str, over: Passes, this: Any) -> None:
        before = clocks()
        over.run(this, name="null")
        found[step].append(Times(*(b - a for a, b in zip(before, clocks(), strict=True))))

    for _ in range(rounds):
        with Passes(rows, executor) as streamed:
            run("survey", streamed, survey)
            run("E-step", streamed, work)
        with Passes(rows, executor, Keep(0, Room(0, 1), ())) as kept:
            run("survey that keeps", kept, survey)
            run("E-step on kept", kept, work)
    return {
        "chunks": n_chunks,
        "partitions": rows.n_partitions,
        "tasks": len(graph),
        "planning_seconds": planned - began,
        "graph_seconds": built - planned,
        "steps": {step: Times(*map(median, zip(*times, strict=True)))._asdict() for step, times in found.items()},
        "rounds": {step: [times._asdict() for times in all_times] for step, all_times in found.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, nargs="+", default=[3_000, 100_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=200, help="of one thread, in one process")
    parser.add_argument("--components", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the stores are made (temporary otherwise)")
    parser.add_argument("--json", type=Path, help="the result is appended here as one object a line")
    options = parser.parse_args()
    # For the processes to come: 200 workers would look at the same process twice a second, and at their threads a
    # hundred times.
    os.environ |= {
        "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "60s",
        "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
        "DASK_LOGGING__DISTRIBUTED": "critical",
    }
    results = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, cluster(options.workers) as (client, clocks):
        for n_chunks in options.chunks:
            path = Path(folder) / f"{n_chunks}.zarr"
            make_store(path, n_chunks)
            r = measured(path, n_chunks, client, clocks, rounds=options.rounds, n_components=options.components)
            results.append(r)
            print(f"{n_chunks:,d} chunks, {r['partitions']:,d} partitions, {r['tasks']:,d} tasks: ", end="")
            print(f"planned in {r['planning_seconds']:.2f} s, graph in {r['graph_seconds']:.2f} s")
            print("    seconds             pass   driver  scheduler   both  (processor)")
            for step, t in r["steps"].items():
                print(f"    {step:17s} {t['wall']:6.2f} {t['driver']:8.2f} {t['scheduler']:10.2f}", end="")
                print(f" {t['driver'] + t['scheduler']:6.2f}", flush=True)
    if options.json:
        with options.json.open("a", encoding="utf-8") as file:
            record = {"benchmark": "graph", "workers": options.workers, "cores": os.cpu_count(), "results": results}
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
