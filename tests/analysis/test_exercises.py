"""The textbook's exercises: answered where the runs are there, in words that follow from the numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from analysis.exercises import Exercise, answered
from analysis.findings import Numbers, compute

from analysis import report
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables

FULL = Plan(sweep={"fine_tune_one_rate": (100.0, 10.0, 1.0, 0.1)}, sweep_seeds=(0, 1, 2))


def numbers_of(folder: Path, plan: Plan) -> Numbers:
    return compute(load(write_tables(folder, plan)))


def titles(exercises: list[Exercise]) -> list[str]:
    return [exercise.title.partition(":")[0] for exercise in exercises]


def test_the_report_answers_the_three_exercises_by_name(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "quick", FULL)
    report.write(folder)
    text = (folder / "report.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("## Exercise")]
    assert [heading.partition(":")[0] for heading in headings] == ["## Exercise 1", "## Exercise 2", "## Exercise 3"]


def test_an_exercise_without_its_runs_is_not_answered(tmp_path: Path) -> None:
    two = {"feature_extraction": 0.75, "fine_tune": 0.80}
    assert answered(numbers_of(tmp_path / "a", Plan(strategies=two))) == []
    three = {"scratch": 0.6, **two}
    assert titles(answered(numbers_of(tmp_path / "b", Plan(strategies=three)))) == ["Exercise 2"]
    # A sweep of a strategy with several rates is not the textbook's third.
    several = Plan(strategies=two, sweep={"fine_tune": (10.0, 1.0)})
    assert answered(numbers_of(tmp_path / "c", several)) == []
    # Nor is one of training from scratch.
    scratch = Plan(strategies={"scratch": 0.6, "feature_extraction": 0.75}, sweep={"scratch": (10.0, 1.0)})
    assert answered(numbers_of(tmp_path / "d", scratch)) == []


def test_exercise_1_says_what_each_phase_reached_and_gained(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path, FULL)
    exercise = answered(numbers)[0]
    history = numbers.tables.history
    mine = history[
        (history["strategy"] == "gradual_unfreezing") & (history["split"] == "val") & (history["metric"] == "accuracy")
    ]
    for phase in (1, 2, 3):
        of_phase = mine[mine["phase"] == phase]
        mean = 100 * of_phase[of_phase["epoch"] == of_phase["epoch"].max()]["value"].mean()
        assert f"Phase {phase} " in exercise.words[phase - 1]
        assert f"{mean:.1f}% validation accuracy" in exercise.words[phase - 1]
    assert "earned its place" in exercise.words[1]
    assert len(exercise.table.rows) == 3
    assert "adjusted (Holm) over the phases of all strategies of this size" in exercise.words[3]
    assert "(`last_block`): " in exercise.words[4]
    assert "`gradual_unfreezing` against everything learning" in exercise.words[-1]


@pytest.mark.parametrize(("seeds", "said"), [(range(3), "open with 3 seeds"), (range(10), "shown (p <0.001")])
def test_exercise_2_compares_scratch_frozen_and_fine_tuned(tmp_path: Path, seeds: range, said: str) -> None:
    numbers = numbers_of(tmp_path, replace(FULL, seeds=seeds))
    exercise = next(one for one in answered(numbers) if one.title.startswith("Exercise 2"))
    assert [row[0] for row in exercise.table.rows] == ["`scratch`", "`feature_extraction`", "`fine_tune`"]
    runs = numbers.tables.runs
    for row in exercise.table.rows:
        own = runs[runs["strategy"] == row[0].strip("`")]
        assert row[2] == f"{100 * own['train_accuracy'].mean():.1f}"
        assert row[3] == f"{100 * own['val_accuracy'].mean():.1f}"
    pivot = runs.pivot_table(index="seed", columns="strategy", values="test_accuracy")
    gain = 100 * np.mean(pivot["fine_tune"] - pivot["scratch"])
    assert f"`fine_tune` against training from scratch (`scratch`): +{gain:.1f} points" in exercise.words[1]
    assert said in exercise.words[1]
    assert exercise.words[-1].startswith("How training and validation accuracy went")


def test_exercise_2_does_not_promise_validation_curves_that_are_not_there(tmp_path: Path) -> None:
    exercise = answered(numbers_of(tmp_path, replace(FULL, validation=False)))[0]
    assert exercise.title.startswith("Exercise 2")
    assert exercise.words[-1].startswith("How training accuracy went")
    assert "no image was left for validation" in exercise.words[-1]


def test_exercise_3_says_what_went_wrong_at_each_rate(tmp_path: Path) -> None:
    exercise = answered(numbers_of(tmp_path, FULL))[-1]
    assert exercise.title.startswith("Exercise 3")
    assert "1e-2, 1e-3, 1e-4, 1e-5" in exercise.asked
    assert [line.partition(":")[0].strip("*") for line in exercise.words[:4]] == ["1e-2", "1e-3", "1e-4", "1e-5"]
    assert any("the best" in line for line in exercise.words)
    assert any("moved too far" in line for line in exercise.words)
