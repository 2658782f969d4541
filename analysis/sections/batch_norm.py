"""BatchNorm frozen or updated: what freezing gains, for every strategy that ran both ways."""

from __future__ import annotations

from functools import cache

import pandas as pd

from analysis.comparison import Comparison
from analysis.markdown import Picture, Section, counted, signed, with_interval
from analysis.paired import BATCH_NORM_TRAIN
from analysis.power import ALPHA
from analysis.style import gained
from analysis.tables import size_name, where


@cache
def gains(study: Comparison) -> pd.DataFrame:
    """Frozen minus updated BatchNorm in points: per_class, strategy, k, difference, low, high, p_holm."""
    pairs = ((size, name, name + BATCH_NORM_TRAIN) for size in study.sizes for name in study.ran(size))
    return study.gains(pairs).drop(columns=["low_new_images", "high_new_images"])


def section(study: Comparison) -> Section | None:
    """One sentence a size, and a figure where several strategies ran both ways."""
    found = gains(study)
    if found.empty:
        return None
    names = [name for name in study.names if name in set(found["strategy"])]
    words = " ".join(_sentence(size_name(size), where(found, per_class=size)) for size in study.sizes)
    picture = Picture(
        "batch_norm",
        "What frozen BatchNorm gains over updated BatchNorm, by strategy and size",
        f"Frozen minus updated BatchNorm, points of {study.metric}, paired by seed with 95% intervals. "
        "Filled: told apart (corrected).",
        found,
        lambda: gained(found, f"points of {study.metric}", names),
    )
    return Section("BatchNorm: frozen or updated?", (*([picture] if len(names) > 1 else []), words))


def _sentence(where: str, found: pd.DataFrame) -> str:
    if found.empty:
        return ""
    if len(found) == 1:
        row = found.iloc[0]
        told = "" if row["p_holm"] < ALPHA else ": no clear difference"
        gain = with_interval(row["difference"], row["low"], row["high"])
        return f"With {where}, frozen BatchNorm gives `{row['strategy']}` {gain} points{told}."
    better = int(((found["difference"] > 0) & (found["p_holm"] < ALPHA)).sum())
    worse = int(((found["difference"] < 0) & (found["p_holm"] < ALPHA)).sum())
    lost = f", worse for {worse}" if worse else ""
    return (
        f"With {where}, frozen is better for {better} of {counted(len(found), 'strategy').replace('ys', 'ies')}{lost} "
        f"({signed(found['difference'].min())} to {signed(found['difference'].max())} points)."
    )
