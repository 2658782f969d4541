"""What does another learning rate do: how good is a strategy at each rate of a sweep, and how far does it move?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import inf

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import paired
from analysis.comparison import Comparison
from analysis.markdown import NONE, Picture, Section, Table, number, rate_text, with_interval
from analysis.paired import interval, points
from analysis.power import DECIDED_FROM
from analysis.statistics import Paired
from analysis.style import drawn, figure, key, lines
from analysis.tables import GROUPS, in_order, last, size_name, where

# What counts as gone wrong, always against the best rate of the same sweep.
CLEAR_DROP = 1.0  # points of accuracy below the best rate, and clearly so
MOVED_MORE = 2.0  # times the backbone's drift at the best rate
MOVED_LESS = 0.5  # times the backbone's drift at the best rate
TRAIN_DROP = 1.0  # points of training accuracy below the best rate
SWEEP = ["strategy", "per_class"]  # names a sweep
COLUMNS = [*SWEEP, "scale", "label", "k", "judged", "low", "high", "val", "train", "drift", "diverged", "what"]


@cache
def sweeps(study: Comparison) -> pd.DataFrame:
    """A row a rate of each sweep, highest first: accuracies in percent, means over seeds. One rate alone is no sweep.

    place: of the scale among all, from 0; label: 1e-3, or ×10 where groups learn at different rates; drift: of the
    backbone, the mean over its groups; what: best, diverged, or as `_what` has it.
    """
    # On test images only where no others were left.
    decides, rows = "val_accuracy" if study.tables.sweep["val_accuracy"].notna().all() else "judged", []
    drift, cell = where(study.tables.drift, role="sweep"), [*SWEEP, "lr_scale", "seed"]
    ends = last(drift[drift["group"] != GROUPS[-1]], "phase", cell)
    moved = ends.groupby(cell)["weight_distance"].mean().rename("drift").reset_index()
    for strategy, per_class, mine in _each(study.tables.sweep.merge(moved, on=cell, how="left")):
        base = study.written_rate(strategy)
        by_scale = {float(str(scale)): of.set_index("seed").sort_index() for scale, of in mine.groupby("lr_scale")}
        if len(by_scale) == 1:
            continue
        # A rate at which a run diverged is never the best one; of equal rates the smaller one is.
        steady = [scale for scale, of in by_scale.items() if (of["status"] == "ok").all()]
        best = max(steady, key=lambda scale: by_scale[scale][decides].mean(), default=None)
        for scale, of in reversed(by_scale.items()):
            label = rate_text(base * scale) if base else f"×{scale:g}"
            judged, low, high, k = interval(points(of["judged"]), study.tables.correlation(per_class))
            val, train = (100 * of[name].mean() for name in ("val_accuracy", "train_accuracy"))
            top = None if best is None else by_scale[best]
            what = "best" if scale == best else _what(of, top, study.tables.correlation(per_class))
            numbers = (k, judged, low, high, val, train, of["drift"].mean(), len(where(of, status="diverged")))
            rows.append((strategy, per_class, scale, label, *numbers, what))
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"per_class": int, "scale": float})
    return table.assign(place=table["scale"].rank(method="dense") - 1)


def _each(table: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """By swept strategy and size, the rows of each sweep."""
    for (strategy, size), mine in table.groupby(SWEEP, sort=False):
        yield str(strategy), int(str(size)), mine


def _what(mine: pd.DataFrame, best: pd.DataFrame | None, correlation: float) -> str:
    """What went wrong in the runs at one rate, by seed, against those at the best one, on the images that judge."""
    if (mine["status"] == "diverged").any():
        return "diverged"
    drops = points(pd.Series() if best is None else (best["judged"] - mine["judged"]).dropna())
    low = interval(drops, correlation).low if len(drops) >= DECIDED_FROM else drops.min(initial=inf)
    if best is None or not len(drops) or drops.mean() < CLEAR_DROP or low <= 0:
        return "no clear difference"
    at, top = (of[["lr_scale", "drift", "train_accuracy"]].mean() for of in (mine, best))
    moved, behind = (at / top)["drift"], 100 * (top - at)["train_accuracy"]
    if at["lr_scale"] > top["lr_scale"]:
        return "moved too far" if moved >= MOVED_MORE else "worse"
    return "moved too little" if moved <= MOVED_LESS and behind >= TRAIN_DROP else "worse"


def _at_best(study: Comparison, per_class: int) -> pd.DataFrame:
    """The runs at the best rates of the sweeps of one size, with their label."""
    best = where(sweeps(study), what="best", per_class=per_class).rename(columns={"scale": "lr_scale"})
    return study.tables.sweep.merge(best[[*SWEEP, "lr_scale", "label"]])


def best_rate_gain(study: Comparison, per_class: int, swept: str, strategy: str) -> Paired | None:
    """The runs at the best rate of a sweep minus a final strategy of its size; None: no best rate, or no test."""
    return study.beside(per_class, strategy, where(_at_best(study, per_class), strategy=swept))


def above_tuned(study: Comparison, per_class: int) -> Iterator[tuple[str, str, Paired]]:
    """Strategies that are better at the best rate of a sweep than at the rate that was tuned: name, rate and gain.

    The sweep's best is chosen on watched images, where there are any, so that its gain is not flattered by the choice.
    """
    for strategy, runs in _at_best(study, per_class).groupby("strategy", sort=False):
        gain = study.beside(per_class, str(strategy), runs)
        if study.tables.tuned and gain and gain.k >= DECIDED_FROM and gain.low > 0:
            yield str(strategy), runs["label"].iloc[0], gain


@cache
def best_above(study: Comparison, per_class: int) -> tuple[str, Paired] | None:
    """The best rate of a sweep of this size that beats the best strategy advised, where there is one."""
    runs = _at_best(study, per_class)
    name = "`" + runs["strategy"] + "` at " + runs["label"]
    return study.best_above(per_class, {str(rate): mine for rate, mine in runs.groupby(name)})


def section(study: Comparison) -> Section | None:
    table = sweeps(study)
    if table.empty:
        return None
    body: list[str | Table | Picture] = [_rates(study), _curves(study)]
    for strategy, size, mine in _each(table):
        beside = [
            f": best rate − `{name}`, the best strategy, {with_interval(gain.difference, gain.low, gain.high)} points"
            for name in study.advised(size)[:1]
            if (gain := best_rate_gain(study, size, strategy, name))
        ]
        body += [f"**`{strategy}`, {size_name(size)}**" + "".join(beside), _table(study, mine)]
    chosen = "validation accuracy" if table["val"].notna().all() else f"{study.metric}, for want of validation"
    body.append(
        f"*Best*: highest mean {chosen}, of rates at which no run diverged. Of rates with clearly lower {study.metric} "
        f"(by {CLEAR_DROP:g} point, and in every seed or, from {DECIDED_FROM} seeds on, by the 95% interval), a higher "
        f"one *moved too far* if the backbone moved {MOVED_MORE:g} times as far, a lower one *moved too little* if it "
        f"moved {MOVED_LESS:g} times as far and training is {TRAIN_DROP:g} point behind. This describes; it tests "
        "nothing."
    )
    return Section("Sweep of the learning rate", tuple(body))


def _table(study: Comparison, mine: pd.DataFrame) -> Table:
    rows = []
    for i, row in enumerate(mine.to_dict("records")):
        edge = ", at the edge" if row["what"] == "best" and i in (0, len(mine) - 1) else ""
        judged = with_interval(row["judged"], row["low"], row["high"], number)
        moved = NONE if pd.isna(row["drift"]) else f"{row['drift']:.2g}"
        reached = (number(row["val"]), judged, number(row["train"]))
        rows.append((row["label"], str(row["k"]), *reached, moved, str(row["diverged"]), row["what"] + edge))
    head = ("Rate", "Seeds", "Validation", study.metric.capitalize(), "Training", "Moved", "Diverged", "What happened")
    return Table(head, tuple(rows), frozenset(range(7)))


def rate_ticks(study: Comparison) -> list[str]:
    """The rate at each place; the scale where it stands for several."""
    places = sweeps(study).groupby("place")
    return [of["label"].iloc[0] if len(set(of["label"])) == 1 else f"×{of['scale'].iloc[0]:g}" for _, of in places]


def _rates(study: Comparison) -> Picture:
    table, ticks = sweeps(study), rate_ticks(study)

    def draw() -> Figure:
        sizes = in_order(table["per_class"])
        drawing = figure(0.7 + 2.1 * len(sizes))
        for size, panels in zip(sizes, drawing.subplots(len(sizes), 2, squeeze=False), strict=True):
            mine = where(table, per_class=size).rename(columns={"strategy": "name"})
            lines(panels[0], mine.assign(value=mine["judged"]), study.drawn)
            moved = mine.assign(value=mine["drift"], low=float("nan"), high=float("nan"))[mine["drift"] > 0]
            lines(panels[1], moved, study.drawn)
            panels[0].set(title=size_name(size), ylabel=f"{study.metric} (%)")
            panels[1].set(ylabel="backbone moved", yscale="log" if len(moved) else "linear")
            for panel in panels:
                panel.set_xticks(range(len(ticks)), ticks)
                panel.set_xlabel("learning rate" if size == sizes[-1] else "")
        key(drawing, study.drawn, list(table["strategy"]))
        return drawing

    caption = f"Mean {study.metric} with its 95% interval over {study.over} (n = {table['k'].max()}), and how far the "
    caption += "backbone moved: ‖w − w₀‖ / ‖w₀‖, mean over its groups."
    return Picture("sweep_rates", "Accuracy and drift of the backbone by rate", caption, table, draw)


def _curves(study: Comparison) -> Picture:
    table = where(study.tables.history, role="sweep", metric="accuracy").dropna(subset="value")
    table = table.merge(sweeps(study)[SWEEP].drop_duplicates())
    table = table[[*SWEEP, "lr_scale", "seed", "split", "epoch", "value"]].assign(value=table["value"] * 100)
    splits = [split for split in ("train", "val") if split in set(table["split"])]
    rates = sorted(sweeps(study)["scale"].unique())
    palette = dict(zip(rates, sns.color_palette("viridis_r", len(rates)), strict=True))

    def draw() -> Figure:
        found = list(_each(table))
        drawing = figure(0.6 + 1.55 * len(found))
        panels = drawing.subplots(len(found), len(splits), sharex=True, sharey="row", squeeze=False)
        for (strategy, size, mine), row in zip(found, panels, strict=True):
            over = paired.ends(study.tables.correlation(size))
            looks = {"hue": "lr_scale", "palette": palette, "errorbar": over, "legend": False}
            for split, panel in zip(splits, row, strict=True):
                sns.lineplot(where(mine, split=split), x="epoch", y="value", ax=panel, **looks)
                panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
                panel.set_ylabel(f"{'training' if split == 'train' else 'validation'} (%)", visible=True)
            row[0].set_title(drawn(f"{strategy}, {size_name(size)}"))
        ticks = zip(palette.values(), rate_ticks(study), strict=True)
        handles = [Line2D([], [], color=colour, label=label) for colour, label in ticks]
        drawing.legend(handles=handles[::-1], loc="outside upper center", ncols=6)
        return drawing

    caption = f"Accuracy by epoch, a colour a rate: mean with its 95% interval over {study.over}."
    return Picture("sweep_curves", "Accuracy by epoch at each learning rate", caption, table, draw)
