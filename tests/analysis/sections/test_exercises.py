"""The textbook's exercises: a panel and a line for each that the runs can answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from analysis import style
from analysis.comparison import Comparison, compare
from analysis.markdown import Section
from analysis.sections.exercises import section
from analysis.sections.sweep import section as sweep_section
from analysis.sections.sweep import sweeps
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables

RATES = (100.0, 10.0, 1.0, 0.1)
FULL = Plan(
    epochs=4, per_class=(10, 100), sweep={"fine_tune": RATES, "fine_tune_batch_norm_train": RATES}, sweep_seeds=(0, 1)
)


def study_of(folder: Path, plan: Plan) -> Comparison:
    return compare(load(write_tables(folder, plan)))


def lines_of(found: Section | None) -> list[str]:
    assert found is not None
    return str(found.body[1]).splitlines()


def test_the_largest_size_answers_the_three_in_a_panel_and_a_short_line_each(tmp_path: Path) -> None:
    study = study_of(tmp_path, FULL)
    found = section(study)
    one, two, three = lines_of(found)
    assert found is not None
    assert "At 100 images a class" in next(found.pictures).caption
    runs = study.tables.runs.query("per_class == 100 and strategy == 'fine_tune'")
    reached = [f"{100 * runs[name].mean():.1f}" for name in ("train_accuracy", "val_accuracy")]
    assert f"`fine_tune` {' / '.join(reached)}" in two
    assert "`head`" in one
    assert "`everything` +" in one
    assert three.index("(moved too far)") < three.index("(best)") < three.index("(moved too little)")
    assert "with updated BatchNorm ×1 is the best" in three
    assert all(len(line.split()) <= 41 for line in (one, two, three))  # with the dash of the list
    (picture,) = found.pictures
    with style.theme():
        drawing = picture.draw()
        drawing.draw_without_rendering()
    titles = [panel.get_title(loc="left") for panel in drawing.axes]
    assert titles == ["1. Phases", "2. Three ways", "3. Rates"]
    assert set(picture.data["exercise"]) == {1, 2, 3}


def test_of_one_rate_alone_none_is_the_best(tmp_path: Path) -> None:
    begun = {"fine_tune": RATES, "fine_tune_batch_norm_train": (10.0,)}
    study = study_of(tmp_path, replace(FULL, sweep=begun))
    assert "updated BatchNorm" not in lines_of(section(study))[-1]
    assert set(sweeps(study)["strategy"]) == {"fine_tune"}
    curves = next(picture for picture in sweep_section(study).pictures if picture.name == "sweep_curves")
    assert set(curves.data["strategy"]) == {"fine_tune"}


@pytest.mark.parametrize(
    ("plan", "answered"),
    [
        (replace(FULL, validation=False), ["2", "3"]),
        (Plan(epochs=4), []),
        (Plan(epochs=4, strategies={"scratch": 0.6, "fine_tune": 0.8}, sweep={"scratch": RATES}), []),
        (Plan(epochs=4, strategies={"fine_tune": 0.8}, sweep={"fine_tune": RATES}), ["3"]),
    ],
)
def test_only_exercises_with_their_runs_are_answered(tmp_path: Path, plan: Plan, answered: list[str]) -> None:
    found = section(study_of(tmp_path, plan))
    if not answered:
        assert found is None
        return
    assert [line[len("- **")] for line in lines_of(found)] == answered
    assert found is not None
    with style.theme():
        assert len(next(found.pictures).draw().axes) == len(answered)
