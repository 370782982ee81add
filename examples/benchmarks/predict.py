"""Predictions of a Zarr store, streamed: their rate against the E-step's, and the memory that they take.

`python predict.py [--rows 4000000] [--features 16] [--components 32]` prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import zarr
from cases import Case, synthetic
from contenders import scikit_options

MIB = 1 << 20


def write_rows(case: Case, folder: Path) -> dict[str, Any]:
    """Write the rows as a Zarr store of float32, and return options of a fit."""
    X, start = synthetic(case)
    zarr.create_array(folder / "rows.zarr", data=X.astype(np.float32), chunks=(65_536, case.n_features))
    start["precisions"] = np.linalg.inv(start["covariances"])
    return scikit_options(start, 4, 1e-6, case.kind)


def rates(rows: Path, options: dict[str, Any], n_rounds: int) -> dict[str, Any]:
    """Return rows a second of the E-step and of labels, written and counted, medians of interleaved rounds.

    All on Dask's threads in this process; "written" is what `daskgmm predict` does, "lazy" a Dask array that is
    summed.
    """
    from daskgmm import GaussianMixture
    from daskgmm.kernels.prediction import Predictor
    from daskgmm.sources.opening import open_rows
    from daskgmm.stores.output import write_predictions

    n_rows = zarr.open_array(rows, mode="r").shape[0]
    took: dict[str, list[float]] = {"e_step": [], "written": [], "lazy": []}
    for _ in range(n_rounds):
        mixture = GaussianMixture(**options).fit(rows)
        passes = [record["seconds"] for record in mixture.history_ if record["what"] == "em"]
        took["e_step"].append(median(passes[1:]))
        began = perf_counter()
        write_predictions(
            Predictor.of(mixture._parameters(), "label"), open_rows(rows), str(rows.with_name("labels.zarr")), record={}
        )
        took["written"].append(perf_counter() - began)
        began = perf_counter()
        mixture.predict(rows).sum().compute()
        took["lazy"].append(perf_counter() - began)
    mixture.save(rows.with_name("model.zarr"), overwrite=True)
    seconds = {name: median(values) for name, values in took.items()}
    ratio = seconds["e_step"] / seconds["written"]
    lazy = seconds["e_step"] / seconds["lazy"]
    return {
        "rows_per_second": {name: n_rows / value for name, value in seconds.items()},
        "ratio_written": ratio,
        "ratio_lazy": lazy,
        "least": 0.8,
        "met": min(ratio, lazy) >= 0.8,
        "rounds": took,
    }


def peak(what: str, folder: Path) -> dict[str, Any]:
    """Return the peak memory of a prediction in a process of its own, MiB beyond what it held before.

    `what` is a method, followed by ":memory" for rows in memory, whose result is in memory, too.
    """
    done = subprocess.run(  # noqa: S603
        [sys.executable, __file__, "--child", what, str(folder)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def child(what: str, folder: Path) -> None:
    """Print the peak memory of this process over one prediction, MiB."""
    from daskgmm import GaussianMixture

    method, _, where = what.partition(":")
    mixture = GaussianMixture.load(folder / "model.zarr")
    predict = getattr(mixture, method)
    stored = zarr.open_array(folder / "rows.zarr", mode="r")
    X: Any = stored[: stored.shape[0] // 4] if where else folder / "rows.zarr"
    predict(stored[:4096])  # libraries allocate at their first use
    before = _peak_mib(reset=True)
    result = predict(X)
    whole = result.nbytes / MIB
    if not where:
        result.sum().compute(scheduler="threads")
    n_columns = result.shape[1] if result.ndim == 2 else 1
    found = {"beyond_mib": _peak_mib() - before, "whole_result_mib": whole, "columns": n_columns}
    if not where:
        found["rows_of_a_dask_chunk"] = int(max(result.chunks[0]))
    print(json.dumps(found))


def _peak_mib(*, reset: bool = False) -> float:
    """Return the peak memory of this process, MiB; with `reset`, the present one, from which the peak counts anew."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--features", type=int, default=16)
    parser.add_argument("--components", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.child:
        child(options.child[0], Path(options.child[1]))
        return
    case = Case("predict", options.rows, options.features, options.components)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fit_options = write_rows(case, folder)
        found = {"cores": os.cpu_count(), "rows": case.n_rows} | rates(
            folder / "rows.zarr", fit_options, options.rounds
        )
        methods = ("score_samples", "predict_proba", "score_samples:memory", "predict_proba:memory")
        found["memory"] = {what: peak(what, folder) for what in methods}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
