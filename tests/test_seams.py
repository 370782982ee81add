"""Seams: what a person adds lands in one place. A toy of each kind is defined here, and works through the public door.

The package is not touched, and knows nothing of these toys. Each works in this process, and on a cluster of processes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.base import clone

from daskgmm import GaussianMixture
from daskgmm.cli.fit_options import fit_options
from daskgmm.cli.group import Commands, SectionCommand
from daskgmm.cli.options import log_options
from daskgmm.cli.terminal import in_words_of_the_command_line
from daskgmm.errors import OptionError
from daskgmm.fitting.option import Option, declare, declared
from daskgmm.fitting.options import FitOptions

SEED = 20261127


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


toys = Commands("toys")
toys.add_command(play)


def test_an_option_is_a_parameter_of_the_estimator_with_its_default_and_check(rows: np.ndarray) -> None:
    mixture = ToyMixture(3, toy_share=0.25, random_state=0, n_init=1)
    assert (mixture.toy_share, mixture.toy_mood) == (0.25, None)
    assert clone(mixture).get_params() == mixture.get_params()
    assert "toy_share=0.25" in repr(mixture)
    assert (mixture.fit(rows).weights_ > 0).all()
    assert mixture._fit_options["toy_share"] == 0.25
    for value in (2, -0.1, "half", True, None):
        with pytest.raises(OptionError, match=r"toy_share must be a finite number .*; got "):
            ToyMixture(3, toy_share=value).fit(rows)
    with pytest.raises(OptionError, match=r"toy_mood must be one of None, glad; got 'sad'\."):
        ToyMixture(3, toy_mood="sad").fit(rows)
    with pytest.raises(TypeError, match=r"ToyMixture\(\) got an unexpected keyword argument 'toys'"):
        ToyMixture(3, toys=1)
    with pytest.raises(TypeError, match="toy_share"):
        GaussianMixture(3, toy_share=0.25)


def test_an_option_is_one_of_the_command_line_and_of_a_file(tmp_path: Path) -> None:
    def said(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(toys, ["play", *arguments])
        assert done.exit_code == code, done.output
        return " ".join(done.output.split())

    def call(*arguments: str) -> Any:
        return json.loads(said(*arguments))

    assert call() == {"command": "play", "share": 0.5, "mood": None, "tol": 1e-3}
    assert call("--toy", "0.25", "--mood", "glad")["share"] == 0.25
    assert "How much of a toy. [default: 0.5; 0<=x<=1.0]" in said("--help")
    assert "Invalid value for '--toy': 2.0 is not in the range 0<=x<=1" in said("--toy", "2", code=64)
    file = tmp_path / "toys.toml"
    file.write_text('toy = 0.75\ntol = 1e-5\n[play]\nmood = "glad"\n[fit]\ncomponents = 3\n')
    assert call("--config", str(file)) == {"command": "play", "share": 0.75, "mood": "glad", "tol": 1e-5}
    assert call("--config", str(file), "--toy", "0.5")["share"] == 0.5
    file.write_text("toys = 1\n")
    assert "--config must name options of daskgmm play; got toys in" in said("--config", str(file), code=64)
    file.write_text("toy = 3\n")
    assert "3.0 is not in the range" in said("--config", str(file), code=64)


def test_each_option_is_described_where_people_look() -> None:
    text = GaussianMixture.__doc__ or ""
    named = [name for name, (_, option) in declared(FitOptions).items() if option.of_estimator]
    assert [name for name in named if not re.search(rf"\b{name} : ", text)] == []


def test_a_message_names_an_option_as_each_interface_does() -> None:
    message = "toy_share must be smaller. Decrease toy_share or tol."
    assert in_words_of_the_command_line(message) == "--toy must be smaller. Decrease --toy or --tol."


# -- stopping rules and accelerators -----------------------------------------------------------------------------------


# -- families of covariances -------------------------------------------------------------------------------------------


# -- priors ------------------------------------------------------------------------------------------------------------


# -- kernels -----------------------------------------------------------------------------------------------------------


# -- columns -----------------------------------------------------------------------------------------------------------


# -- sources -----------------------------------------------------------------------------------------------------------


# -- places ------------------------------------------------------------------------------------------------------------
