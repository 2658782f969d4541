"""The numbers of one study, from its checked tables: strategies, pairs, top sets, sweeps, phases, sensitivity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.statistics import (
    ALPHA,
    MOST_OVERLAP,
    Paired,
    crossed_interval,
    holm,
    mean_interval,
    paired_difference,
)
from analysis.tables import ALL, COLUMNS, GROUPS, METRICS, Metric, Predictions, Tables, TablesError

REFERENCE = "feature_extraction"  # fixed beforehand, whatever the runs say
DECIDED_FROM = 5  # seeds; below, nothing is decided
CITABLE_FROM = 10  # seeds; below, a study is exploratory

DEFAULT_ORDER = (
    *("scratch", "feature_extraction", "last_block", "fine_tune", "discriminative"),
    *("gradual_unfreezing", "lp_ft", "norm_only", "lda"),
)
BATCH_NORM_TRAIN = "_batch_norm_train"  # ends the name of a strategy that is another one with updated BatchNorm

# What counts as gone wrong in a sweep of rates, always against the best rate of the same sweep.
CLEAR_DROP = 1.0  # points of accuracy below the best rate, and lower in every seed
MOVED_MORE = 2.0  # times the backbone's drift at the best rate
MOVED_LESS = 0.5  # times the backbone's drift at the best rate
TRAIN_DROP = 1.0  # points of training accuracy below the best rate

COMPARISON_COLUMNS = [
    *("study", "per_class", "a", "b", "family", "metric", "k", "overlap", "factor", "difference", "low", "high", "p"),
    *("low_new_images", "high_new_images", "p_holm", "d_z", "wins", "smallest_detectable"),
]
Family = Literal["pairs", "batch_norm", "none"]
BACKBONE_GROUPS = GROUPS[:-1]

Floats = npt.NDArray[np.float64]


def strategy_order(names: Sequence[str]) -> list[str]:
    """The nine default strategies in their order, then the others by name."""
    known = [name for name in DEFAULT_ORDER if name in set(names)]
    return known + sorted(set(names) - set(known))


def interval(values: Sequence[float] | Floats, correlation: float = 0.0) -> tuple[float, float, float, int]:
    """Mean, low, high and n of the values that are there; no interval below two values or without any spread.

    correlation: of the seeds, as `Tables.correlation` has it.
    """
    present = np.asarray(values, dtype=np.float64)
    found = mean_interval(present[np.isfinite(present)], correlation)
    return found.mean, found.low, found.high, found.n


def difference_of(a: Floats, b: Floats, correlation: float) -> Paired | None:
    """B minus A, or None where a test would mean nothing, as `no_test` says."""
    try:
        return paired_difference(a, b, overlap=correlation)
    except ValueError:
        return None


def no_test(row: Mapping[Any, Any]) -> str:
    """Why a difference, with its per_class, overlap and k, has no test."""
    if row["per_class"] != ALL and row["overlap"] > MOST_OVERLAP:
        return "pool too small"
    return "identical differences" if row["k"] >= 2 else "fewer than two shared seeds"


def family_of(a: str, b: str, default: frozenset[str]) -> Family:
    """The tests that a pair is corrected with: those of the default strategies, or of BatchNorm, or none."""
    if {a, b} <= default:
        return "pairs"
    return "batch_norm" if b == a + BATCH_NORM_TRAIN or a == b + BATCH_NORM_TRAIN else "none"


def strategies_table(tables: Tables) -> pd.DataFrame:
    """One row a size and strategy: means over seeds, accuracies in percent, the gap in points."""
    rows = []
    for per_class, sized in tables.runs.groupby("per_class"):
        correlation = tables.correlation(int(str(per_class)))
        for name in strategy_order(sized["strategy"].unique().tolist()):
            mine = sized[sized["strategy"] == name]
            row: dict[str, Any] = {"per_class": per_class, "strategy": name, "k": len(mine)}
            for column in ("judged", "test_accuracy", "balanced_accuracy"):
                mean, low, high, _ = interval(mine[column].to_numpy() * 100, correlation)
                # A t interval knows no limits; an accuracy does.
                row |= {column: mean, f"{column}_low": np.maximum(low, 0.0), f"{column}_high": np.minimum(high, 100.0)}
            row["train_accuracy"] = interval(mine["train_accuracy"].to_numpy() * 100)[0]
            row["log_loss"], row["ece"] = float(mine["log_loss"].mean()), float(mine["ece"].mean() * 100)
            row["gap"] = interval((mine["train_accuracy"] - mine["test_accuracy"]).to_numpy() * 100)[0]
            row["seconds"] = float(mine["seconds"].median())  # other work on the machine lengthens some
            row["trainable_parameters"] = int(mine["trainable_parameters"].max())
            row["total_parameters"] = int(mine["total_parameters"].max())
            row["diverged"] = int((mine["status"] == "diverged").sum())
            rows.append(row)
    return pd.DataFrame(rows)


def comparisons(tables: Tables) -> pd.DataFrame:
    """All pairs of strategies of one size, B minus A in points of the judged accuracy, paired by seed.

    `family` says which tests of a size a pair is corrected with (Holm); `none` stands unadjusted. The numbers of a pair
    are NaN where it has no test (`no_test`).
    """
    rows = []
    classes = tables.predictions.labels if tables.judge_by == "balanced_accuracy" else None
    for per_class, sized in tables.runs.groupby("per_class"):
        size = int(str(per_class))
        correlation = tables.correlation(size)
        by_name = {str(name): mine.set_index("seed").sort_index() for name, mine in sized.groupby("strategy")}
        default = tables.default_strategies & set(by_name)
        default = default if len(default) > 1 else frozenset(by_name)  # the candidates of `top_of`
        families: dict[Family, list[dict[str, Any]]] = {"pairs": [], "batch_norm": [], "none": []}
        for a, b in combinations(strategy_order(list(by_name)), 2):
            seeds = by_name[a].index.intersection(by_name[b].index)
            first, second = by_name[a].loc[seeds], by_name[b].loc[seeds]
            family = family_of(a, b, default)
            row: dict[str, Any] = {"study": tables.study, "per_class": size, "a": a, "b": b, "family": family}
            row |= {"metric": tables.judge_by, "k": len(seeds), "overlap": tables.overlap(size)}
            found = difference_of(_points(first["judged"]), _points(second["judged"]), correlation)
            if found is not None:
                low, high = crossed_interval(
                    tables.predictions.correct(first["fingerprint"].tolist()),
                    tables.predictions.correct(second["fingerprint"].tolist()),
                    classes,
                    correlation,
                )
                row |= {
                    "factor": found.factor,
                    "difference": found.difference,
                    "low": found.low,
                    "high": found.high,
                    "p": found.p,
                    "low_new_images": low * 100,
                    "high_new_images": high * 100,
                    "d_z": found.d_z,
                    "wins": found.wins,
                    "smallest_detectable": found.smallest_detectable,
                }
                families[family].append(row)
            rows.append(row)
        _adjust(families["pairs"])
        _adjust(families["batch_norm"])
    frame = pd.DataFrame(rows, columns=COMPARISON_COLUMNS)
    numbers = COMPARISON_COLUMNS[COMPARISON_COLUMNS.index("overlap") :]
    return frame.astype({**dict.fromkeys(numbers, "float64"), "wins": "Int64"})


def _adjust(family: Sequence[dict[str, Any]]) -> None:
    """Write p_holm beside p in every row of a family of tests."""
    if family:
        for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = float(adjusted)


def _points(column: pd.Series[float]) -> Floats:
    return np.asarray(column, dtype=np.float64) * 100


@dataclass(frozen=True)
class Top:
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
    state: Literal["one strategy", "pool too small", "too few seeds", "decided"]


def top_of(
    strategies: pd.DataFrame, pairs: pd.DataFrame, per_class: int, default: frozenset[str], failed: frozenset[str]
) -> Top:
    """Which strategies of one size cannot be told from the top: never a test against a winner picked on test.

    failed: strategies of which a run failed, as `Top.unstable` has it.
    """
    mine = strategies[strategies["per_class"] == per_class].sort_values("judged", ascending=False, kind="stable")
    several = mine["strategy"].isin(default).sum() > 1
    others = mine.loc[~mine["strategy"].isin(default) & several, "strategy"].tolist()
    mine = mine[~mine["strategy"].isin(others)]
    names = mine["strategy"].tolist()
    unsteady = set(mine.loc[mine["diverged"] > 0, "strategy"]) | failed
    sized = pairs[(pairs["per_class"] == per_class) & pairs["a"].isin(names) & pairs["b"].isin(names)]
    enough = sized[sized["k"] >= DECIDED_FROM]
    full = set(enough["a"]) | set(enough["b"])
    state: Literal["one strategy", "pool too small", "too few seeds", "decided"] = "decided"
    if len(names) == 1:
        state, full = "one strategy", set(names)
    elif per_class != ALL and (sized["overlap"] > MOST_OVERLAP).any():
        state, full = "pool too small", set(names)
    elif enough.empty:
        state, full = "too few seeds", set(names)
    told = enough[enough["p_holm"] < ALPHA]
    beaten = set(told.loc[told["difference"] > 0, "a"]) | set(told.loc[told["difference"] < 0, "b"])
    unbeaten = [name for name in names if name not in beaten and name in full]
    steady = [name for name in unbeaten if name not in unsteady]
    # The best mean among the steady has none of them above it; signs from unsteady ones count for nothing.
    seen = enough[enough["a"].isin(steady) & enough["b"].isin(steady)]
    signs = set(seen.loc[seen["low"] > 0, "a"]) | set(seen.loc[seen["high"] < 0, "b"])
    among = sized[sized["a"].isin(full) & sized["b"].isin(full)]
    return Top(
        per_class=per_class,
        k=int(among["k"].min()) if len(among) else int(mine["k"].min()),
        members=tuple(name for name in steady if name not in signs),
        doubtful=tuple(name for name in steady if name in signs),
        unstable=tuple(name for name in unbeaten if name in unsteady),
        thin=tuple(name for name in names if name not in full),
        beaten=tuple(name for name in names if name in beaten),
        others=tuple(others),
        state=state,
    )


def against(pairs: pd.DataFrame, per_class: int, reference: str) -> pd.DataFrame:
    """The pairs of one size that hold the reference, turned so that a positive difference means: better than it."""
    sized = pairs[(pairs["per_class"] == per_class) & ((pairs["a"] == reference) | (pairs["b"] == reference))]
    rows = []
    for row in sized.to_dict("records"):
        if row["b"] == reference:
            row |= {"a": reference, "b": row["a"], "difference": -row["difference"], "d_z": -row["d_z"]}
            for low, high in (("low", "high"), ("low_new_images", "high_new_images")):
                row[low], row[high] = -row[high], -row[low]
        rows.append(row)
    # Without the wins: a tie is a win for neither, so they cannot be turned.
    frame = pd.DataFrame(rows, columns=[name for name in COMPARISON_COLUMNS if name != "wins"])
    return frame.set_index("b").reindex(strategy_order(frame["b"].tolist())).rename_axis("strategy").reset_index()


def recalls(runs: pd.DataFrame, predictions: Predictions) -> pd.DataFrame:
    """The share of each class's test images that each run gets right: per_class, strategy, seed, class, recall."""
    rows = []
    for run in runs.to_dict("records"):
        correct = predictions.correct([run["fingerprint"]])[0]
        for index, name in enumerate(predictions.classes):
            of_class = correct[predictions.labels == index]
            rows.append(
                {
                    "per_class": run["per_class"],
                    "strategy": run["strategy"],
                    "seed": run["seed"],
                    "class": name,
                    "recall": float(of_class.mean()) if of_class.size else float("nan"),
                }
            )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Robustness:
    """Whether one strategy's difference from the reference holds when it is measured otherwise; points."""

    strategy: str
    per_class: int
    k: int
    judged: tuple[float, float, float]  # difference, low, high over draws of the training images
    new_images: tuple[float, float]  # low, high over draws and new test images
    other: tuple[float, float, float]  # difference, low, high of the accuracy that does not decide
    wins: int
    wins_interval: tuple[float, float]  # fractions
    classes_better: tuple[str, ...]  # the interval of the difference in recall lies above zero
    classes_worse: tuple[str, ...]

    @property
    def signs(self) -> tuple[int, int, int]:
        """What each of the three intervals says: 1 above zero, -1 below, 0 neither."""
        return (
            _sign(self.judged[1], self.judged[2]),
            _sign(self.new_images[0], self.new_images[1]),
            _sign(self.other[1], self.other[2]),
        )


def _sign(low: float, high: float) -> int:
    return 1 if low > 0 else -1 if high < 0 else 0


def other_metric(metric: Metric) -> Metric:
    """The accuracy that stands beside the one that decides."""
    return "accuracy" if metric == "balanced_accuracy" else "balanced_accuracy"


def robustness(
    tables: Tables, pairs: pd.DataFrame, recall: pd.DataFrame, per_class: int, reference: str
) -> list[Robustness]:
    """Every strategy of one size against the reference, measured in four ways."""
    sized = tables.runs[tables.runs["per_class"] == per_class]
    correlation, column = tables.correlation(per_class), COLUMNS[other_metric(tables.judge_by)]
    recall = recall[recall["per_class"] == per_class]
    found = []
    for row in against(pairs, per_class, reference).to_dict("records"):
        name = row["strategy"]
        ours, theirs = (sized[sized["strategy"] == which].set_index("seed") for which in (name, reference))
        seeds = ours.index.intersection(theirs.index).sort_values()
        judged, other = (
            difference_of(_points(theirs.loc[seeds, which]), _points(ours.loc[seeds, which]), correlation)
            for which in ("judged", column)
        )
        if judged is None:
            continue
        better, worse = [], []
        table = recall.pivot_table(index="seed", columns=["strategy", "class"], values="recall", aggfunc="first").loc[
            seeds
        ]
        for label in recall["class"].unique():
            of_class = difference_of(_points(table[(reference, label)]), _points(table[(name, label)]), correlation)
            if of_class is not None and of_class.low > 0:
                better.append(str(label))
            elif of_class is not None and of_class.high < 0:
                worse.append(str(label))
        nan = float("nan")
        found.append(
            Robustness(
                strategy=name,
                per_class=per_class,
                k=judged.k,
                judged=(judged.difference, judged.low, judged.high),
                new_images=(row["low_new_images"], row["high_new_images"]),
                other=(other.difference, other.low, other.high) if other else (nan, nan, nan),
                wins=judged.wins,
                wins_interval=(judged.wins_low, judged.wins_high),
                classes_better=tuple(better),
                classes_worse=tuple(worse),
            )
        )
    return found


def drift_table(drift: pd.DataFrame) -> pd.DataFrame:
    """How far each group moved by the end of the last phase: mean over the runs that give a finite number."""
    cell = ["strategy", "per_class", "lr_scale", "seed"]
    last = drift[drift["phase"] == drift.groupby(cell)["phase"].transform("max")]
    finite = last[np.isfinite(last["weight_distance"])]
    by = ["per_class", "strategy", "lr_scale", "group"]
    means: pd.DataFrame = finite.groupby(by)["weight_distance"].agg(weight_distance="mean", n="count").reset_index()
    return means


def backbone_drift(drift: pd.DataFrame) -> pd.DataFrame:
    """How far the backbone of each run moved: the mean over its groups, without the head, after the last phase."""
    cell = ["strategy", "per_class", "lr_scale", "seed"]
    last = drift[drift["phase"] == drift.groupby(cell)["phase"].transform("max")]
    backbone = last[last["group"].isin(BACKBONE_GROUPS)]
    return backbone.groupby(cell)["weight_distance"].mean().rename("drift").reset_index()


What = Literal["best", "diverged", "moved too far", "moved too little", "worse", "no clear difference"]


@dataclass(frozen=True)
class Rate:
    """One rate of a sweep: means over seeds, accuracies in percent; what went wrong against the best rate."""

    lr_scale: float
    k: int
    test: float
    val: float
    train: float
    drift: float
    diverged: int
    what: What
    drop: float  # points below the best rate
    drift_ratio: float  # times the best rate's drift
    loss: float  # of the training images after the last epoch, mean over the runs that did not diverge


@dataclass(frozen=True)
class Sweep:
    """The rates of one swept strategy at one size, highest first."""

    strategy: str
    per_class: int
    chosen_on: Literal["validation", "test"]
    rates: tuple[Rate, ...]

    @property
    def best(self) -> Rate | None:
        return next((rate for rate in self.rates if rate.what == "best"), None)

    @property
    def edge(self) -> bool:
        """Whether the best rate is the highest or the lowest that was tried."""
        return self.best is not None and self.best in (self.rates[0], self.rates[-1])


def sweeps(table: pd.DataFrame, history: pd.DataFrame, drift: pd.DataFrame) -> list[Sweep]:
    """What happened at each rate of each sweep, judged by the thresholds at the top of this module."""
    found = []
    swept = history[history["role"] == "sweep"]
    moved = backbone_drift(drift[drift["role"] == "sweep"])
    for (strategy, per_class), cells in table.groupby(["strategy", "per_class"]):
        mine = cells.merge(moved, on=["strategy", "per_class", "lr_scale", "seed"], how="left")
        chosen_on: Literal["validation", "test"] = "validation" if mine["val_accuracy"].notna().all() else "test"
        decides = "val_accuracy" if chosen_on == "validation" else "judged"
        scales = sorted(mine["lr_scale"].unique(), reverse=True)
        by_scale = {scale: mine[mine["lr_scale"] == scale].set_index("seed").sort_index() for scale in scales}
        # A rate at which a run diverged is never the best one; of equal rates the smaller one is.
        steady = [scale for scale in scales if (by_scale[scale]["status"] == "ok").all()]
        best = max(steady, key=lambda scale: (by_scale[scale][decides].mean(), -scale), default=None)
        losses = swept[(swept["strategy"] == strategy) & (swept["per_class"] == per_class)]
        rates = tuple(_rate(scale, by_scale, best, decides, losses) for scale in scales)
        found.append(Sweep(str(strategy), int(str(per_class)), chosen_on, rates))
    return found


def _rate(
    scale: float, by_scale: dict[float, pd.DataFrame], best: float | None, decides: str, history: pd.DataFrame
) -> Rate:
    mine = by_scale[scale]
    diverged = int((mine["status"] == "diverged").sum())
    drift = interval(mine["drift"].to_numpy())[0]
    train = interval(mine["train_accuracy"].to_numpy() * 100)[0]
    drop = ratio = float("nan")
    what: What = "diverged" if diverged else "no clear difference"
    if best is not None and scale == best:
        what = "best"
    elif best is not None:
        top = by_scale[best]
        seeds = mine.index.intersection(top.index)
        drops = (top.loc[seeds, decides] - mine.loc[seeds, decides]).to_numpy() * 100
        drop = float(drops.mean()) if len(drops) else float("nan")
        top_drift = interval(top["drift"].to_numpy())[0]
        ratio = drift / top_drift if top_drift > 0 else float("nan")
        train_drop = interval(top["train_accuracy"].to_numpy() * 100)[0] - train
        if not diverged and drop >= CLEAR_DROP and (drops > 0).all():
            if scale > best and ratio >= MOVED_MORE:
                what = "moved too far"
            elif scale < best and ratio <= MOVED_LESS and train_drop >= TRAIN_DROP:
                what = "moved too little"
            else:
                what = "worse"
    return Rate(
        lr_scale=scale,
        k=len(mine),
        test=interval(mine["judged"].to_numpy() * 100)[0],
        val=interval(mine["val_accuracy"].to_numpy() * 100)[0],
        train=train,
        drift=drift,
        diverged=diverged,
        what=what,
        drop=drop,
        drift_ratio=ratio,
        loss=_last_loss(history, scale, mine.index[mine["status"] == "ok"].tolist()),
    )


def _last_loss(history: pd.DataFrame, scale: float, seeds: list[int]) -> float:
    mine = history[(history["lr_scale"] == scale) & history["seed"].isin(seeds)]
    losses = mine[mine["split"].eq(_read_at_the_end(mine)) & (mine["metric"] == "loss")]
    return interval(losses.loc[losses["epoch"] == losses["epoch"].max(), "value"].to_numpy())[0]


def _read_at_the_end(history: pd.DataFrame) -> str:
    """The split of the training images after training: the first edition read them so after every epoch."""
    return "train_end" if history["split"].eq("train_end").any() else "train"


def phase_gains(tables: Tables) -> pd.DataFrame:
    """Validation accuracy (percent) at the end of each phase of strategies with several, and what each phase added.

    Columns: per_class, strategy, phase, k, train, mean, low, high, gain, gain_low, gain_high, p_holm, wins; gains in
    points, paired by seed; p adjusted over all phases but the first of all strategies of a size, NaN where there is no
    test; train is the accuracy on the training images. Diverged runs have no end of a phase where they stopped, and
    count up to there.
    """
    rows = []
    families: dict[Any, list[dict[str, Any]]] = {}
    watched = _ends_of_phases(tables.history, "val")
    trained = _ends_of_phases(tables.history, _read_at_the_end(tables.history))
    trained_means = trained.groupby(["per_class", "strategy", "phase"])["value"].mean() * 100
    for (per_class, strategy), mine in watched.groupby(["per_class", "strategy"]):
        correlation = tables.correlation(int(str(per_class)))
        table = mine.pivot_table(index="seed", columns="phase", values="value", aggfunc="first") * 100
        if table.shape[1] < 2:
            continue
        for phase in range(1, int(table.columns.max()) + 1):
            mean, low, high, k = interval(table[phase].to_numpy(), correlation)
            row = {"per_class": per_class, "strategy": strategy, "phase": phase, "k": k}
            row["train"] = trained_means.get((per_class, strategy, phase), float("nan"))
            row |= {"mean": mean, "low": low, "high": high}
            if phase > 1:
                both = table[[phase - 1, phase]].dropna()
                gains = (both[phase] - both[phase - 1]).to_numpy()
                gain, gain_low, gain_high, _ = interval(gains, correlation)
                row |= {"gain": gain, "gain_low": gain_low, "gain_high": gain_high, "wins": int((gains > 0).sum())}
                tested = difference_of(both[phase - 1].to_numpy(), both[phase].to_numpy(), correlation)
                if tested is not None:
                    row["p"] = tested.p
                    families.setdefault(per_class, []).append(row)
            rows.append(row)
    for family in families.values():
        _adjust(family)
    columns = ["per_class", "strategy", "phase", "k", "train", "mean", "low", "high", "gain", "gain_low", "gain_high"]
    return pd.DataFrame(rows, columns=[*columns, "p_holm", "wins"])


def _ends_of_phases(history: pd.DataFrame, split: str) -> pd.DataFrame:
    """The accuracy on one split in the last epoch of each phase of the final runs."""
    read = history[
        (history["role"] == "final") & (history["split"] == split) & (history["metric"] == "accuracy")
    ].dropna(subset="value")
    cell = ["per_class", "strategy", "seed", "phase"]
    return read[read["epoch"] == read.groupby(cell)["epoch"].transform("max")]


def phase_ends(history: pd.DataFrame) -> pd.DataFrame:
    """Per seed, validation accuracy (fraction) at the end of each phase of the strategies that have several."""
    ends = _ends_of_phases(history, "val")
    several = ends.groupby(["per_class", "strategy"])["phase"].transform("max") > 1
    return ends.loc[several, ["per_class", "strategy", "seed", "phase", "value"]].reset_index(drop=True)


def ablation_effects(tables: Tables) -> pd.DataFrame:
    """Each ablation minus the strategy it changes, in points: paired by size, seed and scale of the rates."""
    written = tables.provenance["parameters"]["strategies"]
    parents = pd.concat([tables.runs, tables.ablations])
    other_column = COLUMNS[other_metric(tables.judge_by)]
    rows = []
    for (per_class, name, lr_scale), mine in tables.ablations.groupby(["per_class", "strategy", "lr_scale"]):
        parent, size = str(written.get(str(name), {}).get("of", "")), int(str(per_class))
        theirs = parents[
            (parents["strategy"] == parent) & (parents["per_class"] == per_class) & (parents["lr_scale"] == lr_scale)
        ]
        k, found = by_seed(theirs, mine, tables.correlation(size))
        row: dict[str, Any] = {"per_class": size, "ablation": name, "of": parent, "lr_scale": lr_scale}
        row |= {"k": k, "overlap": tables.overlap(size), "judged": float(mine["judged"].mean() * 100)}
        row["log_loss"] = float(mine["log_loss"].mean())
        row["diverged"] = int((mine["status"] == "diverged").sum())
        if found is not None:
            row |= {"difference": found.difference, "low": found.low, "high": found.high, "p": found.p}
        _, other = by_seed(theirs, mine, tables.correlation(size), other_column)
        if other is not None:
            row |= {"other": other.difference, "other_low": other.low, "other_high": other.high}
        rows.append(row)
    columns = ["per_class", "ablation", "of", "lr_scale", "k", "overlap", "judged", "log_loss", "diverged"]
    columns += ["difference", "low", "high", "p", "other", "other_low", "other_high"]
    return pd.DataFrame(rows, columns=columns)


def by_seed(
    theirs: pd.DataFrame, ours: pd.DataFrame, correlation: float, column: str = "judged"
) -> tuple[int, Paired | None]:
    """How many seeds two sets of runs share, and the difference in an accuracy (points), ours minus theirs."""
    a, b = theirs.set_index("seed")[column], ours.set_index("seed")[column]
    seeds = b.index.intersection(a.index).sort_values()
    return len(seeds), difference_of(_points(a.loc[seeds]), _points(b.loc[seeds]), correlation)


def twins(tables: Tables) -> dict[tuple[int, str], str]:
    """The strategy that an ablation, by size and name, is another name for: both get the same images right, always."""
    found: dict[tuple[int, str], str] = {}
    right = tables.predictions.correct
    for row in tables.ablations[["per_class", "strategy"]].drop_duplicates().to_dict("records"):
        size, ablation = int(row["per_class"]), str(row["strategy"])
        ours = tables.ablations[(tables.ablations["per_class"] == size) & (tables.ablations["strategy"] == ablation)]
        for strategy, theirs in tables.runs[tables.runs["per_class"] == size].groupby("strategy"):
            both = ours.merge(theirs, on="seed", suffixes=("", "_of"))
            if len(both) and (right(both["fingerprint"].tolist()) == right(both["fingerprint_of"].tolist())).all():
                found[size, ablation] = str(strategy)
    return found


def one_class(tables: Tables, per_class: int) -> dict[str, tuple[int, int]]:
    """By strategy, in how many final runs all test images got one class, and of how many that did not diverge."""
    steady = tables.runs[(tables.runs["per_class"] == per_class) & (tables.runs["status"] == "ok")]
    found = {}
    for name, mine in steady.groupby("strategy"):
        predicted = tables.predictions.by(mine["fingerprint"].tolist())
        one = int((predicted == predicted[:, :1]).all(axis=1).sum())
        if one:
            found[str(name)] = (one, len(mine))
    return {name: found[name] for name in strategy_order(list(found))}


def between(tables: Tables, per_class: int, strategy: str, ours: pd.DataFrame) -> dict[str, Any] | None:
    """Runs of an ablation or a sweep minus a final strategy at one size, in points, paired by seed; None: no test."""
    theirs = tables.runs[(tables.runs["strategy"] == strategy) & (tables.runs["per_class"] == per_class)]
    k, found = by_seed(theirs, ours[ours["per_class"] == per_class], tables.correlation(per_class))
    return None if found is None else {"k": k, "difference": found.difference, "low": found.low, "high": found.high}


def best_rate_gain(tables: Tables, sweep: Sweep, strategy: str) -> dict[str, Any] | None:
    """The runs at the best rate of a sweep minus a final strategy of its size, as in `between`; None: no best rate."""
    if sweep.best is None:
        return None
    runs = tables.sweep
    ours = runs[(runs["strategy"] == sweep.strategy) & (runs["lr_scale"] == sweep.best.lr_scale)]
    return between(tables, sweep.per_class, strategy, ours)


@dataclass(frozen=True)
class Numbers:
    """Everything computed from the tables that more than one part of the report needs; accuracies in percent."""

    tables: Tables
    strategies: pd.DataFrame
    pairs: pd.DataFrame
    tops: tuple[Top, ...]
    recall: pd.DataFrame
    robust: tuple[Robustness, ...]
    sweeps: tuple[Sweep, ...]
    gains: pd.DataFrame
    ablations: pd.DataFrame
    twins: dict[tuple[int, str], str]  # ablations by size and name, and the strategy that each is another name for
    names: tuple[str, ...]  # of the final strategies, in the order of the report

    def tuned_on(self, per_class: int) -> int | None:
        """How many images in all judged each rate of this size; None where rates were not tuned."""
        parameters = self.tables.provenance["parameters"]
        tried = parameters.get("tried", {}).get(str(per_class), {})
        judged = [int(found["of"]) for strategy in tried.values() for found in strategy["tried"].values()]
        found: int | None = max(judged, default=parameters.get("tuning_images", {}).get(str(per_class)))
        return found

    @property
    def untuned_rates(self) -> str:
        """What rates are that nobody tuned."""
        scale = self.tables.provenance["parameters"]["study"].get("learning_rates", "textbook")
        return "the textbook's" if scale == "textbook" else f"{scale:g} times the textbook's"

    @property
    def metric(self) -> str:
        """The accuracy that decides, in words."""
        return METRICS[self.tables.judge_by]

    @property
    def other(self) -> str:
        """The accuracy that stands beside it, in words."""
        return METRICS[other_metric(self.tables.judge_by)]

    @property
    def other_column(self) -> str:
        """The column of the accuracy that stands beside the one that decides."""
        return COLUMNS[other_metric(self.tables.judge_by)]

    @property
    def validated(self) -> bool:
        """Whether images outside the draws were watched as validation."""
        return bool(self.tables.history["split"].eq("val").any())

    @property
    def draws(self) -> bool:
        """Whether seeds draw their training images; where they train on all of them, they don't."""
        return ALL not in self.sizes

    @property
    def over(self) -> str:
        """What intervals over seeds speak of."""
        return "draws of the training images" if self.draws else "runs on the same training images"

    @property
    def sizes(self) -> list[int]:
        return [int(size) for size in sorted(self.strategies["per_class"].unique())]

    @property
    def has_reference(self) -> bool:
        return REFERENCE in self.names and len(self.names) > 1

    @property
    def uneven(self) -> bool:
        """Whether the classes of the test images differ by more than a tenth in size."""
        counts = self.tables.provenance["dataset"]["test_class_counts"]
        return bool(max(counts) > 1.1 * min(counts))

    @property
    def baseline(self) -> float:
        """What always answering the largest class of the test images gets, in percent of the accuracy that decides."""
        counts = np.bincount(self.tables.predictions.labels)
        if self.tables.judge_by == "balanced_accuracy":
            return 100 / np.count_nonzero(counts)
        return 100 * float(counts.max()) / float(counts.sum())

    def of(self, per_class: int, strategy: str) -> dict[str, Any]:
        """The row of one strategy at one size."""
        mine = self.strategies[(self.strategies["per_class"] == per_class) & (self.strategies["strategy"] == strategy)]
        return dict(mine.iloc[0].items())  # type: ignore[arg-type]


def compute(tables: Tables) -> Numbers:
    """All numbers of the report but the claims. Raises TablesError where no final cell has a run."""
    if tables.runs.empty:
        raise TablesError(f"study {tables.study} has no final run yet, and a report needs one: run `dvc repro`")
    strategies, pairs = strategies_table(tables), comparisons(tables)
    sizes = [int(size) for size in sorted(strategies["per_class"].unique())]
    recall = recalls(tables.runs, tables.predictions)
    robust = [row for size in sizes for row in robustness(tables, pairs, recall, size, REFERENCE)]
    flat = {size: frozenset(one_class(tables, size)) for size in sizes}
    return Numbers(
        tables=tables,
        strategies=strategies,
        pairs=pairs,
        tops=tuple(top_of(strategies, pairs, size, tables.default_strategies, flat[size]) for size in sizes),
        recall=recall,
        robust=tuple(robust),
        sweeps=tuple(sweeps(tables.sweep, tables.history, tables.drift)),
        gains=phase_gains(tables),
        twins=twins(tables),
        ablations=ablation_effects(tables),
        names=tuple(strategy_order(strategies["strategy"].unique().tolist())),
    )
