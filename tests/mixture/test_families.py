"""mclust's fourteen families and low rank: each M-step is a maximum, and knows no more than it may."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.optimize import minimize
from sklearn.decomposition import PCA, FactorAnalysis

from daskgmm.errors import CollapsedComponentError, OptionError
from daskgmm.mixture.families.low_rank import low_rank_name
from daskgmm.mixture.family import GROUPS, families_of, family_called, family_of
from daskgmm.mixture.moments import SMALLEST_COUNT, Moments
from daskgmm.mixture.parameters import check_start
from daskgmm.mixture.prior import Ridge, maximise
from daskgmm.mixture.shapes.full import FULL
from tests.mixture.families import FOURTEEN, Member, dense, expected, scatters

LOW = ("lowrank-1", "lowrank-2", "lowrank-1-feature", "lowrank-2-feature")
ITERATED = ("VEI", "VEE", "VEV", "EVE", "VVE")


def m_step(name, counts, matrices, previous=None):
    """The M-step of a family for covariances as matrices, in the family's own shape."""
    family = family_called(name)
    central = family.shape.from_matrices(matrices, counts)
    if previous is None:
        whole = np.tensordot(counts / counts.sum(), matrices, axes=1)
        previous = family.shape.from_matrices(np.array([whole] * len(counts)), counts)
    return family.maximise(counts, central, previous)


def found_by(name, counts, matrices, previous=None):
    """The same as matrices."""
    return dense(m_step(name, counts, matrices, previous), *matrices.shape[:2])


def random_member(name, seed, n_components, n_features):
    """A member that has nothing to do with any rows."""
    random = np.random.default_rng(seed)
    one = Member(name, np.array([np.eye(n_features)] * n_components))
    return one.moved(0.7 * random.standard_normal(sum(one.sizes)))


def test_the_fourteen_are_mclusts_and_four_have_two_names():
    assert GROUPS["mclust"] == FOURTEEN
    for ours, theirs in (("full", "VVV"), ("tied", "EEE"), ("diag", "VVI"), ("spherical", "VII")):
        one, other = family_called(ours), family_called(theirs)
        assert (type(one), one.shape, other.name) == (type(other), other.shape, theirs)


@pytest.mark.parametrize("n_components", [1, 3])
@pytest.mark.parametrize("n_features", [1, 2, 4])
@pytest.mark.parametrize("name", FOURTEEN)
def test_free_parameters_are_the_rank_of_what_free_numbers_move(name, n_features, n_components):
    member = Member(name, random_member(name, 1, n_components, n_features))
    step, n_numbers = 1e-5, sum(member.sizes)
    slopes = [(member.moved(step * e) - member.moved(-step * e)).ravel() / (2 * step) for e in np.eye(n_numbers)]
    assert family_called(name).n_parameters(n_components, n_features) == np.linalg.matrix_rank(slopes, tol=1e-6)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("n_components", "n_features"), [(3, 2), (4, 3), (2, 5)])
@pytest.mark.parametrize("name", FOURTEEN)
def test_the_m_step_is_at_a_maximum_within_its_family(name, n_components, n_features, seed):
    counts, S = scatters(seed, n_components, n_features)
    found = found_by(name, counts, S)
    member = Member(name, found)
    n_numbers = sum(member.sizes)
    np.testing.assert_allclose(member.moved(np.zeros(n_numbers)), found, rtol=1e-9, atol=1e-12)
    best, random = expected(counts, S, found), np.random.default_rng(seed)
    for _ in range(12):
        way = random.standard_normal(n_numbers)
        way /= np.linalg.norm(way)
        ahead, back = (expected(counts, S, member.moved(sign * 1e-3 * way)) for sign in (1, -1))
        assert max(ahead, back) < best
        assert abs(ahead - back) / 2e-3 < 1e-4 * counts.sum(), "no slope at a maximum"


@pytest.mark.parametrize("name", ["EVI", *ITERATED, "EEV", "EVV"])
def test_no_other_member_is_more_likely(name):
    """A search over the free numbers, from starts at random, ends no higher."""
    counts, S = scatters(5, 2, 3)
    best = expected(counts, S, found_by(name, counts, S))
    reached = []
    for seed in range(5):
        member = Member(name, random_member(name, seed, 2, 3))
        search = minimize(lambda x, m=member: -expected(counts, S, m.moved(x)), np.zeros(sum(member.sizes)))
        reached.append(-search.fun)
    assert max(reached) == pytest.approx(best, abs=1e-3), "the same maximum"
    assert max(reached) < best + 1e-6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FOURTEEN)
def test_it_is_never_less_likely_than_a_member_before(name, seed):
    counts, S = scatters(seed, 4, 3)
    family, before = family_called(name), random_member(name, 10 + seed, 4, 3)
    previous = family.shape.from_matrices(before, counts)
    assert expected(counts, S, found_by(name, counts, S, previous)) >= expected(counts, S, before)
    again = m_step(name, counts, S, m_step(name, counts, S, previous))
    np.testing.assert_allclose(again, m_step(name, counts, S, previous), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", FOURTEEN)
def test_a_member_is_its_own_m_step(name):
    counts, before = np.array([3.0, 40.0, 7.0]), random_member(name, 4, 3, 4)
    np.testing.assert_allclose(found_by(name, counts, before), before, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", FOURTEEN)
def test_with_one_component_families_of_one_kind_are_one(name):
    counts, S = scatters(3, 1, 4)
    kind = {"I": {"I": "spherical", "E": "diag", "V": "diag"}[name[1]]}.get(name[2], "full")
    np.testing.assert_allclose(found_by(name, counts, S), found_by(kind, counts, S), rtol=1e-9, atol=1e-12)
    one = [family_called(each).n_parameters(1, 4) for each in (name, kind)]
    assert one[0] == one[1]


@pytest.mark.parametrize("name", FOURTEEN)
def test_with_one_feature_there_are_two_families(name):
    counts, S = scatters(3, 4, 1)
    volume = "E" if name[0] == "E" else "V"
    np.testing.assert_allclose(found_by(name, counts, S), found_by(f"{volume}II", counts, S), rtol=1e-9)


@pytest.mark.parametrize("name", [*FOURTEEN, "lowrank-2", "lowrank-1-feature"])
def test_units_and_axes_matter_where_the_family_says_so(name):
    counts, S = scatters(8, 3, 4)
    found, random = found_by(name, counts, S), np.random.default_rng(0)
    scale = np.diag([1e-3, 2.0, 50.0, 1e4])
    rescaled = found_by(name, counts, scale @ S @ scale)
    is_same = np.allclose(np.linalg.inv(scale) @ rescaled @ np.linalg.inv(scale), found, rtol=1e-4, atol=1e-5)
    assert is_same == family_called(name).rescales
    turn = expm((lambda a: a - a.T)(random.standard_normal((4, 4))))
    turned = turn.T @ found_by(name, counts, turn @ S @ turn.T) @ turn
    knows_axes = name in ("EEI", "VEI", "EVI", "VVI") or name.endswith("feature")
    assert np.allclose(turned, found, rtol=1e-6, atol=1e-8) != knows_axes


@pytest.mark.parametrize("name", [*FOURTEEN, *LOW])
def test_a_component_without_rows_changes_nothing_and_stays(name):
    counts, S = scatters(2, 3, 6)
    family, before = family_called(name), found_by(name, *scatters(9, 4, 6))
    previous = family.shape.from_matrices(before, np.ones(4))
    central = family.shape.from_matrices(np.concatenate([S, np.zeros((1, 6, 6))]), np.append(counts, 0.0))
    moments = Moments(np.append(counts, SMALLEST_COUNT), np.zeros((4, 6)), central)
    found = maximise(moments, family, previous=previous, prior=Ridge(0.0))
    ours = dense(found.covariances, 4, 6)
    rest = m_step(name, counts, S, family.shape.from_matrices(before[:3], np.ones(3)))
    np.testing.assert_allclose(ours[:3], dense(rest, 3, 6), rtol=1e-7, atol=1e-9)
    assert np.isfinite(ours).all()
    assert (np.linalg.eigvalsh(ours) > 0).all()
    if name in ("VII", "VVI", "VVV", *LOW):
        np.testing.assert_array_equal(ours[3], before[3])
    elif name in ("EVV", "EVI"):  # (its own shape, the common volume)
        np.testing.assert_allclose(ours[3] / ours[3, 0, 0], before[3] / before[3, 0, 0], rtol=1e-9, atol=1e-12)
        assert np.linalg.det(ours[3]) == pytest.approx(np.linalg.det(ours[0]))
    elif name in ("EEV", "VEV"):  # (its own axes)
        np.testing.assert_allclose(ours[3] @ before[3], before[3] @ ours[3], rtol=1e-9, atol=1e-9)
    elif name[0] == "E" and name in ("EII", "EEI", "EEE"):
        np.testing.assert_allclose(ours[3], ours[0], rtol=1e-12)
    again = maximise(moments, family, previous=found.covariances, prior=Ridge(0.0)).covariances
    np.testing.assert_allclose(again, found.covariances, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", [*FOURTEEN, "lowrank-2", "lowrank-2-feature"])
def test_a_singular_component_is_named_unless_the_others_carry_it(name):
    counts, S = np.array([150.0, 20.0, 80.0]), scatters(2, 3, 5)[1]
    row = np.random.default_rng(1).standard_normal(5)
    for matrix, of_a_line in ((np.zeros((5, 5)), False), (np.outer(row, row), True)):
        S[1] = matrix
        family = family_called(name)
        moments = Moments(counts, np.zeros((3, 5)), family.shape.from_matrices(S, counts))
        previous = family.shape.from_matrices(np.array([np.eye(5)] * 3), counts)
        carried = name in ("EII", "EEI", "EEE", "EEV") or (
            of_a_line and name in ("VII", "VEI", "EVI", "VVI", "VEE", "VEV")
        )
        if carried:
            found = maximise(moments, family, previous=previous, prior=Ridge(0.0)).covariances
            assert np.isfinite(found).all()
        else:
            with pytest.raises(CollapsedComponentError, match="the covariance of component 1 must be positive"):
                maximise(moments, family, previous=previous, prior=Ridge(0.0))
        maximise(moments, family, previous=previous, prior=Ridge(1e-6))


@pytest.mark.parametrize("name", ["VEI", "VEE", "VEV"])
def test_most_rows_in_one_direction_leave_no_common_shape(name):
    """A common shape ever thinner gains more for such a component than others lose."""
    S = scatters(2, 3, 5)[1]
    S[1] = np.outer(np.eye(5)[0], np.eye(5)[0])
    family, counts = family_called(name), np.array([20.0, 400.0, 20.0])
    moments = Moments(counts, np.zeros((3, 5)), family.shape.from_matrices(S, counts))
    previous = family.shape.from_matrices(np.array([np.eye(5)] * 3), counts)
    with pytest.raises(CollapsedComponentError, match="the covariance of component 1 must be positive"):
        maximise(moments, family, previous=previous, prior=Ridge(0.0))
    assert np.isfinite(maximise(moments, family, previous=previous, prior=Ridge(1e-6)).covariances).all()


def test_many_features_share_axes_to_the_optimum():
    """Members in 24 features are found again from far away, and rows of none end where nothing pulls."""
    for name in ("EVE", "VVE"):
        counts, S = scatters(0, 5, 24)
        member = random_member(name, 3, 5, 24)
        np.testing.assert_allclose(found_by(name, counts, member), member, rtol=1e-7, atol=1e-8)
        found = found_by(name, counts, S)
        one = Member(name, found)
        u = one.axes[0]
        q = np.array([u.T @ s @ u for s in S])
        v = np.array([np.diag(u.T @ c @ u) for c in found])
        pull = sum(n * each / own for n, each, own in zip(counts, q, v, strict=True))
        assert np.abs(pull - pull.T).max() < 1e-5 * counts.sum()


# -- low rank -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n_factors", [1, 2, 3])
def test_factors_are_principal_components(n_factors):
    X = np.random.default_rng(0).standard_normal((300, 5)) @ np.diag([3, 2, 1, 0.5, 0.4])
    theirs = PCA(n_factors).fit(X).get_covariance() * (299 / 300)  # (which divides by n - 1)
    S = np.cov(X.T, bias=True)[np.newaxis]
    np.testing.assert_allclose(found_by(f"lowrank-{n_factors}", np.ones(1), S)[0], theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n_factors", [1, 3])
def test_factors_and_own_noise_are_those_of_factor_analysis(n_factors):
    random = np.random.default_rng(4)
    X = random.standard_normal((500, 3)) @ random.standard_normal((3, 8)) + random.standard_normal((500, 8)) * 0.7
    S = np.cov(X.T, bias=True)[np.newaxis]
    theirs = FactorAnalysis(n_factors, tol=1e-7, max_iter=20000, svd_method="lapack").fit(X).get_covariance()
    ours = found_by(f"lowrank-{n_factors}-feature", np.ones(1), S)
    assert expected([500], S, ours) >= expected([500], S, theirs[np.newaxis]) - 1e-9
    np.testing.assert_allclose(ours[0], theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LOW)
def test_low_rank_is_at_a_maximum(name):
    counts, S = scatters(6, 1, 6)
    found = found_by(name, counts, S)[0]
    n_factors, of_features = int(name.split("-")[1]), name.endswith("feature")
    if of_features:
        # (What it is a sum of: B B' has the off-diagonal; the noise is what leaves it of this rank.)
        noise = minimize(
            lambda x: np.sum(np.linalg.eigvalsh(found - np.diag(np.exp(x)))[:-n_factors] ** 2),
            np.log(0.5 / np.diag(np.linalg.inv(found))), tol=1e-20, method="BFGS",
        ).x  # fmt: skip
        noise = np.exp(noise)
    else:
        noise = np.full(6, np.linalg.eigvalsh(found)[0])
    values, axes = np.linalg.eigh(found - np.diag(noise))
    np.testing.assert_allclose(values[:-n_factors], 0, atol=1e-5)
    B = axes[:, -n_factors:] * np.sqrt(values[-n_factors:])
    best, random = expected(counts, S, [found]), np.random.default_rng(2)
    for _ in range(30):
        dB, dnoise = random.standard_normal(B.shape), random.standard_normal(6 if of_features else 1)
        near = [
            (B + s * 1e-2 * dB) @ (B + s * 1e-2 * dB).T + np.diag(noise * np.exp(s * 1e-2 * dnoise)) for s in (1, -1)
        ]
        assert max(expected(counts, S, [each]) for each in near) < best


@pytest.mark.parametrize("name", LOW)
def test_low_rank_is_never_less_likely_than_before(name):
    for seed in range(4):
        counts, S = scatters(seed, 2, 6)
        before = found_by(name, *scatters(20 + seed, 2, 6))
        assert expected(counts, S, found_by(name, counts, S, before)) >= expected(counts, S, before)
        np.testing.assert_allclose(found_by(name, counts, before), before, rtol=1e-4, atol=1e-5)


def test_all_factors_but_one_are_all_covariances():
    counts, S = scatters(1, 3, 5)
    np.testing.assert_allclose(found_by("lowrank-4", counts, S), S, rtol=1e-10, atol=1e-12)
    assert family_called("lowrank-4").n_parameters(3, 5) == family_called("full").n_parameters(3, 5)
    assert family_called("lowrank-1-feature").n_parameters(2, 3) == family_called("full").n_parameters(2, 3)
    assert family_called("lowrank-2").n_parameters(2, 6) == 2 * (6 * 2 - 1 + 1)
    assert family_called("lowrank-2-feature").n_parameters(2, 6) == 2 * (6 * 2 - 1 + 6)


# -- names and starts -----------------------------------------------------------------------------------------
def test_names_of_low_rank():
    assert family_of("lowrank", 3) is family_called("lowrank-3") is family_of("lowrank-3", 3)
    assert family_of("lowrank", 3, "feature") is family_called("lowrank-3-feature")
    assert family_of(family_called("lowrank-3")).name == low_rank_name(3)
    assert families_of(["full", "lowrank", "lowrank-1"], 2) == ["full", "lowrank-2", "lowrank-1"]
    assert families_of(["mclust"]) == list(FOURTEEN)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("lowrank",), r"n_factors must be given with covariance_type lowrank; got None\. Take n_factors 2\."),
        (("full", 2), r"n_factors must be left out with covariance_type full; got 2\."),
        (("lowrank-2", 3), r"n_factors must be left out with covariance_type lowrank-2; got 3\."),
        (("VEE", None, "feature"), r"factor_noise must be left out with covariance_type VEE; got 'feature'\."),
        (
            ("mclust",),
            r"covariance_type must be one family; got 'mclust', which stands for 14\. Compare them: select\.",
        ),
        (("lowrank-0",), "covariance_type must be one of full"),
        (("vee",), "covariance_type must be one of full, .*VVV, lowrank; got 'vee'"),
    ],
)
def test_names_that_say_no_family(given, text):
    with pytest.raises(OptionError, match=text):
        family_of(*given)


def test_factors_must_be_fewer_than_features():
    with pytest.raises(OptionError, match=r"n_factors must be at most 3 for 4 features .*; got 4\. Take 3 or fewer\."):
        family_called("lowrank-4").check(4)
    with pytest.raises(OptionError, match=r"at most 1 for 4 features with this factor_noise; got 2\. Take 1 or fewer"):
        family_called("lowrank-2-feature").check(4)
    with pytest.raises(OptionError, match=r"at most 0 for 1 feature .*Take another covariance_type: full\."):
        family_called("lowrank-1").check(1)


@pytest.mark.parametrize("name", [*FOURTEEN, *LOW])
def test_a_start_is_any_full_precisions(name):
    counts, S = scatters(6, 3, 6)
    family, share = family_called(name), counts / counts.sum()
    given = check_start(np.linalg.inv(S), family, 3, 6, weights=share)
    assert given.shape == family.shape.array_shape(3, 6)
    covariances = family.shape.covariances(family.shape.cholesky_of_precisions(given))
    np.testing.assert_allclose(covariances, family.shape.from_matrices(S, share), rtol=1e-8, atol=1e-10)
    own = check_start(given, family, 3, 6)
    np.testing.assert_allclose(own, given, rtol=1e-8, atol=1e-10)
    with pytest.raises(OptionError, match=r"precisions_init must have shape \(3, 6, 6\); got \(7,\)"):
        check_start(np.ones(7), family, 3, 6)
    with pytest.raises(OptionError, match="precisions_init of component 0 must be positive definite"):
        check_start(-np.linalg.inv(S), family, 3, 6)
    assert FULL.array_shape(3, 6) == S.shape
