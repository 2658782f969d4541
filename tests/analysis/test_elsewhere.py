"""How far a verdict reaches: the same claim at other sizes and with one thing changed, counted and told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from analysis.claims import Claim, Part, Runs, judge
from analysis.elsewhere import Elsewhere, elsewhere
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables

CHANGED = "fine_tune_batch_norm_frozen"
MISTAKE = "fine_tune_imagenet_normalisation"
CLAIM = Claim(
    "rule", "a rule", "chapter 9", "quick", 100, "claims",
    (Part(Runs("feature_extraction"), Runs("fine_tune"), "test_accuracy", 1.0),),
)  # fmt: skip
PLAN = Plan(
    strategies={"feature_extraction": 0.8, "fine_tune": 0.7},
    seeds=range(10),
    ablations={CHANGED: ("fine_tune", 20.0), "from_stage4": ("fine_tune", 20.0)},
)


def found(folder: Path, plan: Plan, *claims: Claim) -> Elsewhere | None:
    tables = load(write_tables(folder, plan))
    return elsewhere(claims, judge(claims, tables), tables)


def test_a_change_that_turns_a_verdict_is_shown_and_one_of_what_learns_is_not_measured(tmp_path: Path) -> None:
    told = found(tmp_path, PLAN, CLAIM)
    assert told is not None
    assert "1 comparison. 0 read the same, 0 cannot tell, 0 decide what is open above, 1 read otherwise" in told.words
    ((claim, verdict, instead, then, why),) = told.table.rows
    assert (claim, verdict, then) == ("`rule`", "**supported**", "**refuted**")
    assert instead == f"`{CHANGED}` for `fine_tune`"
    assert why.startswith(f"The opposite holds: feature_extraction minus {CHANGED} with 100 images a class: −")


def test_what_reads_the_same_is_counted_and_a_size_without_all_its_runs_is_not(tmp_path: Path) -> None:
    milder = replace(PLAN, per_class=(10, 100), ablations={CHANGED: ("fine_tune", -2.0)})
    told = found(tmp_path / "two", milder, CLAIM)
    assert told is not None
    assert "2 comparisons. 2 read the same, 0 cannot tell, 0 decide what is open above, 0 read" in told.words
    assert told.table.rows == ()
    lacking = replace(milder, per_class=(100,), missing=[(CHANGED, 3)])
    assert found(tmp_path / "lacking", lacking, CLAIM) is None


def test_what_is_open_and_decided_elsewhere_is_counted_apart(tmp_path: Path) -> None:
    near = replace(CLAIM, parts=(Part(Runs("feature_extraction"), Runs("fine_tune"), "test_accuracy", 10.0),))
    told = found(tmp_path, PLAN, near)
    assert told is not None
    assert "1 comparison. 0 read the same, 0 cannot tell, 1 decide what is open above, 0 read otherwise" in told.words
    assert [row[1] for row in told.table.rows] == ["**open**"]


def test_a_mistake_made_on_purpose_is_no_way_to_do_it(tmp_path: Path) -> None:
    assert found(tmp_path, replace(PLAN, ablations={MISTAKE: ("fine_tune", 20.0)}), CLAIM) is None


def test_a_claim_on_one_change_is_not_measured_with_two(tmp_path: Path) -> None:
    ablations = {CHANGED: ("fine_tune", 20.0), "fine_tune_other": ("fine_tune", -20.0)}
    change = replace(CLAIM, parts=(Part(Runs(CHANGED), Runs("fine_tune"), "test_accuracy", 1.0),))
    assert found(tmp_path, replace(PLAN, ablations=ablations), change) is None


def test_claims_that_are_not_judged_here_and_those_on_rates_are_left_out(tmp_path: Path) -> None:
    rates = Part(Runs("fine_tune", 1.0), Runs("fine_tune", 100.0), "test_accuracy", 1.0)
    claims = (replace(CLAIM, study="another"), replace(CLAIM, id="rates", parts=(rates,)))
    sweep = replace(PLAN, sweep={"fine_tune": (100.0, 1.0)}, sweep_seeds=range(5))
    assert found(tmp_path, sweep, *claims) is None
