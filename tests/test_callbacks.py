"""scikit-learn's callbacks, called by a fit."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import sklearn
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from daskgmm import GaussianMixture
from daskgmm.errors import OptionError

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks from 1.9 on")


class Recorder:
    """A callback that notes what it is told, and ends the fit after some iterations."""

    def __init__(self, stop_after: float = np.inf) -> None:
        self.stop_after, self.tasks, self.told, self.ends = stop_after, [], [], 0

    def setup(self, estimator: Any, context: Any) -> None:
        self.depth = 0

    def teardown(self, estimator: Any, context: Any) -> None:
        self.ends += 1

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        self.depth += 1

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, X: Any = None, metadata: Any = None, fitted_estimator: Any = None
    ) -> bool:
        self.depth -= 1
        self.tasks.append(context.task_name)
        self.told.append((X, metadata, fitted_estimator))
        return context.task_name == "em" and fitted_estimator.n_iter_ >= self.stop_after


def two_groups(n_rows: int) -> np.ndarray:
    rows = np.random.default_rng(1).normal(size=(n_rows, 2))
    rows[::2] += 4
    return rows


def plain(**options: Any) -> GaussianMixture:
    return GaussianMixture(2, random_state=0, acceleration=None, **options)


def test_each_pass_is_a_task() -> None:
    X = two_groups(400)
    seen = Recorder()
    mixture = plain().set_callbacks(seen).fit(X)
    assert seen.tasks == [*list(_passes(mixture)), "fit"]
    assert seen.tasks[:2] == ["survey", "start"]
    assert seen.tasks[-2] == "closing"
    assert seen.depth == 0
    assert seen.ends == 1
    last = seen.told[-2][2]
    np.testing.assert_array_equal(last.means_, mixture.means_)
    np.testing.assert_array_equal(last.predict(X), mixture.predict(X))
    bounds = [told[2].lower_bound_ for task, told in zip(seen.tasks, seen.told, strict=True) if task == "em"]
    assert bounds == mixture.lower_bounds_
    np.testing.assert_array_equal(plain().fit(X).means_, mixture.means_)
    assert not any(name.startswith("_callback") for name in vars(mixture))


def _passes(mixture: GaussianMixture) -> list[str]:
    """What each pass was, and one start on the sample."""
    told = []
    for record in mixture.history_:
        if record["what"] != "start" or "start" not in told:
            told.append(record["what"])
    return told


@pytest.mark.filterwarnings("ignore:A callback ended the fit:sklearn.exceptions.ConvergenceWarning")
def test_a_callback_ends_the_fit_and_a_warm_start_goes_on() -> None:
    X = np.random.default_rng(0).normal(size=(600, 2))
    options = {"escape": False, "tol": 1e-7, "max_iter": 300, "means_init": [[-1.0, 0], [1, 0]], "n_init": 1}
    mixture = plain(**options).set_callbacks(Recorder(stop_after=3))
    with pytest.warns(sklearn.exceptions.ConvergenceWarning, match="A callback ended the fit before it converged"):
        mixture.fit(X)
    assert not mixture.converged_
    assert mixture.n_iter_ == 3
    assert [r["status"] for r in mixture.history_ if r["what"] == "em"] == ["running", "running", "called_off"]
    whole = plain(**options).fit(X)
    assert whole.n_iter_ > 6, "or nothing was cut short"
    np.testing.assert_array_equal(mixture.lower_bounds_, whole.lower_bounds_[:3])
    mixture.set_callbacks().set_params(warm_start=True)
    mixture.fit(X)
    assert mixture.converged_
    np.testing.assert_array_equal(mixture.means_, whole.means_)


def test_restarts_are_all_called_off() -> None:
    X = np.random.default_rng(0).normal(size=(3000, 2))
    mixture = plain(init_params="k-means||", n_init=4, tol=0.0, max_iter=50).set_callbacks(Recorder(stop_after=2))
    with pytest.warns(sklearn.exceptions.ConvergenceWarning, match="callback"):
        mixture.fit(X)
    last = [r["status"] for r in mixture.history_ if r["what"] == "em"][-4:]
    assert set(last) == {"called_off"}
    assert mixture.n_iter_ == 2


def test_a_lazy_X_comes_as_it_is_and_is_not_evaluated() -> None:
    reads = []

    def block(block_info: Any = None) -> Any:
        reads.append(block_info)
        return two_groups(100)

    X = da.map_blocks(block, chunks=((100,) * 4, (2,)), dtype=float, meta=np.empty((0, 2)))
    weights = np.ones(400)
    with dask.config.set(scheduler="synchronous"):
        plain().fit(X, sample_weight=weights)
        alone = len(reads)
        seen = Recorder()
        plain().set_callbacks(seen).fit(X, sample_weight=weights)
    assert len(reads) == 2 * alone
    assert all(told is X and metadata["sample_weight"] is weights for told, metadata, _ in seen.told)


def test_progress_bar_and_monitor_of_scikit_learn() -> None:
    pytest.importorskip("rich", reason="scikit-learn's progress bar needs it")
    X = two_groups(400)
    labels = np.arange(400) % 2
    monitor = callback.ScoringMonitor(scoring={"mean": lambda estimator, X, y: estimator.score(X)})
    mixture = plain().set_callbacks(callback.ProgressBar(), monitor).fit(X, labels)
    scores = [row["mean"] for row in monitor.get_logs().data if row["task_name"] == "em"]
    assert len(scores) == mixture.n_iter_
    assert scores[-1] == pytest.approx(mixture.score(X), abs=1e-9)


def test_callbacks_of_a_pipeline_reach_it() -> None:
    pytest.importorskip("rich")

    class Everywhere(Recorder):
        max_propagation_depth = None

    seen = Everywhere()
    make_pipeline(StandardScaler(), plain()).set_callbacks(seen).fit(two_groups(400))
    assert {"survey", "start", "em", "closing"} <= set(seen.tasks)


def test_a_fit_that_fails_tears_callbacks_down() -> None:
    seen = Recorder()
    mixture = plain().set_callbacks(seen)
    with pytest.raises(ValueError, match="NaN"):
        mixture.fit([[np.nan, 1.0], [1.0, 2.0], [3.0, 4.0]])
    assert seen.ends == 1
    mixture.fit(two_groups(100))
    assert seen.ends == 2


def test_older_versions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.callback", None)
    with pytest.raises(OptionError, match=r"scikit-learn must be 1.9 or newer for callbacks; got .* pip install -U"):
        plain().set_callbacks(Recorder())
