"""What a pass costs where nothing is read or computed: seconds of planning, of the graph, and of driver and scheduler.

    python examples/benchmarks/graph.py [--json FILE]

The same 262 GB (decoded; none of it is on the disk but one shard, linked a thousand times) as 3,000, 100,000 and
1,000,000 chunks, which make some 3,000 partitions each; 200 workers of one thread in this process. The loop over the
blocks of a partition is taken out, all else is what a fit does: so a pass is only what does not scale with workers. A
minute or two on two cores.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import dask
import numpy as np
import zarr
from distributed import Client, LocalCluster

from daskgmm.data import passes
from daskgmm.data.cache import Keep
from daskgmm.data.executor import ClientExecutor, Room
from daskgmm.data.opening import open_source
from daskgmm.data.passes import Passes, pass_graph
from daskgmm.data.rows import Rows
from daskgmm.data.survey import SurveyPass
from daskgmm.mixture.covariance import covariance_kind
from daskgmm.mixture.estep import EStep
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.plan import make_plan

N_FEATURES = 16
N_ROWS = 4096 * 1_000_000
CHUNKS_PER_SHARD = 1000


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
    parameters = Parameters.from_covariances(covariance_kind("full"), weights, means, covariances)
    return EStep([make_plan(parameters, origin=np.zeros(N_FEATURES))])


def without_rows(work: Any, cut: Any, x: Any, w: Any) -> Any:
    """Return the state of a partition without reading it."""
    return work.finish(work.zero())


def timed(call: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """Return seconds, and those of the processor (of driver, scheduler and workers together), and the result."""
    began, cpu = perf_counter(), process_time()
    result = call()
    return (perf_counter() - began, process_time() - cpu), result


def measured(path: Path, n_chunks: int, client: Client, *, rounds: int, n_components: int) -> dict[str, Any]:
    """Return the seconds of each step, medians over the rounds."""
    work, executor = estep(n_components), ClientExecutor(client)
    survey = SurveyPass(N_FEATURES, False, 0, -1)
    planning, rows = timed(lambda: Rows.plan(open_source(path), None))
    graph, built = timed(lambda: pass_graph(work, rows, name="p"))
    seconds: dict[str, list[tuple[float, float]]] = {
        "estep": [],
        "survey": [],
        "survey_that_keeps": [],
        "estep_on_kept": [],
    }

    def run(what: str, over: Passes, this: Any) -> None:
        seconds[what].append(timed(lambda: over.run(this, name="null"))[0])

    for _ in range(rounds):
        with Passes(rows, executor) as streamed:
            run("survey", streamed, survey)
            run("estep", streamed, work)
        with Passes(rows, executor, Keep(0, Room(0, 1), False)) as kept:
            run("survey_that_keeps", kept, survey)
            run("estep_on_kept", kept, work)
    return {
        "chunks": n_chunks,
        "partitions": rows.n_partitions,
        "tasks": len(built[0]),
        "planning_seconds": planning[0],
        "graph_seconds": graph[0],
        **{f"{what}_seconds": median(wall for wall, _ in found) for what, found in seconds.items()},
        **{f"{what}_cpu_seconds": median(cpu for _, cpu in found) for what, found in seconds.items()},
        "all_seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, nargs="+", default=[3_000, 100_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=200, help="of one thread, in this process")
    parser.add_argument("--components", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the stores are made (temporary otherwise)")
    parser.add_argument("--json", type=Path, help="the result is appended here as one object a line")
    options = parser.parse_args()
    logging.getLogger("distributed").setLevel(logging.ERROR)
    passes._partition = without_rows
    # The threads of real workers do not share the interpreter of the scheduler: handing it over takes 5 ms a task else.
    sys.setswitchinterval(1e-4)
    print(f"{'chunks':>9s} {'partitions':>10s} {'tasks':>6s} {'plan':>7s} {'graph':>7s}", end="")
    print(f" {'E-step':>7s} {'survey':>7s} {'keeps':>7s} {'kept':>7s}   seconds")
    results = []
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        # (200 workers that look at the same process twice a second.)
        dask.config.set({"distributed.admin.system-monitor.interval": "60s"}),
        LocalCluster(
            n_workers=options.workers, threads_per_worker=1, processes=False, dashboard_address=None, memory_limit=0,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        for n_chunks in options.chunks:
            path = Path(folder) / f"{n_chunks}.zarr"
            make_store(path, n_chunks)
            r = measured(path, n_chunks, client, rounds=options.rounds, n_components=options.components)
            results.append(r)
            steps = ("planning", "graph", "estep", "survey", "survey_that_keeps", "estep_on_kept")
            print(f"{n_chunks:9,d} {r['partitions']:10,d} {r['tasks']:6,d}", end="")
            print("".join(f" {r[f'{step}_seconds']:7.2f}" for step in steps))
            print(f"{'of the processor':>44s}", end="")
            print("".join(f" {r[f'{step}_cpu_seconds']:7.2f}" for step in steps[2:]), flush=True)
    if options.json:
        with options.json.open("a", encoding="utf-8") as file:
            record = {"benchmark": "graph", "workers": options.workers, "cores": os.cpu_count(), "results": results}
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
