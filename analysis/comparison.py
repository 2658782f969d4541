"""What several sections of a report share: the strategies of a size, their pairs, the set that nothing beats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.checks import KEY
from analysis.claims import Claim, load_claims
from analysis.markdown import counted
from analysis.paired import all_pairs, by_seed, interval, points, strategy_order
from analysis.statistics import Paired
from analysis.tables import ALL, COLUMNS, METRICS, Metric, Tables, TablesError
from analysis.unbeaten import DECIDED_FROM, Unbeaten, one_class, unbeaten
from analysis.verdicts import judge

REFERENCE = "feature_extraction"  # fixed beforehand, whatever the runs say
CITABLE_FROM = 10  # seeds; below, a study is exploratory


@dataclass(frozen=True)
class Above:
    """Runs beside the comparison, of an ablation or a swept rate, that beat the best strategy advised; points."""

    name: str  # as Markdown
    against: str
    k: int
    judged: float  # percent
    difference: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)  # known by itself, so that a section can keep what it computes of it
class Comparison:
    """The numbers of one study that more than one section needs; accuracies in percent, differences in points."""

    tables: Tables
    strategies: pd.DataFrame
    pairs: pd.DataFrame
    unbeaten: tuple[Unbeaten, ...]  # a size each
    claims: tuple[Claim, ...]  # of this study, in the order of the ledger
    verdicts: tuple[dict[str, Any], ...]  # of these claims
    names: tuple[str, ...]  # of the final strategies: the defaults in their order, then the others

    @property
    def study(self) -> str:
        return self.tables.study

    @property
    def sizes(self) -> list[int]:
        return [size.per_class for size in self.unbeaten]

    @property
    def parameters(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.tables.provenance["parameters"]
        return found

    @property
    def dataset(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.tables.provenance["dataset"]
        return found

    def images(self, per_class: int) -> int:
        """How many training images there are in all at this size."""
        dataset = self.dataset
        return int(dataset["pool_images"]) if per_class == ALL else per_class * len(dataset["classes"])

    def recipe(self, strategy: str) -> Mapping[str, Any]:
        """How a strategy or an ablation is written in params.yaml; empty where that is not known."""
        found: Mapping[str, Any] = self.parameters["strategies"].get(strategy, {})
        return found

    def sizes_in(self, frame: pd.DataFrame) -> list[int]:
        """The sizes of this study that a table has rows of, all images last."""
        return [size for size in self.sizes if size in set(frame["per_class"])]

    @property
    def candidates(self) -> list[str]:
        """The default strategies, or all where fewer than two of those ran: what figures of many panels show."""
        default = [name for name in self.names if name in self.tables.default_strategies]
        return default if len(default) > 1 else list(self.names)

    @property
    def seeds(self) -> str:
        """How many seeds a strategy has: `10 seeds`, or `8 to 10 seeds`."""
        fewest, most = int(self.strategies["k"].min()), int(self.strategies["k"].max())
        return counted(most, "seed") if fewest == most else f"{fewest} to {most} seeds"

    def steady(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of a history or of drift that belong to final runs that did not diverge."""
        runs = self.tables.runs
        return frame.merge(runs.loc[runs["status"] == "ok", KEY], on=KEY)

    def named(self, name: str, per_class: int) -> str:
        """The name of one size's figure: with the size where there are several."""
        return f"{name}_{per_class or 'all'}" if len(self.sizes) > 1 else name

    @property
    def metric(self) -> str:
        """The accuracy that decides, in words."""
        return METRICS[self.tables.judge_by]

    @property
    def other_metric(self) -> Metric:
        """The accuracy that stands beside it."""
        return "accuracy" if self.tables.judge_by == "balanced_accuracy" else "balanced_accuracy"

    @property
    def other_column(self) -> str:
        """Its column in the tables of runs."""
        return COLUMNS[self.other_metric]

    @property
    def draws(self) -> bool:
        """Whether seeds draw their training images; where they train on all of them, they don't."""
        return ALL not in self.sizes

    @property
    def over(self) -> str:
        """What intervals over seeds speak of."""
        return "draws of the training images" if self.draws else "runs on the same training images"

    @property
    def uneven(self) -> bool:
        """Whether the classes of the test images differ by more than a tenth in size."""
        counts = self.dataset["test_class_counts"]
        return bool(max(counts) > 1.1 * min(counts))

    @property
    def baseline(self) -> float:
        """What always answering the largest class of the test images gets, in percent of the accuracy that decides."""
        counts = np.bincount(self.tables.predictions.labels)
        if self.tables.judge_by == "balanced_accuracy":
            return 100 / np.count_nonzero(counts)
        return 100 * float(counts.max()) / float(counts.sum())

    @property
    def drawn(self) -> tuple[str, ...]:
        """The strategies that figures know by their looks: the final ones, then those that are only swept."""
        return tuple(dict.fromkeys((*self.names, *self.tables.sweep["strategy"])))

    def of(self, per_class: int, strategy: str) -> dict[str, Any]:
        """The row of one strategy at one size."""
        mine = self.strategies[(self.strategies["per_class"] == per_class) & (self.strategies["strategy"] == strategy)]
        return dict(mine.iloc[0].items())  # type: ignore[arg-type]

    def ran(self, per_class: int) -> list[str]:
        """The strategies that have runs at this size, highest judged mean first."""
        mine = self.strategies[self.strategies["per_class"] == per_class]
        return [str(name) for name in mine.sort_values("judged", ascending=False, kind="stable")["strategy"]]

    def gain(self, per_class: int, strategy: str, other: str) -> dict[str, Any]:
        """The pair of two strategies of one size, turned so that a positive difference means: better than the other.

        Without the wins: a tie is a win for neither, so they cannot be turned. Empty where one has no runs.
        """
        pairs = self.pairs[self.pairs["per_class"] == per_class]
        as_is = pairs[(pairs["a"] == other) & (pairs["b"] == strategy)].to_dict("records")
        if as_is:
            return {str(key): value for key, value in as_is[0].items() if key != "wins"}
        turned = pairs[(pairs["a"] == strategy) & (pairs["b"] == other)].to_dict("records")
        if not turned:
            return {}
        row = {str(key): value for key, value in turned[0].items() if key != "wins"}
        row |= {"a": other, "b": strategy, "difference": -row["difference"], "d_z": -row["d_z"]}
        for low, high in (("low", "high"), ("low_new_images", "high_new_images")):
            row[low], row[high] = -row[high], -row[low]
        return row

    def advised(self, per_class: int) -> tuple[str, ...]:
        """The strategies advised at this size, highest judged mean first."""
        return next((size.advised for size in self.unbeaten if size.per_class == per_class), ())

    def beside(self, per_class: int, strategy: str, ours: pd.DataFrame) -> Paired | None:
        """Runs of an ablation or a sweep minus a final strategy of their size, in points; None: no test."""
        runs = self.tables.runs
        theirs = runs[(runs["strategy"] == strategy) & (runs["per_class"] == per_class)]
        return by_seed(theirs, ours, self.tables.correlation(per_class))[1]

    def best_above(self, per_class: int, candidates: Mapping[str, pd.DataFrame]) -> Above | None:
        """Of runs at this size, by what they are called, those with the largest gain on the best strategy advised.

        A gain counts from 5 seeds on, where its 95% interval lies above zero; it is corrected for nothing.
        """
        found = []
        for against in self.advised(per_class)[:1]:
            for name, ours in candidates.items():
                gain = self.beside(per_class, against, ours)
                if gain is not None and gain.k >= DECIDED_FROM and gain.low > 0:
                    judged = float(points(ours["judged"]).mean())
                    found.append(Above(name, against, gain.k, judged, gain.difference, gain.low, gain.high))
        return max(found, key=lambda above: above.difference, default=None)

    def judged_on(self, per_class: int) -> int | None:
        """How many images in all judged each rate of this size in tuning; None where this study tuned none."""
        tried = self.parameters.get("tried", {}).get(str(per_class), {})
        return max((int(f["of"]) for strategy in tried.values() for f in strategy["tried"].values()), default=None)


def compare(tables: Tables) -> Comparison:
    """The comparison of one study. Raises TablesError where no final cell has a run."""
    if tables.runs.empty:
        raise TablesError(f"study {tables.study} has no final run yet, and a report needs one: run `dvc repro`")
    strategies, pairs = _strategies(tables), all_pairs(tables)
    sizes = sorted((int(size) for size in strategies["per_class"].unique()), key=lambda size: (size == ALL, size))
    ledger = load_claims()
    verdicts = {row["id"]: row for row in judge(ledger, tables)}
    mine = tuple(claim for claim in ledger if claim.study == tables.study and not tables.first_edition)
    return Comparison(
        tables=tables,
        strategies=strategies,
        pairs=pairs,
        unbeaten=tuple(
            unbeaten(strategies, pairs, size, tables.default_strategies, frozenset(one_class(tables, size)))
            for size in sizes
        ),
        claims=mine,
        verdicts=tuple(verdicts[claim.id] for claim in mine),
        names=tuple(strategy_order(strategies["strategy"].unique().tolist())),
    )


def _strategies(tables: Tables) -> pd.DataFrame:
    """One row a size and strategy: means over seeds, accuracies in percent, the gap in points."""
    rows = []
    for per_class, sized in tables.runs.groupby("per_class"):
        correlation = tables.correlation(int(str(per_class)))
        for name in strategy_order(sized["strategy"].unique().tolist()):
            mine = sized[sized["strategy"] == name]
            row: dict[str, Any] = {"per_class": per_class, "strategy": name, "k": len(mine)}
            for column in ("judged", "test_accuracy", "balanced_accuracy"):
                mean, low, high, _ = interval(points(mine[column]), correlation)
                # A t interval knows no limits; an accuracy does.
                row |= {column: mean, f"{column}_low": np.maximum(low, 0.0), f"{column}_high": np.minimum(high, 100.0)}
            row["train_accuracy"] = interval(points(mine["train_accuracy"]))[0]
            row["val_accuracy"] = interval(points(mine["val_accuracy"]))[0]
            row["gap"] = interval(points(mine["train_accuracy"] - mine["test_accuracy"]))[0]
            row["log_loss"], row["ece"] = float(mine["log_loss"].mean()), float(mine["ece"].mean() * 100)
            row["seconds"] = float(mine["seconds"].median())  # other work on the machine lengthens some
            row["trainable_parameters"] = int(mine["trainable_parameters"].max())
            row["total_parameters"] = int(mine["total_parameters"].max())
            row["diverged"] = int((mine["status"] == "diverged").sum())
            rows.append(row)
    return pd.DataFrame(rows)
