"""Paired differences between the strategies of one study, and the families in which their tests are corrected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.power import MOST_OVERLAP
from analysis.statistics import Floats, Interval, Paired, crossed_interval, holm, mean_interval, paired_difference
from analysis.tables import ALL, Tables

DEFAULT_ORDER = (
    *("scratch", "feature_extraction", "last_block", "fine_tune", "discriminative"),
    *("gradual_unfreezing", "lp_ft", "norm_only", "lda"),
)
BATCH_NORM_TRAIN = "_batch_norm_train"  # ends the name of a strategy that is another one with updated BatchNorm
COMPARISON_COLUMNS = [
    *("study", "per_class", "a", "b", "family", "metric", "k", "overlap", "factor", "difference", "low", "high", "p"),
    *("low_new_images", "high_new_images", "p_holm", "d_z", "wins", "smallest_detectable"),
]


def strategy_order(names: Sequence[str]) -> list[str]:
    """The nine default strategies in their order, then the others by name."""
    known = [name for name in DEFAULT_ORDER if name in set(names)]
    return known + sorted(set(names) - set(known))


def interval(values: Sequence[float] | Floats, correlation: float = 0.0) -> Interval:
    """Mean and interval of the values that are there, as `mean_interval`; correlation: as `Tables.correlation`."""
    present = np.asarray(values, dtype=np.float64)
    return mean_interval(present[np.isfinite(present)], correlation)


def ends(correlation: float) -> Callable[[pd.Series[float]], tuple[float, float]]:
    """The low and high of `interval` as seaborn's `errorbar`."""
    return lambda values: interval(np.asarray(values, dtype=np.float64), correlation)[1:3]


def difference_of(a: Floats, b: Floats, correlation: float) -> Paired | None:
    """B minus A, or None where a test would mean nothing, as `no_test` says."""
    try:
        return paired_difference(a, b, overlap=correlation)
    except ValueError:
        return None


def no_test(row: Mapping[Any, Any]) -> str:
    """Why a difference, with its per_class, overlap and k, has no test."""
    if row["per_class"] != ALL and row["overlap"] > MOST_OVERLAP:
        return "pool too small"
    return "identical differences" if row["k"] >= 2 else "fewer than two shared seeds"


def by_seed(
    theirs: pd.DataFrame, ours: pd.DataFrame, correlation: float, column: str = "judged"
) -> tuple[int, Paired | None]:
    """How many seeds two sets of runs share, and the difference in an accuracy (points), ours minus theirs."""
    a, b = theirs.set_index("seed")[column], ours.set_index("seed")[column]
    seeds = b.index.intersection(a.index).sort_values()
    return len(seeds), difference_of(points(a.loc[seeds]), points(b.loc[seeds]), correlation)


def points(column: pd.Series[float]) -> Floats:
    """Fractions as percentage points."""
    return np.asarray(column, dtype=np.float64) * 100


def adjusted(tests: pd.DataFrame, families: Sequence[str]) -> pd.Series[float]:
    """Holm's p of every test that was made, over those alike in the columns `families`; NaN for the others."""
    made = tests.dropna(subset="p")
    return made.groupby(list(families))["p"].transform(holm).reindex(tests.index)


def all_pairs(tables: Tables) -> pd.DataFrame:
    """All pairs of strategies of one size, B minus A in points of the judged accuracy, paired by seed.

    `family` says which tests of a size a pair is corrected with (Holm); `none` stands unadjusted. The numbers of a pair
    are NaN where it has no test (`no_test`).
    """
    rows: list[dict[str, Any]] = []
    classes = tables.predictions.labels if tables.judge_by == "balanced_accuracy" else None
    for per_class, sized in tables.runs.groupby("per_class"):
        size = int(str(per_class))
        correlation = tables.correlation(size)
        by_name = {str(name): mine.set_index("seed").sort_index() for name, mine in sized.groupby("strategy")}
        default = tables.default_strategies & set(by_name)
        default = default if len(default) > 1 else frozenset(by_name)  # the candidates of `unbeaten`
        for a, b in combinations(strategy_order(list(by_name)), 2):
            seeds = by_name[a].index.intersection(by_name[b].index)
            first, second = by_name[a].loc[seeds], by_name[b].loc[seeds]
            twins = b == a + BATCH_NORM_TRAIN or a == b + BATCH_NORM_TRAIN
            family = "pairs" if {a, b} <= default else "batch_norm" if twins else "none"
            row: dict[str, Any] = {"study": tables.study, "per_class": size, "a": a, "b": b, "family": family}
            row |= {"metric": tables.judge_by, "k": len(seeds), "overlap": tables.overlap(size)}
            found = difference_of(points(first["judged"]), points(second["judged"]), correlation)
            if found is not None:
                right = [tables.predictions.correct(side["fingerprint"].tolist()) for side in (first, second)]
                low, high = crossed_interval(right[0], right[1], classes, correlation)
                row |= {name: value for name, value in asdict(found).items() if name in COMPARISON_COLUMNS}
                row |= {"low_new_images": low * 100, "high_new_images": high * 100}
            rows.append(row)
    frame = pd.DataFrame(rows, columns=COMPARISON_COLUMNS)
    frame["p_holm"] = adjusted(frame[frame["family"] != "none"], ["per_class", "family"])
    numbers = COMPARISON_COLUMNS[COMPARISON_COLUMNS.index("overlap") :]
    return frame.astype({**dict.fromkeys(numbers, "float64"), "wins": "Int64"})
