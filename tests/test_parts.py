"""A fit by parts: the bits of a fit on a Dask cluster, and each thing that does not belong together is named."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from distributed import Client

from daskgmm import GaussianMixture
from daskgmm.cli.commands import gmm
from daskgmm.cli.part_files import joined, read_part, whole
from daskgmm.cli.part_jobs import Waiting
from daskgmm.errors import DataError
from daskgmm.fitting.by_parts import Standing, go_on
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.measured import Measured
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.result import Fit
from daskgmm.sources import partition
from daskgmm.sources.opening import open_rows
from daskgmm.stores.encoding import encode
from daskgmm.stores.model_file import load_model
from daskgmm.stores.model_record import support_record
from daskgmm.stores.record_file import read_beside, write_record

ROWS_OF_A_CHUNK = 211


def call(*arguments: object, code: int = 0) -> Result:
    """What a command did in this process, which must end with this code."""
    done = CliRunner().invoke(gmm, [str(a) for a in arguments], prog_name="daskgmm")
    assert done.exit_code == code, (done.stderr, done.exception)
    return done


def result(*arguments: object, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call(*arguments, code=code).stdout)
    return found


@pytest.fixture(autouse=True)
def small_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every chunk a partition of its own."""
    monkeypatch.setattr(partition, "PARTITION_BYTES", 1)


def groups(n_rows: int, *, offset: float = 0.0) -> np.ndarray:
    """Rows of three groups in two features that overlap, (n_rows, 2), float64: EM takes some iterations."""
    draw = np.random.default_rng(7)
    centres = np.array([[0.0, 0.0], [2.5, 0.0], [0.0, 3.0]]) + offset
    return centres[draw.integers(3, size=n_rows)] + draw.standard_normal((n_rows, 2)) * [1.0, 0.6]


def stored(folder: Path, kind: str, X: np.ndarray, weights: np.ndarray | None = None) -> tuple[str, list[str]]:
    """Where rows are stored, in chunks of equal length, and the options that say which of them are weights."""
    if kind == "zarr":
        zarr.create_array(folder / "X.zarr", data=X, chunks=(ROWS_OF_A_CHUNK, 2))
        if weights is None:
            return str(folder / "X.zarr"), []
        zarr.create_array(folder / "w.zarr", data=weights, chunks=(400,))
        return str(folder / "X.zarr"), ["--weights", str(folder / "w.zarr")]
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"a": X[:, 0], "b": X[:, 1], "beside": np.arange(len(X))}
    columns |= {} if weights is None else {"w": weights}
    pq.write_table(pa.table(columns), folder / "X.parquet", row_group_size=ROWS_OF_A_CHUNK)
    chosen = ["--columns", "a,b"]
    return str(folder / "X.parquet"), chosen if weights is None else [*chosen, "--weights", "w"]


def sources(place: str, typed: Sequence[str]) -> tuple[Any, Any]:
    """What these options mean, as one opens it from Python."""
    given = dict(zip(typed[::2], typed[1::2], strict=True))
    columns = ("a", "b") if "--columns" in given else None
    weights = given.get("--weights")
    if weights is None:
        return open_rows(place, columns=columns), None
    found = open_rows(place, columns=(weights,)) if weights == "w" else open_rows(weights)
    return open_rows(place, columns=columns), found


def in_some_order(names: Sequence[object], order: random.Random, folder: Path) -> list[object]:
    """The files of parts in some order, some of them merged before."""
    shuffled = list(names)
    order.shuffle(shuffled)
    cut = len(shuffled) // 2
    if cut < 1:
        return shuffled
    merged = folder / f"merged{order.random()}"
    assert result("merge", *shuffled[:cut], "-o", merged)["complete"] is False
    return [*shuffled[cut:], merged]


def fitted_by_parts(folder: Path, place: str, n: int, *typed: object, code: int = 0) -> tuple[Path, dict[str, Any]]:
    """The model of a fit by n parts, in shuffled order, and the last result."""
    order = random.Random(n)
    surveys = [folder / f"S{i}" for i in range(1, n + 1)]
    for i, part in enumerate(surveys, 1):
        call("survey", place, "--part", f"{i}/{n}", "-o", part, *typed)
    model, turn = folder / "M0", 0
    found = result("start", *in_some_order(surveys, order, folder), "-o", model)
    while found["next"] is not None:
        parts = [folder / f"P{turn}-{i}" for i in range(1, n + 1)]
        for i, part in enumerate(parts, 1):
            call("stats", model, place, "--part", f"{i}/{n}", "-o", part)
        turn += 1
        given = in_some_order(parts, order, folder)
        done = CliRunner().invoke(gmm, ["mstep", *map(str, [model, *given, "-o", folder / f"M{turn}"])])
        assert done.exit_code in (3, code), (done.stderr, done.exception)
        found, model = json.loads(done.stdout), folder / f"M{turn}"
        assert done.exit_code == (3 if found["next"] else code)
    return model, found


def assert_same(model: Path, expected: Fit) -> None:
    """Bits of the mixture, and all that a fit tells."""
    p, record = load_model(model).parameters, load_model(model).record
    for name in ("weights", "means", "covariances", "precisions_cholesky"):
        np.testing.assert_array_equal(getattr(p, name), getattr(expected.parameters, name), strict=True)
    assert record["log_likelihood"] == expected.log_likelihood
    assert record["lower_bounds"] == list(expected.lower_bounds)
    assert record["n_passes"] == expected.n_passes
    assert record["unsupported"] == list(expected.spikes)
    assert {name: record[name] for name in ("support", "counts")} == support_record(expected.support)
    untimed = [
        [{k: v for k, v in one.items() if k != "seconds"} for one in each]
        for each in (record["history"], json.loads(json.dumps(expected.history)))
    ]
    assert untimed[0] == untimed[1]


@dataclass(frozen=True)
class Case:
    """A fit to be made by parts, as it is typed and as it is called."""

    kind: str
    n: int
    store: str = "zarr"
    weighted: bool = False
    offset: float = 0.0
    typed: tuple[str, ...] = ("--acceleration", "none")
    options: tuple[tuple[str, Any], ...] = (("acceleration", None),)


CASES = [
    Case("full", 7, weighted=True, offset=1e8),
    Case("full", 3, store="parquet", typed=(), options=()),
    Case("diag", 3, store="parquet", weighted=True),
    Case("tied", 3, typed=("--acceleration", "none", "--standardize"),
         options=(("acceleration", None), ("standardize", True))),
    Case("spherical", 1, store="parquet", offset=1e8),
    Case("spherical", 7),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.n}-{case.store}")
def test_bits_are_those_of_a_fit_on_a_cluster(case: Case, client: Client, tmp_path: Path) -> None:
    X = groups(3000, offset=case.offset)
    weights = np.random.default_rng(3).random(len(X)) + 0.5 if case.weighted else None
    weights = None if weights is None else weights / weights.mean()
    place, typed = stored(tmp_path, case.store, X, weights)
    shared = ["-k", "3", "--covariance", case.kind, "--restarts", "2", "--tol", "1e-4", "--seed", "5"]
    model, found = fitted_by_parts(tmp_path, place, case.n, *shared, *typed, *case.typed)
    rows, beside = sources(place, typed)
    options = FitOptions(n_components=3, covariance_type=case.kind, n_init=2, tol=1e-4, seed=5, **dict(case.options))
    expected = fit_mixture(rows, options, weights=beside)
    assert expected.n_iter > 1, "there is something to add up"
    assert_same(model, expected)
    assert found["converged"] is True
    assert found["mean_log_likelihood"] == expected.mean_log_likelihood


def test_from_the_start_that_it_found_a_fit_comes_to_the_same_bits(client: Client, tmp_path: Path) -> None:
    """And each model on the way is one: this is plain EM, from a mixture that is given."""
    place, _ = stored(tmp_path, "zarr", groups(3000))
    typed = ("-k", 3, "--acceleration", "none", "--restarts", 1, "--tol", 0, "--max-iter", 3)
    model, _ = fitted_by_parts(tmp_path, place, 3, *typed, code=3)
    begun = load_model(tmp_path / "M0").parameters
    for n_iter, found in ((3, model), (2, tmp_path / "M2")):
        options = FitOptions(n_components=3, acceleration=None, tol=0, max_iter=n_iter)
        expected = fit_mixture(open_rows(place), options, warm=(begun, -np.inf))
        for name in ("means", "covariances"):
            wanted = getattr(expected.parameters, name)
            np.testing.assert_array_equal(getattr(load_model(found).parameters, name), wanted, strict=True)
    assert GaussianMixture.load(tmp_path / "M2").n_iter_ == 2
    assert GaussianMixture.load(tmp_path / "M2").predict(groups(10)).shape == (10,)
    call("inspect", tmp_path / "M2", "--history")


@pytest.mark.parametrize("beside", ["deviations", "matrices", "one", "labels"])
def test_errors_and_labels_come_with_the_rows_of_each_part(beside: str, client: Client, tmp_path: Path) -> None:
    X, draw = groups(3000), np.random.default_rng(2)
    S = 0.05 * np.eye(2) + 0.02
    values: np.ndarray = {
        "deviations": draw.uniform(0.1, 0.5, (3000, 2)),
        "matrices": np.einsum("n,de->nde", draw.uniform(0.5, 1.5, 3000), S).reshape(3000, 4),
        "one": S,
        "labels": np.where(np.arange(3000) % 30 == 0, draw.integers(3, size=3000), -1),
    }[beside]
    np.save(tmp_path / "beside.npy", values)
    place, _ = stored(tmp_path, "zarr", X)
    flag = "--labels" if beside == "labels" else "--errors"
    shared = ["-k", "3", "--restarts", "2", "--tol", "1e-4", "--seed", "5", flag, str(tmp_path / "beside.npy")]
    model, _ = fitted_by_parts(tmp_path, place, 3, *shared)
    rows, options = open_rows(place), FitOptions(n_components=3, n_init=2, tol=1e-4, seed=5)
    column = open_rows(tmp_path / "beside.npy", argument="labels")
    given: dict[str, Any] = {"labels": column} if beside == "labels" else {"errors": Measured.of(values, rows)}
    expected = fit_mixture(rows, options, **given)
    assert expected.n_iter > 1, "there is something to add up"
    assert_same(model, expected)
    assert load_model(model).record["about"] == json.loads(json.dumps(expected.about)) != {}
    np.save(tmp_path / "beside.npy", values[::-1].copy())
    if beside == "one":  # (whose numbers are part of what is asked)
        np.save(tmp_path / "beside.npy", 2 * values)
    said = call("stats", tmp_path / "M0", place, "--part", "1/3", "-o", tmp_path / "P", code=65).stderr
    assert ("INPUT must be what" if beside == "one" else "INPUT must stay as it is while it is read") in said


def test_a_fit_that_ends_at_max_iter_says_so_with_code_3(tmp_path: Path) -> None:
    place, _ = stored(tmp_path, "zarr", groups(3000))
    model, found = fitted_by_parts(tmp_path, place, 2, "-k", 3, "--max-iter", 2, "--tol", 0, "--restarts", 1, code=3)
    assert (found["status"], found["converged"], found["n_iter"]) == ("max_iter", False, 2)
    said = call("stats", model, place, "--part", "1/2", "-o", tmp_path / "P", code=65).stderr
    assert "whose fit has ended. Use it as it is: predict, score and inspect take it." in said
    call("inspect", model)


# -- what does not belong together -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Begun:
    """A fit by three parts after its first M-step, in a folder of its own."""

    folder: Path
    place: str

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def all(self, letter: str) -> list[Path]:
        return [self / f"{letter}{i}" for i in (1, 2, 3)]

    def survey(self, *typed: object, part: str = "1/3", to: str = "new", code: int = 0) -> Result:
        shared = ("-k", 3, "--restarts", 1)
        return call("survey", self.place, *shared, "--part", part, "-o", self / to, *typed, code=code)

    def stats(self, model: str, *typed: object, part: str = "1/3", to: str = "new", code: int = 0) -> Result:
        return call("stats", self / model, self.place, "--part", part, "-o", self / to, *typed, code=code)

    def said_of(self, command: str, *names: str, code: int = 65) -> str:
        """What a command says of files of the folder, without the folder; it writes nothing."""
        said = call(command, *(self / name for name in names), "-o", self / "out", code=code).stderr
        assert not os.path.lexists(self / "out")
        return said.replace(f"{self.folder}/", "")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Begun:
    folder = tmp_path_factory.mktemp("parts")
    place, _ = stored(folder, "zarr", groups(1500))
    begun = Begun(folder, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "PARTITION_BYTES", 1)
        for i in (1, 2, 3):
            begun.survey(part=f"{i}/3", to=f"S{i}")
        call("start", *begun.all("S"), "-o", folder / "M0")
        for i in (1, 2, 3):
            begun.stats("M0", part=f"{i}/3", to=f"P{i}")
        call("mstep", folder / "M0", *begun.all("P"), "-o", folder / "M1", code=3)
    return begun


@pytest.fixture
def begun(made: Begun, tmp_path: Path) -> Begun:
    """The same, of which a test may change what it likes but the rows."""
    for letter in ("S", "P"):
        for path in made.all(letter):
            shutil.copy(path, tmp_path)
    for name in ("M0", "M1"):
        shutil.copytree(made / name, tmp_path / name)
    return Begun(tmp_path, made.place)


def test_what_is_missing_is_named_and_can_be_made(begun: Begun) -> None:
    said = begun.said_of("start", "S1", "S3")
    assert "PARTS must be all 3 of the pass; got 2 without part 2. Make what is missing, with --part 2/3, and" in said
    begun.survey(part="2/3", to="again")
    call("start", begun / "S1", begun / "again", begun / "S3", "-o", begun / "out")
    found, expected = (load_model(begun / name).parameters.means for name in ("out", "M0"))
    np.testing.assert_array_equal(found, expected)
    shutil.rmtree(begun / "out")
    assert "got 1 without parts 1 to 2. Make what is missing, with --part I/3" in begun.said_of("mstep", "M0", "P3")


@pytest.mark.parametrize("command", ["merge", "start"])
def test_a_part_that_is_there_twice_is_named(begun: Begun, command: str) -> None:
    call("merge", begun / "S1", begun / "S2", "-o", begun / "S12")
    said = begun.said_of(command, "S3", "S12", "S2")
    assert "PARTS must be there once each; got part 2 of 3 twice, in S12 and in S2. Leave one of them out." in said


def test_parts_of_other_numbers_are_named(begun: Begun) -> None:
    begun.survey(part="2/4", to="S2of4")
    said = begun.said_of("merge", "S1", "S2of4")
    assert "PARTS must be of as many parts as the others; got S2of4, of 4 parts, and others, of 3." in said


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("--seed", 1), "--seed is 1 there, 0 in S1"),
        (("-k", 2), "--components is 2 there, 3 in S1"),
        (("--standardize",), "--standardize is true there, false in S1"),
        (("--acceleration", "none"), "--acceleration is none there, squarem in S1"),
    ],
)
def test_parts_of_another_fit_are_named(begun: Begun, typed: tuple[object, ...], told: str) -> None:
    begun.survey(*typed, part="2/3", to="other")
    said = begun.said_of("start", "S1", "other", "S3")
    assert f"PARTS must be of one pass of one fit, that of S1; got other, where {told}" in said


def test_parts_of_another_input_are_named(begun: Begun) -> None:
    other, _ = stored(begun.folder, "zarr", groups(1500, offset=1.0))
    call("survey", other, "-k", 3, "--restarts", 1, "--part", "2/3", "-o", begun / "other")
    said = begun.said_of("merge", "S1", "other")
    assert re.search(r"got other, where location of INPUT is X.zarr there, \S*X.zarr in S1", said)
    said = call("stats", begun / "M0", other, "--part", "1/3", "-o", begun / "out", code=65).stderr
    assert re.search(r"INPUT must be what \S*M0 is fitted to; got location of INPUT is .* Name that input.", said)


def test_parts_of_another_model_or_pass_are_named(begun: Begun) -> None:
    said = begun.said_of("mstep", "M1", "P1", "P2", "P3")
    assert "that of M1; got P1, where the pass is pass 2 (em) there, pass 3 (em) in M1." in said
    said = begun.said_of("mstep", "M0", "S1", "P2")
    assert "got S1, where the pass is pass 1 (survey) there, pass 2 (em) in M0." in said
    said = begun.said_of("start", "P1", "P2")
    assert "PARTS must be of a survey; got P1, of pass 2 (em). Name what daskgmm survey wrote." in said


def test_a_part_of_another_mixture_in_the_same_pass_is_named(begun: Begun) -> None:
    """Of the same rows, options and pass, but from a start that was another one."""
    checksum = load_model(begun / "M0").record["beside"]["waiting"]
    waiting = read_beside(str(begun / "M0"), "waiting", checksum, Waiting, argument="MODEL", what="one")
    (log_weights, log_noise, means, *others), *_ = waiting.awaited.plans
    awaited = replace(waiting.awaited, plans=((log_weights, log_noise, means + 1.0, *others),))
    other = replace(read_part(str(begun / "P2")), key=awaited.key(waiting.asked))
    write_record(str(begun / "other"), other)
    said = begun.said_of("mstep", "M0", "P1", "other", "P3")
    assert "got other, where the mixture of the pass is another one." in said


def test_parts_of_several_machines_are_told(begun: Begun) -> None:
    part = read_part(str(begun / "P2"))
    elsewhere = {**part.by[0], "blas": "another one"}
    write_record(str(begun / "P2"), replace(part, by=(elsewhere,)))
    said = call("mstep", begun / "M0", *begun.all("P"), "-o", begun / "out", code=3).stderr
    assert re.search(r"warning: Parts were computed by blas .* and another one: last bits may differ", said)


def test_sums_in_other_forms_than_this_machine_would_take_are_named(begun: Begun) -> None:
    """Whether a component is computed by products is decided by numbers, whose last bits are a processor's own."""
    checksums = load_model(begun / "M0").record["beside"]
    how = {"argument": "MODEL", "what": "one"}
    waiting = read_beside(str(begun / "M0"), "waiting", checksums["waiting"], Waiting, **how)
    standing = read_beside(str(begun / "M0"), "standing", checksums["standing"], Standing, **how)
    found = whole(joined([str(path) for path in begun.all("P")]), waiting.awaited)
    assert go_on(waiting.asked, standing, found, place="M0").n_passes == 2
    with pytest.raises(DataError, match="The sums of a pass must have the forms that this machine would take; got oth"):
        go_on(waiting.asked, standing, replace(found, forms="others"), place="M0")


def test_what_is_no_part_or_is_damaged_is_named(begun: Begun) -> None:
    (begun / "text").write_text("no part")
    written = "PARTS must name files that daskgmm survey, stats or merge wrote; got"
    assert f"{written} another file, text." in begun.said_of("merge", "text")
    assert f"{written} No such file or directory for nothing." in begun.said_of("merge", "nothing", code=66)
    content = bytearray((begun / "P1").read_bytes())
    content[-3] ^= 1
    (begun / "P1").write_bytes(content)
    said = begun.said_of("mstep", "M0", "P1", "P2", "P3")
    assert "PARTS must be whole; got a damaged file, P1. Remove it, and run what writes it." in said
    assert "--output must be free, or hold a whole part" in begun.stats("M0", to="P1", code=73).stderr
    begun.stats("M0", "--force", to="P1")
    call("mstep", begun / "M0", *begun.all("P"), "-o", begun / "out", code=3)


def test_a_model_that_no_fit_by_parts_wrote_is_named(begun: Begun) -> None:
    GaussianMixture(n_components=2).fit(groups(100)).save(begun / "other")
    said = begun.stats("other", code=65).stderr
    assert "MODEL must be a model that daskgmm start or mstep wrote, and whose fit goes on; got" in said
    assert "another model. Begin with daskgmm survey." in said
    chunk = begun / "M0" / "waiting" / "c" / "0"
    chunk.write_bytes(bytes(reversed(chunk.read_bytes())))
    assert "MODEL must be whole; got a damaged file" in begun.stats("M0", code=65).stderr


def test_options_that_cannot_be_are_refused_before_anything_is_read(begun: Begun) -> None:
    said = begun.survey(part="1/9", code=64).stderr
    assert "--part must be of no more parts than the rows have partitions, 8; got 9 parts. Take 8, or fewer." in said
    for wrong in ("0/3", "4/3", "3", "a/b", "-1/3"):
        assert "is no part. Write for example 3/40" in begun.survey(part=wrong, code=64).stderr
    said = begun.survey("--init", "k-means||", code=64).stderr
    assert "--init must be a start on the sample, where a fit goes by parts; got k-means||." in said
    said = begun.survey("--memory-limit", "10MiB", code=65).stderr
    needed = re.search(r"--memory-limit must be at least the (\d+) MiB that a part takes; got 10 MiB", said)
    assert needed
    begun.survey("--memory-limit", f"{int(needed[1]) + 1}MiB", to="enough")
    said = call("survey", begun.place, "-k", 3, "--part", "1/3", "-o", "s3://bucket/S1", code=73).stderr
    assert "--output must be a path; got s3://bucket/S1." in said


def test_rows_that_change_between_the_passes_are_named(tmp_path: Path) -> None:
    own = Begun(tmp_path, stored(tmp_path, "zarr", groups(1500))[0])
    for i in (1, 2):
        own.survey(part=f"{i}/2", to=f"S{i}")
    call("start", own / "S1", own / "S2", "-o", own / "M0")
    zarr.open_array(own.place)[-1] = 3.0
    own.stats("M0", part="1/2", to="P1")
    said = own.stats("M0", part="2/2", to="P2", code=65).stderr
    assert "INPUT must stay as it is while it is read; got other files for rows 1477 to 1500" in said
    assert "or begin again with daskgmm survey, for other outputs." in said
    assert not os.path.lexists(own / "P2")
    for i in (1, 2):
        own.survey(part=f"{i}/2", to=f"again{i}")
    call("start", own / "again1", own / "again2", "-o", own / "N0")
    own.stats("N0", part="2/2", to="P2")


def test_spoiled_rows_are_said_by_whoever_has_all_parts(tmp_path: Path) -> None:
    X = groups(1500)
    X[700, 1] = np.nan
    own = Begun(tmp_path, stored(tmp_path, "zarr", X)[0])
    for how in ("error", "drop"):
        for i in (1, 2):
            own.survey("--non-finite", how, part=f"{i}/2", to=f"{how}{i}")
    said = own.said_of("start", "error2", "error1")
    assert "INPUT must be finite; got 1 rows with NaN or infinity" in said
    assert "row 700. Drop them with --non-finite drop" in said
    done = call("start", own / "drop2", own / "drop1", "-o", own / "M0")
    assert "1 of 1,500 rows are left out, for a NaN or an infinity: feature 2 in 1." in done.stderr
    own.stats("M0", part="1/1")
    assert result("mstep", own / "M0", own / "new", "-o", own / "M1", code=3)["n_iter"] == 1


# -- again ---------------------------------------------------------------------------------------------------------


def test_what_is_complete_is_not_done_again(begun: Begun) -> None:
    before = {name: os.stat(begun / name).st_mtime_ns for name in os.listdir(begun.folder)}
    assert json.loads(begun.survey(part="2/3", to="S2").stdout)["skipped"] is True
    assert json.loads(begun.stats("M0", part="3/3", to="P3").stdout)["skipped"] is True
    assert result("start", *reversed(begun.all("S")), "-o", begun / "M0")["skipped"] is True
    parts = begun.all("P")
    assert result("mstep", begun / "M0", *reversed(parts), "-o", begun / "M1", code=3)["skipped"] is True
    assert {name: os.stat(begun / name).st_mtime_ns for name in before} == before
    merged = result("merge", *parts, "-o", begun / "P")
    assert (merged["skipped"], merged["complete"]) == (False, True)
    assert result("merge", *reversed(parts), "-o", begun / "P")["skipped"] is True
    assert [(each.begin, each.end) for each in read_part(str(begun / "P")).subtrees] == [(0, 8)]
    assert result("mstep", begun / "M0", begun / "P", "-o", begun / "M1", code=3)["skipped"] is True


def test_what_stands_at_an_output_is_not_replaced(begun: Begun) -> None:
    said = begun.survey(part="1/3", to="S2", code=73).stderr
    assert "where the part is part 2 of 3 there, part 1 of 3 now. Use --force to replace it" in said
    said = begun.survey("--seed", 4, part="2/3", to="S2", code=73).stderr
    assert "where --seed is 0 there, 4 now." in said
    begun.survey("--seed", 4, "--force", part="2/3", to="S2")
    assert read_part(str(begun / "S2")).asked.options.seed == 4
    (begun / "text").write_text("mine")
    said = begun.survey("--force", to="text", code=73).stderr
    assert "--output must be free, or hold a part; got something else at" in said
    assert (begun / "text").read_text() == "mine"
    said = call("mstep", begun / "M0", *begun.all("P"), "-o", begun / "M0", code=64).stderr
    assert "--output must lie outside of MODEL" in said
    said = call("merge", begun / "P1", begun / "P2", "-o", begun / "P1", code=73).stderr
    assert "--output must be none of PARTS" in said
    shutil.copytree(begun / "M1", begun / "M2")
    for i in (1, 2, 3):
        begun.stats("M1", part=f"{i}/3", to=f"Q{i}")
    said = call("mstep", begun / "M1", *begun.all("Q"), "-o", begun / "M2", code=73).stderr
    assert "a model after another pass. Use --force to replace it" in said
    assert result("mstep", begun / "M1", *begun.all("Q"), "-o", begun / "M2", "--force", code=3)["n_passes"] == 3


# -- processes -----------------------------------------------------------------------------------------------------


def process(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "daskgmm", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(*arguments: object) -> dict[str, Any]:
    """The result of a command in a process of its own, which took no more memory than it had stated."""
    with process(*arguments) as done:
        out, err = done.communicate(timeout=120)
    assert done.returncode == 0, err
    found: dict[str, Any] = json.loads(out)
    assert found["peak_bytes"] <= found["stated_peak_bytes"]
    return found


def test_a_part_that_is_killed_midway_leaves_nothing_and_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # (processes have partitions of 64 MiB)
    place, rows = tmp_path / "X.zarr", np.random.default_rng(2).standard_normal((20_000, 32))
    array = zarr.create_array(place, shape=(240_000, 32), chunks=(20_000, 32), dtype="f8", compressors=None)
    for begin in range(0, 240_000, 20_000):
        array[begin : begin + 20_000] = rows + begin // 20_000 % 3
    shared = ("-k", 4, "--start-rows", 2000, "--restarts", 1, "--no-escape")
    finished("survey", place, *shared, "--part", "1/1", "-o", tmp_path / "S")
    call("start", tmp_path / "S", "-o", tmp_path / "M0")
    part = ("stats", tmp_path / "M0", place, "--part", "1/1", "-o")
    with process(*part, tmp_path / "P") as killed:
        assert killed.stderr is not None
        assert "Part 1 of 1 of pass 2 (em): rows 0 to" in killed.stderr.readline()
        killed.send_signal(signal.SIGKILL)
        killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert [name for name in os.listdir(tmp_path) if name.startswith("P")] == []
    assert finished(*part, tmp_path / "P")["skipped"] is False
    call(*part, tmp_path / "undisturbed")
    found, expected = (read_part(str(tmp_path / name)).subtrees for name in ("P", "undisturbed"))
    assert encode(found) == encode(expected)
