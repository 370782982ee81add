"""Bytes that workers send each other during a pass, against the bytes that the pass reads.

    python examples/benchmarks/traffic.py [--json FILE]

First the states of an E-step, on four worker processes over 256 GB whose rows are not read (chunks that are not there;
the loop over the blocks of a partition is taken out): tasks, merges and states are those of a fit, also where a state
takes 4 MB, and 41 for ten candidates. Then real rows that are kept in memory: what moves in the passes after the first.
Both as the workers log what they received. A minute or two on two cores.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import dask
import numpy as np
import zarr
from distributed import Client, LocalCluster

from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.plan import make_plan
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes import tree as passes
from daskgmm.passes.client_executor import ClientExecutor
from daskgmm.passes.need import Need
from daskgmm.passes.rows import Rows
from daskgmm.passes.tree import run_pass
from daskgmm.sources.opening import open_rows

GB = 10**9
#: Decoded GB, features, components, candidates.
CASES = [
    (256, 16, 8, 1),
    (256, 64, 50, 1),
    (256, 64, 50, 10),
    (256, 100, 100, 1),
    (256, 100, 100, 2),
    (16, 100, 100, 2),
]
KEPT_ROWS, KEPT_FEATURES = 4_000_000, 16


def without_rows(work: Any, cut: Any, x: Any, w: Any) -> Any:
    """Return the state of a partition without reading it."""
    return work.finish(work.zero())


def read_nothing() -> None:
    """Take the loop over blocks out of a worker's passes."""
    passes._partition = without_rows


def received_bytes(dask_worker: Any) -> int:
    """Return the bytes of results that a worker has received from others.

    Kept rows do not count: where another worker takes over a task, an empty reader travels, which distributed logs with
    the size of the rows that it left behind. What that worker then reads again is in "read".
    """
    return sum(
        n_bytes
        for record in dask_worker.transfer_incoming_log
        for key, n_bytes in record["keys"].items()
        if "fill-" not in str(key)
    )


def received(client: Client) -> int:
    return int(sum(client.run(received_bytes).values()))


def plans(n_features: int, n_components: int, n_candidates: int) -> list[Any]:
    """Return plans of seeded mixtures of full covariance."""
    random = np.random.default_rng(0)
    covariances, weights = np.stack([np.eye(n_features)] * n_components), np.full(n_components, 1 / n_components)
    made = []
    for _ in range(n_candidates):
        means = random.standard_normal((n_components, n_features))
        parameters = Parameters.from_covariances(family_called("full"), weights, means, covariances)
        made.append(make_plan(parameters, origin=np.zeros(n_features)))
    return made


def states(client: Client, folder: Path) -> list[dict[str, Any]]:
    """Return for each case the bytes that moved in one E-step over rows that are not read."""
    client.run(read_nothing)
    found, executor = [], ClientExecutor(client)
    for size, n_features, n_components, n_candidates in CASES:
        n_rows, path = size * GB // (4 * n_features), folder / f"{size}-{n_features}.zarr"
        zarr.create_array(path, shape=(n_rows, n_features), chunks=(16_384, n_features), dtype="f4", overwrite=True)
        need = Need(family_called("full").shape, n_components, n_candidates)
        rows = Rows.plan(open_rows(path), None)
        rows = rows.in_tasks(state_bytes=need.state_bytes(n_features), n_threads=executor.n_threads())
        work, before = EStep(plans(n_features, n_components, n_candidates)), received(client)
        (state, *_) = run_pass(work, rows, executor, name="traffic")
        moved = received(client) - before
        found.append(
            {
                "gb": rows.n_bytes / GB, "features": n_features, "components": n_components, "candidates": n_candidates,
                "state_mb": n_candidates * state.values.nbytes / 1e6, "tasks": rows.n_tasks,
                "moved_mb": moved / 1e6, "share": moved / rows.n_bytes,
            }
        )  # fmt: skip
    return found


def kept(client: Client, folder: Path) -> dict[str, Any]:
    """Return the bytes that moved in the passes of a fit whose rows stay in memory, after the first of them."""
    random = np.random.default_rng(0)
    centres = random.normal(scale=3, size=(8, KEPT_FEATURES))
    path = folder / "kept.zarr"
    array = zarr.create_array(path, shape=(KEPT_ROWS, KEPT_FEATURES), chunks=(65_536, KEPT_FEATURES), dtype="f4")
    for start in range(0, KEPT_ROWS, 500_000):
        labels = random.integers(8, size=500_000)
        array[start : start + 500_000] = centres[labels] + random.standard_normal((500_000, KEPT_FEATURES))
    moved: list[int] = []

    def listen(*_: Any) -> None:
        moved.append(received(client))

    weights = np.full(8, 1 / 8)
    options = FitOptions(
        n_components=8, tol=0.0, max_iter=8, weights_init=weights, means_init=centres,
        precisions_init=np.stack([np.eye(KEPT_FEATURES)] * 8), cache=True,
        acceleration=None,
    )  # fmt: skip
    fit = fit_mixture(open_rows(path), options, listener=listen)
    later = np.diff(moved)
    n_bytes = KEPT_ROWS * KEPT_FEATURES * 4
    return {
        "rows_mb": n_bytes / 1e6, "kept": fit.cached_bytes / n_bytes, "read": fit.bytes_read / n_bytes,
        "passes": fit.n_passes, "most_moved_mb": max(later) / 1e6, "share": max(later) / n_bytes,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the results are written")
    options = parser.parse_args()
    logging.getLogger("distributed").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name, dask.config.set({"distributed.admin.log-length": 100_000}):
        folder = Path(name)
        with (
            LocalCluster(n_workers=4, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            real = kept(client, folder)
            found = states(client, folder)
    print("   read  features  components  candidates  a state  tasks    moved  share of what is read")
    for r in found:
        print(
            f"{r['gb']:4.0f} GB {r['features']:9} {r['components']:11} {r['candidates']:11} {r['state_mb']:5.1f} MB "
            f"{r['tasks']:6,} {r['moved_mb']:5.0f} MB {r['share']:8.2%}"
        )
    print(
        f"kept: {real['kept']:.0%} of {real['rows_mb']:.0f} MB, read {real['read']:.2f} times in {real['passes']} "
        f"passes; at most {real['most_moved_mb']:.2f} MB moved in a later pass, {real['share']:.2%}"
    )
    if options.json:
        options.json.write_text(json.dumps({"states": found, "kept": real}, indent=1) + "\n")


if __name__ == "__main__":
    main()
