"""Does a range test find the learning rates that a study uses?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analysis.comparison import Comparison
from analysis.markdown import NONE, Picture, Section, Table
from analysis.paired import strategy_order
from analysis.style import INK, drawn, figure, legend
from analysis.tables import size_name, where

RULES: Mapping[str, str] = {"steepest": "steepest slope", "tenth_of_lowest": "lowest / 10"}
NEAR = 3.0  # a factor


@cache
def suggestions(study: Comparison) -> pd.DataFrame:
    """A row a range test and rule: strategy, per_class, seed, rule, scale (NaN for none), used, times (their ratio)."""
    found = study.tables.lr_suggestions
    names = {name: place for place, name in enumerate(strategy_order(found["strategy"].unique().tolist()))}
    long = found.melt(["strategy", "per_class", "seed"], list(RULES), var_name="rule", value_name="scale")
    cells = zip(long["per_class"], long["strategy"], strict=True)
    used = [study.tables.used_scale(size, name) for size, name in cells]
    long = long.assign(used=used, times=long["scale"] / used)
    return long.sort_values(["strategy", "seed"], key=lambda c: c.replace(names), ignore_index=True)


def section(study: Comparison) -> Section | None:
    table = suggestions(study)
    if table.empty:
        return None
    body: list[str | Table | Picture] = [_picture(study)] if table["times"].notna().any() else []
    body.append(_table(table))
    medians = table.groupby(["rule", "strategy"])["times"].median().dropna()
    near = np.abs(np.log10(medians)) <= np.log10(NEAR) + 1e-9
    counts = [f"*{said}* for {near[rule].sum()} of {len(near[rule])}" for rule, said in RULES.items() if rule in near]
    body.append(
        f"Medians within a factor of {NEAR:g} of the scale used: {'; '.join(counts) or NONE} strategies. "
        f"{'' if study.tables.tuned else 'Nobody tuned that scale. '}A test is of a strategy's longest phase."
    )
    return Section("LR finder", tuple(body))


def _table(mine: pd.DataFrame) -> Table:
    rows = []
    for name, tests in mine.groupby("strategy", sort=False):
        suggested = [_suggested(where(tests, rule=rule)["scale"].dropna()) for rule in RULES]
        rows.append((f"`{name}`", str(tests["seed"].nunique()), f"×{tests['used'].iloc[0]:g}", *suggested))
    head = ("Strategy", "Tests", "Used", *(said.capitalize() for said in RULES.values()))
    return Table(head, tuple(rows), frozenset(range(1, len(head))))


def _suggested(scales: pd.Series[float]) -> str:
    """The median and the extremes of the scales that one rule suggests."""
    if scales.empty:
        return NONE
    ends = (scales.median(), scales.min(), scales.max())
    middle, low, high = (f"×{value:.0f}" if value > 99 else f"×{value:.2g}" for value in ends)
    return f"{middle} [{low}, {high}]"


def _picture(study: Comparison) -> Picture:
    table = suggestions(study)
    data = table.dropna(subset="times").assign(rule=table["rule"].map(RULES))
    names = list(dict.fromkeys(data["strategy"]))

    def draw() -> Figure:
        drawing = figure(0.9 + 0.25 * len(names))
        panel: Any = drawing.subplots()
        panel.axvspan(1 / NEAR, NEAR, color="#F1ECDD", linewidth=0, zorder=0)
        panel.axvline(1, color=INK, linewidth=0.9, zorder=1)
        looks: dict[str, Any] = {"hue": "rule", "hue_order": RULES.values(), "palette": ["#0072B2", "#D55E00"]}
        looks |= {"order": names, "jitter": False, "dodge": True, "size": 4}
        sns.stripplot(data, x="times", y="strategy", ax=panel, **looks)
        panel.set(xscale="log", xlabel="suggested / used", ylabel="")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set_yticks(range(len(names)), [drawn(name) for name in names])
        legend(drawing, [panel], "outside upper center", 2)
        return drawing

    caption = "Scale of all rates that each range test suggests over the one that the runs used, at "
    caption += f"{size_name(int(data['per_class'].iloc[0]))}; shaded: within a factor of {NEAR:g}."
    return Picture("lr_finder", "Learning rates suggested over those used", caption, data, draw)
