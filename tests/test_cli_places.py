"""Where a command may write, told before any work; and a page of a model whose input has a name of another coding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from daskgmm import GaussianMixture
from daskgmm.cli.drawing import report
from daskgmm.cli.jobs import places
from daskgmm.cli.outputs import check_place
from daskgmm.errors import OptionError
from daskgmm.places.dask_cluster import DaskCluster
from daskgmm.sources.opening import open_rows
from daskgmm.stores.model_file import load_model, save_model

X = np.random.default_rng(0).normal(size=(40, 2))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("given", ["group", "array", "deeper"])
def test_an_output_must_not_join_the_group_of_the_input(given: str, zarr_format: Any, tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "data.zarr", mode="w", zarr_format=zarr_format)
    inner = group.create_group("inner") if given == "deeper" else group
    array = inner.create_array("x", data=X)
    source = open_rows(tmp_path / "data.zarr" if given == "group" else tmp_path / "data.zarr" / array.path)
    inputs = places(source, None)
    for output in ("data.zarr/model.zarr", "data.zarr/inner.zarr/model.zarr"):
        with pytest.raises(
            OptionError, match=r"--output must lie outside of the Zarr group of INPUT; got .*model\.zarr"
        ):
            check_place(str(tmp_path / output), inputs=inputs)
    with pytest.raises(OptionError, match="--output must lie outside of INPUT"):
        check_place(f"{source.label}/model.zarr", inputs=inputs)
    check_place(str(tmp_path / "model.zarr"), inputs=inputs)
    check_place(str(tmp_path / "data.zarr.model"), inputs=inputs)


def test_an_output_beside_a_lone_array_is_free(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=X)
    check_place(str(tmp_path / "model.zarr"), inputs=places(open_rows(tmp_path / "x.zarr"), None))


def test_the_page_of_a_model_whose_input_has_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    GaussianMixture(1).fit(X).save(tmp_path / "first.zarr")
    model = load_model(tmp_path / "first.zarr")
    name = b"caf\xe9.npy".decode(errors="surrogateescape")
    model.record["input"] = {"X": {"kind": "npy", "location": name}}
    save_model(model, tmp_path / "m.zarr")
    report(str(tmp_path / "m.zarr"), str(tmp_path / "r.html"), data=None, cluster=DaskCluster(), force=False)
    assert "caf\\udce9.npy" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("dangling", [False, True])
def test_an_output_that_is_a_link_stays_one(dangling: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = (GaussianMixture(1).fit(rng.normal(at, 1, (50, 2))) for at in (0, 5))
    if not dangling:
        first.save(tmp_path / "target.zarr")
    (tmp_path / "link.zarr").symlink_to("target.zarr")
    second.save(tmp_path / "link.zarr", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.zarr", "target.zarr"]
    assert (tmp_path / "link.zarr").is_symlink()
    for name in ("link.zarr", "target.zarr"):
        np.testing.assert_array_equal(GaussianMixture.load(tmp_path / name).means_, second.means_)
