"""How far each layer group moved from where it started."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from analysis.comparison import Comparison
from analysis.markdown import Picture, Section, rate_text
from analysis.style import drawn, grid
from analysis.tables import GROUPS, size_name

FROZEN = "#EFEFEF"


def section(study: Comparison) -> Section | None:
    """A map a size: default strategies by layer groups; None where nothing moved."""
    drift = study.steady(study.tables.drift)
    drift = drift[drift["strategy"].isin(study.candidates)]
    cell = ["per_class", "strategy", "seed"]
    last = drift[drift["phase"] == drift.groupby(cell)["phase"].transform("max")]
    moved = last.groupby(["per_class", "strategy", "group"])["weight_distance"].agg(["mean", "count"]).reset_index()
    if not (moved["mean"] > 0).any():
        return None
    names = [name for name in study.candidates if name in set(moved["strategy"])]
    picture = Picture(
        "drift",
        "How far each layer group moved, by strategy and size",
        "‖w − w₀‖ / ‖w₀‖ after the last phase, w₀ where the run started, mean of "
        f"{study.seeds}; log colour scale. Grey 0: frozen, not moved by a bit.",
        moved,
        lambda: _draw(moved, study.sizes_in(moved), names),
    )
    return Section("How far each layer group moved", (picture,))


def _draw(moved: pd.DataFrame, sizes: list[int], names: list[str]) -> Figure:
    seen = moved.loc[moved["mean"] > 0, "mean"]
    scale = LogNorm(seen.min() / 1.01, seen.max() * 1.01)
    colours = colormaps["YlGnBu"].with_extremes(bad=FROZEN)
    drawing, panels = grid(len(sizes), 2, 0.3 + 0.26 * len(names), sharex=True, sharey=True)
    for panel, size in zip(panels, sizes, strict=True):
        values = moved[moved["per_class"] == size].pivot_table(index="strategy", columns="group", values="mean")
        values = values.reindex(index=names, columns=list(GROUPS))
        texts = values.map(_text)
        style = {"linewidths": 1, "annot_kws": {"fontsize": 7.5}, "cbar": False, "cmap": colours}
        sns.heatmap(values, norm=scale, annot=texts, fmt="", ax=panel, **style)
        panel.set(xlabel="", ylabel="", title=size_name(size))
        panel.set_yticks(np.arange(len(names)) + 0.5, [drawn(name) for name in names], rotation=0)
        panel.set_xticks(
            np.arange(len(GROUPS)) + 0.5, [group.replace("stage", "stage\n") for group in GROUPS], rotation=0
        )
    return drawing


def _text(value: float) -> str:
    """At most five characters; none where a strategy has not run."""
    if np.isnan(value):
        return ""
    if value == 0 or value >= 0.01:
        return f"{value:.2g}"
    return rate_text(float(f"{value:.0e}"))
