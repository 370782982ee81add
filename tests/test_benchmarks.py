"""The benchmark runs, without the peers that are optional, and gives JSON, a table and a plot."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "examples" / "benchmarks"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_quick_run_gives_json_a_table_and_a_plot(tmp_path: Path) -> None:
    output, readme = tmp_path / "found.json", tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    options = ("--quick", "--rounds", 2, "--output", output)

    done = run(
        "run.py", *options, "--cases", "A", "--dtypes", "float64", "--peers", "sklearn,onedal", "--tables", readme
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    (record,) = found["cases"]
    assert (record["case"], record["n_rows"], record["n_features"]) == ("A", 20_000, 2)
    assert {"daskgmm", "sklearn", "sklearn-heap"} <= set(record["rounds"])
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in record["rounds"].values())
    assert record["agreement"]["sklearn"] < 1e-9
    assert record["agreement"]["sklearn-heap"] < 1e-9
    assert found["versions"]["daskgmm"]
    assert {"cores", "dgemm_gflops", "sgemm_gflops", "copy_gb_per_second", "zarr_gb_per_second"} <= set(found["limits"])
    if importlib.util.find_spec("daal4py"):
        assert record["agreement"]["onedal"] < 1e-4
    else:
        assert "pip install scikit-learn-intelex" in record["skipped"]["onedal"]
        assert "pip install scikit-learn-intelex" in done.stdout
    before, table, after = readme.read_text().replace(END, BEGIN).split(BEGIN)
    assert (before, after) == ("before\n", "\nafter\n")
    assert "| A | 20,000 × 2, 8 |" in table
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    # What is there is kept.
    done = run("run.py", *options, "--cases", "A", "--dtypes", "float64", "--resume")
    assert done.returncode == 0, done.stderr
    assert json.loads(output.read_text())["cases"] == found["cases"]


@pytest.mark.parametrize("folder", [BENCHMARKS, BENCHMARKS / "optimum"], ids=lambda folder: folder.name)
def test_every_script_finds_what_it_imports(folder: Path) -> None:
    names = sorted(path.stem for path in folder.glob("*.py"))
    assert len(names) > 5
    code = f"import importlib, sys; sys.path.insert(0, {str(folder)!r}); [importlib.import_module(n) for n in {names}]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_streamed_pass_is_measured_beside_what_it_must_cost(tmp_path: Path) -> None:
    small = ("--gib", 0.01, "--rounds", 1, "--components", 2, "--codecs", "zstd", "--no-cold")

    done = run("out_of_core.py", *small, "--layouts", "plain,parquet", "--json", tmp_path / "found.json")

    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())["results"]
    assert [(line["codec"], line["layout"]) for line in found] == [
        ("zstd", "plain"), ("zstd", "parquet"), ("snappy", "parquet")
    ]  # fmt: skip
    assert all(min(line["pass"], line["decode"], line["kernel"]) > 0 for line in found)
    assert all(0 < line["ratio"] <= line["larger"] for line in found)


def test_cases_that_do_not_exist_are_refused() -> None:
    done = run("run.py", "--cases", "A,Z")

    assert done.returncode == 2
    assert "--cases must be some of A,B,C,D,E,F,G,patches; got Z" in done.stderr


def test_a_table_needs_its_markers(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing\n")
    (tmp_path / "found.json").write_text(json.dumps({"cases": []} | dict.fromkeys(("date", "commit"), "x") | MACHINE))

    done = run("table.py", tmp_path / "found.json", tmp_path / "README.md")

    assert done.returncode == 1
    assert "README.md must have the lines <!-- benchmarks:begin --> and <!-- benchmarks:end -->." in done.stderr


MACHINE = {
    "changed": False,
    "processor": "x",
    "python": "3.11",
    "versions": {"numpy": "2", "scikit-learn": "1"},
    "limits": {
        "cores": 2,
        "dgemm_gflops": {"2": 1.0},
        "sgemm_gflops": {"2": 1.0},
        "exp_float64_nanoseconds": 1.0,
        "copy_gb_per_second": 1.0,
        "first_touch_seconds_per_gib": 1.0,
    },
}


@pytest.mark.parametrize(
    ("seconds", "met"),
    [({"daskgmm": [1.0, 1.2, 1.1], "onedal": [1.3, 1.4, 1.3]}, True), ({"daskgmm": [1.0], "onedal": [1.1]}, False)],
)
def test_targets_are_ratios_of_medians(
    seconds: dict[str, list[float]], met: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    targets = importlib.import_module("targets")
    record = {
        "case": "A", "dtype": "float64", "n_rows": 1000, "n_features": 2, "n_components": 8, "rates": True,
        "gemm_gflops": 100.0, "rounds": seconds, "agreement": {},
    }  # fmt: skip
    record["summary"] = targets.summary(record)

    found = {target["what"]: target for target in targets.targets([record])}

    target = found["float64 A: times as fast as onedal"]
    assert target["value"] == pytest.approx(1.3 / 1.1 if met else 1.1)
    assert target["met"] is met
    assert found["float64 B: times as fast as onedal"]["met"] is None
    assert record["summary"]["rate"] == pytest.approx(4 * 1000 * 8 * 4 / record["summary"]["seconds"]["daskgmm"] / 1e11)
