"""Which classes are hard, and would other test images or the other accuracy say the same of a strategy?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analysis.comparison import REFERENCE, Comparison
from analysis.markdown import NONE, Picture, Section, Table, bracket, shown, size_text, with_interval
from analysis.paired import by_seed
from analysis.style import drawn, grid
from analysis.tables import METRICS, size_name

MOST = 40  # classes in the figure


def section(study: Comparison) -> Section:
    """A map of recall a size, and the strategies whose difference from the reference depends on the measure."""
    runs, recalls = study.tables.runs, _recalls(study)
    means = 100 * recalls.groupby([runs["per_class"], runs["strategy"]]).mean()
    hard = means.mean().sort_values(kind="stable").index[:MOST]
    cut = f", the {MOST} hardest of {means.shape[1]}" if means.shape[1] > MOST else ""
    data = means[hard].reset_index().melt(["per_class", "strategy"], var_name="class", value_name="recall")
    picture = Picture(
        "recall",
        "Recall of each class by strategy and size",
        f"Recall: percent of a class's test images that is got right, mean of {study.seeds}; classes from "
        f"the hardest down{cut}.",
        data,
        lambda: _draw(data, study.sizes_in(data), study.candidates, list(hard)),
    )
    return Section("Classes and sensitivity", (picture, *_sensitivity(study, recalls)))


def _recalls(study: Comparison) -> pd.DataFrame:
    """The share of each class's test images that each final run gets right: a row a run, a column a class."""
    predictions, runs = study.tables.predictions, study.tables.runs
    correct = predictions.correct(runs["fingerprint"].tolist())
    shares = {
        predictions.classes[i]: correct[:, predictions.labels == i].mean(1) for i in np.unique(predictions.labels)
    }
    return pd.DataFrame(shares, index=runs.index)


def _sensitivity(study: Comparison, recalls: pd.DataFrame) -> Iterator[str | Table]:
    """Of how many strategies the difference from the reference depends on the measure, and which these are."""
    columns = [f"recall of {name}" for name in recalls]
    runs = study.tables.runs.join(recalls.set_axis(columns, axis="columns"))
    other, tested, rows = METRICS[study.other_metric], 0, []
    for size in study.sizes:
        by_name = dict(list(runs[runs["per_class"] == size].groupby("strategy")))
        for name in study.names:
            pair = study.gain(size, name, REFERENCE)
            if not pair or not np.isfinite(pair["difference"]):
                continue
            tested += 1
            gains = [
                by_seed(by_name[REFERENCE], by_name[name], study.tables.correlation(size), column)[1]
                for column in (study.other_column, *columns)
            ]
            (found, *of_classes) = [(gain.difference, gain.low, gain.high) if gain else (np.nan,) * 3 for gain in gains]
            better, worse = (
                [str(label) for label, ends in zip(recalls, of_classes, strict=True) if _sign(*ends[1:]) == wanted]
                for wanted in (1, -1)
            )
            new_images = pair["low_new_images"], pair["high_new_images"]
            signs = {_sign(pair["low"], pair["high"]), _sign(*new_images), _sign(*found[1:])}
            if len(signs) > 1 or (better and worse):
                cells = [f"`{name}`", size_text(size)]
                cells += [with_interval(pair["difference"], pair["low"], pair["high"]), bracket(*new_images)]
                rows.append((*cells, with_interval(*found), _classes(better), _classes(worse)))
    if not tested:
        return
    yield (
        f"{tested - len(rows)} of {tested} differences from `{REFERENCE}` read the same (better, worse or open, by the "
        f"95% interval of that one) on new test images and by {other}, and trade no class for another"
        f"{'. The others, in points:' if rows else '.'}"
    )
    if rows:
        header = ("Strategy", "Images", study.metric.capitalize(), "New images", other.capitalize())
        yield Table((*header, "Better on", "Worse on"), tuple(rows), frozenset({1, 2, 3, 4}))


def _sign(low: float, high: float) -> int:
    return 1 if low > 0 else -1 if high < 0 else 0


def _classes(names: list[str]) -> str:
    text = ", ".join(shown(name) for name in names)
    return NONE if not text else text if len(text) <= 24 or len(names) == 1 else f"{len(names)} classes"


def _draw(recalls: pd.DataFrame, sizes: list[int], names: list[str], classes: list[str]) -> Figure:
    drawing, panels = grid(len(sizes), 2, 1.2 + 0.2 * len(classes), sharex=True, sharey=True)
    ends = {"vmin": recalls["recall"].min(), "vmax": recalls["recall"].max()}
    for panel, size in zip(panels, sizes, strict=True):
        values = recalls[recalls["per_class"] == size].pivot_table(index="class", columns="strategy", values="recall")
        values = values.reindex(index=classes, columns=names)
        style = {
            "xticklabels": False,
            "yticklabels": False,
            "linewidths": 1,
            "annot_kws": {"fontsize": 7.5},
            "cbar": False,
            "cmap": "YlGnBu",
        }
        sns.heatmap(values, annot=True, fmt=".0f", ax=panel, **ends, **style)
        panel.set(xlabel="", ylabel="", title=size_name(size))
        panel.set_xticks(np.arange(len(names)) + 0.5, [drawn(name) for name in names], rotation=90)
        panel.set_yticks(np.arange(len(classes)) + 0.5, [drawn(name) for name in classes], rotation=0)
    return drawing
