"""What accuracy costs: the accuracy that decides against the seconds of a run."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.comparison import Comparison
from analysis.markdown import Picture, Section
from analysis.style import colours, core, grid, legend, log_ticks, markers
from analysis.tables import size_name


def section(study: Comparison) -> Section:
    """One figure: a panel a size, a point a default strategy."""
    columns = ["per_class", "strategy", "k", "judged", "judged_low", "judged_high", "seconds"]
    found = study.strategies.loc[study.strategies["strategy"].isin(study.candidates), columns]
    picture = Picture(
        "cost",
        f"{study.metric.capitalize()} against the training time of a run",
        f"Mean {study.metric} (percent, 95% interval, {study.seeds}) against the median time of a run (log scale) "
        "on the machines under [provenance](#provenance); left and up is better; ▾: below what is shown.",
        found,
        lambda: _draw(found, study.sizes_in(found), study.metric),
    )
    return Section("Accuracy against time", (picture,))


def _draw(found: pd.DataFrame, sizes: list[int], metric: str) -> Figure:
    names = list(dict.fromkeys(found["strategy"]))
    drawing, panels = grid(len(sizes), 2, 2.6)
    for panel, size in zip(panels, sizes, strict=True):
        _panel(panel, found[found["per_class"] == size], names)
        panel.set(title=size_name(size), xlabel="seconds a run", ylabel="")
    panels[0].set_ylabel(f"{metric} (%)")
    legend(drawing, panels, "outside lower center", 4)
    return drawing


def _panel(panel: Axes, mine: pd.DataFrame, names: list[str]) -> None:
    palette = colours(names)
    low, high = core(mine.rename(columns={"judged": "value", "judged_low": "low", "judged_high": "high"}), zero=False)
    room = 0.08 * (high - low) or 1.0
    inside = mine["judged"] >= low
    look = {"palette": palette, "markers": markers(names), "hue_order": names, "style_order": names}
    sns.scatterplot(
        mine[inside], x="seconds", y="judged", hue="strategy", style="strategy", s=55, zorder=3, ax=panel, **look
    )
    for row in mine[inside].to_dict("records"):
        ends = row["judged_low"], row["judged_high"]
        panel.vlines(row["seconds"], *ends, color=palette[row["strategy"]], linewidth=1.6)
    for row in mine[~inside].to_dict("records"):
        words, colour = f"{row['judged']:.1f} ▾", palette[row["strategy"]]
        panel.text(row["seconds"], low - room, words, color=colour, fontsize=8, ha="center", va="center")
    ends = mine["seconds"].min() / 1.5, mine["seconds"].max() * 1.5
    panel.set(xscale="log", xlim=ends, ylim=(low - 1.5 * room, high + room))
    log_ticks(panel.xaxis)
