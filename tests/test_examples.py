"""Every example runs, as its README says, and prints what its README says."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zarr
from deltalake import DeltaTable, write_deltalake

from daskgmm import open_rows
from daskgmm.errors import DataError

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(script: str, *arguments: str | os.PathLike[str]) -> str:
    completed = subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_quickstart(tmp_path: Path) -> None:
    printed = run_example("quickstart/quickstart.py", tmp_path)

    *means, counts = np.split(np.array(re.findall(r"-?\d+\.?\d*", printed), dtype=float), [2, 4, 6])
    expected = [(0.0, 0.0), (0.0, 6.0), (6.0, 0.0)]
    np.testing.assert_allclose(sorted(map(tuple, np.abs(means).round(1))), expected, atol=0.05)
    assert counts.sum() == 100_000
    assert counts.min() > 30_000

    labels = zarr.open_array(tmp_path / "labels.zarr", mode="r")
    assert labels.shape == (100_000,)
    # Labels belong to their rows: each row is nearest to the mean of its label.
    rows = zarr.open_array(tmp_path / "rows.zarr", mode="r")[:]
    nearest = ((rows[:, None] - np.array(means)) ** 2).sum(axis=2).argmin(axis=1)
    assert np.mean(nearest == labels[:]) > 0.999


def printed_by(recipe: str, folder: os.PathLike[str]) -> str:
    return run_example(f"recipes/{recipe}.py", folder)


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"-?\d+\.?\d*", text)]


def test_wines(tmp_path: Path) -> None:
    ours, at_ours, theirs, at_theirs, *table = printed_by("wines", tmp_path).splitlines()
    assert ours == "daskgmm: 3 of 10 components have wines: 71, 59, 48"
    assert theirs.startswith("scikit-learn: ")
    (alike, bound), (alike_theirs, bound_theirs) = numbers(at_ours), numbers(at_theirs)
    assert alike == 0.96 > alike_theirs + 0.1
    assert bound > bound_theirs + 100
    assert "Best by bound: 10 components, full." in table


def test_stars(tmp_path: Path) -> None:
    printed = printed_by("stars", tmp_path)
    assert "Best by BIC: 2 components, full." in printed
    assert numbers(printed.splitlines()[-1]) == [2000, 2000, 11.5, -8, 7.4]


def test_profiles(tmp_path: Path) -> None:
    first, *labels = printed_by("profiles", tmp_path).splitlines()
    assert 150 < numbers(first)[0] < 250
    latitudes = sorted(numbers(line)[-1] for line in labels)
    np.testing.assert_allclose(latitudes, [15, 30, 45], atol=2)


def test_scene(tmp_path: Path) -> None:
    labels = [numbers(line) for line in printed_by("scene", tmp_path).splitlines()]
    assert [label[1] for label in labels] == [33, 33, 33], "percent: a third each, less clouds"
    green_near_red = sorted(tuple(label[2:]) for label in labels)
    np.testing.assert_allclose(green_near_red, [(0.03, 0.01, 0.02), (0.06, 0.4, 0.04), (0.18, 0.25, 0.2)], atol=0.01)


def test_gates(tmp_path: Path) -> None:
    printed = printed_by("gates", tmp_path)
    assert [line.split("+")[0] for line in printed.splitlines()] == ["CD3", "CD19", "CD14"]
    for line, share in zip(printed.splitlines(), (60, 25, 15), strict=True):
        whole, gated = numbers(line.split(":")[1])[:2]
        assert whole == pytest.approx(share, abs=0.5)
        assert gated == pytest.approx(0.95 * share, abs=1)


def test_controls(tmp_path: Path) -> None:
    *shares, counts = printed_by("controls", tmp_path).splitlines()
    names = ["B cells", "T cells", "unknown population", "noise"]
    for line, name, share in zip(shares, names, (25, 50, 15, 10), strict=True):
        assert line.split(":")[0] == name
        assert numbers(line)[0] == pytest.approx(share, abs=1)
    assert sum(numbers(counts.split(":")[1].replace(",", ""))) == 60_000


def test_speakers(tmp_path: Path) -> None:
    *ratios, last = printed_by("speakers", tmp_path).splitlines()
    for speaker, line in enumerate(ratios):
        own = numbers(line.split("frame")[1])
        assert np.argmax(own) == speaker
        assert own[speaker] > 1 > 0 > max(own[:speaker] + own[speaker + 1 :])
    assert last == "5 of 5 are told by one second of speech"


def test_colours(tmp_path: Path) -> None:
    known, blind, off, share = printed_by("colours", tmp_path).splitlines()
    assert numbers(known)[0] == pytest.approx(0.03, abs=0.003)
    assert numbers(blind)[0] > 0.04
    before, after = numbers(off)
    assert after < 0.7 * before
    assert numbers(share)[0] == pytest.approx(40, abs=3)


def test_denoise(tmp_path: Path) -> None:
    before, after = numbers(printed_by("denoise", tmp_path))
    assert before == pytest.approx(20, abs=0.2)
    assert after > before + 5
    assert (tmp_path / "denoised.png").stat().st_size > 10_000


def test_photometry(tmp_path: Path) -> None:
    told_apart, filled, alone = numbers(printed_by("photometry", tmp_path))
    assert told_apart > 98
    assert filled < 0.3 < 1 < alone


def test_nightly(tmp_path: Path) -> None:
    (_, usual, _), (_, broken, _) = (numbers(line) for line in printed_by("nightly", tmp_path).splitlines())
    assert usual <= 8
    assert 20 <= broken <= 28


def test_drift(tmp_path: Path) -> None:
    usual, offset, flares = printed_by("drift", tmp_path).splitlines()
    assert usual.endswith("the same rows")
    assert abs(numbers(usual)[0]) < 3.3
    assert "other rows, component" in flares
    assert numbers(flares)[0] < -100
    assert offset.endswith("other rows")
    assert -30 < numbers(offset)[0] < -5


def test_onnx_export(tmp_path: Path) -> None:
    assert numbers(printed_by("onnx_export", tmp_path)) == [100.0]


@pytest.mark.slow
def test_resume(tmp_path: Path) -> None:
    printed = printed_by("resume", tmp_path)
    assert "killed.zarr: 4 passes of EM, exit status -9" in printed
    assert "Going on from ./killed.zarr.checkpoint" in printed
    assert printed.endswith("the same bits: True\n")


def test_on_s3(bucket: str) -> None:
    (found,) = numbers(run_example("recipes/on_s3.py", f"{bucket}/folder").partition(":")[2])
    one = -1.5 * (1 + np.log(2 * np.pi))  # mean log-density of a normal distribution in three dimensions
    assert found == pytest.approx(one + np.log(0.5), abs=0.02)


def test_a_delta_table_is_what_its_log_lists(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table, place = pa.table({name: rng.normal(size=3000) for name in "abk"}), tmp_path / "rows.delta"
    write_deltalake(str(place), table)
    write_deltalake(str(place), table.slice(0, 1000), mode="append")
    DeltaTable(str(place)).delete("a > 0")  # writes files anew, and leaves the old ones where they are
    expected = DeltaTable(str(place)).to_pyarrow_table().select(["a", "b"]).to_pandas().to_numpy()
    with pytest.raises(DataError, match="a Delta Lake table, .* among whose files are those of rows that were"):
        open_rows(f"{place}/*.parquet")
    shutil.copytree(place, tmp_path / "plain")
    with pytest.raises(DataError, match="examples/delta does so, for deltalake.DeltaTable"):
        open_rows(tmp_path / "plain")

    # What pip would make of its pyproject.toml.
    folder = EXAMPLES / "delta"
    groups = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]
    info = tmp_path / "site" / "daskgmm_delta-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: daskgmm-delta\nVersion: 0.1.0\n")
    lines = [f"{name} = {value}" for name, value in groups["daskgmm.sources"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[daskgmm.sources]", *lines, ""]))
    code = """
import sys
from deltalake import DeltaTable
from daskgmm import GaussianMixture, open_rows
for given in (sys.argv[1], DeltaTable(sys.argv[1]), DeltaTable(sys.argv[1], version=0)):
    source = open_rows(given, columns=["a", "b"])
    mixture = GaussianMixture(1).fit(source)
    print(source.n_rows, source.identity()["version"], *mixture.means_[0].tolist(), source.reader().far)
"""
    paths = os.pathsep.join([str(tmp_path / "site"), str(folder), str(EXAMPLES.parent)])
    command, environment = [sys.executable, "-c", code, str(place)], {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    now, again, first = (line.split() for line in done.stdout.splitlines())
    assert now == again == [str(len(expected)), "2", *map(str, now[2:])]
    np.testing.assert_allclose([float(x) for x in now[2:4]], expected.mean(axis=0), rtol=1e-12)
    assert first[:2] == ["3000", "0"]
    np.testing.assert_allclose(float(first[2]), np.mean(table["a"].to_numpy()), rtol=1e-12)


def test_every_recipe_is_listed_and_says_what_it_needs() -> None:
    listed = (EXAMPLES / "recipes/README.md").read_text()
    for recipe in (EXAMPLES / "recipes").glob("*.py"):
        assert f"[{recipe.name}]({recipe.name})" in listed
        assert f"def test_{recipe.stem}(" in Path(__file__).read_text()
        block = re.search(r"(?m)^# /// script\n((?:#(?: .*)?\n)+?)# ///$", recipe.read_text())
        assert block is not None
        header = tomllib.loads(re.sub(r"(?m)^# ?", "", block[1]))
        assert header["dependencies"][0].startswith("daskgmm")
        assert (recipe.parent / header["tool"]["uv"]["sources"]["daskgmm"]["path"] / "pyproject.toml").exists()
