"""What does it cost to keep the groups nearest the input frozen, from pretrained and from random weights?"""

from __future__ import annotations

from functools import cache, partial
from itertools import pairwise

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.comparison import Comparison
from analysis.markdown import NONE, Picture, Section, Table, by_size, code, number, with_interval
from analysis.sections.ablations import depths, effects
from analysis.tables import GROUPS

COLUMNS = ["per_class", "of", "ablation", "twin", "first", "k", "judged", "cost", "low", "high"]


@cache
def costs(study: Comparison) -> pd.DataFrame:
    """Everything learning minus each depth, in points, paired by seed; most groups frozen first.

    first: the group nearest the input that learns; judged: the accuracy of this depth in percent.
    """
    known = depths(study)
    rows = [
        {**row, "first": known[row["ablation"]], "cost": -row["difference"], "low": -row["high"], "high": -row["low"]}
        for row in effects(study).to_dict("records")
        if row["ablation"] in known and row["of"] in study.names
    ]
    places = {name: place for place, name in enumerate((*study.sizes, *study.names, *reversed(GROUPS)))}
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["per_class", "of", "first"], key=lambda column: column.map(places), ignore_index=True)


def section(study: Comparison) -> Section | None:
    table = costs(study)
    if table.empty:
        return None
    body: list[str | Table | Picture] = [_picture(study, table)] if table["cost"].notna().any() else []
    body += by_size(table, partial(_table, study))
    updated = [name for name in dict.fromkeys(table["of"]) if study.recipe(name).get("batch_norm") == "train"]
    if updated:
        body.append(f"With {code(updated)}, freezing a group also keeps its BatchNorm statistics.")
    return Section("Depth", tuple(body))


def _table(study: Comparison, mine: pd.DataFrame) -> Table:
    rows = []
    for of, series in mine.groupby("of", sort=False):
        name = f"`{of}`"
        for row in series.to_dict("records"):
            cost = with_interval(row["cost"], row["low"], row["high"])
            runs = f"`{row['ablation']}`" + (f", the same as `{row['twin']}`" if row["twin"] else "")
            rows.append((name, row["first"], runs, str(row["k"]), number(row["judged"]), cost))
            name = ""
        # On the seeds of the depths, which may be fewer than its own.
        whole = float((series["judged"] + series["cost"]).mean())
        rows.append(("", "everything", f"`{of}`", str(series["k"].max()), number(whole), NONE))
    head = ("Strategy", "Learns from", "Runs of", "Seeds", study.metric.capitalize(), "Cost")
    return Table(head, tuple(rows), frozenset({3, 4, 5}))


def _picture(study: Comparison, table: pd.DataFrame) -> Picture:
    frozen = [group for group, first in pairwise(GROUPS) if first in set(table["first"])]

    def onto(panel: Axes, mine: pd.DataFrame) -> None:
        place = mine["first"].map(lambda first: frozen.index(GROUPS[GROUPS.index(first) - 1]))
        panel.axhline(0, color=style.INK, linewidth=0.9)
        style.lines(panel, mine.assign(place=place, name=mine["of"], value=mine["cost"]), study.names)
        panel.set_xlabel("frozen up to")
        panel.set_xticks(range(len(frozen)), frozen)

    def draw() -> Figure:
        drawing, panels = style.by_size(table, onto, 2.6, 9, sharey=True)
        panels[0].set_ylabel("cost (points)")
        style.key(drawing, study.names, list(table["of"]))
        return drawing

    caption = f"Cost of freezing: {study.metric} with everything learning minus that with the groups from the input on "
    caption += f"frozen, paired by seed (n = {table['k'].max()}), 95% intervals over {study.over}."
    return Picture("depth", "What freezing groups from the input on costs", caption, table, draw)
