"""What it costs that nothing is lost: checkpoints against the passes between them, and the look at a million files.

`python durable.py [--rows 1600000] [--chunks 1000000]` prints JSON. It writes half a gigabyte and a million small files
to --folder, by default in the system's place for temporary files, and removes them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import zarr
from cases import Case, synthetic
from contenders import scikit_options

from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.passes.fingerprint import fingerprints
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.rows import Rows
from daskgmm.sources.opening import open_rows
from daskgmm.stores.checkpoint import Checkpoint


class Timed(Checkpoint):
    """A checkpoint that notes how long its writes take."""

    seconds: list[float]

    def put(self, values: Any, *, instead: str = "") -> None:
        began = perf_counter()
        super().put(values, instead=instead)
        self.seconds.append(perf_counter() - began)

    def flush(self) -> None:
        began, pending = perf_counter(), bool(self._pending)
        super().flush()
        if pending:
            self.seconds.append(perf_counter() - began)


def checkpoints(n_rows: int, folder: Path, *, n_features: int = 64, n_components: int = 64) -> dict[str, Any]:
    """Return the seconds of a pass of EM and of writing its checkpoint, of a fit on Dask's threads in this process."""
    X, start = synthetic(Case("checkpoint", n_rows, n_features, n_components))
    zarr.create_array(folder / "rows.zarr", data=X.astype(np.float32), chunks=(16_384, n_features))
    start["precisions"] = np.linalg.inv(start["covariances"])
    given = scikit_options(start, 4, 1e-6, "full")
    options = FitOptions(
        n_components=n_components, n_init=1, tol=0.0, max_iter=4, acceleration="squarem",
        **{name: given[name] for name in ("weights_init", "means_init", "precisions_init")},
    )  # fmt: skip
    checkpoint = Timed.at(str(folder / "checkpoint"), every=5.0)
    checkpoint.seconds = []
    checkpoint.begin({})
    done = fit_mixture(open_rows(str(folder / "rows.zarr")), options, checkpoint=checkpoint)
    passes = [record["seconds"] for record in done.history if record["what"] == "em"]
    return {
        "a pass, s": median(passes),
        "writes": len(checkpoint.seconds),
        "writes in all, s": sum(checkpoint.seconds),
        "share": sum(checkpoint.seconds) / sum(record["seconds"] for record in done.history),
        "of a pass of 10 s": sum(checkpoint.seconds) / done.n_passes / 10,
        "bytes": sum(path.stat().st_size for path in (folder / "checkpoint").iterdir()),
    }


def look(n_chunks: int, folder: Path) -> dict[str, Any]:
    """Return the seconds of a look at the files of a store of many small chunks."""
    array = zarr.create_array(folder / "many.zarr", shape=(10 * n_chunks, 2), chunks=(10, 2), dtype="f4")
    for i in range(n_chunks):  # (Written without Zarr, whose encoding is not what is measured.)
        path = folder / "many.zarr" / array.metadata.encode_chunk_key((i, 0))
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    rows, seconds = Rows.plan(open_rows(str(folder / "many.zarr")), None), []
    for _ in range(3):
        began = perf_counter()
        found = fingerprints(rows, LocalExecutor())
        seconds.append(perf_counter() - began)
    return {"chunks": n_chunks, "partitions": len(found), "seconds": seconds}


def main() -> None:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_600_000)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        found = {"checkpoint": checkpoints(asked.rows, Path(folder)), "files": look(asked.chunks, Path(folder))}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
