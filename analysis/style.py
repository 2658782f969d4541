"""How figures look: one theme, one colour and marker a strategy, points with intervals, names that can be drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from analysis.markdown import number, signed
from analysis.paired import BATCH_NORM_TRAIN
from analysis.power import ALPHA
from analysis.tables import ALL, in_order, size_name, where

WIDTH = 6.0  # inches: 900 pixels at DPI
DPI = 150
FONT = "DejaVu Sans"  # comes with matplotlib: the same on every machine
GREY, INK, SHADE, ORANGE = "#8A8A8A", "#222222", "#F1ECDD", "#E69F00"
# Of Okabe and Ito, "Color universal design" (2008), and a ninth: apart for every common kind of colour vision.
LOOKS: Mapping[str, tuple[str, str]] = {
    "scratch": ("#000000", "X"),
    "feature_extraction": (ORANGE, "o"),
    "last_block": ("#56B4E9", "s"),
    "fine_tune": ("#0072B2", "D"),
    "discriminative": ("#009E73", "^"),
    "gradual_unfreezing": ("#CC79A7", "v"),
    "lp_ft": ("#D55E00", "P"),
    "norm_only": ("#B8A800", "p"),
    "lda": ("#7B3F6B", "h"),
}
OTHERS = (("#666666", "*"), ("#0072B2", "<"), ("#D55E00", ">"), ("#009E73", "H"), ("#CC79A7", "8"))
THEME: dict[str, Any] = {
    **sns.axes_style("whitegrid"),
    **sns.plotting_context("paper"),
    **dict.fromkeys(("figure.dpi", "savefig.dpi"), DPI),
    **dict.fromkeys(("font.size", "axes.labelsize"), 8.5),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize", "legend.title_fontsize"), 8),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left", "legend.frameon"), False),
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor"), "white"),
    "font.family": FONT,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "svg.hashsalt": "thaw",
    "svg.fonttype": "path",
}


def looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each strategy, fixed for the nine defaults; with updated BatchNorm a thin diamond."""
    found = {name: LOOKS[name] for name in names if name in LOOKS}
    for name in names:
        if name not in LOOKS and (twin := name.removesuffix(BATCH_NORM_TRAIN)) in LOOKS:
            found[name] = (LOOKS[twin][0], "d")
    others = [name for name in names if name not in found]
    return found | {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(others)}


def colours(names: Sequence[str]) -> dict[str, str]:
    """The colour of each strategy: a palette for seaborn."""
    return {name: colour for name, (colour, _) in looks(names).items()}


def markers(names: Sequence[str]) -> dict[str, str]:
    """The marker of each strategy."""
    return {name: marker for name, (_, marker) in looks(names).items()}


def drawn(name: object) -> str:
    """Any name as one line that Matplotlib draws: no mathematics, and what the font lacks by its number."""
    known = get_font(findfont(FONT)).get_charmap()
    text = " ".join(str(name).split())
    visible = (c if ord(c) in known else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return "".join(visible).replace("$", r"\$")


def figure(height: float) -> Figure:
    """An empty figure of the page's width; height in inches."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def grid(count: int, columns: int, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, `columns` a row and each about `height` inches high; `shared`: of `subplots`."""
    columns = min(count, columns)
    rows = -(-count // columns)
    drawing = figure(0.5 + height * rows)
    every = drawing.subplots(rows, columns, squeeze=False, **shared).ravel()
    for panel in every[count - columns : count]:  # the lowest of each column, where axes are shared
        panel.tick_params(labelbottom=True)
    for panel in every[count:]:
        panel.set_visible(False)
    return drawing, list(every[:count])


def by_size(
    data: pd.DataFrame, draw: Callable[[Axes, pd.DataFrame], None], height: float, columns: int = 2, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel a size, named in its title, onto which its rows are drawn; the rest as for `grid`."""
    sizes = in_order(data["per_class"])
    drawing, panels = grid(len(sizes), columns, height, **shared)
    for panel, size in zip(panels, sizes, strict=True):
        draw(panel, where(data, per_class=size))
        panel.set_title(size_name(size))
    return drawing, panels


def heat_map(
    panel: Axes, values: pd.DataFrame, texts: pd.DataFrame, columns: Sequence[str], turned: float = 0, **looks: Any
) -> None:
    """A map of values with their texts; columns: the names below it, turned by so many degrees; looks: seaborn's."""
    words = {"fontsize": 7.5} | looks.pop("annot_kws", {})
    sns.heatmap(values, annot=texts, fmt="", annot_kws=words, ax=panel, **{"cbar": False, "linewidths": 1} | looks)
    panel.set(xlabel="", ylabel="")
    side = "right" if 0 < turned < 90 else "center"
    panel.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=turned, ha=side)
    panel.set_yticks(np.arange(len(values)) + 0.5, [drawn(name) for name in values.index], rotation=0)


def legend(drawing: Figure, panels: Sequence[Axes], place: Any, ncols: int, without: Sequence[str] = ()) -> None:
    """One legend for all panels, from the first one's, in place of their own; `without`: seaborn's own headings."""
    entries = dict(zip(*panels[0].get_legend_handles_labels()[::-1], strict=True))
    for panel in panels:
        if (own := panel.get_legend()) is not None:
            own.remove()
    shown = [name for name in entries if name not in without]
    drawing.legend([entries[name] for name in shown], [drawn(name) for name in shown], loc=place, ncols=ncols)


def log_ticks(axis: Axis) -> None:
    """Ticks of a log axis whose limits are set: at 1, 2, 5, 10 (powers of ten on long ones), as plain numbers."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


@dataclass(frozen=True)
class Intervals:
    """Points with intervals, a row a name, and a panel a size where there are sizes."""

    data: pd.DataFrame  # name, value, low, high (NaN where there is no interval), and per_class where sizes count
    axis: str  # label of the values
    names: Sequence[str]  # top to bottom
    zero: bool = False  # a line there: values are differences
    shaded: Mapping[int, Sequence[str]] | None = None  # by size, the rows to set off
    filled: pd.Series[bool] | None = None  # which markers are filled; None: all
    mark: float | None = None  # a value to hold all against, dotted where it lies inside
    ticks: Mapping[str, float] | None = None  # by name, a value to hold it against
    look: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # colour and marker of a row; else its own
    labels: Mapping[str, str] = field(default_factory=dict)  # of a row, where it is not its name

    @property
    def marked(self) -> bool:
        """Whether `mark` lies inside some panel."""
        return any(self._marked(*core(mine, self.zero)) for _, mine in self.data.groupby("per_class"))

    @property
    def cut(self) -> bool:
        """Whether some value lies left of its panel, so that a text stands for it."""
        return any((mine["value"] < core(mine, self.zero)[0]).any() for _, mine in self.data.groupby("per_class"))

    def _marked(self, left: float, right: float) -> bool:
        return self.mark is not None and left <= self.mark <= right

    def draw(self) -> Figure:
        sized = "per_class" in self.data
        data = self.data if sized else self.data.assign(per_class=ALL)
        drawing, panels = by_size(data, self._panel, 0.4 + 0.235 * len(self.names), 9, sharey=True)
        for panel in panels:
            panel.tick_params(labelleft=panel is panels[0])
            panel.set_title(panel.get_title(loc="left") if sized else "")
        drawing.supxlabel(self.axis, fontsize=8.5)
        return drawing

    def _panel(self, panel: Axes, mine: pd.DataFrame) -> None:
        rows = {name: y for y, name in enumerate(self.names)}
        shaded = (self.shaded or {}).get(int(mine["per_class"].iloc[0]), ())
        mine = mine.assign(row=mine["name"].map(rows), filled=True if self.filled is None else self.filled)
        left, right = core(mine, self.zero)
        inside = mine[mine["value"].between(left, right)]
        # Two intervals a row, the wider one thin, where the data have low_wide and high_wide.
        wide, thick = (("low_wide", "high_wide"), 2.4) if "low_wide" in mine else (("low", "high"), 1.6)
        for name in shaded:
            panel.axhspan(rows[name] - 0.5, rows[name] + 0.5, color=SHADE, linewidth=0, zorder=0)
        if self.zero:
            panel.axvline(0, color=INK, linewidth=0.9, zorder=1)
        if self.mark is not None and self._marked(left, right):
            panel.axvline(self.mark, color=GREY, linewidth=1, linestyle=":", zorder=1)
        for name, at in (self.ticks or {}).items():
            panel.plot([at, at], [rows[name] - 0.3, rows[name] + 0.3], color=ORANGE, linewidth=2, zorder=1)
        look = {**looks(self.names), **self.look}
        palette, shapes = ({name: pair[i] for name, pair in look.items()} for i in (0, 1))
        (
            so.Plot(inside, x="value", y="row", color="name", marker="name", fill="filled")
            .add(so.Range(linewidth=0.8), xmin=wide[0], xmax=wide[1], orient="y", legend=False)
            .add(so.Range(linewidth=thick), xmin="low", xmax="high", orient="y", legend=False)
            .add(so.Dot(pointsize=5.5), legend=False)
            .scale(color=palette, marker=shapes, fill={True: True, False: False})
            .theme(THEME)
            .label(x="", y="")
            .on(panel)
            .plot()
        )
        for row in mine.drop(inside.index).to_dict("records"):
            beyond, value = row["value"] < left, (signed if self.zero else number)(row["value"])
            x, side, text = (0.01, "left", f"◂ {value}") if beyond else (0.99, "right", f"{value} ▸")
            place: dict[str, Any] = {"ha": side, "va": "center", "color": palette[row["name"]], "fontsize": 8}
            under = SHADE if row["name"] in shaded else "white"  # the text may lie on the line at zero
            place["bbox"] = {"facecolor": under, "edgecolor": "none", "pad": 1}
            panel.text(x, row["row"], text, transform=panel.get_yaxis_transform(), **place)
        room = 0.05 * (right - left) or 1.0
        panel.set_xlim(left - room, right + room)
        panel.set_yticks(range(len(self.names)), [drawn(self.labels.get(name, name)) for name in self.names])
        panel.set_ylim(len(self.names) - 0.5, -0.5)
        panel.grid(axis="y", visible=False)


def gained(gains: pd.DataFrame, axis: str, names: Sequence[str]) -> Figure:
    """Differences of strategies with their intervals, those told apart (by p_holm) filled."""
    wide = {"low_new_images": "low_wide", "high_new_images": "high_wide"}
    data = gains.rename(columns={"strategy": "name", "difference": "value", **wide})
    return Intervals(data, axis, names, zero=True, filled=gains["p_holm"] < ALPHA).draw()


def core(rows: pd.DataFrame, zero: bool) -> tuple[float, float]:
    """The range worth showing: of all rows but those that lie so far off that they would flatten the others."""
    ends = rows.filter(["value", "low", "high", "low_wide", "high_wide"])
    low, high = ends.min(axis=1), ends.max(axis=1)
    middle = float(rows["value"].median())
    spread = float((rows["value"] - middle).abs().median())
    reach = 6 * max(spread, float((high - low).median()), 1.0)
    near = rows["value"].between(middle - reach, middle + reach)
    left, right = float(low[near].min()), float(high[near].max())
    return (min(left, 0.0), max(right, 0.0)) if zero else (left, right)


def lines(panel: Axes, rows: pd.DataFrame, names: Sequence[str]) -> None:
    """Means joined by lines, with their intervals, side by side where names share a place.

    rows: place (a whole number), name, value, low, high: NaN where there is no interval. names: those that `colours`
    and `markers` are of.
    """
    present = [name for name in names if name in set(rows["name"])]
    aside = {name: 0.12 * (i - (len(present) - 1) / 2) for i, name in enumerate(present)}
    rows = rows.assign(x=rows["place"] + rows["name"].map(aside).astype(float))
    (
        so.Plot(rows, x="x", y="value", color="name", marker="name")
        .add(so.Line(linewidth=1.3, pointsize=6, edgewidth=0), legend=False)
        .add(so.Range(linewidth=1.4), ymin="low", ymax="high", legend=False)
        .scale(color=colours(names), marker=markers(names))
        .theme(THEME)
        .label(x="", y="")
        .on(panel)
        .plot()
    )
    panel.grid(axis="x", visible=False)


def key(drawing: Figure, names: Sequence[str], shown: Sequence[str]) -> None:
    """The look of each name shown, above the figure; names: those that `colours` and `markers` are of."""
    known = looks(names)
    handles = []
    for colour, marker, name in ((*known[name], name) for name in names if name in shown):
        handles.append(Line2D([], [], color=colour, marker=marker, linewidth=1.3, markersize=5, label=drawn(name)))
    columns = max(1, 84 // (max(map(len, shown)) + 6))  # letters in a line
    drawing.legend(handles=handles, loc="outside upper center", ncols=min(columns, len(handles)))


def save(drawing: Figure, base: Path) -> None:
    """Write a figure as PNG and SVG, with nothing in them that changes from one day to the next."""
    # Straight from the canvases: `savefig` would draw everything twice. The PNG finds the layout, the SVG keeps it.
    png, svg = BytesIO(), BytesIO()
    FigureCanvasAgg(drawing).print_png(png, metadata={"Software": None})  # type: ignore[no-untyped-call]
    drawing.set_layout_engine("none")
    FigureCanvasSVG(drawing).print_svg(svg, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    base.with_suffix(".png").write_bytes(png.getvalue())
    base.with_suffix(".svg").write_bytes(svg.getvalue())


def theme() -> Any:
    """The theme as a context, from matplotlib's defaults, whatever a matplotlibrc on this machine says."""
    settings: dict[Any, Any] = {key: value for key, value in mpl.rcParamsDefault.items() if key != "backend"}
    return mpl.rc_context(settings | THEME)
