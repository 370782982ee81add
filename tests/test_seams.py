"""Seams: what a person adds lands in one place. A toy of each kind is defined here, and works through the public door.

The package is not touched, and knows nothing of these toys. Each works in this process, and on a cluster of processes.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import click
import dask
import dask.array
import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from distributed import Client
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from daskgmm import Family, GaussianMixture, Kernel, Prior, Reader, Source, register_family, register_source, select
from daskgmm.cli.commands import gmm
from daskgmm.cli.fit_options import fit_options
from daskgmm.cli.group import Commands, SectionCommand
from daskgmm.cli.options import log_options
from daskgmm.cli.terminal import command_line_words
from daskgmm.errors import (
    ClusterError,
    DaskgmmError,
    DaskgmmWarning,
    DataError,
    FitWarning,
    InputMissingError,
    MemoryLimitError,
    OptionError,
    UndefinedError,
    verbatim,
)
from daskgmm.fitting.events import PassDone
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.need import fit_need
from daskgmm.fitting.option import Option, declare, declared
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.result import Fit
from daskgmm.fitting.stopping import Pass, StoppingRule, Verdict
from daskgmm.kernels.block import Block, block_length
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.folds import Fold
from daskgmm.kernels.loops import can_compile
from daskgmm.kernels.plan import Plan, make_plan
from daskgmm.kernels.tile import Tile
from daskgmm.mixture import family as families_of_the_package
from daskgmm.mixture import record as records
from daskgmm.mixture.acceleration import Accelerator, Advance, Move
from daskgmm.mixture.family import family_called
from daskgmm.mixture.moments import Moments
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.shapes.full import FULL
from daskgmm.mixture.shapes.shape import Shape
from daskgmm.passes.current import running_by
from daskgmm.passes.executor import Executor
from daskgmm.passes.local_executor import LocalExecutor
from daskgmm.passes.memory import peak_task_bytes
from daskgmm.passes.rows import Rows
from daskgmm.pictures.comparison import selection_lines
from daskgmm.places.machines import Machines
from daskgmm.places.place import Place, register_place
from daskgmm.sources import failures, heap, partition
from daskgmm.sources.opening import open_rows
from daskgmm.stores.checkpoint import Checkpoint

SEED = 20261127
Floats = NDArray[np.float64]


@pytest.fixture(autouse=True)
def several_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut stored rows finely: of one partition passes run in this process, whatever the place."""
    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 8192)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Rows of three Gaussians in two features, (3000, 2), float64."""
    random = np.random.default_rng(SEED)
    centres = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    return centres[random.integers(3, size=3000)] + random.standard_normal((3000, 2))


# -- options: one declaration gives the estimator's check, the command line, the file of options and the message -------
@dataclass(frozen=True)
class ToyOptions(FitOptions):
    """One option more; nothing else in this file says what it may be."""

    toy_share: float = declare(
        0.5, Option(help="How much of a toy.", flag="--toy", metavar="SHARE", number=float, least=0, most=1)
    )
    toy_mood: str | None = declare(
        None, Option(help="Its mood.", flag="--mood", choices=(None, "glad"), words={None: "none"})
    )


class ToyMixture(GaussianMixture, options=ToyOptions):
    """An estimator with these options."""


@click.command(cls=SectionCommand)
@partial(fit_options, of=ToyOptions)
@log_options
def play(*, how: dict[str, Any]) -> dict[str, Any]:
    """Say what was typed."""
    options = ToyOptions(**how)
    return {"command": "play", "share": options.toy_share, "mood": options.toy_mood, "tol": options.tol}


program = Commands("toys")
program.add_command(play)


def test_an_option_is_a_parameter_of_the_estimator_with_its_default_and_check(rows: np.ndarray) -> None:
    mixture = ToyMixture(3, toy_share=0.25, random_state=0, n_init=1)
    assert (mixture.toy_share, mixture.toy_mood) == (0.25, None)
    assert clone(mixture).get_params() == mixture.get_params()
    assert "toy_share=0.25" in repr(mixture)
    assert (mixture.fit(rows).weights_ > 0).all()
    assert mixture._fit_options["toy_share"] == 0.25
    for value in (2, -0.1, "half", True, None):
        with pytest.raises(OptionError, match=r"toy_share must be a finite number of at least 0 and at most 1; got "):
            ToyMixture(3, toy_share=value).fit(rows)
    with pytest.raises(OptionError, match=r"toy_mood must be one of None, glad; got 'sad'\."):
        ToyMixture(3, toy_mood="sad").fit(rows)
    with pytest.raises(TypeError, match=r"ToyMixture\(\) got an unexpected keyword argument 'toys'"):
        ToyMixture(3, toys=1)
    with pytest.raises(TypeError, match="toy_share"):
        GaussianMixture(3, toy_share=0.25)


def test_an_option_is_one_of_the_command_line_and_of_a_file(tmp_path: Path) -> None:
    def said(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(program, ["play", *arguments])
        assert done.exit_code == code, done.output
        return " ".join(done.output.split())

    def call(*arguments: str) -> Any:
        return json.loads(said(*arguments))

    assert call() == {"command": "play", "share": 0.5, "mood": None, "tol": 1e-3}
    assert call("--toy", "0.25", "--mood", "glad")["share"] == 0.25
    assert "How much of a toy. [default: 0.5; 0<=x<=1.0]" in said("--help")
    assert "Invalid value for '--toy': 2.0 is not in the range 0<=x<=1" in said("--toy", "2", code=64)
    file = tmp_path / "toys.toml"
    file.write_text('toy = 0.75\ntol = 1e-5\n[play]\nmood = "glad"\n')
    assert call("--config", str(file)) == {"command": "play", "share": 0.75, "mood": "glad", "tol": 1e-5}
    assert call("--config", str(file), "--toy", "0.5")["share"] == 0.5
    file.write_text("toys = 1\n")
    assert "--config must name options of daskgmm play; got toys in" in said("--config", str(file), code=64)
    file.write_text("[fit]\ncomponents = 3\n")
    assert "tables of commands alone; got [fit] in" in said("--config", str(file), code=64)
    file.write_text("toy = 3\n")
    assert "3.0 is not in the range" in said("--config", str(file), code=64)


def test_a_file_holds_what_is_for_other_commands_too(tmp_path: Path) -> None:
    file = tmp_path / "o.toml"
    file.write_text("restarts = 1\nfolds = 5\n[fit]\ncomponents = 3\n[select]\ncriterion = 'aic'\n")
    rows, model = tmp_path / "rows.npy", tmp_path / "m.zarr"
    np.save(rows, np.random.default_rng(SEED).standard_normal((400, 2)))
    done = CliRunner().invoke(gmm, ["fit", str(rows), "-o", str(model), "--config", str(file)])
    assert done.exit_code in (0, 3), done.output
    loaded = GaussianMixture.load(model)
    assert (loaded.n_components, loaded.n_init) == (3, 1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("components = 2.5", "components"),
        ("components = true", "components in .* must be a text or a number; got True"),
        ("components = 12:30:00", "components in .* must be a text, a number, or a list of these; got 12:30:00"),
        ("components.x = 1", r"components in .* must be a text, a number, or a list of these; got \{'x': 1\}"),
        ("seed = 2026-01-01", "seed in .* must be a text, a number, or a list of these; got 2026-01-01"),
        ("no-escape = 1", r"\[fit\] no-escape in .* must be true or false; got 1"),
        ("weights = true", "weights in .* must be a text or a number; got True"),
    ],
)
def test_a_value_of_a_file_is_one_that_could_be_typed(line: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "o.toml"
    file.write_text(f"[fit]\n{line}\n")
    np.save(tmp_path / "X.npy", np.zeros((9, 2)))
    arguments = ["fit", str(tmp_path / "X.npy"), "-o", str(tmp_path / "m.zarr"), "--config", str(file)]
    done = CliRunner().invoke(gmm, arguments)
    assert done.exit_code == 64, done.output
    assert re.search(said, " ".join(done.output.split()))


def test_a_file_may_begin_with_a_mark_and_say_true_for_yes(tmp_path: Path) -> None:
    file = tmp_path / "o.toml"
    file.write_text("\ufeffcache = true\ncomponents = 1\n", encoding="utf-8")
    np.save(tmp_path / "X.npy", np.random.default_rng(0).standard_normal((99, 2)))
    done = CliRunner().invoke(gmm, ["fit", str(tmp_path / "X.npy"), "-o", str(tmp_path / "m"), "--config", str(file)])
    assert done.exit_code == 0, done.output
    assert GaussianMixture.load(tmp_path / "m").n_components == 1


def test_each_option_is_described_where_people_look() -> None:
    text = GaussianMixture.__doc__ or ""
    named = [name for name, (_, option) in declared(FitOptions).items() if option.of_estimator]
    assert [name for name in named if not re.search(rf"\b{name} : ", text)] == []


# -- stopping rules and accelerators -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class SomePasses(StoppingRule):
    """Ends after so many passes, whatever they gain."""

    left: int = 3

    def after(self, seen: Pass) -> tuple[StoppingRule, Verdict]:
        left = self.left - 1
        return SomePasses(left), Verdict.GO_ON if left else Verdict.STOP


@dataclass(frozen=True)
class AlwaysRejects(Accelerator):
    """Leaps nowhere after each EM step, and goes back: plain EM in twice the passes."""

    fallback: Parameters | None = None
    n_rejected: int = 0

    def advance(self, point: Move, objective: float, image: Parameters) -> Advance:
        if point.extrapolated:
            return self.reject(point)
        return Advance(replace(self, fallback=image), Move(image, extrapolated=True, step=2.0), accepted=True)

    def reject(self, point: Move) -> Advance:
        assert self.fallback is not None
        after = replace(self, n_rejected=self.n_rejected + 1)
        return Advance(after, Move(self.fallback, extrapolated=False, step=1.0), accepted=False)


def quietly_fitted(X: Any, **parameters: Any) -> GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(3, **({"random_state": 0, "n_init": 2, "tol": 1e-9, "max_iter": 12} | parameters)).fit(X)


def test_a_rule_ends_a_fit_after_three_passes(rows: np.ndarray) -> None:
    with pytest.warns(ConvergenceWarning, match="The stopping rule ended the fit before it converged"):
        found = GaussianMixture(3, random_state=0, n_init=2, tol=0, stopping=SomePasses()).fit(rows)
    assert (found.n_iter_, found.converged_) == (3, False)
    assert [r["status"] for r in found.history_ if r["what"] == "em"] == ["running", "running", "stopped"]
    assert found.lower_bounds_ == quietly_fitted(rows, tol=0).lower_bounds_[:3]


def test_an_accelerator_that_always_rejects_is_plain_em_in_twice_the_passes(rows: np.ndarray) -> None:
    start = {"weights_init": [0.3, 0.3, 0.4], "means_init": rows[:3], "precisions_init": [np.eye(2)] * 3, "tol": 0}
    plain = quietly_fitted(rows, acceleration=None, **start)
    found = quietly_fitted(rows, acceleration=AlwaysRejects(), **start | {"max_iter": 24})
    assert found.lower_bounds_ == plain.lower_bounds_
    accepted = [r["accepted"] for r in found.history_ if r["what"] == "em"]
    assert accepted == [True, False] * 12


TOYS: dict[str, dict[str, Any]] = {
    "rule": {"stopping": SomePasses(5)},
    "accelerator": {"acceleration": AlwaysRejects(), "max_iter": 10},
}


@pytest.mark.parametrize("toy", TOYS)
def test_rules_and_accelerators_work_on_a_cluster_and_in_a_selection(
    toy: str, rows: np.ndarray, tmp_path: Path, client: Client
) -> None:
    place = tmp_path / "rows.zarr"
    zarr.create_array(place, data=rows, chunks=(500, 2))
    found = quietly_fitted(place, **TOYS[toy])
    with running_by(LocalExecutor()):
        assert_array_equal(found.means_, quietly_fitted(place, **TOYS[toy]).means_)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = select(place, n_components=[2, 3], random_state=0, n_init=2, tol=1e-9, **{"max_iter": 12} | TOYS[toy])
    assert_array_equal(chosen.best_.means_, found.means_)
    found.save(tmp_path / "m.zarr")
    assert GaussianMixture.load(tmp_path / "m.zarr").get_params() == found.get_params()


@pytest.mark.parametrize("toy", TOYS)
def test_rules_and_accelerators_survive_a_checkpoint(toy: str, rows: np.ndarray, tmp_path: Path) -> None:
    place = tmp_path / "rows.zarr"
    zarr.create_array(place, data=rows, chunks=(500, 2))
    options = FitOptions(3, n_init=2, tol=0, **TOYS[toy])
    for ends_after in (3, 4):
        undisturbed, again = went_on(place, options, tmp_path, ends_after=ends_after)
        assert again.lower_bounds == undisturbed.lower_bounds
        assert (again.status, again.n_passes) == (undisturbed.status, undisturbed.n_passes)
        assert_array_equal(again.parameters.means, undisturbed.parameters.means)


def went_on(place: Path, options: FitOptions, folder: Path, *, ends_after: int) -> tuple[Fit, Fit]:
    """Return a fit, and one that was cut short after so many passes and went on from its checkpoint."""

    def fit(checkpoint: Checkpoint | None, ends_after: int = 99) -> Fit:
        def listener(event: PassDone) -> None:
            if event.what == "em" and event.number > ends_after:
                raise KeyboardInterrupt

        return fit_mixture(open_rows(place), options, listener=listener, checkpoint=checkpoint)

    checkpoint = Checkpoint.at(str(folder / f"c{ends_after}"), every=0)
    checkpoint.begin({"of": "a toy"})
    with pytest.raises(KeyboardInterrupt):
        fit(checkpoint, ends_after)
    return fit(None), fit(Checkpoint.at(str(folder / f"c{ends_after}"), every=0))


def test_what_is_no_rule_and_no_accelerator_is_refused(rows: np.ndarray) -> None:
    with pytest.raises(OptionError, match=r"stopping must be None or a StoppingRule; got 3\. Leave it out for tol\."):
        GaussianMixture(3, stopping=3).fit(rows)
    with pytest.raises(OptionError, match=r"acceleration must be one of None, squarem, or an Accelerator; got Some"):
        GaussianMixture(3, acceleration=SomePasses()).fit(rows)
    with pytest.raises(OptionError, match=r"stopping must be an object; got the class SomePasses\. Give an object"):
        GaussianMixture(3, stopping=SomePasses).fit(rows)


class Verbose(StoppingRule):
    """Forgets the rule, or the verdict."""

    def __init__(self, says: Any = None) -> None:
        self.says = says

    def after(self, seen: Pass) -> Any:
        return {"a verdict": Verdict.STOP, "a pair": (self, True)}.get(self.says)


@dataclass(frozen=True)
class Frozen(Verbose):
    says: str = ""


def test_a_rule_that_is_not_as_it_must_be_is_refused(rows: np.ndarray) -> None:
    with pytest.raises(OptionError, match=r"stopping must be of a frozen dataclass, whose .*; got a Verbose\. Dec"):
        GaussianMixture(3, stopping=Verbose()).fit(rows)
    for says in ("a verdict", "a pair", "nothing"):
        with pytest.raises(OptionError, match=r"what Frozen.after returns must be the next rule and a Verdict; got "):
            GaussianMixture(3, stopping=Frozen(says)).fit(rows)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(("module", "name"), [("fitting.stopping", "Patient"), ("mixture.family", "Floor")])
def test_the_example_of_a_docstring_works(module: str, name: str, rows: np.ndarray) -> None:
    """What it shows is run as it stands, after the imports that a reader would write."""
    text = import_module(f"daskgmm.{module}").__doc__ or ""
    example = textwrap.dedent("\n".join(line for line in text.splitlines() if line.startswith("    ")))
    names: dict[str, Any] = {"__name__": __name__}
    exec("import math\nimport daskgmm\nimport numpy as np\nfrom dataclasses import dataclass\n"
         "from daskgmm import StoppingRule, Verdict\n" + example, names)  # fmt: skip
    if name == "Floor":
        found = GaussianMixture(3, covariance_type=names[name](), random_state=0).fit(rows / 10)
        assert found.converged_
        assert_array_equal(found.covariances_, 1.0)
        return
    found = GaussianMixture(3, stopping=names[name](), random_state=0, max_iter=500).fit(rows)
    assert found.converged_
    gains = np.diff(found.lower_bounds_)
    assert (gains[-4:] < 1e-4).all()
    assert not any((gains[i : i + 5] < 1e-4).all() for i in range(len(gains) - 5))


def test_a_model_whose_rule_is_not_defined_here_says_so(rows: np.ndarray, tmp_path: Path) -> None:
    quietly_fitted(rows, stopping=SomePasses(5)).save(tmp_path / "m.zarr")
    program = f"""
import numpy as np
from daskgmm import GaussianMixture
found = GaussianMixture.load({os.fspath(tmp_path / "m.zarr")!r})
print(found.predict(np.zeros((1, 2))))
try:
    found.fit(np.ones((9, 2)))
except ValueError as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert re.search(
        r"^\[\d\]\nstopping must be of a class that is defined here; got the \S+:SomePasses of a model", said
    )


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("toy", "said"),
    [
        (
            {"stopping": SomePasses(5)},
            r"of classes that are defined here; got '\S+:SomePasses'\. Import the module that",
        ),
        ({"covariance_type": "spherical"}, r"one of full, tied, .*; got 'spherical'\. Register another family first"),
    ],
)
def test_a_checkpoint_of_a_class_that_is_not_defined_is_not_damaged(
    toy: dict[str, Any], said: str, rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zarr.create_array(tmp_path / "rows.zarr", data=rows, chunks=(500, 2))
    options = FitOptions(3, n_init=1, tol=0, max_iter=4, seed=0, **toy)

    def fit() -> Fit:
        checkpoint = Checkpoint.at(str(tmp_path / "c"), every=0)
        return fit_mixture(open_rows(tmp_path / "rows.zarr"), options, checkpoint=checkpoint)

    done = fit()
    with monkeypatch.context() as elsewhere:
        known = {name: each for name, each in records._records.items() if each is not SomePasses}
        elsewhere.setattr(records, "_records", known)
        elsewhere.delitem(families_of_the_package._FAMILIES, "spherical")
        with pytest.raises(UndefinedError, match=said):
            fit_mixture(
                open_rows(tmp_path / "rows.zarr"), replace(options, covariance_type="full"),
                checkpoint=Checkpoint.at(str(tmp_path / "c"), every=0),
            )  # fmt: skip
    assert fit().lower_bounds == done.lower_bounds, "and it is as it was"


def test_a_checkpoint_that_was_not_begun_goes_on(rows: np.ndarray, tmp_path: Path) -> None:
    place = tmp_path / "rows.zarr"
    zarr.create_array(place, data=rows, chunks=(500, 2))
    options = FitOptions(3, n_init=2, seed=0, tol=1e-3)
    done = [fit_mixture(open_rows(place), options, checkpoint=Checkpoint.at(str(tmp_path / "c"))) for _ in range(2)]
    assert done[0].lower_bounds == done[1].lower_bounds
    with pytest.raises(DataError, match=r"as daskgmm wrote it; .*Give the options that it was begun with, remove it"):
        fit_mixture(open_rows(place), replace(options, n_components=4), checkpoint=Checkpoint.at(str(tmp_path / "c")))


# -- priors ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Pulled(Prior):
    """Means are N(point, I / strength): each component is pulled to a point of its own."""

    points: Floats
    strength: float

    def moments(self, rows: Moments, shape: Shape, previous: Floats) -> Moments:
        # (The mean is the best for the covariance before, and the covariance the best for that mean: still an ascent.)
        precisions = shape.precisions(shape.precisions_cholesky(previous))
        own = rows.counts[:, np.newaxis, np.newaxis] * precisions
        pulls = np.einsum("kij,kj->ki", own, rows.means) + self.strength * self.points
        means = np.linalg.solve(own + self.strength * np.eye(len(own[0])), pulls[..., np.newaxis])[..., 0]
        return Moments(rows.counts, means, shape.shifted(rows.counts, rows.central, means - rows.means))

    def log_density(self, parameters: Parameters) -> float:
        return -0.5 * self.strength * float(np.square(parameters.means - self.points).sum())

    def scaled(self, share: float) -> Pulled:
        return Pulled(self.points, self.strength * share)


POINTS = np.array([[1.0, 1.0], [5.0, 1.0], [0.0, 5.0]])
PULLED_START: dict[str, Any] = {
    "weights_init": np.full(3, 1 / 3), "means_init": POINTS, "precisions_init": np.stack([np.eye(2)] * 3),
}  # fmt: skip


def em_with_pulled_means(X: Floats, strength: float, reg_covar: float, n_iter: int) -> tuple[Floats, Floats, Floats]:
    """Return weights, means and covariances after EM in plain loops, by another formula than the toy's."""
    weights, means, covariances = np.full(3, 1 / 3), POINTS.copy(), np.stack([np.eye(2)] * 3)
    for _ in range(n_iter):
        density = np.stack(
            [w * multivariate_normal(m, c).pdf(X) for w, m, c in zip(weights, means, covariances, strict=True)]
        )
        resp = density / density.sum(axis=0)
        for k in range(3):
            n = resp[k].sum()
            # A Gaussian prior times the likelihood of the mean of n rows.
            around = np.linalg.inv(np.linalg.inv(covariances[k] / n) + strength * np.eye(2))
            means[k] = around @ (n * np.linalg.inv(covariances[k]) @ (resp[k] @ X / n) + strength * POINTS[k])
            y = X - means[k]
            covariances[k] = (resp[k] * y.T) @ y / n + reg_covar * np.eye(2)
            weights[k] = n / len(X)
    return weights, means, covariances


@pytest.mark.parametrize("strength", [1e-9, 50.0, 1e7])
def test_a_prior_changes_the_m_step(rows: np.ndarray, strength: float) -> None:
    how = {**PULLED_START, "acceleration": None, "max_iter": 25, "tol": 0, "reg_covar": 0.01}
    found = quietly_fitted(rows, prior=Pulled(POINTS, strength), **how)
    weights, means, covariances = em_with_pulled_means(rows, strength, 0.01, 25)
    assert_allclose(found.weights_, weights, rtol=1e-9)
    assert_allclose(found.means_, means, rtol=1e-9, atol=1e-9)
    assert_allclose(found.covariances_, covariances, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_the_objective_is_the_likelihood_and_the_priors_density_and_never_falls(
    rows: np.ndarray, acceleration: str | None
) -> None:
    prior = Pulled(POINTS, 300.0)
    how = {**PULLED_START, "acceleration": acceleration, "reg_covar": 0, "tol": 1e-12, "max_iter": 300}
    found = quietly_fitted(rows, prior=prior, **how)
    assert found.converged_
    assert (np.diff(found.lower_bounds_) > -1e-12).all()
    of_prior = -0.5 * 300 * np.square(found.means_ - POINTS).sum()
    assert found.lower_bound_ == pytest.approx(found.score(rows) + of_prior / len(rows), abs=1e-9)
    assert found.log_likelihood_ == pytest.approx(len(rows) * found.score(rows))
    weights = np.random.default_rng(3).integers(0, 3, len(rows)).astype(float)
    weighted = GaussianMixture(3, prior=prior, **how).fit(rows, sample_weight=weights)
    for again, of_each in (
        (rows[weights > 0], weights[weights > 0]),
        (np.repeat(rows, weights.astype(int), axis=0), None),
    ):
        other = GaussianMixture(3, prior=prior, **how).fit(again, sample_weight=of_each)
        assert_allclose(other.means_, weighted.means_, atol=1e-6, err_msg="a weight of 2 is two rows, one of 0 is none")
        assert other.lower_bound_ == pytest.approx(weighted.lower_bound_, abs=1e-9)
    free = quietly_fitted(rows, **how)
    assert found.score(rows) < free.score(rows) - 1e-4, "the prior costs likelihood"


def test_a_start_is_found_under_the_prior_as_strong_as_on_all_rows(rows: np.ndarray) -> None:
    X = np.concatenate([rows] * 30) + np.random.default_rng(1).standard_normal((90_000, 2))
    prior = Pulled(np.zeros((3, 2)), 3e4)
    found = GaussianMixture(3, prior=prior, random_state=0, n_init=4, tol=1e-6, max_iter=300).fit(X)
    assert np.abs(found.means_).max() < 1
    # (A prior that the sample does not scale begins 0.009 lower, and takes 16 iterations.)
    assert found.lower_bounds_[0] > found.lower_bound_ - 5e-4


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_central_moments_about_other_means(kind: str, rows: np.ndarray) -> None:
    counts, shifts = np.array([700.0, 300.0]), np.array([[1.0, -2.0], [0.5, 3.0]])
    shape = family_called(kind).shape
    none = np.zeros(shape.array_shape(2, 2))
    outer = shifts[:, :, np.newaxis] * shifts[:, np.newaxis]
    tied, spherical = 0.7 * outer[0] + 0.3 * outer[1], (shifts**2).mean(axis=1)
    expected = {"full": outer, "tied": tied, "diag": shifts**2, "spherical": spherical}
    assert_allclose(shape.shifted(counts, none, shifts), expected[kind])


def test_a_prior_works_on_a_cluster_and_after_a_checkpoint(rows: np.ndarray, tmp_path: Path, client: Client) -> None:
    place = tmp_path / "rows.zarr"
    zarr.create_array(place, data=rows, chunks=(500, 2))
    prior = Pulled(POINTS, 40.0)
    found = quietly_fitted(place, prior=prior)
    with running_by(LocalExecutor()):
        assert_array_equal(found.means_, quietly_fitted(place, prior=prior).means_)
    found.save(tmp_path / "m.zarr")
    loaded = GaussianMixture.load(tmp_path / "m.zarr").prior
    assert (loaded.strength, loaded.points.tolist()) == (40.0, POINTS.tolist())
    undisturbed, again = went_on(
        place, FitOptions(3, n_init=2, tol=0, max_iter=12, prior=prior), tmp_path, ends_after=4
    )
    assert again.lower_bounds == undisturbed.lower_bounds
    assert_array_equal(again.parameters.means, undisturbed.parameters.means)


@dataclass(frozen=True)
class Wrong(Pulled):
    """A prior that returns what it must not."""

    method: str = ""
    found: Any = None

    def moments(self, rows: Moments, shape: Shape, previous: Any) -> Any:
        return self._or("moments", super().moments(rows, shape, previous))

    def log_density(self, parameters: Parameters) -> Any:
        return self._or("log_density", super().log_density(parameters))

    def scaled(self, share: float) -> Any:
        return self._or("scaled", self)

    def _or(self, method: str, right: Any) -> Any:
        if method != self.method:
            return right
        return replace(right, means=self.found) if isinstance(self.found, np.ndarray) else self.found


@pytest.mark.parametrize(
    ("method", "found", "said"),
    [
        ("moments", None, "be Moments; got NoneType"),
        ("moments", np.zeros(2), r"have finite means of shape \(3, 2\); got \[0\. 0\.\]"),
        (
            "moments",
            np.full((3, 2), np.nan),
            r"have finite means of shape \(3, 2\); got \[\[nan nan\] \[nan nan\] \[nan nan\]\]",
        ),
        ("log_density", (1.0,), r"be a number; got \(1\.0,\)"),
        ("scaled", None, "be a Prior; got NoneType"),
    ],
)
def test_a_prior_that_is_wrong_is_told_by_its_method(method: str, found: Any, said: str, rows: np.ndarray) -> None:
    with pytest.raises(OptionError, match=rf"what Wrong\.{method} returns must {said}\. Correct Wrong\.{method}\."):
        GaussianMixture(3, prior=Wrong(POINTS, 3.0, method, found), random_state=0).fit(rows)


@dataclass(frozen=True)
class Unkept(Pulled):
    kept: Any = None


def test_what_a_file_cannot_hold_is_refused_before_the_fit(rows: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(
        OptionError, match=r"prior must hold numbers, texts, arrays, and tuples of these alone, .*; got Unk"
    ):
        GaussianMixture(3, prior=Unkept(POINTS, 3.0, {"a": 1})).fit(rows)
    gm = quietly_fitted(rows, prior=Unkept(POINTS, 3.0, ("a", None, ("b", "c"))))
    gm.save(tmp_path / "m.zarr")
    assert GaussianMixture.load(tmp_path / "m.zarr").prior.kept == ("a", None, ("b", "c"))


def test_nothing_is_said_of_likelihoods_that_a_prior_lets_fall(rows: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = select(rows[:300], n_components=range(1, 4), prior=MeansNear(3000.0), random_state=0, n_init=2)
    assert "poor optimum" not in str(found)


@dataclass(frozen=True)
class MeansNear(Prior):
    """Pulls all means to the origin."""

    n_rows: float

    def moments(self, rows: Moments, shape: Shape, previous: Any) -> Moments:
        share = rows.counts / (rows.counts + self.n_rows)
        means = rows.means * share[:, np.newaxis]
        return replace(rows, means=means, central=shape.shifted(rows.counts, rows.central, means - rows.means))


def test_what_is_no_prior_is_refused(rows: np.ndarray) -> None:
    for value in (0.1, SomePasses()):
        with pytest.raises(OptionError, match=r"prior must be None or a Prior; got .*\. Leave it out for maximum like"):
            GaussianMixture(3, prior=value).fit(rows)


# -- kernels -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Slow(Kernel):
    """Full covariances, row by row in plain Python; for the component whose mean has the largest first feature."""

    every: bool = False
    most_bytes: int = 0

    def chosen(self, parameters: Parameters, origin: Floats) -> NDArray[np.bool_]:
        return self.every | (np.arange(parameters.n_components) == np.argmax(parameters.means[:, 0]))

    def log_density(self, plan: Plan, own: NDArray[np.int64], tile: Tile, out: NDArray[Any]) -> None:
        for k in own:
            factor = plan.precisions_cholesky[k]
            constant = plan.log_weights[k] + np.log(np.diag(factor)).sum() - len(factor) / 2 * np.log(2 * np.pi)
            for i, x in enumerate(tile.x.T):
                z = [sum(factor[d, e] * (x[d] - plan.means[k, d]) for d in range(len(x))) for e in range(len(x))]
                out[k, i] = constant - sum(value * value for value in z) / 2

    def sums(self, plan: Plan, own: NDArray[np.int64], tile: Tile, resp: NDArray[Any], out: NDArray[Any]) -> None:
        n = len(tile.x)
        pairs = [(d, e) for d in range(n) for e in range(d, n)]
        for k in own:
            out[k] = 0.0
            for r, x in zip(resp[k], tile.x.T, strict=True):
                y = x - plan.means[k]
                out[k] += r * np.array([*(y[d] * y[e] for d, e in pairs), *y, 1.0])

    def n_bytes(self, shape: Shape, n_components: int, n_features: int) -> int:
        return self.most_bytes


@dataclass(frozen=True)
class Failing(Slow):
    """Fails loudly in the first E-step on all rows."""

    def sums(self, plan: Plan, own: NDArray[np.int64], tile: Tile, resp: NDArray[Any], out: NDArray[Any]) -> None:
        raise FloatingPointError("the toy is broken")


SHORT = {"max_iter": 4, "tol": 0, "n_init": 1, "escape": False}


@pytest.mark.parametrize("compiled", [False, True] if can_compile() else [False])
@pytest.mark.parametrize("every", [False, True])
def test_a_kernel_computes_the_components_that_it_chooses(rows: np.ndarray, *, every: bool, compiled: bool) -> None:
    X = rows[:400] + 1e4
    with dask.config.set({"daskgmm.compiled": compiled}):
        found = quietly_fitted(X, kernel=Slow(every), **SHORT)
        expected = quietly_fitted(X, kernel="exact", **SHORT)
    assert_allclose(found.weights_, expected.weights_, rtol=1e-9)
    assert_allclose(found.means_, expected.means_, rtol=1e-12)
    assert_allclose(found.covariances_, expected.covariances_, rtol=1e-6)
    assert_allclose(found.lower_bounds_, expected.lower_bounds_, rtol=1e-9)
    assert_allclose(found.support_, expected.support_, rtol=1e-6)
    assert_allclose(found.log_likelihood_, expected.log_likelihood_, rtol=1e-9)


def test_a_kernel_works_on_a_cluster_and_its_failure_is_loud(rows: np.ndarray, tmp_path: Path, client: Client) -> None:
    place = tmp_path / "rows.zarr"
    zarr.create_array(place, data=rows[:900], chunks=(300, 2))
    found = quietly_fitted(place, kernel=Slow(), start_rows=60, **SHORT)
    with running_by(LocalExecutor()):
        assert_array_equal(found.means_, quietly_fitted(place, kernel=Slow(), start_rows=60, **SHORT).means_)
        assert_allclose(found.means_, quietly_fitted(place, start_rows=60, **SHORT).means_, rtol=1e-9)
    given = {**PULLED_START, "kernel": Failing()}
    with pytest.raises(FloatingPointError, match="the toy is broken"):
        quietly_fitted(place, **given)
    found.save(tmp_path / "m.zarr")
    assert GaussianMixture.load(tmp_path / "m.zarr").kernel == Slow()


@dataclass(frozen=True)
class WithArray(Slow):
    """Holds an array, which has no equality of its own."""

    scales: Floats = field(default_factory=lambda: np.ones(3))


def test_a_kernel_goes_on_from_a_checkpoint(rows: np.ndarray, tmp_path: Path) -> None:
    place = tmp_path / "rows.zarr"
    zarr.create_array(place, data=rows[:900], chunks=(100, 2))
    options = FitOptions(3, n_init=1, tol=0, max_iter=5, escape=False, start_rows=60, kernel=WithArray())
    undisturbed, again = went_on(place, options, tmp_path, ends_after=4)
    assert again.lower_bounds == undisturbed.lower_bounds
    assert_array_equal(again.parameters.means, undisturbed.parameters.means)


def test_what_a_kernel_says_that_it_takes_is_believed(rows: np.ndarray, tmp_path: Path, client: Client) -> None:
    place = tmp_path / "rows.zarr"
    zarr.create_array(place, data=rows, chunks=(500, 2))
    for how in (running_by(LocalExecutor()), nullcontext()):
        with how, pytest.raises(MemoryLimitError, match=r"must fit in .*; got a need of 10737\d{5} MiB"):
            quietly_fitted(place, kernel=Slow(most_bytes=1 << 50))


def test_a_kernel_whose_class_workers_lack_is_refused_before_it_is_sent(
    rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    (tmp_path / "own_kernel.py").write_text(
        "from dataclasses import dataclass\nfrom tests.test_seams import Slow\n@dataclass(frozen=True)\n"
        "class Mine(Slow):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    place = tmp_path / "rows.zarr"
    zarr.create_array(place, data=rows, chunks=(500, 2))
    with pytest.raises(
        ClusterError, match=r"kernel must be installed on the scheduler and all workers; got .*own_kernel"
    ):
        quietly_fitted(place, kernel=import_module("own_kernel").Mine(), **PULLED_START)
    assert len(client.nthreads()) == 2, "no worker has died of it"


@dataclass(frozen=True)
class Shapeless(Kernel):
    """The same for any shape: sums as the docstring of `Kernel.sums` has them, and SciPy's density."""

    wrong: bool = False

    def log_density(self, plan: Plan, own: NDArray[np.int64], tile: Tile, out: NDArray[Any]) -> None:
        n = len(tile.x)
        covariances = np.asarray(plan.shape.covariances(plan.precisions_cholesky))
        for k in own:
            c = covariances if covariances.shape == (n, n) else covariances[k]
            matrix = c if np.ndim(c) == 2 else c * np.eye(n)
            out[k] = plan.log_weights[k] + multivariate_normal(plan.means[k], matrix).logpdf(tile.x.T)

    def sums(self, plan: Plan, own: NDArray[np.int64], tile: Tile, resp: NDArray[Any], out: NDArray[Any]) -> None:
        for k in own:
            z = tile.x - plan.means[k][:, None]
            plan.shape.exact_statistics(z, resp[k], out[k], np.empty_like(z))
        out[own] *= 2 if self.wrong else 1


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_sums_of_a_kernel_are_as_its_docstring_says(kind: str, rows: np.ndarray) -> None:
    how = {"covariance_type": kind, "sample_weight": np.linspace(0.5, 2, 300), "tol": 1e-6}
    by_rule, own = (quietly_fitted_with(None, rows[:300], **how, kernel=k) for k in ("rule", Shapeless()))
    assert_allclose(own.means_, by_rule.means_, rtol=1e-9, atol=1e-9)
    assert_allclose(own.covariances_, by_rule.covariances_, rtol=1e-9, atol=1e-9)
    with pytest.raises(
        DaskgmmError, match=r"must sum to the weight of its rows; .* Correct Shapeless, the kernel: its"
    ):
        quietly_fitted_with(None, rows[:300], **how, kernel=Shapeless(wrong=True))


@dataclass(frozen=True)
class Choosing(Slow):
    which: tuple[int, ...] = ()

    def chosen(self, parameters: Parameters, origin: Any) -> Any:
        return np.array(self.which) if self.which else None


@pytest.mark.parametrize("which", [(), (0, 2, 1), (1, 0)])
def test_what_a_kernel_chooses_is_a_mask(which: tuple[int, ...], rows: np.ndarray) -> None:
    with pytest.raises(OptionError, match=r"what Choosing\.chosen returns must be bool, of shape \(3,\); got"):
        quietly_fitted(rows, kernel=Choosing(which=which))


@dataclass(frozen=True)
class Breaking(Slow):
    """Fails as long as a file is there."""

    place: str = ""

    def log_density(self, plan: Any, own: Any, tile: Any, out: Any) -> None:
        if os.path.exists(self.place):
            raise KeyError("mine")
        super().log_density(plan, own, tile, out)


def test_an_error_of_a_kernel_is_not_the_checkpoints(rows: np.ndarray, tmp_path: Path) -> None:
    place, broken = tmp_path / "rows.zarr", tmp_path / "broken"
    zarr.create_array(place, data=rows, chunks=(500, 2))
    options = FitOptions(3, n_init=2, tol=0, max_iter=8, seed=0, kernel=Breaking(place=str(broken)))

    def fit(ends_after: int = 99) -> Fit:
        def listener(event: PassDone) -> None:
            if event.what == "em" and event.number > ends_after:
                raise KeyboardInterrupt

        checkpoint = Checkpoint.at(str(tmp_path / "c"), every=0)
        return fit_mixture(open_rows(place), options, listener=listener, checkpoint=checkpoint)

    with pytest.raises(KeyboardInterrupt):
        fit(ends_after=4)
    broken.touch()
    with pytest.raises(KeyError, match="mine"):
        fit()
    broken.unlink()
    assert fit().lower_bounds == fit_mixture(open_rows(place), options).lower_bounds


def test_what_is_no_kernel_is_refused(rows: np.ndarray) -> None:
    for value in ("fast", SomePasses(), None):
        with pytest.raises(OptionError, match="kernel must be one of rule, phi, exact, or a Kernel; got "):
            GaussianMixture(3, kernel=value).fit(rows)


# -- columns -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Labelled(Slow):
    """Rows whose label is that of a component belong to it; those of label -1 to any."""

    def chosen(self, parameters: Parameters, origin: Floats) -> NDArray[np.bool_]:
        return np.ones(parameters.n_components, dtype=bool)

    def log_density(self, plan: Plan, own: NDArray[np.int64], tile: Tile, out: NDArray[Any]) -> None:
        super().log_density(plan, own, tile, out)
        labels = tile.columns["label"]
        assert labels.dtype == np.int64
        for k in own:
            out[k, (labels >= 0) & (labels != k)] = -1e6


@pytest.fixture(scope="module")
def labels(rows: np.ndarray) -> np.ndarray:
    """A component for each of 600 rows, whatever its place: what comes of another row's label is another mixture."""
    return (np.arange(600) // 7) % 3


def of_labels(X: Floats, labels: NDArray[np.int64]) -> Floats:
    return np.stack([X[labels == k].mean(axis=0) for k in range(3)])


ONE_PASS: dict[str, Any] = {**PULLED_START, "kernel": Labelled(), "max_iter": 1, "tol": 0, "n_init": 1}


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("source", ["array", "zarr", "dask", "npy", "other chunks"])
def test_a_column_arrives_in_the_kernel_with_its_rows(
    source: str, rows: np.ndarray, labels: np.ndarray, tmp_path: Path, *, cached: bool
) -> None:
    X = rows[:600]
    chunks = {"zarr": 100, "other chunks": 37}.get(source, 60)
    inputs: list[Any] = []
    for name, values in (("x", X), ("label", labels.astype("i2"))):
        place = tmp_path / f"{name}.zarr"
        if source == "array":
            inputs.append(values)
        elif source == "dask":
            inputs.append(dask.array.from_array(values, chunks=(75, *values.shape[1:])))
        elif source == "npy":
            np.save(tmp_path / f"{name}.npy", values)
            inputs.append(tmp_path / f"{name}.npy")
        else:
            zarr.create_array(place, data=values, chunks=(chunks if name == "label" else 150, *values.shape[1:]))
            inputs.append(place)
    found = quietly_fitted_with({"label": inputs[1]}, inputs[0], cache=cached, **{**ONE_PASS, "max_iter": 2})
    assert_allclose(found.means_, of_labels(X, labels), rtol=1e-9)
    assert_allclose(found.weights_, np.bincount(labels) / 600)


def quietly_fitted_with(columns: Any, X: Any, sample_weight: Any = None, **parameters: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = GaussianMixture(3, **({"random_state": 0} | parameters))
        return model.fit(X, sample_weight=sample_weight, columns=columns)


def test_a_column_stays_with_rows_that_are_dropped_weighted_or_sampled(rows: np.ndarray, labels: np.ndarray) -> None:
    X, weights = rows[:600].copy(), np.linspace(0.5, 2, 600)
    X[::50] = np.nan
    kept = ~np.isnan(X[:, 0])
    found = quietly_fitted_with({"label": labels}, X, weights, non_finite="drop", **ONE_PASS)
    expected = [np.average(X[kept & (labels == k)], axis=0, weights=weights[kept & (labels == k)]) for k in range(3)]
    assert_allclose(found.means_, expected, rtol=1e-9)
    found = quietly_fitted_with({"label": labels}, rows[:600], kernel=Labelled(), start_rows=60, **SHORT)
    assert_allclose(found.means_, of_labels(rows[:600], labels), rtol=1e-9)


def test_a_column_is_cut_by_fold(rows: np.ndarray, labels: np.ndarray) -> None:
    """Through the pass itself, until a selection takes columns: a fold leaves values where they are."""
    block = Block(np.ascontiguousarray(rows[:600].T), None, 0, columns={"label": labels})
    fold = Fold(0, 2, seed=1)
    own = fold.mask(np.arange(600, dtype=np.uint64))
    p = quietly_fitted_with({"label": labels}, rows[:600], **ONE_PASS)._parameters()
    estep = EStep([make_plan(p, origin=np.zeros(2), kernel=Labelled())], [fold])
    (statistics,) = estep.finish(estep.update(estep.zero(), block))
    counts = statistics.panel(3)[:, -1]
    assert_allclose(counts, np.bincount(labels[own]), rtol=1e-9)
    assert statistics.n_rows == own.sum()


def test_columns_are_in_the_promise_of_memory(rows: np.ndarray) -> None:
    """Those of a block and of the sample: 200 numbers a row beside two are most of what a fit takes."""
    X, wide = open_rows(rows), open_rows(np.zeros((3000, 200)))
    options = [FitOptions(3)]
    alone, beside = fit_need(options, X), fit_need(options, X, n_columns=200)
    assert beside.own_bytes - alone.own_bytes == 2 * 8 * 200 * 3000
    without, with_columns = Rows.plan(X, None), Rows.plan(X, None, {"wide": wide})
    grown = peak_task_bytes(with_columns, beside) - peak_task_bytes(without, alone)
    assert grown >= 8 * 200 * (3000 + block_length(2))


def test_a_data_frame_is_columns(rows: np.ndarray, labels: np.ndarray) -> None:
    pandas = pytest.importorskip("pandas")
    by_frame = quietly_fitted_with(pandas.DataFrame({"label": labels[: len(rows[:600])]}), rows[:600])
    assert_array_equal(by_frame.means_, quietly_fitted_with({"label": labels[:600]}, rows[:600]).means_)
    with pytest.raises(OptionError, match=r"columns must be a dict or a data frame; got a ndarray\. Give"):
        quietly_fitted_with(labels[:600], rows[:600])
    with pytest.raises(DataError, match=r"columns must hold whole numbers below 2\^63; got 9223372036854775813"):
        quietly_fitted_with({"label": np.full(600, 2**63 + 5, dtype=np.uint64)}, rows[:600])


def test_columns_that_do_not_fit_the_rows_are_refused(rows: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"columns must have 3000 rows each, as .* has; got 600 of 'label' in NumPy"):
        quietly_fitted_with({"label": labels}, rows)
    with pytest.raises(OptionError, match=r"columns must not be called sample_weight; got one that is\. Give row"):
        quietly_fitted_with({"sample_weight": labels}, rows[:600])


# -- families of covariances -------------------------------------------------------------------------------------------
class Toy(Family):
    """Each component has one variance, as spherical covariances have, in matrices: the average of its variances."""

    name, shape = "toy", FULL

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components

    def least_rows(self, n_features: int) -> int:
        return 3

    def maximise(self, counts: Any, central: Any, previous: Any) -> Any:
        variances = np.trace(central, axis1=1, axis2=2) / central.shape[-1]
        return variances[:, np.newaxis, np.newaxis] * np.eye(central.shape[-1])


class KeptAxes(Family):
    """Each component keeps the axes of the covariance before, and has the variances of its rows along them."""

    name, shape = "kept-axes", FULL

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def maximise(self, counts: Any, central: Any, previous: Any) -> Any:
        axes = np.linalg.eigh(previous)[1]
        variances = np.einsum("kdi,kde,kei->ki", axes, central, axes)
        return np.einsum("kdi,ki,kei->kde", axes, variances, axes)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is known until its end."""
    monkeypatch.setattr(families_of_the_package, "_FAMILIES", dict(families_of_the_package._FAMILIES))


@pytest.fixture
def toys(registry: None) -> None:
    register_family(Toy())
    register_family(KeptAxes())


def call(*arguments: object) -> Result:
    return CliRunner().invoke(gmm, [str(a) for a in arguments], prog_name="daskgmm")


def ordered(gm: GaussianMixture) -> Any:
    return np.argsort(gm.means_ @ [1.0, 0.1])


def assert_same_mixture(toy: GaussianMixture, oracle: GaussianMixture) -> None:
    """The toy's mixture is that of spherical covariances."""
    own, theirs = ordered(toy), ordered(oracle)
    assert_allclose(toy.weights_[own], oracle.weights_[theirs], rtol=1e-6)
    assert_allclose(toy.means_[own], oracle.means_[theirs], atol=1e-6)
    expected = oracle.covariances_[theirs][:, np.newaxis, np.newaxis] * np.eye(toy.means_.shape[1])
    assert_allclose(toy.covariances_[own], expected, rtol=1e-6, atol=1e-12)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    "options", [{}, {"acceleration": None, "n_init": 3}, {"init_params": "random", "escape": False}]
)
def test_a_family_of_a_known_shape_is_fitted_by_its_name(rows: np.ndarray, options: dict[str, Any]) -> None:
    how = {"n_components": 3, "tol": 1e-9, "max_iter": 300, "random_state": 0} | options
    toy = GaussianMixture(covariance_type="toy", **how).fit(rows)
    oracle = GaussianMixture(covariance_type="spherical", **how).fit(rows)
    assert_same_mixture(toy, oracle)
    assert toy.covariances_.shape == (3, 2, 2)
    assert_array_equal(ordered(toy).argsort()[toy.predict(rows)], ordered(oracle).argsort()[oracle.predict(rows)])
    assert toy.score(rows) == pytest.approx(oracle.score(rows), rel=1e-9)
    assert toy.bic(rows) == pytest.approx(oracle.bic(rows), rel=1e-9)  # (as many numbers)


@pytest.mark.usefixtures("registry")
def test_a_family_itself_may_be_asked_for(rows: np.ndarray, tmp_path: Path) -> None:
    toy = GaussianMixture(3, covariance_type=Toy(), n_init=2, random_state=0).fit(rows)
    assert_same_mixture(toy, GaussianMixture(3, covariance_type="spherical", n_init=2, random_state=0).fit(rows))
    drawn, labels = toy.sample(4000)
    assert_allclose(np.cov(drawn[labels == 0].T), toy.covariances_[0], atol=0.15)
    toy.save(tmp_path / "toy.zarr")
    loaded = GaussianMixture.load(tmp_path / "toy.zarr")
    assert loaded.covariance_type == "toy"
    assert_array_equal(loaded.predict(rows), toy.predict(rows))
    again = toy.set_params(warm_start=True, tol=1e-6).fit(rows)
    assert again.converged_
    theirs = toy.to_sklearn()  # which has no such family, but matrices
    assert_allclose(theirs.score_samples(rows), toy.score_samples(rows), rtol=1e-9)


@pytest.mark.usefixtures("toys")
def test_families_are_compared_and_drawn(rows: np.ndarray, tmp_path: Path) -> None:
    kinds = ["full", "tied", "diag", "spherical", "toy", KeptAxes()]
    found = select(rows[:600], n_components=[3], covariance_type=kinds, n_init=1, random_state=0)
    by_kind = {(row["covariance_type"], row["n_components"]): row["bic"] for row in found.table}
    assert by_kind["toy", 3] == pytest.approx(by_kind["spherical", 3], rel=1e-6)
    assert found.best_.covariance_type in ("spherical", "toy", "tied")
    legend = [text.get_text() for text in found.plot(tmp_path / "bic.png").axes[0].get_legend().get_texts()]
    assert legend[:6] == ["full", "tied", "diag", "spherical", "toy", "kept-axes"]


def test_the_command_line_knows_a_family_that_is_registered(rows: np.ndarray, tmp_path: Path, registry: None) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=rows[:600], chunks=(200, 2))
    fit = ("fit", tmp_path / "x.zarr", "-k", 3, "-o", tmp_path / "m.zarr", "--covariance", "toy", "--restarts", 2)
    refused = call(*fit)
    assert refused.exit_code == 64
    assert "'toy' is not one of full, tied, diag, spherical, EII, " in refused.stderr
    register_family(Toy())
    done = call(*fit)
    assert done.exit_code == 0, done.stderr
    assert json.loads(call("inspect", tmp_path / "m.zarr").stdout)["covariance"] == "toy"
    chosen = call(
        "select",
        tmp_path / "x.zarr",
        "-k",
        "2:3",
        "-o",
        tmp_path / "s.zarr",
        "--covariance",
        "toy,full",
        "--restarts",
        1,
    )
    assert json.loads(chosen.stdout)["covariance"] == "toy", chosen.stderr
    report = call("report", tmp_path / "m.zarr", "--output", tmp_path / "report.html")
    assert report.exit_code == 0, report.stderr
    assert "toy covariances" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_file_says_which_family_to_register(
    rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(families_of_the_package, "_FAMILIES", dict(families_of_the_package._FAMILIES))
        GaussianMixture(3, covariance_type=Toy(), n_init=1, random_state=0).fit(rows[:600]).save(tmp_path / "toy.zarr")
        GaussianMixture.load(tmp_path / "toy.zarr")
    with pytest.raises(DataError, match=r"'toy' in .*toy.zarr. Register its family first \(daskgmm.register_family\)"):
        GaussianMixture.load(tmp_path / "toy.zarr")
    with pytest.raises(OptionError, match=r"got 'toy'. Register another family first: daskgmm.register_family"):
        GaussianMixture(covariance_type="toy").fit(rows)


@pytest.mark.usefixtures("registry")
def test_what_cannot_be_a_family_is_refused() -> None:
    with pytest.raises(OptionError, match=r"must be an object of a class derived from daskgmm.Family; got <class"):
        register_family(Toy)  # type: ignore[arg-type]
    for name, said in (("full", "must not be that of one of daskgmm's own"), ("a,b", "must be letters, digits")):
        with pytest.raises(OptionError, match=said):
            register_family(type("Other", (Toy,), {"name": name})())
    nameless = type("Nameless", (Family,), {"n_parameters": Toy.n_parameters, "name": "nameless"})
    with pytest.raises(OptionError, match=r"a family must have a name and a shape; got Nameless\(\)\. Set name"):
        register_family(nameless())


@pytest.mark.usefixtures("registry")
def test_a_family_that_is_wrong_is_told_by_its_name(rows: np.ndarray) -> None:
    with pytest.raises(OptionError, match=r"covariance_type must be an object; got the class Toy\. Give an object"):
        GaussianMixture(3, covariance_type=Toy).fit(rows)

    def wrong(*, maximise: Any) -> Family:
        family: Family = type("Wrong", (Toy,), {"name": "wrong", "maximise": maximise})()
        return family

    for family, said in (
        (wrong(maximise=lambda *a: a[2][0]), r"be finite, of shape \(\d, 2, 2\); got shape \(2, 2\), 0 numbers not"),
        (wrong(maximise=lambda *a: a[2] * np.nan), r"be finite, .* numbers not finite\. Correct Wrong\.maximise\."),
    ):
        with pytest.raises(OptionError, match=said):
            GaussianMixture(3, covariance_type=family, random_state=0).fit(rows)


class Scaled(Family):
    """All covariances are one matrix, each times a number of its own; a line in the coordinates of FULL leaves it."""

    name, shape = "scaled", FULL

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components - 1 + n_features * (n_features + 1) // 2

    def maximise(self, counts: Any, central: Any, previous: Any) -> Any:
        n_features = central.shape[-1]
        scales = np.exp(np.linalg.slogdet(previous)[1] / n_features)
        for _ in range(5):
            common = np.einsum("k,kij->ij", counts / counts.sum() / scales, central)
            scales = np.einsum("ij,kji->k", np.linalg.inv(common), central) / n_features
        return scales[:, np.newaxis, np.newaxis] * common


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("seed", range(3))
def test_a_leap_stays_in_the_family(seed: int) -> None:
    """It has no coordinates of its own, and each point of the fit is a member: no likelihood is beyond its reach."""
    random = np.random.default_rng(SEED)
    groups = [
        random.standard_normal((1000, 3)) * s + m for s, m in (([1, 1, 3], 0), ([3, 1, 0.5], 1), ([0.5, 2, 2], 2))
    ]
    rows = np.concatenate(groups)
    start = rows[np.random.default_rng(seed).choice(3000, 3, replace=False)]
    found = GaussianMixture(
        3, covariance_type=Scaled(), means_init=start, weights_init=np.full(3, 1 / 3), precisions_init=[np.eye(3)] * 3,
        escape=False, tol=1e-9, max_iter=3000, random_state=0,
    ).fit(rows)  # fmt: skip
    relative = found.covariances_ / np.linalg.det(found.covariances_)[:, np.newaxis, np.newaxis] ** (1 / 3)
    assert_allclose(relative - relative[0], 0, atol=1e-12)
    assert found.converged_
    assert (np.diff(found.lower_bounds_) > -1e-10).all()
    assert any(r["step"] > 1 for r in found.history_ if r["what"] == "em"), "nothing leapt"


@pytest.mark.usefixtures("toys")
def test_given_precisions_are_those_of_the_family(rows: np.ndarray) -> None:
    start = {"weights_init": [0.5, 0.5], "means_init": [[0.0, 0.0], [6.0, 0.0]]}
    given = np.stack([np.diag([1.0, 2.0])] * 2)
    with pytest.raises(OptionError, match="precisions_init must be the precisions of toy covariances"):
        GaussianMixture(2, covariance_type="toy", precisions_init=given, **start).fit(rows)
    gm = GaussianMixture(2, covariance_type="kept-axes", precisions_init=given, acceleration=None, **start).fit(rows)
    oracle = GaussianMixture(
        2, covariance_type="diag", precisions_init=np.full((2, 2), [1, 2]), acceleration=None, **start
    )
    # Axes that are kept are those of the start: with these, covariances along the features.
    assert_allclose(gm.covariances_, oracle.fit(rows).covariances_[:, np.newaxis] * np.eye(2), rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_a_family_whose_m_step_needs_the_parameters_before(acceleration: str | None) -> None:
    random = np.random.default_rng(SEED)
    turn = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    groups = [random.standard_normal((1000, 2)) * [3, 0.5] + [0, 4 * i] for i in range(2)]
    rows = np.concatenate(groups) @ turn.T
    own = GaussianMixture(
        2, covariance_type="kept-axes", acceleration=acceleration, tol=1e-8, max_iter=300, reg_covar=0.0,
        weights_init=[0.5, 0.5], means_init=[[0.0, 0.0], [-2.0, 3.5]],
        precisions_init=np.stack([turn @ np.diag([1.0, 4.0]) @ turn.T] * 2),
    ).fit(rows)  # fmt: skip
    assert own.converged_
    assert (np.diff(own.lower_bounds_) >= -1e-12).all()
    # The axes are still those of the start: so are spherical or diagonal covariances of rows that are turned back.
    kept = turn.T @ own.covariances_ @ turn
    assert_allclose(kept[:, 0, 1], 0, atol=1e-9)
    if acceleration is None:
        diagonal = GaussianMixture(
            2, covariance_type="diag", acceleration=None, tol=1e-8, max_iter=300, reg_covar=0.0,
            weights_init=[0.5, 0.5], means_init=np.array([[0.0, 0.0], [-2.0, 3.5]]) @ turn,
            precisions_init=[[1.0, 4.0], [1.0, 4.0]],
        ).fit(rows @ turn)  # fmt: skip
        assert_allclose(np.diagonal(kept, axis1=1, axis2=2), diagonal.covariances_, rtol=1e-9)
        assert own.log_likelihood_ == pytest.approx(diagonal.log_likelihood_, rel=1e-12)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("name", ["toy", "kept-axes"])
def test_a_family_needs_nothing_on_workers_and_goes_on_from_a_checkpoint(
    name: str, rows: np.ndarray, tmp_path: Path, client: Client
) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(500, 2))
    source = open_rows(tmp_path / "x.zarr")
    options = FitOptions(3, covariance_type=name, n_init=2, tol=1e-9, start_rows=300)
    whole = fit_mixture(source, options)
    assert len(whole.lower_bounds) > 5

    def stop(done: PassDone) -> None:
        if done.number == 4:
            raise KeyboardInterrupt

    checkpoint = Checkpoint.at(str(tmp_path / "checkpoint"), every=0.0)
    checkpoint.begin({"what": "a toy"})
    with pytest.raises(KeyboardInterrupt):
        fit_mixture(source, options, listener=stop, checkpoint=checkpoint)
    told: list[PassDone] = []
    resumed = fit_mixture(source, options, listener=told.append, checkpoint=Checkpoint.at(checkpoint.place, every=0.0))
    assert told[0].number == 4  # (which was cut short)
    assert resumed.lower_bounds == whole.lower_bounds
    assert_array_equal(resumed.parameters.covariances, whole.parameters.covariances)
    plan = pickle.dumps(make_plan(whole.parameters, origin=np.zeros(2)))
    assert b"shapes" in plan
    assert b"family" not in plan
    assert type(whole.parameters.family).__name__.encode() not in plan


# -- priors ------------------------------------------------------------------------------------------------------------


# -- kernels -----------------------------------------------------------------------------------------------------------


# -- columns -----------------------------------------------------------------------------------------------------------


# -- sources -----------------------------------------------------------------------------------------------------------


def computed_rows(seed: int, start: int, stop: int) -> np.ndarray:
    """Rows start to stop of three Gaussians in two features, each 500 of them by a seed of their own."""
    blocks = []
    for i in range(start // 500, -(-stop // 500)):
        random = np.random.default_rng((seed, i))
        centres = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
        blocks.append(centres[random.integers(3, size=500)] + random.standard_normal((500, 2)))
    return np.concatenate(blocks)[start % 500 :][: stop - start]


@dataclass(frozen=True)
class ToyReader(Reader):
    """Rows by a function; each read leaves a file in a folder, where there is one."""

    function: Callable[[int, int], np.ndarray]
    notes: Path | None = None

    def read(self, start: int, stop: int) -> np.ndarray:
        if self.notes is not None:
            (self.notes / f"{os.getpid()} {uuid4().hex}").touch()
        return self.function(start, stop)


class ToySource(Source):
    """Rows made by a function."""

    label, n_rows, n_features, dtype, chunk_rows = "a function", 3000, 2, np.dtype("f8"), 500

    def __init__(self, function: Callable[[int, int], np.ndarray], notes: Path | None = None) -> None:
        self._reader = ToyReader(function, notes)

    def reader(self) -> Reader:
        return self._reader


@dataclass(frozen=True)
class Recipe:
    """What a person may have instead of rows."""

    seed: int


def open_recipe(recipe: Recipe) -> ToySource:
    return ToySource(partial(computed_rows, recipe.seed))


def open_file(path: str) -> ToySource:
    """Open a file that holds a seed."""
    source = open_recipe(Recipe(int(Path(path).read_text())))
    source.label = source.path = path
    return source


def fitted(X: Any, **options: Any) -> GaussianMixture:
    return GaussianMixture(3, means_init=[[0, 0], [6, 0], [0, 6]], random_state=0, **options).fit(X)


@pytest.fixture
def toy_file(tmp_path: Path) -> Path:
    """A file of a kind that the package does not know, registered by its suffix."""
    register_source(".toy", open_file)
    (tmp_path / "X.toy").write_text("7")
    return tmp_path / "X.toy"


@pytest.fixture
def short_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every chunk a partition, so that few rows are work for a cluster."""
    for name in ("PARTITION_BYTES", "IN_PROCESS_BYTES"):
        monkeypatch.setattr(partition, name, 1)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


@pytest.fixture(scope="module")
def of_rows() -> GaussianMixture:
    """A fit to the rows of recipe 7, as an array."""
    return fitted(computed_rows(7, 0, 3000))


@pytest.mark.parametrize("how", ["source", "suffix", "type", "name of a type", "question"])
def test_a_source_made_of_a_function_is_fitted_as_its_rows_are(
    how: str, toy_file: Path, of_rows: GaussianMixture
) -> None:
    X: Any = Recipe(7)
    if how == "source":
        X = open_recipe(X)
    elif how == "suffix":
        X = toy_file
    else:
        claims = {"type": Recipe, "name of a type": "tests.Recipe", "question": lambda data: isinstance(data, Recipe)}
        register_source(claims[how], open_recipe)
    rows, found = computed_rows(7, 0, 3000), fitted(X)
    np.testing.assert_allclose(found.means_, of_rows.means_, rtol=1e-9)
    np.testing.assert_allclose(found.covariances_, of_rows.covariances_, rtol=1e-9)
    assert found.score(X) == pytest.approx(of_rows.score(rows), rel=1e-12)
    np.testing.assert_array_equal(found.predict(X).compute(), of_rows.predict(rows))


@pytest.mark.usefixtures("short_partitions")
def test_the_function_is_called_by_the_workers(client: Client, toy_file: Path, notes: Path) -> None:
    source = ToySource(partial(computed_rows, 7), notes)
    quick: dict[str, Any] = {"tol": 0.1, "escape": False}
    found = fitted(source, cache=False, **quick)
    readers = {int(path.name.split()[0]) for path in notes.iterdir()}
    assert readers
    assert readers <= set(client.run(os.getpid).values())
    np.testing.assert_array_equal(fitted(toy_file, **quick).means_, found.means_)
    rows = computed_rows(7, 0, 3000)
    np.testing.assert_array_equal(found.predict(toy_file).compute(), found.predict(rows))
    with dask.config.set(scheduler="sync"):
        np.testing.assert_array_equal(fitted(toy_file, **quick).means_, found.means_)


def holders_of_the_heap() -> int:
    return heap.reused_heap._holders


@pytest.mark.usefixtures("short_partitions")
def test_what_cannot_travel_to_the_workers_is_refused_before_it_is_sent(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_rows: GaussianMixture
) -> None:
    lock = Lock()

    def locked_rows(start: int, stop: int) -> np.ndarray:
        with lock:
            return computed_rows(7, start, stop)

    locked = ToySource(locked_rows)
    sent = r"What reads X must be able to travel to the workers; got ToyReader, which cannot \(.*lock.*\)\. Let it hold"
    with pytest.raises(OptionError, match=sent):
        fitted(locked)
    with pytest.raises(OptionError, match=sent):
        of_rows.predict(locked)
    (tmp_path / "only_here.py").write_text("def rows(start, stop): return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    only_here = ToySource(import_module("only_here").rows)
    with pytest.raises(ClusterError, match=r"installed on the scheduler and all workers; got .*No module named"):
        fitted(only_here)
    assert client.run(holders_of_the_heap) == dict.fromkeys(client.nthreads(), 0), "settings of workers were left"
    locked.travels = False
    assert fitted(locked).converged_, "computed in this process"
    assert fitted(open_recipe(Recipe(7))).converged_, "the workers are as well as before"


def fails_twice(folder: Path, start: int, stop: int) -> np.ndarray:
    for i in range(2):
        if start <= 700 < stop and not (folder / str(i)).exists():
            (folder / str(i)).touch()
            raise OSError("the disk is busy")
    return computed_rows(7, start, stop)


def test_a_read_that_fails_is_repeated_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, of_rows: GaussianMixture
) -> None:
    found = fitted(ToySource(partial(fails_twice, tmp_path)))
    np.testing.assert_allclose(found.means_, of_rows.means_, rtol=1e-9)
    assert "Reads of a function failed and were repeated: 2 in this pass, 2 so far" in caplog.text


def test_a_read_that_fails_for_good_says_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception, start: int, stop: int) -> np.ndarray:
        raise error

    monkeypatch.setattr(failures, "RETRY_SECONDS", (0.0,))
    with pytest.raises(InputMissingError, match=r"Rows \d+ to \d+ must be readable; got OSError \(gone\) from Toy"):
        fitted(ToySource(partial(fail, OSError("gone"))))
    with pytest.raises(ZeroDivisionError, match="of the function"):
        fitted(ToySource(partial(fail, ZeroDivisionError("of the function"))))


class Greedy(ToySource):
    """Says that reading holds a mebibyte for each byte."""

    def read_bytes(self, n_bytes: int) -> int:
        return n_bytes << 20


@pytest.mark.usefixtures("short_partitions")
def test_what_a_source_says_that_reading_holds_is_believed(client: Client, notes: Path) -> None:
    greedy = Greedy(partial(computed_rows, 7), notes)
    with pytest.raises(
        MemoryLimitError, match=r"in a worker's memory, 1639 MiB a task \(.*\); got a need of \d{4,} MiB"
    ):
        fitted(greedy)
    with dask.config.set(scheduler="threads"), pytest.raises(MemoryLimitError, match="the memory of this machine"):
        fitted(greedy)
    assert list(notes.iterdir()) == [], "nothing was read"


def test_bytes_are_counted_and_another_input_is_told(toy_file: Path, tmp_path: Path) -> None:
    arguments = ["fit", str(toy_file), "-k", "1", "--output", str(tmp_path / "model.zarr")]
    first = CliRunner().invoke(gmm, arguments)
    assert json.loads(first.stdout)["bytes_read"] == 3000 * 2 * 8, "read once, and kept"
    assert json.loads(CliRunner().invoke(gmm, arguments).stdout)["skipped"]
    toy_file.write_text("8")
    other = CliRunner().invoke(gmm, arguments)
    assert other.exit_code == 73
    assert "--output must be free, or hold the same work" in other.stderr


@pytest.mark.parametrize("what", ["file", "folder"])
def test_rows_that_change_while_they_are_read_are_noticed(toy_file: Path, what: str) -> None:
    class Changing(ToySource):
        path = str(toy_file if what == "file" else toy_file.parent)

        def reader(self) -> Reader:
            os.utime(toy_file, ns=(1, 1))
            return super().reader()

    with pytest.raises(DataError, match="X must stay as it is while it is read; got other files for rows 0 to"):
        fitted(Changing(partial(computed_rows, 7)))


def test_an_installed_package_opens_its_files_by_an_entry_point(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "toys-1.0.dist-info").mkdir(parents=True)
    (site / "toys.py").write_text("from tests.test_seams import open_file")
    (site / "toys-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (site / "toys-1.0.dist-info" / "entry_points.txt").write_text(
        "[daskgmm.sources]\n.toy = toys:open_file\n.fits = toys:nothing\n"
    )
    (tmp_path / "X.toy").write_text("7")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(Path(__file__).parents[1])])}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=150)

    done = run("-m", "daskgmm", "fit", "X.toy", "-k", "1", "--output", "model.zarr")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 3000
    broken = run("-c", "from daskgmm.sources.opening import open_rows; open_rows('X.fits')")
    assert "What opens '.fits' must be installed whole; got module 'toys' has no attribute 'nothing'" in broken.stderr


def test_sources_that_are_none_are_refused(toy_file: Path) -> None:
    with pytest.raises(OptionError, match=r"claim must be a suffix with its dot, .*; got 'toy'\."):
        register_source("toy", open_file)
    with pytest.raises(OptionError, match=r"opener must be a function or a class .*; got 'open_file'\."):
        register_source(".toy", "open_file")
    with pytest.raises(
        OptionError, match=r"array must be left out where X has no arrays with names; got array='a' with .*y"
    ):
        open_rows(toy_file, array="a")
    register_source(".toy", Path)
    with pytest.raises(OptionError, match=r"What opens X must return a daskgmm\.Source; got a PosixPath\."):
        fitted(toy_file)

    class Nameless(ToySource):
        label = n_rows = property()

    with pytest.raises(OptionError, match=r"A source must have label, n_rows, .*; got a Nameless without label\."):
        fitted(Nameless(partial(computed_rows, 7)))
    source = ToySource(partial(computed_rows, 7))
    source.reader = lambda: partial(computed_rows, 7)
    with pytest.raises(OptionError, match=r"must be a daskgmm\.Reader; got a partial\."):
        fitted(source)
    source = ToySource(partial(computed_rows, 7))
    source.dtype = "f8"
    with pytest.raises(OptionError, match=r"dtype of a source must be a numpy\.dtype; got 'f8'\."):
        fitted(source)


def not_a_number(start: int, stop: int) -> np.ndarray:
    return np.array([[float("oops")] * 2])


def test_an_error_of_a_reader_says_which_rows_it_was_at() -> None:
    with pytest.raises(ValueError, match="oops") as caught:
        fitted(ToySource(not_a_number))
    assert re.fullmatch(r"\(while rows \d+ to \d+ were read by ToyReader\)", caught.value.__notes__[0])


# -- places ------------------------------------------------------------------------------------------------------------
class Loop(Executor):
    """Does each task after those that it needs, one after the other: slow, obvious, and the oracle of all others."""

    def compute(
        self, graph: dict[Any, Any], keys: list[Any], *, travels: bool, places: Any = None, on_done: Any = None
    ) -> list[Any]:
        values: dict[Any, Any] = {}

        def value(key: Any) -> Any:
            if key not in values:
                node = graph[key]
                values[key] = node({other: value(other) for other in node.dependencies})
            return values[key]

        for i, key in enumerate(keys):
            value(key)
            if on_done is not None:
                on_done(i, values[key])
        return [values[key] for key in keys]


@dataclass(frozen=True)
class LoopPlace(Place):
    """The place of that."""

    loop: bool = declare(False, Option(help="Run in a loop.", flag="--loop", section="Toys", choices=(True, False)))
    loop_name: str = declare("a loop", Option(help="What the log calls it.", flag="--loop-name", section="Toys"))

    @contextmanager
    def machines(self, n_partitions: int) -> Iterator[Machines]:
        yield Machines(Loop(), 0, self.loop_name)


def stored_rows(rows: np.ndarray, folder: Path) -> Path:
    """Path of a Zarr array of the rows."""
    place = folder / "rows.zarr"
    zarr.create_array(place, data=rows, chunks=(500, 2))
    return place


@pytest.mark.parametrize("options", [{}, {"init_params": "k-means||"}, {"cache": True}], ids=str)
def test_a_plain_loop_runs_passes_to_the_bits_of_all_executors(
    options: dict[str, Any], rows: np.ndarray, tmp_path: Path, client: Client
) -> None:
    place = stored_rows(rows, tmp_path)
    on_cluster = quietly_fitted(place, **options)
    with running_by(Loop()):
        looped = quietly_fitted(place, **options)
        labels = looped.predict(place).compute(scheduler="sync")
        assert looped.score(place) == pytest.approx(on_cluster.score(place), abs=0)
    assert_array_equal(looped.means_, on_cluster.means_)
    assert looped.log_likelihood_ == on_cluster.log_likelihood_
    assert_array_equal(labels, on_cluster.predict(place).compute())


def test_the_options_of_a_place_are_options_of_commands(rows: np.ndarray, tmp_path: Path) -> None:
    register_place("loop", LoopPlace)
    place, model = stored_rows(rows, tmp_path), tmp_path / "m.zarr"

    def said(*arguments: object, code: int = 0) -> Any:
        done = CliRunner().invoke(gmm, [str(a) for a in arguments])
        assert done.exit_code == code, done.output
        return done

    quick = ("-k", 3, "--restarts", 1, "--tol", 0.1)
    done = said("fit", place, *quick, "-o", model, "--loop", "--loop-name", "a toy loop")
    assert "Running in a toy loop, each with" in done.stderr
    assert GaussianMixture.load(model).n_components == 3
    assert "Run in a loop." in said("fit", "--help").output
    assert "Run in a loop." in said("score", "--help").output
    assert "Run in a loop." not in said("inspect", "--help").output
    wrong = said("fit", place, *quick, "-o", tmp_path / "n.zarr", "--loop", "--workers", 2, code=64)
    assert "Passes must run in one place; got options of several, --workers, --loop among them." in wrong.stderr
    wrong = said("fit", place, *quick, "-o", tmp_path / "n.zarr", "--loop-name", "x", "--workers", 2, code=64)
    assert "got options of several, --workers, --loop-name among them." in wrong.stderr
    default = said("fit", place, *quick, "-o", tmp_path / "o.zarr", "--loop-name", LoopPlace().loop_name)
    assert f"Running in {LoopPlace().loop_name}, each with" in default.stderr, "what is typed chooses, the default too"
    with pytest.raises(OptionError, match=r"The options of a place must be its own; got --loop, which another has\."):
        register_place("other", LoopPlace)
    with pytest.raises(OptionError, match="place must be a class derived from Place, and a dataclass; got <class"):
        register_place("other", Place)


def test_a_place_has_no_option_of_the_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Clashing(LoopPlace):
        name: str = declare("x", Option(help="Clashes.", flag="--components"))

    monkeypatch.setattr("daskgmm.places.place._places", {})
    register_place("loop", Clashing)
    done = CliRunner().invoke(gmm, ["fit", "X.npy", "-k", "2", "-o", str(tmp_path / "m.zarr")])
    assert done.exit_code == 64
    assert "The options of a place must be its own; got --components, which daskgmm has." in done.output


# -- errors: they carry argument, requirement, got and remedy apart, and each interface words them ---------------------
@dataclass(frozen=True)
class Particular(Reader):
    """Refuses what it is asked for, as a source does whose rows are wrong."""

    path: str

    def read(self, start: int, stop: int) -> np.ndarray:
        raise DataError(
            "`X`", "hold toys", f"`n_components` in {self.path}", f"Decrease `n_components`, or {verbatim(self.path)}."
        )


class ParticularSource(Source):
    n_rows, n_features, dtype, chunk_rows = 300, 2, np.dtype("f8"), 50

    def __init__(self, path: str) -> None:
        self.label = self.path = self._path = path

    def reader(self) -> Reader:
        return Particular(self._path)


@pytest.fixture
def wrong_rows(tmp_path: Path) -> str:
    """A file whose name looks like names of the package: between words, between backticks, and with half of one."""
    register_source(".wrong", ParticularSource)
    folder = tmp_path / "X tol `X`"
    folder.mkdir()
    (folder / "`n_init` max_iter`.wrong").touch()
    return str(folder / "`n_init` max_iter`.wrong")


def test_an_error_is_worded_by_each_interface_from_the_same_fields(wrong_rows: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        GaussianMixture(2, n_init=1).fit(wrong_rows)
    error = refused.value
    assert str(error) == (
        f"X must hold toys; got `n_components` in {wrong_rows}. Decrease n_components, or {wrong_rows}."
    )
    assert (error.argument, error.requirement) == ("`X`", "hold toys")
    assert error.got == f"`n_components` in {wrong_rows}"
    assert error.worded({"n_components": "the number"}).endswith(f". Decrease the number, or {wrong_rows}.")
    done = call("fit", wrong_rows, "-k", 2, "-o", tmp_path / "m.zarr")
    assert done.exit_code == 65
    assert (
        f"error: INPUT must hold toys; got `n_components` in {wrong_rows}. Decrease --components, or {wrong_rows}.\n"
    ) in done.stderr


@pytest.mark.usefixtures("short_partitions")
def test_the_fields_of_an_error_come_back_from_a_worker(client: Client, wrong_rows: str) -> None:
    with pytest.raises(DataError, match="X must hold toys; got `n_components` in ") as refused:
        GaussianMixture(2, n_init=1).fit(wrong_rows)
    assert refused.value.fields[0] == "`X`"
    assert refused.value.fields[3] == f"Decrease `n_components`, or {verbatim(wrong_rows)}."


def classes_below(root: type[DaskgmmError]) -> Iterator[type[DaskgmmError]]:
    yield root
    for cls in root.__subclasses__():
        yield from classes_below(cls)


@pytest.mark.parametrize("cls", sorted(set(classes_below(DaskgmmError)), key=str), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_an_error_is_whole_after_a_journey(again: Callable[[Any], Any], cls: type[DaskgmmError]) -> None:
    for fields in (("`X`", "be `tol`", "`X` 3", "Set `tol`."), ("Leave `X` out.",)):
        error = cls(*fields)
        error.add_note("seen")
        found = again(error)
        assert type(found) is cls
        assert (found.fields, str(found), found.args) == (error.fields, str(error), error.args)
        assert (found.exit_code, found.__notes__) == (cls.exit_code, ["seen"])
    with pytest.raises(AttributeError):
        found.remedy = "None."


def test_a_message_leaves_out_what_there_is_not() -> None:
    assert str(DataError("`X`", "be `tol`", ("`X`", 3))) == "X must be tol; got ('`X`', 3)."
    assert DataError(text="Leave `X` out.").worded({"X": "rows"}) == "Leave rows out."


@dataclass(frozen=True)
class TimidOptions(FitOptions):
    """An option whose own check needs another one."""

    courage: int = declare(
        0,
        Option(
            help="Less than there are components.", flag="--brave", number=int, remedy="Increase `n_components`.",
            rule=lambda options, value: "" if value < options.n_components else "less than `n_components`",
        ),
    )  # fmt: skip


@click.command(cls=SectionCommand)
@partial(fit_options, of=TimidOptions)
@log_options
def dare(*, how: dict[str, Any]) -> dict[str, Any]:
    """Check the options."""
    return {"command": "dare", "courage": TimidOptions(**how).courage}


def test_the_check_of_an_option_is_worded_by_each_interface() -> None:
    with pytest.raises(OptionError) as refused:
        TimidOptions(n_components=2, courage=2)
    assert str(refused.value) == "courage must be less than n_components; got 2. Increase n_components."
    timid = Commands("timid")
    timid.add_command(dare)
    done = CliRunner().invoke(timid, ["dare", "--brave", "7"])
    assert done.exit_code == 64
    assert "error: --brave must be less than --components; got 7. Increase --components.\n" in done.stderr


@pytest.mark.filterwarnings("always")
def test_warnings_are_worded_by_each_interface(rows: np.ndarray, tmp_path: Path) -> None:
    weights = np.full(len(rows), 1e-3)
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "weights.npy", weights)
    fitted_once = GaussianMixture(1).fit(rows, sample_weight=weights)
    small = "BIC, AIC, ICL and the bound take the sum of {} for the number of rows; got 3 for 3000 rows"
    with pytest.warns(DaskgmmWarning, match=small.format("sample_weight")):
        fitted_once.bic(rows, sample_weight=weights)
    inputs = (tmp_path / "rows.npy", "--weights", tmp_path / "weights.npy")
    said = call("fit", *inputs, "-k", 3, "--max-iter", 1, "--restarts", 1, "-o", tmp_path / "m.zarr").stderr
    assert f"warning: {small.format('--weights')}" in said
    assert "Increase --max-iter or --tol, or try another start." in said
    alike = np.repeat(rows[:3], 100, axis=0)
    with pytest.warns(FitWarning, match="no variance but reg_covar, .* the weight 0 by sample_weight"):
        GaussianMixture(3, n_init=1, random_state=0).fit(alike)
    np.save(tmp_path / "alike.npy", alike)
    said = call("fit", tmp_path / "alike.npy", "-k", 3, "--restarts", 1, "-o", tmp_path / "alike.zarr").stderr
    assert re.search("no variance but --reg-covar, .* the weight 0 by --weights", said)
    remarks = json.loads(call("inspect", tmp_path / "alike.zarr").stdout)["remarks"]
    assert "no variance but reg_covar" in remarks[0]  # (a file is read by both)


def test_what_a_selection_says_is_worded_by_each_interface(rows: np.ndarray) -> None:
    table = select(rows[:300], n_components=(1, 2), random_state=0, n_init=1).table
    compared: Any = (table, "bic", {"full": 2}, {"diag": [3]})
    in_python = " ".join(selection_lines(*compared)[1])
    assert "To fit them all the same: stop_early=False. No model: " in in_python
    assert "To keep it: a larger reg_covar." in in_python
    typed = " ".join(selection_lines(*compared, words=command_line_words())[1])
    assert "To fit them all the same: --all. No model: " in typed
    assert "To keep it: a larger --reg-covar." in typed
