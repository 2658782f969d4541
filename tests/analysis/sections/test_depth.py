"""Depth: what freezing costs at each depth, on the seeds that have it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from analysis import style
from analysis.comparison import Comparison, compare
from analysis.markdown import Table
from analysis.sections.depth import costs, section
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables

SERIES = Plan(
    epochs=4,
    seeds=range(6),
    ablations={
        "from_stage4": ("fine_tune", -8.0),
        "from_stage1": ("fine_tune", 0.0),
        "from_stage4_random": ("scratch", -12.0),
        "fine_tune_imagenet_normalisation": ("fine_tune", -1.0),
    },
)


def study_of(folder: Path, plan: Plan) -> Comparison:
    return compare(load(write_tables(folder, plan)))


def test_the_cost_is_everything_minus_the_depth_paired_by_seed(tmp_path: Path) -> None:
    study = study_of(tmp_path, SERIES)
    table = costs(study).set_index("ablation")
    assert table.index.tolist() == ["from_stage4_random", "from_stage4", "from_stage1"]
    assert table["first"].tolist() == ["stage4", "stage4", "stage1"]
    row = table.loc["from_stage4"]
    ours = study.tables.ablations.query("strategy == 'from_stage4'").set_index("seed")["test_accuracy"]
    whole = study.tables.runs.query("strategy == 'fine_tune'").set_index("seed")["test_accuracy"]
    assert row["cost"] == pytest.approx((whole - ours).mean() * 100)
    assert row["high"] > row["cost"] > row["low"] > 0
    assert row["k"] == 6


def test_everything_is_shown_on_the_seeds_of_the_depths(tmp_path: Path) -> None:
    study = study_of(tmp_path, replace(SERIES, missing=[(name, seed) for name in SERIES.ablations for seed in (4, 5)]))
    found = section(study)
    assert found is not None
    (table,) = (part for part in found.body if isinstance(part, Table))
    whole = study.tables.runs.query("strategy == 'fine_tune' and seed < 4")["test_accuracy"].mean() * 100
    assert table.rows[-1] == ("", "everything", "`fine_tune`", "4", f"{whole:.1f}", "–")


def test_the_figure_has_a_panel_a_size_and_a_place_a_frozen_group(tmp_path: Path) -> None:
    found = section(study_of(tmp_path, replace(SERIES, per_class=(10, 100))))
    assert found is not None
    (picture,) = found.pictures
    with style.theme():
        drawing = picture.draw()
        drawing.draw_without_rendering()
    assert len(drawing.axes) == 2
    assert [label.get_text() for label in drawing.axes[0].get_xticklabels()] == ["stem", "stage3"]
    (legend,) = drawing.legends
    assert [text.get_text() for text in legend.get_texts()] == ["scratch", "fine_tune"]


def test_no_figure_without_a_test_and_no_section_without_depths(tmp_path: Path) -> None:
    found = section(study_of(tmp_path / "one", replace(SERIES, seeds=(0,))))
    assert found is not None
    assert not list(found.pictures)
    assert section(study_of(tmp_path / "none", Plan(epochs=4))) is None
