"""Units and names of dimensions: read, kept with the model, and compared; times are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr

from daskgmm import GaussianMixture, select
from daskgmm.errors import DataError
from tests.test_cli import call

X = np.random.default_rng(0).normal(size=(60, 2))


def stored(place: Path, values: Any = X, *, units: str | None = None, dimensions: Any = None) -> str:
    array = zarr.create_array(place, data=values, chunks=(20, *values.shape[1:]), dimension_names=dimensions)
    if units is not None:
        array.attrs["units"] = units
    return str(place)


def labelled(values: Any = X, *, units: str | None = None, dimensions: Any = ("row", "feature")) -> Any:
    xarray = pytest.importorskip("xarray", reason="xarray is not installed: the extra 'test'")
    return xarray.DataArray(values, dims=dimensions, attrs={} if units is None else {"units": units})


@pytest.fixture
def kelvin(tmp_path: Path) -> str:
    return stored(tmp_path / "kelvin.zarr", units="K")


def test_other_units_than_those_of_the_fit_are_refused(tmp_path: Path, kelvin: str) -> None:
    celsius, unsaid = stored(tmp_path / "celsius.zarr", units="degC"), stored(tmp_path / "unsaid.zarr")
    message = "X must have the units that the mixture was fitted to, K; got degC in .* Convert it, or write"
    fitted = GaussianMixture(1).fit(kelvin)
    fitted.save(tmp_path / "m.zarr")
    for gm in (fitted, GaussianMixture(1).fit(labelled(units="K")), GaussianMixture.load(tmp_path / "m.zarr"),
               select(kelvin, n_components=[1]).best_):  # fmt: skip
        assert gm.units_in_ == "K"
        for other in (celsius, labelled(units="degC"), zarr.open_array(celsius)):
            for method in (gm.predict, gm.score):
                with pytest.raises(DataError, match=message):
                    method(other)
        for same in (X, unsaid, kelvin, labelled(units=" K ")):
            assert np.isfinite(gm.score(same))
    assert not hasattr(fitted.fit(X), "units_in_")
    assert np.isfinite(fitted.score(celsius))


def test_other_units_are_refused_on_the_command_line(tmp_path: Path, kelvin: str) -> None:
    celsius, model = stored(tmp_path / "celsius.zarr", units="degC"), tmp_path / "m.zarr"
    for command in (("fit", kelvin, "-k", 1), ("select", kelvin, "-k", "1")):
        call(*command, "-o", model, "--force")
        assert GaussianMixture.load(model).units_in_ == "K"
        for arguments in (("score", model, celsius), ("predict", model, celsius, "-o", tmp_path / "l.zarr")):
            said = call(*arguments, code=65).stderr
            assert f"error: INPUT must have the units that the mixture was fitted to, K; got degC in {celsius}." in said
        assert json.loads(call("score", model, kelvin).stdout)["rows"] == 60


def test_times_are_not_taken_for_numbers(tmp_path: Path) -> None:
    place = stored(tmp_path / "t.zarr", np.arange(60.0), units="days since 1970-01-01")
    for given in (
        place,
        zarr.open_array(place),
        labelled(np.arange(60.0), units="days since 1970-01-01", dimensions=["t"]),
        stored(tmp_path / "u.zarr", np.arange(60.0), units="Solar DAYS Since 1970-01-01"),
    ):
        with pytest.raises(
            DataError, match="X must hold numbers that mean what they are; got times in '(days since|Solar DAYS)"
        ) as told:
            GaussianMixture(1).fit(given)
        advised = str(told.value).rpartition("units: ")[2].removesuffix(".")
        numbers = eval(advised, {"dask": dask, "zarr": zarr, "X": given})
        assert GaussianMixture(1).fit(numbers).means_[0, 0] == pytest.approx(29.5)


@pytest.mark.parametrize(
    "make", [stored, lambda _, *args, **options: labelled(*args, **options)], ids=["zarr", "xarray"]
)
def test_weights_along_another_dimension_are_refused(make: Any, tmp_path: Path) -> None:
    rows = make(tmp_path / "x.zarr", dimensions=("time", "band"))
    other = make(tmp_path / "o.zarr", np.ones(60), dimensions=("station",))
    right = make(tmp_path / "r.zarr", np.ones(60), dimensions=("time",))
    with pytest.raises(
        DataError, match="along the dimension of the rows of X, 'time' in .*; got weights along 'station'"
    ):
        GaussianMixture(1).fit(rows, sample_weight=other)
    for weights in (right, np.ones(60)):
        assert GaussianMixture(1).fit(rows, sample_weight=weights).n_features_in_ == 2
