"""Interleaved rounds: in each, every contender makes one fit of the same arrays from the same start."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Self

from cases import Case, write_case
from contenders import ENVIRONMENT

HERE = Path(__file__).parent
#: Spark is slow, and has no model to start from: a few cases show where it stands.
SPARK_CASES = ("A", "B", "C", "D")


class Contender:
    """A contender's process."""

    def __init__(self, name: str, folder: Path, timeout: float) -> None:
        self.name, self._timeout = name, timeout
        self.spent = 0.0
        self.share = 0.5 if name.startswith("sklearn") else 1.0  # it needs fewer rounds: far away, and there twice
        environment = {**os.environ, **ENVIRONMENT.get(name, {})}
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, HERE / "contenders.py", name, folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        self.hello = self._reply()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def fit(self, case: Case, **changes: Any) -> dict[str, Any]:
        """Return the answer to one fit, {"error": …} where it failed."""
        iterations = case.sklearn_iterations if self.name.startswith("sklearn") else case.iterations
        iterations = 3 if self.name == "spark" else iterations
        request = {"iterations": iterations, "reg_covar": case.reg_covar, "kind": case.kind, **changes}
        began = perf_counter()
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            reply = self._reply()
        except BrokenPipeError:
            reply = {"error": "its process has died"}
        self.spent += perf_counter() - began
        return reply

    def _reply(self) -> dict[str, Any]:
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(self._timeout):
                self._process.kill()
                return {"error": f"no answer in {self._timeout:.0f} seconds"}
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"error": "its process has died"}


def names_for(case: Case, dtype: str, peers: list[str]) -> list[str]:
    """Return the contenders of a case."""
    names = ["daskgmm", *(["daskgmm-single"] if dtype == "float32" else [])]
    if "onedal" in peers and case.kind in ("full", "diag"):
        names.append("onedal")
    if "sklearn" in peers:
        # One fit of the patches takes scikit-learn more than a minute.
        both = dtype == "float64" and case.name != "patches"
        names += ["sklearn", "sklearn-heap"] if both else ["sklearn"]
    if "spark" in peers and case.name in SPARK_CASES and dtype == "float64":
        names.append("spark")
    return names


def measure(
    case: Case, dtype: str, peers: list[str], n_rounds: int, *, budget: float, timeout: float
) -> dict[str, Any]:
    """Return the record of a case: seconds an iteration by contender and round, and what was checked.

    A contender sits out the rounds that would take it beyond its budget of seconds; it makes one at least.
    """
    record: dict[str, Any] = {
        "case": case.name, "dtype": dtype, "n_rows": case.n_rows, "n_features": case.n_features,
        "n_components": case.n_components, "kind": case.kind, "reg_covar": case.reg_covar, "rates": case.rates,
    }  # fmt: skip
    record |= {"rounds": {}, "total_seconds": {}, "iterations": {}, "versions": {}, "skipped": {}, "failed": {}}
    bounds: dict[str, list[float | None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_case(case, dtype, Path(folder))
        running = []
        try:
            for name in names_for(case, dtype, peers):
                contender = Contender(name, Path(folder), timeout)
                running.append(contender)
                if problem := contender.hello.get("missing"):
                    _leave(record, "skipped", name, problem)
                elif problem := contender.hello.get("error"):
                    _leave(record, "failed", name, problem)
                else:
                    record["versions"] |= {name: v} if (v := contender.hello["version"]) else {}
            running = _close_left(running, record)
            for contender in running:
                if not contender.name.startswith("sklearn"):  # whose first iteration is left out, and slow
                    contender.fit(case, iterations=1)
                    contender.spent = 0.0
            for _ in range(n_rounds):
                for contender in list(running):
                    made = len(record["rounds"].get(contender.name, []))
                    if made and contender.spent * (made + 1) / made > contender.share * budget:
                        continue
                    reply = contender.fit(case)
                    if "error" in reply:
                        _leave(record, "failed", contender.name, reply["error"])
                        continue
                    _add(record, contender.name, reply)
                    bounds[contender.name] = reply["bounds"]
                running = _close_left(running, record)
            if case.also_reg_covar is not None:
                record["also"] = _fits_also(case, running)
        finally:
            for contender in running:
                contender.__exit__()
    record["agreement"] = _agreement(bounds)
    return record


def _add(record: dict[str, Any], name: str, reply: dict[str, Any]) -> None:
    seconds = median(reply["seconds"])
    record["rounds"].setdefault(name, []).append(seconds)
    record["total_seconds"].setdefault(name, []).append(reply["total_seconds"])
    record["iterations"][name] = len(reply["bounds"]) or None
    print(f"  {name:15s} {seconds:10.4f} s an iteration", flush=True)


def _leave(record: dict[str, Any], how: str, name: str, problem: str) -> None:
    record[how][name] = problem
    print(f"  {name:15s} {how}: {problem}", flush=True)


def _close_left(running: list[Contender], record: dict[str, Any]) -> list[Contender]:
    """Return the contenders that neither failed nor were skipped; the others' processes are ended."""
    left = {*record["skipped"], *record["failed"]}
    for contender in running:
        if contender.name in left:
            contender.__exit__()
    return [contender for contender in running if contender.name not in left]


def _fits_also(case: Case, running: list[Contender]) -> dict[str, Any]:
    """Return what becomes of a fit with less regularisation."""
    found: dict[str, Any] = {"reg_covar": case.also_reg_covar}
    for contender in running:
        if contender.name.startswith(("daskgmm", "onedal")):
            reply = contender.fit(case, reg_covar=case.also_reg_covar)
            found[contender.name] = reply if "error" in reply else {
                "seconds": median(reply["seconds"]),
                "iterations": len(reply["bounds"]),
                "mean_log_likelihood": reply["bounds"][-1],
            }  # fmt: skip
            print(f"  {contender.name:15s} at reg_covar={case.also_reg_covar:g}: {found[contender.name]}", flush=True)
    return found


def _agreement(bounds: dict[str, list[float | None]]) -> dict[str, float]:
    """Return, by contender, the largest relative difference of its mean log-likelihoods from daskgmm's.

    Iterate by iterate. oneDAL adds its regularisation only where a covariance is singular, so that it differs from
    scikit-learn's meaning of reg_covar by about as much as that is of a variance.
    """
    result = {}
    for name, theirs in bounds.items():
        pairs = [(a, b) for a, b in zip(bounds.get("daskgmm", []), theirs, strict=False) if b is not None]
        if name != "daskgmm" and pairs:
            result[name] = max(abs(a - b) / abs(a) for a, b in pairs)
    return result
