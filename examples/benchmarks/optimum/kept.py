"""Would a person keep this fit? `python kept.py --sets grey-8x8,textures --seeds 0,1` says it of daskgmm.

It prints a line a data set and seed, and below it scikit-learn's, where that was measured: `--sklearn` measures what is
missing, the cheapest first, and keeps it in `results/kept-sklearn.json`. daskgmm is the one that Python finds, so that
`PYTHONPATH=…` chooses a checkout; `--output FILE` keeps its records. `--again` measures scikit-learn from other starts,
keeps that in `results/kept-again.json`, and says how often it ends no worse than its own best of ten on the same rows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

from judge_kept import luck
from kept_fits import AGAIN, STORED, Record, records_in
from kept_sets import KEPT_SETS, KeptSet

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))  # machine.py; the modules of this folder come first

from machine import machine, write  # noqa: E402
from measures import Unit  # noqa: E402


def cost(data_set: KeptSet) -> float:
    """Return about how long scikit-learn takes, in any unit."""
    d = data_set.n_features
    each = 30 + d + (d**2 / 2 if data_set.kind in ("full", "tied") else 0)
    return data_set.n_rows * data_set.n_components * data_set.n_init * each


def runs(sets: list[KeptSet], seeds: list[int] | None) -> list[tuple[KeptSet, int]]:
    """Return what is measured: a seed after the other, the cheapest sets first."""
    found = [(s, seed) for s in sets for seed in (range(s.n_seeds) if seeds is None else seeds)]
    return sorted(found, key=lambda run: (run[1], cost(run[0])))


def line(name: str, record: Record) -> str:
    """Return what is printed of a record."""
    if "error" in record:
        return f"{name:28s} {record['error']}"
    counts = " ".join(f"{count:.0f}" for count in record["counts"][:5])
    return (
        f"{name:28s} train {record['train']:10.4f}  held {record['held']:10.4f}  below {record['below']:2d}  "
        f"unsupported {record['unsupported']:2d}  counts {counts:32s} {record['seconds']:7.1f} s "
        f"({record['cpu_seconds']:.1f} CPU)"
    )


def main() -> None:
    options = _parse()
    output = STORED if options.sklearn else AGAIN if options.again else options.output and Path(options.output)
    results: Record = {**machine(), "records": records_in(output) if output else []}
    part = "kept-sklearn" if options.sklearn else "kept-again" if options.again else "kept"
    known = {(r["data_set"], r["seed"]): r for r in results["records"]}
    peers = {(r["data_set"], r["seed"]): r for r in records_in(STORED)}
    began = perf_counter()
    for data_set, seed in runs([KEPT_SETS[name] for name in options.sets or KEPT_SETS], options.seeds):
        name, key = f"{data_set.name} {seed}", (data_set.name, seed)
        if options.again and not data_set.judged:
            continue
        if options.minutes is not None and perf_counter() - began > 60 * options.minutes:
            sys.exit(f"the budget of {options.minutes:g} minutes is used up; the same command goes on")
        if key not in known:
            results["records"].append(Unit(part, data_set, seed).measure())
            known[key] = results["records"][-1]
            if output:
                write(output, results)
        print(line(name, known[key]) if part != "kept-again" else f"{name} {known[key]['train']:.4f}", flush=True)
        if part == "kept" and key in peers:
            print(line(f"{'scikit-learn':>24s}", peers[key]), flush=True)
    if options.again:
        ours = [r for r in records_in(HERE / "results" / "latest.json") if r["part"] == "kept"]
        print(luck(ours, results["records"], list(peers.values())))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def names(text: str) -> list[str]:
        found = [word for word in text.split(",") if word]
        if unknown := set(found) - set(KEPT_SETS):
            raise argparse.ArgumentTypeError(f"must name data sets; got {', '.join(sorted(unknown))}")
        return found

    parser.add_argument("--sets", type=names, metavar="NAME,…", help=f"of {', '.join(KEPT_SETS)}")
    parser.add_argument("--seeds", type=lambda text: [int(word) for word in text.split(",")], metavar="N,…")
    parser.add_argument("--sklearn", action="store_true", help="measure scikit-learn, what is missing")
    parser.add_argument("--again", action="store_true", help="measure scikit-learn from other starts, what is missing")
    parser.add_argument("--minutes", type=float, help="begin no fit after them")
    parser.add_argument("--output", help="JSON to keep daskgmm's records in, and to go on from")
    return parser.parse_args()


if __name__ == "__main__":
    main()
