"""Ablations: differences from what they change, twins, and the one that beats the best strategy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis import style
from analysis.comparison import compare
from analysis.markdown import Table
from analysis.sections.ablations import best_above, depths, effects, section
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables

BETTER, WORSE = "fine_tune_imagenet_normalisation", "last_block_imagenet_normalisation"
PLAN = Plan(epochs=4, ablations={BETTER: ("fine_tune", 6.0), WORSE: ("last_block", -6.0)})


def test_an_effect_is_paired_by_seed_with_what_it_changes(tmp_path: Path) -> None:
    study = compare(load(write_tables(tmp_path, PLAN)))
    table = effects(study).set_index("ablation")
    ours, theirs = (
        frame.query("strategy == @name").set_index("seed")
        for frame, name in ((study.tables.ablations, BETTER), (study.tables.runs, "fine_tune"))
    )
    row = table.loc[BETTER]
    assert row["difference"] == pytest.approx(100 * (ours - theirs[["test_accuracy"]])["test_accuracy"].mean())
    assert row["other"] == pytest.approx(100 * (ours["balanced_accuracy"] - theirs["balanced_accuracy"]).mean())
    assert row["low"] > 0 > table.loc[WORSE, "high"]
    assert table.index.tolist() == [WORSE, BETTER]  # in the order of the strategies they change
    assert table["k"].tolist() == [5, 5]


def test_an_ablation_at_other_rates_than_its_strategy_has_no_difference(tmp_path: Path) -> None:
    tables = load(write_tables(tmp_path, PLAN))
    study = compare(replace(tables, ablations=tables.ablations.assign(lr_scale=3.0)))
    assert effects(study)["k"].tolist() == [0, 0]
    assert effects(study)["difference"].isna().all()
    found = section(study)
    assert found is not None
    assert not list(found.pictures)


def test_the_best_ablation_that_beats_the_best_strategy_is_named(tmp_path: Path) -> None:
    study = compare(load(write_tables(tmp_path / "a", PLAN)))
    found = best_above(study, 100)
    assert found is not None
    name, gain = found
    mean = study.tables.ablations.query("strategy == @BETTER")["test_accuracy"].mean() * 100
    assert (name, gain.k) == (f"`{BETTER}`", 5)
    assert gain.difference == pytest.approx(mean - study.of(100, study.advised(100)[0])["judged"])
    # Better than what it changes, and still no match for the best strategy.
    far = Plan(epochs=4, strategies={"last_block": 0.6, "fine_tune": 0.8}, ablations={WORSE: ("last_block", 10.0)})
    behind = compare(load(write_tables(tmp_path / "b", far)))
    assert effects(behind)["low"].item() > 0
    assert best_above(behind, 100) is None
    few = compare(load(write_tables(tmp_path / "c", replace(PLAN, seeds=range(4)))))
    assert best_above(few, 100) is None


def test_an_ablation_that_is_a_strategy_by_another_name_is_told_and_beats_nothing(tmp_path: Path) -> None:
    name = "fine_tune_last_block"
    plan = Plan(epochs=4, strategies={"last_block": 0.8, "fine_tune": 0.7}, ablations={name: ("fine_tune", 20.0)})
    tables = load(write_tables(tmp_path, plan))
    by_seed = tables.runs[tables.runs["strategy"] == "last_block"].set_index("seed")
    same = {column: tables.ablations["seed"].map(by_seed[column]) for column in ("fingerprint", "judged")}
    study = compare(replace(tables, ablations=tables.ablations.assign(**same)))
    assert effects(study)["twin"].tolist() == ["last_block"]
    assert f"`{name}`, the same as `last_block`" in str(section(study))
    assert effects(compare(tables))["twin"].tolist() == [""]
    assert best_above(compare(tables), 100) is not None


def test_depths_hold_the_rates_of_the_strategy_that_trains_everything(tmp_path: Path) -> None:
    plan = Plan(epochs=4, ablations={"from_stage4": ("fine_tune", -8.0), "from_stage3_random": ("scratch", -5.0)})
    tables = load(write_tables(tmp_path, plan))
    study = compare(tables)
    assert depths(study) == {"from_stage4": "stage4", "from_stage3_random": "stage3"}
    assert section(study) is None  # they have a section of their own
    written = tables.provenance["parameters"]["strategies"]
    written["from_stage4"]["phases"][0]["lr"]["stage4"] *= 2  # two things changed, not one
    assert depths(compare(tables)) == {"from_stage3_random": "stage3"}


def test_the_table_shows_the_other_accuracy_where_classes_are_uneven_and_rows_their_strategy(tmp_path: Path) -> None:
    heads = []
    for name, classes in (("uneven", PLAN.classes), ("even", {"a": 300, "b": 300})):
        found = section(compare(load(write_tables(tmp_path / name, replace(PLAN, classes=classes)))))
        assert found is not None
        heads.append(next(part.header for part in found.body if isinstance(part, Table)))
    assert "Balanced accuracy" in heads[0]
    assert "Balanced accuracy" not in heads[1]
    (picture,) = found.pictures
    with style.theme():
        drawing = picture.draw()
        drawing.draw_without_rendering()
    (panel,) = drawing.axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["imagenet_normalisation"] * 2
    points = panel.collections[-1]
    colours = {style.LOOKS[name][0] for name in ("last_block", "fine_tune")}
    assert {style.mpl.colors.to_hex(c).upper() for c in np.atleast_2d(points.get_edgecolors())} == colours


def test_a_study_without_ablations_has_no_section(tmp_path: Path) -> None:
    study = compare(load(write_tables(tmp_path, Plan(epochs=4))))
    assert section(study) is None
    assert best_above(study, 100) is None
