"""Options are checked before any row is read, and each message carries what was asked for and what was given."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn import mixture

from daskgmm import GaussianMixture
from daskgmm.errors import OptionError
from daskgmm.fitting.options import FitOptions
from tests.fitting.driving import KINDS, Blocks, given_start, well_separated


def test_defaults_are_those_of_scikit_learn_but_for_restarts() -> None:
    """Ours run on a sample, all but the best, and cost little."""
    theirs = mixture.GaussianMixture().get_params()
    ours = FitOptions().as_json()
    shared = set(ours) & set(theirs)
    assert len(shared) == 10
    assert (ours["n_init"], theirs["n_init"]) == (10, 1)
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared} | {"n_init": 10}


KNOWN = (
    "one of full, tied, diag, spherical, EII, VII, EEI, VEI, EVI, VVI, EEE, VEE, EVE, VVE, EEV, VEV, EVV, VVV, lowrank"
)


@pytest.mark.parametrize(
    ("name", "value", "requirement"),
    [
        ("n_components", 0, "an integer of at least 1"),
        ("n_components", 2.0, "an integer of at least 1"),
        ("n_components", True, "an integer of at least 1"),
        ("max_iter", -1, "an integer of at least 0"),
        ("n_init", 0, "an integer of at least 1"),
        ("tol", -1e-3, "a finite number of at least 0"),
        ("tol", float("nan"), "a finite number of at least 0"),
        ("tol", "small", "a finite number of at least 0"),
        ("reg_covar", -1.0, "a finite number of at least 0"),
        ("reg_covar", float("inf"), "a finite number of at least 0"),
        ("init_params", "means", "one of kmeans, k-means++, random, random_from_data, k-means||"),
        ("init_params", None, "one of kmeans, k-means++, random, random_from_data, k-means||"),
        ("acceleration", "anderson", "one of None, squarem"),
        ("acceleration", True, "one of None, squarem"),
        ("escape", 1, "True or False"),
        ("escape", None, "True or False"),
        ("start_rows", 0, "an integer of at least n_components = 1"),
        ("start_rows", 10.0, "an integer of at least n_components = 1"),
        ("non_finite", "ignore", "one of error, drop, marginalize"),
        ("cache", "yes", "'auto', True or False"),
        ("cache", 1, "'auto', True or False"),
        ("cache", None, "'auto', True or False"),
        ("covariance_type", "round", KNOWN),
        ("covariance_type", ["full"], KNOWN),
    ],
)
def test_an_unknown_option_is_refused_before_anything_is_read(name: str, value: Any, requirement: str) -> None:
    blocks = Blocks(well_separated().X)
    with pytest.raises(OptionError) as caught:
        GaussianMixture(**{name: value}).fit(blocks.array)
    assert str(caught.value).startswith(f"{name} must be {requirement}; got {value!r}.")
    assert blocks.n_rows == 0


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(OptionError, match="kernel must be one of rule, phi, exact, or a Kernel; got 'fast'"):
        FitOptions(kernel="fast")  # type: ignore[arg-type]


def test_numpy_numbers_are_numbers() -> None:
    options = FitOptions(n_components=np.int64(2), tol=np.float32(0.5), max_iter=np.int32(3))
    assert json.loads(json.dumps(options.as_json()))["tol"] == 0.5


GIVEN: list[tuple[str, Any, str]] = [
    ("weights_init", [0.5, 0.5], r"weights_init must have shape \(3,\); got \(2,\)"),
    ("weights_init", [0.5, 0.3, 0.1], r"weights_init must sum to 1; got 0\.9\. Divide"),
    ("weights_init", [1.2, -0.4, 0.2], r"weights_init must lie between 0 and 1; got -0\.4 to 1\.2"),
    ("weights_init", [0.5, 0.5, np.nan], r"weights_init must be finite; got 1 NaN or infinite"),
    ("weights_init", ["a", "b", "c"], r"weights_init must be an array of real numbers; got list"),
    ("means_init", np.zeros((3, 2)), r"means_init must have shape \(3, 3\); got \(3, 2\)"),
    ("means_init", np.full((3, 3), np.inf), r"means_init must be finite; got 9 NaN or infinite"),
    ("means_init", np.zeros((3, 3)) + 1j, r"means_init must be an array of real numbers; got ndarray"),
    ("precisions_init", np.ones(7), r"precisions_init must have shape \(.*\); got \(7,\)"),
]


@pytest.mark.parametrize(("name", "value", "message"), GIVEN)
@pytest.mark.parametrize("kind", KINDS)
def test_a_given_start_is_checked_before_anything_is_read(kind: str, name: str, value: Any, message: str) -> None:
    blocks = Blocks(well_separated().X)
    with pytest.raises(OptionError, match=message):
        GaussianMixture(3, covariance_type=kind, **{name: value}).fit(blocks.array)
    assert blocks.n_rows == 0


@pytest.mark.parametrize("kind", KINDS)
def test_precisions_must_be_positive_definite(kind: str) -> None:
    case = well_separated(kind)
    start = given_start(case)
    bad = start["precisions_init"].copy()
    if kind in ("full", "tied"):
        bad[..., 0, 0] = -2.0
        where = " of component 0" if kind == "full" else ""
        message = rf"precisions_init{where} must be positive definite; got a smallest eigenvalue of -\d"
    else:
        bad.flat[0] = -2.0
        message = r"precisions_init must be positive; got -2\."
    blocks = Blocks(case.X)
    with pytest.raises(OptionError, match=message):
        GaussianMixture(**start | {"precisions_init": bad}).fit(blocks.array)
    if kind in ("full", "tied"):
        crooked = start["precisions_init"].copy()
        crooked[..., 0, 1] += 0.5
        with pytest.raises(OptionError, match=r"must be symmetric; got a matrix that is not\. Use \(A \+ A\.T\) / 2"):
            GaussianMixture(**start | {"precisions_init": crooked}).fit(blocks.array)
    assert blocks.n_rows == 0


def test_given_arrays_are_json_as_lists() -> None:
    start = given_start(well_separated())
    stored = json.loads(json.dumps(FitOptions(**start).as_json()))
    np.testing.assert_array_equal(stored["precisions_init"], start["precisions_init"])
    again = FitOptions(**stored)
    assert again.start_is_given
    np.testing.assert_array_equal(again.given(3).means, start["means_init"])
    assert not FitOptions(means_init=[[0.0]]).start_is_given
