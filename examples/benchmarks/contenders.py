"""The contenders, each in a process of its own: `python contenders.py NAME FOLDER` obeys one JSON line a fit.

A request is {"iterations": n, "reg_covar": r, "kind": "full"}; the answer {"seconds": of each measured iteration,
"total_seconds": of the whole call, "bounds": mean log-likelihood before each iteration}, or {"error": message}.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import io
import json
import os
import re
import sys
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np


class MissingError(Exception):
    """A contender cannot run here."""


class Daskgmm:
    """daskgmm, through its estimator: the seconds of each pass are in `history_`. Plain EM, as the others do it."""

    options: dict[str, Any] = {"acceleration": None}  # noqa: RUF012

    def __init__(self, folder: Path) -> None:
        from daskgmm import GaussianMixture

        if missing := [name for name in self.options if name not in inspect.signature(GaussianMixture).parameters]:
            raise MissingError(f"this version of daskgmm has no option {missing[0]}")
        self._estimator = GaussianMixture
        self._X, self._start = load(folder)

    def fit(self, iterations: int, reg_covar: float, kind: str) -> dict[str, Any]:
        mixture = self._estimator(**scikit_options(self._start, iterations, reg_covar, kind), **self.options)
        began = perf_counter()
        mixture.fit(self._X)
        total = perf_counter() - began
        seconds = [record["seconds"] for record in mixture.history_ if record["what"] == "em"]
        return answer(seconds, total, mixture.lower_bounds_)


class DaskgmmSingle(Daskgmm):
    """daskgmm in single precision."""

    options = {"acceleration": None, "precision": "single"}  # noqa: RUF012


class ScikitLearn:
    """scikit-learn, which prints the seconds of each iteration when it is asked to be verbose."""

    def __init__(self, folder: Path) -> None:
        from sklearn.mixture import GaussianMixture

        self._estimator = GaussianMixture
        self._X, self._start = load(folder)

    def fit(self, iterations: int, reg_covar: float, kind: str) -> dict[str, Any]:
        options = scikit_options(self._start, iterations, reg_covar, kind)
        mixture = self._estimator(**options, verbose=2, verbose_interval=1)
        printed = io.StringIO()
        began = perf_counter()
        with contextlib.redirect_stdout(printed):
            mixture.fit(self._X)
        total = perf_counter() - began
        seconds = [float(found) for found in re.findall(r"Iteration \d+\s+time lapse ([\d.]+)s", printed.getvalue())]
        return answer(seconds, total, mixture.lower_bounds_)


class OneDal:
    """oneDAL, called through daal4py; the time of a call is divided by its number of iterations."""

    def __init__(self, folder: Path) -> None:
        try:
            import daal4py
        except ImportError as error:
            raise MissingError(f"{error}; pip install scikit-learn-intelex brings daal4py") from error
        self._daal4py = daal4py
        self._X, self._start = load(folder)

    def fit(self, iterations: int, reg_covar: float, kind: str) -> dict[str, Any]:
        start = self._start
        algorithm = self._daal4py.em_gmm(
            nComponents=len(start["means"]),
            maxIterations=iterations,
            accuracyThreshold=1e-300,
            covarianceStorage="full" if kind == "full" else "diagonal",
            regularizationFactor=reg_covar,
            fptype="float" if self._X.dtype == np.float32 else "double",
        )
        # A table a component: (n_features, n_features), or (1, n_features).
        covariances = [np.ascontiguousarray(np.atleast_2d(covariance)) for covariance in start["covariances"]]
        began = perf_counter()
        result = algorithm.compute(self._X, start["weights"][np.newaxis], start["means"], covariances)
        total = perf_counter() - began
        n_iter = int(np.ravel(result.nIterations)[0])  # it stops where the log-likelihood no longer rises
        bound = float(np.ravel(result.goalFunction)[0]) / len(self._X)
        return {"seconds": [total / n_iter], "total_seconds": total, "bounds": [None] * (n_iter - 1) + [bound]}


class Spark:
    """Spark MLlib, which has no start to be given: the difference of two fits over the difference of iterations."""

    def __init__(self, folder: Path) -> None:
        try:
            from pyspark.ml.linalg import DenseVector, VectorUDT
            from pyspark.sql import SparkSession
            from pyspark.sql.types import StructField, StructType
        except ImportError as error:
            raise MissingError(f"{error}; pip install pyspark brings it, and it needs Java") from error
        X, self._start = load(folder)
        rows = folder / "X.bin"
        X.astype(np.float64).tofile(rows)
        os.environ["PYSPARK_PYTHON"] = sys.executable
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        try:
            builder = SparkSession.builder.master(f"local[{n_cores()}]").config("spark.driver.memory", "4g")
            session = builder.config("spark.ui.enabled", "false").config("spark.log.level", "ERROR").getOrCreate()
        except Exception as error:
            raise MissingError("Spark did not start: it needs Java 17 or newer") from error
        records = session.sparkContext.binaryRecords(rows.as_uri(), 8 * X.shape[1]).repartition(n_cores())
        vectors = records.map(lambda record: (DenseVector(np.frombuffer(record)),))
        schema = StructType([StructField("features", VectorUDT())])
        self._rows = session.createDataFrame(vectors, schema).cache()
        self._rows.count()

    def fit(self, iterations: int, reg_covar: float, kind: str) -> dict[str, Any]:
        from pyspark.ml.clustering import GaussianMixture

        took = []
        for n in (1, iterations):
            began = perf_counter()
            model = GaussianMixture(k=len(self._start["means"]), maxIter=n, tol=0.0, seed=7).fit(self._rows)
            took.append(perf_counter() - began)
        n_iter = max(model.summary.numIter, 2)
        return {"seconds": [(took[1] - took[0]) / (n_iter - 1)], "total_seconds": took[1], "bounds": []}


CONTENDERS = {
    "daskgmm": Daskgmm,
    "daskgmm-single": DaskgmmSingle,
    "sklearn": ScikitLearn,
    "sklearn-heap": ScikitLearn,  # the same, with freed memory kept (see ENVIRONMENT)
    "onedal": OneDal,
    "spark": Spark,
}
#: Memory that is freed is kept, and need not be touched anew: what fresh memory costs is not the method's.
ENVIRONMENT = {"sklearn-heap": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}}
#: Package whose version counts.
PACKAGES = {"onedal": "scikit-learn-intelex", "spark": "pyspark"}


def n_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return the rows, in memory, and the start."""
    return np.load(folder / "X.npy"), dict(np.load(folder / "start.npz"))


def scikit_options(start: dict[str, Any], iterations: int, reg_covar: float, kind: str) -> dict[str, Any]:
    """Return the options, whose names and meanings daskgmm and scikit-learn share."""
    return {
        "n_components": len(start["means"]), "covariance_type": kind, "max_iter": iterations, "tol": 0.0,
        "reg_covar": reg_covar, "weights_init": start["weights"], "means_init": start["means"],
        "precisions_init": start["precisions"], "random_state": 0,
    }  # fmt: skip


def answer(seconds: list[float], total: float, bounds: list[float]) -> dict[str, Any]:
    """Return the answer; the first iteration, which warms up, is left out where there are others."""
    return {"seconds": seconds[1:] or seconds, "total_seconds": total, "bounds": [float(bound) for bound in bounds]}


def main(name: str, folder: Path) -> None:
    # Whatever else prints, prints to stderr.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    try:
        contender = CONTENDERS[name](folder)
    except MissingError as missing:
        print(json.dumps({"missing": str(missing)}), file=replies)
        return
    package = PACKAGES.get(name)
    print(json.dumps({"version": importlib.metadata.version(package) if package else None}), file=replies)
    for line in sys.stdin:
        try:
            reply = contender.fit(**json.loads(line))
        except Exception as error:
            reply = {"error": " ".join(str(error).split())[:200] or repr(error)}
        print(json.dumps(reply), file=replies)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
