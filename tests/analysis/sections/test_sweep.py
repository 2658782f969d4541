"""Sweeps: what went wrong at each rate, the best rate beside the strategies, and what the section shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis import style
from analysis.comparison import Comparison, compare
from analysis.paired import ends
from analysis.sections.sweep import best_above, best_rate_gain, rate_ticks, section, sweeps
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables

TWO = {"scratch": 0.66, "fine_tune": 0.80}
SWEEP = {"fine_tune_one_rate": (100.0, 10.0, 1.0, 0.1)}
SWEPT = Plan(strategies=TWO, sweep=SWEEP, epochs=4)


def study_of(folder: Path, plan: Plan) -> Comparison:
    return compare(load(write_tables(folder, plan)))


def test_what_went_wrong_follows_from_accuracy_drift_and_training(tmp_path: Path) -> None:
    study = study_of(tmp_path, SWEPT)
    table = sweeps(study)
    assert table["what"].tolist() == ["moved too far", "moved too far", "best", "moved too little"]
    assert table["label"].tolist() == ["1e-2", "1e-3", "1e-4", "1e-5"]
    assert table["k"].tolist() == [2] * 4
    runs = study.tables.sweep.query("lr_scale == 10")
    drift = study.tables.drift.query("role == 'sweep' and lr_scale == 10 and group != 'head'")
    row = table[table["scale"] == 10].iloc[0]
    assert row["judged"] == pytest.approx(100 * runs["test_accuracy"].mean())
    assert row["val"] == pytest.approx(100 * runs["val_accuracy"].mean())
    assert row["drift"] == pytest.approx(drift["weight_distance"].mean())
    assert sweeps(study) is table  # computed once


def test_a_rate_that_does_not_fit_too_far_or_too_little_is_only_worse(tmp_path: Path) -> None:
    tables = load(write_tables(tmp_path, SWEPT))
    still = tables.drift.assign(weight_distance=tables.drift["weight_distance"] * 0)  # nothing moved: no ratio
    table = sweeps(compare(replace(tables, drift=still)))
    assert table["what"].tolist() == ["worse", "worse", "best", "worse"]


def test_of_many_seeds_one_that_is_no_lower_does_not_hide_a_clear_difference(tmp_path: Path) -> None:
    tables = load(write_tables(tmp_path, replace(SWEPT, sweep_seeds=range(10), seeds=range(10))))
    lucky = (tables.sweep["lr_scale"] == 100) & (tables.sweep["seed"] == 3)
    judged = tables.sweep["judged"].where(~lucky, 1.0)  # one run of the worst rate gets everything right
    what = sweeps(compare(replace(tables, sweep=tables.sweep.assign(judged=judged))))["what"].tolist()
    assert what == ["moved too far", "moved too far", "best", "moved too little"]


def test_validation_chooses_the_best_rate_and_the_images_that_judge_say_how_far_others_fall_behind(
    tmp_path: Path,
) -> None:
    tables = load(write_tables(tmp_path, SWEPT))
    val = tables.sweep["val_accuracy"].where(tables.sweep["lr_scale"] == 1, 0.5)  # all but equal
    table = sweeps(compare(replace(tables, sweep=tables.sweep.assign(val_accuracy=val.clip(0.5, 0.501)))))
    assert table["what"].tolist() == ["moved too far", "moved too far", "best", "moved too little"]


def test_a_rate_at_which_a_run_diverged_is_never_the_best(tmp_path: Path) -> None:
    table = sweeps(study_of(tmp_path / "a", replace(SWEPT, sweep_diverged=(100.0, 1.0))))
    assert table["what"].tolist() == ["diverged", "best", "diverged", "moved too little"]
    every = study_of(tmp_path / "b", replace(SWEPT, sweep_diverged=SWEEP["fine_tune_one_rate"]))
    assert set(sweeps(every)["what"]) == {"diverged"}
    assert best_rate_gain(every, 100, "fine_tune_one_rate", "fine_tune") is None
    found = section(every)
    assert found is not None
    with style.theme():
        for picture in found.pictures:
            picture.draw().draw_without_rendering()


def test_of_equal_rates_the_smaller_is_the_best_and_stands_at_the_edge(tmp_path: Path) -> None:
    tables = load(write_tables(tmp_path, replace(SWEPT, sweep={"fine_tune_one_rate": (3.0, 1.0)})))
    study = compare(replace(tables, sweep=tables.sweep.assign(val_accuracy=0.7)))
    assert sweeps(study)["what"].tolist() == ["no clear difference", "best"]
    found = section(study)
    assert found is not None
    assert "best, at the edge" in str(found.body)


def test_without_validation_the_judged_accuracy_chooses_and_the_section_says_so(tmp_path: Path) -> None:
    study = study_of(tmp_path, replace(SWEPT, validation=False, judge_by="balanced_accuracy"))
    table = sweeps(study)
    assert table["what"].tolist().index("best") == int(np.argmax(table["judged"]))
    found = section(study)
    assert found is not None
    assert "balanced accuracy, for want of validation" in str(found.body[-1])
    with style.theme():
        for picture in found.pictures:
            picture.draw().draw_without_rendering()


def test_the_best_rate_is_paired_with_a_strategy_of_its_size(tmp_path: Path) -> None:
    study = study_of(tmp_path, SWEPT)
    ours = study.tables.sweep.query("lr_scale == 1").set_index("seed")["test_accuracy"]
    theirs = study.tables.runs.query("strategy == 'scratch'").set_index("seed")["test_accuracy"]
    gain = best_rate_gain(study, 100, "fine_tune_one_rate", "scratch")
    assert gain is not None
    assert gain.k == 2
    assert gain.difference == pytest.approx(100 * (ours - theirs).dropna().mean())


@pytest.mark.parametrize(
    ("accuracy", "seeds", "above"), [(0.70, range(5), True), (0.70, range(4), False), (0.90, range(5), False)]
)
def test_a_rate_is_above_where_five_seeds_show_it(tmp_path: Path, accuracy: float, seeds: range, above: bool) -> None:
    plan = replace(SWEPT, strategies={"scratch": 0.5, "fine_tune": accuracy}, sweep_seeds=seeds, run_sd=0.3)
    study = study_of(tmp_path, plan)
    found = best_above(study, 100)
    assert (found is not None) == above
    if found is not None:
        name, gain = found
        assert (name, gain.k) == ("`fine_tune_one_rate` at 1e-4", 5)
        assert gain == best_rate_gain(study, 100, "fine_tune_one_rate", "fine_tune")
        assert gain.low > 0


def test_scales_stand_for_rates_where_strategies_have_others_at_one_scale(tmp_path: Path) -> None:
    plan = replace(SWEPT, sweep={"fine_tune_one_rate": (10.0, 1.0), "scratch": (10.0, 3.0)}, per_class=(10, 100))
    study = study_of(tmp_path, plan)
    assert rate_ticks(study) == ["1e-4", "3e-3", "×10"]
    assert study.drawn == ("scratch", "fine_tune", "fine_tune_one_rate")
    found = section(study)
    assert found is not None
    assert [part.name for part in found.pictures] == ["sweep_rates", "sweep_curves"]
    with style.theme():
        rates, curves = (picture.draw() for picture in found.pictures)
        assert len(rates.axes) == 4  # a row a size
        assert len(curves.axes) == 8  # a row a sweep
        (legend,) = rates.legends
    assert [text.get_text() for text in legend.get_texts()] == ["scratch", "fine_tune_one_rate"]


def test_bands_are_the_intervals_of_the_tables(tmp_path: Path) -> None:
    table = sweeps(study_of(tmp_path, replace(SWEPT, sweep_seeds=range(4), overlap=0.2)))
    runs = load(tmp_path).sweep.query("lr_scale == 1")["test_accuracy"] * 100
    assert ends(0.2)(runs) == pytest.approx(tuple(table.loc[table["scale"] == 1, ["low", "high"]].iloc[0]))


def test_a_study_without_sweeps_has_no_section(tmp_path: Path) -> None:
    study = study_of(tmp_path, Plan(strategies=TWO, epochs=4))
    assert section(study) is None
    assert best_above(study, 100) is None
