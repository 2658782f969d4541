"""Verdicts: a planted effect is found, a null is not, divergence is not rewarded, and what can't be judged says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis import tables
from analysis.claims import Claim, ClaimsError, Described, Part, Runs, judge, load_claims
from analysis.ledger import ledger
from tests.analysis.conftest import Plan, write_tables

FIELDS = {
    "id", "rule", "source", "condition", "effect", "low", "high", "p_holm", "margin", "verdict", "reason", "needs",
}  # fmt: skip
TEN = tuple(range(10))


def claim(better: str | Runs, worse: str | Runs, margin: float = 1.0, name: str = "c", **changes: Any) -> Claim:
    sides = [Runs(side) if isinstance(side, str) else side for side in (better, worse)]
    part = Part(sides[0], sides[1], changes.pop("metric", "test_accuracy"), margin, changes.pop("minus_at", None))
    return replace(Claim(name, "a rule", "chapter 9", "quick", 100, "claims", (part,)), **changes)


def frames(tmp_path: Path, plan: Plan) -> dict[str, pd.DataFrame]:
    return dict(tables.load(write_tables(tmp_path / "tables", plan)).frames())


def only(claims: list[Claim], given: dict[str, pd.DataFrame]) -> dict[str, Any]:
    (entry,) = judge(claims, given, "quick")
    return entry


def planted(points: float, seeds: tuple[int, ...] = TEN, **changes: Any) -> Plan:
    return Plan(strategies={"feature_extraction": 0.7, "fine_tune": 0.7 + points / 100}, seeds=seeds, **changes)


def test_a_planted_effect_is_found_and_its_numbers_are_scipys(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(8))
    entry = only([claim("fine_tune", "feature_extraction")], given)
    runs = given["runs"].pivot_table(index="seed", columns="strategy", values="test_accuracy") * 100
    expected = stats.ttest_1samp(runs["fine_tune"] - runs["feature_extraction"], 1.0)
    assert set(entry) == FIELDS
    assert entry["verdict"] == "supported"
    assert entry["p_holm"] == pytest.approx(expected.pvalue)
    assert (entry["low"], entry["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_a_claim_waits_for_all_its_declared_seeds(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(8, missing=[("fine_tune", 9)]))
    lacking = claim("fine_tune", "feature_extraction", name="lacking")
    complete = claim("feature_extraction", "feature_extraction", metric="gap", name="complete")
    entry = only([lacking], given)
    assert entry["verdict"] == "not tested"
    assert entry["p_holm"] is None
    assert entry["reason"] == "runs are missing: fine_tune at 100 images a class (9 of 10 seeds)"
    assert {e["id"]: e["verdict"] for e in judge([lacking, complete], given, "quick")}["complete"] != "not tested"


def test_an_effect_at_the_margin_stays_open_and_says_what_it_would_need(tmp_path: Path) -> None:
    entry = only([claim("fine_tune", "feature_extraction", margin=0.5)], frames(tmp_path, planted(0.5, run_sd=1.5)))
    assert entry["verdict"] == "open"
    assert "seeds" in entry["needs"]
    assert "four times in five" in entry["needs"]


def test_the_opposite_of_a_rule_refutes_it_and_so_does_an_effect_under_the_margin(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(4))
    opposite = only([claim("feature_extraction", "fine_tune")], given)
    assert opposite["verdict"] == "refuted"
    assert "the opposite holds" in opposite["reason"]
    small = only([claim("fine_tune", "feature_extraction", margin=15)], given)
    assert small["verdict"] == "refuted"
    assert "under the margin" in small["reason"]
    behind = only([claim("feature_extraction", "fine_tune", margin=-1)], given)
    assert behind["verdict"] == "refuted"
    assert behind["reason"].startswith("it falls behind by more than the 1 that the rule allows: ")
    assert "margin −1" in behind["reason"]


def test_fewer_than_five_seeds_leave_every_claim_open_and_five_are_exploratory(tmp_path: Path) -> None:
    asked = [claim("fine_tune", "feature_extraction")]
    four = only(asked, frames(tmp_path / "4", planted(15, seeds=(0, 1, 2, 3))))
    assert (four["verdict"], four["p_holm"]) == ("open", None)
    five = only(asked, frames(tmp_path / "5", planted(15, seeds=(0, 1, 2, 3, 4))))
    assert five["verdict"] == "supported"
    assert "exploratory" in five["reason"]
    ten = only(asked, frames(tmp_path / "10", planted(15)))
    assert "exploratory" not in ten["reason"]


def test_a_diverged_strategy_is_not_rewarded_and_is_flagged(tmp_path: Path) -> None:
    plan = planted(3, diverged=[("fine_tune", seed) for seed in range(3)])
    entry = only([claim("fine_tune", "feature_extraction")], frames(tmp_path, plan))
    assert entry["verdict"] != "supported"
    assert "3 of 10 runs of fine_tune diverged" in entry["reason"]


def test_p_values_are_corrected_within_a_family_over_the_tested_claims_alone(tmp_path: Path) -> None:
    names = {"scratch": 0.70, "feature_extraction": 0.715, "last_block": 0.72, "fine_tune": 0.71}
    given = frames(tmp_path, Plan(strategies=names, seeds=TEN))
    asked = [claim(name, "scratch", 0.0, name) for name in names if name != "scratch"]
    lone = claim("fine_tune", "last_block", 0.0, "lone", family="exploratory")
    absent = claim("fine_tune", "nobody", 0.0, "absent")
    entries = {entry["id"]: entry for entry in judge([*asked, lone, absent], given, "quick")}
    wide = given["runs"].pivot_table(index="seed", columns="strategy", values="test_accuracy") * 100
    raw = [stats.ttest_1samp(wide[c.id] - wide["scratch"], 0).pvalue for c in asked]
    expected = multipletests(raw, method="holm")[1]
    assert [entries[c.id]["p_holm"] for c in asked] == pytest.approx(list(expected))
    alone = stats.ttest_1samp(wide["fine_tune"] - wide["last_block"], 0).pvalue
    assert entries["lone"]["p_holm"] == pytest.approx(alone)
    assert entries["absent"]["verdict"] == "not tested"
    assert "nobody at 100 images a class (not declared)" in entries["absent"]["reason"]


def test_a_claim_of_two_parts_takes_the_larger_p_and_falls_with_either(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(8))
    true = claim("fine_tune", "feature_extraction").parts[0]
    false = replace(true, better=true.worse, worse=true.better)
    both = only([replace(claim("fine_tune", "feature_extraction"), parts=(true, true))], given)
    assert both["verdict"] == "supported"
    mixed = only([replace(claim("fine_tune", "feature_extraction"), parts=(true, false))], given)
    assert mixed["verdict"] == "refuted"


def test_a_change_of_a_difference_with_size_is_judged_seed_by_seed(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(8, per_class=(10, 100)))
    entry = only([claim("fine_tune", "feature_extraction", 0.0, per_class=10, minus_at=100)], given)
    wide = given["runs"].pivot_table(index="seed", columns=["strategy", "per_class"], values="test_accuracy") * 100
    at = {size: wide["fine_tune", size] - wide["feature_extraction", size] for size in (10, 100)}
    assert entry["effect"] == pytest.approx((at[10] - at[100]).mean())


def test_sweeps_and_drift_are_compared_at_their_scale_and_group(tmp_path: Path) -> None:
    plan = planted(3, sweep={"fine_tune_one_rate": (100.0, 1.0)}, sweep_seeds=TEN)
    given = frames(tmp_path, plan)
    fast, usual = Runs("fine_tune_one_rate", 100.0), Runs("fine_tune_one_rate", 1.0)
    assert only([claim(usual, fast, 5.0)], given)["verdict"] == "supported"
    moved = given["drift"].query("strategy == 'fine_tune' and role == 'final'")
    last = moved[moved["phase"] == moved["phase"].max()].pivot_table(
        index="seed", columns="group", values="weight_distance"
    )
    entry = only(
        [claim(Runs("fine_tune", group="stage4"), Runs("fine_tune", group="stem"), 0.0, metric="drift")], given
    )
    assert entry["effect"] == pytest.approx(100 * (last["stage4"] - last["stem"]).mean())


def test_claims_of_other_studies_are_not_tested_and_say_where_they_are(tmp_path: Path) -> None:
    entry = only([claim("fine_tune", "feature_extraction", study="cifar10")], frames(tmp_path, planted(8)))
    assert entry["verdict"] == "not tested"
    assert "cifar10" in entry["reason"] + entry["needs"]
    assert (entry["effect"], entry["p_holm"]) == (None, None)


def test_identical_differences_are_open_and_a_missing_value_is_refused(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(8))
    same = given["runs"].copy()
    same["test_accuracy"] = same["strategy"].map({"fine_tune": 0.8, "feature_extraction": 0.7})
    entry = only([claim("fine_tune", "feature_extraction")], {**given, "runs": same})
    assert entry["verdict"] == "open"
    assert "identical" in entry["reason"]
    holed = given["runs"].copy()
    holed.loc[holed.index[0], "test_accuracy"] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        judge([claim("fine_tune", "feature_extraction")], {**given, "runs": holed}, "quick")


def test_the_ledger_holds_the_textbooks_rules_with_at_most_eight_primary_ones() -> None:
    claims = load_claims()
    primary = [entry for entry in claims if entry.family == "claims"]
    assert 1 <= len(primary) <= 8
    assert all(entry.study == "cifar10" for entry in primary)
    assert len({entry.id for entry in claims}) == len(claims) >= 20
    assert all(entry.rule.endswith(".") and entry.source for entry in claims)


@pytest.mark.parametrize(("change", "message"), [
    ("family: claims", "no family"), ("study:", "missing study"), ("metric: test_accuracy", "no metric"),
    ("id: two", "given twice"),
])  # fmt: skip
def test_mistakes_in_the_ledger_are_refused(tmp_path: Path, change: str, message: str) -> None:
    entry = (
        "- id: {name}\n  rule: A rule.\n  source: s\n  study: quick\n  per_class: 100\n  family: claims\n"
        "  parts: [{{better: a, worse: b, metric: test_accuracy, margin: 1}}]\n"
    )
    text = entry.format(name="one") + entry.format(name="two")
    broken = {
        "family: claims": ("family: claims", "family: cliams"),
        "study:": ("  study: quick\n", ""),
        "metric: test_accuracy": ("metric: test_accuracy", "metric: accuracy"),
        "id: two": ("id: two", "id: one"),
    }[change]
    path = tmp_path / "claims.yaml"
    path.write_text(text.replace(*broken))
    with pytest.raises(ClaimsError, match=message):
        load_claims(path)


def test_more_than_eight_primary_claims_are_refused(tmp_path: Path) -> None:
    text = "".join(
        f"- {{id: c{n}, rule: A., source: s, study: quick, per_class: 1, family: claims, "
        "parts: [{better: a, worse: b, metric: gap, margin: 1}]}\n"
        for n in range(9)
    )
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(ClaimsError, match="9 primary claims; at most 8"):
        load_claims(path)


def test_a_verdict_given_while_others_wait_says_that_it_may_not_stand(tmp_path: Path) -> None:
    first, second = claim("fine_tune", "feature_extraction"), claim("lp_ft", "fine_tune", name="later")
    given = frames(tmp_path, planted(8))
    words = ledger([*judge([first, second], given, "quick")], [first, second], "quick").parts[0].words
    assert "1 more waits for its runs" in words
    assert "may become open" in words
    assert "wait" not in ledger(judge([first], given, "quick"), [first], "quick").parts[0].words


def test_a_description_says_that_a_best_rate_lies_at_the_edge_of_those_tried(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(8))
    pilots = [
        {"strategy": name, "per_class": 100, "lr_scale": scale, "val_accuracy": 0.5 + (scale == best), "log_loss": 1.0}
        for name, best in (("fine_tune", 1.0), ("feature_extraction", 10.0))
        for scale in (0.1, 1.0, 10.0)
    ]
    rates = Described("feature_extraction", 1e-3, "fine_tune", 1e-4)
    entry = replace(claim("fine_tune", "feature_extraction"), parts=(), described=rates)
    (row,) = judge([entry], {**given, "tune": pd.DataFrame(pilots)}, "quick")
    assert "of feature_extraction was 1.0e-02, of fine_tune 1.0e-04, a ratio of 100, within 10 to 100" in row["reason"]
    assert row["reason"].endswith("the rate of feature_extraction lies at the edge of those tried")
    both = [{**pilot, "val_accuracy": pilot["lr_scale"]} for pilot in pilots]
    (row,) = judge([entry], {**given, "tune": pd.DataFrame(both)}, "quick")
    assert row["reason"].endswith("so that this is the ratio of the rates as written, and the best one is not known")


def test_a_gap_says_what_training_and_test_accuracy_have_to_do_with_it(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(8))
    entry = only([claim("fine_tune", "feature_extraction", metric="gap")], given)
    runs = given["runs"].pivot_table(index="seed", columns="strategy", values=["train_accuracy", "test_accuracy"]) * 100
    halves = {
        which: (runs[which]["fine_tune"] - runs[which]["feature_extraction"]).mean()
        for which in ("train_accuracy", "test_accuracy")
    }
    assert entry["effect"] == pytest.approx(halves["train_accuracy"] - halves["test_accuracy"])
    said = "made of {train_accuracy:+.2f} of training accuracy and {test_accuracy:+.2f} of test accuracy"
    assert said.format(**halves).replace("-", "−") in entry["reason"]


def test_the_unit_of_drift_says_whose_starting_length(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(3, sweep={"fine_tune_one_rate": (100.0, 1.0)}, sweep_seeds=TEN))
    groups = claim(Runs("fine_tune", group="stage4"), Runs("fine_tune", group="stem"), 0.0, metric="drift")
    assert "percent of a group's starting length over 10 seeds" in only([groups], given)["reason"]
    rates = claim(Runs("fine_tune_one_rate", 100.0), Runs("fine_tune_one_rate", 1.0), 0.0, metric="drift")
    assert "starting length, on average over the backbone's groups over 10 seeds" in only([rates], given)["reason"]


def test_what_had_been_seen_when_a_rule_was_written_stands_beside_its_verdict(tmp_path: Path) -> None:
    seen = claim("fine_tune", "feature_extraction", known="written when fine_tune had been published")
    shown = ledger(judge([seen], frames(tmp_path, planted(8)), "quick"), [seen], "quick").parts[0]
    assert shown.table.rows[0][-1].endswith("Written when fine_tune had been published.")
    assert shown.words.startswith("1 supported, 0 refuted, 0 open. ")
