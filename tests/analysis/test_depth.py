"""Depth: which ablations make a series, what freezing costs, and how it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from analysis.findings import Numbers

from analysis import depth, findings, report
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables

# Effects in points: keeping pretrained groups frozen costs nothing up to stage 2, random ones ever more.
SERIES = Plan(
    seeds=range(6),
    ablations={
        "from_stage4": ("fine_tune", -8.0),
        "from_stage3": ("fine_tune", -5.0),
        "from_stage1": ("fine_tune", 0.0),
        "from_stage4_random": ("scratch", -12.0),
        "from_stage1_random": ("scratch", -6.0),
        "fine_tune_imagenet_normalisation": ("fine_tune", -1.0),
    },
)


def numbers_of(folder: Path, plan: Plan) -> Numbers:
    return findings.compute(load(write_tables(folder, plan)))


def test_a_series_holds_the_depths_at_the_rates_of_the_strategy_that_trains_everything(tmp_path: Path) -> None:
    written = numbers_of(tmp_path, SERIES).tables.provenance["parameters"]["strategies"]
    fine_tune = {"stage4": "from_stage4", "stage3": "from_stage3", "stage1": "from_stage1", "stem": "fine_tune"}
    scratch = {"stage4": "from_stage4_random", "stage1": "from_stage1_random", "stem": "scratch"}
    assert depth.series(written) == {"fine_tune": fine_tune, "scratch": scratch}
    assert list(depth.series(written)["fine_tune"]) == ["stage4", "stage3", "stage1", "stem"]

    other_rate = {**written["from_stage3"], "phases": [{"share": 1, "lr": {"stage3": 1.0, "stage4": 1.0, "head": 1.0}}]}
    found = depth.series({**written, "from_stage3": other_rate})
    assert "stage3" not in found["fine_tune"]  # two things changed, not one
    assert depth.series({name: written[name] for name in ("fine_tune", "from_stage4")}) == {}  # one is no series


def test_the_cost_of_freezing_is_everything_minus_the_depth_paired_by_seed(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path, SERIES)
    (found,) = depth.measured(numbers)
    row = found.summary[found.summary["strategy"] == "from_stage4"].iloc[0]
    ours = numbers.tables.ablations.query("strategy == 'from_stage4'").set_index("seed")["test_accuracy"]
    whole = numbers.tables.runs.query("strategy == 'fine_tune'").set_index("seed")["test_accuracy"]
    assert row["cost"] == pytest.approx((whole - ours).mean() * 100)
    assert row["cost_low"] > 0
    assert found.summary["k"].tolist() == [6] * 7
    assert set(found.moved["strategy"]) == set(found.summary["strategy"])


def test_the_words_say_where_freezing_costs_and_whether_the_cost_grows(tmp_path: Path) -> None:
    (found,) = depth.measured(numbers_of(tmp_path, SERIES))
    pretrained, random = depth.words(found)
    assert "groups makes no difference that shows with `stem` frozen" not in pretrained  # what costs comes first
    assert "points with `stem` to `stage2` frozen" in pretrained
    assert "makes no difference that shows with `stem` frozen" in pretrained
    assert "On average the cost grows with every group" in pretrained
    assert random.startswith("**From random weights**, freezing groups costs ")
    few = replace(SERIES, seeds=range(3))
    (found,) = depth.measured(numbers_of(tmp_path / "few", few))
    assert depth.words(found) == [
        "**From pretrained weights**: open with 3 seeds.",
        "**From random weights**: open with 3 seeds.",
    ]


def test_what_batch_norm_has_to_do_with_a_gain_of_freezing_is_told(tmp_path: Path) -> None:
    frozen = "fine_tune_batch_norm_frozen"
    gains = {"from_stage4": ("fine_tune", 10.0), "from_stage1": ("fine_tune", 2.0)}
    for effect, reading in ((18.0, "as they were is no gain"), (2.0, "is a gain too"), (10.0, "no gain from keeping")):
        plan = replace(SERIES, seeds=range(10), ablations={**gains, frozen: ("fine_tune", effect)})
        numbers = numbers_of(tmp_path / str(effect), plan)
        (found,) = depth.measured(numbers)
        means = numbers.tables.ablations.groupby("strategy")["test_accuracy"].mean() * 100
        (beside,) = found.beside
        assert (beside.ablation, beside.depth, beside.k) == (frozen, "from_stage4", 10)
        assert beside.difference == pytest.approx(means[frozen] - means["from_stage4"])
        assert depth.words(found)[1].startswith("**From pretrained weights, BatchNorm apart:**")
        assert reading in depth.words(found)[1]


def test_the_drift_of_everything_learning_is_that_of_the_seeds_shown(tmp_path: Path) -> None:
    fewer = replace(SERIES, missing=[(name, seed) for name in SERIES.ablations for seed in (4, 5)])
    numbers = numbers_of(tmp_path, fewer)
    (found,) = depth.measured(numbers)
    drift = numbers.tables.drift.query("strategy == 'fine_tune' and group == 'stem' and seed < 4")
    moved = found.moved.query("strategy == 'fine_tune' and group == 'stem'")["weight_distance"]
    assert moved.tolist() == pytest.approx([drift["weight_distance"].mean()])


def test_a_start_with_runs_of_one_depth_is_left_out(tmp_path: Path) -> None:
    first = ("from_stage1_random", "from_stage3", "from_stage1")
    one_each = replace(SERIES, missing=[(name, seed) for name in first for seed in SERIES.seeds])
    assert depth.measured(numbers_of(tmp_path / "one", one_each)) == []
    two = replace(SERIES, missing=[(name, seed) for name in first[:2] for seed in SERIES.seeds])
    (found,) = depth.measured(numbers_of(tmp_path / "two", two))
    assert set(found.summary["start"]) == set(found.runs["start"]) == {"pretrained weights"}
    assert set(found.moved["strategy"]) == {"from_stage4", "from_stage1", "fine_tune"}


def test_the_report_has_the_section_where_there_are_runs_for_it_and_not_elsewhere(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "deep", replace(SERIES, per_class=(10, 100)))
    report.write(folder)
    text = (folder / "report.md").read_text()
    assert "## Depth" in text
    assert "| pretrained weights | everything | `fine_tune` |" in text
    for name in ("depth_10.png", "depth_100.svg", "depth_drift_100.csv"):
        assert (folder / "figures" / name).stat().st_size
    report.write(write_tables(tmp_path / "flat", Plan(epochs=4)))
    assert "## Depth" not in (tmp_path / "flat" / "report.md").read_text()


def test_a_cost_that_falls_with_every_frozen_group_is_said_to_fall(tmp_path: Path) -> None:
    gains = {"from_stage4": ("fine_tune", 10.0), "from_stage3": ("fine_tune", 6.0), "from_stage1": ("fine_tune", 2.0)}
    (found,) = depth.measured(numbers_of(tmp_path, replace(SERIES, ablations=gains)))
    (pretrained,) = depth.words(found)
    assert "freezing groups gains " in pretrained
    assert "On average the cost falls with every group that is frozen." in pretrained
