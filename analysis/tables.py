"""Load and check the collected tables of one study: the analysis' only input."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.statistics import MOST_OVERLAP

KEY = ["study", "role", "strategy", "per_class", "lr_scale", "seed"]  # names a cell
RUN_COLUMNS = [
    *("study", "role", "dataset", "backbone", "strategy", "per_class", "seed", "lr_scale", "status"),
    *("train_accuracy", "val_accuracy", "test_accuracy", "balanced_accuracy", "log_loss", "ece"),
    *("seconds", "trainable_parameters", "total_parameters", "fingerprint"),
]
HISTORY_COLUMNS = [*KEY, "phase", "epoch", "split", "metric", "value"]
DRIFT_COLUMNS = [*KEY, "phase", "group", "weight_distance"]
FINDER_COLUMNS = ["study", "strategy", "per_class", "seed", "lr_scale", "loss", "smoothed"]
SUGGESTION_COLUMNS = ["study", "strategy", "per_class", "seed", "steepest", "tenth_of_lowest", "status"]
GROUPS = ("stem", "stage1", "stage2", "stage3", "stage4", "head")  # input to output
ALL = 0  # as `per_class`: every image that can be drawn, in natural class shares
ROLE_FILES = {"final": "runs.csv", "pilot": "tune.csv", "sweep": "sweep.csv", "ablation": "ablations.csv"}
TESTED_ROLES = ("final", "sweep", "ablation")  # their predictions on test images are kept
# Runs that differ in one of these must not stand in one table; commits, commands and machines may differ.
SAME_EVERYWHERE = ("numerics_version", "parameters_sha256", "weights_sha256", "device_kind", "torch", "precision")

_TEXT = {"study", "role", "dataset", "backbone", "strategy", "status", "fingerprint", "split", "metric", "group"}
_WHOLE = {"per_class", "seed", "phase", "epoch", "trainable_parameters", "total_parameters"}
_CHOICES = {
    "status": ("ok", "diverged"),
    "split": ("train", "train_end", "val"),
    "metric": ("loss", "accuracy"),
    "group": GROUPS,
}


Metric = Literal["accuracy", "balanced_accuracy"]
METRICS: Mapping[Metric, str] = {"accuracy": "test accuracy", "balanced_accuracy": "balanced accuracy"}
COLUMNS: Mapping[Metric, str] = {"accuracy": "test_accuracy", "balanced_accuracy": "balanced_accuracy"}


class TablesError(ValueError):
    """The collected tables contradict themselves; the message names the file, the value and what would be right."""


@dataclass(frozen=True)
class Predictions:
    """Predicted classes of the test images: one row a run, one column an image."""

    ids: npt.NDArray[np.str_]  # [N]
    labels: npt.NDArray[np.integer[Any]]  # [N]
    fingerprints: npt.NDArray[np.str_]  # [M]
    predicted: npt.NDArray[np.integer[Any]]  # [M, N]
    classes: tuple[str, ...]

    def by(self, fingerprints: Sequence[str]) -> npt.NDArray[np.integer[Any]]:
        """The classes that these runs predict: [len(fingerprints), N]."""
        row = {str(name): i for i, name in enumerate(self.fingerprints)}
        return self.predicted[np.array([row[name] for name in fingerprints], dtype=np.intp)]

    def correct(self, fingerprints: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which test images these runs get right: [len(fingerprints), N]."""
        return np.asarray(self.by(fingerprints) == self.labels, dtype=np.bool_)

    def accuracies(self, fingerprints: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
        """Both accuracies of these runs, by column: the share of images they get right, and the mean over classes."""
        correct = self.correct(fingerprints)
        recalls = [correct[:, self.labels == index].mean(axis=1) for index in np.unique(self.labels)]
        return {"test_accuracy": correct.mean(axis=1), "balanced_accuracy": np.mean(recalls, axis=0)}


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
        return _judge_by(self.provenance)

    @property
    def tuned(self) -> bool:
        """Whether rates were tuned, here or in the study they come from."""
        study = self._parameters["study"]
        return bool(study.get("learning_rates") == "tuned" or study.get("rates_from"))

    @property
    def default_strategies(self) -> frozenset[str]:
        """The strategies that run where a study names none; all, in tables that do not say."""
        blocks = self._parameters["strategies"]
        names = self.runs["strategy"].unique().tolist()
        return frozenset(name for name in names if blocks.get(name, {}).get("default", True))

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

    @property
    def _parameters(self) -> Mapping[str, Any]:
        parameters: Mapping[str, Any] = self.provenance["parameters"]
        return parameters


def load(folder: Path) -> Tables:
    """Read the tables in `folder` and check them against each other.

    Cells that are declared and have no run are not an error: they are `missing_cells`, for the report to name.
    Raises TablesError for anything that would make a number in the report wrong: a file or column that is missing or
    unknown, a cell that is there twice or was never declared, predictions that do not belong to the runs, runs that
    do not belong together.
    """
    provenance = _provenance(folder / "provenance.json")
    study = str(provenance["study"])
    declared = _csv(folder / "declared.csv", KEY)
    _single(declared, KEY, folder / "declared.csv")
    _of_study(declared, study, folder / "declared.csv")
    tables = {}
    for role, file in ROLE_FILES.items():
        tables[role] = _csv(folder / file, RUN_COLUMNS)
        _check_runs(tables[role], role, study, declared, folder / file)
    history = _csv(folder / "history.csv", HISTORY_COLUMNS)
    _single(history, [*KEY, "epoch", "split", "metric"], folder / "history.csv")
    drift = _csv(folder / "drift.csv", DRIFT_COLUMNS)
    _single(drift, [*KEY, "phase", "group"], folder / "drift.csv")
    # Weights that ran away have no distance: such a row says no more than one that is not there.
    drift = drift[np.isfinite(drift["weight_distance"])].reset_index(drop=True)
    present = pd.concat([table[KEY] for table in tables.values()])
    for frame, file in ((history, "history.csv"), (drift, "drift.csv")):
        _subset(frame, present, folder / file, "is in none of the tables of runs", "each of its cells has a run")
    finder, suggestions = _range_tests(folder, study)
    predictions = _predictions(folder / "predictions.npz")
    _check_predictions(predictions, tables, provenance, folder)
    _check_overlap(declared, provenance, folder / "provenance.json")
    judged = COLUMNS[_judge_by(provenance)]
    for role in TESTED_ROLES:
        # To the last digit, so that rounding in a file never makes a spread where differences are identical.
        if len(tables[role]):
            exact = predictions.accuracies(tables[role]["fingerprint"].tolist())
            tables[role] = tables[role].assign(**exact, judged=exact[judged])
        else:
            tables[role] = tables[role].assign(judged=pd.Series(dtype="float64"))
    merged = declared.merge(present, on=KEY, how="left", indicator=True)
    missing = merged.loc[merged["_merge"] == "left_only", KEY].reset_index(drop=True)
    return Tables(
        study=study,
        runs=tables["final"],
        tune=tables["pilot"],
        sweep=tables["sweep"],
        ablations=tables["ablation"],
        history=history,
        drift=drift,
        declared=declared,
        missing_cells=missing,
        lr_finder=finder,
        lr_suggestions=suggestions,
        predictions=predictions,
        provenance=provenance,
    )


def _range_tests(folder: Path, study: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    finder = _csv(folder / "lr_finder.csv", FINDER_COLUMNS)
    suggestions = _csv(folder / "lr_suggestions.csv", SUGGESTION_COLUMNS)
    key = ["strategy", "per_class", "seed"]
    for frame, file, columns in (
        (finder, "lr_finder.csv", [*key, "lr_scale"]),
        (suggestions, "lr_suggestions.csv", key),
    ):
        _of_study(frame, study, folder / file)
        doubled = frame[frame.duplicated(columns)]
        if len(doubled):
            where = ", ".join(f"{name} {doubled.iloc[0][name]}" for name in columns)
            raise TablesError(f"{folder / file} holds this more than once: {where}; each may stand there once")
    if set(map(tuple, finder[key].to_numpy())) - set(map(tuple, suggestions[key].to_numpy())):
        raise TablesError(f"{folder}: lr_finder.csv has tests that are not in lr_suggestions.csv; run `dvc repro`")
    return finder, suggestions


def mixed(environments: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """The fields that must be the same in every environment and are not, with their values.

    Cells that start from random weights carry no weight checksum; that alone is not a mix.
    """
    found = {}
    for field in SAME_EVERYWHERE:
        values = sorted({str(environment.get(field, "")) for environment in environments} - {""})
        if len(values) > 1:
            found[field] = values
    return found


def _csv(path: Path, columns: list[str]) -> pd.DataFrame:
    """One table with exactly these columns in any order, typed and sorted; raises TablesError."""
    if not path.is_file():
        raise TablesError(f"{path} does not exist; stage collect writes it: run `dvc repro`")
    try:
        text = path.read_bytes().decode()
        header = next(csv.reader(io.StringIO(text, newline="")), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise TablesError(f"{path} is no table in UTF-8 ({error}); stage collect writes it: run `dvc repro`") from error
    if sorted(header) != sorted(columns):
        unknown = [name for name in header if name not in columns]
        absent = [name for name in columns if name not in header]
        problem = "; ".join(
            [f"unknown column {name!r}" for name in unknown] + [f"no column {name!r}" for name in absent]
        )
        raise TablesError(f"{path}: {problem or 'a column is there twice'}; the columns are {', '.join(columns)}")
    try:
        raw = pd.read_csv(io.StringIO(text, newline=""), dtype=str, keep_default_na=False, index_col=False)
    except (ValueError, pd.errors.ParserWarning) as error:
        raise TablesError(
            f"{path}: {' '.join(str(error).split())}; every line should have {len(columns)} cells"
        ) from None
    short = raw[raw.isna().any(axis=1)]
    if len(short):
        raise TablesError(
            f"{path}, line {_line(short[columns[0]])}: it should have {len(columns)} cells, and has fewer"
        )
    frame = pd.DataFrame({name: _column(raw[name], name, path) for name in columns})
    keys = [name for name in columns if name in {*KEY, "phase", "epoch", "split", "metric", "group"}]
    return frame.sort_values(keys, kind="stable").reset_index(drop=True)


def _column(text: pd.Series[str], name: str, path: Path) -> pd.Series[Any]:
    """One column as text, whole numbers or floats (blank and `nan` are NaN); raises TablesError at the first misfit."""
    if name in _TEXT:
        choices = _CHOICES.get(name)
        wrong = text[~text.isin(choices)] if choices else text[text == ""]
        if len(wrong):
            right = f"one of {', '.join(choices)}" if choices else "filled"
            raise TablesError(f"{path}, line {_line(wrong)}: {name} is {wrong.iloc[0]!r}, and should be {right}")
        return text.astype(object)
    numbers = pd.to_numeric(text.where(text.str.lower() != "nan", ""), errors="coerce")
    wrong = text[numbers.isna() & ~text.str.lower().isin(["", "nan"])]
    if len(wrong):
        raise TablesError(f"{path}, line {_line(wrong)}: {name} is {wrong.iloc[0]!r}, and should be a number")
    if name in _WHOLE:
        wrong = text[numbers.isna() | (numbers % 1 != 0) | (numbers < 0)]
        if len(wrong):
            raise TablesError(f"{path}, line {_line(wrong)}: {name} is {wrong.iloc[0]!r}, and should be a whole number")
        return numbers.astype("int64")
    if name.endswith("accuracy"):
        wrong = text[(numbers < 0) | (numbers > 1)]
        if len(wrong):
            raise TablesError(
                f"{path}, line {_line(wrong)}: {name} is {wrong.iloc[0]}, and should be a fraction from 0 to 1"
            )
    return numbers.astype("float64")


def _line(rows: pd.Series[str]) -> int:
    """The line of a file that the first of these rows stands on, the header being line 1."""
    return int(rows.index[0]) + 2


def used_scale(provenance: Mapping[str, Any], per_class: int, strategy: str) -> float:
    """What the final runs multiplied the rates of a strategy by; 1 where nothing was tuned."""
    scales: Mapping[str, float] = provenance["parameters"].get("lr_scales", {}).get(str(per_class), {})
    return float(scales.get(strategy, 1.0))


def group_rates(rates: Mapping[str, float]) -> dict[str, float]:
    """The rate of each layer group that learns in a phase, whose rates are given by group or for `all` the others."""
    return {group: rates[group if group in rates else "all"] for group in GROUPS if group in rates or "all" in rates}


def size_name(per_class: int) -> str:
    """`100 images a class`, or `all training images`."""
    if per_class == ALL:
        return "all training images"
    return f"{per_class:,} image{'' if per_class == 1 else 's'} a class"


def _name(cell: pd.Series[Any]) -> str:
    return (
        f"{cell['role']} {cell['strategy']}, {size_name(cell['per_class'])}, lr_scale {cell['lr_scale']:g}, "
        f"seed {cell['seed']}"
    )


def _single(frame: pd.DataFrame, columns: list[str], path: Path) -> None:
    doubled = frame[frame.duplicated(columns)]
    if len(doubled):
        extra = [f"{name} {doubled.iloc[0][name]}" for name in columns if name not in KEY]
        where = ", ".join([_name(doubled.iloc[0]), *extra])
        raise TablesError(f"{path} holds this more than once: {where}; each may stand there once")


def _of_study(frame: pd.DataFrame, study: str, path: Path) -> None:
    others = sorted(set(frame["study"]) - {study})
    if others:
        raise TablesError(f"{path}: study is {others[0]!r}, and should be {study!r}, as in provenance.json")


def _subset(frame: pd.DataFrame, whole: pd.DataFrame, path: Path, problem: str, right: str) -> None:
    """Raises TablesError where a cell of `frame` is not in `whole`."""
    merged = frame[KEY].drop_duplicates().merge(whole, on=KEY, how="left", indicator=True)
    stray = merged[merged["_merge"] == "left_only"]
    if len(stray):
        raise TablesError(f"{path}: {_name(stray.iloc[0])} {problem}; it would be right if {right}")


def _check_runs(runs: pd.DataFrame, role: str, study: str, declared: pd.DataFrame, path: Path) -> None:
    _of_study(runs, study, path)
    strangers = sorted(set(runs["role"]) - {role})
    if strangers:
        raise TablesError(f"{path}: role is {strangers[0]!r}, and should be {role!r}")
    _single(runs, KEY, path)
    _subset(runs, declared[KEY], path, "is not in declared.csv", "the study declared it: run `dvc repro`")
    # Two names for one training are no mistake; two seeds of one name that train the same are.
    twice = runs[runs.duplicated(["fingerprint", "strategy", "per_class", "lr_scale"])]
    if len(twice):
        raise TablesError(
            f"{path}: {_name(twice.iloc[0])} has the fingerprint of another seed; every seed should have its own"
        )
    needed = "test_accuracy" if role in TESTED_ROLES else "val_accuracy"
    blank = runs[runs[needed].isna()]
    if len(blank):
        raise TablesError(f"{path}: {_name(blank.iloc[0])} has no {needed}; every run of this table should")


def _predictions(path: Path) -> Predictions:
    if not path.is_file():
        raise TablesError(f"{path} does not exist; stage collect writes it: run `dvc repro`")
    names = {
        "ids": (1, "U"),
        "labels": (1, "iu"),
        "fingerprints": (1, "U"),
        "predicted": (2, "iu"),
        "classes": (1, "U"),
    }
    try:
        with np.load(path, allow_pickle=False) as packed:
            arrays = {name: packed[name] for name in packed.files}
    except (BadZipFile, OSError, EOFError, ValueError) as error:
        raise TablesError(f"{path} cannot be read ({error}); stage collect writes it: run `dvc repro`") from error
    absent = [name for name in names if name not in arrays]
    if absent:
        raise TablesError(f"{path} has no array {absent[0]!r}; it should hold {', '.join(names)}")
    for name, (dimensions, kinds) in names.items():
        array = arrays[name]
        if array.ndim != dimensions or (array.size and array.dtype.kind not in kinds):
            right = f"{dimensions} of {'text' if kinds == 'U' else 'whole numbers'}"
            raise TablesError(f"{path}: {name} has {array.ndim} dimensions of {array.dtype}, and should have {right}")
    return Predictions(
        ids=arrays["ids"],
        labels=arrays["labels"],
        fingerprints=arrays["fingerprints"],
        predicted=arrays["predicted"],
        classes=tuple(str(name) for name in arrays["classes"]),
    )


def _check_predictions(
    predictions: Predictions, tables: dict[str, pd.DataFrame], provenance: dict[str, Any], folder: Path
) -> None:
    path = folder / "predictions.npz"
    images = len(predictions.ids)
    if predictions.labels.shape != (images,):
        raise TablesError(f"{path} has {len(predictions.labels)} labels for {images} ids; there should be one an id")
    if len(set(predictions.ids.tolist())) != images:
        raise TablesError(f"{path} holds a test image twice; every id should stand there once")
    shape = (len(predictions.fingerprints), images)
    if predictions.predicted.shape != shape:
        raise TablesError(
            f"{path}: predicted has the shape {predictions.predicted.shape}, and should have {shape}: "
            "a row a fingerprint, a column an id"
        )
    first = {str(name): i for i, name in reversed(list(enumerate(predictions.fingerprints)))}
    for name, row in zip(predictions.fingerprints, predictions.predicted, strict=True):
        if not np.array_equal(row, predictions.predicted[first[str(name)]]):
            raise TablesError(f"{path} has two different rows for fingerprint {name}; a run predicts once")
    dataset = provenance["dataset"]
    if list(predictions.classes) != list(dataset["classes"]):
        raise TablesError(
            f"{path}: the classes are {list(predictions.classes)}, and should be {dataset['classes']}, as in "
            "provenance.json"
        )
    used = [int(end) for a in (predictions.labels, predictions.predicted) if a.size for end in (a.min(), a.max())]
    strangers = [number for number in used if not 0 <= number < len(predictions.classes)]
    if strangers:
        raise TablesError(
            f"{path}: class {strangers[0]} is used, and there are {len(predictions.classes)} classes from 0"
        )
    counts = np.bincount(predictions.labels, minlength=len(predictions.classes)).tolist()
    if images != dataset["test_images"] or counts != list(dataset["test_class_counts"]):
        raise TablesError(
            f"{path} has {images} test images ({counts} by class); provenance.json has {dataset['test_images']} "
            f"({dataset['test_class_counts']}): they should be the same"
        )
    known = set(predictions.fingerprints.tolist())
    tested = pd.concat([tables[role].assign(file=ROLE_FILES[role]) for role in TESTED_ROLES])
    strange = sorted(known - set(tested["fingerprint"]))
    if strange:
        raise TablesError(f"{path}: no run has the fingerprint {strange[0]}; every row should belong to a run")
    for _, run in tested.iterrows():
        if run["fingerprint"] not in known:
            raise TablesError(f"{path} has no predictions of {_name(run)} ({run['file']}); every run should have some")
    if tested.empty:
        return
    # Less than half an image: one in a balanced accuracy counts least where its class is largest.
    least = {"test_accuracy": 1 / images, "balanced_accuracy": 1 / (np.count_nonzero(counts) * max(counts))}
    for column, exact in predictions.accuracies(tested["fingerprint"].tolist()).items():
        apart = np.abs(exact - tested[column].to_numpy()) > 0.5 * least[column]
        if apart.any():
            worst = int(np.argmax(apart))
            run = tested.iloc[worst]
            raise TablesError(
                f"{folder / run['file']}: {_name(run)} has {column} {run[column]:g}, and "
                f"predictions.npz gives {exact[worst]:.6g}: they should be the same"
            )


def _judge_by(provenance: Mapping[str, Any]) -> Metric:
    """The first edition judged all studies by plain accuracy."""
    return "balanced_accuracy" if provenance["parameters"].get("judge_by") == "balanced_accuracy" else "accuracy"


def _check_overlap(declared: pd.DataFrame, provenance: Mapping[str, Any], path: Path) -> None:
    known = provenance["dataset"].get("overlap", {})
    for size in sorted(set(declared["per_class"]) - {ALL}):
        if str(size) not in known:
            raise TablesError(
                f"{path}: dataset.overlap has no size {size}; it should hold, for every size, the share of images that "
                "two draws have in common, as no interval is right without it"
            )


# What is read from provenance.json here.
_SHAPE: Mapping[str, type] = {
    "study": str, "parameters": dict, "parameters.study": dict, "parameters.strategies": dict, "dataset": dict,
    "dataset.classes": list, "dataset.test_images": int, "dataset.test_class_counts": list, "environments": list,
    "parameters.range_tests": int, "parameters.lr_scales": dict, "dataset.overlap": dict,
}  # fmt: skip
_MAY_MISS = ("parameters.range_tests", "parameters.lr_scales", "dataset.overlap")
_KINDS: Mapping[type, str] = {str: "text", dict: "an object", list: "a list", int: "a whole number"}


def _expect_shape(provenance: Mapping[str, Any], path: Path) -> None:
    def refuse(place: str, value: Any, right: str) -> NoReturn:
        raise TablesError(f"{path}: {place} is {ascii(value)[:80]}, and should be {right}")

    for place, kind in _SHAPE.items():
        above, _, name = place.rpartition(".")
        block = provenance[above] if above else provenance
        if name in block or place not in _MAY_MISS:
            value = block.get(name)
            if not isinstance(value, kind) or isinstance(value, bool):
                refuse(place, value, _KINDS[kind])
    objects = [provenance["environments"], [*provenance["parameters"]["strategies"].values()]]
    objects.append([*provenance["parameters"].get("lr_scales", {}).values()])
    for place, values in zip(("environments", "parameters.strategies", "parameters.lr_scales"), objects, strict=True):
        for value in values:
            if not isinstance(value, dict):
                refuse(f"a part of {place}", value, _KINDS[dict])
    for size, share in provenance["dataset"].get("overlap", {}).items():
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share <= 1:
            refuse(f"dataset.overlap of size {size!a}", share, "a share from 0 to 1")


def _provenance(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise TablesError(f"{path} does not exist; stage collect writes it: run `dvc repro`")
    try:
        provenance = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TablesError(f"{path} is no JSON ({error}); stage collect writes it: run `dvc repro`") from error
    if not isinstance(provenance, dict):
        raise TablesError(f"{path} holds no object; stage collect writes it: run `dvc repro`")
    needed = ("study", "parameters", "dataset", "backbone", "environments", "started", "finished", "training_seconds")
    for name in needed:
        if name not in provenance:
            raise TablesError(f"{path} has no {name!r}; it should have {', '.join(needed)}")
    _expect_shape(provenance, path)
    for environment in provenance["environments"]:
        for field in (*SAME_EVERYWHERE[:-1], "commit", "command", "cells"):  # the first edition had one precision
            if field not in environment:
                raise TablesError(f"{path}: an environment has no {field!r}; every one should")
    found = mixed(provenance["environments"])
    if found:
        field, values = next(iter(found.items()))
        raise TablesError(
            f"{path}: the runs differ in {field} ({' and '.join(values)}), and should share one; run `dvc repro`, "
            "which trains again what is out of date"
        )
    return provenance
