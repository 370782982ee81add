"""`daskgmm denoise` and `daskgmm regress`: true values behind measured ones, and features from the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

from daskgmm import GaussianMixture
from tests.test_cli import call

NAMES = ["a", "b", "c"]
RANDOM = np.random.default_rng(4)
N = 700
DEVIATIONS = RANDOM.uniform(0.1, 1.0, (N, 3))
CENTRES = np.where(RANDOM.random((N, 1)) < 0.4, -2.0, 3.0) * [1.0, -0.5, 2.0]
TRUE = CENTRES + RANDOM.normal(size=(N, 3)) @ [[1.0, 0.4, 0.0], [0.0, 0.8, 0.3], [0.0, 0.0, 0.6]]
MEASURED = TRUE + DEVIATIONS * RANDOM.normal(size=(N, 3))


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of rows, their errors and their numbers; on several partitions."""
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 200 * 24)
    columns = dict(zip([*NAMES, "e_a", "e_b", "e_c"], np.hstack([MEASURED, DEVIATIONS]).T, strict=True))
    place = tmp_path / "rows.parquet"
    pd.DataFrame({"id": np.arange(N), **columns}).to_parquet(place, row_group_size=150)
    return place


def done(*arguments: Any, code: int = 0) -> Any:
    found = call(*arguments, code=code)
    return json.loads(found.stdout) if code == 0 else found.stderr


def expected_truth(gm: GaussianMixture) -> Any:
    """Return sum_k r_k (mu_k + V_k (V_k + S)^-1 (x - mu_k)), row by row."""
    found = []
    for x, deviations in zip(MEASURED, DEVIATIONS, strict=True):
        S = np.diag(deviations**2)
        terms = list(zip(gm.weights_, gm.means_, gm.covariances_, strict=True))
        densities = np.array([w * multivariate_normal(m, V + S).pdf(x) for w, m, V in terms])
        each = [m + V @ np.linalg.solve(V + S, x - m) for _, m, V in terms]
        found.append(densities / densities.sum() @ each)
    return np.array(found)


def test_true_values_behind_measured_ones(table: Path, tmp_path: Path) -> None:
    model, output, errors = tmp_path / "m.zarr", tmp_path / "true.parquet", ("--errors", "e_a,e_b,e_c")
    assert "--errors must be given" in done("denoise", tmp_path / "no.zarr", table, "-o", output, code=64)
    gm = GaussianMixture(2, random_state=0).fit(pd.DataFrame(MEASURED, columns=NAMES), errors=DEVIATIONS)
    gm.save(model)
    arguments = ("denoise", model, table, *errors, "--keep", "id", "--output", output, "--workers", 1)
    found = done(*arguments)
    assert (found["command"], found["what"], found["rows"], found["skipped"]) == ("denoise", "denoise", N, False)
    assert found["peak_worker_bytes"] <= found["stated_peak_bytes"]
    written = pd.read_parquet(output)
    assert list(written) == ["id", *NAMES], "each has the name of its feature"
    assert_array_equal(written["id"], np.arange(N))
    assert_allclose(written[NAMES].to_numpy(), expected_truth(gm), rtol=0, atol=1e-11)
    assert np.square(written[NAMES] - TRUE).to_numpy().mean() < 0.8 * np.square(MEASURED - TRUE).mean()
    assert done(*arguments)["skipped"]
    other = done("denoise", model, table, "--errors", "e_b,e_a,e_c", "--keep", "id", "-o", output, code=73)
    assert "--errors" in other
    refused = done("denoise", model, table, *errors, "--non-finite", "marginalize", "-o", output, code=64)
    assert "--non-finite must be 'error' or 'drop' with --errors" in refused


def test_one_error_for_all_rows_is_taken_off_too(table: Path, tmp_path: Path) -> None:
    model, place, errors = tmp_path / "m.zarr", tmp_path / "rows.zarr", tmp_path / "errors.npy"
    zarr.create_array(place, data=MEASURED, chunks=(200, 3))
    np.save(errors, np.diag([0.3, 0.2, 0.4]))
    gm = GaussianMixture(2, random_state=0).fit(MEASURED, errors=np.load(errors))
    gm.save(model)
    done("denoise", model, place, "--errors", errors, "-o", tmp_path / "true.zarr", "--workers", 1)
    assert_allclose(zarr.open_array(tmp_path / "true.zarr")[:], gm.denoise(MEASURED, np.load(errors)), rtol=1e-12)


def test_features_from_the_others(table: Path, tmp_path: Path) -> None:
    model, output = tmp_path / "m.zarr", tmp_path / "predicted.parquet"
    gm = GaussianMixture(2, random_state=0).fit(pd.DataFrame(MEASURED, columns=NAMES))
    gm.save(model)
    found = done("regress", model, table, "--given", "c,a", "--keep", "id", "-o", output, "--workers", 1)
    assert (found["command"], found["what"], found["rows"]) == ("regress", "features", N)
    written = pd.read_parquet(output)
    assert list(written) == ["id", "b"]
    rows = range(0, N, 50)
    expected = [gm.condition(["c", "a"], MEASURED[i, [2, 0]]) for i in rows]
    assert_allclose(written["b"][::50], [p.weights_ @ p.means_[:, 0] for p in expected], rtol=1e-11)
    assert '--given is ["c", "a"] there, ["a", "c"] now' in done(
        "regress", model, table, "--given", "a,c", "--keep", "id", "-o", output, code=73
    )
    unknown = done("regress", model, table, "--given", "z", "-o", tmp_path / "p.zarr", code=64)
    assert "--given must name features of the mixture (a, b, c); got 'z'" in unknown
    everything = done("regress", model, table, "--given", "a,b,c", "-o", tmp_path / "p.zarr", code=64)
    assert "--given must leave a feature that is not known; got all of them" in everything
    gaps = done("regress", model, table, "--given", "a", "--non-finite", "marginalize", "-o", output, code=64)
    assert "--non-finite must be error or drop; got marginalize. daskgmm impute" in gaps


def test_features_without_names_have_numbers_from_1(tmp_path: Path) -> None:
    place, model = tmp_path / "rows.zarr", tmp_path / "m.zarr"
    zarr.create_array(place, data=MEASURED[:, [0, 2]], chunks=(200, 2))
    gm = GaussianMixture(2, random_state=0).fit(MEASURED)
    gm.save(model)
    done("regress", model, place, "--given", "1,3", "-o", tmp_path / "b.zarr")
    written = zarr.open_array(tmp_path / "b.zarr")
    assert written.shape == (N, 1)
    assert_allclose(written[:], gm.predict_features(MEASURED[:, [0, 2]], [0, 2]), rtol=1e-12)
    wrong = done("regress", model, place, "--given", "0", "-o", tmp_path / "b.zarr", code=64)
    assert "--given must be numbers from 1 to 3: this model's features have no names; got '0'" in wrong
    other = done("regress", model, place, "--given", "1", "-o", tmp_path / "c.zarr", code=65)
    assert "must have the 1 features" in other


def test_predictions_of_a_grid_are_on_it(tmp_path: Path) -> None:
    """In Python on that of xarray, lazy where it is; by the command in a Zarr group."""
    xarray = pytest.importorskip("xarray", reason="xarray is not installed: the extra 'test'")
    dims = ("y", "x")
    grid = xarray.Dataset(
        {name: (dims, MEASURED[:, j].reshape(35, 20)) for j, name in enumerate(NAMES)}, coords={"y": np.arange(35.0)}
    )
    gm = GaussianMixture(2, random_state=0).fit(grid)
    for given in (grid, grid.chunk(y=10)):
        true = gm.denoise(given, np.diag([0.3, 0.2, 0.4]))
        assert true.dims == (*dims, "feature")
        assert_array_equal(true["y"], np.arange(35.0))
        flat = gm.denoise(pd.DataFrame(MEASURED, columns=NAMES), np.diag([0.3, 0.2, 0.4]))
        assert_allclose(true.to_numpy().reshape(-1, 3), flat, rtol=1e-12)
        predicted = gm.predict_features(given[["a", "c"]])
        assert predicted.dims == (*dims, "feature")
        flat = gm.predict_features(pd.DataFrame(MEASURED[:, [0, 2]], columns=["a", "c"]))
        assert_allclose(predicted.to_numpy().reshape(-1, 1), flat, rtol=1e-12)
        assert (true.chunks is None) == (given is grid) == (predicted.chunks is None)
    place, model = tmp_path / "grid.zarr", tmp_path / "m.zarr"
    grid.to_zarr(place, zarr_format=3, consolidated=False)
    gm.save(model)
    done("regress", model, place, "--given", "a,c", "-o", tmp_path / "b.zarr")
    with xarray.open_zarr(tmp_path / "b.zarr") as written:
        assert written["features"].dims == (*dims, "feature")
        assert_allclose(written["features"].to_numpy(), gm.predict_features(grid[["a", "c"]]), rtol=1e-12)
