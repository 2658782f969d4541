"""The learning-rate range tests, held against the rates that the study used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.findings import strategy_order
from analysis.tables import used_scale
from analysis.words import NONE, Table

Rule = Literal["steepest", "tenth_of_lowest"]
RULES: Mapping[Rule, str] = {"steepest": "steepest slope", "tenth_of_lowest": "a tenth of the lowest point"}
COLUMNS = ["strategy", "per_class", "k", "used", "rule", "found", "middle", "low", "high", "times"]


def compared(suggestions: pd.DataFrame, provenance: Mapping[str, Any]) -> pd.DataFrame:
    """One row a strategy, size and rule: suggestions over seeds beside the scale that the final runs used.

    `middle` is the median over the `found` of `k` seeds that gave a suggestion, `low` and `high` the extremes, all as
    lr_scale; `times` is the median over the scale used.
    """
    rows = []
    for (per_class, strategy), mine in suggestions.groupby(["per_class", "strategy"]):
        used = used_scale(provenance, int(str(per_class)), str(strategy))
        for rule in RULES:
            given = mine[rule].dropna()
            middle = float(given.median()) if len(given) else float("nan")
            row = {"strategy": strategy, "per_class": per_class, "k": len(mine), "used": used, "rule": rule}
            row |= {"found": len(given), "middle": middle, "low": given.min(), "high": given.max()}
            rows.append({**row, "times": middle / used})
    table = pd.DataFrame(rows, columns=COLUMNS)
    order = {name: i for i, name in enumerate(strategy_order(table["strategy"].unique().tolist()))}
    return table.sort_values(["per_class", "strategy"], key=lambda c: c.map(order) if c.name == "strategy" else c)


def rows_of(table: pd.DataFrame) -> Table:
    """The suggestions of both rules beside the scale used."""
    rows = []
    for (strategy, used), mine in table.groupby(["strategy", "used"], sort=False):
        by_rule = {row["rule"]: row for row in mine.to_dict("records")}
        cells = [cell for rule in RULES for cell in (_suggested(by_rule[rule]), _times(by_rule[rule]["times"]))]
        rows.append((f"`{strategy}`", str(by_rule["steepest"]["k"]), f"×{used:g}", *cells))
    header = ["Strategy", "Seeds", "Scale used"]
    for said in RULES.values():
        header += [f"{said[0].upper()}{said[1:]}: median [lowest, highest]", "Over the scale used"]
    return Table(tuple(header), tuple(rows), frozenset(range(1, len(header))))


def _suggested(row: Mapping[Any, Any]) -> str:
    if not row["found"]:
        return "no suggestion"
    part = "" if row["found"] == row["k"] else f" ({row['found']} of {row['k']} seeds)"
    return f"×{_short(row['middle'])} [{_short(row['low'])}, {_short(row['high'])}]{part}"


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 99.5 else f"{value:.0f}"


def _times(times: float) -> str:
    return f"{_short(times)} times" if np.isfinite(times) else NONE


def words(table: pd.DataFrame, tuned: bool) -> list[str]:
    """How far each rule lay from the rates used, over all strategies."""
    against = "the tuned scale" if tuned else "the scale used, which nobody tuned"
    said = []
    for rule, name in RULES.items():
        times = table.loc[table["rule"] == rule, "times"].dropna()
        if times.empty:
            said.append(f"**{name[0].upper()}{name[1:]}**: no suggestion for any strategy.")
            continue
        off = np.abs(np.log10(times.to_numpy(dtype=np.float64)))
        near = int((off <= np.log10(3) + 1e-9).sum())
        said.append(
            f"**{name[0].upper()}{name[1:]}**: within a factor of 3 of {against} for {near} of {len(times)} "
            f"strategies; the farthest lies off by a factor of {_short(10 ** off.max())}."
        )
    return said
