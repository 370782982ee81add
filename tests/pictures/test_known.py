"""What was known of a fit, or stood beside its rows, as a person sees it: in results, `inspect`, pages, notebooks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from daskgmm import GaussianMixture, select
from daskgmm.pictures.page import page
from daskgmm.stores.model_file import load_model
from tests.pictures.test_page import Read
from tests.test_cli import call

pytestmark = pytest.mark.filterwarnings("ignore::daskgmm.errors.FitWarning")

RANDOM = np.random.default_rng(3)
ROWS = np.concatenate([RANDOM.normal(0, 1, (300, 2)), RANDOM.normal(7, 1, (300, 2))])
NAMES = ["g", "r"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Rows with gaps, errors and classes beside them."""
    columns = {"g": ROWS[:, 0], "r": ROWS[:, 1].copy(), "e_g": 0.1, "e_r": 0.2, "class": np.full(600, -1)}
    columns["r"][::6] = np.nan
    columns["class"][:50], columns["class"][300:420] = 0, 1
    place = tmp_path / "rows.parquet"
    pd.DataFrame({**columns, "whole": ROWS[:, 1]}).to_parquet(place)
    return place


def shown(table: Path, *options: Any, whole: bool = True) -> tuple[dict[str, Any], list[str], list[str], str]:
    """Return the result of a fit, the sentences of `inspect`, the texts of the page, and what a notebook shows."""
    model = table.with_name("m.zarr")
    command = ("fit", table, "--columns", "g,whole" if whole else "g,r", "-k", 2, "-o", model, "--force", *options)
    result = json.loads(call(*command).stdout)
    inspected = call("inspect", model)
    known = json.loads(inspected.stdout)["known"]
    assert all(sentence in inspected.stderr for sentence in known)
    texts = Read(page(load_model(model), name="m")).texts
    assert set(known) <= set(texts)
    gm = GaussianMixture.load(model)
    gm.save(table.with_name("again.zarr"), overwrite=True)
    assert json.loads(call("inspect", table.with_name("again.zarr")).stdout)["known"] == known, "it goes along"
    notebook = gm._repr_html_()
    return result, known, texts, str(notebook)


def test_gaps(table: Path) -> None:
    result, known, _, notebook = shown(table, "--non-finite", "marginalize", whole=False)
    assert known == ["100 rows have gaps, and count by what they have. Missing: r 16.7%."]
    assert known[0] in notebook
    assert (result["incomplete_rows"], result["missing_shares"]) == (100, [0.0, pytest.approx(1 / 6)])


def test_errors(table: Path) -> None:
    result, known, *_ = shown(table, "--errors", "e_g,e_r")
    assert result["errors"] == "deviations"
    assert known == [
        "The mixture is that of true values: there were standard deviations of the measurement errors of each row."
    ]
    for given, kind in ((np.eye(2) / 9, "covariance"), (np.tile(np.eye(2) / 9, (600, 1, 1)), "covariances")):
        for gm in (
            GaussianMixture(2, random_state=0).fit(ROWS, errors=given),
            select(ROWS, n_components=[2], errors=given).best_,
        ):
            assert gm._about["errors"] == kind


def test_classes(table: Path) -> None:
    result, known, *_ = shown(table, "--labels", "class")
    assert (result["rows_by_class"], result["unlabelled_rows"]) == ([50, 120], 430)
    assert known == ["Rows of known classes: 50 of class 0, 120 of class 1; 430 of unknown class."]


def test_priors_floors_and_what_is_fixed(table: Path) -> None:
    options = ("--covariance-prior", "weak", "--covariance-floor", "relative 1e-3", "--means-init", "[[0,0],[7,7]]",
               "--fixed", '{"means": [true, false]}')  # fmt: skip
    result, known, texts, _ = shown(table, *options)
    gm = GaussianMixture.load(table.with_name("m.zarr"))
    assert result["log_prior"] == pytest.approx(600 * gm.lower_bound_ - gm.log_likelihood_, abs=1e-2)
    mean, scale = ROWS.mean(axis=0), np.cov(ROWS.T, bias=False) / 2
    assert result["prior"]["covariance_prior"] == pytest.approx(scale, rel=1e-9)
    assert result["prior"]["mean_prior"] == pytest.approx(mean, rel=1e-12)
    (prior, fixed, floor) = known
    numbers = f"[{mean[0]:.4g}, {mean[1]:.4g}]"
    assert prior.startswith(
        f"There is a weak prior: means expected at {numbers}; which count as 0.01 rows; covariances of 4 degrees of "
        f"freedom; their scale is [[{scale[0, 0]:.4g}, "
    )
    assert prior.endswith(f"Its log density is {result['log_prior']:,.2f} nats.")
    assert fixed == "As they were given stay the means of component 0."
    assert floor == "No covariance is below 1e-3 times the covariance of all rows."
    assert "log density of the prior, nats" in texts
    assert f"{result['log_prior']:,.2f}" in texts


def test_only_what_applies_is_said(table: Path) -> None:
    result, known, texts, _ = shown(table)
    assert known == []
    assert not {"log_prior", "prior", "errors", "rows_by_class", "incomplete_rows"} & set(result)
    assert not any("prior" in text for text in texts if text != "covariance_prior")
    (best,) = select(ROWS, n_components=[2], random_state=0).estimators
    assert best._about == {}


def test_the_legend_names_the_noise(table: Path) -> None:
    _, _, texts, _ = shown(table, "--noise", 900)
    gm = GaussianMixture.load(table.with_name("m.zarr"))
    assert any("noise, of a uniform density" in text for text in texts)
    figure = gm.plot()
    legends = [ax.get_legend() for ax in figure.axes if ax.get_legend() is not None]
    labels = [text.get_text() for legend in legends for text in legend.get_texts()]
    share = f"{100 * gm.noise_weight_:.1f} %" if gm.noise_weight_ >= 5e-4 else "< 0.1 %"
    assert labels[-1] == f"noise: {share}"
    assert len(labels) == 3
