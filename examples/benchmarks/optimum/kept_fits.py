"""The fits of the part `kept`: daskgmm's and scikit-learn's, and what a person would ask of them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from kept_sets import KEPT_SETS, KeptSet
from sklearn.mixture import GaussianMixture
from support import worth
from threadpoolctl import threadpool_limits

#: What scikit-learn found: measured once, since it takes most of an hour.
STORED = Path(__file__).parent / "results" / "kept-sklearn.json"
AGAIN = STORED.with_name("kept-again.json")
#: Added to a seed where scikit-learn starts elsewhere on the same rows.
ELSEWHERE = 1000

Record = dict[str, Any]


def kept(data_set: KeptSet, seed: int) -> Record:
    """Return what daskgmm's fit at the defaults is worth, on the rows that it saw and on those held out."""
    from daskgmm import GaussianMixture as Ours

    train, held = data_set.split(seed)
    model, took = _fitted(Ours(**_options(data_set, seed)), train)
    theirs = model.to_sklearn()
    own = {"own_train": float(model.score(train)), "own_held": float(model.score(held))}
    return {**took, **own, **_worth(data_set, theirs, train, held)}


def kept_sklearn(data_set: KeptSet, seed: int) -> Record:
    """Return the same of scikit-learn's best of several starts, on one core."""
    train, held = data_set.split(seed)
    with threadpool_limits(1):
        model, took = _fitted(GaussianMixture(**_options(data_set, seed), n_init=data_set.n_init), train)
    return {**took, "n_init": data_set.n_init, **_worth(data_set, model, train, held)}


def kept_again(data_set: KeptSet, seed: int) -> Record:
    """Return what scikit-learn's best of as many other starts scores on the same rows: what luck decides."""
    train, held = data_set.split(seed)
    with threadpool_limits(1):
        options = {**_options(data_set, seed), "random_state": seed + ELSEWHERE}
        model, took = _fitted(GaussianMixture(**options, n_init=data_set.n_init), train)
    scores = {"train": float(model.score(train)), "held": float(model.score(held))}
    return {**took, **scores, "n_init": data_set.n_init, "rows": fingerprint(train)}


def _options(data_set: KeptSet, seed: int) -> Record:
    """Return what both are told: all else is at its default, reg_covar (1e-6) too."""
    return {
        "n_components": data_set.n_components,
        "covariance_type": data_set.kind,
        "reg_covar": data_set.reg_covar,
        "random_state": seed,
    }


def _fitted(model: Any, X: Any) -> tuple[Any, Record]:
    """Return the fitted model, and what it took: seconds by the clock, and of all cores together."""
    began, used = perf_counter(), process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X)
    return model, {"seconds": perf_counter() - began, "cpu_seconds": process_time() - used}


def _worth(data_set: KeptSet, model: Any, train: Any, held: Any) -> Record:
    """Return what scikit-learn's model scores, and what its components are worth."""
    found = worth(data_set.kind, model.weights_, model.means_, model.covariances_, train)
    return {
        "train": float(model.score(train)),
        "held": float(model.score(held)),
        "check": found.score,
        "below": found.below,
        "unsupported": found.unsupported,
        "counts": [round(float(count), 1) for count in np.sort(found.counts)],
        "support": [round(float(nats), 1) for nats in np.sort(found.support)],
        "price": found.price,
        "n_held": len(held),
        "rows": fingerprint(train),
        "converged": bool(model.converged_),
    }


def fingerprint(X: Any) -> str:
    """Return what tells other rows apart, whatever the machine: their number and their root mean square."""
    return f"{len(X)} x {X.shape[1]}, {np.sqrt(np.mean(np.square(X))):.6g}"


def records_in(path: Path) -> list[Record]:
    """Return the records of a file that are of the data sets as they are now; none where there is no file."""
    found = json.loads(path.read_text())["records"] if path.exists() else []
    return [record for record in found if current(record)]


def current(record: Record) -> bool:
    """Whether a record is of a data set as it is now, and of as many starts."""
    data_set = KEPT_SETS.get(record["data_set"])
    if data_set is None:
        return False
    now = {key: getattr(data_set, key) for key in ("n_rows", "n_features", "n_components", "kind", "n_init")}
    return all(record.get(key, value) == value for key, value in now.items())


def adopted(records: list[Record], path: Path = STORED) -> list[Record]:
    """Return the records, and those of scikit-learn's that were measured before and are not among them."""
    known = {(r["part"], r["data_set"], r["seed"]) for r in records}
    return records + [r for r in records_in(path) if (r["part"], r["data_set"], r["seed"]) not in known]
