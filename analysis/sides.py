"""The two sides of a claim: which runs they are, and their values by seed."""

from __future__ import annotations

import pandas as pd

from analysis.claims import Runs
from analysis.paired import interval, points
from analysis.tables import Tables, last, where


def _of(runs: Runs, per_class: int, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of these runs in a table that has a strategy, a size and a scale of the rates."""
    rows = where(table, strategy=runs.strategy, per_class=per_class)
    return rows if runs.lr_scale is None else rows[rows["lr_scale"].round(9) == round(runs.lr_scale, 9)]


def still_awaited(runs: Runs, per_class: int, missing: pd.DataFrame) -> int:
    """How many declared seeds have no run yet."""
    roles = ("final", "ablation") if runs.lr_scale is None else ("sweep",)
    return int(_of(runs, per_class, missing)["role"].isin(roles).sum())


def _cells(runs: Runs, per_class: int, tables: Tables) -> pd.DataFrame:
    for table in (tables.runs, tables.ablations) if runs.lr_scale is None else ():
        chosen = _of(runs, per_class, table)
        if len(chosen):
            return chosen
    # Where a study sweeps a rate but doesn't train it as a final run, its base rate is a cell of the sweep.
    return _of(Runs(runs.strategy, 1.0 if runs.lr_scale is None else runs.lr_scale), per_class, tables.sweep)


def values_of(runs: Runs, metric: str, per_class: int, tables: Tables) -> pd.Series[float]:
    """A metric by seed, in the unit that METRICS names. Drift: at the end of the last phase."""
    cells = _cells(runs, per_class, tables).set_index("seed")
    if metric == "gap":
        return 100 * (cells["train_accuracy"] - cells["test_accuracy"])
    if metric != "drift":
        return 100 * cells[metric].astype(float)
    if not len(cells):
        return pd.Series(dtype=float)
    first = cells.iloc[0]
    moved = _of(Runs(runs.strategy, float(first["lr_scale"])), per_class, where(tables.drift, role=first["role"]))
    moved = moved[moved["group"] != "head"] if runs.group is None else where(moved, group=runs.group)
    by_seed: pd.Series[float] = 100 * last(moved, "phase", ["seed"]).groupby("seed")["weight_distance"].mean()
    return by_seed


def diverged(runs: Runs, per_class: int, tables: Tables) -> str:
    """How many of these runs diverged, in words; nothing where none did."""
    cells = _cells(runs, per_class, tables)
    count = len(where(cells, status="diverged"))
    return f"{count} of {len(cells)} runs of {runs} diverged" if count else ""


def idle(runs: Runs, per_class: int, tables: Tables) -> str:
    """That these runs are not shown to beat one answer for all, in words; nothing where they are."""
    judged = interval(points(_cells(runs, per_class, tables)["judged"]), tables.correlation(per_class))
    return "" if judged.low > tables.baseline else f"{runs} is not shown to beat one answer for all"
