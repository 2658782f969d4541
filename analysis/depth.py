"""Depth: what it costs to keep the groups nearest the input frozen, for pretrained and for random weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from analysis import findings
from analysis.findings import DECIDED_FROM, Numbers
from analysis.plots import signed
from analysis.tables import GROUPS, Tables, group_rates
from analysis.words import NONE, Table, bracket, counted, joined, percent

COLUMNS = ["start", "first", "strategy", "k", "mean", "low", "high", "cost", "cost_low", "cost_high"]
DEPTHS_AT_LEAST = 2  # with runs, beside everything learning: one alone says nothing of how the cost grows
STARTS: Mapping[str, str] = {"pretrained": "pretrained weights", "none": "random weights"}


@dataclass(frozen=True)
class Beside:
    """Everything learning with BatchNorm frozen, minus the best depth, which freezes weights as well."""

    start: str
    ablation: str
    depth: str
    k: int
    difference: float  # points, as its limits
    low: float
    high: float


@dataclass(frozen=True)
class Depth:
    """One size: how good each depth is, run by run and on average, and how far its groups moved."""

    per_class: int
    summary: pd.DataFrame  # COLUMNS; `first` is the group nearest the input that learns, costs are in points
    runs: pd.DataFrame  # start, first, seed, judged (percent)
    moved: pd.DataFrame  # strategy, group, weight_distance
    beside: tuple[Beside, ...]


def series(strategies: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Per strategy that trains everything in one phase: the group each of its depths learns from, and who does so.

    A depth is an ablation of it with the same rates for the groups from there to the head, and none for the others. One
    ablation alone is no series.
    """
    found: dict[str, dict[str, str]] = {}
    for of, block in strategies.items():
        whole = _rates(block)
        if "of" in block or set(whole) != set(GROUPS):
            continue
        learning = {name: _rates(other) for name, other in strategies.items() if other.get("of") == of}
        depths = {
            GROUPS[len(GROUPS) - len(rates)]: name
            for name, rates in learning.items()
            if 0 < len(rates) < len(GROUPS) and rates == {group: whole[group] for group in GROUPS[-len(rates) :]}
        }
        if len(depths) >= DEPTHS_AT_LEAST:
            found[of] = {group: depths[group] for group in reversed(GROUPS) if group in depths} | {GROUPS[0]: of}
    return found


def _rates(block: Mapping[str, Any]) -> dict[str, float]:
    """The rate of every group that learns, of a strategy of one phase; nothing for several phases."""
    phases = block.get("phases", [])
    if len(phases) != 1:
        return {}
    return group_rates(phases[0]["lr"])


def measured(numbers: Numbers) -> list[Depth]:
    """The depths of every size that has runs of them."""
    strategies = numbers.tables.provenance["parameters"]["strategies"]
    known = series(strategies)
    found = []
    for size in numbers.sizes:
        parts = [
            (STARTS[strategies[of]["weights"]], first, name, of)
            for of, depths in sorted(known.items(), key=lambda item: list(STARTS).index(strategies[item[0]]["weights"]))
            for first, name in depths.items()
        ]
        depth = _of_size(numbers, size, parts)
        if depth is not None:
            found.append(depth)
    return found


def _of_size(numbers: Numbers, size: int, parts: Sequence[tuple[str, str, str, str]]) -> Depth | None:
    runs, ablations = (table[table["per_class"] == size] for table in (numbers.tables.runs, numbers.tables.ablations))
    effects = numbers.ablations[numbers.ablations["per_class"] == size]
    rows, points = [], []
    for start, first, name, of in parts:
        whole = runs[runs["strategy"] == of]
        depths = ablations[
            ablations["strategy"].isin([other for s, _, other, _ in parts if s == start])
            & ablations["lr_scale"].isin(whole["lr_scale"])
        ]
        # Everything learning is shown for the seeds that have a depth beside it, the depths for those that have it.
        mine, other = (whole, depths) if name == of else (depths[depths["strategy"] == name], whole)
        mine = mine[mine["seed"].isin(other["seed"])].sort_values("seed")
        if mine.empty:
            continue
        mean, low, high, k = findings.interval(mine["judged"].to_numpy() * 100, numbers.tables.correlation(size))
        row = {"start": start, "first": first, "strategy": name, "k": k, "mean": mean, "low": low, "high": high}
        effect = effects[(effects["ablation"] == name) & effects["lr_scale"].isin(whole["lr_scale"])]
        if len(effect):
            lost = -effect[["difference", "high", "low"]].iloc[0]
            row |= {"cost": lost["difference"], "cost_low": lost["high"], "cost_high": lost["low"]}
        rows.append(row)
        points.append(mine[["strategy", "seed"]].assign(start=start, first=first, judged=mine["judged"] * 100))
    summary = pd.DataFrame(rows, columns=COLUMNS)
    # More than, for everything learning is one of the rows.
    several = summary[summary.groupby("start")["start"].transform("size") > DEPTHS_AT_LEAST]
    if several.empty:
        return None
    shown = pd.concat(points)
    shown = shown[shown["start"].isin(several["start"])].reset_index(drop=True)
    moved = _moved(numbers.tables, size, shown[["strategy", "seed"]])
    several, shown = several.reset_index(drop=True), shown[["start", "first", "seed", "judged"]]
    return Depth(size, several, shown, moved, tuple(_beside(numbers, size, several, ablations, parts)))


def _beside(
    numbers: Numbers,
    size: int,
    summary: pd.DataFrame,
    ablations: pd.DataFrame,
    parts: Sequence[tuple[str, str, str, str]],
) -> Iterator[Beside]:
    """Each start's best depth, by its mean, beside the ablation that freezes BatchNorm and lets everything learn."""
    blocks = numbers.tables.provenance["parameters"]["strategies"]
    for start, of in dict.fromkeys((start, of) for start, _, _, of in parts):
        depths = summary[(summary["start"] == start) & (summary["strategy"] != of)].sort_values("mean")
        if depths.empty:
            continue
        depth = str(depths["strategy"].iloc[-1])
        frozen = [
            name
            for name, block in blocks.items()
            if block.get("of") == of
            and {**block, "batch_norm": ""} == {**blocks[of], "batch_norm": "", "of": of}
            and block.get("batch_norm") == "frozen"
        ]
        for ablation in frozen:
            theirs, ours = (ablations[ablations["strategy"] == name] for name in (depth, ablation))
            ours = ours[ours["lr_scale"].isin(theirs["lr_scale"])]
            k, found = findings.by_seed(theirs, ours, numbers.tables.correlation(size))
            if found is not None:
                yield Beside(start, ablation, depth, k, found.difference, found.low, found.high)


def _moved(tables: Tables, size: int, shown: pd.DataFrame) -> pd.DataFrame:
    """How far each group moved, on average over the runs shown (strategy, seed)."""
    drift = tables.drift[(tables.drift["per_class"] == size) & tables.drift["role"].isin(("final", "ablation"))]
    table = findings.drift_table(drift.merge(shown, on=["strategy", "seed"]))
    return table[["strategy", "group", "weight_distance"]]


def words(depth: Depth) -> list[str]:
    """For each start: down to which group freezing costs something, and whether the cost grows towards the output."""
    said: list[str] = []
    for start in STARTS.values():
        said += _start_words(depth.summary, start)
        said += [_beside_words(beside) for beside in depth.beside if beside.start == start]
    return said


def _start_words(summary: pd.DataFrame, start: str) -> Iterator[str]:
    mine = summary[(summary["start"] == start) & summary["cost"].notna()].iloc[::-1]  # fewest frozen groups first
    if mine.empty:
        return
    rows = mine.to_dict("records")
    k = min(row["k"] for row in rows)
    if k < DECIDED_FROM:
        yield f"**From {start}**: open with {counted(k, 'seed')}."
        return
    costly = [row for row in rows if row["cost_low"] > 0]
    gained = [row for row in rows if row["cost_high"] < 0]
    parts = []
    for some, verb, sign in ((costly, "costs", 1), (gained, "gains", -1)):
        if some:
            said = [
                f"{signed(sign * row['cost']).removeprefix('+')} points with {_frozen(row['first'])} frozen"
                for row in some
            ]
            parts.append(f"{verb} {', '.join(said)}")
    open_ = [_frozen(row["first"]) for row in rows if row not in costly and row not in gained]
    if open_:
        parts.append(f"makes no difference that shows with {'; with '.join(open_)} frozen")
    costs = [row["cost"] for row in rows]
    grows = all(later >= sooner for sooner, later in pairwise(costs))
    falls = all(later <= sooner for sooner, later in pairwise(costs))
    order = f"{'grows' if grows else 'falls' if falls else 'does not grow'} with every group that is frozen"
    shape = f" On average the cost {order}." if len(rows) > 1 else ""
    found = f"**From {start}**, freezing groups {'; it '.join(parts)}"
    yield f"{found} (paired by seed, 95% intervals in the table).{shape}"


def _beside_words(beside: Beside) -> str:
    """What of the effect of freezing is owed to BatchNorm and not to the weights."""
    if beside.k < DECIDED_FROM:
        reading = "open with so few seeds"
    elif beside.low > 0:
        reading = "keeping the weights as they were is no gain"
    elif beside.high < 0:
        reading = "keeping the weights as they were is a gain too"
    else:
        reading = "no gain from keeping the weights as they were shows"
    return (
        f"**From {beside.start}, BatchNorm apart:** a frozen group keeps its BatchNorm statistics too. With BatchNorm "
        f"frozen and every weight learning, `{beside.ablation}` gets {signed(beside.difference)} points "
        f"{bracket(beside.low, beside.high)} on `{beside.depth}`, the best of these depths "
        f"({counted(beside.k, 'seed')}): {reading}."
    )


def _frozen(first: str) -> str:
    frozen = GROUPS[: GROUPS.index(first)]
    return joined(frozen) if len(frozen) < 3 else f"`{frozen[0]}` to `{frozen[-1]}`"


def rows_of(depth: Depth, metric: str) -> Table:
    """Every depth with its accuracy and what it costs against everything learning."""
    rows = []
    for row in depth.summary.to_dict("records"):
        reached = f"{percent(row['mean'])} {bracket(row['low'], row['high'], 'without')}".strip()
        cost = NONE
        if np.isfinite(row["cost"]):
            cost = f"{signed(row['cost'])} {bracket(row['cost_low'], row['cost_high'])}".strip()
        learning = "everything" if row["first"] == GROUPS[0] else f"`{row['first']}`"
        rows.append((row["start"], learning, f"`{row['strategy']}`", str(row["k"]), reached, cost))
    header = ["Start", "Learns from", "Runs of", "Seeds", f"{metric.capitalize()}, % [95%]"]
    header.append("Cost of freezing, points [95%]")
    return Table(tuple(header), tuple(rows), frozenset({3, 4, 5}))
