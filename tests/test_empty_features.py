"""A feature of which no row has a value: the message says how to leave it out, of each kind of input."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from daskgmm import GaussianMixture, open_rows
from daskgmm.cli.commands import gmm
from daskgmm.errors import DataError

GAPS: dict[str, Any] = {"non_finite": "marginalize", "random_state": 0}


def _empty(place: Path, kind: str) -> Any:
    """Return rows of which features 1 and 2 hold nothing, as an input of a kind."""
    X = np.random.default_rng(0).normal(size=(200, 4)) + 6 * (np.arange(200) % 2)[:, np.newaxis]
    X[:, 1:3] = np.nan
    names = list("abcd")
    if kind == "numpy":
        return X
    if kind == "dask":
        return da.from_array(X, chunks=(50, 4))
    if kind == "pandas":
        return pytest.importorskip("pandas").DataFrame(X, columns=names)
    if kind == "npy":
        np.save(place / "X.npy", X)
    elif kind == "zarr":
        zarr.create_array(place / "X.zarr", data=X, chunks=(50, 4))
    elif kind == "grid":
        group = zarr.open_group(place / "X.grid", mode="w")
        for name, values in zip(names, X.T, strict=True):
            group.create_array(name, data=np.ascontiguousarray(values))
        return open_rows(place / "X.grid", columns=names)
    elif kind == "h5":
        with pytest.importorskip("h5py").File(place / "X.h5", "w") as file:
            file["X"] = X
    elif kind == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(
            pytest.importorskip("pyarrow").table(dict(zip(names, X.T, strict=True))), place / "X.parquet"
        )
    return str(place / f"X.{kind}")


@pytest.mark.parametrize("kind", ["numpy", "dask", "npy", "zarr", "h5"])
def test_a_feature_without_a_value_is_left_out_of_an_array_as_the_message_says(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = _empty(tmp_path, kind)
    with pytest.raises(DataError, match=r"a value of each feature; got none of feature 1, feature 2 in ") as refused:
        GaussianMixture(2, **GAPS).fit(given)
    (code,) = re.findall(r"Leave such features out: (.*)\.$", str(refused.value))
    found: dict[str, Any] = {"X": given, "numpy": np, "dask": __import__("dask.array")}
    found |= {"h5py": pytest.importorskip("h5py")} if kind == "h5" else {}
    exec(code if "X = " in code else f"X = {code}", found)
    rest = "rest.zarr" if kind in ("npy", "zarr", "h5") else found["X"]
    assert GaussianMixture(2, **GAPS).fit(rest).means_.shape == (2, 2)
    if kind in ("npy", "zarr", "h5"):
        done = CliRunner().invoke(gmm, ["fit", given, "-k", "2", "-o", "m.zarr", "--non-finite", "marginalize"])
        assert done.exit_code == 65
        assert f"Leave such features out: {code}." in done.stderr, "the command line says the same"


@pytest.mark.parametrize("kind", ["pandas", "grid", "parquet"])
def test_a_feature_without_a_value_is_left_out_by_its_name(kind: str, tmp_path: Path) -> None:
    given = _empty(tmp_path, kind)
    said = r"got none of b, c in .*Leave them out, by daskgmm.open_rows\(X, columns=\[\.\.\.\]\) with '!b', '!c'\.$"
    with pytest.raises(DataError, match=said):
        GaussianMixture(2, **GAPS).fit(given)
    rest = open_rows(str(tmp_path / "X.grid") if kind == "grid" else given, columns=["!b", "!c"])
    found = GaussianMixture(2, **GAPS).fit(rest)
    assert list(found.feature_names_in_) == ["a", "d"]
    if kind == "parquet":
        typed = ["fit", given, "-k", "2", "-o", str(tmp_path / "m.zarr"), "--non-finite", "marginalize"]
        done = CliRunner().invoke(gmm, typed)
        assert done.exit_code == 65
        assert "Leave them out, by --columns with '!b', '!c'." in done.stderr
        assert CliRunner().invoke(gmm, [*typed, "--columns", "!b,!c"]).exit_code == 0
