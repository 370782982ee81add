"""A model on disk: whole or absent, exact, and refused wherever it does not say what it is."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

from daskgmm import GaussianMixture
from daskgmm.errors import DataError, InputMissingError, OutputError
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.provenance import provenance
from daskgmm.stores import model_file
from daskgmm.stores.model_file import Model, is_model, load_model, save_model
from tests.faults import mutilate
from tests.fitting.driving import KINDS, well_separated

ARRAYS = ("weights", "means", "covariances", "precisions_cholesky")


def model(kind: str = "full", **record: Any) -> Model:
    case = well_separated(kind)
    parameters = Parameters.from_covariances(family_called(kind), case.weights, case.means, case.covariances)
    return Model(parameters, {"options": {"seed": 3}, **record})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save_model(model(), tmp_path / "m.zarr")
    return tmp_path / "m.zarr"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_is_what_was_saved_to_the_bit(kind: str, tmp_path: Path) -> None:
    saved = model(kind, history=[{"pass": 1, "mean_log_likelihood": None}], lower_bounds=[0.1, 1 / 3])
    place = tmp_path / "a folder" / "m.zarr"
    save_model(saved, place)
    loaded = load_model(str(place))
    assert loaded.parameters.family is saved.parameters.family
    for name in ARRAYS:
        assert_array_equal(getattr(loaded.parameters, name), getattr(saved.parameters, name))
        assert getattr(loaded.parameters, name).dtype == np.float64
    assert loaded.record == saved.record
    assert os.listdir(place.parent) == ["m.zarr"]
    assert is_model(str(place))


def test_a_model_in_memory_has_a_url_too() -> None:
    save_model(model(), "memory://models/m.zarr")
    assert load_model("memory://models/m.zarr").record == model().record
    with pytest.raises(OutputError, match="must not exist yet; got memory://models/m.zarr"):
        save_model(model(), "memory://models/m.zarr")
    save_model(model(note="new"), "memory://models/m.zarr", overwrite=True)
    assert load_model("memory://models/m.zarr").record["note"] == "new"


def test_nothing_in_a_model_is_executed(place: Path) -> None:
    names = {path.name for path in place.rglob("*") if path.is_file()}
    assert "zarr.json" in names
    for path in place.rglob("zarr.json"):
        json.loads(path.read_text())
    assert not any(part in name for name in names for part in ("pkl", "pickle", "joblib"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weights", np.nan, "weights that are not finite"), ("weights", -1.0, "weights of -1 or more"),
        ("weights", 5.0, "with a sum of"), ("means", np.inf, "means that are not finite"),
        ("covariances", 0.0, "not positive definite"), ("precisions_cholesky", 0.0, "not positive definite"),
        ("precisions_cholesky", -1.0, "not positive definite"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_mixture_is_refused(kind: str, name: str, value: float, message: str, tmp_path: Path) -> None:
    """Its checksums right, whoever wrote it."""
    saved = model(kind)
    array = getattr(saved.parameters, name).copy()
    array.reshape(-1)[0] = value
    save_model(replace(saved, parameters=replace(saved.parameters, **{name: array})), tmp_path / "m.zarr")
    with pytest.raises(DataError, match=f"the model must be whole; got .*{message}"):
        load_model(tmp_path / "m.zarr")


def test_provenance_is_text() -> None:
    assert set(provenance()) == {"daskgmm", "numpy", "scipy", "zarr", "python", "machine", "blas", "simd"}
    assert all(isinstance(value, str) for value in provenance().values())


# -- writing ---------------------------------------------------------------------------------------------------
def test_what_is_there_is_kept_unless_it_is_a_model_and_may_go(place: Path) -> None:
    with pytest.raises(OutputError, match=rf"must not exist yet; got {place}, which does\. Choose another path"):
        save_model(model("diag"), place)
    assert load_model(place).parameters.family.name == "full"
    save_model(model("diag"), place, overwrite=True)
    assert load_model(place).parameters.family.name == "diag"
    for other in (place.parent / "notes", place.parent / "notes.txt"):
        if other.suffix:
            other.write_text("mine")
        else:
            other.mkdir()
        with pytest.raises(OutputError, match="It is no model: choose another path, or remove it"):
            save_model(model(), other, overwrite=True)
        assert other.exists()
    assert sorted(os.listdir(place.parent)) == ["m.zarr", "notes", "notes.txt"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("codec"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing_of_itself(
    overwrite: bool, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "m.zarr"
    if overwrite:
        save_model(model("diag"), place)
    write = model_file._write

    def failing(group: zarr.Group, saved: Model) -> None:
        write(group, saved)
        raise error

    monkeypatch.setattr(model_file, "_write", failing)
    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected, match="must be writable; got disk full" if expected is OutputError else None):
        save_model(model(), place, overwrite=overwrite)
    assert os.listdir(tmp_path) == (["m.zarr"] if overwrite else [])
    if overwrite:
        assert load_model(place).parameters.family.name == "diag"


def test_the_old_model_comes_back_where_the_new_one_cannot_take_its_place(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, calls = os.rename, []

    def failing(source: str, target: str) -> None:
        calls.append((source, target))
        if ".unfinished-" in str(source) and len(calls) == 2:
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OutputError, match="must be writable; got no for"):
        save_model(model("diag"), place, overwrite=True)
    assert len(calls) == 3
    assert os.listdir(place.parent) == ["m.zarr"]
    assert load_model(place).parameters.family.name == "full"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"must be writable; got .* for .*file/m\.zarr\. .*or choose another place"):
        save_model(model(), tmp_path / "file" / "m.zarr")


# -- reading ---------------------------------------------------------------------------------------------------
def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        InputMissingError, match=rf"the model must be there; got nothing at {tmp_path}/none\.zarr\. Check the path\.$"
    ):
        load_model(tmp_path / "none.zarr")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "folder").mkdir()
    zarr.open_group(tmp_path / "group.zarr", mode="w")
    zarr.create_array(tmp_path / "array.zarr", data=np.zeros(3))
    for name, message in {
        "text": f"{tmp_path}/text",
        "folder": "got something else at",
        "group.zarr": "must be a daskgmm model file; got another Zarr group at",
        "array.zarr": "got a Zarr array at",
    }.items():
        with pytest.raises((DataError, InputMissingError), match=message):
            load_model(tmp_path / name)
        assert not is_model(str(tmp_path / name))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["zarr.json", "means/zarr.json", "means/c/0/0"])
def test_a_pipe_in_a_model_is_not_waited_for(name: str, place: Path) -> None:
    (place / name).unlink()
    os.mkfifo(place / name)
    with pytest.raises(DataError, match=f"must be a file; got {place}/{name}|means must be readable; got .*0 bytes"):
        load_model(place)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("format", "another", "must be a daskgmm model file; got another Zarr group"),
        (
            "format_version",
            1,
            "must be of format version 2; got 1 in .* Read it with the version of daskgmm that wrote",
        ),
        ("format_version", None, "must be of format version 2; got None"),
        (
            "covariance_type",
            "round",
            "must be one of full, tied, .*VVV, lowrank; got 'round'",
        ),
        ("covariance_type", "tied", r"covariances must have shape \(3, 3\), float64; got \(3, 3, 3\)"),
        ("n_components", 4, r"weights must have shape \(4,\), float64; got \(3,\), float64"),
        ("n_components", "many", "must be whole; got ValueError"),
        ("n_components", math.inf, "must be whole; got OverflowError"),
        ("n_features", 2, r"means must have shape \(3, 2\), float64; got \(3, 3\), float64"),
        ("checksums", {}, "weights must match its checksum; got a damaged array"),
        ("checksums", 7, "must be whole; got TypeError"),
        ("record", "none", "must be whole; got ValueError"),
    ],
)
def test_attributes_that_lie_are_refused(name: str, value: Any, message: str, place: Path) -> None:
    zarr.open_group(place, mode="r+").attrs[name] = value
    with pytest.raises(DataError, match=message):
        load_model(place)


@pytest.mark.parametrize("name", ["covariance_type", "n_components", "n_features", "checksums", "record"])
def test_attributes_that_are_missing_are_named(name: str, place: Path) -> None:
    del zarr.open_group(place, mode="r+").attrs[name]
    with pytest.raises(DataError, match=rf"must be whole; got KeyError\('{name}'\) reading {place}"):
        load_model(place)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_damaged_array_is_noticed(name: str, place: Path) -> None:
    array = zarr.open_group(place, mode="r+")[name]
    assert isinstance(array, zarr.Array)
    array[...] = np.asarray(array[...]) * (1 + 1e-15) + 1e-300
    with pytest.raises(DataError, match=rf"the model's {name} must match its checksum; got a damaged array in {place}"):
        load_model(place)


def test_chunks_and_arrays_that_are_gone_are_noticed(place: Path) -> None:
    chunk = next(path for path in (place / "means" / "c").rglob("*") if path.is_file())
    content = chunk.read_bytes()
    chunk.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"the model's means must be readable; got ValueError\('36 bytes for 72'\)"):
        load_model(place)
    chunk.unlink()
    with pytest.raises(DataError, match="the model's means must be readable; got FileNotFoundError"):
        load_model(place)
    (place / "means" / "zarr.json").unlink()
    with pytest.raises(DataError, match="must be whole; got KeyError"):
        load_model(place)


@pytest.mark.parametrize("dtype", ["f4", "i8"])
def test_another_dtype_is_refused(dtype: str, place: Path) -> None:
    group = zarr.open_group(place, mode="r+")
    group.create_array("weights", data=np.ones(3, dtype=dtype), overwrite=True)
    with pytest.raises(DataError, match=rf"weights must have shape \(3,\), float64; got \(3,\), {np.dtype(dtype)}, in"):
        load_model(place)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"shape": (3 * 10**9,), "chunks": (3 * 10**9,), "compressors": None}, "FileNotFoundError"),
        ({"shape": (3 * 10**9,), "chunks": (10**6,), "compressors": None}, "chunks of"),
        ({"shape": (3,), "chunks": (3 * 10**9,), "compressors": None}, "chunks of"),
        ({"shape": (3 * 10**9,), "chunks": (3 * 10**9,), "compressors": "auto"}, "chunks of .*Zstd"),
        ({"shape": (3,), "chunks": (3,), "compressors": None, "shards": (3,)}, r"shards of \(3,\)"),
    ],
)
def test_nothing_is_allocated_that_is_not_stored(stored: dict[str, Any], message: str, place: Path) -> None:
    """Absurd sizes, chunks of one, and chunks that would grow when they are decoded."""
    group = zarr.open_group(place, mode="r+")
    group.create_array("weights", dtype="f8", overwrite=True, **stored)
    group.attrs["n_components"] = stored["shape"][0]
    tracemalloc.start()
    with pytest.raises(DataError, match=f"the model's weights must be readable; got .*{message}"):
        load_model(place)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_a_bomb_in_the_place_of_a_chunk_is_no_array(place: Path) -> None:
    import gzip

    bomb = gzip.compress(bytes(100 << 20))
    (place / "weights" / "c" / "0").write_bytes(bomb)
    metadata = json.loads((place / "weights" / "zarr.json").read_text())
    metadata["codecs"].append({"name": "gzip", "configuration": {"level": 5}})
    (place / "weights" / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(DataError, match="the model's weights must be readable; got .*Gzip"):
        load_model(place)


def test_deep_json_and_paths_that_lead_elsewhere_are_refused(place: Path) -> None:
    whole = (place / "zarr.json").read_text()
    deep = "[" * 200_000 + "]" * 200_000
    (place / "zarr.json").write_text(whole.replace('"seed": 3', f'"seed": {deep}'))
    with pytest.raises(DataError, match="the model must be readable; got RecursionError"):
        load_model(place)
    (place / "zarr.json").write_text(whole)
    shutil.rmtree(place / "means")
    (place / "means").symlink_to("/etc")
    with pytest.raises(DataError, match="must be whole; got KeyError"):
        load_model(place)


def test_a_hundred_mutilations_are_clean_errors(place: Path) -> None:
    """Files cut, emptied, turned round, removed, or with a bit flipped: an error, or what was saved."""
    files = sorted(path for path in place.rglob("*") if path.is_file())
    whole = {path: path.read_bytes() for path in files}
    rng, saved, n_refused = np.random.default_rng(7), model(), 0
    for _ in range(100):
        path = files[rng.integers(len(files))]
        how = mutilate(path, rng)
        try:
            found = load_model(place)
        except (DataError, InputMissingError):
            n_refused += 1
        else:
            # (A flipped bit may be in the name of something that nobody reads.)
            assert how == "flipped"
            for name in ARRAYS:
                assert_array_equal(getattr(found.parameters, name), getattr(saved.parameters, name))
        path.write_bytes(whole[path])
    assert n_refused > 75
    load_model(place)


def test_damaged_metadata_are_said(place: Path) -> None:
    (place / "zarr.json").write_text("{")
    with pytest.raises(DataError, match="the model must be readable; got"):
        load_model(place)
    assert not is_model(str(place))


@pytest.mark.parametrize("name", ["zarr.json", "means/zarr.json", "means/c/0/0"])
def test_a_file_that_may_not_be_read_is_no_damage(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "m.zarr"
        GaussianMixture(1).fit(np.random.default_rng(0).normal(size=(50, 2))).save(place)
        os.chmod(folder, 0o755)
        os.chmod(place / name, 0)
        own = os.geteuid()
        if own == 0:  # (who may read everything)
            os.seteuid(65534)
        try:
            message = r"the model must be readable; got Permission denied for .*m\.zarr"
            with pytest.raises(InputMissingError, match=message):
                load_model(place)
        finally:
            os.seteuid(own)
