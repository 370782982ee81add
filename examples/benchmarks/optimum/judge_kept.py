"""What the records of the part `kept` come to: ours beside scikit-learn's of the same rows, and the targets."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any, NamedTuple

from kept_sets import KEPT_SETS

Records = list[dict[str, Any]]

#: Nats a row by which a run may end below scikit-learn's: on the rows that are fitted, and on those held out.
TRAIN, HELD = -1e-3, -1e-2
#: Held-out rows from which on their mean is known well enough to be judged.
ENOUGH_HELD = 2_000


class Pair(NamedTuple):
    """A run of ours and scikit-learn's on the same rows; `theirs` is empty where it was not measured on them."""

    ours: dict[str, Any]
    theirs: dict[str, Any]

    def gain(self, key: str) -> float:
        """Return ours less scikit-learn's, nats a row; minus infinity where ours raised."""
        return float(self.ours.get(key, float("-inf")) - self.theirs[key])


def pairs(ours: Records, theirs: Records) -> list[Pair]:
    """Return the runs of ours, each with scikit-learn's."""
    peers = {(record["data_set"], record["seed"]): record for record in theirs if "error" not in record}
    found = []
    for record in ours:
        peer = peers.get((record["data_set"], record["seed"]), {})
        same = "error" in record or record["rows"] == peer.get("rows")
        found.append(Pair(record, peer if same else {}))
    return found


def judged(found: Iterable[Pair]) -> list[Pair]:
    """Return the pairs whose likelihoods say something about optima."""
    return [pair for pair in found if pair.theirs and KEPT_SETS[pair.ours["data_set"]].judged]


def spurious(pair: Pair) -> int:
    """Return how many components have too few rows where scikit-learn has none of them, else zero."""
    # A fit that raised has nothing that a person could keep.
    return 0 if pair.theirs["below"] else int(pair.ours.get("below", pair.ours["n_components"]))


def share(values: list[float], least: float) -> float | None:
    """Return the share of the values that are no smaller; None where there are none."""
    return sum(value >= least for value in values) / len(values) if values else None


def luck(ours: Records, again: Records, theirs: Records) -> str:
    """Return how often daskgmm, and scikit-learn from other starts, end no worse than scikit-learn's best of ten."""
    known = {(record["data_set"], record["seed"]) for record in again}
    lines = []
    for who, records in (("daskgmm", ours), ("scikit-learn from other starts", again)):
        found = judged(pairs([r for r in records if (r["data_set"], r["seed"]) in known], theirs))
        held = [pair.gain("held") for pair in found if pair.theirs["n_held"] >= ENOUGH_HELD]
        shares = share([pair.gain("train") for pair in found], TRAIN), share(held, HELD)
        lines.append(f"{who}: {len(found)} runs, train {shares[0]:.0%}, held out {shares[1]:.0%} of {len(held)}")
    return "\n".join(lines)


def kept_targets(ours: Records, theirs: Records) -> list[tuple[str, float | None, str, float]]:
    """Return the targets of the part: what, value (None: not measured), "at most" or "at least", limit."""
    everything = pairs(ours, theirs)
    measured = judged(everything)
    train = [pair.gain("train") for pair in measured]
    held = [pair.gain("held") for pair in measured if pair.theirs["n_held"] >= ENOUGH_HELD]
    below = sum(spurious(pair) for pair in measured) if measured else None
    apart = [abs(pair.ours["own_train"] - pair.ours["train"]) for pair in everything if "train" in pair.ours]
    sets = {pair.ours["data_set"] for pair in measured}
    return [
        ("data sets with bands held out", len(sets) if measured else None, "at least", 12),
        ("of their runs, train no worse than scikit-learn's best less 1e-3 nats, share",
         share(train, TRAIN), "at least", 0.95),
        ("of their runs, held out no worse by 1e-2 nats, share", share(held, HELD), "at least", 0.95),
        ("nats a row above scikit-learn's on rows held out, median", median(held) if held else None, "at least", 0),
        ("components with too few rows where scikit-learn has none", below, "at most", 0),
        ("nats a row between our score and scikit-learn's of the same parameters",
         max(apart, default=None), "at most", 1e-6),
    ]  # fmt: skip
