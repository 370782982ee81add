"""Scoring a given mixture: the oracle's number from every source, in as few passes as that takes."""

from __future__ import annotations

from pathlib import Path

import dask.array as da
import numpy as np
import pytest

from daskgmm.errors import DataError
from daskgmm.fitting.score import score_source
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.sources.opening import open_rows
from tests import oracle
from tests.fitting.driving import KINDS, SOURCES, Blocks, as_source, small_partitions, well_separated

__all__ = ["small_partitions"]


def mixture_near(kind: str) -> tuple[np.ndarray, Parameters, oracle.Mixture]:
    case = well_separated(kind)
    parameters = Parameters.from_covariances(family_called(kind), case.weights, case.means, case.covariances)
    return case.X, parameters, oracle.mixture(kind, case.weights, case.means, parameters.precisions_cholesky)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_score_is_the_oracles(kind: str, weighted: bool) -> None:
    X, parameters, truth = mixture_near(kind)
    w = np.random.default_rng(0).uniform(0, 2, len(X)) if weighted else None
    found = score_source(parameters, open_rows(X), weights=None if w is None else open_rows(w))
    expected = float(oracle.log_likelihood(X, truth, w))
    total = len(X) if w is None else w.sum()
    n_free = oracle.n_free(kind, 3, 3)
    assert found.log_likelihood == pytest.approx(expected, rel=1e-12)
    assert found.weight == pytest.approx(total, rel=1e-12)
    assert found.mean_log_likelihood == pytest.approx(expected / total, rel=1e-12)
    assert found.aic == pytest.approx(-2 * expected + 2 * n_free, rel=1e-12)
    assert found.bic == pytest.approx(-2 * expected + np.log(total) * n_free, rel=1e-12)
    assert (found.n_rows, found.n_dropped, found.n_free) == (600, 0, n_free)


@pytest.mark.parametrize("what", SOURCES)
@pytest.mark.parametrize("weights", [None, *SOURCES])
@pytest.mark.usefixtures("small_partitions")
def test_sources_of_rows_and_weights_may_be_of_any_kind(what: str, weights: str | None, tmp_path: Path) -> None:
    X, parameters, truth = mixture_near("full")
    w = None if weights is None else np.arange(600) % 3
    source = open_rows(as_source(what, X, tmp_path))
    w_source = None if weights is None else open_rows(as_source(weights, w, tmp_path, chunk=110, name="w"))
    found = score_source(parameters, source, weights=w_source)
    assert found.log_likelihood == pytest.approx(float(oracle.log_likelihood(X, truth, w)), rel=1e-12)
    counting = what == "dask of unknown chunks"
    assert found.n_passes == 1 + counting + (weights is not None)


def test_one_pass_over_rows_alone() -> None:
    X, parameters, _ = mixture_near("full")
    blocks = Blocks(X)
    found = score_source(parameters, open_rows(blocks.array))
    assert blocks.n_rows == 600
    assert (found.n_passes, found.bytes_read) == (1, X.nbytes)


def test_non_finite_rows_take_a_second_pass_to_name_them() -> None:
    X, parameters, truth = mixture_near("full")
    X[17, 0] = np.nan
    blocks = Blocks(X)
    with pytest.raises(DataError, match="got 1 rows with NaN or infinity in Dask array .* partition 0, row 17"):
        score_source(parameters, open_rows(blocks.array))
    blocks.n_rows = 0
    found = score_source(parameters, open_rows(blocks.array), non_finite="drop")
    assert blocks.n_rows == 600
    assert (found.n_rows, found.n_dropped, found.weight) == (599, 1, 599.0)
    expected = float(oracle.log_likelihood(np.delete(X, 17, axis=0), truth))
    assert found.log_likelihood == pytest.approx(expected, rel=1e-12)


def test_input_that_changes_between_the_passes_of_a_score_is_noticed() -> None:
    X, parameters, _ = mixture_near("full")
    blocks = Blocks(X)
    weights = da.map_blocks(
        lambda rows: np.where(blocks.n_rows > 600, 2.0, np.ones(len(rows))), blocks.array, drop_axis=1, dtype=float,
        meta=np.empty(0),
    )  # fmt: skip
    with pytest.raises(DataError, match="must stay the same .* got 600 rows of weight .* and 600 of weight 600 in the"):
        score_source(parameters, open_rows(X), weights=open_rows(weights))
    blocks = Blocks(X)
    rows = da.map_blocks(
        lambda rows: np.where(blocks.n_rows > 600, rows, np.where(rows == X[7], np.nan, rows)), blocks.array,
        dtype=float, meta=np.empty((0, 0)),
    )  # fmt: skip
    with pytest.raises(DataError, match="must stay the same .* got 599 rows of weight 599 in a pass, and 600 of"):
        score_source(parameters, open_rows(rows))
