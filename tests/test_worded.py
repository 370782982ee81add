"""Messages in the words of whoever reads them: of the command line there, of Python here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from daskgmm import BayesianGaussianMixture, GaussianMixture
from daskgmm.cli.commands import gmm
from daskgmm.errors import DaskgmmError, as_typed

X = np.random.default_rng(0).normal(size=(80, 2)) + 6 * (np.arange(80) % 2)[:, np.newaxis]
FIT = "fit x.npy -k 2 -o n.zarr "
BAYES = FIT + "--bayesian dirichlet_process "

#: What is typed, the whole message, and what to type instead.
SAID = [
    (FIT + "--fixed means", "--fixed must be about given values: --means-init says at which the means are fixed; got "
     "means. Give for example means and --means-init.", FIT + "--fixed means --means-init [[0,0],[6,6]]"),
    (FIT + "--fixed mean", "--fixed must be left out, or names, or JSON such as {\"means\": [true, false]}, of "
     "weights, means, covariances; got mean. Give for example means and --means-init.",
     FIT + "--means-init [[0,0],[6,6]] --fixed {\"means\":[true,false]}"),
    (FIT + "--fixed {\"means\":[true]} --means-init [[0,0],[6,6]]", "--fixed must be of 2 truths, one a component, for "
     "means; got {\"means\": [true]}. Give for example means and --means-init.", ""),
    (FIT + "--fixed means --means-init [[0,0],[6,6]] --standardize", "--fixed must be left out with --standardize; got "
     "means. Leave one of them out.", FIT + "--fixed means --means-init [[0,0],[6,6]]"),
    (FIT + "--covariance-prior weak --standardize", "--covariance-prior must be left out with --standardize: it is in "
     "units of the data; got weak. Leave one of them out.", FIT + "--covariance-prior weak"),
    (FIT + "--covariance-prior weak --covariance VEE", "--covariance-prior must be left out with --covariance VEE: it "
     "is for full, tied, diag and spherical; got weak. Leave it out, or take one of these.",
     FIT + "--covariance-prior weak --covariance diag"),
    (FIT + "--mean-prior 1,2", "--mean-prior must be left out without --mean-precision-prior, which says how many rows "
     "it counts as; got 1,2. Leave it out for the rows' mean.", ""),
    (FIT + "--mean-precision-prior -1", "--mean-precision-prior must be left out or numbers of at least 0, one for all "
     "or one a component; got -1. Take 0.01, or leave it out.", FIT + "--mean-precision-prior 0.01"),
    (FIT + "--noise -7", "--noise must be left out, yes or a positive volume; got -7.0. yes takes the volume of a box "
     "around the sample.", FIT + "--noise yes"),
    (FIT + "--noise yes --errors e.npy", "--noise must be left out with --errors: its density is one of exact "
     "values; got yes. Leave --noise out.", FIT + "--errors e.npy"),
    (FIT + "--covariance lowrank", "--factors must be given with --covariance lowrank; got none. Take --factors 2.",
     FIT + "--covariance lowrank --factors 1"),
    ("select x.npy -k 1:2 -o n.zarr --factors 1,2", "--factors must be left out where lowrank is no --covariance; got "
     "1,2. Leave it out.", ""),
    (BAYES + "--covariance-prior weak", "--covariance-prior must be left out or an array of numbers where a fit is by "
     "variational Bayes, whose prior is whole; got weak. Leave it out for the covariance of the rows.", BAYES),
    (BAYES + "--covariance VEE", "--covariance must have all covariances of its shape, which full, tied, diag and "
     "spherical have; got VEE. Take one of these, or fit by maximum likelihood: no --bayesian.",
     FIT + "--covariance VEE"),
    (BAYES + "--errors e.npy", "--errors must be left out with variational Bayes; got both. Take no --bayesian.",
     FIT + "--errors e.npy"),
    ("adapt m.zarr x.npy -o n.zarr --adapt mean", "--adapt must name some of weights, means, covariances; got mean. "
     "Take means.", "adapt m.zarr x.npy -o n.zarr --adapt means"),
    ("adapt m.zarr x.npy -o n.zarr --adapt covariances --relevance 1", "--relevance must be above 4 where covariances "
     "of 2 features are adapted; got 1. Take a larger one, or adapt means and weights alone.",
     "adapt m.zarr x.npy -o n.zarr --adapt covariances --relevance 5"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("e.npy", np.full(X.shape, 0.1))
    GaussianMixture(2, random_state=0).fit(X).save("m.zarr")
    return tmp_path


def called(typed: str) -> Any:
    split = [part.replace('{"means":', '{"means": ') for part in typed.split()]
    return CliRunner().invoke(gmm, split)


@pytest.mark.parametrize(("typed", "said", "remedy"), SAID, ids=[typed for typed, _, _ in SAID])
def test_what_was_typed_is_answered_in_its_words(typed: str, said: str, remedy: str, folder: Path) -> None:
    done = called(typed)
    assert done.exit_code == 64
    assert done.stderr.strip().splitlines()[-1] == f"error: {said}"
    if remedy:
        assert called(remedy).exit_code in (0, 3), "the remedy can be typed"


@pytest.mark.parametrize(
    ("fit", "said"),
    [
        (lambda: GaussianMixture(2, fixed={"means": True}).fit(X), "got {'means': True}. Give for example {'means': "
         "True} and means_init."),
        (lambda: GaussianMixture(2, fixed=3).fit(X), "fixed must be None, or a dict of True or a mask "
         "(n_components,) for weights"),
        (lambda: GaussianMixture(2, mean_prior="a", mean_precision_prior=1).fit(X), "mean_prior must be None or finite "
         "numbers, (n_features,) or (n_components, n_features); got 'a'."),
        (lambda: GaussianMixture(2, noise=-7).fit(X), "noise must be False, True or a positive volume; got -7. True"),
        (lambda: BayesianGaussianMixture(2, covariance_prior="weak").fit(X), "covariance_prior must be None or an "
         "array of numbers where a fit is by variational Bayes, whose prior is whole; got 'weak'."),
        (lambda: GaussianMixture(2, random_state=0).fit(X).adapted(X, adapt=("mean",)), "adapt must name some of "
         "weights, means, covariances; got ('mean',). Take ('means',)."),
    ],
)  # fmt: skip
def test_python_is_answered_in_python(fit: Any, said: str) -> None:
    with pytest.raises(DaskgmmError, match=re.escape(said)):
        fit()


def test_values_as_they_are_typed() -> None:
    values = [None, True, False, 0.5, "weak", (1.0, 2), ((1, 2), (3, 4)), {"means": True}, {"means": [True, False]}]
    expected = ["none", "yes", "no", "0.5", "weak", "1.0,2", "[[1, 2], [3, 4]]", "means", '{"means": [true, false]}']
    assert [as_typed(value) for value in values] == expected
