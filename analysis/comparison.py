"""What several sections of a report share: the strategies of a size, their pairs, the set that nothing beats."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.checks import KEY
from analysis.claims import Claim, load_claims
from analysis.markdown import counted
from analysis.paired import all_pairs, by_seed, interval, points, strategy_order
from analysis.power import DECIDED_FROM
from analysis.statistics import Paired
from analysis.tables import ALL, METRICS, Metric, Tables, TablesError, in_order, where
from analysis.unbeaten import Unbeaten, one_class, unbeaten
from analysis.verdicts import judge

REFERENCE = "feature_extraction"  # fixed beforehand, whatever the runs say


@dataclass(frozen=True, eq=False)  # known by itself, so that a section can keep what it computes of it
class Comparison:
    """The numbers of one study that more than one section needs; accuracies in percent, differences in points."""

    tables: Tables
    strategies: pd.DataFrame
    pairs: pd.DataFrame
    unbeaten: tuple[Unbeaten, ...]  # a size each, all images last
    claims: tuple[Claim, ...]  # of this study, in the order of the ledger
    verdicts: tuple[dict[str, Any], ...]  # of these claims
    names: tuple[str, ...]  # of the final strategies: the defaults in their order, then the others
    candidates: list[str]  # the default ones, or all where fewer than two of those ran: for figures of many panels
    drawn: tuple[str, ...]  # that figures know by their looks: the final ones, then those that are only swept
    study: str
    sizes: list[int]
    parameters: Mapping[str, Any]
    dataset: Mapping[str, Any]
    metric: str  # the accuracy that decides, in words
    other_metrics: tuple[Metric, ...]  # beside it, where test classes differ by more than a tenth in size
    baseline: float  # as of the tables
    draws: bool  # whether seeds draw their training images; where they train on all of them, they don't
    over: str  # what intervals over seeds speak of

    def images(self, per_class: int) -> int:
        """How many training images there are in all at this size."""
        dataset = self.dataset
        return int(dataset["pool_images"]) if per_class == ALL else per_class * len(dataset["classes"])

    def recipe(self, strategy: str) -> Mapping[str, Any]:
        """How a strategy or an ablation is written in params.yaml; empty where that is not known."""
        found: Mapping[str, Any] = self.parameters["strategies"].get(strategy, {})
        return found

    def written_rate(self, strategy: str) -> float | None:
        """The learning rate of a strategy at scale 1; None where it has several, or none."""
        written = {rate for phase in self.recipe(strategy).get("phases", []) for rate in phase["lr"].values()}
        return float(written.pop()) if len(written) == 1 else None

    def seeds(self, names: Collection[str]) -> str:
        """How many seeds these strategies have at each size: `10 seeds`, or `8 to 10 seeds`."""
        counts = self.strategies.loc[self.strategies["strategy"].isin(names), "k"]
        fewest, most = int(counts.min()), int(counts.max())
        return counted(most, "seed") if fewest == most else f"{fewest} to {most} seeds"

    def steady(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of a history or of drift that belong to final runs that did not diverge."""
        return frame.merge(where(self.tables.runs, status="ok")[KEY], on=KEY)

    def of(self, per_class: int, strategy: str) -> dict[str, Any]:
        """The row of one strategy at one size."""
        return dict(where(self.strategies, per_class=per_class, strategy=strategy).iloc[0].items())  # type: ignore[arg-type]

    def ran(self, per_class: int) -> list[str]:
        """The strategies that have runs at this size, highest judged mean first."""
        mine = where(self.strategies, per_class=per_class).sort_values("judged", ascending=False, kind="stable")
        return mine["strategy"].tolist()

    def gain(self, per_class: int, strategy: str, other: str) -> dict[str, Any]:
        """The pair of two strategies of one size, turned so that a positive difference means: better than the other.

        Without the wins: a tie is a win for neither, so they cannot be turned. Empty where one has no runs.
        """
        for a, b in ((other, strategy), (strategy, other)):
            for pair in where(self.pairs, per_class=per_class, a=a, b=b).drop(columns="wins").to_dict("records"):
                row = {str(key): value for key, value in pair.items()} | {"a": other, "b": strategy}
                if a == strategy:
                    row |= {"difference": -row["difference"], "d_z": -row["d_z"]}
                    for low, high in (("low", "high"), ("low_new_images", "high_new_images")):
                        row[low], row[high] = -row[high], -row[low]
                return row
        return {}

    def gains(self, pairs: Iterable[tuple[int, str, str]]) -> pd.DataFrame:
        """The gains of strategies on others (size, strategy, other) that were tested, a row each."""
        found = [{**gain, "strategy": pair[1]} for pair in pairs if (gain := self.gain(*pair))]
        columns = ["per_class", "strategy", "k", "difference", "low", "high", "low_new_images", "high_new_images"]
        return pd.DataFrame(found, columns=[*columns, "p_holm"]).dropna(subset="difference")

    def advised(self, per_class: int) -> tuple[str, ...]:
        """The strategies advised at this size, highest judged mean first."""
        return next((size.advised for size in self.unbeaten if size.per_class == per_class), ())

    def beside(self, per_class: int, strategy: str, ours: pd.DataFrame) -> Paired | None:
        """Runs of an ablation or a sweep minus a final strategy of their size, in points; None: no test."""
        theirs = where(self.tables.runs, strategy=strategy, per_class=per_class)
        return by_seed(theirs, ours, self.tables.correlation(per_class))[1]

    def best_above(self, per_class: int, candidates: Mapping[str, pd.DataFrame]) -> tuple[str, Paired] | None:
        """Of runs at this size, by what they are called, those with the largest gain on the best strategy advised.

        A gain counts from 5 seeds on, where its 95% interval lies above zero; it is corrected for nothing.
        """
        found = [
            (name, gain)
            for against in self.advised(per_class)[:1]
            for name, ours in candidates.items()
            if (gain := self.beside(per_class, against, ours)) and gain.k >= DECIDED_FROM and gain.low > 0
        ]
        return max(found, key=lambda above: above[1].difference, default=None)

    def judged_on(self, per_class: int) -> int | None:
        """On how many predictions of all pilots each rate of this size was judged; None where this study tuned none."""
        tried = self.parameters.get("tried", {}).get(str(per_class), {})
        return max((int(f["of"]) for strategy in tried.values() for f in strategy["tried"].values()), default=None)


def compare(tables: Tables) -> Comparison:
    """The comparison of one study. Raises TablesError where no final cell has a run."""
    if tables.runs.empty:
        raise TablesError(f"study {tables.study} has no final run yet, and a report needs one: run `dvc repro`")
    strategies, pairs, default = _strategies(tables), all_pairs(tables), tables.default_strategies
    sizes = in_order(strategies["per_class"])
    names = tuple(strategy_order(strategies["strategy"].unique().tolist()))
    candidates = [name for name in names if name in default]
    ledger = load_claims()
    verdicts = {row["id"]: row for row in judge(ledger, tables)}
    mine = tuple(claim for claim in ledger if claim.study == tables.study)
    counts = tables.provenance["dataset"]["test_class_counts"]
    other: Metric = "accuracy" if tables.judge_by == "balanced_accuracy" else "balanced_accuracy"
    return Comparison(
        tables=tables,
        strategies=strategies,
        pairs=pairs,
        unbeaten=tuple(
            unbeaten(strategies, pairs, size, default, frozenset(one_class(tables, size))) for size in sizes
        ),
        claims=mine,
        verdicts=tuple(verdicts[claim.id] for claim in mine),
        names=names,
        candidates=candidates if len(candidates) > 1 else list(names),
        drawn=tuple(dict.fromkeys((*names, *tables.sweep["strategy"]))),
        study=tables.study,
        sizes=sizes,
        parameters=tables.provenance["parameters"],
        dataset=tables.provenance["dataset"],
        metric=METRICS[tables.judge_by],
        other_metrics=(other,) if max(counts) > 1.1 * min(counts) else (),
        baseline=tables.baseline,
        draws=ALL not in sizes,
        over="runs on the same training images" if ALL in sizes else "draws of the training images",
    )


def _strategies(tables: Tables) -> pd.DataFrame:
    """One row a size and strategy: means over seeds, accuracies in percent, the gap in points."""
    rows = []
    for per_class, sized in tables.runs.groupby("per_class"):
        correlation = tables.correlation(int(str(per_class)))
        for name in strategy_order(sized["strategy"].unique().tolist()):
            mine = where(sized, strategy=name)
            row: dict[str, Any] = {"per_class": per_class, "strategy": name, "k": len(mine)}
            for column in ("judged", "test_accuracy", "balanced_accuracy"):
                mean, low, high, _ = interval(points(mine[column]), correlation)
                # A t interval knows no limits; an accuracy does.
                row |= {column: mean, f"{column}_low": np.maximum(low, 0.0), f"{column}_high": np.minimum(high, 100.0)}
            for column in ("train_accuracy", "val_accuracy"):
                row[column] = interval(points(mine[column])).mean
            row["gap"] = interval(points(mine["train_accuracy"] - mine["test_accuracy"])).mean
            row["log_loss"], row["ece"] = float(mine["log_loss"].mean()), float(mine["ece"].mean() * 100)
            row["seconds"] = float(mine["seconds"].median())  # other work on the machine lengthens some
            for column in ("trainable_parameters", "total_parameters"):
                row[column] = int(mine[column].max())
            row["diverged"] = len(where(mine, status="diverged"))
            rows.append(row)
    return pd.DataFrame(rows)
