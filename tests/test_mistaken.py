"""A model that is given where data goes, and data where a model goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from daskgmm import GaussianMixture, open_rows
from daskgmm.cli.commands import gmm
from daskgmm.errors import DaskgmmError, DataError

X = np.random.default_rng(0).normal(size=(60, 2))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    zarr.create_array("x.zarr", data=X)
    zarr.open_group("grid.zarr", mode="w").create_array("a", data=X)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    made = GaussianMixture(random_state=0).fit(X)
    made.feature_names_in_ = np.array(["a", "b"], dtype=object)  # (then rows are opened by these names)
    made.save("m.zarr")
    return tmp_path


@pytest.mark.parametrize(
    ("flag", "typed"),
    [
        ("INPUT", "fit m.zarr -k 1 -o n.zarr"),
        ("INPUT", "select m.zarr -k 1:2 -o n.zarr"),
        ("INPUT", "plan m.zarr -k 1"),
        ("INPUT", "score m.zarr m.zarr"),
        ("INPUT", "predict m.zarr m.zarr -o l.zarr"),
        ("INPUT", "update m.zarr m.zarr"),
        ("INPUT", "adapt m.zarr m.zarr -o n.zarr"),
        ("INPUT", "plot m.zarr --data m.zarr -o p.png"),
        ("--weights", "fit x.npy -k 1 -o n.zarr --weights m.zarr"),
        ("--labels", "fit x.npy -k 1 -o n.zarr --labels m.zarr"),
        ("--errors", "fit x.npy -k 1 -o n.zarr --errors m.zarr"),
    ],
)
def test_a_model_is_no_data(flag: str, typed: str, place: Path) -> None:
    done = CliRunner().invoke(gmm, typed.split())
    assert done.exit_code == 65
    expected = f"error: {flag} must be data; got a model of daskgmm, {place}/m.zarr. Name the data here; a model goes "
    assert done.stderr.strip().splitlines()[-1] == expected + "to MODEL, before INPUT, or to --init-from."
    assert not (place / "n.zarr").exists()


def test_a_model_is_no_data_in_python_either(place: Path) -> None:
    for given in ("m.zarr", place / "m.zarr", zarr.open_group("m.zarr", mode="r")):
        said = r"X must be data; got a model of daskgmm, .*m\.zarr\. .* a model goes to GaussianMixture\.load\.$"
        with pytest.raises(DataError, match=said):
            open_rows(given)
    # (Who names an array of it means its numbers.)
    assert open_rows("m.zarr", array="means").n_rows == 1


@pytest.mark.parametrize("typed", ["score {} m.zarr", "inspect {}", "fit x.npy -k 1 -o n.zarr --init-from {}"])
@pytest.mark.parametrize("data", ["x.npy", "x.zarr", "grid.zarr", "x.parquet"])
def test_data_are_no_model(typed: str, data: str, place: Path) -> None:
    done: Any = CliRunner().invoke(gmm, typed.format(data).split())
    assert done.exit_code in (65, 66)
    said = done.stderr.strip().splitlines()[-1]
    begins = "error: --init-from: the model" if "--init-from" in typed else "error: the model"
    assert said.startswith(f"{begins} must be a daskgmm model file; got ")
    assert said.endswith(f" at {data}. Check the path: a model is wanted here, and data elsewhere.")
    with pytest.raises(DaskgmmError, match="must be a daskgmm model file"):
        GaussianMixture.load(data)
