"""How far each layer group moved from where it started."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from analysis.comparison import Comparison
from analysis.markdown import Picture, Section, rate_text
from analysis.style import by_size, heat_map
from analysis.tables import GROUPS, last

FROZEN = "#EFEFEF"


def section(study: Comparison) -> Section | None:
    """A map a size: default strategies by layer groups; None where nothing moved."""
    drift = study.steady(study.tables.drift)
    drift = drift[drift["strategy"].isin(study.candidates)]
    ends = last(drift, "phase", ["per_class", "strategy", "seed"])
    moved = ends.groupby(["per_class", "strategy", "group"])["weight_distance"].agg(["mean", "count"]).reset_index()
    if not (moved["mean"] > 0).any():
        return None
    names = [name for name in study.candidates if name in set(moved["strategy"])]
    picture = Picture(
        "drift",
        "How far each layer group moved, by strategy and size",
        "‖w − w₀‖ / ‖w₀‖ after the last phase, w₀ where the run started, mean of "
        f"{study.seeds(names)}; log colour scale. Grey 0: frozen, not moved by a bit.",
        moved,
        lambda: _draw(moved, names),
    )
    return Section("How far each layer group moved", (picture,))


def _draw(moved: pd.DataFrame, names: list[str]) -> Figure:
    seen = moved.loc[moved["mean"] > 0, "mean"]
    looks: dict[str, Any] = {
        "norm": LogNorm(seen.min() / 1.01, seen.max() * 1.01),
        "cmap": colormaps["YlGnBu"].with_extremes(bad=FROZEN),
    }

    def onto(panel: Axes, mine: pd.DataFrame) -> None:
        values = mine.pivot_table(index="strategy", columns="group", values="mean")
        values = values.reindex(index=names, columns=list(GROUPS))
        heat_map(panel, values, values.map(_text), [group.replace("stage", "stage\n") for group in GROUPS], **looks)

    return by_size(moved, onto, 0.3 + 0.26 * len(names), sharex=True, sharey=True)[0]


def _text(value: float) -> str:
    """At most five characters; none where a strategy has not run."""
    if value != value:
        return ""
    if value == 0 or value >= 0.01:
        return f"{value:.2g}"
    return rate_text(float(f"{value:.0e}"))
