"""How training went: accuracy and loss by epoch, on the training images and on those that are watched."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.comparison import Comparison
from analysis.markdown import Picture, Section
from analysis.paired import interval
from analysis.style import INK, drawn, grid, legend, log_ticks
from analysis.tables import size_name

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
    return Section("Learning curves", tuple(_pictures(study, history))) if trained else None


def _pictures(study: Comparison, history: pd.DataFrame) -> Iterator[Picture]:
    names = [name for name in study.candidates if name in set(history["strategy"])]
    ends = history.groupby(["strategy", "phase"])["epoch"].max()
    borders = {name: sorted(ends[name])[:-1] for name in names}
    phased = "; dotted verticals: a phase ends" if any(borders.values()) else ""
    watched = (history["split"] == "val").any()
    cut = "; cut off at a tenth of the lowest validation loss" if watched else ""
    failed = "; without runs that diverged" if (study.tables.runs["status"] == "diverged").any() else ""
    for metric, unit in UNITS.items():
        means = _means(study, history[history["metric"] == metric], 100.0 if metric == "accuracy" else 1.0)
        yield Picture(
            f"curves_{metric}",
            f"{'Training and validation' if watched else 'Training'} {metric} by epoch and strategy",
            f"{metric.capitalize()} after each epoch ({unit}), mean of {study.seeds} with 95% interval; training is "
            f"read on the epoch's own augmented batches{phased}{cut if metric == 'loss' else ''}{failed}.",
            means,
            partial(_draw, means, study.sizes_in(means), names, borders, metric),
        )


def _means(study: Comparison, history: pd.DataFrame, scale: float) -> pd.DataFrame:
    """One row a size, strategy, split and epoch: mean, low and high."""
    key = ["per_class", "strategy", "split", "epoch"]
    rows = []
    for _, found in history.groupby(key):
        first = found.iloc[0]
        correlation = study.tables.correlation(int(first["per_class"]))
        mean, low, high, n = interval(found["value"].to_numpy() * scale, correlation)
        rows.append({**first[key], "mean": mean, "low": low, "high": high, "n": n})
    return pd.DataFrame(rows)


def _draw(
    means: pd.DataFrame, sizes: list[int], names: list[str], borders: dict[str, list[int]], metric: str
) -> Figure:
    palette = dict(zip(map(size_name, sizes), sns.color_palette("viridis", len(sizes)), strict=True))
    means = means.assign(images=means["per_class"].map(size_name), split=means["split"].map(SPLITS))
    drawing, panels = grid(len(names), 3, 1.55, sharex=True, sharey=True)
    for panel, name in zip(panels, names, strict=True):
        mine = means[means["strategy"] == name]
        for _, line in mine.groupby(["images", "split"]):
            images = line["images"].iloc[0]
            panel.fill_between(line["epoch"], line["low"], line["high"], color=palette[images], alpha=0.2, linewidth=0)
        sns.lineplot(
            mine,
            x="epoch",
            y="mean",
            hue="images",
            hue_order=list(palette),
            palette=palette,
            style="split",
            style_order=[split for split in DASHES if split in set(means["split"])],
            dashes=DASHES,
            errorbar=None,
            legend="full" if panel is panels[0] else False,
            ax=panel,
        )
        for border in borders[name]:
            panel.axvline(border + 0.5, color=INK, linewidth=0.9, linestyle=":")
        panel.set(title=drawn(name), xlabel="", ylabel="")
    if metric == "loss":
        _log(panels[0], means)
    drawing.supxlabel("epoch", fontsize=8.5)
    drawing.supylabel("accuracy (%)" if metric == "accuracy" else "loss (log scale)", fontsize=8.5)
    legend(drawing, panels, "outside upper center", 4, without=("images", "split"))
    return drawing


def _log(panel: Axes, means: pd.DataFrame) -> None:
    found = means[means["mean"] > 0]
    watched = found.loc[found["split"] == "validation", "mean"]
    low = max(found["mean"].min(), watched.min() / BELOW_VALIDATION if len(watched) else 0.0)
    panel.set(yscale="log", ylim=(low / 1.15, found["mean"].max() * 1.15))
    log_ticks(panel.yaxis)
