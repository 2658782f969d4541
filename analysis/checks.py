"""The files of one study: typed columns, and the checks that let no wrong number through."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

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


class TablesError(ValueError):
    """The collected tables contradict themselves; the message names the file, the value and what would be right."""


def read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
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


def check_runs(runs: pd.DataFrame, role: str, study: str, declared: pd.DataFrame, path: Path) -> None:
    check_study(runs, study, path)
    strangers = sorted(set(runs["role"]) - {role})
    if strangers:
        raise TablesError(f"{path}: role is {strangers[0]!r}, and should be {role!r}")
    check_single(runs, KEY, path)
    check_subset(runs, declared[KEY], path, "is not in declared.csv", "the study declared it: run `dvc repro`")
    # Two names for one training are no mistake; two seeds of one name that train the same are.
    twice = runs[runs.duplicated(["fingerprint", "strategy", "per_class", "lr_scale"])]
    if len(twice):
        raise TablesError(
            f"{path}: {cell_name(twice.iloc[0])} has the fingerprint of another seed; every seed should have its own"
        )
    needed = "test_accuracy" if role in TESTED_ROLES else "val_accuracy"
    blank = runs[runs[needed].isna()]
    if len(blank):
        raise TablesError(f"{path}: {cell_name(blank.iloc[0])} has no {needed}; every run of this table should")


def check_single(frame: pd.DataFrame, columns: list[str], path: Path) -> None:
    doubled = frame[frame.duplicated(columns)]
    if len(doubled):
        extra = [f"{name} {doubled.iloc[0][name]}" for name in columns if name not in KEY]
        where = ", ".join([cell_name(doubled.iloc[0]), *extra])
        raise TablesError(f"{path} holds this more than once: {where}; each may stand there once")


def check_study(frame: pd.DataFrame, study: str, path: Path) -> None:
    others = sorted(set(frame["study"]) - {study})
    if others:
        raise TablesError(f"{path}: study is {others[0]!r}, and should be {study!r}, as in provenance.json")


def check_subset(frame: pd.DataFrame, whole: pd.DataFrame, path: Path, problem: str, right: str) -> None:
    """Raises TablesError where a cell of `frame` is not in `whole`."""
    merged = frame[KEY].drop_duplicates().merge(whole, on=KEY, how="left", indicator=True)
    stray = merged[merged["_merge"] == "left_only"]
    if len(stray):
        raise TablesError(f"{path}: {cell_name(stray.iloc[0])} {problem}; it would be right if {right}")


def size_name(per_class: int) -> str:
    """`100 images a class`, or `all training images`."""
    if per_class == ALL:
        return "all training images"
    return f"{per_class:,} image{'' if per_class == 1 else 's'} a class"


def cell_name(cell: pd.Series[Any]) -> str:
    return (
        f"{cell['role']} {cell['strategy']}, {size_name(cell['per_class'])}, lr_scale {cell['lr_scale']:g}, "
        f"seed {cell['seed']}"
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


def read_provenance(path: Path) -> dict[str, Any]:
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


def check_overlap(declared: pd.DataFrame, provenance: Mapping[str, Any], path: Path) -> None:
    known = provenance["dataset"].get("overlap", {})
    for size in sorted(set(declared["per_class"]) - {ALL}):
        if str(size) not in known:
            raise TablesError(
                f"{path}: dataset.overlap has no size {size}; it should hold, for every size, the share of images that "
                "two draws have in common, as no interval is right without it"
            )
