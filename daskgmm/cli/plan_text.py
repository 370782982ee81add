"""A plan in words for a person, and as what is asked of a batch system."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

from daskgmm.cli.planned import WORKER_SHARE, Planned
from daskgmm.cli.work import count, size
from daskgmm.fitting.events import duration, rate
from daskgmm.passes.memory import DRIVER_BYTES, INTERPRETER_BYTES, TASK_BYTES
from daskgmm.sources.partition import MIB

#: What watches a worker process beside it: a nanny (measured: 61 MiB); a scheduler, as a process of its own.
NANNY_BYTES, SCHEDULER_BYTES = 96 * MIB, INTERPRETER_BYTES + DRIVER_BYTES
#: How much longer than planned a job may take before it is ended.
PATIENCE = 1.5
_STEP_BYTES = 64 * MIB
_BINDS = {
    "storage": "waiting for storage", "decoding": "decoding", "computing": "computing", "scheduler": "the scheduler"
}  # fmt: skip


def plan_text(found: dict[str, Any]) -> str:
    """Return a plan as lines of text."""
    memory, passing, tried = found["memory"], found["pass"], found["tried"]
    workers, threads = found["workers"], found["threads"]
    stored = "" if found["stored_bytes"] is None else f", {size(found['stored_bytes'])} stored"
    where = f"{count(workers, 'worker')} of {count(threads // workers, 'thread')}" if workers else "this process"
    limit = "" if memory["memory_limit"] is None else f" of {size(memory['memory_limit'])}"
    kept = memory["kept_bytes"]
    parts = [("reading", "read"), ("decoding", "decode"), ("computing", "compute")]
    lines = [
        ("rows", f"{found['rows']:,} of {found['features']} features{stored}, {size(found['decoded_bytes'])} decoded"),
        ("work", f"{found['partitions']:,} partitions in {found['tasks']:,} tasks, on {where}"),
        ("memory", f"a worker at most {size(memory['stated_peak_bytes'])}{limit}" if workers else ""),
        ("", f"this process at most {size(memory['stated_driver_bytes'])}, of {size(memory['machine_bytes'])} here"),
        ("", f"{size(kept)} of decoded rows stay in memory" if kept else ""),
        ("tried", f"{tried['rows']:,} rows of partition {tried['partition']}, by {tried['threads']} threads at once"),
        ("a pass", f"{duration_of(passing['seconds'])}, {rate(passing['rows_per_second'])} rows/s"),
        ("", ", ".join(f"{word} {duration_of(passing[f'{key}_seconds'])}" for word, key in parts)),
        ("", f"most of it is {_BINDS[passing['binds']]}"),
        ("survey", duration_of(found["survey_seconds"])),
        ("start", f"{duration_of(found['start_seconds'])}, on about {found['start_rows']:,} rows"),
        ("passes", _between(found["passes"], str)),
        ("in all", _between(found["total_seconds"], duration_of)),
        ("checkpoint", f"at most {size(found['checkpoint_bytes'])}"),
        *(("advice", text) for text in found["advice"]),
    ]
    return "\n".join(f"{name:10s}  {text}" for name, text in lines if text)


def duration_of(seconds: float) -> str:
    """Return seconds in words, short ones with a digit more."""
    return f"{seconds:.2g} s" if seconds < 9.5 else duration(seconds)


def _between(numbers: Sequence[float], word: Callable[[Any], str]) -> str:
    return " to ".join(dict.fromkeys(map(word, numbers)))


def resource_lines(planned: Planned, target: str) -> str:
    """Return what is to be asked of SLURM, or of Kubernetes, for workers and the process of the fit."""
    return (_slurm if target == "slurm" else _kubernetes)(planned)


def seconds_allowed(planned: Planned) -> int:
    """Return the seconds that a job may take: half as many again as planned, in steps of ten minutes."""
    return ceil(PATIENCE * (planned.startup + planned.forecast.seconds.most) / 600) * 600


def _worker_limit(planned: Planned) -> int:
    """Return the limit of a worker, also of one that a job starts where no worker is needed."""
    limit = planned.worker_limit if planned.n_workers else None
    return limit or _up(planned.worker_bytes / WORKER_SHARE)


def _worker_bytes(planned: Planned) -> int:
    """Return what a worker and its nanny take together."""
    return _up(_worker_limit(planned) + NANNY_BYTES)


def _driver_bytes(planned: Planned, *, scheduler: bool) -> int:
    """Return what the process of the fit takes, together with a scheduler."""
    return _up(planned.driver_bytes + (SCHEDULER_BYTES + TASK_BYTES * planned.rows.n_partitions if scheduler else 0))


def _slurm(planned: Planned) -> str:
    n = max(1, planned.n_workers)  # (the job starts one for a single partition, too)
    # (On the first node the driver and the scheduler are beside the workers, of which there may be a single one.)
    task = _worker_bytes(planned) + _driver_bytes(planned, scheduler=True)
    minutes = seconds_allowed(planned) // 60
    days, hours = divmod(minutes // 60, 24)
    per_worker = planned.n_threads // n
    lines = [
        f"#SBATCH --ntasks={n}",
        f"#SBATCH --cpus-per-task={per_worker}",
        f"#SBATCH --mem-per-cpu={-(-task // MIB // per_worker)}M",
        f"#SBATCH --time={days}-{hours:02d}:{minutes % 60:02d}:00",
    ]
    driver = size(_driver_bytes(planned, scheduler=True))
    lines += [
        "# A task is a worker, with room for what is beside it on the first node: scheduler and fit, which take",
        f"# {driver}. For cluster/slurm/nightly.sbatch: MEMORY_LIMIT={_limit(planned)}",
    ]
    return "\n".join(lines)


def _kubernetes(planned: Planned) -> str:
    n = planned.n_workers
    lines = []
    if n:
        per_worker = planned.n_threads // n
        lines = [
            "worker:",
            f"  replicas: {n}",
            f"  args: [dask, worker, --nworkers, '1', --nthreads, '{per_worker}', --memory-limit, {_limit(planned)}]",
            *_resources(per_worker, _worker_bytes(planned)),
        ]
    lines += [
        "driver:" + ("  # the fit, and the scheduler where it is in the same pod" if n else ""),
        f"  activeDeadlineSeconds: {seconds_allowed(planned)}",
        *_resources(1, _driver_bytes(planned, scheduler=n > 0)),
    ]
    return "\n".join(lines)


def _resources(n_cores: int, n_bytes: int) -> list[str]:
    memory = f"{n_bytes // MIB}Mi"
    return [
        "  resources:",
        f'    requests: {{cpu: "{n_cores}", memory: {memory}}}',
        f"    limits: {{memory: {memory}}}",
    ]


def _limit(planned: Planned) -> str:
    return f"{_worker_limit(planned) // MIB}MiB"


def _up(n_bytes: float) -> int:
    return -(-int(n_bytes) // _STEP_BYTES) * _STEP_BYTES
