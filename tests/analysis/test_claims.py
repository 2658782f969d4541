"""Verdicts: a planted effect is found, a null is not, divergence is not rewarded, and what can't be judged says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from analysis import tables
from analysis.claims import Claim, ClaimsError, Described, Part, Runs, load_claims
from analysis.tables import Tables
from analysis.verdicts import judge
from tests.analysis.conftest import Plan, write_tables

FIELDS = {
    "id", "rule", "source", "condition", "effect", "low", "high", "p_adjusted", "margin", "verdict", "reason", "needs",
}  # fmt: skip
TEN = tuple(range(10))


def claim(better: str | Runs, worse: str | Runs, margin: float = 1.0, name: str = "c", **changes: Any) -> Claim:
    sides = [Runs(side) if isinstance(side, str) else side for side in (better, worse)]
    part = Part(sides[0], sides[1], changes.pop("metric", "test_accuracy"), margin, changes.pop("minus_at", None))
    return replace(Claim(name, "a rule", "chapter 9", "quick", 100, "claims", (part,)), **changes)


def frames(tmp_path: Path, plan: Plan) -> Tables:
    return tables.load(write_tables(tmp_path / "tables", plan))


def only(claims: list[Claim], given: Tables) -> dict[str, Any]:
    (entry,) = judge(claims, given)
    return entry


def planted(points: float, seeds: tuple[int, ...] = TEN, **changes: Any) -> Plan:
    return Plan(strategies={"feature_extraction": 0.7, "fine_tune": 0.7 + points / 100}, seeds=seeds, **changes)


def test_a_planted_effect_is_found_and_its_numbers_are_scipys(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(8))
    entry = only([claim("fine_tune", "feature_extraction")], given)
    runs = given.runs.pivot_table(index="seed", columns="strategy", values="test_accuracy") * 100
    expected = stats.ttest_1samp(runs["fine_tune"] - runs["feature_extraction"], 1.0)
    assert set(entry) == FIELDS
    assert entry["verdict"] == "supported"
    assert entry["p_adjusted"] == pytest.approx(expected.pvalue)
    assert (entry["low"], entry["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_a_claim_waits_for_all_its_declared_seeds(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(8, missing=[("fine_tune", 9)]))
    lacking = claim("fine_tune", "feature_extraction", name="lacking")
    complete = claim("feature_extraction", "feature_extraction", metric="gap", name="complete")
    entry = only([lacking], given)
    assert entry["verdict"] == "not tested"
    assert entry["p_adjusted"] is None
    assert entry["reason"] == "runs are missing: fine_tune at 100 images a class (9 of 10 seeds)"
    assert {e["id"]: e["verdict"] for e in judge([lacking, complete], given)}["complete"] != "not tested"


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


def test_fewer_than_five_seeds_leave_every_claim_open_and_five_are_exploratory(tmp_path: Path) -> None:
    asked = [claim("fine_tune", "feature_extraction")]
    four = only(asked, frames(tmp_path / "4", planted(15, seeds=(0, 1, 2, 3))))
    assert (four["verdict"], four["p_adjusted"]) == ("open", None)
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


def test_a_side_that_is_not_shown_to_beat_one_answer_for_all_is_flagged(tmp_path: Path) -> None:
    chance = Plan(strategies={"scratch": 0.65, "fine_tune": 0.8}, seeds=range(10))  # the largest class: 65.7%
    entry = only([claim("fine_tune", "scratch")], frames(tmp_path, chance))
    assert entry["verdict"] == "supported"
    assert entry["reason"].endswith("; scratch is not shown to beat one answer for all")


def test_p_values_are_multiplied_by_the_number_declared_of_a_family_whatever_ran(tmp_path: Path) -> None:
    names = {"scratch": 0.70, "feature_extraction": 0.715, "last_block": 0.72, "fine_tune": 0.71}
    given = frames(tmp_path, Plan(strategies=names, seeds=TEN))
    asked = [claim(name, "scratch", 0.0, name) for name in names if name != "scratch"]
    lone = claim("fine_tune", "last_block", 0.0, "lone", family="exploratory")
    away = [claim("a", "b", name=family, study="cifar10", family=family) for family in ("claims", "exploratory")]
    absent = claim("fine_tune", "nobody", 0.0, "absent")
    entries = {entry["id"]: entry for entry in judge([*asked, lone, absent, *away], given)}
    wide = given.runs.pivot_table(index="seed", columns="strategy", values="test_accuracy") * 100
    raw = [stats.ttest_1samp(wide[c.id] - wide["scratch"], 0).pvalue for c in asked]
    # Five primary ones are declared: three here, one without runs, one of another study.
    assert [entries[c.id]["p_adjusted"] for c in asked] == pytest.approx([min(5 * p, 1) for p in raw])
    alone = stats.ttest_1samp(wide["fine_tune"] - wide["last_block"], 0).pvalue
    assert entries["lone"]["p_adjusted"] == pytest.approx(alone)
    assert entries["absent"]["verdict"] == "not tested"
    assert "nobody at 100 images a class (not declared)" in entries["absent"]["reason"]


def test_an_exploratory_claim_without_runs_is_outside_its_family(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(3))
    here = claim("fine_tune", "feature_extraction", family="exploratory")
    absent = claim("fine_tune", "nobody", name="absent", family="exploratory")
    both = judge([here, absent], given)
    assert both[0] == only([here], given)
    assert both[1]["verdict"] == "not tested"


def test_the_judged_metric_is_the_accuracy_of_the_study(tmp_path: Path) -> None:
    for judge_by, column in (("balanced_accuracy", "balanced_accuracy"), ("accuracy", "test_accuracy")):
        given = frames(tmp_path / column, planted(8, judge_by=judge_by))
        entry = only([claim("fine_tune", "feature_extraction", metric="judged")], given)
        wide = given.runs.pivot_table(index="seed", columns="strategy", values=column) * 100
        assert entry["effect"] == pytest.approx((wide["fine_tune"] - wide["feature_extraction"]).mean())
        assert f"points of {column.replace('_', ' ')}, 10 seeds" in entry["reason"]


def test_overlapping_draws_widen_intervals_and_raise_p_and_the_seeds_that_are_needed(tmp_path: Path) -> None:
    asked = [claim("fine_tune", "feature_extraction", margin=0.0)]
    given = frames(tmp_path, planted(1.0, overlap=0.2))
    entry = only(asked, given)
    d = 100 * given.runs.pivot_table(index="seed", columns="strategy", values="test_accuracy")
    d = d["fine_tune"] - d["feature_extraction"]
    error = np.sqrt((1 + 9 * 0.2) / 0.8 / 10) * d.std()
    assert entry["p_adjusted"] == pytest.approx(2 * stats.t.sf(abs(d.mean()) / error, 9))
    assert entry["high"] == pytest.approx(d.mean() + stats.t.ppf(0.975, 9) * error)
    assert entry["verdict"] == "open"
    assert "no number of seeds from this pool is enough" in entry["needs"]


def test_a_change_with_size_takes_the_overlap_of_the_larger_size(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(8, per_class=(10, 100)))
    given.provenance["dataset"]["overlap"] = {"10": 0.02, "100": 0.2}
    entry = only([claim("fine_tune", "feature_extraction", 0.0, per_class=10, minus_at=100)], given)
    wide = given.runs.pivot_table(index="seed", columns=["strategy", "per_class"], values="test_accuracy") * 100
    at = {size: wide["fine_tune", size] - wide["feature_extraction", size] for size in (10, 100)}
    d = at[10] - at[100]
    half = stats.t.ppf(0.975, 9) * np.sqrt((1 + 9 * 0.2) / 0.8 / 10) * d.std()
    assert (entry["effect"], entry["high"] - entry["low"]) == pytest.approx((d.mean(), 2 * half))


@pytest.mark.parametrize(("changes", "why"), [
    ({"overlap": 0.6}, "two draws of 100 images a class share 60% of their images: this pool is too small"),
    ({"per_class": (0,)}, "with all images every seed trains on the same ones"),
])  # fmt: skip
def test_claims_on_data_are_not_tested_where_draws_are_the_same_images(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    given = frames(tmp_path, planted(8, **changes))
    size = int(given.runs["per_class"].iloc[0])
    entry = only([claim("fine_tune", "feature_extraction", per_class=size)], given)
    assert (entry["verdict"], entry["effect"], entry["p_adjusted"]) == ("not tested", None, None)
    assert entry["reason"].startswith(why)


def test_no_difference_is_a_claim_that_two_one_sided_tests_support_and_a_two_sided_one_refutes(tmp_path: Path) -> None:
    def within(margin: float, given: Tables) -> dict[str, Any]:
        entry = claim("fine_tune", "feature_extraction", margin)
        return only([replace(entry, parts=(replace(entry.parts[0], kind="within"),))], given)

    alike, apart = (frames(tmp_path / str(points), planted(points, run_sd=0.5)) for points in (0.0, 4.0))
    shown = within(2.0, alike)
    wide = alike.runs.pivot_table(index="seed", columns="strategy", values="test_accuracy") * 100
    expected = ttost_paired(wide["fine_tune"], wide["feature_extraction"], -2.0, 2.0)[0]
    assert (shown["verdict"], shown["p_adjusted"]) == ("supported", pytest.approx(expected))
    refuted = within(2.0, apart)
    wide = apart.runs.pivot_table(index="seed", columns="strategy", values="test_accuracy") * 100
    expected = stats.ttest_1samp(wide["fine_tune"] - wide["feature_extraction"], 2.0).pvalue
    assert (refuted["verdict"], refuted["p_adjusted"]) == ("refuted", pytest.approx(expected))
    assert refuted["reason"].startswith("the difference is larger than 2: ")
    undecided = within(4.0, apart)
    assert undecided["verdict"] == "open"
    assert "between no difference and the margin" in undecided["needs"]


def test_equivalence_is_written_in_place_of_a_margin(tmp_path: Path) -> None:
    entry = (
        "- {id: c, rule: A., source: s, study: quick, per_class: 1, family: claims, "
        "parts: [{better: a, worse: b, metric: judged, HOW}]}\n"
    )
    path = tmp_path / "claims.yaml"
    path.write_text(entry.replace("HOW", "equivalent: 1"))
    ((part,),) = (one.parts for one in load_claims(path))
    assert (part.kind, part.margin) == ("within", 1.0)
    for how, message in (
        ("equivalent: 1, margin: 1", "either margin or equivalent"),
        ("equivalent: 0", "has to be above 0"),
        ("minus_at: 1", "either margin or equivalent"),
    ):
        path.write_text(entry.replace("HOW", how))
        with pytest.raises(ClaimsError, match=message):
            load_claims(path)


def test_a_claim_of_two_parts_takes_the_larger_p_and_falls_with_either_at_twice_its_p(tmp_path: Path) -> None:
    strategies = {"scratch": 0.715, "feature_extraction": 0.7, "fine_tune": 0.78}
    given = frames(tmp_path, Plan(strategies=strategies, seeds=TEN))
    wide = given.runs.pivot_table(index="seed", columns="strategy", values="test_accuracy") * 100

    def p(better: str, worse: str) -> float:
        return float(stats.ttest_1samp(wide[better] - wide[worse], 1.0).pvalue)

    def both(*sides: tuple[str, str]) -> dict[str, Any]:
        parts = tuple(claim(better, worse).parts[0] for better, worse in sides)
        # Another primary claim that is declared doubles whatever p counts.
        return judge([replace(claim("a", "b"), parts=parts), claim("a", "b", name="other", study="away")], given)[0]

    clear, weak, wrong = (
        ("fine_tune", "feature_extraction"),
        ("scratch", "feature_extraction"),
        ("scratch", "fine_tune"),
    )
    entry = both(clear, ("fine_tune", "scratch"))
    assert entry["verdict"] == "supported"
    assert entry["p_adjusted"] == pytest.approx(2 * max(p(*clear), p("fine_tune", "scratch")))
    entry = both(clear, wrong)
    assert entry["verdict"] == "refuted"
    assert entry["p_adjusted"] == pytest.approx(2 * 2 * p(*wrong))
    # One part is clear and the other is not: neither p says anything alone.
    entry = both(clear, weak)
    assert entry["verdict"] == "open"
    assert entry["p_adjusted"] > 0.05


def test_a_part_that_fails_only_before_its_correction_refutes_nothing(tmp_path: Path) -> None:
    """Two parts, one against its margin at p = .03: twice that, and times the family, is no refutation."""
    given = frames(tmp_path, planted(8))
    margins = np.linspace(4, 13, 400)
    wide = given.runs.pivot_table(index="seed", columns="strategy", values="test_accuracy") * 100
    d = wide["fine_tune"] - wide["feature_extraction"]
    margin = next(m for m in margins if m > d.mean() and stats.ttest_1samp(d, m).pvalue < 0.035)
    first, second = claim("fine_tune", "feature_extraction").parts[0], claim("fine_tune", "feature_extraction", margin)
    entry = only([replace(second, parts=(first, second.parts[0]))], given)
    assert stats.ttest_1samp(d, margin).pvalue < 0.05
    assert entry["verdict"] == "open"


def test_a_change_of_a_difference_with_size_is_judged_seed_by_seed(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(8, per_class=(10, 100)))
    entry = only([claim("fine_tune", "feature_extraction", 0.0, per_class=10, minus_at=100)], given)
    wide = given.runs.pivot_table(index="seed", columns=["strategy", "per_class"], values="test_accuracy") * 100
    at = {size: wide["fine_tune", size] - wide["feature_extraction", size] for size in (10, 100)}
    assert entry["effect"] == pytest.approx((at[10] - at[100]).mean())


def test_sweeps_and_drift_are_compared_at_their_scale_and_group(tmp_path: Path) -> None:
    plan = planted(3, sweep={"fine_tune_one_rate": (100.0, 1.0)}, sweep_seeds=TEN)
    given = frames(tmp_path, plan)
    fast, usual = Runs("fine_tune_one_rate", 100.0), Runs("fine_tune_one_rate", 1.0)
    assert only([claim(usual, fast, 5.0)], given)["verdict"] == "supported"
    moved = given.drift.query("strategy == 'fine_tune' and role == 'final'")
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
    assert (entry["effect"], entry["p_adjusted"]) == (None, None)


def test_identical_differences_are_open_and_a_missing_value_is_refused(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(8))
    same = given.runs.copy()
    same["test_accuracy"] = same["strategy"].map({"fine_tune": 0.8, "feature_extraction": 0.7})
    entry = only([claim("fine_tune", "feature_extraction")], replace(given, runs=same))
    assert entry["verdict"] == "open"
    assert "identical" in entry["reason"]
    holed = given.runs.copy()
    holed.loc[holed.index[0], "test_accuracy"] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        judge([claim("fine_tune", "feature_extraction")], replace(given, runs=holed))


def test_the_ledger_holds_the_textbooks_rules_with_at_most_eight_primary_ones() -> None:
    claims = load_claims()
    primary = [entry for entry in claims if entry.family == "claims"]
    assert 1 <= len(primary) <= 8
    # Data that no run had seen when they were written.
    assert {entry.study for entry in primary} <= {"tomato", "xray", "eurosat"}
    assert all(part.metric == "judged" for entry in primary for part in entry.parts)
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


def test_a_ratio_of_best_rates_is_described_from_the_tuned_scales(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(8))
    rates = Described("feature_extraction", 1e-3, "fine_tune", 1e-4)
    entry = replace(claim("fine_tune", "feature_extraction"), parts=(), described=rates)
    assert "needs tuned rates" in only([entry], given)["reason"]
    given.provenance["parameters"]["study"]["learning_rates"] = "tuned"
    given.provenance["parameters"]["lr_scales"] = {"100": {"feature_extraction": 10.0, "fine_tune": 1.0}}
    said = only([entry], given)["reason"]
    assert said.endswith("of feature_extraction was 1.0e-02, of fine_tune 1.0e-04, a ratio of 100, within 10 to 100")


def test_a_gap_says_what_training_and_test_accuracy_have_to_do_with_it(tmp_path: Path) -> None:
    given = frames(tmp_path, planted(8))
    entry = only([claim("fine_tune", "feature_extraction", metric="gap")], given)
    runs = given.runs.pivot_table(index="seed", columns="strategy", values=["train_accuracy", "test_accuracy"]) * 100
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
    assert "percent of a group's starting length, 10 seeds" in only([groups], given)["reason"]
    rates = claim(Runs("fine_tune_one_rate", 100.0), Runs("fine_tune_one_rate", 1.0), 0.0, metric="drift")
    assert "starting length, on average over the backbone's groups, 10 seeds" in only([rates], given)["reason"]
