"""Information criteria and the count of free parameters."""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from daskgmm.mixture.criteria import aic, bic, warn_of_small_weight
from daskgmm.mixture.family import family_called
from tests import oracle
from tests.kernels.driving import parameters_of, step
from tests.strategies import KINDS, make_case


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_components", "n_features"), [(1, 1), (3, 4), (5, 2)])
def test_free_parameters_are_counted(kind, n_components, n_features):
    case = make_case(kind, seed=0, n_rows=2, n_components=n_components, n_features=n_features)
    assert parameters_of(case).n_free == oracle.n_free(kind, n_components, n_features)


def test_criteria_are_their_definitions():
    assert aic(-1000.0, 17) == 2034.0
    assert bic(-1000.0, 17, np.exp(3.0)) == pytest.approx(2051.0, rel=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_criteria_are_scikit_learns(kind):
    case = make_case(kind, seed=4, n_rows=400, n_components=2, n_features=3)
    theirs = GaussianMixture(2, covariance_type=kind, random_state=0).fit(case.X)
    ours = parameters_of(case)
    ours = type(ours).from_covariances(family_called(kind), theirs.weights_, theirs.means_, theirs.covariances_)
    total = step(case.X, ours).objective * len(case.X)
    assert aic(total, ours.n_free) == pytest.approx(theirs.aic(case.X), rel=1e-12)
    assert bic(total, ours.n_free, len(case.X)) == pytest.approx(theirs.bic(case.X), rel=1e-12)


def test_weights_that_are_shares_are_warned_of_with_the_factor():
    warn_of_small_weight(400.0 * (1 - 1e-12), 400)
    warn_of_small_weight(4000.0, 400)
    with pytest.warns(UserWarning, match=r"got 0\.1 for 400 rows .* Multiply sample_weight by n / sum = 4000 to"):
        warn_of_small_weight(0.1, 400)
