"""What accuracy costs: the accuracy that decides against the seconds of a run."""

from __future__ import annotations

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.comparison import Comparison
from analysis.markdown import Picture, Section
from analysis.style import by_size, colours, core, legend, log_ticks, markers


def section(study: Comparison) -> Section:
    """One figure: a panel a size, a point a default strategy."""
    columns = ["per_class", "strategy", "k", "judged", "judged_low", "judged_high", "seconds"]
    found = study.strategies.loc[study.strategies["strategy"].isin(study.candidates), columns]
    picture = Picture(
        "cost",
        f"{study.metric.capitalize()} against the training time of a run",
        f"Mean {study.metric} (percent, 95% interval, {study.seeds(study.candidates)}) against the median time of a "
        "run (log scale) on the machines under [provenance](#provenance); left and up is better.",
        found,
        lambda: _draw(found, study.metric),
    )
    return Section("Accuracy against time", (picture,))


def _draw(found: pd.DataFrame, metric: str) -> Figure:
    names = list(dict.fromkeys(found["strategy"]))
    palette = colours(names)
    look: dict[str, Any] = {"hue": "strategy", "hue_order": names, "palette": palette, "s": 55, "zorder": 3}
    look |= {"style": "strategy", "style_order": names, "markers": markers(names)}

    def onto(panel: Axes, mine: pd.DataFrame) -> None:
        low, high = core(
            mine.rename(columns={"judged": "value", "judged_low": "low", "judged_high": "high"}), zero=False
        )
        room = 0.08 * (high - low) or 1.0
        inside = mine["judged"] >= low
        sns.scatterplot(mine[inside], x="seconds", y="judged", ax=panel, **look)
        for row in mine.assign(inside=inside).to_dict("records"):
            colour = palette[row["strategy"]]
            if row["inside"]:
                panel.vlines(row["seconds"], row["judged_low"], row["judged_high"], color=colour, linewidth=1.6)
            else:
                place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
                panel.text(row["seconds"], low - room, f"{row['judged']:.1f} ▾", color=colour, **place)
        ends = mine["seconds"].min() / 1.5, mine["seconds"].max() * 1.5
        panel.set(xscale="log", xlim=ends, ylim=(low - 1.5 * room, high + room), xlabel="seconds a run", ylabel="")
        log_ticks(panel.xaxis)

    drawing, panels = by_size(found, onto, 2.6)
    panels[0].set_ylabel(f"{metric} (%)")
    legend(drawing, panels, "outside lower center", 4)
    return drawing
