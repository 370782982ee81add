"""The compiled kernel does what NumPy does: the same softmax, the same sums, to last bits; and the oracle agrees."""

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import daskgmm
from daskgmm.errors import ClusterError
from daskgmm.kernels.block import tile_length
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.loops import loops
from daskgmm.kernels.phi import PANEL
from daskgmm.kernels.plan import DOUBLE, SINGLE, make_plan
from daskgmm.kernels.sums import log_likelihood
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from tests import oracle
from tests.kernels.driving import KERNELS, blocks_of, one_pass, oracle_of, parameters_of, row_set_of
from tests.strategies import KINDS, make_case

compiled = pytest.importorskip("daskgmm.kernels.compiled", reason="numba is not installed (extra: compiled)")

NO_WEIGHTS = np.empty(0)


def softmax(log_density, weights=NO_WEIGHTS):
    resp, out = log_density.copy(), np.empty(log_density.shape[1])
    scratch = np.empty((2, log_density.shape[1]), log_density.dtype)
    smallest = log_density.dtype.type(
        DOUBLE.smallest_log_resp if resp.dtype == np.float64 else SINGLE.smallest_log_resp
    )
    compiled.softmax(resp, weights, out, scratch, smallest)
    return resp, out


def exact_softmax(log_density):
    wide = log_density.astype(np.longdouble)
    highest = wide.max(axis=0)
    e = np.exp(wide - highest)
    return e / e.sum(axis=0), highest + np.log(e.sum(axis=0))


# -- softmax ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_rows", [1, 7, 512, 513, 2000])
@pytest.mark.parametrize("n_components", [1, 2, 9])
def test_softmax_equals_long_doubles(dtype, n_rows, n_components):
    rng = np.random.default_rng(n_rows)
    log_density = (rng.standard_normal((n_components, n_rows)) * 20 - 500).astype(dtype)
    resp, found = softmax(log_density)
    expected_resp, expected = exact_softmax(log_density)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(resp, expected_resp.astype(float), rtol=20 * eps, atol=float(np.exp(-59.0)))
    # Of the row's own size: log-densities of -500 are themselves good to 500 u.
    np.testing.assert_allclose(found, expected.astype(float), rtol=eps)
    np.testing.assert_allclose(resp.sum(axis=0), 1.0, rtol=20 * eps)


@pytest.mark.parametrize(("dtype", "smallest"), [(np.float64, -100.0), (np.float32, -60.0)])
def test_exponentials_are_good_to_the_last_digits_over_their_whole_range(dtype, smallest):
    x = np.linspace(smallest, 0, 100_003).astype(dtype)
    resp, _ = softmax(np.stack([np.zeros_like(x), x]))
    ratio = resp[1].astype(np.longdouble) / resp[0]
    assert ratio[0] == 0
    np.testing.assert_allclose(
        (ratio[1:] / np.exp(x[1:].astype(np.longdouble))).astype(float), 1, rtol=3 * np.finfo(dtype).eps
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_softmax_has_exact_zeros_and_no_denormals(dtype):
    log_density = np.random.default_rng(0).uniform(-800, 0, (20, 1000)).astype(dtype)
    log_density[3] = -np.inf
    resp, _ = softmax(log_density)
    assert not resp[3].any()
    assert not np.any((resp != 0) & (resp < np.finfo(dtype).tiny))
    assert np.all(resp >= 0)


def test_rows_are_weighted_after_the_softmax():
    rng = np.random.default_rng(0)
    log_density, weights = rng.standard_normal((3, 700)), rng.uniform(0, 3, 700)
    resp, found = softmax(log_density, weights)
    alone, expected = softmax(log_density)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(resp, alone * weights, rtol=1e-15)


@pytest.mark.parametrize("where", [0, 2])
def test_what_is_no_number_stays_none(where):
    log_density = np.zeros((4, 9))
    log_density[where, 5] = np.nan
    _, found = softmax(log_density)
    assert np.isnan(found[5])
    assert np.isfinite(np.delete(found, 5)).all()


# -- the whole block -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_features", [1, 2, 3, 4, 5, 15, 40, 72])
@pytest.mark.parametrize(("kind", "kernel"), [(kind, kernel) for kind in KINDS for kernel in KERNELS])
def test_sums_equal_numpys(kind, kernel, n_features, weighted):
    case = make_case(kind, seed=0, n_rows=700, n_components=3, n_features=n_features)
    w = np.random.default_rng(1).uniform(0, 3, 700) if weighted else None
    plan = make_plan(parameters_of(case), origin=row_set_of(case.X, w).mean, kernel=kernel)
    cuts = [0, 1, 520, 700]
    (expected,) = one_pass(case.X, [plan], w, cuts)
    (found,) = one_pass(case.X, [plan], w, cuts, compiled=True)
    scale = np.abs(expected.values).max()
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-12, atol=1e-13 * scale)
    assert found.n_rows == 700
    assert found.weight == pytest.approx(expected.weight, rel=1e-15)


@pytest.mark.parametrize("precision", [DOUBLE, SINGLE])
@pytest.mark.parametrize("n_features", [1, 5, 40, 72])
@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_beside_components_in_the_exact_form(kind, n_features, precision):
    case = make_case(kind, seed=0, n_rows=700, n_components=3, n_features=n_features)
    plan = make_plan(parameters_of(case), origin=case.X.mean(axis=0), kernel="phi", precision=precision)
    plan = replace(plan, exact=np.array([False, True, False]))
    (expected,) = one_pass(case.X, [plan], cuts=[0, 1, 520, 700])
    (found,) = one_pass(case.X, [plan], cuts=[0, 1, 520, 700], compiled=True)
    scale, rtol = np.abs(expected.values).max(), {"double": 1e-12, "single": 1e-4}[precision.name]
    np.testing.assert_allclose(found.values, expected.values, rtol=rtol, atol=rtol * scale / 10)


@pytest.mark.parametrize("kind", KINDS)
def test_sums_equal_the_oracle(kind):
    case = make_case(kind, seed=4, n_rows=150, n_components=3, n_features=4)
    w = np.random.default_rng(1).uniform(0, 3, len(case.X))
    parameters, row_set = parameters_of(case), row_set_of(case.X, w)
    plan = make_plan(parameters, origin=row_set.mean, kernel="phi")
    (found,) = one_pass(case.X, [plan], w, [0, 1, 50, 150], compiled=True)
    step = oracle.em_step(kind, case.X, oracle_of(parameters), row_weights=w)
    np.testing.assert_allclose(found.panel(3)[:, -1], step.counts.astype(float), rtol=1e-12)
    assert log_likelihood(found, plan, row_set) == pytest.approx(float(step.log_likelihood), rel=1e-12)


def test_many_features_go_in_panels():
    # 72 features have 2,701 numbers in Phi: six panels, the last one short.
    case = make_case("full", seed=1, n_rows=300, n_components=8, n_features=72)
    plan = make_plan(parameters_of(case), origin=case.X.mean(axis=0), kernel="phi", compiled=True)
    assert plan.n_statistics > 5 * PANEL
    estep = EStep([plan])
    (found,) = estep.finish(estep.update(estep.zero(), blocks_of(case.X)[0]))
    (expected,) = one_pass(case.X, [plan])
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-11, atol=1e-12 * np.abs(expected.values).max())
    assert estep._local.work.get("panel", (1,)).base.size == PANEL * 256


def test_adding_is_compensated():
    total, correction = np.zeros(1), np.zeros(1)
    for _ in range(100_000):
        compiled.add(total, correction, np.array([0.1]))
    assert total[0] == 0.1 * 100_000
    plain = 0.0  # not sum(): from Python 3.12 on it compensates too
    for _ in range(100_000):
        plain += 0.1
    assert plain != 0.1 * 100_000


@pytest.mark.parametrize("n_features", [2, 33, 72])
def test_the_bits_of_a_candidate_do_not_depend_on_its_company(n_features):
    # Alone, a block goes to the kernel whole; in company tile by tile.
    n_rows = 4 * tile_length(n_features) + 1
    case = make_case("full", seed=0, n_rows=n_rows, n_components=3, n_features=n_features)
    w = np.random.default_rng(1).uniform(0, 3, n_rows)
    origin = case.X.mean(axis=0)
    plan = make_plan(parameters_of(case), origin=origin, kernel="phi")
    others = [
        make_plan(
            parameters_of(make_case(kind, seed=5, n_rows=1, n_components=k, n_features=n_features)),
            origin=o, kernel=kernel, precision=precision,
        )
        for kind in KINDS for k, o, kernel in [(2, origin, "phi"), (4, origin + 1, "exact")]
        for precision in (DOUBLE, SINGLE)
    ]  # fmt: skip
    cuts = [0, 100, 101, n_rows]
    (alone,) = one_pass(case.X, [plan], w, cuts, compiled=True)
    for plans, i in [([plan, *others], 0), ([*others, plan], -1), ([*others[:5], plan, *others[5:]], 5)]:
        np.testing.assert_array_equal(one_pass(case.X, plans, w, cuts, compiled=True)[i].values, alone.values)


def test_a_component_of_weight_zero_has_no_rows():
    case = make_case("full", seed=0, n_rows=150, n_components=3, n_features=3)
    parameters = parameters_of(case)
    object.__setattr__(parameters, "weights", np.array([0.5, 0.0, 0.5]))
    (found,) = one_pass(case.X, [make_plan(parameters, origin=case.X.mean(axis=0))], compiled=True)
    assert np.isfinite(found.values).all()
    assert not found.panel(3)[1].any()


def test_rows_far_out_and_far_away_are_the_same_as_by_numpy():
    rng = np.random.default_rng(0)
    X = 1e8 + rng.standard_normal((400, 3))
    X[7] += 1e6
    identity = np.stack([np.eye(3)] * 2)
    parameters = Parameters.from_covariances(family_called("full"), np.full(2, 0.5), X[:2], identity)
    plan = make_plan(parameters, origin=X.mean(axis=0))
    (expected,) = one_pass(X, [plan])
    (found,) = one_pass(X, [plan], compiled=True)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-11)


def test_the_choice_travels_with_the_pass():
    case = make_case("full", seed=0, n_rows=50, n_components=3, n_features=3)
    plan = make_plan(parameters_of(case), origin=case.X.mean(axis=0), precision=SINGLE, compiled=True)
    estep = EStep([plan])
    copy = pickle.loads(pickle.dumps(estep))
    assert copy.plans[0].compiled
    assert copy.plans[0].precision is SINGLE
    block = blocks_of(case.X)[0]
    np.testing.assert_array_equal(
        copy.update(copy.zero(), block)[0].values, estep.update(estep.zero(), block)[0].values
    )


def test_a_worker_without_numba_says_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "daskgmm.kernels.compiled", None)
    monkeypatch.delattr("daskgmm.kernels.compiled", raising=False)
    with pytest.raises(ClusterError, match=r"numba .*daskgmm\[compiled\].*DASK_DASKGMM__COMPILED=False"):
        loops()


def test_what_is_kept_on_disk_is_of_these_very_files(tmp_path: Path) -> None:
    """Loops are compiled with functions and constants of other files: a change of one compiles them anew."""
    shutil.copytree(Path(daskgmm.__file__).parent, tmp_path / "daskgmm", ignore=shutil.ignore_patterns("__pycache__"))
    text = (
        "import numpy as np\n"
        "from daskgmm.kernels.compiled import label\n"
        "label(np.zeros((2, 8)), np.zeros(8), np.zeros(8, dtype=np.int64))\n"
        "print(sum(label.stats.cache_hits.values()), sum(label.stats.cache_misses.values()))"
    )

    def hits_and_misses() -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        run = [sys.executable, "-c", text]
        return subprocess.run(run, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert hits_and_misses() == "0 1\n"
    assert hits_and_misses() == "1 0\n"
    changed = tmp_path / "daskgmm" / "kernels" / "error_matrices.py"
    changed.write_text(changed.read_text(encoding="utf-8") + "\n# (changed)\n", encoding="utf-8")
    assert hits_and_misses() == "0 1\n"
