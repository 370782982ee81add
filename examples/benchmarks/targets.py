"""What the measurements come to: medians, ratios, effective rates, and the targets of the project."""

from __future__ import annotations

from collections.abc import Iterable
from math import exp, isfinite, log, nan
from statistics import median
from typing import Any

#: Effective rate over that of a matrix product on all cores, by case: at least, and hoped for.
RATES = {"C": (0.55, 0.7), "D": (0.75, 0.9), "E": (1.0, 1.2)}


def ours(record: dict[str, Any]) -> str:
    """Return which of our contenders stands against the peers: single precision against single precision."""
    return "daskgmm-single" if record["dtype"] == "float32" else "daskgmm"


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """Return medians over the rounds, seconds; each peer's over ours, with the least and most of a round; the rate.

    The effective rate counts 4 · n_rows · n_components · n_features² operations an iteration, as the textbook's form
    takes them, over the rate of a matrix product on all cores in that precision, measured around the rounds.
    """
    rounds, name = record["rounds"], ours(record)
    result: dict[str, Any] = {"seconds": {key: median(value) for key, value in rounds.items()}, "ratios": {}}
    if name not in rounds:
        return result
    for peer, theirs in rounds.items():
        if peer != name:
            each = [b / a for a, b in zip(rounds[name], theirs, strict=False)]
            result["ratios"][peer] = [median(theirs) / median(rounds[name]), min(each), max(each)]
    if record["rates"]:
        flops = 4 * record["n_rows"] * record["n_components"] * record["n_features"] ** 2
        result["rate"] = flops / result["seconds"][name] / 1e9 / record["gemm_gflops"]
    return result


def targets(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the targets: what, value, least, and whether it is met, None where it was not measured."""
    by = {(record["dtype"], record["case"]): record for record in records}
    found: list[dict[str, Any]] = []

    def add(what: str, value: float | None, least: float) -> None:
        met = None if value is None else bool(value >= least)
        found.append({"what": what, "value": value, "least": least, "met": met})

    def ratio(dtype: str, case: str, peer: str) -> float | None:
        values = by.get((dtype, case), {}).get("summary", {}).get("ratios", {}).get(peer)
        return values[0] if values else None

    for peer in ("sklearn", "sklearn-heap"):
        for case in "ABCDEG":
            add(f"float64 {case}: times as fast as {peer}", ratio("float64", case, peer), 20)
    for dtype in ("float64", "float32"):
        values = [ratio(dtype, case, "onedal") for case in "ABCDEF"]
        mean = None if None in values else exp(sum(log(v) for v in values if v) / len(values))
        add(f"{dtype} A to F: times as fast as onedal, geometric mean", mean, 1.5)
        for case, value in zip("ABCDEF", values, strict=True):
            add(f"{dtype} {case}: times as fast as onedal", value, 1.15)
        add(f"{dtype} G: times as fast as onedal", ratio(dtype, "G", "onedal"), 1.0)
    for case, (least, _) in RATES.items():
        add(
            f"float64 {case}: of the matrix product's rate",
            by.get(("float64", case), {}).get("summary", {}).get("rate"),
            least,
        )
    for (dtype, case), record in by.items():
        for peer, difference in record["agreement"].items():
            if (dtype, peer) == ("float64", "sklearn"):
                add(f"float64 {case}: digits that agree with sklearn", -log(max(difference, 1e-16), 10), 9)
        if "daskgmm" in (also := record.get("also", {})):
            fits = isfinite(also["daskgmm"].get("mean_log_likelihood", nan))
            add(f"{dtype} {case}: fits at reg_covar={also['reg_covar']:g}", float(fits), 1)
    return found
