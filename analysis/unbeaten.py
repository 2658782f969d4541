"""The set of strategies that nothing beats, at each size: what a report advises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from analysis.power import ALPHA, DECIDED_FROM, MOST_OVERLAP
from analysis.tables import ALL, Tables, where

State = Literal["one strategy", "pool too small", "too few seeds", "decided"]


@dataclass(frozen=True)
class Unbeaten:
    """The candidates of one size that no other beats (Holm-adjusted p below 0.05), highest mean first.

    Candidates are the default strategies, whose pairs are one family of tests, or all where fewer than two of those
    ran. The others stand in the tables beside them, and are neither advised nor beat anything.
    """

    per_class: int
    k: int  # seeds of the pair that has fewest, thin strategies aside
    members: tuple[str, ...]  # not beaten, never failed, and without a sign against them
    doubtful: tuple[str, ...]  # not beaten, but some 95% interval against them excludes zero before correction
    unstable: tuple[str, ...]  # not beaten, but some run failed (diverged, or one class for all images): no merit
    thin: tuple[str, ...]  # too few seeds in common with any other strategy to be beaten, or to be recommended
    beaten: tuple[str, ...]
    others: tuple[str, ...]  # compared, and no candidates
    state: State

    @property
    def advised(self) -> tuple[str, ...]:
        """The set as a report advises it: empty where nothing is decided."""
        return self.members if self.state in ("one strategy", "decided") else ()


def one_class(tables: Tables, per_class: int) -> dict[str, int]:
    """By strategy, in how many final runs that did not diverge all test images got one class; where there are some."""
    found = {}
    for name, mine in where(tables.runs, per_class=per_class, status="ok").groupby("strategy"):
        predicted = tables.predictions.by(mine["fingerprint"].tolist())
        found[str(name)] = int((predicted == predicted[:, :1]).all(axis=1).sum())
    return {name: count for name, count in found.items() if count}


def unbeaten(
    strategies: pd.DataFrame, pairs: pd.DataFrame, per_class: int, default: frozenset[str], failed: frozenset[str]
) -> Unbeaten:
    """Which strategies of one size cannot be told from the top: never a test against a winner picked on test.

    failed: strategies that gave all test images one class in some run.
    """
    mine = where(strategies, per_class=per_class).sort_values("judged", ascending=False, kind="stable")
    several = mine["strategy"].isin(default).sum() > 1
    others = mine.loc[~mine["strategy"].isin(default) & several, "strategy"].tolist()
    mine = mine[~mine["strategy"].isin(others)]
    names = mine["strategy"].tolist()
    unsteady = set(mine.loc[mine["diverged"] > 0, "strategy"]) | failed
    sized = where(pairs, per_class=per_class)
    sized = sized[sized["a"].isin(names) & sized["b"].isin(names)]
    enough = sized[sized["k"] >= DECIDED_FROM]
    full = set(enough["a"]) | set(enough["b"])
    state: State = "decided"
    if len(names) == 1:
        state = "one strategy"
    elif per_class != ALL and (sized["overlap"] > MOST_OVERLAP).any():
        state = "pool too small"
    elif enough.empty:
        state = "too few seeds"
    full = full if state == "decided" else set(names)
    told = enough[enough["p_holm"] < ALPHA]
    beaten = set(told.loc[told["difference"] > 0, "a"]) | set(told.loc[told["difference"] < 0, "b"])
    top = [name for name in names if name not in beaten and name in full]
    steady = [name for name in top if name not in unsteady]
    # The best mean among the steady has none of them above it; signs from unsteady ones count for nothing.
    seen = enough[enough["a"].isin(steady) & enough["b"].isin(steady)]
    signs = set(seen.loc[seen["low"] > 0, "a"]) | set(seen.loc[seen["high"] < 0, "b"])
    among = sized[sized["a"].isin(full) & sized["b"].isin(full)]
    return Unbeaten(
        per_class=per_class,
        k=int(among["k"].min()) if len(among) else int(mine["k"].min()),
        members=tuple(name for name in steady if name not in signs),
        doubtful=tuple(name for name in steady if name in signs),
        unstable=tuple(name for name in top if name in unsteady),
        thin=tuple(name for name in names if name not in full),
        beaten=tuple(name for name in names if name in beaten),
        others=tuple(others),
        state=state,
    )
