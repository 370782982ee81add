# /// script
# requires-python = ">=3.11"
# dependencies = ["daskgmm"]
#
# [tool.uv.sources]
# daskgmm = { path = "../.." }
# ///
"""How many kinds of wine there are: variational Bayes empties the components that the rows do not need."""

import sys
from pathlib import Path

import numpy as np
from sklearn import mixture
from sklearn.datasets import load_wine
from sklearn.metrics import adjusted_rand_score

from daskgmm import BayesianGaussianMixture, select


def tell(who: str, found: BayesianGaussianMixture, X: np.ndarray, grower: np.ndarray) -> None:
    counts = [f"{n:.0f}" for n in -np.sort(-found.counts_) if n >= 1]
    same, bound = adjusted_rand_score(grower, found.predict(X)), found.lower_bound_ * len(X)
    print(f"{who}: {len(counts)} of 10 components have wines: {', '.join(counts)}")
    print(f"  agreement with the growers (adjusted Rand index): {same:.2f}; bound: {bound:.0f} nats")


def main(folder: Path) -> None:
    # 178 wines of three growers, by 13 chemical measurements; nobody says which wine is whose.
    wines, grower = load_wine(return_X_y=True)
    X = (wines - wines.mean(axis=0)) / wines.std(axis=0)

    found = BayesianGaussianMixture(n_components=10, tol=1e-6, max_iter=1000, random_state=0).fit(X)
    tell("daskgmm", found, X, grower)

    # The same model by scikit-learn; two steps from there tell its bound with all constants.
    theirs = mixture.BayesianGaussianMixture(n_components=10, n_init=5, max_iter=1000, random_state=0).fit(X)
    on = BayesianGaussianMixture.from_sklearn(theirs).set_params(warm_start=True, max_iter=2, tol=1.0)
    tell("scikit-learn", on.fit(X), X, grower)

    # The bound compares kinds of covariance, and numbers of components; all models share each pass.
    print(select(X, n_components=10, covariance_type=["full", "diag"], estimator=found))
    found.save(folder / "wines.zarr")  # daskgmm inspect, daskgmm report


if __name__ == "__main__":
    main(Path(sys.argv[1]))
