"""Starts by k-means||: points that stand for all rows, far groups included, and mixtures made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from daskgmm import GaussianMixture
from daskgmm.errors import CollapsedComponentError
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.parallel_start import far_points, parallel_starts
from daskgmm.passes.rows import Rows
from daskgmm.passes.tree import run_pass
from daskgmm.sources.opening import open_rows
from tests import oracle
from tests.fitting.driving import KINDS
from tests.passes.test_tree import CountingExecutor, Pieces
from tests.strategies import make_case

Run = Callable[[Any, str], Any]


def running(rows: Any, weights: Any = None, *, step: int = 10**9) -> tuple[Run, list[str]]:
    """Return what runs a pass over the rows, and the list in which it notes the names."""
    source, names = Pieces(rows, step), []
    cut = Rows(source, None if weights is None else open_rows(weights), source.chunk_edges)

    def run(work: Any, name: str) -> Any:
        names.append(name)
        return run_pass(work, cut, CountingExecutor(), name=name)

    return run, names


def points_of(rows: Any, weights: Any = None, *, n_components: int, step: int = 10**9, seed: int = 0) -> Any:
    w = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=float)
    mean = rows[0] + w @ (rows - rows[0]) / w.sum()
    variances = w @ (rows - mean) ** 2 / w.sum()
    run, _ = running(rows, weights, step=step)
    return far_points(run, mean=mean, variances=variances, n_components=n_components, seed=seed)


def with_far_groups(n_rows: int = 20_000) -> tuple[Any, Any]:
    """Return rows of one large group and three groups of 20 rows far from it, and the centres of these."""
    rng = np.random.default_rng(5)
    far = np.array([[60.0, 0, 0], [0, -60, 0], [0, 40, 50]])
    groups = [c + 0.3 * rng.standard_normal((20, 3)) for c in far]
    return rng.permutation(np.concatenate([rng.standard_normal((n_rows, 3)), *groups])), far


# -- the points -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("weighted", [False, True])
def test_points_have_the_moments_of_all_rows(weighted: bool) -> None:
    rows, _ = with_far_groups(3000)
    w = np.random.default_rng(1).integers(0, 3, len(rows)).astype(float) if weighted else np.ones(len(rows))
    points, weights, spread = points_of(rows, w if weighted else None, n_components=4)
    assert len(points) <= 1 + 5 * 2 * 4
    assert np.all(weights > 0)
    assert weights.sum() == w.sum()
    mean = w @ rows / w.sum()
    assert_allclose(weights @ points / weights.sum(), mean, rtol=1e-9, atol=1e-12)
    variances = w @ (rows - mean) ** 2 / w.sum()
    assert_allclose(weights @ ((points - mean) ** 2 + spread) / weights.sum(), variances, rtol=1e-9)


def test_points_are_the_same_whatever_the_partitions_and_others_for_another_seed() -> None:
    rows, _ = with_far_groups(3000)
    whole, parts = (points_of(rows, n_components=4, step=step) for step in (10**9, 300))
    for a, b in zip(whole, parts, strict=True):
        assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert not np.array_equal(points_of(rows, n_components=4, seed=1)[0], whole[0])


def test_groups_of_twenty_rows_among_many_are_found() -> None:
    rows, far = with_far_groups()
    points, weights, _ = points_of(rows, n_components=4)
    for centre in far:
        assert weights[np.linalg.norm(points - centre, axis=1) < 3].sum() == 20


def test_a_round_is_a_pass_and_there_are_no_rounds_when_every_row_is_a_centre() -> None:
    rows, _ = with_far_groups(1000)
    run, names = running(rows)
    far_points(run, mean=rows.mean(axis=0), variances=rows.var(axis=0), n_components=2, seed=0, n_rounds=3)
    assert names == ["far-rows"] * 3 + ["nearest"]
    run, names = running(np.repeat([[0.0], [1.0], [5.0]], 4, axis=0))
    points, weights, spread = far_points(run, mean=np.array([2.0]), variances=np.array([1.0]), n_components=20, seed=0)
    assert names == ["far-rows"] * 2 + ["nearest"]
    assert sorted(points[:, 0]) == [0, 1, 5]
    assert_array_equal(weights, [4, 4, 4])
    assert_array_equal(spread, np.zeros((3, 1)))


# -- the mixtures -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_start_has_the_moments_of_the_rows_near_its_points(kind: str) -> None:
    """Against moments of rows that stand for the points: two a feature, as far off as their spread says."""
    rng = np.random.default_rng(2)
    points = rng.standard_normal((30, 2)) + np.where(np.arange(30) < 15, 0.0, 40.0)[:, np.newaxis]
    weights, spread = rng.uniform(1, 9, 30), rng.uniform(0.5, 2, (30, 2))
    options = FitOptions(n_components=2, covariance_type=kind, reg_covar=1e-3)
    (found,) = parallel_starts(points, weights, spread, options, 1)
    order = np.argsort(found.means[:, 0])
    offsets = np.sqrt(2 * spread)[:, :, np.newaxis] * np.eye(2)
    rows = np.concatenate([points + sign * offsets[:, j] for j in range(2) for sign in (-1, 1)])
    w, right = np.tile(weights / 4, 4), np.tile(np.arange(30) >= 15, 4)
    groups = [(rows[side], w[side]) for side in (~right, right)]
    means = np.stack([v @ r / v.sum() for r, v in groups])
    shares = np.array([v.sum() for _, v in groups]) / w.sum()
    full = np.stack([(r - m).T * v @ (r - m) / v.sum() for (r, v), m in zip(groups, means, strict=True)])
    assert_allclose(found.weights[order], shares, rtol=1e-12)
    assert_allclose(found.means[order], means, rtol=1e-12)
    dense = oracle.dense(kind, found.covariances, 2, 2)[order]
    expected = {
        "full": full,
        "tied": np.broadcast_to(np.tensordot(shares, full, axes=1), (2, 2, 2)),
        "diag": full * np.eye(2),
        "spherical": np.stack([np.trace(c) / 2 * np.eye(2) for c in full]),
    }[kind]
    assert_allclose(dense, expected + 1e-3 * np.eye(2), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_of_one_row_has_a_share_of_the_variance(kind: str) -> None:
    rng = np.random.default_rng(2)
    points = np.concatenate([rng.standard_normal((30, 2)), [[1000.0, 0]]])
    weights, spread = np.append(np.full(30, 100.0), 1.0), np.concatenate([np.ones((30, 2)), np.zeros((1, 2))])
    options = FitOptions(n_components=2, covariance_type=kind, reg_covar=0.0)
    (found,) = parallel_starts(points, weights, spread, options, 1)
    alone = int(found.means[:, 0].argmax())
    variances = np.diagonal(oracle.dense(kind, found.covariances, 2, 2), axis1=1, axis2=2)
    if kind != "tied":
        within = 1 + points[:30].var(axis=0)
        assert_allclose(variances[alone], 0.01 * (within if kind != "spherical" else within.mean()), rtol=1e-2)
    assert found.weights[alone] == pytest.approx(1 / 3001)
    assert np.all(variances[1 - alone] > 0.9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_from_such_a_start_finds_the_far_groups(kind: str) -> None:
    rows, far = with_far_groups()
    points = points_of(rows, n_components=4)
    options = FitOptions(n_components=4, covariance_type=kind)
    for start in parallel_starts(*points, options, 2):
        gm = GaussianMixture(
            4, covariance_type=kind, weights_init=start.weights, means_init=start.means,
            precisions_init=start.shape.precisions(start.precisions_cholesky),
        ).fit(rows)  # fmt: skip
        for centre in far:
            k = np.linalg.norm(gm.means_ - centre, axis=1).argmin()
            assert np.linalg.norm(gm.means_[k] - centre) < 1
            assert gm.weights_[k] * len(rows) == pytest.approx(20, rel=1e-3)


def test_starts_are_seeded_and_each_restart_has_its_own() -> None:
    rows = np.random.default_rng(0).standard_normal((2000, 2))
    points = points_of(rows, n_components=5)
    first, again, other = (parallel_starts(*points, FitOptions(n_components=5, seed=seed), 4) for seed in (0, 0, 1))
    assert len({p.means.tobytes() for p in first}) == 4
    assert [p.means.tobytes() for p in first] == [p.means.tobytes() for p in again]
    assert not {p.means.tobytes() for p in first} & {p.means.tobytes() for p in other}


@pytest.mark.parametrize("kind", KINDS)
def test_units_and_origin_of_the_features_drop_out(kind: str) -> None:
    case = make_case("diag", seed=0, n_rows=2000, n_components=3, n_features=2, separation=8.0)
    options = FitOptions(n_components=3, covariance_type=kind, reg_covar=0.0)
    rows = np.round(case.X * 2**10) / 2**10
    (plain,) = parallel_starts(*points_of(rows, n_components=3), options, 1)
    (moved,) = parallel_starts(*points_of(rows * 2.0 + 2.0**26, n_components=3), options, 1)
    assert_allclose(moved.means, plain.means * 2.0 + 2.0**26, rtol=1e-15)
    assert_allclose(moved.weights, plain.weights, rtol=1e-12)
    assert_allclose(moved.covariances, plain.covariances * 4, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_feature_has_the_variance_reg_covar(kind: str) -> None:
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.standard_normal(500), np.full(500, 1e8)])
    options = FitOptions(n_components=3, covariance_type=kind, reg_covar=0.25)
    (found,) = parallel_starts(*points_of(rows, n_components=3), options, 1)
    dense = oracle.dense(kind, found.covariances, 3, 2)
    if kind != "spherical":
        assert_allclose(dense[:, 1], np.broadcast_to([0, 0.25], (3, 2)), rtol=1e-12, atol=1e-12)
    assert_array_equal(found.means[:, 1], np.full(3, 1e8))


def test_what_the_user_gave_takes_the_place_of_what_was_found() -> None:
    points = np.random.default_rng(0).standard_normal((30, 2)), np.ones(30), np.ones((30, 2))
    own = {"weights_init": [0.25, 0.75], "means_init": [[0.0, 1], [2, 3]], "precisions_init": [[4.0, 1], [9, 1]]}
    options = FitOptions(n_components=2, covariance_type="diag", **{k: np.array(v) for k, v in own.items()})
    (found,) = parallel_starts(*points, options, 1)
    assert_array_equal(found.weights, own["weights_init"])
    assert_array_equal(found.means, own["means_init"])
    assert_allclose(found.covariances, 1 / np.array(own["precisions_init"]))
    (free,) = parallel_starts(*points, FitOptions(n_components=2, covariance_type="diag"), 1)
    (some,) = parallel_starts(
        *points, FitOptions(n_components=2, covariance_type="diag", means_init=own["means_init"]), 1
    )
    assert_array_equal(some.means, own["means_init"])
    assert_array_equal(some.covariances, free.covariances)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_distinct_rows_than_components(kind: str) -> None:
    rows = np.repeat([[0.0, 0.0], [10.0, 10.0]], 20, axis=0)
    points = points_of(rows, n_components=5)
    assert sorted(points[0][:, 0]) == [0, 10]
    (found,) = parallel_starts(*points, FitOptions(n_components=5, covariance_type=kind, reg_covar=0.1), 1)
    assert found.weights.sum() == pytest.approx(1)
    assert set(np.round(found.means[:, 0], 9)) == {0.0, 10.0}
    dense = oracle.dense(kind, found.covariances, 5, 2)
    rows_of_it = found.weights > 1e-12
    assert_allclose(dense[rows_of_it], np.broadcast_to(0.1 * np.eye(2), dense[rows_of_it].shape), atol=1e-12)
    with pytest.raises(CollapsedComponentError, match="Decrease n_components, increase reg_covar"):
        parallel_starts(*points, FitOptions(n_components=5, covariance_type=kind, reg_covar=0.0), 3)


def test_points_that_are_alike() -> None:
    points = np.zeros((1, 2)), np.ones(1), np.ones((1, 2))
    (found,) = parallel_starts(*points, FitOptions(n_components=3), 1)
    assert_allclose(found.covariances, np.broadcast_to((1 + 1e-6) * np.eye(2), (3, 2, 2)))


def test_every_start_is_where_k_means_of_all_rows_stops() -> None:
    """Giving each point to its nearest mean and taking weighted means changes nothing, in either kind of restart."""
    rng = np.random.default_rng(8)
    points, weights = rng.standard_normal((80, 2)), rng.pareto(0.7, 80) + 1
    mean = weights @ points / weights.sum()
    points = (points - mean) / np.sqrt(weights @ (points - mean) ** 2 / weights.sum())
    for found in parallel_starts(points, weights, np.zeros((80, 2)), FitOptions(n_components=6), 4):
        labels = np.linalg.norm(points[:, np.newaxis] - found.means, axis=2).argmin(axis=1)
        again = [weights[labels == k] @ points[labels == k] / weights[labels == k].sum() for k in range(6)]
        assert_allclose(found.means, again, rtol=1e-12, atol=1e-12)
        assert_allclose(found.weights, np.bincount(labels, weights) / weights.sum(), rtol=1e-12)


def test_restarts_take_turns_in_how_light_groups_count() -> None:
    """The first keeps a far group by the root of its weight; the second would keep a single row as well."""
    rng = np.random.default_rng(8)
    points = np.concatenate([rng.standard_normal((60, 2)), [[12.0, 0.0]]])
    points[:30] += [0, 4]
    weights, spread = np.append(np.full(60, 1e6), 1.0), np.full((61, 2), 0.1)
    first, second = parallel_starts(points, weights, spread, FitOptions(n_components=3), 2)
    assert first.means[:, 0].max() < 6
    assert second.means[:, 0].max() == pytest.approx(12)
