"""The lines that a reader must know, chosen by rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.comparison import Comparison, compare
from analysis.sections import trust
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables
from tests.analysis.test_comparison import MANY, TWO, compared


def said(study: Comparison, word: str) -> bool:
    return any(word in line for line in trust.lines(study))


def test_there_are_at_most_five_lines_of_at_most_25_words(tmp_path: Path) -> None:
    plan = Plan(
        seeds=(0, 1, 2, 3, 4, 5),
        overlap=0.2,
        diverged=[("fine_tune", 1)],
        missing=[("lp_ft", 3)],
        published=[{"accuracy": 88.4, "what": "a CNN", "source": "somebody"}],
    )
    lines = trust.lines(compared(tmp_path, plan))
    assert len(lines) == trust.MOST
    assert all(len(line.split()) <= 25 for line in lines), lines
    assert lines[0].startswith("**Not complete**: 1 of 42 runs are missing (final); `make study STUDY=quick`")
    assert lines[1].startswith("**5 seeds**") or lines[1].startswith("**6 seeds**")
    assert "`fine_tune` with 100 images a class (1 of" in lines[2]


def test_each_line_appears_where_it_applies_and_only_there(tmp_path: Path) -> None:
    ten = Plan(strategies=TWO, seeds=range(10), classes={"a": 300, "b": 300})
    plain = compared(tmp_path / "plain", ten)
    assert not said(plain, "exploratory")
    assert not said(plain, "uneven")
    assert not said(plain, "share")
    assert said(plain, "Rates are the textbook's, not tuned")
    assert said(plain, "8 modules have cells in both splits.")
    noted = replace(plain.tables, provenance={**plain.tables.provenance, "notes": ["laboratory pictures"]})
    assert said(compare(noted), "Laboratory pictures.")  # what the study's maker says comes first
    assert said(compared(tmp_path / "overlap", replace(ten, overlap=0.2)), "share images, up to 20% with 100 a class")
    assert said(compared(tmp_path / "uneven", replace(ten, classes={"a": 300, "b": 100})), "one answer for all")
    assert said(compared(tmp_path / "all", replace(ten, per_class=(0,))), "intervals speak of reruns")
    better = {**MANY.strategies, "fine_tune_batch_norm_train": 0.9}
    assert said(
        compared(tmp_path / "other", replace(MANY, strategies=better)), "`fine_tune_batch_norm_train`, no default"
    )


def test_where_the_head_alone_is_not_beaten_the_highest_mean_is_said_to_be_no_more(tmp_path: Path) -> None:
    same = Plan(strategies={"feature_extraction": 0.79, "fine_tune": 0.8}, seeds=range(10), run_sd=3.0)
    assert said(compared(tmp_path / "same", same), "nothing is shown to beat `feature_extraction`: `fine_tune` has")
    apart = replace(same, strategies={"feature_extraction": 0.6, "fine_tune": 0.8})
    assert not said(compared(tmp_path / "apart", apart), "nothing is shown to beat")


def test_a_rate_of_a_sweep_that_beats_the_tuned_one_is_told(tmp_path: Path) -> None:
    swept = {"feature_extraction": (10, 1, 0.1)}  # planted with 79% at ×1, the final runs with 75
    plan = Plan(strategies=TWO, seeds=range(10), sweep=swept, sweep_seeds=range(10), run_sd=0.3)
    tables = load(write_tables(tmp_path, plan))
    assert not said(compare(tables), "owed to an unlucky rate")  # its rates are the textbook's, and said to be no more
    study = {**tables.provenance["parameters"]["study"], "learning_rates": "tuned"}
    parameters = {**tables.provenance["parameters"], "study": study}
    tuned = compare(replace(tables, provenance={**tables.provenance, "parameters": parameters}))
    (line,) = [line for line in trust.lines(tuned) if "its place is owed to an unlucky rate" in line]
    assert line.startswith("`feature_extraction` at 1e-3 gets +"), line
    assert len(line.split()) <= 25


def test_few_judged_images_are_told(tmp_path: Path) -> None:
    tables = load(write_tables(tmp_path, Plan(strategies=TWO, seeds=range(10))))

    def tuned(of: int) -> Comparison:
        tried: dict[str, Any] = {"100": {"fine_tune": {"tried": {"1": {"right": 30, "of": of, "log_loss": 0.5}}}}}
        parameters = tables.provenance["parameters"]
        study = {**parameters["study"], "learning_rates": "tuned"}
        parameters = {**parameters, "study": study, "tried": tried}
        return compare(replace(tables, provenance={**tables.provenance, "parameters": parameters}))

    assert said(tuned(40), "only 40 predictions (100 images a class)")
    assert not said(tuned(200), "unlucky rate")
    assert not said(tuned(200), "not tuned")


def test_rates_of_another_study_are_told(tmp_path: Path) -> None:
    tables = load(write_tables(tmp_path, Plan(strategies=TWO, seeds=range(10))))
    assert not said(compare(tables), "Rates are those tuned in study")
    study = {**tables.provenance["parameters"]["study"], "rates_from": "elpv"}
    parameters = {**tables.provenance["parameters"], "study": study}
    taken = compare(replace(tables, provenance={**tables.provenance, "parameters": parameters}))
    assert said(taken, "Rates are those tuned in study `elpv`: with ones tuned here the order may change.")
