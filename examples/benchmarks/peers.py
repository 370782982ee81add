"""Others' mixtures beyond plain ones, on the same small inputs: where they end, and how long they take.

`pip install astroML pygmmis`, then `python peers.py [--output FILE]` prints JSON. Inputs come with scikit-learn. Where
an input is spoiled on purpose (gaps, errors), the rows held out are whole: what is scored is the mixture of the true
values. All have the same number of components, and start by their own defaults; nats a row; one process.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from machine import machine
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.mixture import BayesianGaussianMixture as TheirBayes
from sklearn.mixture import GaussianMixture as Theirs

from daskgmm import BayesianGaussianMixture, GaussianMixture

Rows = np.ndarray[Any, Any]


def standardized(X: Rows) -> tuple[Rows, Rows]:
    """Return rows in units of their deviations, in random order: three quarters, and the rest."""
    X = np.random.default_rng(0).permutation((X - X.mean(axis=0)) / X.std(axis=0))
    outside = np.arange(len(X)) % 4 == 0
    return X[~outside], X[outside]


def of_gaps(X: Rows, held_out: Rows, share: float) -> dict[str, Callable[[], float]]:
    """Return fits to rows of which a share of the values is missing, as scores of whole rows."""
    gaps = X.copy()
    gaps[np.random.default_rng(1).random(X.shape) < share] = np.nan
    whole = gaps[~np.isnan(gaps).any(axis=1)]

    def imputed() -> float:
        return float(Theirs(3, n_init=10, random_state=0).fit(IterativeImputer().fit_transform(gaps)).score(held_out))

    found = {
        "daskgmm": lambda: GaussianMixture(3, non_finite="marginalize", random_state=0).fit(gaps).score(held_out),
        "scikit-learn, IterativeImputer before": imputed,
    }
    if len(whole) > 3 * (X.shape[1] + 1):
        found["scikit-learn, whole rows alone"] = lambda: float(
            Theirs(3, n_init=10, random_state=0).fit(whole).score(held_out)
        )
    return found


def of_errors(X: Rows, held_out: Rows) -> dict[str, Callable[[], float]]:
    """Return fits to rows with errors of known deviations, as scores of rows without."""
    random = np.random.default_rng(2)
    deviations = random.uniform(0.2, 1.0, X.shape)
    noisy = X + deviations * random.standard_normal(X.shape)
    covariances = np.stack([np.diag(each) for each in deviations**2])

    def scored(weights: Any, means: Any, covariances: Any) -> float:
        return float(GaussianMixture.from_parameters(weights, means, covariances).score(held_out))

    def astroml() -> float:
        from astroML.density_estimation import XDGMM

        made = XDGMM(3, max_iter=500, tol=1e-5, random_state=0).fit(noisy, covariances)
        return scored(made.alpha, made.mu, made.V)

    def pygmmis() -> float:
        import pygmmis as peer

        made = peer.GMM(K=3, D=X.shape[1])
        peer.fit(made, noisy, covar=covariances, init_method="kmeans", w=0.0, tol=1e-5, rng=np.random.RandomState(0))
        return scored(made.amp / made.amp.sum(), made.mean, made.covar)

    found = {
        "daskgmm": lambda: GaussianMixture(3, random_state=0).fit(noisy, errors=deviations).score(held_out),
        "daskgmm, errors ignored": lambda: GaussianMixture(3, random_state=0).fit(noisy).score(held_out),
    }
    peers = {"astroML XDGMM": ("astroML", astroml), "pygmmis": ("pygmmis", pygmmis)}
    return found | {name: run for name, (module, run) in peers.items() if find_spec(module) is not None}


def of_bayes(X: Rows, held_out: Rows) -> dict[str, Callable[[], float]]:
    """Return posteriors of ten components, as scores of rows held out."""
    how: dict[str, Any] = {"n_components": 10, "random_state": 0, "max_iter": 1000}
    return {
        "daskgmm": lambda: BayesianGaussianMixture(**how).fit(X).score(held_out),
        "scikit-learn, five starts": lambda: float(TheirBayes(**how, n_init=5).fit(X).score(held_out)),
    }


def measured(runs: dict[str, Callable[[], float]]) -> list[dict[str, Any]]:
    """Return where each ends, and its seconds: the second of two runs, the first loads what it needs."""
    found = []
    for name, run in runs.items():
        try:
            run()
            began = perf_counter()
            score = run()
        except Exception as error:  # (a peer that fails is a result)
            found.append({"peer": name, "fails": f"{type(error).__name__}: {error}"[:200]})
            continue
        found.append({"peer": name, "held_out": round(score, 4), "seconds": round(perf_counter() - began, 3)})
    return found


def main() -> None:
    """Print the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    tumours, wines = standardized(load_breast_cancer().data[:, :5]), standardized(load_wine().data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {
            "5 % of the values missing, 5 features of tumours": measured(of_gaps(*tumours, 0.05)),
            "30 % of the values missing, 5 features of tumours": measured(of_gaps(*tumours, 0.3)),
            "errors of 0.2 to 1 deviations, 5 features of tumours": measured(of_errors(*tumours)),
            "variational Bayes, 13 features of wines": measured(of_bayes(*wines)),
        }
    text = json.dumps({"machine": machine(), "held_out": found}, indent=1) + "\n"
    sys.stdout.write(text)
    if given.output is not None:
        given.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
