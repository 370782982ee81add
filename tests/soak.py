"""Fits in a loop while a worker is killed every half minute: `python -m tests.soak --minutes 45`.

What must stay flat: the memory and the open files of driver, scheduler and workers, the number of processes, and the
keys that the scheduler knows between two fits. It writes what it saw as JSON, and a picture of the memory beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from distributed import Client
from sklearn.exceptions import ConvergenceWarning

from daskgmm import GaussianMixture
from tests.chaos import worker_processes
from tests.clusters import OwnCluster, free_port
from tests.groups import two_groups

#: Seconds between two looks, and between two killed workers.
LOOK_EVERY, KILL_EVERY = 5.0, 30.0
#: A level that has grown by more than this, from the second quarter of the time to the last, is not flat.
FLAT = 1.10


def looks(cluster: OwnCluster, over: threading.Event, found: list[dict[str, Any]]) -> None:
    """Note memory and files of each kind of process, every few seconds."""
    began = time.monotonic()
    while not over.wait(LOOK_EVERY):
        with suppress(psutil.Error):
            nannies = psutil.Process(cluster.workers.pid)
            groups = {
                "driver": [psutil.Process()],
                "scheduler": [psutil.Process(cluster.scheduler.pid)],
                "nannies": [nannies],
                "workers": worker_processes(cluster),
            }
            look: dict[str, Any] = {"seconds": round(time.monotonic() - began, 1)}
            look["processes"] = len(nannies.children(recursive=True))
            for name, own in groups.items():
                if own:
                    look[f"{name} MiB"] = max(process.memory_info().rss for process in own) / 2**20
                    look[f"{name} files"] = max(process.num_fds() for process in own)
            found.append(look)


def kills(cluster: OwnCluster, over: threading.Event, seed: int) -> None:
    chance = random.Random(seed)
    while not over.wait(KILL_EVERY):
        workers = worker_processes(cluster)
        if workers:
            with suppress(psutil.Error):
                chance.choice(workers).kill()


def soak(minutes: float, seed: int, folder: Path) -> dict[str, Any]:
    """Return what was seen: a record of each look, the keys after each fit, and how many fits had other bits."""
    store = two_groups(folder / "rows.zarr", 300_000)
    cluster = OwnCluster(free_port(), folder)
    over, seen, keys, first, n_other = threading.Event(), [], [], None, 0
    threads = [
        threading.Thread(target=looks, args=(cluster, over, seen)),
        threading.Thread(target=kills, args=(cluster, over, seed)),
    ]
    try:
        with Client(cluster.address, timeout=30) as client:
            client.wait_for_workers(2, timeout=60)
            for thread in threads:
                thread.start()
            ends = time.monotonic() + 60 * minutes
            while time.monotonic() < ends:
                mixture = GaussianMixture(
                    3, n_init=1, escape=False, start_rows=2000, max_iter=10, tol=1e-300, cache=len(keys) % 2 == 0,
                    random_state=0,
                ).fit(store)  # fmt: skip
                first = mixture.means_ if first is None else first
                n_other += not np.array_equal(mixture.means_, first)
                time.sleep(0.5)  # (what is let go of takes a moment to be forgotten)
                keys.append(int(client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))))
    finally:
        over.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        cluster.kill()
    left = sorted(path.name for path in folder.iterdir())
    return {"fits": len(keys), "other bits": n_other, "keys": keys, "looks": seen, "left": left}


def grown(found: dict[str, Any]) -> dict[str, float]:
    """Return by what factor each level has grown: median of the last quarter over that of the second."""
    looks, factors = found["looks"], {}
    for name in sorted({name for look in looks for name in look} - {"seconds"}):
        levels = [look[name] for look in looks if name in look]
        n = len(levels) // 4
        if n:
            factors[name] = float(np.median(levels[-n:]) / np.median(levels[n : 2 * n]))
    return factors


def draw(found: dict[str, Any], place: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    for name in ("driver", "scheduler", "nannies", "workers"):
        points = [(look["seconds"] / 60, look[f"{name} MiB"]) for look in found["looks"] if f"{name} MiB" in look]
        axes.plot(*zip(*points, strict=True), label=name)
    axes.set(xlabel="minutes", ylabel="resident memory, MiB (largest process)", ylim=(0, None))
    axes.set_title(f"{found['fits']} fits in a loop, a worker killed every {KILL_EVERY:g} s")
    figure.legend(loc="outside right upper")
    figure.savefig(place, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="soak.json", help="JSON; the picture stands beside it")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # ten iterations are meant
    with tempfile.TemporaryDirectory() as folder:
        found = soak(options.minutes, options.seed, Path(folder))
    output = Path(options.output)
    output.write_text(json.dumps(found))
    draw(found, output.with_suffix(".png"))
    factors = grown(found)
    print({name: value for name, value in found.items() if name not in ("looks", "keys")}, "keys", max(found["keys"]))
    print({name: round(value, 3) for name, value in factors.items()})
    sys.exit(bool(found["other bits"] or found["keys"][-1] or any(value > FLAT for value in factors.values())))


if __name__ == "__main__":
    main()
