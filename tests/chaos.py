"""Processes and links that fail at random moments while a fit runs: `python -m tests.chaos` does all of it.

A run starts a cluster and a fit, makes trouble until the fit ends, and runs the same command again, undisturbed, where
it ended with a code that promises that: the model must have the bits of an undisturbed fit. What came of each run is a
record in a JSON file; `--resume` goes on with the runs that are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.clusters import OwnCluster, free_port
from tests.groups import two_groups

#: Runs of each kind in the full set.
RUNS = {"worker": 30, "plugin": 20, "scheduler": 10, "driver": 20, "stopped": 8, "stopped for good": 2, "link": 5}
#: Seconds that a command may take: one that takes longer hangs.
LONGEST = 150.0
#: Seconds in which a command that is told to end must have ended.
ENDS_WITHIN = 10.0
#: A worker that is silent for so long counts as lost, instead of after five minutes.
ENVIRONMENT = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "10s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "15s",
}
N_ROWS = 300_000


def fit(store: Path, output: Path, *where: object) -> list[str]:
    """The command of a fit of 32 passes over four partitions."""
    how = ("--restarts", 1, "--no-escape", "--start-rows", 2000, "--checkpoint-every", 0, "--cache", "no")
    arguments = ("fit", store, "-k", 3, "-o", output, "--tol", 0, "--max-iter", 30, *how, *where)
    return [sys.executable, "-m", "daskgmm", *map(str, arguments)]


def checksum(model: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "daskgmm", "inspect", str(model)], capture_output=True, text=True, check=True
    )
    return str(json.loads(done.stdout)["checksum"])


@contextmanager
def started(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Provide a running command in a process group of its own, which is killed in the end."""
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
            env={**os.environ, **ENVIRONMENT},
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ended(process: subprocess.Popen[bytes], trouble: Callable[[], None] = lambda: None) -> int | None:
    """Return the exit code of a command among trouble, None where it hangs."""
    deadline = time.monotonic() + LONGEST
    while process.poll() is None:
        if time.monotonic() > deadline:
            return None
        trouble()
        time.sleep(0.02)
    return process.returncode


def passes_done(log: Path) -> int:
    return log.read_text().count("pass ") if log.exists() else 0


def worker_processes(cluster: OwnCluster) -> list[psutil.Process]:
    """Return the processes that compute: what the nannies have started."""
    with suppress(psutil.Error):
        found = psutil.Process(cluster.workers.pid).children(recursive=True)
        return [process for process in found if "spawn_main" in " ".join(process.cmdline())]
    return []


class Trouble:
    """What a run does while the fit runs, at random moments that its seed gives: so often at most, and not at once."""

    most = 10

    def __init__(self, kind: str, seed: int, folder: Path, log: Path) -> None:
        self.kind, self.folder, self.log, self.n = kind, folder, log, 0
        self.random = random.Random(f"{kind} {seed}")
        self._next = float("inf")
        self._undo: list[tuple[float, Callable[[], None]]] = []
        self.cluster: OwnCluster | None = None
        self.port = free_port()

    def __call__(self) -> None:
        now = time.monotonic()
        if self._next == float("inf") and passes_done(self.log) >= 1:
            self._next = now + self.random.uniform(0, 4)
        for item in [item for item in self._undo if item[0] <= now]:
            self._undo.remove(item)
            item[1]()
        if now >= self._next and not self._undo and self.n < self.most:
            self._next = now + self.random.expovariate(1 / 3)
            self.n += self.make()

    def make(self) -> bool:
        """Make trouble; return whether there was any to make."""
        raise NotImplementedError

    def later(self, seconds: float, undo: Callable[[], None]) -> None:
        self._undo.append((time.monotonic() + seconds, undo))

    def undo(self) -> None:
        for _, undo in self._undo:
            undo()
        self._undo = []

    def start(self, **options: Any) -> None:
        self.cluster = OwnCluster(self.port, self.folder, environment=ENVIRONMENT, **options)

    @contextmanager
    def around(self) -> Iterator[list[object]]:
        """Provide a cluster, and the options of a fit that runs there."""
        self.start()
        try:
            yield ["--scheduler", f"tcp://127.0.0.1:{self.port}", "--scheduler-wait", 60]
        finally:
            self.undo()
            if self.cluster is not None:
                self.cluster.kill()

    def worker(self) -> psutil.Process | None:
        assert self.cluster is not None
        found = worker_processes(self.cluster)
        return self.random.choice(found) if found else None


class KilledWorkers(Trouble):
    """SIGKILL to a worker, again and again."""

    def make(self) -> bool:
        worker = self.worker()
        if worker is not None:
            with suppress(psutil.Error):
                worker.kill()
        return worker is not None


class PluginWorkers(Trouble):
    """distributed's own KillWorker, in all its modes."""

    most = 1

    def make(self) -> bool:
        mode = self.random.choice(["sys.exit", "graceful", "segfault"])
        code = (
            "import sys; from distributed import Client; from distributed.chaos import KillWorker\n"
            f"with Client('tcp://127.0.0.1:{self.port}', timeout=5) as c: "
            f"c.register_plugin(KillWorker('4 s', mode='{mode}'))"
        )
        return (
            subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=30).returncode == 0
        )


class KilledScheduler(Trouble):
    """SIGKILL to the scheduler and its workers; they come back after some seconds."""

    most = 3

    def make(self) -> bool:
        assert self.cluster is not None
        self.cluster.kill()
        self.later(self.random.uniform(0, 5), self.start)
        return True


class StoppedWorkers(Trouble):
    """SIGSTOP to a worker, which goes on some seconds later: before or after it counts as lost."""

    most, for_good = 4, False

    def make(self) -> bool:
        worker = self.worker()
        if worker is None:
            return False
        with suppress(psutil.Error):
            worker.suspend()
        self.later(LONGEST if self.for_good else self.random.choice([0.5, 3, 15]), lambda: _resumed(worker))
        return True


class StoppedForGood(StoppedWorkers):
    """The same, and nobody lets it go on."""

    most, for_good = 1, True


def _resumed(worker: psutil.Process) -> None:
    with suppress(psutil.Error):
        worker.resume()


class CutLink(Trouble):
    """Workers in a network of their own, whose link goes down for some seconds. (Needs root.)"""

    most = 3

    @contextmanager
    def around(self) -> Iterator[list[object]]:
        name = f"chaos{os.getpid() % 10_000}"
        _ip("netns", "add", name)
        try:
            _ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
            self._link = f"{name}a"
            _ip("addr", "add", "10.213.7.1/24", "dev", self._link)
            _ip("link", "set", self._link, "up")
            for command in (
                ["addr", "add", "10.213.7.2/24", "dev", f"{name}b"],
                ["link", "set", f"{name}b", "up"],
                ["link", "set", "lo", "up"],
            ):
                _ip("-n", name, *command)
            self.start(host="10.213.7.1", elsewhere=["ip", "netns", "exec", name])
            yield ["--scheduler", f"tcp://10.213.7.1:{self.port}", "--scheduler-wait", 60]
        finally:
            self.undo()
            if self.cluster is not None:
                self.cluster.kill()
            _ip("netns", "del", name)

    def make(self) -> bool:
        _ip("link", "set", self._link, "down")
        self.later(self.random.choice([1, 5, 20]), lambda: _ip("link", "set", self._link, "up"))
        return True


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


TROUBLES: Mapping[str, type[Trouble]] = {
    "worker": KilledWorkers,
    "plugin": PluginWorkers,
    "scheduler": KilledScheduler,
    "stopped": StoppedWorkers,
    "stopped for good": StoppedForGood,
    "link": CutLink,
}


def run(kind: str, seed: int, store: Path, folder: Path, undisturbed: str) -> dict[str, Any]:
    """Return the record of a run: exit codes, how often there was trouble, and what was wrong ("" for nothing)."""
    began = time.monotonic()
    output, log = folder / "m.zarr", folder / "fit.log"
    record: dict[str, Any] = {"kind": kind, "seed": seed, "codes": [], "troubles": 0, "wrong": ""}
    if kind == "driver":
        _run_driver(record, fit(store, output, "--workers", 2), log)
    else:
        trouble = TROUBLES[kind](kind, seed, folder, log)
        with trouble.around() as where, started(fit(store, output, *where), log) as process:
            record["codes"].append(ended(process, trouble))
            record["troubles"] = trouble.n
    for _ in range(3):
        if record["codes"][-1] not in (69, 75, -9):
            break
        with started(fit(store, output, "--workers", 2), log) as process:
            record["codes"].append(ended(process))
    if record["codes"][-1] != 3 or not set(record["codes"][:-1]) <= {69, 75, -9}:
        record["wrong"] = "it hangs" if None in record["codes"] else "another exit code"
    elif checksum(output) != undisturbed:
        record["wrong"] = "other bits"
    elif left := set(os.listdir(folder)) - {"m.zarr", "fit.log", "scheduler.log", "worker.log", "dask-scratch-space"}:
        record["wrong"] = f"left behind: {', '.join(sorted(left))}"
    if record["wrong"]:
        record["logs"] = {path.name: path.read_text()[-6000:] for path in folder.glob("*.log")}
    return {**record, "seconds": round(time.monotonic() - began, 1)}


def _run_driver(record: dict[str, Any], arguments: list[str], log: Path) -> None:
    """Kill, or interrupt, the fit itself up to three times, at random moments from its start."""
    chance = random.Random(f"driver {record['seed']}")
    for _ in range(3):
        number = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        with started(arguments, log) as process:
            deadline = time.monotonic() + chance.uniform(0.5, 12)
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            if process.poll() is None:
                record["troubles"] += 1
                # As Control-C in a terminal: to the workers, too.
                os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
                began = time.monotonic()
                ended(process)
                if time.monotonic() - began > ENDS_WITHIN:
                    record["codes"].append(None)
                    return
        code = process.returncode
        # (Before anything is set up, Python ends at a signal as any program does.)
        record["codes"].append(75 if code in (-signal.SIGTERM, -signal.SIGINT) else code)
        if code not in (75, -9, -signal.SIGTERM, -signal.SIGINT):
            return


def prepared(folder: Path) -> tuple[Path, str]:
    """Return a store, and the checksum of its undisturbed fit."""
    store = two_groups(folder / "rows.zarr", N_ROWS)
    with started(fit(store, folder / "undisturbed.zarr", "--workers", 2), folder / "undisturbed.log") as process:
        assert ended(process) == 3, (folder / "undisturbed.log").read_text()
    return store, checksum(folder / "undisturbed.zarr")


def can_cut_links() -> bool:
    return shutil.which("ip") is not None and os.geteuid() == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="chaos.json", help="where the records go")
    parser.add_argument("--resume", action="store_true", help="keep the records that are there")
    parser.add_argument("--kinds", default=",".join(RUNS), help="which kinds of trouble")
    parser.add_argument("--runs", type=int, help="runs of each kind, instead of the full set")
    parser.add_argument("--seed", type=int, default=0, help="of the first run of each kind")
    options = parser.parse_args()
    output = Path(options.output)
    records = json.loads(output.read_text()) if options.resume and output.exists() else []
    done = {(record["kind"], record["seed"]) for record in records}
    with tempfile.TemporaryDirectory() as folder:
        store, undisturbed = prepared(Path(folder))
        for kind in options.kinds.split(","):
            if kind == "link" and not can_cut_links():
                print("link: needs root and the command ip; skipped")
                continue
            for seed in range(options.seed, options.seed + (options.runs or RUNS[kind])):
                if (kind, seed) in done:
                    continue
                own = Path(folder) / f"{kind}-{seed}"
                own.mkdir()
                records.append(run(kind, seed, store, own, undisturbed))
                print({name: value for name, value in records[-1].items() if name != "logs"}, flush=True)
                output.write_text(json.dumps(records, indent=1))
                shutil.rmtree(own)
    print(table(records))
    sys.exit(any(record["wrong"] for record in records))


def table(records: list[dict[str, Any]]) -> str:
    """Return a line for each kind: runs, troubles, exit codes of the fits that were disturbed, and what was wrong."""
    lines = ["| trouble | runs | troubles | ended by itself | 69, resumed | 75 or killed, resumed | wrong |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for kind in RUNS:
        own = [record for record in records if record["kind"] == kind]
        if own:
            codes = Counter(code for record in own for code in record["codes"][:-1])
            alone = sum(len(record["codes"]) == 1 for record in own)
            cells = (sum(r["troubles"] for r in own), alone, codes[69], codes[75] + codes[-9])
            wrong = sum(bool(record["wrong"]) for record in own)
            lines.append(f"| {kind} | {len(own)} | {' | '.join(map(str, cells))} | {wrong} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
