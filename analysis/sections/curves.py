"""How training went: accuracy and loss by epoch, on the training images and on those that are watched."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analysis.comparison import Comparison
from analysis.markdown import Picture, Section
from analysis.paired import interval
from analysis.style import INK, drawn, grid, legend, log_ticks
from analysis.tables import in_order, size_name, where

BELOW_VALIDATION = 10  # times: further down, a training loss flattens the validation losses on a shared log axis
SPLITS = {"train": "training", "val": "validation"}
DASHES = {"validation": "", "training": (3.5, 1.5)}
UNITS = {"accuracy": "percent", "loss": "cross-entropy in nats"}


def section(study: Comparison) -> Section | None:
    """A figure each of accuracy and loss, a panel a strategy; None where nothing was trained."""
    history = study.steady(study.tables.history)
    history = history[history["split"].isin(SPLITS) & history["strategy"].isin(study.candidates)]
    # A head in closed form has no epochs, only what it reaches.
    trained = set(history.loc[history["split"] == "train", "strategy"])
    history = history[history["strategy"].isin(trained)]
    if not trained:
        return None
    names = [name for name in study.candidates if name in set(history["strategy"])]
    ends = history.groupby(["strategy", "phase"])["epoch"].max()
    borders = {name: sorted(ends[name])[:-1] for name in names}
    phased = "; dotted verticals: a phase ends" if any(borders.values()) else ""
    watched = (history["split"] == "val").any()
    cut = "; cut off at a tenth of the lowest validation loss" if watched else ""
    failed = "; without runs that diverged" if (study.tables.runs["status"] == "diverged").any() else ""
    pictures = []
    for metric, unit in UNITS.items():
        means = _means(study, where(history, metric=metric), 100.0 if metric == "accuracy" else 1.0)
        shown = metric if watched else f"training {metric}"
        title = f"{'Training and validation' if watched else 'Training'} {metric} by epoch and strategy"
        caption = (
            f"{shown.capitalize()} after each epoch ({unit}), mean of {study.seeds(names)} with 95% interval; training "
            f"is read on the epoch's own augmented batches{phased}{cut if metric == 'loss' else ''}{failed}."
        )
        draw = partial(_draw, means, names, borders, shown)
        pictures.append(Picture(f"curves_{metric}", title, caption, means, draw))
    return Section("Learning curves", tuple(pictures))


def _means(study: Comparison, history: pd.DataFrame, scale: float) -> pd.DataFrame:
    """One row a size, strategy, split and epoch: mean, low and high."""
    key = ["per_class", "strategy", "split", "epoch"]
    rows = []
    for _, found in history.groupby(key):
        correlation = study.tables.correlation(int(found["per_class"].iloc[0]))
        rows.append({**found.iloc[0][key], **interval(found["value"].to_numpy() * scale, correlation)._asdict()})
    return pd.DataFrame(rows)


def _draw(means: pd.DataFrame, names: list[str], borders: dict[str, list[int]], shown: str) -> Figure:
    sizes = [size_name(size) for size in in_order(means["per_class"])]
    palette = dict(zip(sizes, sns.color_palette("viridis", len(sizes)), strict=True))
    means = means.assign(images=means["per_class"].map(size_name), split=means["split"].map(SPLITS))
    splits = [split for split in DASHES if split in set(means["split"])]
    looks: dict[str, Any] = {"hue": "images", "hue_order": sizes, "palette": palette}
    if len(splits) > 1:
        looks |= {"style": "split", "style_order": splits, "dashes": DASHES}
    drawing, panels = grid(len(names), 3, 1.55, sharex=True, sharey=True)
    for panel, name in zip(panels, names, strict=True):
        mine = where(means, strategy=name)
        for (images, _), line in mine.groupby(["images", "split"]):
            colour = palette[str(images)]
            panel.fill_between(line["epoch"], line["low"], line["high"], color=colour, alpha=0.2, linewidth=0)
        looks |= {"legend": "full" if panel is panels[0] else False}
        sns.lineplot(mine, x="epoch", y="mean", errorbar=None, ax=panel, **looks)
        for border in borders[name]:
            panel.axvline(border + 0.5, color=INK, linewidth=0.9, linestyle=":")
        panel.set(title=drawn(name), xlabel="", ylabel="")
    loss = shown.endswith("loss")
    if loss:
        found = means[means["mean"] > 0]
        watched = where(found, split="validation")["mean"]
        low = max(found["mean"].min(), watched.min() / BELOW_VALIDATION if len(watched) else 0.0)
        panels[0].set(yscale="log", ylim=(low / 1.15, found["mean"].max() * 1.15))
        log_ticks(panels[0].yaxis)
    drawing.supxlabel("epoch", fontsize=8.5)
    drawing.supylabel(f"{shown} ({'log scale' if loss else '%'})", fontsize=8.5)
    legend(drawing, panels, "outside upper center", 4, without=("images", "split"))
    return drawing
