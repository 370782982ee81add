"""Data that somebody writes to during a fit, or while it waits to go on, are an error that names the rows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr

from daskgmm import GaussianMixture
from daskgmm.errors import DataError
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.result import Fit
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.sources.opening import open_rows
from daskgmm.stores.checkpoint import Checkpoint
from tests.strategies import make_case

X = make_case("full", seed=1, n_rows=4000, n_components=3, n_features=2).X


@pytest.fixture(autouse=True)
def many_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions of 200 rows."""
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 3200)


def fitted(place: Path, *, after: Callable[[int], None], checkpoint: Checkpoint | None = None, **options: Any) -> Fit:
    """Return a fit; `after` is called with the number of each pass that is done."""
    asked = FitOptions(n_components=2, start_rows=500, max_iter=3, tol=1e-9, escape=False, **options)
    with dask.config.set(scheduler="synchronous"):
        return fit_mixture(
            open_rows(place), asked, executor=LocalExecutor(), listener=lambda done: after(done.number),
            checkpoint=checkpoint,
        )  # fmt: skip


@pytest.mark.parametrize("cache", [True, False])
def test_data_that_change_during_a_fit_are_an_error_at_its_end(cache: bool, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(200, 2))

    def after(n_passes: int) -> None:
        if n_passes == 2:
            zarr.open_array(tmp_path / "X.zarr", mode="r+")[1999] = 0.5

    with pytest.raises(DataError, match="other files for rows 1800 to 2000 of .*partition 9, of 20"):
        fitted(tmp_path / "X.zarr", after=after, cache=cache)
    fitted(tmp_path / "X.zarr", after=lambda _: None, cache=cache)


def test_what_was_computed_of_data_that_changed_is_given_up(tmp_path: Path) -> None:
    """They come back with their times: nobody could tell then from what it was computed."""
    place, chunk = tmp_path / "X.zarr", tmp_path / "X.zarr" / "c" / "9" / "0"
    zarr.create_array(place, data=X, chunks=(200, 2))
    before, content = os.stat(chunk), chunk.read_bytes()
    undisturbed = fitted(place, after=lambda _: None, cache=False)

    def after(n_passes: int) -> None:
        if n_passes == 2:
            zarr.open_array(place, mode="r+")[1800:2000] = 50.0

    begun = Checkpoint.at(str(tmp_path / "c"), every=0)
    begun.begin({})
    with pytest.raises(DataError, match=r"other files for rows 1800 to 2000 of .* Run the same again"):
        fitted(place, after=after, cache=False, checkpoint=begun)
    chunk.write_bytes(content)
    os.utime(chunk, ns=(before.st_atime_ns, before.st_mtime_ns))
    begun = Checkpoint.at(str(tmp_path / "c"), every=0)
    begun.begin({})
    again = fitted(place, after=lambda _: None, cache=False, checkpoint=begun)
    assert again.parameters.means.tobytes() == undisturbed.parameters.means.tobytes()


@pytest.mark.parametrize("within", [True, False], ids=["within the first pass", "after three passes"])
def test_data_that_change_while_nobody_fits_are_an_error_at_once(within: bool, tmp_path: Path) -> None:
    """Before the survey is done nothing is kept of it that was read before the change."""
    zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(200, 2))
    place = tmp_path / "X.zarr"

    def begun() -> Checkpoint:
        checkpoint = Checkpoint.at(str(tmp_path / "c"), every=0)
        checkpoint.begin({"command": "fit"})
        return checkpoint

    add = Checkpoint.add

    def interrupted(self: Checkpoint, key: str, number: int, partial: Any) -> None:
        add(self, key, number, partial)
        if number == 7:
            raise KeyboardInterrupt

    def interrupt(n_passes: int) -> None:
        if n_passes == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        if within:
            patched.setattr(Checkpoint, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fitted(place, after=interrupt, checkpoint=begun())
    zarr.open_array(place, mode="r+")[0] = 0.25
    if within:
        found = fitted(place, after=lambda _: None, checkpoint=begun(), cache=False)
        assert found.bytes_read == found.n_passes * X.nbytes
        assert found.lower_bounds == fitted(place, after=lambda _: None).lower_bounds
        return
    with pytest.raises(DataError, match=rf"rows 0 to 200 of .*partition 0, of 20.* or remove {tmp_path}/c and run"):
        fitted(place, after=lambda _: None, checkpoint=begun())
    assert (tmp_path / "c").exists(), "what was done stands: the files may come back"


@pytest.mark.parametrize(
    "options", [{}, {"precision": "single"}, {"covariance_type": "tied"}, {"init_params": "k-means||"}]
)
def test_rows_that_are_others_in_each_pass_are_an_error(options: dict[str, Any]) -> None:
    """As many rows of the same weight, so that nothing but their mean tells."""

    def drawn(block: np.ndarray) -> np.ndarray:
        return np.random.default_rng().normal(np.random.default_rng().normal(0, 3), 1, block.shape)

    rows = da.from_array(X, chunks=(200, 2)).map_blocks(drawn, meta=np.empty((0, 2)))
    gm = GaussianMixture(2, n_init=1, random_state=0, tol=1e-2, start_rows=500, **options)
    for _ in range(2):
        with pytest.raises(DataError, match=r"must stay the same during a fit; got a .* Fit a copy that nobody writes"):
            gm.fit(rows)
    gm.set_params(tol=1.0).fit(rows.persist(scheduler="synchronous"))
