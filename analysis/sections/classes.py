"""Which classes are hard, and would other test images or the other accuracy say the same of a strategy?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.comparison import REFERENCE, Comparison
from analysis.markdown import NONE, Picture, Section, Table, bracket, counted, shown, size_text, with_interval
from analysis.paired import by_seed
from analysis.style import by_size, drawn, heat_map
from analysis.tables import COLUMNS, METRICS, where

MOST = 40  # classes in the figure


def section(study: Comparison) -> Section:
    """A map of recall a size, and the strategies whose difference from the reference depends on the measure."""
    predictions, runs = study.tables.predictions, study.tables.runs
    shares = predictions.recalls(runs["fingerprint"].tolist())
    recalls = pd.DataFrame({predictions.classes[c]: share for c, share in shares.items()}, index=runs.index)
    means = 100 * recalls.groupby([runs["per_class"], runs["strategy"]]).mean()
    hard = means.mean().sort_values(kind="stable").index[:MOST]
    cut = f", the {MOST} hardest of {means.shape[1]}" if means.shape[1] > MOST else ""
    data = means[hard].reset_index().melt(["per_class", "strategy"], var_name="class", value_name="recall")
    picture = Picture(
        "recall",
        "Recall of each class by strategy and size",
        f"Recall: percent of a class's test images that is got right, mean of {study.seeds(study.candidates)}; "
        f"classes from the hardest down{cut}.",
        data,
        lambda: _draw(data, study.candidates, list(hard)),
    )
    return Section("Classes and sensitivity", (picture, *_sensitivity(study, recalls)))


def _sensitivity(study: Comparison, recalls: pd.DataFrame) -> Iterator[str | Table]:
    """Of how many strategies the difference from the reference depends on the measure, and which these are."""
    columns = [f"recall of {name}" for name in recalls]
    runs = study.tables.runs.join(recalls.set_axis(columns, axis="columns"))
    others, rows = study.other_metrics, []
    pairs = study.gains((size, name, REFERENCE) for size in study.sizes for name in study.names)
    for pair in pairs.to_dict("records"):
        size = int(pair["per_class"])
        theirs, ours = (where(runs, per_class=size, strategy=name) for name in (REFERENCE, pair["strategy"]))
        measures, correlation = [*(COLUMNS[other] for other in others), *columns], study.tables.correlation(size)
        gains = [by_seed(theirs, ours, correlation, column)[1] for column in measures]
        ends = [(gain.difference, gain.low, gain.high) if gain else (np.nan,) * 3 for gain in gains]
        found, of_classes = ends[: len(others)], ends[len(others) :]
        signs_of = {str(label): _sign(*of[1:]) for label, of in zip(recalls, of_classes, strict=True)}
        better, worse = ([label for label, sign in signs_of.items() if sign == wanted] for wanted in (1, -1))
        new_images = pair["low_new_images"], pair["high_new_images"]
        signs = {_sign(pair["low"], pair["high"]), _sign(*new_images), *(_sign(*of[1:]) for of in found)}
        if len(signs) > 1 or (better and worse):
            cells = [f"`{pair['strategy']}`", size_text(size)]
            cells += [with_interval(pair["difference"], pair["low"], pair["high"]), bracket(*new_images)]
            rows.append((*cells, *(with_interval(*of) for of in found), _classes(better), _classes(worse)))
    if pairs.empty:
        return
    or_by = "".join(f" or by {METRICS[other]}" for other in others)
    yield (
        f"Of {counted(len(pairs), 'difference')} from `{REFERENCE}`, {len(rows) or 'none'} would be read otherwise "
        f"(better, worse, open: each by its own 95% interval) on new test images{or_by}, or trade classes"
        f"{', in points:' if rows else '.'}"
    )
    if rows:
        header = ["Strategy", "Images", study.metric.capitalize(), "New images"]
        header += [METRICS[other].capitalize() for other in others]
        yield Table((*header, "Better on", "Worse on"), tuple(rows), frozenset(range(1, len(header))))


def _sign(low: float, high: float) -> int:
    return 1 if low > 0 else -1 if high < 0 else 0


def _classes(names: list[str]) -> str:
    text = ", ".join(shown(name) for name in names)
    return NONE if not text else text if len(text) <= 24 or len(names) == 1 else f"{len(names)} classes"


def _draw(recalls: pd.DataFrame, names: list[str], classes: list[str]) -> Figure:
    looks: dict[str, Any] = {"vmin": recalls["recall"].min(), "vmax": recalls["recall"].max(), "cmap": "YlGnBu"}
    looks |= {"xticklabels": False, "yticklabels": False}

    def onto(panel: Axes, mine: pd.DataFrame) -> None:
        values = mine.pivot_table(index="class", columns="strategy", values="recall")
        values = values.reindex(index=classes, columns=names)
        heat_map(panel, values, values.map("{:.0f}".format), [drawn(name) for name in names], 90, **looks)

    return by_size(recalls, onto, 1.2 + 0.2 * len(classes), sharex=True, sharey=True)[0]
