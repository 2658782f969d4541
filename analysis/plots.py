"""Table in, Figure out: every picture of the report, readable at 1,000 pixels and for colour-blind people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from analysis.tables import GROUPS, size_name

# Okabe and Ito, "Color universal design" (2008): apart for every common kind of colour vision.
OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}
# The default strategies look the same in every report.
FIXED_LOOKS = {
    "scratch": (OKABE_ITO["black"], "X"),
    "feature_extraction": (OKABE_ITO["orange"], "o"),
    "last_block": (OKABE_ITO["sky"], "s"),
    "fine_tune": (OKABE_ITO["blue"], "D"),
    "discriminative": (OKABE_ITO["green"], "^"),
    "gradual_unfreezing": (OKABE_ITO["purple"], "v"),
    "lp_ft": (OKABE_ITO["vermillion"], "P"),
    "norm_only": (OKABE_ITO["yellow"], "p"),
    "lda": ("#7B3F6B", "h"),  # a ninth colour, darker than the palette's
}
_OTHER_COLOURS = ("yellow", "blue", "vermillion", "green", "purple", "sky", "orange", "black")
_OTHER_MARKERS = ("*", "<", ">", "p", "h", "d", "8", "H")

TRAINING_BELOW_VALIDATION = 10  # times: further down, a log axis shared with a training loss flattens validation
WIDTH = 6.7  # inches: 1,005 pixels at DPI
DPI = 150
STYLE: dict[str, Any] = {
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "lines.solid_capstyle": "butt",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "thaw",
    "svg.fonttype": "path",
    "path.simplify": True,
}
GREY = "#8A8A8A"
INK = "#222222"
NARROW = 8.0  # points: the smallest text in a figure
MOST_IN_MATRIX = 9  # strategies; with more the numbers become too small to read
MOST_CLASSES = 12  # columns of the figure of classes, for the same reason

Looks = Mapping[str, tuple[str, str]]


def looks_of(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """One colour and one marker for each strategy, fixed for the nine defaults."""
    looks = {name: FIXED_LOOKS[name] for name in names if name in FIXED_LOOKS}
    for i, name in enumerate(name for name in names if name not in FIXED_LOOKS):
        colour = OKABE_ITO[_OTHER_COLOURS[i % len(_OTHER_COLOURS)]]
        looks[name] = (colour, _OTHER_MARKERS[i % len(_OTHER_MARKERS)])
    return looks


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, zero without one; minus as it is printed."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else "−") + text


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), layout="constrained")


def accuracy(runs: pd.DataFrame, summary: pd.DataFrame, looks: Looks, baseline: float, metric: str) -> Figure:
    """The judged accuracy of every run, joined by seed, with mean and 95% interval: one panel a size.

    runs: per_class, strategy, seed, status, judged (percent). summary: per_class, strategy, judged and
    its _low and _high (percent). baseline: that (percent) of always answering the largest class. metric: its name.
    """
    sizes = sorted(runs["per_class"].unique())
    names = [name for name in looks if name in set(runs["strategy"])]
    figure = _figure(0.75 + len(sizes) * (0.35 + 0.42 * len(names)))
    panels = figure.subplots(len(sizes), 1, sharex=True, squeeze=False)[:, 0]
    ranges = _ranges(runs, "judged", summary, "judged_low", "judged_high")
    low, high, outside = core(ranges)
    room = 0.06 * (high - low) or 1.0
    near = low - 8 < baseline < high + 8  # points
    low, high = (min(low, baseline), max(high, baseline)) if near else (low, high)
    panels[0].set_xlim(low - room, high + room)
    for panel, size in zip(panels, sizes, strict=True):
        mine = runs[runs["per_class"] == size]
        for _, of_seed in mine.groupby("seed"):
            rows = of_seed.assign(y=of_seed["strategy"].map(names.index)).sort_values("y")
            panel.plot(rows["judged"], rows["y"] - 0.13, color=GREY, linewidth=0.5, alpha=0.55, zorder=1)
        _bands(panel, len(names))
        for y, name in enumerate(names):
            colour, marker = looks[name]
            dots = mine[mine["strategy"] == name]
            for status, face in (("ok", colour), ("diverged", "white")):
                some = dots[dots["status"] == status]
                panel.scatter(
                    some["judged"],
                    np.full(len(some), y - 0.13),
                    s=20,
                    marker=marker,
                    facecolor=face,
                    edgecolor=colour,
                    linewidth=0.9,
                    zorder=3,
                )
            for row in summary[(summary["per_class"] == size) & (summary["strategy"] == name)].to_dict("records"):
                if name in outside:
                    _pointer(panel, y, f"{row['judged']:.1f}", row["judged"] < low)
                _interval(panel, row["judged"], row["judged_low"], row["judged_high"], y + 0.2)
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.grid(axis="y", visible=False)
        panel.set_title(size_name(size), loc="left")
        if near:
            panel.axvline(baseline, color=INK, linewidth=0.9, linestyle=":", zorder=0)
    panels[-1].set_xlabel(f"{metric} (%)")
    handles = [
        Line2D([], [], color=GREY, marker="o", linewidth=0.5, markersize=4, label="one seed (line: same seed)"),
        Line2D([], [], color=INK, marker="|", linewidth=2, markersize=8, label="mean with 95% interval"),
    ]
    if (runs["status"] == "diverged").any():
        handles.append(Line2D([], [], color=INK, marker="o", mfc="white", linewidth=0, label="diverged run"))
    if near:
        handles.append(Line2D([], [], color=INK, linestyle=":", linewidth=0.9, label="always the largest class"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), handlelength=1.6, columnspacing=1.2)
    return figure


def core(ranges: Mapping[str, tuple[float, float]]) -> tuple[float, float, list[str]]:
    """The range to show, and the names that lie so far outside of it that showing them would flatten the rest.

    Names are left out only where at least half remain and the gap is more than twice the range of those.
    """
    ordered = sorted(ranges, key=lambda name: ranges[name][0] + ranges[name][1], reverse=True)
    for kept in range(len(ordered) - 1, 0, -1):
        if 2 * kept < len(ordered):
            break
        for inside, outside in ((ordered[:kept], ordered[kept:]), (ordered[-kept:], ordered[:-kept])):
            low, high = min(ranges[name][0] for name in inside), max(ranges[name][1] for name in inside)
            gap = min(max(low - ranges[name][1], ranges[name][0] - high) for name in outside)
            if gap > 2 * (high - low) > 0:
                return low, high, outside
    return min(low for low, _ in ranges.values()), max(high for _, high in ranges.values()), []


def _core_with_zero(ranges: Mapping[str, tuple[float, float]]) -> tuple[float, float, list[str]]:
    """`core`, with zero always in the picture; zero counts as a name that must not be left out."""
    low, high, outside = core({**ranges, "": (0.0, 0.0)})
    if "" in outside:
        low, high, outside = min(a for a, _ in ranges.values()), max(b for _, b in ranges.values()), []
    return min(low, 0.0), max(high, 0.0), outside


def _ranges(
    values: pd.DataFrame, column: str, summary: pd.DataFrame, low: str, high: str
) -> dict[str, tuple[float, float]]:
    """Per strategy, the range of its dots and its intervals over all sizes."""
    ranges = {}
    for name, mine in pd.concat(
        [
            values[["strategy", column]].rename(columns={column: "value"}),
            summary[["strategy", low]].rename(columns={low: "value"}),
            summary[["strategy", high]].rename(columns={high: "value"}),
        ]
    ).groupby("strategy"):
        known = mine["value"].dropna()
        if len(known):
            ranges[str(name)] = (float(known.min()), float(known.max()))
    return ranges


def _bands(panel: Axes, rows: int) -> None:
    """Every other row lightly shaded, so that what belongs together is seen as such."""
    for y in range(0, rows, 2):
        panel.axhspan(y - 0.5, y + 0.5, color="#F6F6F6", linewidth=0, zorder=0)


def _pointer(panel: Axes, y: float, text: str, left: bool) -> None:
    """What lies outside of the picture: an arrow at the edge, with the number."""
    words = f"◀ {text}, outside" if left else f"{text}, outside ▶"
    panel.text(
        0.01 if left else 0.99,
        y,
        words,
        transform=panel.get_yaxis_transform(),
        ha="left" if left else "right",
        va="center",
        fontsize=NARROW,
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        zorder=6,
    )


def _interval(panel: Axes, mean: float, low: float, high: float, y: float, colour: str = INK) -> None:
    if np.isfinite(low):
        panel.plot([low, high], [y, y], color=colour, linewidth=2, zorder=4)
    panel.plot([mean], [y], marker="|", color=colour, markersize=9, markeredgewidth=1.6, zorder=5)


def forest(pairs: pd.DataFrame, seeds: pd.DataFrame, looks: Looks, axis: str) -> Figure:
    """Paired differences with intervals, one row a comparison, one panel a size.

    pairs: per_class, strategy (the row's name), difference, low, high and, where they were computed, low_new_images,
    high_new_images, p_holm (points). seeds: per_class, strategy, difference of each seed. axis: the axis' label.
    A filled marker: adjusted p below 0.05, or no p given; rows without numbers say so.
    """
    sizes = sorted(pairs["per_class"].unique())
    tall = [len(pairs[pairs["per_class"] == size]) for size in sizes]
    figure = _figure(0.85 + sum(0.35 + 0.4 * rows for rows in tall))
    panels = figure.subplots(len(sizes), 1, sharex=True, squeeze=False, height_ratios=[t + 0.6 for t in tall])[:, 0]
    crossed = "low_new_images" in pairs
    ends = ("low_new_images", "high_new_images") if crossed else ("low", "high")
    left, right, outside = _core_with_zero(_ranges(seeds, "difference", pairs, *ends))
    room = 0.06 * (right - left) or 1.0
    panels[0].set_xlim(left - room, right + room)
    for panel, size in zip(panels, sizes, strict=True):
        mine = pairs[pairs["per_class"] == size].reset_index(drop=True)
        _bands(panel, len(mine))
        panel.axvline(0, color=INK, linewidth=0.9, zorder=1)
        for y, row in enumerate(mine.to_dict("records")):
            colour, marker = looks.get(row["strategy"], (OKABE_ITO["blue"], "o"))
            dots = seeds[(seeds["per_class"] == size) & (seeds["strategy"] == row["strategy"])]["difference"]
            panel.scatter(dots, np.full(len(dots), y - 0.22), s=9, color=GREY, linewidth=0, zorder=2)
            place: dict[str, Any] = {"transform": panel.get_yaxis_transform(), "va": "center", "fontsize": NARROW}
            if not np.isfinite(row["difference"]):
                panel.text(1.01, y, "no numbers", **place)
                continue
            if crossed and np.isfinite(row["low_new_images"]):
                wide = [row["low_new_images"], row["high_new_images"]]
                panel.plot(wide, [y, y], color=colour, linewidth=0.9, marker="|", markersize=6, zorder=3)
            panel.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=3, zorder=4)
            told = row.get("p_holm", 0.0) < 0.05
            panel.plot(
                [row["difference"]],
                [y],
                marker=marker,
                markersize=6.5 if told else 5.5,  # smaller than most intervals are wide
                color=colour,
                markerfacecolor=colour if told else "white",
                markeredgecolor="white" if told else colour,
                markeredgewidth=1.0 if told else 1.4,
                zorder=5,
            )
            if row["strategy"] in outside:
                _pointer(panel, y, signed(row["difference"]), row["difference"] < left)
            text = f"{signed(row['difference'])}  [{signed(row['low'])}, {signed(row['high'])}]"
            panel.text(1.01, y, text, **place)
        panel.set_yticks(range(len(mine)), mine["strategy"])
        panel.set_ylim(len(mine) - 0.5, -0.5)
        panel.grid(axis="y", visible=False)
        panel.set_title(size_name(size), loc="left")
    panels[-1].set_xlabel(axis)
    handles = [
        Line2D([], [], color=GREY, marker="o", linewidth=0, markersize=3, label="one seed"),
        Line2D([], [], color=INK, linewidth=3, label="95%, these images"),
    ]
    if crossed:
        handles.append(Line2D([], [], color=INK, linewidth=0.9, marker="|", label="95%, new images too"))
    if "p_holm" in pairs:
        handles += [
            Line2D([], [], color=INK, marker="o", linewidth=0, label="adjusted p < 0.05"),
            Line2D([], [], color=INK, marker="o", mfc="white", linewidth=0, label="not below, or not adjusted"),
        ]
    ncols = len(handles) if len(handles) < 5 else 3  # a line has room for four
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, handlelength=1.5, columnspacing=1.1)
    return figure


def pair_matrix(pairs: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Every pair of one size once: row minus column in points, its 95% interval and its adjusted p.

    pairs: a, b, difference (b minus a), low, high, p_holm. names: the strategies in order.
    """
    count = len(names)
    values = np.full((count - 1, count - 1), np.nan)
    texts: dict[tuple[int, int], tuple[str, bool]] = {}
    for row in pairs.to_dict("records"):
        i, j, turn = names.index(row["b"]) - 1, names.index(row["a"]), 1
        if i < j:
            i, j, turn = j - 1, i + 1, -1
        if not np.isfinite(row["difference"]):
            texts[i, j] = ("no test:\nidentical\ndifferences" if row["k"] >= 2 else "no test:\ntoo few\nseeds", False)
            continue
        low, high = sorted((turn * row["low"], turn * row["high"]))
        values[i, j] = turn * row["difference"]
        p = row["p_holm"]
        texts[i, j] = (f"[{_minus(low)}, {_minus(high)}]\np {p_value(p)}", bool(p < 0.05))
    figure = _figure(0.55 + 0.58 * (count - 1))
    panel = figure.subplots()
    largest = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    image = panel.imshow(values, cmap=mpl.colormaps["PuOr"], vmin=-largest, vmax=largest, aspect="auto")
    for (i, j), (words, told) in texts.items():
        place: dict[str, Any] = {"ha": "center", "fontsize": NARROW if count < 9 else 7.2, "linespacing": 1.2}
        if not np.isfinite(values[i, j]):
            panel.text(j, i, words, va="center", color=INK, **place)
            continue
        place["color"] = "white" if abs(values[i, j]) > 0.7 * largest else INK
        weight = "bold" if told else "normal"
        panel.text(j, i - 0.27, signed(values[i, j]), va="center", fontweight=weight, **place)
        panel.text(j, i + 0.15, words, va="center", **place)
    panel.set_xticks(range(count - 1), [_broken(name) for name in names[:-1]], fontsize=NARROW if count < 9 else 7.2)
    panel.set_yticks(range(count - 1), [_broken(name) for name in names[1:]])
    panel.set_xticks(np.arange(count) - 0.5, minor=True)
    panel.set_yticks(np.arange(count) - 0.5, minor=True)
    panel.grid(visible=False)
    panel.grid(which="minor", color="white", linewidth=2)
    panel.tick_params(which="both", length=0)
    panel.spines[:].set_visible(False)
    # The upper triangle is empty: the key goes there.
    bar = figure.colorbar(image, cax=panel.inset_axes((0.58, 0.93, 0.4, 0.03)), orientation="horizontal")
    bar.set_label("row minus column (points)")
    bar.outline.set_visible(False)
    return figure


def _minus(value: float) -> str:
    """One decimal, with a printed minus and no plus: shorter than `signed`."""
    return signed(value).removeprefix("+")


def _broken(name: str) -> str:
    """A long name on two lines."""
    if len(name) <= 11 or "_" not in name:
        return name
    middle = min((i for i, letter in enumerate(name) if letter == "_"), key=lambda i: abs(i - len(name) / 2))
    return f"{name[: middle + 1]}\n{name[middle + 1 :]}"


def p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def curves(
    history: pd.DataFrame, names: Sequence[str], looks: Looks, borders: Mapping[str, Sequence[int]], metric: str
) -> Figure:
    """Training and validation curves of one size: one panel a strategy, one thin line a seed, phase borders drawn.

    history: strategy, seed, epoch, split, value (percent or loss), status. borders: the last epoch of each phase but
    the final one. Means are over the runs that did not diverge.
    """
    columns = min(4 if len(names) > 6 else 3, len(names))
    rows = -(-len(names) // columns)
    figure = _figure(0.75 + 1.85 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        mine = history[history["strategy"] == name]
        _curve(panel, mine, looks[name][0])
        panel.set_title(name, loc="left")
        for border in borders.get(name, ()):
            panel.axvline(border + 0.5, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    _curve_axes(panels[: len(names)], columns, history, metric)
    handles = _curve_handles(history, phases=any(len(borders.get(name, ())) for name in names))
    if len(panels) > len(names):
        panels[-1].legend(handles=handles, loc="center", borderaxespad=0)
    else:
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _curve(panel: Axes, runs: pd.DataFrame, colour: str) -> None:
    if len(runs) and (runs["status"] == "diverged").all():
        panel.text(0.5, 0.85, "every run diverged", transform=panel.transAxes, ha="center", fontsize=NARROW, color=INK)
    for split, shade, dashes in (("train", GREY, (3.5, 1.5)), ("val", colour, (1, 0))):
        part = runs[runs["split"] == split].dropna(subset="value")
        for _, run in part.groupby("seed"):
            panel.plot(run["epoch"], run["value"], color=shade, linewidth=0.5, alpha=0.4)
        steady = part[part["status"] == "ok"]
        if len(steady):
            mean = steady.groupby("epoch")["value"].mean()
            panel.plot(mean.index, mean.to_numpy(), color=shade, linewidth=1.8, dashes=dashes)
        for _, run in part[part["status"] == "diverged"].groupby("seed"):
            last = run.sort_values("epoch").iloc[-1]
            panel.plot([last["epoch"]], [last["value"]], marker="x", color=shade, markersize=5, markeredgewidth=1.4)


def loss_floor(history: pd.DataFrame) -> float | None:
    """The loss below which a figure of curves is cut off; None where nothing lies below.

    A training loss that falls to a ten-thousandth would leave the validation losses one flat line on a shared axis.
    history: split, value (loss), status.
    """
    values = history.loc[(history["status"] == "ok") & (history["value"] > 0), ["split", "value"]]
    watched = values.loc[values["split"] == "val", "value"]
    if watched.empty or values["value"].min() >= watched.min() / TRAINING_BELOW_VALIDATION:
        return None
    return float(watched.min() / TRAINING_BELOW_VALIDATION)


def _curve_axes(panels: npt.NDArray[Any], columns: int, history: pd.DataFrame, metric: str) -> None:
    """Labels and limits: of the runs that did not diverge, so that what they did stays readable."""
    steady = history.loc[history["status"] == "ok", "value"].to_numpy(dtype=np.float64)
    if not np.isfinite(steady).any():
        steady = history["value"].to_numpy(dtype=np.float64)
    steady = steady[np.isfinite(steady) & ((steady > 0) | (metric == "accuracy"))]
    low, high = (float(steady.min()), float(steady.max())) if len(steady) else (0.0, 1.0)
    floor = loss_floor(history) if metric == "loss" else None
    bottom = floor or low / 1.2
    logarithmic = floor is not None or (metric == "loss" and high > 10 * low > 0)
    label = "accuracy (%)" if metric == "accuracy" else "loss (log scale)" if logarithmic else "loss"
    for i, panel in enumerate(panels):
        if i % columns == 0:
            panel.set_ylabel(label)
        if i >= len(panels) - columns:
            panel.tick_params(labelbottom=True)
        if i // columns == (len(panels) - 1) // columns:
            panel.set_xlabel("epoch")
        if logarithmic:
            panel.set_yscale("log")
            panel.set_ylim(bottom, high * 1.2)
            _plain_log_ticks(panel.yaxis, bottom, high * 1.2)
        elif high > low:
            room = 0.06 * (high - low)
            panel.set_ylim(low - room, high + room)


def _curve_handles(history: pd.DataFrame, phases: bool) -> list[Line2D]:
    handles = [Line2D([], [], color=GREY, linewidth=1.8, linestyle=(0, (3.5, 1.5)), label="training, mean")]
    if (history["split"] == "val").any():
        handles.append(Line2D([], [], color=OKABE_ITO["blue"], linewidth=1.8, label="validation (coloured)"))
    handles.append(Line2D([], [], color=GREY, linewidth=0.5, label="one seed"))
    if phases:
        handles.append(Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (2, 2)), label="a phase ends"))
    if (history["status"] == "diverged").any():
        handles.append(Line2D([], [], color=INK, marker="x", linewidth=0, label="diverged, stopped"))
    return handles


def cost(runs: pd.DataFrame, summary: pd.DataFrame, looks: Looks, metric: str) -> Figure:
    """Accuracy against the seconds of a run: small dots are seeds, large ones means at median times.

    runs: per_class, strategy, seconds, judged (percent). summary: the same, with judged_low and _high.
    """
    sizes = sorted(runs["per_class"].unique())
    figure = _figure(3.3 if len(sizes) == 1 else 0.7 + 2.5 * -(-len(sizes) // 2))
    columns = min(2, len(sizes))
    panels = figure.subplots(-(-len(sizes) // columns), columns, squeeze=False).ravel()
    for panel, size in zip(panels, sizes, strict=False):
        for row in summary[summary["per_class"] == size].to_dict("records"):
            colour, marker = looks[row["strategy"]]
            dots = runs[(runs["per_class"] == size) & (runs["strategy"] == row["strategy"])]
            panel.scatter(dots["seconds"], dots["judged"], s=8, color=colour, alpha=0.45, linewidth=0, zorder=2)
            if np.isfinite(row["judged_low"]):
                ends = [row["judged_low"], row["judged_high"]]
                panel.plot([row["seconds"]] * 2, ends, color=colour, linewidth=1.6, zorder=3)
            panel.plot(
                [row["seconds"]],
                [row["judged"]],
                marker=marker,
                color=colour,
                markersize=8,
                markeredgecolor="white",
                linewidth=0,
                label=row["strategy"],
                zorder=4,
            )
        mine = runs[runs["per_class"] == size]
        of_size = summary[summary["per_class"] == size]
        low, high, outside = core(_ranges(mine, "judged", of_size, "judged_low", "judged_high"))
        room = 0.06 * (high - low) or 1.0
        panel.set_ylim(low - room, high + room)
        if outside:
            means = of_size.set_index("strategy")["judged"]
            words = "outside: " + ", ".join(f"{name} {means[name]:.1f}" for name in outside)
            panel.set_title(words, loc="right", fontsize=NARROW, color=INK)
        _seconds_axis(panel, runs.loc[runs["per_class"] == size, "seconds"].to_numpy(dtype=np.float64))
        panel.set_title(size_name(size), loc="left")
        panel.set_xlabel("seconds a run")
        panel.set_ylabel(f"{metric} (%)")
    for panel in panels[len(sizes) :]:
        panel.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside right center" if len(sizes) == 1 else "outside lower center",
        ncols=1 if len(sizes) == 1 else 4,
    )
    return figure


def _seconds_axis(panel: Axes, seconds: npt.NDArray[np.float64]) -> None:
    low, high = seconds.min(), seconds.max()
    if low <= 0 or high / low < 4:
        panel.set_xlim(0, high * 1.15 if high > 0 else 1)
        return
    panel.set_xscale("log")
    panel.set_xlim(low / 1.4, high * 1.4)
    _plain_log_ticks(panel.xaxis, low / 1.4, high * 1.4)


def _plain_log_ticks(axis: Axis, low: float, high: float) -> None:
    """Ticks at 1, 2, 5, 10 ... (powers of ten on long scales), written as plain numbers."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    shown = [tick for tick in ticks if low <= tick <= high]
    axis.set_ticks(shown, labels=[f"{tick:g}" for tick in shown])
    axis.set_minor_locator(NullLocator())


def sizes(summary: pd.DataFrame, looks: Looks, metric: str) -> Figure:
    """The mean judged accuracy, called `metric`, with its 95% interval against the number of images a class, log scale.

    summary: per_class, strategy, judged and its _low and _high (percent).
    """
    figure = _figure(3.5)
    panel = figure.subplots()
    all_sizes = sorted(summary["per_class"].unique())
    names = [name for name in looks if name in set(summary["strategy"])]
    for i, name in enumerate(names):
        colour, marker = looks[name]
        rows = summary[summary["strategy"] == name].sort_values("per_class")
        # Side by side, so that intervals do not hide each other.
        x = rows["per_class"] * 1.035 ** (i - (len(names) - 1) / 2)
        panel.plot(x, rows["judged"], color=colour, marker=marker, markersize=6, linewidth=1.4, label=name)
        known = np.isfinite(rows["judged_low"])
        panel.vlines(x[known], rows["judged_low"][known], rows["judged_high"][known], color=colour)
    panel.set_xscale("log")
    panel.set_xticks(all_sizes, [f"{size:,}" for size in all_sizes])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xlabel("training images a class (log scale)")
    panel.set_ylabel(f"{metric} (%)")
    figure.legend(loc="outside right center")
    return figure


def sweep_curves(history: pd.DataFrame, scales: Sequence[float], labels: Sequence[str]) -> Figure:
    """Training and validation accuracy and loss at each rate of a sweep: one column a rate.

    history: lr_scale, seed, epoch, split, metric, value (accuracy in percent), status.
    """
    columns = min(len(scales), 5)
    blocks = -(-len(scales) // columns)
    figure = _figure(0.75 + 3.1 * blocks)
    panels = figure.subplots(2 * blocks, columns, sharex=True, sharey="row", squeeze=False)
    colours = rate_colours(len(scales))
    for i, (scale, label) in enumerate(zip(scales, labels, strict=True)):
        block, column = divmod(i, columns)
        for offset, metric in enumerate(("accuracy", "loss")):
            panel = panels[2 * block + offset, column]
            mine = history[(history["lr_scale"] == scale) & (history["metric"] == metric)]
            _curve(panel, mine, colours[i])
            if metric == "accuracy":
                panel.set_title(label, loc="left")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    for offset, metric in enumerate(("accuracy", "loss")):
        of_metric = history[history["metric"] == metric]
        for block in range(blocks):
            _curve_axes(panels[2 * block + offset], columns, of_metric, metric)
            if metric == "accuracy":
                for panel in panels[2 * block]:
                    panel.set_xlabel("")
    for i in range(len(scales), blocks * columns):
        block, column = divmod(i, columns)
        panels[2 * block, column].set_visible(False)
        panels[2 * block + 1, column].set_visible(False)
    handles = _curve_handles(history, phases=False)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def rate_colours(count: int) -> list[str]:
    """One colour a rate, highest first, from a map that is even for colour-blind people."""
    return [mpl.colors.to_hex(mpl.colormaps["viridis"](x)) for x in np.linspace(0.02, 0.82, count)]


def sweep_rates(cells: pd.DataFrame, means: pd.DataFrame, axis: str, metric: str) -> Figure:
    """Accuracy and drift of the backbone against the rate, both on log scales of the rate.

    cells: rate, test, val, train (percent), drift, status, one row a run; means: the same by rate, without status.
    metric: the accuracy on the test images, in words.
    """
    figure = _figure(3.1)
    left, right = figure.subplots(1, 2)
    rates = sorted(means["rate"])
    means = means.sort_values("rate")
    series = (
        ("train", "training", GREY, "o"),
        ("val", "validation", OKABE_ITO["sky"], "s"),
        ("test", metric, OKABE_ITO["blue"], "D"),
    )
    for column, label, colour, marker in series:
        if not np.isfinite(means[column]).any():
            continue
        left.scatter(cells["rate"], cells[column], s=9, color=colour, alpha=0.5, linewidth=0)
        left.plot(means["rate"], means[column], color=colour, marker=marker, markersize=5, linewidth=1.4, label=label)
    left.set_ylabel("accuracy (%)")
    moved = cells[np.isfinite(cells["drift"]) & (cells["drift"] > 0)]
    right.scatter(moved["rate"], moved["drift"], s=9, color=OKABE_ITO["vermillion"], alpha=0.5, linewidth=0)
    known = means[np.isfinite(means["drift"]) & (means["drift"] > 0)]
    right.plot(known["rate"], known["drift"], color=OKABE_ITO["vermillion"], marker="^", linewidth=1.4)
    if len(known):
        right.set_yscale("log")
        _plain_log_ticks(right.yaxis, moved["drift"].min() / 1.3, moved["drift"].max() * 1.3)
    right.set_ylabel("relative distance (log scale)")
    left.set_title("accuracy at the end", loc="left")
    right.set_title("how far the backbone moved", loc="left")
    for panel in (left, right):
        panel.set_xscale("log")
        panel.set_xticks(rates, [rate_text(rate) for rate in rates])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel(axis)
    figure.legend(loc="outside lower center", ncols=len(series))  # a line may run anywhere inside
    return figure


def rate_text(rate: float) -> str:
    """A learning rate as people write it: 1e-4, 3e-5, 2.5e-3."""
    mantissa, exponent = f"{rate:.6e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def range_tests(finder: pd.DataFrame, compared: pd.DataFrame, looks: Looks) -> Figure:
    """Smoothed loss while all rates grow: one panel a strategy, one thin line a seed, suggestions and the scale used.

    finder: strategy, seed, lr_scale, smoothed. compared: strategy, rule, middle, used. Losses above twice the first
    are cut off.
    """
    names = [name for name in looks if name in set(finder["strategy"])]
    columns = min(4 if len(names) > 6 else 3, len(names))
    rows = -(-len(names) // columns)
    figure = _figure(0.75 + 1.85 * rows)
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        colour = looks[name][0]
        mine = finder[finder["strategy"] == name]
        firsts = []
        for _, test in mine.groupby("seed"):
            curve = test.sort_values("lr_scale")
            firsts.append(float(curve["smoothed"].iloc[0]))
            panel.plot(curve["lr_scale"], curve["smoothed"], color=colour, linewidth=0.8, alpha=0.7)
        low = float(mine["smoothed"].min())
        panel.set_ylim(low - 0.08 * max(firsts), 2 * max(firsts))
        for rule, dashes in FINDER_LINES.items():
            found = compared[(compared["strategy"] == name) & (compared["rule"] == rule)]
            for middle in found["middle"].dropna():
                panel.axvline(middle, color=INK, linewidth=1.1, linestyle=(0, dashes))
        for used in compared.loc[compared["strategy"] == name, "used"].unique():
            panel.axvline(used, color=GREY, linewidth=2.6, alpha=0.6, zorder=0)
        panel.set_xscale("log")
        panel.set_title(name, loc="left")
    for i, panel in enumerate(panels[: len(names)]):
        if i % columns == 0:
            panel.set_ylabel("smoothed loss")
        if i >= len(names) - columns:
            panel.tick_params(labelbottom=True)
            panel.set_xlabel("lr_scale (log)")
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    handles = [
        Line2D([], [], color=GREY, linewidth=2.6, alpha=0.6, label="scale used"),
        Line2D([], [], color=INK, linewidth=1.1, linestyle=(0, FINDER_LINES["steepest"]), label="steepest slope"),
        Line2D([], [], color=INK, linewidth=1.1, linestyle=(0, FINDER_LINES["tenth_of_lowest"]), label="lowest / 10"),
        Line2D([], [], color=OKABE_ITO["blue"], linewidth=0.8, label="one seed (coloured)"),
    ]
    if len(panels) > len(names):
        panels[-1].legend(handles=handles, loc="center", borderaxespad=0)
    else:
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


FINDER_LINES: Mapping[str, tuple[float, ...]] = {"steepest": (4, 2), "tenth_of_lowest": (1, 1.5)}  # dashes


def phases(ends: pd.DataFrame, means: pd.DataFrame, labels: Mapping[str, Sequence[str]], looks: Looks) -> Figure:
    """Validation accuracy at the end of each phase: one panel a strategy, one thin line a seed.

    ends: strategy, seed, phase, value (percent). means: strategy, phase, mean, low, high (percent). labels: what
    learns in each phase.
    """
    names = [name for name in looks if name in set(ends["strategy"])]
    figure = _figure(2.9 if len(names) <= 3 else 0.3 + 2.5 * -(-len(names) // 3))
    columns = min(3, len(names))
    counts = [len(labels[name]) for name in names[:columns]]
    rows = -(-len(names) // columns)
    panels = figure.subplots(
        rows, columns, sharey=True, squeeze=False, width_ratios=counts if rows == 1 else None
    ).ravel()
    for panel, name in zip(panels, names, strict=False):
        colour, marker = looks[name]
        for _, run in ends[ends["strategy"] == name].sort_values("phase").groupby("seed"):
            panel.plot(run["phase"], run["value"], color=GREY, linewidth=0.6, alpha=0.6, marker="o", markersize=2.5)
        mine = means[means["strategy"] == name].sort_values("phase")
        panel.plot(mine["phase"], mine["mean"], color=colour, linewidth=1.6, marker=marker, markersize=7, zorder=3)
        known = mine[np.isfinite(mine["low"])]
        panel.vlines(known["phase"], known["low"], known["high"], color=colour, linewidth=2, zorder=3)
        panel.set_xticks(range(1, len(labels[name]) + 1), labels[name])
        panel.set_xlim(0.6, len(labels[name]) + 0.4)
        panel.grid(axis="x", visible=False)
        panel.set_title(name, loc="left")
        panel.set_xlabel("learning in the phase")
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    for panel in panels[:: max(columns, 1)]:
        panel.set_ylabel("validation accuracy (%)")
    return figure


def drift(table: pd.DataFrame, names: Sequence[str], groups: Sequence[str]) -> Figure:
    """How far each layer group moved from where it started, relative to its length: numbers on a log colour scale.

    table: strategy, group, weight_distance. Zero (frozen) is drawn without colour.
    """
    values = table.pivot_table(index="strategy", columns="group", values="weight_distance", aggfunc="first").reindex(
        index=list(names), columns=list(groups)
    )
    return _number_map(
        values.to_numpy(dtype=np.float64), list(names), list(groups), "relative distance (log scale)", log=True
    )


def depth(summary: pd.DataFrame, runs: pd.DataFrame, metric: str) -> Figure:
    """The judged accuracy, called `metric`, against the group from which on everything learns, one line for each start.

    summary: start, first, mean and its low and high (percent). runs: start, first, seed, judged (percent).
    """
    figure = _figure(3.3)
    panel = figure.subplots()
    groups = [group for group in reversed(GROUPS) if group in set(summary["first"])]
    place = {group: i for i, group in enumerate(groups)}
    starts = list(dict.fromkeys(summary["start"]))
    for i, start in enumerate(starts):
        colour, marker = FIXED_LOOKS["scratch" if i else "fine_tune"]
        aside = 0.12 * (i - (len(starts) - 1) / 2)  # so that intervals do not hide each other
        seen, mine = runs[runs["start"] == start], summary[summary["start"] == start]
        panel.scatter(seen["first"].map(place) + aside + 0.06, seen["judged"], color=GREY, s=7, alpha=0.7)
        x = mine["first"].map(place) + aside
        panel.plot(x, mine["mean"], color=colour, marker=marker, markersize=6, linewidth=1.4, label=start)
        known = np.isfinite(mine["low"])
        panel.vlines(x[known], mine["low"][known], mine["high"][known], color=colour, linewidth=2)
    panel.set_xticks(range(len(groups)), ["everything" if group == GROUPS[0] else group for group in groups])
    panel.set_xlabel("the group nearest the input that learns: from there to the head")
    panel.set_ylabel(f"{metric} (%)")
    panel.grid(axis="x", visible=False)
    figure.legend(loc="outside upper right", ncols=2)
    return figure


def recall(table: pd.DataFrame, names: Sequence[str], classes: Sequence[str]) -> Figure:
    """The share of each class's test images that is got right, mean over seeds (percent).

    table: strategy, class, recall (percent).
    """
    values = table.pivot_table(index="strategy", columns="class", values="recall", aggfunc="first").reindex(
        index=list(names), columns=list(classes)
    )
    return _number_map(values.to_numpy(dtype=np.float64), list(names), list(classes), "recall (%)", log=False)


def _number_map(values: npt.NDArray[np.float64], rows: list[str], columns: list[str], label: str, log: bool) -> Figure:
    figure = _figure(0.75 + 0.36 * len(rows))
    panel = figure.subplots()
    shown = np.where(np.isfinite(values) & ((values > 0) | (not log)), values, np.nan)
    colours = mpl.colormaps["YlGnBu"].with_extremes(bad="#EFEFEF")
    # A row far below the others takes the lowest colour, rather than all the colours there are.
    ranges = {
        str(i): (float(np.nanmin(row)), float(np.nanmax(row))) for i, row in enumerate(shown) if np.isfinite(row).any()
    }
    low, high, _ = core(ranges) if ranges and not log else (0.0, 0.0, [])
    finite = shown[np.isfinite(shown)]
    if log or not ranges:
        low, high = (finite.min(), finite.max()) if len(finite) else (0.1, 1.0)
    if log:
        norm: Any = LogNorm(low / 1.001, high * 1.001)
        image = panel.imshow(shown, cmap=colours, norm=norm, aspect="auto")
    else:
        norm = mpl.colors.Normalize(low - 1e-9, high + 1e-9)
        image = panel.imshow(shown, cmap=colours, norm=norm, aspect="auto")
    for i in range(len(rows)):
        for j in range(len(columns)):
            value = values[i, j]
            if not np.isfinite(value):
                text = "–"
            elif log:
                text = "0" if value == 0 else f"{value:.2g}" if value >= 1e-4 else f"{value:.0e}"
            else:
                text = f"{value:.1f}"
            shade = colours(norm(shown[i, j])) if np.isfinite(shown[i, j]) else (1.0, 1.0, 1.0, 1.0)
            light = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2]
            panel.text(j, i, text, ha="center", va="center", fontsize=NARROW, color=INK if light > 0.5 else "white")
    long = len(columns) > 7
    panel.set_xticks(range(len(columns)), columns, rotation=30 if long else 0, ha="right" if long else "center")
    panel.set_yticks(range(len(rows)), rows)
    panel.grid(visible=False)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=panel, pad=0.01, aspect=16)
    bar.set_label(label)
    bar.outline.set_visible(False)
    if log:
        _plain_log_ticks(bar.ax.yaxis, low / 1.001, high * 1.001)
    return figure


def claims(judged: pd.DataFrame) -> Figure:
    """The effect of each judged claim with its interval, against the margin that it has to clear.

    judged: id, effect, low, high, margin (points), verdict.
    """
    figure = _figure(0.8 + 0.36 * len(judged))
    panel = figure.subplots()
    shade = {"supported": OKABE_ITO["blue"], "refuted": OKABE_ITO["vermillion"]}
    panel.axvline(0, color=INK, linewidth=0.9)
    for y, row in enumerate(judged.to_dict("records")):
        colour = shade.get(row["verdict"], GREY)
        panel.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.5, zorder=3)
        face = colour if row["verdict"] in shade else "white"
        panel.plot([row["effect"]], [y], marker="o", color=colour, markerfacecolor=face, markersize=5, zorder=4)
        panel.plot([row["margin"]] * 2, [y - 0.36, y + 0.36], color=OKABE_ITO["orange"], linewidth=2.2, zorder=2)
        panel.text(
            1.01, y, row["verdict"], transform=panel.get_yaxis_transform(), va="center", fontsize=NARROW, color=INK
        )
    panel.set_yticks(range(len(judged)), judged["id"])
    panel.set_ylim(len(judged) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)
    panel.set_xlabel("effect (points)")
    handles = [
        Line2D([], [], color=shade["supported"], marker="o", linewidth=2.5, label="supported"),
        Line2D([], [], color=shade["refuted"], marker="o", linewidth=2.5, label="refuted"),
        Line2D([], [], color=GREY, marker="o", mfc="white", linewidth=2.5, label="open"),
        Line2D([], [], color=OKABE_ITO["orange"], marker="|", markersize=10, mew=2.2, linewidth=0, label="margin"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure
