"""All published studies together: what to use in every situation, and what each choice gains there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis import style
from analysis.comparison import REFERENCE, Comparison, compare
from analysis.markdown import NONE, Picture, Table, listed, number, plus_minus, rate_text, seconds, signed, size_text
from analysis.paired import BATCH_NORM_TRAIN, DEFAULT_ORDER, strategy_order
from analysis.power import ALPHA, CITABLE_FROM
from analysis.tables import TablesError, load
from analysis.unbeaten import Unbeaten

NOT_PUBLISHED = {"quick"}  # made on every machine anew
# What the images of a data set show, those most like ImageNet's first: the order of the rows.
KINDS: Mapping[str, str] = {
    "CIFAR-10 (JPEG copy)": "tiny photos",
    "PlantVillage tomato": "leaves",
    "EuroSAT": "land from above",
    "chest X-ray": "grey X-rays",
    "ELPV": "grey solar cells",
}
SIMILAR = ("CIFAR-10 (JPEG copy)", "PlantVillage tomato")  # to ImageNet's photographs; the others are different
SETTINGS: Mapping[str, str] = {"backbone": "", "resolution": " px", "epochs": " epochs"}  # with their units
MOST_GAIN = 10  # points; beyond, the colour stays
RERUNS = "reruns alone"  # every seed trained on all images: nothing is judged of other images
FEW = "few seeds"  # exploratory: a reason to look further, no verdict


@dataclass(frozen=True)
class Situation:
    """One size of one study."""

    study: Comparison
    size: Unbeaten

    @property
    def name(self) -> str:
        return f"{self.study.study} · {size_text(self.size.per_class)}"

    @property
    def images(self) -> int:
        """Training images in all."""
        return self.study.images(self.size.per_class)

    def link(self, text: str, at: str = "") -> str:
        return f"[{text}]({at}{self.study.study}/report.md)"

    @property
    def unjudged(self) -> str | None:
        """Why no verdict is given here; None where ten seeds or more drew their images."""
        return RERUNS if not self.study.draws else FEW if self.size.k < CITABLE_FROM else None

    @property
    def use(self) -> str | None:
        """Of those that nothing beats, the one with the highest judged mean; None where nothing is decided."""
        return next(iter(self.size.advised), None)

    def gain(self, strategy: str, other: str) -> dict[str, Any]:
        """The pair, where it was tested."""
        row = self.study.gain(self.size.per_class, strategy, other)
        return row if row and np.isfinite(row["difference"]) else {}

    def told(self, strategy: str, other: str) -> bool:
        """Whether a strategy is shown to be better than another, after correction."""
        gain = self.gain(strategy, other)
        return bool(gain) and not self.unjudged and gain["difference"] > 0 and gain["p_holm"] < ALPHA


def published(reports: Path) -> list[Comparison]:
    """The published studies: usual settings first, then images most like ImageNet's. Raises TablesError for none."""
    folders = sorted(path.parent for path in reports.glob("*/provenance.json"))
    studies = [compare(load(folder)) for folder in folders if folder.name not in NOT_PUBLISHED]
    if not studies:
        raise TablesError(f"{reports} holds no published study; run `dvc repro`")
    place = {name: place for place, name in enumerate(KINDS)}
    return sorted(studies, key=lambda s: (bool(_unusual(s, studies)), place.get(s.dataset["name"], len(place))))


def _most(studies: Sequence[Comparison]) -> dict[str, Any]:
    return {key: Counter(s.parameters["study"][key] for s in studies).most_common(1)[0][0] for key in SETTINGS}


def usual(studies: Sequence[Comparison]) -> str:
    """The settings of most studies: `efficientnet_lite0, 96 px and 20 epochs`."""
    return listed([f"{value}{SETTINGS[key]}" for key, value in _most(studies).items()])


def _unusual(study: Comparison, studies: Sequence[Comparison]) -> list[str]:
    """The settings in which a study differs from most."""
    mine, most = study.parameters["study"], _most(studies)
    return [f"{mine[key]}{unit}" for key, unit in SETTINGS.items() if mine[key] != most[key]]


def situations(studies: Sequence[Comparison]) -> list[Situation]:
    """Every size of every study."""
    return [Situation(study, size) for study in studies for size in study.unbeaten]


def tuned(studies: Sequence[Comparison], strategy: str) -> str:
    """At which rate to begin, and where tuning chose which; nothing for a strategy that has several."""
    scales = Counter(
        one.study.tables.used_scale(size, strategy)
        for one in situations(studies)
        if one.study.judged_on(size := one.size.per_class) and strategy in one.study.ran(size)
    )
    rate = next((rate for study in studies if (rate := study.written_rate(strategy))), None)
    if rate is None or not scales:
        return ""
    first = max(sorted(scales), key=lambda scale: scales[scale])
    others = [f"{rate_text(rate * scale)} in {times}" for scale, times in sorted(scales.items()) if scale != first]
    return (
        f"Begin its rate (AdamW) at {rate_text(rate * first)}, chosen in {scales[first]} of the {scales.total()} rows "
        f"where it was tuned{f' ({listed(others)})' if others else ''}; the textbook has {rate_text(rate)}."
    )


def grid(studies: Sequence[Comparison], at: str = "") -> tuple[Table, Picture]:
    """What to use in every situation, and what each default strategy gains on feature extraction there.

    at: the folder of the reports, as seen from the page.
    """
    rows = []
    for one in situations(studies):
        images = "; ".join([KINDS.get(one.study.dataset["name"], NONE), *_unusual(one.study, studies)])
        size = f"{size_text(one.size.per_class)} ({one.images:,})"
        rows.append((f"{one.link(one.study.study, at)}: {images}", size, *advice(one)))
    header = ("Study", "Per class (in all)", "Use", "Accuracy, %", "Gain", "A run")
    return Table(header, tuple(rows), frozenset({1, 3, 4, 5})), _heat_map(studies)


def advice(one: Situation) -> tuple[str, ...]:
    """What to use, its accuracy, gain and time."""
    if one.use is None:
        return (f"open: {one.size.state}" if one.size.state != "decided" else "open", NONE, NONE, NONE)
    size = one.size.per_class
    row, gain = one.study.of(size, one.use), one.gain(one.use, REFERENCE)
    return (
        f"**{one.use}**" if one.told(one.use, REFERENCE) else one.use,
        plus_minus(row["judged"], row["judged_low"], row["judged_high"], number),
        plus_minus(gain["difference"], gain["low"], gain["high"]) if gain else NONE,
        seconds(row["seconds"]),
    )


def _heat_map(studies: Sequence[Comparison]) -> Picture:
    rows = []
    for one in situations(studies):
        candidates = {name for name in one.study.ran(one.size.per_class) if name not in one.size.others}
        for name in (name for name in DEFAULT_ORDER if name in candidates):
            if REFERENCE in candidates:
                judged, base = (one.study.of(one.size.per_class, each)["judged"] for each in (name, REFERENCE))
                gain = one.gain(name, REFERENCE).get("difference", judged - base)  # of one run there is no pair
                rows.append((one.study.study, one.size.per_class, name, judged, gain, name in one.size.advised))
    data = pd.DataFrame(rows, columns=["study", "per_class", "strategy", "judged", "gain", "unbeaten"])
    return Picture(
        "guide",
        "What each strategy gains on feature extraction, by study and images a class",
        f"Points gained on `{REFERENCE}` (its accuracy in percent), by study and images a class. Framed: no 95% "
        "interval shows another to be better, and no run failed. Empty: not run.",
        data,
        lambda: _drawn_heat_map(data),
    )


def _drawn_heat_map(data: pd.DataFrame) -> Figure:
    data = data.assign(row=data["study"] + " · " + data["per_class"].map(size_text))
    order, columns = list(dict.fromkeys(data["row"])), strategy_order(data["strategy"].unique().tolist())
    reference = (data["strategy"] == REFERENCE).to_numpy()
    data["text"] = np.where(reference, data["judged"].map(number), data["gain"].map(signed))
    values, texts, framed = (
        data.pivot_table(index="row", columns="strategy", values=name, aggfunc="first").reindex(order, columns=columns)
        for name in ("gain", "text", "unbeaten")
    )
    drawing = style.figure(1.5 + 0.24 * len(order))
    panel = drawing.subplots()
    bar = {"label": "points", "extend": "both", "shrink": 0.8, "pad": 0.02, "aspect": 30}
    looks = {"cmap": "RdBu", "center": 0, "vmin": -MOST_GAIN, "vmax": MOST_GAIN, "linewidths": 1.5}
    labels = [style.drawn(name) + ", %" * (name == REFERENCE) for name in columns]
    style.heat_map(panel, values, texts, labels, 30, **looks, cbar=True, cbar_kws=bar, annot_kws={"fontsize": 7.5})
    frame: dict[str, Any] = {"fill": False, "edgecolor": style.ORANGE, "linewidth": 1.6}
    for text in panel.texts:
        x, y = (int(place) for place in text.get_position())
        if framed.iloc[y, x]:
            panel.add_patch(Rectangle((x + 0.04, y + 0.06), 0.92, 0.88, **frame))
    panel.set_facecolor("#F4F4F4")
    for label in panel.get_xticklabels():
        label.set_rotation_mode("anchor")
    panel.grid(visible=False)
    return drawing


def batch_norm(studies: Sequence[Comparison]) -> Picture | None:
    """What every strategy that ran both ways gains with frozen BatchNorm on updated; None where none did."""
    rows = []
    for one in situations(studies):
        for name in strategy_order(one.study.ran(one.size.per_class)):
            if gain := one.gain(name, name + BATCH_NORM_TRAIN):
                numbers = (gain["k"], gain["difference"], gain["low"], gain["high"])
                rows.append((one.study.study, one.size.per_class, name, *numbers))
    if not rows:
        return None
    data = pd.DataFrame(rows, columns=["study", "per_class", "strategy", "k", "gain", "low", "high"])
    return Picture(
        "guide_batch_norm",
        "What frozen BatchNorm gains on updated BatchNorm, by study, images a class and strategy",
        "Frozen BatchNorm, the default (neither statistics nor weights move), minus updated, each at its own rate. 95% "
        f"intervals of each pair alone: {sum(data['low'] > 0)} of {len(data)} lie above zero, "
        f"{sum(data['high'] < 0) or 'none'} below.",
        data,
        lambda: _drawn_gains(data),
    )


def _drawn_gains(data: pd.DataFrame) -> Figure:
    data = data.assign(row=data["study"] + " · " + data["per_class"].map(size_text))
    names = strategy_order(data["strategy"].unique().tolist())
    data["y"] = np.arange(len(data)) + 0.7 * pd.factorize(data["row"])[0]  # a gap between situations
    drawing = style.figure(1.1 + 0.1 * data["y"].max())
    panel = drawing.subplots()
    panel.axvline(0, color=style.INK, linewidth=0.9, zorder=1)
    palette = style.colours(names)
    colours = [palette[name] for name in data["strategy"]]
    panel.hlines(data["y"], data["low"], data["high"], colors=colours, linewidth=1.6)
    looks = {"hue": "strategy", "hue_order": names, "palette": palette, "style": "strategy", "style_order": names}
    several, markers = len(names) > 1, style.markers(names)
    sns.scatterplot(data, x="gain", y="y", markers=markers, s=36, ax=panel, zorder=3, legend=several, **looks)
    if several:
        sns.move_legend(panel, "lower left", bbox_to_anchor=(0, 1), ncols=4, title="", columnspacing=1)
    middle = data.groupby("row", sort=False)["y"].mean()
    panel.set_yticks(middle, [style.drawn(name) for name in middle.index])
    panel.set(xlabel="points gained by frozen BatchNorm", ylabel="", ylim=(data["y"].max() + 1, -1))
    panel.grid(axis="y", visible=False)
    return drawing
