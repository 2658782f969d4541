"""Did each phase earn its place: what validation accuracy is at the end of each phase, and what the phase added?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.comparison import Comparison
from analysis.markdown import NONE, Picture, Section, Table, number, p_value, with_interval
from analysis.paired import adjust, difference_of, interval, strategy_order
from analysis.power import ALPHA
from analysis.style import figure, key, lines
from analysis.tables import GROUPS, group_rates, size_name
from analysis.unbeaten import DECIDED_FROM

COLUMNS = ["per_class", "strategy", "phase", "learning", "epochs", "k", "train", "mean", "low", "high"]
COLUMNS += ["gain", "gain_low", "gain_high", "p_holm"]


@cache
def gains(study: Comparison) -> pd.DataFrame:
    """Validation accuracy (percent) at the end of each phase of strategies with several, and what each phase added.

    Gains in points, paired by seed; p_holm is adjusted over all phases but the first of all strategies of a size, NaN
    where there is no test; train is the accuracy on the training images. Diverged runs have no end of a phase where
    they stopped, and count up to there.
    """
    rows = []
    watched = _ends(study, "val")
    trained = _ends(study, "train_end").groupby(["per_class", "strategy", "phase"])["value"].mean() * 100
    for size in study.sizes:
        correlation, family = study.tables.correlation(size), []
        for name in strategy_order(watched["strategy"].unique().tolist()):
            mine = watched[(watched["per_class"] == size) & (watched["strategy"] == name)]
            table = mine.pivot_table(index="seed", columns="phase", values="value", aggfunc="first") * 100
            for phase in range(1, table.shape[1] + 1) if table.shape[1] > 1 else ():
                mean, low, high, k = interval(table[phase].to_numpy(), correlation)
                row: dict[str, Any] = {"per_class": size, "strategy": name, "phase": phase, "k": k}
                row |= {"train": trained.get((size, name, phase)), "mean": mean, "low": low, "high": high}
                row |= _phase(study.recipe(name), phase)
                rows.append(row)
                both = table.reindex(columns=[phase - 1, phase]).dropna().to_numpy()
                gain, row["gain_low"], row["gain_high"], _ = interval(both[:, 1] - both[:, 0], correlation)
                tested = difference_of(both[:, 0], both[:, 1], correlation)
                row["gain"] = gain
                if tested is not None:
                    row["p"] = tested.p
                    family.append(row)
        adjust(family)
    return pd.DataFrame(rows, columns=COLUMNS).astype({"train": float, "p_holm": float})


def _ends(study: Comparison, split: str) -> pd.DataFrame:
    """The accuracy on one split in the last epoch of each phase of the final runs."""
    history = study.tables.history
    read = history[(history["role"] == "final") & (history["split"] == split) & (history["metric"] == "accuracy")]
    read = read.dropna(subset="value")
    cell = ["per_class", "strategy", "seed", "phase"]
    return read[read["epoch"] == read.groupby(cell)["epoch"].transform("max")]


def _phase(recipe: Mapping[str, Any], phase: int) -> dict[str, Any]:
    """Which groups learn in a phase (`head`, `stage4 + head`, `everything`), and for how many epochs."""
    return {"learning": learning(recipe["phases"][phase - 1]["lr"]), "epochs": recipe["epochs_of_phases"][phase - 1]}


def learning(rates: Mapping[str, float]) -> str:
    """Which groups learn at these rates: `head`, `stage4 + head`, `stage2 to head`, `everything`."""
    groups = list(group_rates(rates))
    if len(groups) > 2 and tuple(groups) == GROUPS[-len(groups) :]:
        return "everything" if len(groups) == len(GROUPS) else f"{groups[0]} to head"
    return " + ".join(groups)


def verdict(row: Mapping[Any, Any]) -> str:
    """Whether a phase, a row of `gains`, earned its place: shown by the adjusted p, or not."""
    if row["phase"] == 1:
        return NONE
    if row["k"] < DECIDED_FROM:
        return "too few seeds"
    if not row["p_holm"] < ALPHA:
        return "can't tell"
    return "yes" if row["gain"] > 0 else "no, it cost"


def section(study: Comparison) -> Section | None:
    table = gains(study)
    if table.empty:
        return None
    body: list[str | Table | Picture] = [_picture(study)]
    for size, mine in table.groupby("per_class", sort=False):
        body += [f"**{size_name(int(str(size)))}**", _table(mine)]
    body.append(
        f"*Earned*: the gain, paired by seed, has p below {ALPHA:g}, adjusted (Holm) over the phases of all strategies "
        f"of a size, and at least {DECIDED_FROM} seeds."
    )
    return Section("Did each phase earn its place?", tuple(body))


def _table(mine: pd.DataFrame) -> Table:
    rows = tuple(
        (
            f"`{row['strategy']}`" if row["phase"] == 1 else "",
            row["learning"],
            str(row["epochs"]),
            number(row["train"]),
            with_interval(row["mean"], row["low"], row["high"], number),
            with_interval(row["gain"], row["gain_low"], row["gain_high"]),
            p_value(row["p_holm"]),
            verdict(row),
        )
        for row in mine.to_dict("records")
    )
    head = ("Strategy", "Learns", "Epochs", "Training", "Validation", "Gain", "p", "Earned")
    return Table(head, rows, frozenset({2, 3, 4, 5, 6}))


def _picture(study: Comparison) -> Picture:
    table = gains(study)

    def draw() -> Figure:
        sizes = list(dict.fromkeys(table["per_class"]))
        drawing = figure(3.3)
        for size, panel in zip(sizes, drawing.subplots(1, len(sizes), squeeze=False)[0], strict=True):
            mine = table[table["per_class"] == size]
            lines(panel, mine.assign(place=mine["phase"], name=mine["strategy"], value=mine["mean"]), study.names)
            panel.set(title=size_name(size), xlabel="phase")
            panel.set_xticks(range(1, int(mine["phase"].max()) + 1))
        drawing.supylabel("validation accuracy (%)", fontsize=8.5)
        key(drawing, study.names, list(table["strategy"]))
        return drawing

    caption = f"Validation accuracy at the end of each phase: mean with its 95% interval over {study.over} "
    caption += f"(n = {table['k'].max()})."
    return Picture("phases", "Validation accuracy at the end of each phase", caption, table, draw)
