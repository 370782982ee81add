"""What a fresh pair of eyes broke, each with the outcome that a user expects."""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from distributed import Client
from threadpoolctl import threadpool_info

from daskgmm import GaussianMixture
from daskgmm.cli.commands import gmm
from daskgmm.errors import DataError, OptionError, OutputError
from daskgmm.stores.writing import whole_or_nothing
from daskgmm.version import __version__

X = np.random.default_rng(0).normal(size=(1200, 3))


def blas_threads() -> list[int]:
    return [module["num_threads"] for module in threadpool_info() if module["user_api"] == "blas"]


def test_a_mask_is_not_dropped_without_a_word() -> None:
    with pytest.raises(DataError, match="masked array"):
        GaussianMixture().fit(np.ma.masked_greater(X, 1))
    with pytest.raises(DataError, match="masked array"):
        GaussianMixture().fit(X, sample_weight=np.ma.masked_array(np.ones(1200), mask=X[:, 0] > 1))


def test_blocks_with_other_columns_than_declared_are_refused() -> None:
    for n_columns in 1, 2:
        narrow = da.from_array(X, chunks=(100, 3)).map_blocks(
            lambda b, n=n_columns: b[:, :n], dtype=float, meta=np.empty((0, 0))
        )
        with pytest.raises(DataError, match=f"1200 rows of 3 columns from row 0.* got 1200 of {n_columns}"):
            GaussianMixture().fit(narrow)


def test_overlapping_predictions_leave_blas_as_it_was() -> None:
    gm = GaussianMixture(2, random_state=0).fit(X)
    before = blas_threads()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: gm.predict(X), range(40)))
    assert blas_threads() == before


def test_rows_beyond_the_range_of_squares_are_refused() -> None:
    gm = GaussianMixture().fit(X)
    far = np.full((2, 3), 1e160)
    for predict in gm.score_samples, gm.predict_proba, gm.score:
        with np.errstate(all="ignore"), pytest.raises(DataError, match="within 1e150"):
            predict(far)


def test_an_array_of_this_process_cannot_be_predicted_by_workers(client: Client) -> None:
    array = zarr.create_array(zarr.storage.MemoryStore(), data=X)
    gm = GaussianMixture(random_state=0).fit(array)
    with pytest.raises(OptionError, match="only this process can read. Predict on dask.array.from_array"):
        gm.predict(array)


def test_what_was_written_anew_is_fitted_anew(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "X.zarr", data=X)
    command = ["fit", str(tmp_path / "X.zarr"), "-k", "1", "-o", str(tmp_path / "m.zarr")]
    assert CliRunner().invoke(gmm, command).exit_code == 0
    assert '"skipped": true' in CliRunner().invoke(gmm, command).stdout
    array[...] = X * 5
    later = time.time() + 5
    os.utime(tmp_path / "X.zarr" / "c" / "0" / "0", (later, later))
    again = CliRunner().invoke(gmm, command)
    assert again.exit_code == 73
    assert "modified of INPUT is" in again.stderr


def test_a_part_that_an_older_one_has_replaced_is_noticed(tmp_path: Path) -> None:
    """As a backup does that is put back: no file is newer then."""
    array = zarr.create_array(tmp_path / "X.zarr", data=X, chunks=(len(X) // 2 + 1, X.shape[1]))
    command = ["fit", str(tmp_path / "X.zarr"), "-k", "1", "-o", str(tmp_path / "m.zarr")]
    labels = ["predict", str(tmp_path / "m.zarr"), str(tmp_path / "X.zarr"), "-o", str(tmp_path / "l.zarr")]
    for arguments in (command, labels):
        assert CliRunner().invoke(gmm, arguments).exit_code == 0
        assert '"skipped": true' in CliRunner().invoke(gmm, arguments).stdout
    array[0] = 5.0
    os.utime(tmp_path / "X.zarr" / "c" / "0" / "0", (1e9, 1e9))
    for arguments in (command, labels):
        again = CliRunner().invoke(gmm, arguments)
        assert again.exit_code == 73
        assert "modified of INPUT is" in again.stderr


def test_a_folder_of_the_users_beside_an_output_is_left_alone(tmp_path: Path) -> None:
    GaussianMixture(2, random_state=0).fit(X).save(tmp_path / "m.zarr")
    (tmp_path / "s.zarr.part").mkdir()
    (tmp_path / "s.zarr.part" / "data").write_text("precious")
    done = CliRunner().invoke(gmm, ["sample", str(tmp_path / "m.zarr"), "-n", "10", "-o", str(tmp_path / "s.zarr")])
    assert done.exit_code == 0
    assert (tmp_path / "s.zarr.part" / "data").read_text() == "precious"


def test_a_memory_limit_is_kept_or_refused_also_in_this_process(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "X.zarr", data=X)
    command = ["fit", str(tmp_path / "X.zarr"), "-k", "1", "-o", str(tmp_path / "m.zarr"), "--memory-limit", "200MiB"]
    done = CliRunner().invoke(gmm, command)
    assert done.exit_code == 65
    assert "--memory-limit must be at least the" in done.stderr
    found = re.search(r"got 200 MiB\. Give more memory \(--memory-limit (\w+)\)\.$", done.stderr.strip())
    assert found, done.stderr
    assert CliRunner().invoke(gmm, [*command[:-1], found[1]]).exit_code in (0, 3)


def test_what_a_newcomer_types(tmp_path: Path) -> None:
    """A name that lies about what is written, several numbers of components, no row that counts, rows without names."""
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "none.npy", np.full((50, 3), np.nan))
    model, rows = str(tmp_path / "m.zarr"), str(tmp_path / "X.npy")
    named = GaussianMixture(1).fit(X)
    named.feature_names_in_ = np.array(["a", "b", "c"], dtype=object)
    named.save(model)

    def told(*command: str, code: int) -> str:
        done = CliRunner().invoke(gmm, command)
        assert done.exit_code == code, done.stderr
        return done.stderr

    for command in (["predict", model, rows], ["impute", model, rows], ["sample", model, "--rows", "9"]):
        for name, kind in (("out.csv", "a text file"), ("out.npy", "a file of NumPy"), ("out.nc", "an HDF5 file")):
            said = told(*command, "--output", str(tmp_path / name), code=64)
            assert "--output must be Zarr, or Parquet where its name ends in .parquet; got " in said
            assert f"{name}, named as {kind}. Name it {tmp_path}/out.zarr or {tmp_path}/out.parquet." in said
            assert not (tmp_path / name).exists()
        assert "error" not in told(*command, "--output", str(tmp_path / f"{command[0]}.zarr"), code=0)
    said = told("predict", model, rows, "--output", str(tmp_path / "labels"), code=0)
    assert "X.npy has no names of features: its columns are taken for a, b, c, in this order." in said
    for several in ("1:5", "2,3"):
        said = told("fit", rows, "-k", several, "-o", str(tmp_path / "n.zarr"), code=64)
        assert f"'{several}' are several numbers, and a fit has one. daskgmm select compares several." in said
    for how in ("drop", "marginalize"):
        nan = str(tmp_path / "none.npy")
        said = told("fit", nan, "-k", "2", "-o", str(tmp_path / "n.zarr"), "--non-finite", how, code=65)
        assert "got 0 in " in said
        assert said.strip().endswith("(50 dropped). Check the input: no row of it counts.")
    assert CliRunner().invoke(gmm, ["--version"]).output.endswith(f"version {__version__}\n")


def test_workers_that_are_not_started_are_told(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", X)
    command = ["fit", str(tmp_path / "X.npy"), "-k", "1", "-o", str(tmp_path / "m.zarr"), "--force"]
    said = "Of 3 workers none is started: all rows are one partition, which this process does.\n"
    assert CliRunner().invoke(gmm, [*command, "--workers", "3"]).stderr.count(said) == 1
    assert "none is started" not in CliRunner().invoke(gmm, command).stderr


def test_a_command_on_a_model_is_never_told_to_take_fewer_components(tmp_path: Path) -> None:
    """All but a fit have those of the model; what the message says instead is done, and suffices."""
    rows, rng = tmp_path / "X.npy", np.random.default_rng(0)
    np.save(rows, rng.normal(size=(2000, 24)))
    model = tmp_path / "many.zarr"
    k = 200
    parts = np.full(k, 1 / k), rng.normal(size=(k, 24)), np.broadcast_to(np.eye(24), (k, 24, 24))
    GaussianMixture.from_parameters(*parts).save(model)
    out = ["--output", str(tmp_path / "out.zarr")]
    adapted = ["adapt", str(model), str(rows), *out, "--max-iter", "1"]
    commands = (
        ["fit", str(rows), "-k", str(k), *out], adapted,
        ["score", str(model), str(rows)], ["combine", str(model), str(rows)],
        ["predict", str(model), str(rows), *out], ["impute", str(model), str(rows), *out],
        ["denoise", str(model), str(rows), *out, "--errors", str(rows)],
    )  # fmt: skip
    for i, command in enumerate(commands):
        limit = 300
        for _ in range(2):
            done = CliRunner().invoke(gmm, [*command, "--memory-limit", f"{limit}MiB"])
            assert done.exit_code == 65, done.stderr
            found = re.search(r"Give more memory \(--memory-limit (\d+)MiB\)(.*)$", done.stderr.strip())
            assert found, done.stderr
            assert (found[2] == ", or decrease --components.") == (i == 0 and limit > 300), done.stderr
            limit = int(found[1]) - 1  # (so that one component would fit)
        if command[0] == "score":
            assert CliRunner().invoke(gmm, [*command, "--memory-limit", f"{limit + 1}MiB"]).exit_code == 0


def test_an_output_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / "old").write_text("old")

    def fail() -> None:
        with whole_or_nothing(str(place)) as beside:
            Path(beside).mkdir()
            raise OSError("disk full")

    with pytest.raises(OutputError, match="disk full"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (place / "old").read_text() == "old"
    with whole_or_nothing(f"file://{place}") as beside:
        Path(beside).mkdir()
        (Path(beside) / "new").write_text("new")
    assert [p.name for p in place.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
