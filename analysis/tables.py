"""Load and check the collected tables of one study: the analysis' only input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis import checks
from analysis.checks import ALL, GROUPS, KEY, TESTED_ROLES, TablesError, size_name
from analysis.power import MOST_OVERLAP
from analysis.predictions import Predictions, check_predictions, read_predictions

__all__ = ["ALL", "COLUMNS", "GROUPS", "METRICS", "Metric", "Predictions", "Tables", "TablesError", "load", "size_name"]

Metric = Literal["accuracy", "balanced_accuracy"]
METRICS: Mapping[Metric, str] = {"accuracy": "test accuracy", "balanced_accuracy": "balanced accuracy"}
COLUMNS: Mapping[Metric, str] = {"accuracy": "test_accuracy", "balanced_accuracy": "balanced_accuracy"}


@dataclass(frozen=True)
class Tables:
    """The checked tables of one study; `missing_cells` are declared, but have no run yet.

    Runs that were tested have a column `judged` beside those of the files: the accuracy that decides in this study.
    """

    study: str
    runs: pd.DataFrame
    tune: pd.DataFrame
    sweep: pd.DataFrame
    ablations: pd.DataFrame
    history: pd.DataFrame
    drift: pd.DataFrame
    declared: pd.DataFrame
    missing_cells: pd.DataFrame
    lr_finder: pd.DataFrame
    lr_suggestions: pd.DataFrame
    predictions: Predictions
    provenance: dict[str, Any]

    @property
    def missing_range_tests(self) -> int:
        """How many declared range tests of the LR finder have not run yet."""
        return int(self.provenance["parameters"].get("range_tests", 0)) - len(self.lr_suggestions)

    @property
    def judge_by(self) -> Metric:
        """The accuracy that decides: in the pairs, the set that nothing beats, the answer and the figures."""
        found: Metric = self.provenance["parameters"]["judge_by"]
        return found

    @property
    def baseline(self) -> float:
        """What always answering the largest class of the test images gets, in percent of the accuracy that decides."""
        counts = np.bincount(self.predictions.labels)
        if self.judge_by == "balanced_accuracy":
            return 100 / np.count_nonzero(counts)
        return 100 * float(counts.max()) / float(counts.sum())

    @property
    def tuned(self) -> bool:
        """Whether rates were tuned, here or in the study they come from."""
        study = self.provenance["parameters"]["study"]
        return bool(study.get("learning_rates") == "tuned" or study.get("rates_from"))

    @property
    def default_strategies(self) -> frozenset[str]:
        """The strategies that run where a study names none; all, in tables that do not say."""
        blocks = self.provenance["parameters"]["strategies"]
        names = self.runs["strategy"].unique().tolist()
        return frozenset(name for name in names if blocks.get(name, {}).get("default", True))

    def used_scale(self, per_class: int, strategy: str) -> float:
        """What the final runs multiplied the rates of a strategy by; 1 where nothing was tuned."""
        scales: Mapping[str, float] = self.provenance["parameters"].get("lr_scales", {}).get(str(per_class), {})
        return float(scales.get(strategy, 1.0))

    def overlap(self, per_class: int) -> float:
        """The share of images that two draws of this size have in common, in the class where it is highest."""
        return 1.0 if per_class == ALL else float(self.provenance["dataset"]["overlap"][str(per_class)])

    def correlation(self, *sizes: int) -> float:
        """The overlap that intervals and tests reckon with, the largest of several sizes.

        0 with all images: every seed trains on the same ones, and intervals speak of reruns alone.
        """
        return max(0.0 if size == ALL else self.overlap(size) for size in sizes)

    def too_small(self, per_class: int) -> bool:
        """Whether draws of this size share so much that nothing is tested."""
        return self.correlation(per_class) > MOST_OVERLAP


def load(folder: Path) -> Tables:
    """Read the tables in `folder` and check them against each other.

    Cells that are declared and have no run are not an error: they are `missing_cells`, for the report to name.
    Raises TablesError for anything that would make a number in the report wrong: a file or column that is missing or
    unknown, a cell that is there twice or was never declared, predictions that do not belong to the runs, runs that
    do not belong together.
    """
    provenance = checks.read_provenance(folder / "provenance.json")
    study = str(provenance["study"])
    declared = checks.read_csv(folder / "declared.csv", KEY, KEY)
    checks.check_study(declared, study, folder / "declared.csv")
    tables = {}
    for role, file in checks.ROLE_FILES.items():
        tables[role] = checks.read_csv(folder / file, checks.RUN_COLUMNS, KEY)
        checks.check_study(tables[role], study, folder / file)
        checks.check_runs(tables[role], role, declared, folder / file)
    present = pd.concat([table[KEY] for table in tables.values()])
    history = checks.read_csv(folder / "history.csv", checks.HISTORY_COLUMNS, [*KEY, "epoch", "split", "metric"])
    drift = checks.read_csv(folder / "drift.csv", checks.DRIFT_COLUMNS, [*KEY, "phase", "group"])
    # Weights that ran away have no distance: such a row says no more than one that is not there.
    drift = drift[np.isfinite(drift["weight_distance"])].reset_index(drop=True)
    for frame, file in ((history, "history.csv"), (drift, "drift.csv")):
        right = "each of its cells has a run"
        checks.check_subset(frame, present, folder / file, "is in none of the tables of runs", right)
    finder, suggestions = _range_tests(folder, study)
    predictions = read_predictions(folder / "predictions.npz")
    check_predictions(predictions, tables, provenance, folder)
    checks.check_overlap(declared, provenance, folder / "provenance.json")
    judged = COLUMNS[provenance["parameters"]["judge_by"]]
    for role in TESTED_ROLES:
        # To the last digit, so that rounding in a file never makes a spread where differences are identical.
        exact = predictions.accuracies(tables[role]["fingerprint"].tolist()) if len(tables[role]) else {}
        tables[role] = tables[role].assign(**exact, judged=exact.get(judged, pd.Series(dtype="float64")))
    return Tables(
        study=study,
        runs=tables["final"],
        tune=tables["pilot"],
        sweep=tables["sweep"],
        ablations=tables["ablation"],
        history=history,
        drift=drift,
        declared=declared,
        missing_cells=checks.without(declared, present),
        lr_finder=finder,
        lr_suggestions=suggestions,
        predictions=predictions,
        provenance=provenance,
    )


def _range_tests(folder: Path, study: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    key = ["strategy", "per_class", "seed"]
    finder = checks.read_csv(folder / "lr_finder.csv", checks.FINDER_COLUMNS, [*key, "lr_scale"])
    suggestions = checks.read_csv(folder / "lr_suggestions.csv", checks.SUGGESTION_COLUMNS, key)
    for frame, file in ((finder, "lr_finder.csv"), (suggestions, "lr_suggestions.csv")):
        checks.check_study(frame, study, folder / file)
    if set(map(tuple, finder[key].to_numpy())) - set(map(tuple, suggestions[key].to_numpy())):
        raise TablesError(f"{folder}: lr_finder.csv has tests that are not in lr_suggestions.csv; run `dvc repro`")
    return finder, suggestions


def where(frame: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The rows that hold these values in the columns so named."""
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def last(frame: pd.DataFrame, column: str, of: list[str]) -> pd.DataFrame:
    """The rows of the last phase or epoch (`column`) of each that these columns tell apart."""
    return frame[frame[column] == frame.groupby(of)[column].transform("max")]


def in_order(sizes: Iterable[Any]) -> list[int]:
    """Every size once, smallest first and all images last."""
    return sorted({int(size) for size in sizes}, key=lambda size: (size == ALL, size))


def group_rates(rates: Mapping[str, float]) -> dict[str, float]:
    """The rate of each layer group that learns in a phase, whose rates are given by group or for `all` the others."""
    return {group: rates[group if group in rates else "all"] for group in GROUPS if group in rates or "all" in rates}
