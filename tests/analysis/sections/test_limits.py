import json
from pathlib import Path
from typing import Any

import pytest

from analysis.comparison import Comparison, compare
from analysis.sections import limits
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables

FEW = {"scratch": 0.66, "fine_tune": 0.8}
TUNED = {"10": {"fine_tune": {"lr_scale": 1.0, "tried": {"1": {"right": 150, "of": 240, "log_loss": 0.7}}}}}


def study_of(folder: Path, plan: dict[str, Any], **settings: object) -> Comparison:
    write_tables(folder, Plan(**({"strategies": FEW} | plan)))
    path = folder / "provenance.json"
    provenance = json.loads(path.read_text(encoding="utf-8"))
    provenance["parameters"]["study"] |= settings
    path.write_text(json.dumps(provenance), encoding="utf-8")
    return compare(load(folder))


@pytest.mark.parametrize(
    ("plan", "settings", "expected"),
    [
        ({"seeds": (0, 1, 2)}, {}, "**3 seeds.** Below 5"),
        ({}, {}, "**5 seeds.** Exploratory"),
        ({"seeds": range(10)}, {}, "**10 seeds.** Effects below"),
        ({}, {}, "**Rates are not tuned.**"),
        ({"tried": TUNED, "per_class": (10,)}, {"learning_rates": "tuned"}, "on 240 predictions or more a rate"),
        ({}, {"learning_rates": "tuned", "rates_from": "elpv"}, "pilot seeds in study `elpv`."),
        ({"overlap": 0.12}, {}, "share up to 12% (100 a class)"),
        ({"overlap": 0.6}, {}, "**Too few images** to draw from: with 100 images a class nothing"),
        ({"per_class": (0,)}, {}, "train on the same 1,968"),
        ({}, {}, "Always answering the largest gets 65.7% test accuracy; balanced accuracy"),
        ({}, {}, "**500 watched images**"),
        ({"validation": False}, {}, "**No validation.**"),
        ({"diverged": (("scratch", 0), ("scratch", 3))}, {}, "**2 diverged runs** stayed"),
        (
            {"strategies": {"scratch": 0.5, "fine_tune": 0.8}, "seed_sd": 1.0},
            {},
            "beat one answer for all**: `scratch` (100",
        ),
        ({"epochs": 4}, {}, "**Few updates** with 100 images a class"),
        ({"flat": ("scratch", "fine_tune")}, {}, "**1 pair without a test**"),
        ({"environments": ({"device": "A"}, {"device": "B"}, {"device": "A"})}, {}, "measured once on 2 machines"),
        ({"environments": ({"commit": "0123456-dirty", "cells": 7}, {})}, {}, "**Uncommitted code.** 7 runs"),
    ],
)
def test_a_limit_stands_where_it_applies_and_every_line_is_short(
    tmp_path: Path, plan: dict[str, Any], settings: dict[str, object], expected: str
) -> None:
    lines = list(limits.applying(study_of(tmp_path, plan, **settings)))
    assert any(expected in line for line in lines), lines
    assert max(len(line.split()) for line in lines) <= 25


def test_an_ordinary_study_has_no_line_on_what_did_not_happen(tmp_path: Path) -> None:
    plan = {"seeds": range(10), "classes": {"a": 300, "b": 300}}
    said = " ".join(limits.applying(study_of(tmp_path, plan)))
    for absent in (
        "Uneven",
        "diverged",
        "without a test",
        "Uncommitted",
        "Too few",
        "Few updates",
        "No validation",
        "one answer for all",
    ):
        assert absent not in said


def test_missing_runs_are_counted_by_role_and_strategy_with_the_command(tmp_path: Path) -> None:
    missing = (("scratch", 0), ("scratch", 1), ("fine_tune_dropout", 2))
    plan = {"missing": missing, "ablations": {"fine_tune_dropout": ("fine_tune", 0.0)}, "missing_range_tests": 3}
    study = study_of(tmp_path, plan)
    assert limits.missing(study.tables).rows == (
        ("final", "`scratch`", "2", "5"),
        ("ablation", "`fine_tune_dropout`", "1", "5"),
        ("range test", "all", "3", "3"),
    )
    command = limits.section(study).body[1]
    assert "`active: [quick]`" in command
    assert "`dvc repro`" in command


def test_a_whole_study_has_no_table_of_missing_runs_and_keeps_the_notes_on_its_data(quick: Path) -> None:
    (lines,) = limits.section(compare(load(quick))).body
    assert "- 8 modules have cells in both splits." in lines
