"""Selections of known truth: `python examples/benchmarks/optimum/selections.py` writes JSON and a table.

Two hundred data sets, each compared by BIC with two restarts: by this code, by that of an earlier commit (`--before
FOLDER`, a clone of it, which runs beside it), and by BIC at full convergence, the reference: EM to a change of 1e-9
nats a row, from the mixture that made the rows and from where this code ended, the better of both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

HERE = Path(__file__).parent
BEGIN, END = "<!-- selections:begin -->", "<!-- selections:end -->"
#: Standard deviations between neighbouring means.
OVERLAPS = {"none": 8.0, "some": 3.5, "much": 2.2, "strong": 1.2}
SIDES = ("before", "after", "reference")


@dataclass(frozen=True)
class Case:
    """A data set: `truth` Gaussians in `n_features`, of which the last has 0.1 % of the rows where `rare`."""

    number: int
    n_rows: int
    n_features: int
    truth: int
    overlap: str
    rare: bool

    @property
    def numbers(self) -> range:
        """The numbers of components that are compared."""
        return range(1, self.truth + (3 if self.truth < 5 and self.n_rows <= 100_000 else 2))

    def mixture(self) -> tuple[Any, Any, Any]:
        """Return weights, means and covariances of the truth."""
        random = np.random.default_rng([16, self.number])
        k, d = self.truth, self.n_features
        weights = random.uniform(0.5, 1.5, k)
        means = _apart(random, k, d, OVERLAPS[self.overlap])
        if self.rare:
            weights[-1] = 0.0
            means[-1] = means[:-1].mean(axis=0) + 8 * _direction(random, d)
        weights /= weights.sum()
        if self.rare:
            weights = np.append(0.999 * weights[:-1], 1e-3)
        roots = [np.linalg.qr(random.standard_normal((d, d)))[0] * random.uniform(0.7, 1.4, d) for _ in range(k)]
        return weights, means, np.stack([root @ root.T for root in roots])

    def rows(self) -> Any:
        """Return the rows, (n_rows, n_features), float64."""
        weights, means, covariances = self.mixture()
        random = np.random.default_rng([61, self.number])
        labels = random.choice(self.truth, size=self.n_rows, p=weights)
        X = random.standard_normal((self.n_rows, self.n_features))
        for k in range(self.truth):
            own = labels == k
            X[own] = means[k] + X[own] @ np.linalg.cholesky(covariances[k]).T
        return X


def _direction(random: np.random.Generator, d: int) -> Any:
    v = random.standard_normal(d)
    return v / np.linalg.norm(v)


def _apart(random: np.random.Generator, k: int, d: int, distance: float) -> Any:
    """Return means of which each is `distance` from its nearest neighbour."""
    means = [np.zeros(d)]
    while len(means) < k:
        new = means[random.integers(len(means))] + distance * _direction(random, d)
        if all(np.linalg.norm(new - other) > 0.999 * distance for other in means):
            means.append(new)
    return np.stack(means)


def cases() -> list[Case]:
    """Return the two hundred: 190 of at most 100,000 rows, ten of a million and more."""
    random = np.random.default_rng(16)
    sizes = [*[1_000] * 66, *[10_000] * 72, *[30_000] * 30, *[100_000] * 22]
    found = []
    for number, n_rows in enumerate(sizes):
        truth = 1 + number % 6
        overlap = list(OVERLAPS)[number // 6 % 4]
        rare = n_rows >= 10_000 and truth > 1 and number % 5 == 0
        found.append(Case(number, n_rows, int(random.choice([1, 2, 2, 3, 5])), truth, overlap, rare))
    large = [(1_000_000, 2, 1, "strong", False), (1_000_000, 2, 2, "strong", False), (1_000_000, 1, 2, "much", False),
             (1_000_000, 3, 3, "some", False), (1_000_000, 2, 3, "strong", False), (1_000_000, 2, 4, "much", False),
             (1_000_000, 2, 3, "some", True), (1_000_000, 4, 5, "much", False), (2_000_000, 2, 2, "strong", False),
             (4_000_000, 2, 2, "strong", False)]  # fmt: skip
    return found + [Case(190 + i, *case) for i, case in enumerate(large)]


# -- one selection, or the reference ---------------------------------------------------------------------------------


def selected(case: Case) -> dict[str, Any]:
    """Return what `select` of the daskgmm that is imported makes of a case."""
    from daskgmm import select

    X, began = case.rows(), perf_counter()
    found = select(X, n_components=case.numbers, n_init=2, random_state=0)
    seconds = perf_counter() - began
    models = [(e.weights_, e.means_, e.precisions_) for e in found.estimators]
    return {
        "chosen": found.best_.n_components, "seconds": seconds, "n_passes": found.n_passes,
        "table": found.table, "models": [[np.asarray(a).tolist() for a in model] for model in models],
    }  # fmt: skip


def converged(case: Case, ends: Mapping[int, Sequence[Any]], chosen: int) -> dict[str, Any]:
    """Return BIC at full convergence, of the numbers beside the truth's and beside that with the best end."""
    from daskgmm import GaussianMixture

    X, began = case.rows(), perf_counter()
    weights, means, covariances = case.mixture()
    truth = (weights, means, np.linalg.inv(covariances))
    values: dict[int, float] = {}
    for k in sorted({m + away for m in (case.truth, chosen) for away in (-1, 0, 1)} & set(case.numbers)):
        starts = [ends[k]] if k in ends else []
        starts += [truth] if k == case.truth else []
        for start in starts:
            w, m, p = map(np.asarray, start)
            given = {"weights_init": w / w.sum(), "means_init": m, "precisions_init": (p + p.transpose(0, 2, 1)) / 2}
            fit = GaussianMixture(k, tol=1e-9, max_iter=200, n_init=1, escape=False, **given).fit(X)
            value = -2 * fit.log_likelihood_ + n_free(k, case.n_features) * np.log(case.n_rows)
            values[k] = min(value, values.get(k, np.inf))
    return {
        "chosen": min(values, key=lambda k: values[k]),
        "seconds": perf_counter() - began,
        "bic": {str(k): v for k, v in values.items()},
    }


def n_free(k: int, d: int) -> int:
    """Return the free parameters of k full Gaussians in d features."""
    return k - 1 + k * d + k * d * (d + 1) // 2


class Elsewhere:
    """The same program with the daskgmm of another folder, which answers a line with a line."""

    def __init__(self, folder: str) -> None:
        env = {**os.environ, "PYTHONPATH": folder}
        command = [sys.executable, __file__, "--serve"]
        self._process = subprocess.Popen(  # noqa: S603
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def selected(self, case: Case) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(case.number, file=self._process.stdin, flush=True)
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found


def serve() -> None:
    """Answer each number of a case with its selection."""
    every = cases()
    for line in sys.stdin:
        print(json.dumps(selected(every[int(line)])), flush=True)


# -- the run -----------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="FOLDER", help="a clone of the commit to compare with")
    parser.add_argument("--output", default=str(HERE / "results" / "selections.json"))
    parser.add_argument("--only", metavar="FROM:TO:STEP", help="numbers of cases")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="end cleanly before they are used up")
    parser.add_argument("--again", action="store_true", help="forget what the output has")
    parser.add_argument("--after", action="store_true", help="measure this code again, and keep the other sides")
    parser.add_argument("--readme", help="write the table into this file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.serve:
        serve()
        return
    sys.path.append(str(HERE.parent))
    from machine import machine

    output, began = Path(options.output), perf_counter()
    kept = {} if options.again or not output.exists() else json.loads(output.read_text())
    results: dict[str, Any] = {**machine(), "records": kept.get("records", [])}
    chosen = slice(*map(int, options.only.split(":"))) if options.only else slice(None)
    known = {record["number"]: record for record in results["records"]}
    if options.after:
        results["records"] = []
    done = {record["number"] for record in results["records"]}
    earlier = Elsewhere(options.before) if options.before else None
    # (In mixed order, so that a part of them is like the whole.)
    for case in sorted(cases()[chosen], key=lambda case: case.number * 61 % 200):
        if case.number in done:
            continue
        if options.budget and perf_counter() - began > 60 * options.budget:
            print(f"the budget of {options.budget:g} minutes is used up; the same command goes on")
            break
        record = again(case, known[case.number]) if options.after else measured(case, earlier)
        results["records"].append(record)
        _write(output, results)
        print(line(record), flush=True)
    table = markdown(results["records"])
    print(table)
    if options.readme:
        before, rest = Path(options.readme).read_text().split(BEGIN)
        Path(options.readme).write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


def measured(case: Case, earlier: Elsewhere | None) -> dict[str, Any]:
    """Return the record of a case."""
    after = selected(case)
    ends = {row["n_components"]: model for row, model in zip(after["table"], after.pop("models"), strict=True)}
    record = {**asdict(case), "after": after, "reference": converged(case, ends, after["chosen"])}
    if earlier is not None:
        record["before"] = earlier.selected(case)
        record["before"].pop("models")
    for side in ("before", "after"):
        if side in record:
            record[side] = _of_table(record[side])
    return record


def again(case: Case, known: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a case with this code measured anew."""
    after = selected(case)
    after.pop("models")
    return {**known, "after": _of_table(after)}


def _of_table(found: dict[str, Any]) -> dict[str, Any]:
    """Return a selection with what counts of its table."""
    table = found.pop("table")
    found["bic"] = {str(row["n_components"]): row["bic"] for row in table}
    found["level"] = [row["n_components"] for row in table if row.get("tie")]
    found["falls"] = falls(table)
    return found


def falls(table: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the numbers of components whose log-likelihood is below a smaller one's, without a word of that."""
    found, highest = [], -np.inf
    for row in table:
        reach = row.get("reach") or 0.0
        if row["mean_log_likelihood"] + reach < highest - 1e-9 and not row.get("below"):
            found.append(row["n_components"])
        highest = max(highest, row["mean_log_likelihood"])
    return found


def _write(output: Path, results: dict[str, Any]) -> None:
    output.parent.mkdir(exist_ok=True)
    fresh = output.with_suffix(".new")
    fresh.write_text(json.dumps(results, indent=None, separators=(",", ":")).replace('{"number"', '\n{"number"') + "\n")
    fresh.replace(output)


def line(record: Mapping[str, Any]) -> str:
    """Return what is printed of a record."""
    said = ", ".join(
        f"{side} {record[side]['chosen']} ({record[side]['seconds']:.1f} s)" for side in SIDES if side in record
    )
    rare = ", rare" if record["rare"] else ""
    return (
        f"{record['number']:3d}  {record['n_rows']:,} × {record['n_features']}, {record['overlap']}{rare}: "
        f"truth {record['truth']}; {said}"
    )


def markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the table: how often the truth, one more, one less, another."""
    head = ["data", "sets", *(f"{side}: truth, +1, −1, other" for side in SIDES), "as the reference", "before"]
    lines = [f"| {' | '.join(head)} |", "| --- " + "| ---: " * (len(head) - 1) + "|"]
    for name, group in _groups(records):
        cells = [name, str(len(group)), *(_outcomes(group, side) for side in SIDES)]
        cells += [_agrees(group, "after"), _agrees(group, "before")]
        lines.append(f"| {' | '.join(cells)} |")
    both = [r for r in records if "before" in r]
    now, then = _falling(records, "after"), _falling(both, "before")
    said = [f"Log-likelihoods that fall as K rises, and nothing says so: {now}; before {then}."]
    if both:
        ratios = [r["after"]["seconds"] / r["before"]["seconds"] for r in both]
        passes = [r["after"]["n_passes"] / r["before"]["n_passes"] for r in both]
        said.append(
            f"Time of a selection over that of before, median: {np.median(ratios):.2f} (a tenth of them above "
            f"{np.quantile(ratios, 0.9):.1f}); passes over all rows {np.median(passes):.2f} "
            f"({np.quantile(passes, 0.9):.1f})."
        )
    return "\n".join(["", *lines, "", *said, ""])


def _groups(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    yield "all", list(records)
    for low, high in ((0, 1_000), (1_001, 10_000), (10_001, 100_000), (100_001, 10**9)):
        name = {1_000: "1,000 rows", 10_000: "10,000", 100_000: "30,000 and 100,000"}.get(high, "1,000,000 and more")
        yield name, [r for r in records if low < r["n_rows"] <= high]
    for overlap in OVERLAPS:
        yield f"overlap: {overlap}", [r for r in records if r["overlap"] == overlap]
    yield "a group of 0.1 %", [r for r in records if r["rare"]]


def _outcomes(group: Iterable[Mapping[str, Any]], side: str) -> str:
    away = [r[side]["chosen"] - r["truth"] for r in group if side in r]
    counts = [away.count(0), away.count(1), away.count(-1)]
    return ", ".join(map(str, [*counts, len(away) - sum(counts)])) if away else ""


def _agrees(group: Iterable[Mapping[str, Any]], side: str) -> str:
    found = [r[side]["chosen"] == r["reference"]["chosen"] for r in group if side in r]
    return f"{sum(found)} of {len(found)}" if found else ""


def _falling(group: Iterable[Mapping[str, Any]], side: str) -> str:
    found = [bool(r[side]["falls"]) for r in group]
    return f"in {sum(found)} of {len(found)}"


if __name__ == "__main__":
    main()
