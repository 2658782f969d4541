"""Known answers, properties, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from analysis import power as p
from analysis import statistics as s

A = np.array([70.0, 71.5, 69.0, 72.0, 70.5])
B = np.array([72.0, 72.5, 72.0, 72.5, 73.0])
points = st.lists(st.floats(0, 100).map(lambda x: round(x, 2)), min_size=5, max_size=12)


def test_a_paired_difference_is_scipys_t_test_with_effect_size_and_wins() -> None:
    got = s.paired_difference(A, B)
    d = B - A  # 2, 1, 3, 0.5, 2.5
    expected = stats.ttest_rel(B, A)
    assert (got.k, got.difference, got.sd) == (5, pytest.approx(1.8), pytest.approx(d.std(ddof=1)))
    assert got.p == pytest.approx(expected.pvalue)
    assert (got.low, got.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    exact_correction = math.gamma(2) / (math.sqrt(2) * math.gamma(1.5))  # Hedges (1981), 4 degrees of freedom
    assert got.d_z == pytest.approx(1.8 / d.std(ddof=1) * exact_correction, rel=1e-3)
    assert (got.wins, got.ties) == (5, 0)


def test_the_margin_moves_the_test_and_not_the_interval() -> None:
    plain, held = s.paired_difference(A, B), s.paired_difference(A, B, margin=1.0)
    assert (held.difference, held.low, held.high, held.d_z) == (plain.difference, plain.low, plain.high, plain.d_z)
    assert held.p == pytest.approx(stats.ttest_1samp(B - A, 1.0).pvalue)


@settings(deadline=None, max_examples=60)
@given(points, st.data(), st.floats(-50, 50))
def test_swapping_flips_the_sign_and_adding_a_constant_changes_nothing(
    first: list[float], data: st.DataObject, constant: float
) -> None:
    second = data.draw(st.lists(st.floats(0, 100).map(lambda x: round(x, 2)), min_size=len(first), max_size=len(first)))
    a, b = np.array(first), np.array(second)
    assume(np.ptp(b - a) > 0.05)
    there, back = s.paired_difference(a, b), s.paired_difference(b, a)
    assert there.difference == pytest.approx(-back.difference)
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))
    assert there.p == pytest.approx(back.p)
    assert there.wins + back.wins + there.ties == len(a)
    moved = s.paired_difference(a + constant, b + constant)
    assert (moved.difference, moved.p) == (pytest.approx(there.difference, abs=1e-6), pytest.approx(there.p, rel=1e-4))


@pytest.mark.parametrize("broken", [
    lambda: s.paired_difference([1, 2, float("nan")], [1, 2, 4]),
    lambda: s.paired_difference([1, 2, 3], [1, 2]),
    lambda: s.paired_difference([1], [2]),
    lambda: s.paired_difference([1.1, 2.2, 3.3], [2.1, 3.2, 4.3]),
    lambda: s.holm([0.01, float("nan")]),
    lambda: s.equivalence([1, 1, 1], 2),
    lambda: s.equivalence([1, 2, 3], 0),
    lambda: s.crossed_interval(np.ones((3, 4), bool), np.ones((3, 5), bool)),
    lambda: s.crossed_interval(np.ones((3, 4), bool), np.zeros((3, 4), bool)),
    lambda: s.paired_difference(A, B, overlap=0.51),
    lambda: s.equivalence(B - A, 1, overlap=0.6),
    lambda: p.seeds_needed(1.0, 1.0, overlap=1.0),
])  # fmt: skip
def test_what_cannot_be_tested_is_refused(broken: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        broken()


def test_holm_is_statsmodels() -> None:
    p = [0.01, 0.04, 0.03, 0.2]
    assert s.holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_equivalence_is_two_one_sided_tests() -> None:
    d = np.array([0.1, -0.2, 0.15, 0.05, -0.1, 0.0])
    got = s.equivalence(d, 0.5)
    assert got == pytest.approx(ttost_paired(d, np.zeros_like(d), -0.5, 0.5)[0])
    assert s.equivalence(d, 0.01) > 0.05


@pytest.mark.parametrize(("k", "expected"), [(3, 3.3), (5, 1.7), (10, 1.0), (20, 0.66)])
def test_the_smallest_detectable_effect_is_the_protocols(k: int, expected: float) -> None:
    assert p.smallest_detectable(k, 1.0) == pytest.approx(expected, rel=0.04)
    assert p.power(k, p.smallest_detectable(k, 1.0)) == pytest.approx(0.8, abs=1e-3)


def test_overlap_stretches_deviations_from_the_mean_and_leaves_the_mean_and_the_effect_size() -> None:
    rho, k = 0.2, len(A)
    plain, held = s.paired_difference(A, B), s.paired_difference(A, B, margin=0.5, overlap=rho)
    factor = (1 + (k - 1) * rho) / (1 - rho)
    assert held.factor == p.overlap_factor(k, rho) == pytest.approx(factor)
    assert (held.difference, held.d_z, held.sd) == (plain.difference, plain.d_z, plain.sd)
    assert held.high - held.low == pytest.approx((plain.high - plain.low) * math.sqrt(factor))
    error = math.sqrt(factor) * plain.sd / math.sqrt(k)
    assert held.p == pytest.approx(2 * stats.t.sf((plain.difference - 0.5) / error, k - 1))
    assert held.smallest_detectable == pytest.approx(plain.smallest_detectable * math.sqrt(factor))
    stretched = plain.difference + math.sqrt(factor) * (B - A - plain.difference)
    assert s.equivalence(B - A, 3, rho) == pytest.approx(ttost_paired(stretched, np.zeros(k), -3, 3)[0])
    mean, alone = s.mean_interval(A, rho), s.mean_interval(A)
    assert mean.high - mean.low == pytest.approx((alone.high - alone.low) * math.sqrt(factor))
    assert math.isnan(s.mean_interval(A, 0.6).low)


def test_more_seeds_of_one_pool_say_less_that_is_new_and_at_some_effect_none_are_enough() -> None:
    def power(k: int) -> float:
        return p.power(k, 2.0 / math.sqrt(p.overlap_factor(k, 0.2)))

    needed = p.seeds_needed(2.0, 1.0, overlap=0.2)
    alone = p.seeds_needed(2.0, 1.0)
    assert needed is not None
    assert alone is not None
    assert power(needed) >= 0.8 > power(needed - 1)
    assert needed > alone
    # Endless seeds leave an SD of sqrt(.2 / .8) = .5: an effect of 1.4 of those is found half of the time at most.
    assert p.seeds_needed(0.7, 1.0, overlap=0.2) is None
    assert p.seeds_needed(0.7, 1.0) is not None


def test_power_is_what_a_simulation_finds() -> None:
    d = np.random.default_rng(0).normal(1.0, 1.0, (20_000, 8))
    found = (stats.ttest_1samp(d, 0, axis=1).pvalue < 0.05).mean()
    assert p.power(8, 1.0) == pytest.approx(found, abs=0.01)


def test_seeds_needed_is_the_first_count_that_reaches_the_power() -> None:
    needed = p.seeds_needed(1.0, 1.0)
    assert needed is not None
    assert p.power(needed, 1.0) >= 0.8 > p.power(needed - 1, 1.0)
    assert p.seeds_needed(1e-6, 1.0) is None


def test_the_crossed_interval_is_its_formula_written_out() -> None:
    generator = np.random.default_rng(1)
    ease = generator.normal(size=60)
    a = generator.normal(size=(6, 60)) + ease > 0
    b = generator.normal(size=(6, 60)) + 1.3 * ease > -0.2
    differences = b.astype(float) - a.astype(float)
    k, n = differences.shape
    cov = np.cov(differences)
    seeds = differences.mean(1).var(ddof=1) / k
    images = max((cov.sum() - np.trace(cov)) / (k * (k - 1)), 0) / n
    df = (seeds + images) ** 2 / (seeds**2 / (k - 1) + images**2 / (n - 1))
    half = stats.t.ppf(0.975, df) * math.sqrt(seeds + images)
    mean = differences.mean()
    assert s.crossed_interval(a, b) == pytest.approx((mean - half, mean + half))


def test_the_crossed_interval_of_balanced_accuracy_is_its_formula_written_out() -> None:
    generator = np.random.default_rng(3)
    classes = np.repeat([0, 1, 2], [70, 20, 10])
    ease = generator.normal(size=100)
    a = generator.normal(size=(6, 100)) + ease > 0
    b = generator.normal(size=(6, 100)) + 1.3 * ease > -0.2
    differences = b.astype(float) - a.astype(float)
    weights = 1 / (3 * np.bincount(classes)[classes])  # of each image; they sum to 1
    d, k, parts = differences @ weights, 6, {}
    for c in range(3):
        mine = differences[:, classes == c]
        cov = np.cov(mine)
        parts[mine.shape[1]] = (cov.sum() - np.trace(cov)) / (k * (k - 1)) / mine.shape[1] / 9
    seeds, images = 2.0 * d.var(ddof=1) / k, sum(parts.values())  # an overlap of 1/7 makes it twice as much
    assert images > 0
    df = (seeds + images) ** 2 / (seeds**2 / (k - 1) + sum(part**2 / (n - 1) for n, part in parts.items()))
    half = stats.t.ppf(0.975, df) * math.sqrt(seeds + images)
    got = s.crossed_interval(a, b, classes, overlap=1 / 7)
    assert got == pytest.approx((d.mean() - half, d.mean() + half))
    assert s.crossed_interval(a, b, np.zeros(100, int)) == pytest.approx(s.crossed_interval(a, b))
    assert math.isnan(s.crossed_interval(a, b, np.arange(100) == 5)[0])  # a class of one image has no spread


def test_the_interval_of_a_mean_is_scipys_and_claims_nothing_without_spread() -> None:
    got = s.mean_interval(A)
    assert (got.low, got.high) == pytest.approx(tuple(stats.ttest_1samp(A, 0).confidence_interval(0.95)))
    assert math.isnan(s.mean_interval([70.0]).low)
    assert math.isnan(s.mean_interval([70.0, 70.0, 70.0]).high)


def test_luck_of_the_split_is_the_interval_of_a_difference_of_two_proportions() -> None:
    """At one half and 50 images the difference has a standard deviation of exactly 0.1."""
    assert s.luck_of_the_split(0.5, 50) == pytest.approx(0.1 * stats.norm.ppf(0.975))
    assert s.luck_of_the_split(1.0, 50) == 0
