"""What a number of seeds can find, and what it costs that their draws overlap."""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import cache

from scipy import stats
from scipy.optimize import brentq

ALPHA = 0.05
POWER = 0.8
DECIDED_FROM = 5  # seeds; below, every comparison and verdict is open
CITABLE_FROM = 10  # seeds; below, a study is exploratory
MOST_SEEDS = 10_000  # a study that would need more is not worth planning
MOST_OVERLAP = 0.5  # of the images of two draws; above, nothing is tested


def overlap_factor(k: int, overlap: float) -> float:
    """What the variance of a mean over `k` seeds is multiplied by where their draws share images.

    overlap: the share of images that two draws have in common. Were every training image to add its own part, numbers
    of two seeds would be correlated by that share, and those of any other symmetric statistic by less (Hoeffding,
    1948): their mean varies 1 + (k - 1) overlap times as much as of independent ones, and the spread seen between them
    is 1 - overlap times as large. Raises ValueError above 0.5, where the pool is too small to say anything.
    """
    if not 0 <= overlap <= MOST_OVERLAP:
        raise ValueError(f"two draws share {overlap:.0%} of their images; above {MOST_OVERLAP:.0%} nothing is tested")
    return (1 + (k - 1) * overlap) / (1 - overlap)


def power(k: int, effect_over_sd: float, alpha: float = ALPHA) -> float:
    """How often a two-sided paired t test over `k` seeds finds a true effect, given in SDs of the differences.

    From scipy.stats.nct (statsmodels' solve_power is wrong at tiny alpha); good to 1e-6 down to alpha = 1e-4.
    Raises ValueError for fewer than 2 seeds.
    """
    if k < 2:
        raise ValueError(f"{k} seeds; a paired test needs at least 2")
    df, critical = k - 1, float(stats.t.isf(alpha / 2, k - 1))
    shift = abs(effect_over_sd) * math.sqrt(k)
    found = float(stats.nct.sf(critical, df, shift))
    # The tail on the wrong side: nct.sf with the shift turned round, since nct.cdf is NaN far out. It is below
    # the normal's tail at -shift, which is no number any more beyond 38.
    wrong_side = float(stats.nct.sf(critical, df, -shift)) if shift < 38 else 0.0
    return min(found + wrong_side, 1.0)


def smallest_detectable(k: int, sd: float, alpha: float = ALPHA, wanted: float = POWER, overlap: float = 0.0) -> float:
    """The true effect that `k` seeds find with the wanted power, in the unit of `sd`, the SD of the differences seen.

    Raises ValueError for fewer than 2 seeds, an SD that is not above 0 or an overlap above 0.5.
    """
    _check_sd(sd)
    return sd * math.sqrt(overlap_factor(k, overlap)) * _detectable(k, alpha, wanted)


def seeds_needed(
    effect: float, sd: float, alpha: float = ALPHA, wanted: float = POWER, overlap: float = 0.0
) -> int | None:
    """The fewest seeds that find a true effect with the wanted power; None above 10,000, or where none are enough.

    effect and sd (of the differences seen) in one unit. Where draws overlap, every seed more says less that is new:
    even endless ones leave the mean an SD of sd sqrt(overlap / (1 - overlap)).
    Raises ValueError for an SD that is not above 0, a NaN effect or an overlap above 0.5.
    """
    _check_sd(sd)
    if math.isnan(effect):
        raise ValueError("the effect is NaN; the seeds it needs cannot be told")
    ratio = abs(effect) / sd

    def enough(k: int) -> bool:
        return power(k, ratio / math.sqrt(overlap_factor(k, overlap)), alpha) >= wanted

    low, high = 1, 2
    while not enough(high):
        if high >= MOST_SEEDS:
            return None
        low, high = high, min(2 * high, MOST_SEEDS)
    return bisect_left(range(high), True, low + 1, key=enough)


@cache
def _detectable(k: int, alpha: float, wanted: float) -> float:
    """The effect in SDs of the differences that `k` seeds find with this power."""
    high = 1.0
    while power(k, high, alpha) < wanted:
        high *= 2
    return float(brentq(lambda effect: power(k, effect, alpha) - wanted, 0.0, high, xtol=1e-10))


def _check_sd(sd: float) -> None:
    if not (math.isfinite(sd) and sd > 0):
        raise ValueError(f"the SD of the differences is {sd}; it must be above 0")
