"""What does one change to a strategy bring: each ablation minus the strategy that it changes?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.comparison import Comparison
from analysis.markdown import Picture, Section, Table, by_size, number, p_value, with_interval
from analysis.paired import by_seed, points, strategy_order
from analysis.statistics import Paired
from analysis.style import Intervals, key, looks
from analysis.tables import COLUMNS, GROUPS, METRICS, group_rates, where

EFFECTS = ["per_class", "ablation", "of", "twin", "k", "judged", "diverged", "difference", "low", "high", "p"]
EFFECTS += ["other", "other_low", "other_high"]


@cache
def effects(study: Comparison) -> pd.DataFrame:
    """Each ablation minus the strategy it changes, in points: paired by size, seed and scale of the rates.

    twin: the strategy that the ablation is another name for, or ""; judged: the ablation's accuracy in percent; other:
    the difference in the accuracy that does not decide. The numbers of a difference are NaN where it has no test.
    """
    runs, rows = study.tables.runs, []
    for (size, ablation), mine in study.tables.ablations.groupby(["per_class", "strategy"]):
        per_class, of = int(str(size)), str(study.recipe(str(ablation)).get("of", ""))
        correlation = study.tables.correlation(per_class)
        theirs = where(runs, strategy=of, per_class=size)
        theirs = theirs[theirs["lr_scale"].isin(mine["lr_scale"])]
        k, found = by_seed(theirs, mine, correlation)
        row: dict[str, Any] = {"per_class": per_class, "ablation": ablation, "of": of, "k": k}
        row |= {"twin": _twin(study, mine, per_class), "judged": float(points(mine["judged"]).mean())}
        row["diverged"] = len(where(mine, status="diverged"))
        if found is not None:
            row |= {name: getattr(found, name) for name in ("difference", "low", "high", "p")}
        for metric in study.other_metrics:
            if other := by_seed(theirs, mine, correlation, COLUMNS[metric])[1]:
                row |= {"other": other.difference, "other_low": other.low, "other_high": other.high}
        rows.append(row)
    table = pd.DataFrame(rows, columns=EFFECTS)
    order = [*strategy_order([*study.names, *table["of"]]), *table["ablation"], *study.sizes]
    places = {name: place for place, name in enumerate(dict.fromkeys(order))}
    return table.sort_values(["per_class", "of", "ablation"], key=lambda column: column.map(places), ignore_index=True)


def _twin(study: Comparison, ours: pd.DataFrame, per_class: int) -> str:
    """The strategy whose runs get the same images right as these runs of an ablation, always; "" for none."""
    runs, right = study.tables.runs, study.tables.predictions.correct
    for strategy, theirs in where(runs, per_class=per_class).groupby("strategy"):
        both = ours.merge(theirs, on="seed", suffixes=("", "_of"))
        if len(both) and (right(both["fingerprint"].tolist()) == right(both["fingerprint_of"].tolist())).all():
            return str(strategy)
    return ""


@cache
def depths(study: Comparison) -> Mapping[str, str]:
    """Ablations that only freeze the groups nearest the input, and the first group that learns in each."""
    found = {}
    for name, block in study.parameters["strategies"].items():
        rates, whole = _rates(block), _rates(study.recipe(block.get("of", "")))
        learning = GROUPS[len(GROUPS) - len(rates) :]
        everything = set(whole) == set(GROUPS) != set(learning)
        if rates and everything and rates == {group: whole[group] for group in learning}:
            found[name] = learning[0]
    return found


def _rates(block: Mapping[str, Any]) -> dict[str, float]:
    """The rate of every group that learns, of a strategy of one phase; nothing for several phases."""
    phases = block.get("phases", [])
    return group_rates(phases[0]["lr"]) if len(phases) == 1 else {}


@cache
def best_above(study: Comparison, per_class: int) -> tuple[str, Paired] | None:
    """The best ablation of this size that beats the best strategy advised, where there is one."""
    table = effects(study)
    own, runs = where(table, per_class=per_class, twin="")["ablation"], study.tables.ablations
    found = {f"`{name}`": where(runs, per_class=per_class, strategy=name) for name in own}
    return study.best_above(per_class, found)


def section(study: Comparison) -> Section | None:
    table = effects(study)
    table = table[~table["ablation"].isin(depths(study))]  # they have a section of their own
    if table.empty:
        return None
    pictures = [_picture(study, table)] if table["difference"].notna().any() else []
    words = "Each ablation changes one thing and keeps the rest. p is not adjusted; many are looked at."
    return Section("Ablations", (*pictures, *by_size(table, partial(_table, study)), words))


def _table(study: Comparison, mine: pd.DataFrame) -> Table:
    rows = []
    for row in mine.to_dict("records"):
        twin = f", the same as `{row['twin']}`" if row["twin"] else ""
        cells = [f"`{row['ablation']}`{twin}", str(row["k"]), number(row["judged"])]
        cells += [with_interval(row["difference"], row["low"], row["high"]), p_value(row["p"])]
        if study.other_metrics:
            cells.append(with_interval(row["other"], row["other_low"], row["other_high"]))
        rows.append((*cells, str(row["diverged"])))
    other = [METRICS[metric].capitalize() for metric in study.other_metrics]
    head = ("Ablation", "Seeds", study.metric.capitalize(), "Difference", "p", *other, "Diverged")
    return Table(head, tuple(rows), frozenset(range(1, len(head))))


def _picture(study: Comparison, table: pd.DataFrame) -> Picture:
    table = table[table["difference"].notna()]
    of = dict(zip(table["ablation"], table["of"], strict=True))
    data = table.rename(columns={"ablation": "name", "difference": "value"})
    labels = {name: name.removeprefix(f"{changed}_") for name, changed in of.items()}
    known = looks(study.names)
    look = {name: known[parent] for name, parent in of.items() if parent in known}
    intervals = Intervals(data, f"{study.metric}, points", list(of), zero=True, look=look, labels=labels)

    def draw() -> Figure:
        drawing = intervals.draw()
        key(drawing, study.names, list(of.values()))
        return drawing

    caption = (
        f"Each ablation minus the strategy it changes (colour), paired by seed (n = {table['k'].max()}), with its "
    )
    caption += f"95% interval over {study.over}."
    return Picture("ablations", "What each ablation changes", caption, table, draw)
