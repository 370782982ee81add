"""Where progress, results and options are kept: --checkpoint, --result, --accept-not-converged, --config."""

import json
import os
import pty
import re
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from daskgmm import GaussianMixture
from daskgmm.cli.commands import gmm
from tests.groups import two_groups
from tests.test_cli import call, command, run, strict

QUICK = ("-k", 3, "--restarts", 1, "--no-escape")


# -- --checkpoint ------------------------------------------------------------------------------------------------


def killed_after(number: int, arguments: list[str], folder: Path) -> None:
    """Run a fit in a folder, and kill it when it has told of this pass."""
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stderr is not None
        assert any(f"pass   {number}" in line for line in process.stderr)
        process.kill()


def test_a_requeue_in_a_new_folder_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    """Each try has a working folder of its own, as with Nextflow and Kubernetes; the checkpoint is on another disk."""
    fit = ("fit", two_groups(tmp_path / "rows.zarr", 60_000), "-k", 8, "-o", "m.zarr", "--tol", 0, "--max-iter", 12)
    options = ("--restarts", 1, "--no-escape", "--start-rows", 2000, "--checkpoint", tmp_path / "kept")
    arguments = command(*fit, *options)
    tries = [tmp_path / "try-1", tmp_path / "try-2"]
    for folder in tries:
        folder.mkdir()
    call(*fit[:4], "-o", tmp_path / "undisturbed.zarr", *fit[6:], *options[:5], code=3)
    killed_after(4, arguments, tries[0])
    assert os.listdir(tries[0]) == []
    shutil.rmtree(tries[0])
    again = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=100, cwd=tries[1])
    assert again.returncode == 3, again.stderr
    assert f"Going on from {tmp_path}/kept, after pass " in again.stderr
    assert "pass   1" not in again.stderr
    checksums = {
        strict(call("inspect", f).stdout)["checksum"] for f in (tries[1] / "m.zarr", tmp_path / "undisturbed.zarr")
    }
    assert len(checksums) == 1
    assert os.listdir(tries[1]) == ["m.zarr"]


def test_a_checkpoint_elsewhere_of_select_and_predict(tmp_path: Path, small_store: Path) -> None:
    for arguments in (
        ("select", small_store, "-k", "1:2", "-o", tmp_path / "m.zarr"),
        ("predict", tmp_path / "m.zarr", small_store, "-o", tmp_path / "labels.zarr"),
    ):
        call(*arguments, "--checkpoint", tmp_path / "kept")
        assert not list((tmp_path / "kept").glob("manifest*"))
        assert strict(call(*arguments, "--checkpoint", tmp_path / "kept").stdout)["skipped"] is True


def test_where_a_checkpoint_may_not_be(tmp_path: Path, small_store: Path) -> None:
    def said(place: Path | str, code: int, output: Path = tmp_path / "m.zarr") -> str:
        done = call("fit", small_store, *QUICK, "-o", output, "--checkpoint", place, code=code)
        assert "pass   1" not in done.stderr
        return done.stderr

    assert "--checkpoint must lie outside of INPUT" in said(small_store / "c", 64)
    assert "--checkpoint must lie outside of --output" in said(tmp_path / "m.zarr", 64)
    assert "--output must lie outside of --checkpoint" in said(tmp_path, 64, tmp_path / "m")
    assert f"Make it: mkdir -p {tmp_path}/none" in said(tmp_path / "none" / "kept", 73)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("")
    assert "the checkpoint's place must be free" in said(tmp_path / "mine", 73)
    (tmp_path / "file").write_text("")
    assert "the checkpoint's place must be free" in said(tmp_path / "file", 73)


# -- --result, stdout --------------------------------------------------------------------------------------------


def test_a_result_is_one_line_and_in_a_file(tmp_path: Path, small_store: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text("of another night")
    assert "--components" in call("fit", small_store, "-o", tmp_path / "m.zarr", "--result", file, code=64).stderr
    assert file.read_text() == "of another night", "nothing was begun"
    missing = call("fit", tmp_path / "none.zarr", *QUICK, "-o", tmp_path / "m.zarr", "--result", file, code=66)
    assert missing.stdout == ""
    assert not file.exists(), "nobody takes it for tonight's"
    done = run("fit", small_store, *QUICK, "-o", tmp_path / "m.zarr", "--result", file)
    assert done.stdout.count("\n") == 1
    assert strict(done.stdout) == strict(file.read_text())
    again = call("fit", small_store, *QUICK, "-o", tmp_path / "m.zarr", "--result", file)
    assert strict(file.read_text()) == strict(again.stdout) == {**strict(done.stdout), "skipped": True}
    assert strict(call("inspect", tmp_path / "m.zarr", "--result", file).stdout)["command"] == "inspect"
    assert strict(file.read_text())["command"] == "inspect"


def test_a_result_on_a_terminal_is_for_people(tmp_path: Path, small_store: Path) -> None:
    call("fit", small_store, *QUICK, "-o", tmp_path / "m.zarr")
    ours, theirs = pty.openpty()
    subprocess.run(command("inspect", tmp_path / "m.zarr"), stdout=theirs, stderr=subprocess.DEVNULL, check=True)
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        assert terminal.read(40).split(b"\r\n")[:2] == [b"{", b'  "command": "inspect",']


def test_where_a_result_may_not_be(tmp_path: Path, small_store: Path) -> None:
    def said(file: Path | str, code: int) -> str:
        return call("fit", small_store, *QUICK, "-o", tmp_path / "m.json", "--result", file, code=code).stderr

    assert "--result must be a path that ends with .json" in said(tmp_path / "result.txt", 64)
    assert "--result must be a path that ends with .json" in said("s3://bucket/result.json", 64)
    assert "--result must lie outside of --output" in said(tmp_path / "m.json", 64)
    assert "--result must lie outside of INPUT" in said(small_store / "zarr.json", 64)
    assert (small_store / "zarr.json").exists()
    assert "The folder of --result must exist" in said(tmp_path / "none" / "result.json", 73)
    (tmp_path / "folder.json").mkdir()
    assert "--result must be a file" in said(tmp_path / "folder.json", 73)


def test_accepted_though_not_converged(tmp_path: Path, small_store: Path) -> None:
    short = (*QUICK, "--tol", 0, "--max-iter", 2)
    call("fit", small_store, *short, "-o", tmp_path / "m.zarr", code=3)
    found = strict(call("fit", small_store, *short, "-o", tmp_path / "m.zarr", "--accept-not-converged").stdout)
    assert (found["converged"], found["skipped"]) == (False, True)
    selected = ("select", small_store, "-k", "2:3", "--tol", 0, "--max-iter", 2, "-o", tmp_path / "s.zarr")
    assert strict(call(*selected, "--accept-not-converged").stdout)["converged"] is False
    call(*selected, code=3)


# -- --config ----------------------------------------------------------------------------------------------------

PRECEDENCE: list[tuple[str, dict[str, str], list[str], int]] = [
    ("components = 2", {}, [], 2),
    ("components = 2\n[fit]\ncomponents = 3", {}, [], 3),
    ("[fit]\ncomponents = 3\n[select]\ncomponents = '1:4'\ncriterion = 'aic'", {}, [], 3),
    ("components = 2\n[fit]\ncomponents = 3", {"DASKGMM_FIT_COMPONENTS": "4"}, [], 4),
    ("components = 2\n[fit]\ncomponents = 3", {"DASKGMM_FIT_COMPONENTS": "4"}, ["-k", "5"], 5),
    ("", {"DASKGMM_FIT_COMPONENTS": "4"}, [], 4),
    ("", {"DASKGMM_SELECT_COMPONENTS": "4", "DASKGMM_VERSION": "1"}, ["-k", "5"], 5),
    ("components = 2\nfolds = 3\noutput_dir = 'x'", {}, [], 2),
]


@pytest.mark.parametrize(("text", "environment", "typed", "expected"), PRECEDENCE)
def test_typed_over_environment_over_file(
    text: str, environment: dict[str, str], typed: list[str], expected: int, tmp_path: Path, small_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What is asked for is one of what four places say; keys of other commands are theirs."""
    monkeypatch.chdir(tmp_path)
    Path("job.toml").write_text("restarts = 1\nno_escape = true\nmax_iter = 1\noutput = 'm.zarr'\n" + text)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    call("fit", small_store, "--config", "job.toml", *typed, code=3)
    assert GaussianMixture.load("m.zarr").n_components == expected


def test_a_list_in_the_environment_is_one_value(
    tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(click would take each word for a value.)"""
    monkeypatch.setenv("DASKGMM_FIT_COLUMNS", "right ascension, dec")
    said = call("fit", small_store, *QUICK, "-o", tmp_path / "m.zarr", code=64).stderr
    assert "right ascension" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("memory_limt = '2GiB'", "options of daskgmm fit; got memory_limt in job.toml. Did you mean memory_limit?"),
        ("[fit]\nfolds = 3", "got [fit] folds in job.toml"),
        ("debug = true", "got debug in job.toml"),
        ("max_iter = 3\nmax-iter = 4", "--config must name an option once; got max_iter and max-iter in job.toml"),
        ("[fits]\nk = 1", "--config must have tables of commands alone; got [fits] in job.toml"),
    ],
)  # fmt: skip
def test_a_key_that_is_none(
    text: str, said: str, tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.toml").write_text(text)
    assert said in call("fit", small_store, *QUICK, "-o", "m.zarr", "--config", "job.toml", code=64).stderr


BAD_VALUES = {
    "fixed": '"means"', "output": '"none/m.zarr"', "result": '"none/r.json"', "metrics": '"none/m.prom"',
    "scheduler": '"ftp://none"', "local_directory": '"rows.npy/none"',
    **dict.fromkeys(("weights", "labels", "errors"), '"none.npy"'),
    **dict.fromkeys(("init_from", "checkpoint"), '"none/none.zarr"'),
    **dict.fromkeys(("array", "features", "columns", "weights_array", "labels_array", "security"), '"none"'),
    **dict.fromkeys(("tls_ca_file", "tls_cert", "tls_key"), '"none.pem"'),
}  # fmt: skip


def test_a_bad_value_of_a_file_names_it_and_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each option of each command: what is at fault may be far from what was typed."""
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", np.arange(12.0).reshape(6, 2))
    for name in ("fit", "select", "plan"):
        own = gmm.commands[name].make_context(name, [], resilient_parsing=True)
        # (Not those of places that other tests have registered.)
        options = [option for option in own.command.params if isinstance(option, click.Option)]
        # (That of a scheduler is waited for, the others are no value's.)
        keys = {option.opts[-1][2:]: option for option in options}
        for key in keys.keys() - {"help", "debug", "config", "scheduler-file"}:
            bad = BAD_VALUES.get(key.replace("-", "_"), "[[1]]" if keys[key].is_flag else '"=,"')
            # (What is at the top is for the options that must be there.)
            Path("job.toml").write_text(f"components = 2\noutput = 'n.zarr'\n[{name}]\n{key} = {bad}\n")
            done = CliRunner().invoke(gmm, [name, "rows.npy", "--config", "job.toml"])
            said = done.stderr.strip().splitlines()[-1]
            assert done.exit_code in (64, 66, 73), (key, said)
            flagged = f"(--{key} is set in job.toml: [{name}] {key}.)" in said
            assert flagged or f"[{name}] {key} in job.toml must be true or false; got {bad}" in said, (key, said)


def test_what_is_not_from_the_file_is_not_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", np.arange(12.0).reshape(6, 2))
    Path("job.toml").write_text("restarts = 0\ntol = 'x'\n[fit]\nfixed = 'means'")
    asked = ("fit", "rows.npy", "-k", "2", "-o", "m.zarr", "--config", "job.toml", "--tol", "1")
    assert "(--restarts is set in job.toml: restarts.)" in call(*asked, code=64).stderr
    assert "is set in" not in call(*asked, "--restarts", "-1", code=64).stderr
    said = call(*asked, "--restarts", "1", code=64).stderr
    assert "--fixed must be about given values" in said
    assert "(--fixed is set in job.toml: [fit] fixed.)" in said
    monkeypatch.setenv("DASKGMM_FIT_FIXED", "weights")
    said = call(*asked, "--restarts", "1", code=64).stderr
    assert "(--fixed is set in the environment: DASKGMM_FIT_FIXED.)" in said


@pytest.mark.parametrize("name", ["DASKGMM_FIT_RESTARTS", "DASKGMM_FIT_N_INIT"])
def test_the_environment_has_options_by_the_names_that_are_typed(
    name: str, tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(And by those of the library's arguments, which they had first.)"""
    monkeypatch.setenv(name, "0")
    said = call("fit", small_store, "-k", 2, "-o", tmp_path / "m.zarr", code=64).stderr
    assert f"(--restarts is set in the environment: {name}.)" in said


def test_the_file_that_is_shown_is_one(tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "".join(path.read_text() for path in (Path(__file__).parents[1] / "cluster").glob("*.md"))
    (shown,) = re.findall(r"(?m)^    memory_limit.*\n(?:(?:    .*)?\n)+", text)
    Path("job.toml").write_text(textwrap.dedent(shown).replace("s3://bucket/", ""))
    done = call("fit", small_store, "--config", "job.toml", "--max-iter", 1, "--restarts", 1, "--no-escape")
    found = strict(done.stdout)
    assert (found["components"], found["output"], found["converged"]) == (8, "model.zarr", False)
    assert found["memory_limit"] == 2 << 30
    assert Path("night.checkpoint/status.json").exists()
    assert strict(done.stderr.splitlines()[0])["level"] == "info"


@pytest.mark.parametrize("by", ["file", "environment"])
def test_the_format_of_the_log_may_be_set_once_for_all(
    by: str, tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed: tuple[Any, ...] = ()
    if by == "file":
        (tmp_path / "job.toml").write_text("log_format = 'json'")
        typed = ("--config", tmp_path / "job.toml")
    else:
        monkeypatch.setenv("DASKGMM_FIT_LOG_FORMAT", "json")
    lines = call("fit", small_store, *QUICK, "-o", tmp_path / "m.zarr", *typed).stderr.splitlines()
    assert all(json.loads(line)["level"] for line in lines)
