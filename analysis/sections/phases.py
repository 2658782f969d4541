"""Did each phase earn its place: what validation accuracy is at the end of each phase, and what the phase added?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.comparison import Comparison
from analysis.markdown import NONE, Picture, Section, Table, by_size, number, with_interval
from analysis.paired import adjusted, difference_of, interval, strategy_order
from analysis.power import ALPHA, DECIDED_FROM
from analysis.tables import GROUPS, group_rates, last, where

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
        correlation = study.tables.correlation(size)
        for name in strategy_order(watched["strategy"].unique().tolist()):
            mine, recipe = where(watched, per_class=size, strategy=name), study.recipe(name)
            table = mine.pivot_table(index="seed", columns="phase", values="value", aggfunc="first") * 100
            for phase in range(1, table.shape[1] + 1) if table.shape[1] > 1 else ():
                row: dict[str, Any] = {"per_class": size, "strategy": name, "phase": phase}
                row |= interval(table[phase].to_numpy(), correlation)._asdict()
                row |= {"k": row["n"], "train": trained.get((size, name, phase))}
                row["learning"] = learning(recipe["phases"][phase - 1]["lr"])
                row["epochs"] = recipe["epochs_of_phases"][phase - 1]
                rows.append(row)
                both = table.reindex(columns=[phase - 1, phase]).dropna().to_numpy()
                row["gain"], row["gain_low"], row["gain_high"], _ = interval(both[:, 1] - both[:, 0], correlation)
                tested = difference_of(both[:, 0], both[:, 1], correlation)
                row["p"] = tested.p if tested else None
    table = pd.DataFrame(rows, columns=[*COLUMNS, "p"])
    return table.assign(p_holm=adjusted(table, ["per_class"]))[COLUMNS].astype({"train": float, "p_holm": float})


def _ends(study: Comparison, split: str) -> pd.DataFrame:
    """The accuracy on one split in the last epoch of each phase of the final runs."""
    read = where(study.tables.history, role="final", split=split, metric="accuracy").dropna(subset="value")
    return last(read, "epoch", ["per_class", "strategy", "seed", "phase"])


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
    words = (
        f"*Earned*: the gain, paired by seed, has p below {ALPHA:g}, adjusted (Holm) over the phases of all strategies "
        f"of a size, and at least {DECIDED_FROM} seeds."
    )
    return Section("Did each phase earn its place?", (_picture(study, table), *by_size(table, _table), words))


def _table(mine: pd.DataFrame) -> Table:
    rows = tuple(
        (
            f"`{row['strategy']}`" if row["phase"] == 1 else "",
            row["learning"],
            number(row["train"]),
            with_interval(row["mean"], row["low"], row["high"], number),
            with_interval(row["gain"], row["gain_low"], row["gain_high"]),
            verdict(row),
        )
        for row in mine.to_dict("records")
    )
    head = ("Strategy", "Learns", "Training", "Validation", "Gain", "Earned")
    return Table(head, rows, frozenset({2, 3, 4}))


def _picture(study: Comparison, table: pd.DataFrame) -> Picture:
    def onto(panel: Axes, mine: pd.DataFrame) -> None:
        style.lines(panel, mine.assign(place=mine["phase"], name=mine["strategy"], value=mine["mean"]), study.names)
        panel.set_xlabel("phase")
        panel.set_xticks(range(1, int(mine["phase"].max()) + 1))

    def draw() -> Figure:
        drawing, _ = style.by_size(table, onto, 2.8, 9)
        drawing.supylabel("validation accuracy (%)", fontsize=8.5)
        style.key(drawing, study.names, list(table["strategy"]))
        return drawing

    caption = f"Validation accuracy at the end of each phase: mean with its 95% interval over {study.over} "
    caption += f"(n = {table['k'].max()})."
    return Picture("phases", "Validation accuracy at the end of each phase", caption, table, draw)
