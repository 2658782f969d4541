"""Paired differences over seeds: intervals, tests, corrections and power, as arrays in and numbers out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from analysis.power import MOST_OVERLAP, overlap_factor, smallest_detectable

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
FEW_SEEDS = 5  # below, the spread over images is not estimated well enough to add degrees of freedom
# Differences of numbers this close, relative to the numbers themselves, are rounding and not spread.
ROUNDING = 1e-10


class Interval(NamedTuple):
    """A mean with its t interval, in the unit of the values."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Paired:
    """B minus A over the same seeds, in the unit of the inputs."""

    k: int  # seeds
    difference: float  # mean of B minus A
    low: float  # 95% t interval of the mean difference
    high: float
    p: float  # two-sided, of a mean difference equal to the margin
    sd: float  # of the differences as seen
    factor: float  # what overlapping draws multiply the variance of the mean by
    d_z: float  # Hedges' g of paired data: mean / SD, corrected for few seeds; NaN for 2 seeds
    wins: int  # seeds in which B is above A; a tie is a win for neither
    ties: int
    smallest_detectable: float  # distance from the margin that these seeds find 80% of the time


def mean_interval(values: npt.ArrayLike, overlap: float = 0.0) -> Interval:
    """The t interval of a mean (scipy.stats.ttest_1samp), widened for draws that overlap.

    values: [n]. The bounds are NaN where there is nothing to estimate a spread from: fewer than two values, identical
    ones (an interval without width would claim certainty), or draws that share over half of their images. Raises
    ValueError for NaN or infinite values.
    """
    x = _vector(values, "values")
    n = len(x)
    mean = float(x.mean()) if n else math.nan
    if n < 2 or _identical(x, x) or overlap > MOST_OVERLAP:
        return Interval(mean, math.nan, math.nan, n)
    low, high = stats.ttest_1samp(_stretched(x, overlap), 0.0).confidence_interval(CONFIDENCE)
    return Interval(mean, float(low), float(high), n)


def paired_difference(a: npt.ArrayLike, b: npt.ArrayLike, margin: float = 0.0, overlap: float = 0.0) -> Paired:
    """B minus A, seed by seed: mean, interval, test against `margin`, effect size, wins and what could be found.

    a, b: [K], the same seeds in the same order, in any one unit; the results are in that unit. The interval and d_z
    are of the difference itself, p and the last number of its distance from `margin` (scipy.stats.ttest_1samp).
    overlap: the share of images that two draws have in common; interval, p and what could be found carry its factor.
    Raises ValueError for NaN, unequal lengths, an overlap above 0.5, or differences that are all identical, as of one
    seed: their p would come out as 0.
    """
    first, second = _vector(a, "a"), _vector(b, "b")
    if len(first) != len(second):
        raise ValueError(f"a has {len(first)} seeds and b {len(second)}; pairs need the same seeds in both")
    d = second - first
    if _identical(d, first, second):
        raise ValueError(f"all {len(d)} differences are {d[0]:.6g}: without spread there is no test, its p would be 0")
    k = len(d)
    mean, sd = float(d.mean()), float(d.std(ddof=1))
    factor = overlap_factor(k, overlap)
    tested = stats.ttest_1samp(_stretched(d, overlap), margin)
    low, high = tested.confidence_interval(CONFIDENCE)
    tied = np.abs(d) <= ROUNDING * np.maximum(np.abs(first), np.abs(second))
    return Paired(
        k=k,
        difference=mean,
        low=float(low),
        high=float(high),
        p=float(tested.pvalue),
        sd=sd,
        factor=factor,
        d_z=mean / sd * _small_sample_correction(k - 1) if k > 2 else math.nan,
        wins=int((~tied & (d > 0)).sum()),
        ties=int(tied.sum()),
        smallest_detectable=smallest_detectable(k, sd, overlap=overlap),
    )


def crossed_interval(
    correct_a: npt.ArrayLike, correct_b: npt.ArrayLike, classes: npt.ArrayLike | None = None, overlap: float = 0.0
) -> tuple[float, float]:
    """The interval of B's accuracy minus A's for other draws of training images and other test images of the kind.

    correct_a, correct_b: bool [K, N], whether run k is right about test image n; rows are the same seeds. Returns
    (low, high) as fractions. The variance of the mean difference has a part from seeds and a part from images:
    v = f s_d^2 / K + max(mean off-diagonal of cov(D), 0) / N, D the K x N matrix of differences in correctness and f
    the factor of draws that overlap, with Satterthwaite's degrees of freedom, K - 1 below 5 seeds.
    With `classes` ([N], the class of each test image) it is balanced accuracy's: image n weighs 1 / (C n_c), and as
    the recalls of the C classes come from different images, their variances add up: the part from images is the sum of
    (mean off-diagonal of cov(D within c)) / n_c over the classes, divided by C^2, or 0 where that is below.
    NaN where a class has a single test image. Memory is a few bytes per run and image.
    Raises ValueError for other shapes, an overlap above 0.5, or differences that are all identical, as of one seed.
    """
    first, second = np.asarray(correct_a), np.asarray(correct_b)
    k, n = first.shape
    factor = overlap_factor(k, overlap)
    matrix = second.astype(np.int8) - first.astype(np.int8)
    label = np.zeros(n, dtype=np.intp) if classes is None else np.asarray(classes)
    parts = [_of_class(matrix[:, label == c]) for c in np.unique(label)]
    d = np.mean([differences for differences, _, _ in parts], axis=0)
    if _identical(d, np.ones(1)):
        raise ValueError(f"all {k} differences are {d[0]:.6g}: without spread there is no interval")
    from_seeds = factor * float(d.var(ddof=1)) / k
    of_classes = [(shared / images / len(parts) ** 2, images) for _, shared, images in parts]
    from_images = sum(part for part, _ in of_classes)
    v = from_seeds + max(from_images, 0.0)
    df = float(k - 1)
    if k >= FEW_SEEDS and from_images > 0:
        df = v**2 / (from_seeds**2 / (k - 1) + sum(part**2 / (images - 1) for part, images in of_classes))
    half = float(stats.t.isf((1 - CONFIDENCE) / 2, df)) * math.sqrt(v)
    mean = float(d.mean())
    return mean - half, mean + half


def _of_class(matrix: npt.NDArray[np.int8]) -> tuple[Floats, float, int]:
    """Of differences in correctness [K, n]: each run's mean, the mean off-diagonal of their covariances, and n."""
    k, n = matrix.shape
    d = matrix.sum(axis=1, dtype=np.int64) / n
    if n < 2:
        return d, math.nan, n
    # The sum over all of cov(D) is the variance of the column sums; that saves the K x K products.
    # D holds -1, 0 and 1, so its squares are its absolute values.
    squares = np.abs(matrix).sum(axis=1, dtype=np.int64)
    own = float(((squares - n * d**2) / (n - 1)).sum())
    return d, (float(matrix.sum(axis=0, dtype=np.int64).var(ddof=1)) - own) / (k * (k - 1)), n


def equivalence(d: npt.ArrayLike, margin: float, overlap: float = 0.0) -> float:
    """The p of the mean of `d` lying outside -margin to margin: the larger of two one-sided tests.

    d: [K] differences, in the unit of `margin` (statsmodels ttost_paired). A large p is no proof of a difference.
    Raises ValueError for NaN, identical differences, an overlap above 0.5, or a margin that is not above 0.
    """
    x = _vector(d, "d")
    if not margin > 0:
        raise ValueError(f"margin is {margin}; equivalence needs one above 0")
    if _identical(x, x):
        raise ValueError(f"all {len(x)} differences are {x[0]:.6g}: without spread there is no test")
    return float(ttost_paired(_stretched(x, overlap), np.zeros_like(x), -margin, margin)[0])


def holm(p_values: npt.ArrayLike) -> Floats:
    """Holm's adjusted p-values over one family (statsmodels multipletests), in the order given; [] for [].

    Raises ValueError for NaN, which would pass through.
    """
    p = _vector(p_values, "p_values")
    return np.asarray(multipletests(p, method="holm")[1], dtype=np.float64) if len(p) else p


@cache
def luck_of_the_split(accuracy: float, images: int) -> float:
    """How far the accuracies (fractions) of one method on two independent test splits of `images` each may differ.

    The half-width of the interval of a difference of two proportions, normal approximation.
    """
    return float(stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(2 * accuracy * (1 - accuracy) / images))


def _stretched(x: Floats, overlap: float) -> Floats:
    """The same mean with deviations such that the variance of the mean carries the factor of draws that overlap."""
    mean = x.mean()
    return np.asarray(mean + math.sqrt(overlap_factor(len(x), overlap)) * (x - mean), dtype=np.float64)


def _small_sample_correction(df: int) -> float:
    """Hedges' J: what makes mean / SD unbiased. Hedges (1981), exact form; 0 at df = 1."""
    return math.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / math.sqrt(df / 2)


def _vector(values: npt.ArrayLike, name: str) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    for bad in np.flatnonzero(~np.isfinite(x)):
        raise ValueError(f"number {bad + 1} of {name} is {x[bad]}; every one has to be there")
    return x


def _identical(d: Floats, *sources: Floats) -> bool:
    """Whether all of `d` are equal but for rounding in the numbers they come from."""
    scale = max(float(np.abs(source).max()) for source in sources)
    return float(np.ptp(d)) <= ROUNDING * scale
