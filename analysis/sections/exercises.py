"""The textbook's exercises: what does each phase bring, scratch or frozen or fine-tuned, and which rate?"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import paired
from analysis.comparison import Comparison
from analysis.markdown import Picture, Section, number, signed
from analysis.sections.phases import gains, verdict
from analysis.sections.sweep import rate_ticks, sweeps
from analysis.style import colours, figure, key, lines
from analysis.tables import size_name, where

GRADUAL = "gradual_unfreezing"
THREE = ("scratch", "feature_extraction", "fine_tune")
SWEPT = ("fine_tune", "fine_tune_batch_norm_train")


def section(study: Comparison) -> Section | None:
    """None where no rate of fine-tuning was swept: such a study was not made for the exercises."""
    size = study.sizes[-1]  # the largest speaks
    rates = _rates(study, size)
    if rates is None:
        return None
    parts = [part for part in (_phases(study, size), _three(study, size), rates) if part is not None]

    def draw() -> Figure:
        drawing = figure(2.9)
        for panel, (_, _, onto) in zip(drawing.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
            onto(panel)
        key(drawing, study.drawn, list(dict.fromkeys(pd.concat([data for _, data, _ in parts])["name"])))
        return drawing

    caption = f"At {size_name(size)}: means with 95% intervals over {study.over}; dashed: training accuracy."
    data = pd.concat([data for _, data, _ in parts], ignore_index=True)
    picture = Picture("exercises", "The textbook's exercises", caption, data, draw)
    return Section("The textbook's exercises", (picture, "\n".join(f"- {line}" for line, _, _ in parts)))


Part = tuple[str, pd.DataFrame, Callable[[Axes], None]]  # a line, what the panel shows, and how it is drawn


def _phases(study: Comparison, size: int) -> Part | None:
    table = where(gains(study), per_class=size, strategy=GRADUAL)
    if table.empty:
        return None
    first, *later = table.to_dict("records")
    words = {"yes": "earned", "no, it cost": "lost"}
    steps = [
        f"`{row['learning']}` {signed(row['gain'])} points ({words.get(said := verdict(row), said)})" for row in later
    ]
    line = (
        f"**1, gradual unfreezing, validation accuracy**: `{first['learning']}` {number(first['mean'])}%, then "
        f"{', '.join(steps)}."
    )
    data = table.assign(exercise=1, name=GRADUAL, place=table["phase"], value=table["mean"])

    def onto(panel: Axes) -> None:
        lines(panel, data, study.drawn)
        panel.set(title="1. Phases", ylabel="validation accuracy (%)")
        panel.set_xticks(data["place"].tolist(), [label.replace(" + ", "\n+ ") for label in data["learning"]])

    return line, data[["exercise", "name", "phase", "learning", "value", "low", "high"]], onto


def _three(study: Comparison, size: int) -> Part | None:
    if not set(THREE) <= set(study.ran(size)):
        return None
    rows = [study.of(size, name) for name in THREE]
    ends = [(row["strategy"], number(row["train_accuracy"]), number(row["val_accuracy"])) for row in rows]
    reached = [f"`{name}` {train} / {val}" for name, train, val in ends]
    line = f"**2, training / validation accuracy, %**: {', '.join(reached)}."
    data = where(study.tables.history, role="final", per_class=size, metric="accuracy").dropna(subset="value")
    data = data[data["strategy"].isin(THREE) & data["split"].isin(("train", "val"))]
    data = data.assign(exercise=2, name=data["strategy"], value=data["value"] * 100)
    data = data[["exercise", "name", "seed", "split", "epoch", "value"]]

    def onto(panel: Axes) -> None:
        looks = {"palette": colours(THREE), "dashes": {"train": (2, 1.5), "val": ""}, "legend": False}
        over = paired.ends(study.tables.correlation(size))
        sns.lineplot(data, x="epoch", y="value", hue="name", style="split", errorbar=over, ax=panel, **looks)
        panel.set(title="2. Three ways", ylabel="accuracy (%)")
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))

    return line, data, onto


def _rates(study: Comparison, size: int) -> Part | None:
    table = where(sweeps(study), per_class=size)
    table = table[table["strategy"].isin(SWEPT)]
    mine = where(table, strategy=SWEPT[0])
    if mine.empty:
        return None
    said = [f"{row['label']} {number(row['judged'])}% ({row['what']})" for row in mine.to_dict("records")]
    others = table[(table["strategy"] != SWEPT[0]) & (table["what"] == "best")].to_dict("records")
    beside = [f"; with updated BatchNorm {row['label']} is the best ({number(row['judged'])}%)" for row in others]
    line = f"**3, rates of `{SWEPT[0]}`**: {', '.join(said)}{''.join(beside)}."
    data = table.assign(exercise=3, name=table["strategy"], value=table["judged"])

    def onto(panel: Axes) -> None:
        lines(panel, data, study.drawn)
        panel.set(title="3. Rates", ylabel=f"{study.metric} (%)")
        ticks = rate_ticks(study)
        panel.set_xticks(range(len(ticks)), ticks)

    return line, data[["exercise", "name", "label", "value", "low", "high"]], onto
