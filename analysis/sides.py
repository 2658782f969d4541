"""The two sides of a claim: which runs they are, and their values by seed."""

from __future__ import annotations

import pandas as pd

from analysis.claims import Runs
from analysis.tables import Tables


def still_awaited(runs: Runs, per_class: int, missing: pd.DataFrame) -> int:
    """How many declared seeds have no run yet."""
    mine = missing[(missing["strategy"] == runs.strategy) & (missing["per_class"] == per_class)]
    if runs.lr_scale is None:
        return int(mine["role"].isin(["final", "ablation"]).sum())
    return int(((mine["role"] == "sweep") & (mine["lr_scale"].round(9) == round(runs.lr_scale, 9))).sum())


def seeds_there(present: int, awaited: int) -> str:
    return f"{present} of {present + awaited} seeds" if present + awaited else "not declared"


def _cells(runs: Runs, per_class: int, tables: Tables) -> pd.DataFrame:
    for table in (tables.runs, tables.ablations) if runs.lr_scale is None else (tables.sweep,):
        chosen = table[(table["strategy"] == runs.strategy) & (table["per_class"] == per_class)]
        if runs.lr_scale is not None:
            chosen = chosen[chosen["lr_scale"].round(9) == round(runs.lr_scale, 9)]
        if len(chosen):
            return chosen
    # Where a study sweeps a rate but doesn't train it as a final run, its base rate is a cell of the sweep.
    if runs.lr_scale is None:
        return _cells(Runs(runs.strategy, 1.0), per_class, tables)
    return tables.sweep.iloc[:0]


def values_of(runs: Runs, metric: str, per_class: int, tables: Tables) -> pd.Series[float]:
    """A metric by seed, in the unit that METRICS names. Drift: at the end of the last phase."""
    cells = _cells(runs, per_class, tables).set_index("seed")
    if metric == "gap":
        return 100 * (cells["train_accuracy"] - cells["test_accuracy"])
    if metric != "drift":
        return 100 * cells[metric].astype(float)
    moved = tables.drift
    if not len(cells):
        return pd.Series(dtype=float)
    first = cells.iloc[0]
    moved = moved[
        (moved["role"] == first["role"])
        & (moved["strategy"] == runs.strategy)
        & (moved["per_class"] == per_class)
        & (moved["lr_scale"].round(9) == round(float(first["lr_scale"]), 9))
        & ((moved["group"] == runs.group) if runs.group is not None else (moved["group"] != "head"))
    ]
    last = moved[moved["phase"] == moved.groupby("seed")["phase"].transform("max")]
    by_seed: pd.Series[float] = 100 * last.groupby("seed")["weight_distance"].mean()
    return by_seed


def diverged(runs: Runs, per_class: int, tables: Tables) -> str:
    cells = _cells(runs, per_class, tables)
    count = int((cells["status"] == "diverged").sum())
    return f"{count} of {len(cells)} runs of {runs} diverged" if count else ""
