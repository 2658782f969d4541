"""The files of one study: typed columns, and the checks that let no wrong number through."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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

_TEXT = {"study", "role", "dataset", "backbone", "strategy", "fingerprint"}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "status": ("ok", "diverged"),
    "split": ("train", "train_end", "val"),
    "metric": ("loss", "accuracy"),
    "group": GROUPS,
}
_WHOLE = {"per_class", "seed", "phase", "epoch", "trainable_parameters", "total_parameters"}
WRITTEN = "stage collect writes it: run `dvc repro`"
# What is read from provenance.json here.
_NEEDED = ("study", "parameters", "dataset", "backbone", "environments", "started", "finished", "training_seconds")
_SHAPE: Mapping[str, type] = {
    "study": str, "parameters": dict, "parameters.study": dict, "parameters.strategies": dict, "dataset": dict,
    "dataset.classes": list, "dataset.test_images": int, "dataset.test_class_counts": list, "environments": list,
    "parameters.range_tests": int, "parameters.lr_scales": dict, "dataset.overlap": dict,
}  # fmt: skip
_MAY_MISS = ("parameters.range_tests", "parameters.lr_scales", "dataset.overlap")
_KINDS: Mapping[type, str] = {str: "text", dict: "an object", list: "a list", int: "a whole number"}


class TablesError(ValueError):
    """The collected tables contradict themselves; the message names the file, the value and what would be right."""


def read_csv(path: Path, columns: list[str], key: list[str]) -> pd.DataFrame:
    """One table with exactly these columns in any order, typed and sorted, a row a key; raises TablesError."""
    if not path.is_file():
        raise TablesError(f"{path} does not exist; {WRITTEN}")
    try:
        text = path.read_bytes().decode()
        header = next(csv.reader(io.StringIO(text, newline="")), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise TablesError(f"{path} is no table in UTF-8 ({error}); {WRITTEN}") from error
    if sorted(header) != sorted(columns):
        unknown = [f"unknown column {name!r}" for name in header if name not in columns]
        absent = [f"no column {name!r}" for name in columns if name not in header]
        problem = "; ".join(unknown + absent) or "a column is there twice"
        raise TablesError(f"{path}: {problem}; the columns are {', '.join(columns)}")
    try:
        raw = pd.read_csv(io.StringIO(text, newline=""), dtype=str, keep_default_na=False, index_col=False)
    except (ValueError, pd.errors.ParserWarning) as error:
        said = " ".join(str(error).split())
        raise TablesError(f"{path}: {said}; every line should have {len(columns)} cells") from None
    short = raw.index[raw.isna().any(axis=1)]
    if len(short):
        raise TablesError(f"{path}, line {short[0] + 2}: it should have {len(columns)} cells, and has fewer")
    frame = pd.DataFrame({name: _column(raw[name], name, path) for name in columns})
    order = [name for name in columns if name in {*KEY, "phase", "epoch", "split", "metric", "group"}]
    frame = frame.sort_values(order, kind="stable").reset_index(drop=True)

    def doubled(row: pd.Series[Any]) -> str:
        named = [cell_name(row)] if "role" in key else []
        where = ", ".join(named + [f"{name} {row[name]}" for name in key if not named or name not in KEY])
        return f" holds this more than once: {where}; each may stand there once"

    refuse(path, frame[frame.duplicated(key)], doubled)
    return frame


def _column(text: pd.Series[str], name: str, path: Path) -> pd.Series[Any]:
    """One column as text, whole numbers or floats (blank and `nan` are NaN); raises TablesError at the first misfit."""

    def expect(fits: pd.Series[bool], right: str, write: Callable[[str], str] = repr) -> None:
        wrong = text[~fits]
        if len(wrong):  # the header is line 1
            value, line = write(wrong.iloc[0]), wrong.index[0] + 2
            raise TablesError(f"{path}, line {line}: {name} is {value}, and should be {right}")

    if name in _CHOICES:
        expect(text.isin(_CHOICES[name]), f"one of {', '.join(_CHOICES[name])}")
        return text.astype(object)
    if name in _TEXT:
        expect(text != "", "filled")
        return text.astype(object)
    blank = text.str.lower().isin(["", "nan"])
    numbers = pd.to_numeric(text.mask(blank, ""), errors="coerce")
    expect(numbers.notna() | blank, "a number")
    if name in _WHOLE:
        expect((numbers % 1 == 0) & (numbers >= 0), "a whole number")
        return numbers.astype("int64")
    if name.endswith("accuracy"):
        expect(numbers.isna() | numbers.between(0, 1), "a fraction from 0 to 1", str)
    return numbers.astype("float64")


def refuse(path: Path, rows: pd.DataFrame, say: Callable[[pd.Series[Any]], str]) -> None:
    """Raises TablesError about the first of these rows, where there is one."""
    if len(rows):
        raise TablesError(f"{path}{say(rows.iloc[0])}")


def check_runs(runs: pd.DataFrame, role: str, declared: pd.DataFrame, path: Path) -> None:
    refuse(path, runs[runs["role"] != role], lambda run: f": role is {run['role']!r}, and should be {role!r}")
    check_subset(runs, declared, path, "is not in declared.csv", "the study declared it: run `dvc repro`")
    # Two names for one training are no mistake; two seeds of one name that train the same are.
    twice = runs[runs.duplicated(["fingerprint", "strategy", "per_class", "lr_scale"])]
    own = "has the fingerprint of another seed; every seed should have its own"
    refuse(path, twice, lambda run: f": {cell_name(run)} {own}")
    needed = "test_accuracy" if role in TESTED_ROLES else "val_accuracy"
    none = f"has no {needed}; every run of this table should"
    refuse(path, runs[runs[needed].isna()], lambda run: f": {cell_name(run)} {none}")


def check_study(frame: pd.DataFrame, study: str, path: Path) -> None:
    right = f"and should be {study!r}, as in provenance.json"
    others = frame[frame["study"] != study].sort_values("study")
    refuse(path, others, lambda row: f": study is {row['study']!r}, {right}")


def check_subset(frame: pd.DataFrame, whole: pd.DataFrame, path: Path, problem: str, right: str) -> None:
    """Raises TablesError where a cell of `frame` is not in `whole`."""
    stray = without(frame[KEY].drop_duplicates(), whole)
    refuse(path, stray, lambda cell: f": {cell_name(cell)} {problem}; it would be right if {right}")


def without(cells: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """The cells, named by KEY, that are not among the others."""
    merged = cells.merge(others[KEY], on=KEY, how="left", indicator=True)
    return merged.loc[merged["_merge"] == "left_only", KEY].reset_index(drop=True)


def size_name(per_class: int) -> str:
    """`100 images a class`, or `all training images`."""
    if per_class == ALL:
        return "all training images"
    return f"{per_class:,} image{'' if per_class == 1 else 's'} a class"


def cell_name(cell: pd.Series[Any]) -> str:
    size, scale = size_name(cell["per_class"]), f"lr_scale {cell['lr_scale']:g}"
    return f"{cell['role']} {cell['strategy']}, {size}, {scale}, seed {cell['seed']}"


def read_provenance(path: Path) -> dict[str, Any]:
    """What the study was made of, as far as it is read here in its right shape; raises TablesError."""
    if not path.is_file():
        raise TablesError(f"{path} does not exist; {WRITTEN}")
    try:
        provenance = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TablesError(f"{path} is no JSON ({error}); {WRITTEN}") from error
    if not isinstance(provenance, dict):
        raise TablesError(f"{path} holds no object; {WRITTEN}")
    for name in _NEEDED:
        if name not in provenance:
            raise TablesError(f"{path} has no {name!r}; it should have {', '.join(_NEEDED)}")
    _expect_shape(provenance, path)
    for environment in provenance["environments"]:
        for field in (*SAME_EVERYWHERE, "commit", "command", "cells"):
            if field not in environment:
                raise TablesError(f"{path}: an environment has no {field!r}; every one should")
    for field in SAME_EVERYWHERE:
        # Cells that start from random weights carry no weight checksum; that alone is not a mix.
        values = sorted({str(environment.get(field, "")) for environment in provenance["environments"]} - {""})
        if len(values) > 1:
            raise TablesError(
                f"{path}: the runs differ in {field} ({' and '.join(values)}), and should share one; run `dvc repro`, "
                "which trains again what is out of date"
            )
    return provenance


def _expect_shape(provenance: Mapping[str, Any], path: Path) -> None:
    def expect(place: str, value: Any, fits: bool, right: str) -> None:
        if not fits or isinstance(value, bool):
            raise TablesError(f"{path}: {place} is {ascii(value)[:80]}, and should be {right}")

    for place, kind in _SHAPE.items():
        above, _, name = place.rpartition(".")
        block = provenance[above] if above else provenance
        if name in block or place not in _MAY_MISS:
            expect(place, block.get(name), isinstance(block.get(name), kind), _KINDS[kind])
    judged = provenance["parameters"].get("judge_by")
    known = ("accuracy", "balanced_accuracy")
    expect("parameters.judge_by", judged, judged in known, " or ".join(known))
    blocks = {f"parameters.{name}": provenance["parameters"].get(name, {}) for name in ("strategies", "lr_scales")}
    parts = {"environments": provenance["environments"], **{place: of.values() for place, of in blocks.items()}}
    for place, values in parts.items():
        for value in values:
            expect(f"a part of {place}", value, isinstance(value, dict), _KINDS[dict])
    for size, share in provenance["dataset"].get("overlap", {}).items():
        fits = isinstance(share, int | float) and 0 <= share <= 1
        expect(f"dataset.overlap of size {size!a}", share, fits, "a share from 0 to 1")


def check_overlap(declared: pd.DataFrame, provenance: Mapping[str, Any], path: Path) -> None:
    for size in sorted(set(declared["per_class"]) - {ALL}):
        if str(size) not in provenance["dataset"].get("overlap", {}):
            raise TablesError(
                f"{path}: dataset.overlap has no size {size}; it should hold, for every size, the share of images that "
                "two draws have in common, as no interval is right without it"
            )
