"""Every number that the sections share, recomputed; who is advised, and who never is."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.comparison import Comparison, compare
from analysis.paired import COMPARISON_COLUMNS, DEFAULT_ORDER, all_pairs
from analysis.tables import TablesError, load
from analysis.unbeaten import one_class, unbeaten
from tests.analysis.conftest import Plan, write_tables

TWO = {"feature_extraction": 0.75, "fine_tune": 0.80}
UNEVEN = Plan(
    strategies={"scratch": 0.95, "feature_extraction": 0.90, "fine_tune": 0.93},
    classes={"whole": 950, "cracked": 50},
    flat=["scratch"],
    seeds=range(10),
)
MANY = Plan(
    strategies={
        **Plan().strategies,
        **{"norm_only": 0.79, "lda": 0.76, "nearest_mean": 0.7, "fine_tune_batch_norm_train": 0.74},
    },
    not_default=("nearest_mean", "fine_tune_batch_norm_train"),
    seeds=range(10),
)


def compared(folder: Path, plan: Plan) -> Comparison:
    return compare(load(write_tables(folder, plan)))


def t_interval(values: pd.Series[float]) -> tuple[float, float]:
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return values.mean() - half, values.mean() + half


def test_every_number_of_a_strategy_is_what_scipy_finds(tmp_path: Path) -> None:
    study = compared(tmp_path, Plan())
    assert list(study.names) == list(Plan().strategies)
    runs = pd.read_csv(tmp_path / "runs.csv")
    for row in study.strategies.to_dict("records"):
        mine = runs[runs["strategy"] == row["strategy"]]
        assert row["judged"] == row["test_accuracy"] == pytest.approx(100 * mine["test_accuracy"].mean())
        assert (row["judged_low"], row["judged_high"]) == pytest.approx(t_interval(100 * mine["test_accuracy"]))
        for column in ("balanced_accuracy", "train_accuracy", "val_accuracy"):
            assert row[column] == pytest.approx(100 * mine[column].mean())
        assert row["gap"] == pytest.approx(100 * (mine["train_accuracy"] - mine["test_accuracy"]).mean())
        assert row["seconds"] == pytest.approx(mine["seconds"].median())


def test_every_number_of_the_pairs_is_what_scipy_finds(tmp_path: Path) -> None:
    found = compared(tmp_path, Plan()).pairs
    runs = pd.read_csv(tmp_path / "runs.csv")
    assert list(found.columns) == COMPARISON_COLUMNS
    assert list(zip(found["a"], found["b"], strict=True)) == list(combinations(Plan().strategies, 2))
    table = runs.pivot_table(index="seed", columns="strategy", values="test_accuracy") * 100
    for row in found.to_dict("records"):
        d = (table[row["b"]] - table[row["a"]]).to_numpy()
        test = stats.ttest_1samp(d, 0)
        low, high = test.confidence_interval(0.95)
        assert row["k"] == 5
        assert [row["difference"], row["low"], row["high"]] == pytest.approx([d.mean(), low, high])
        assert row["p"] == pytest.approx(test.pvalue)
        assert row["wins"] == (d > 0).sum()
        assert row["low_new_images"] < row["difference"] < row["high_new_images"]
        assert abs(row["d_z"]) <= abs(d.mean() / d.std(ddof=1)) + 1e-9  # Hedges' correction shrinks
        assert row["smallest_detectable"] == pytest.approx(1.7 * d.std(ddof=1), rel=0.1)  # PROTOCOL.md, K = 5
    # Holm by its definition: the i-th smallest of m times (m - i), never falling, at most 1.
    order = found.sort_values("p", ignore_index=True)
    by_hand = np.minimum(np.maximum.accumulate(order["p"] * (len(order) - np.arange(len(order)))), 1)
    assert order["p_holm"].to_numpy() == pytest.approx(by_hand.to_numpy())


def test_a_gain_is_the_pair_turned_towards_its_second_strategy(tmp_path: Path) -> None:
    study = compared(tmp_path, Plan(strategies=TWO))
    forth, back = (
        study.gain(100, *pair) for pair in (("fine_tune", "feature_extraction"), ("feature_extraction", "fine_tune"))
    )
    assert forth["difference"] == -back["difference"] > 0
    assert (forth["low"], forth["high_new_images"]) == (-back["high"], -back["low_new_images"])
    assert study.gain(100, "fine_tune", "lda") == {}


def test_a_planted_effect_is_found_and_a_null_is_not(tmp_path: Path) -> None:
    (planted,) = compared(tmp_path / "a", Plan(seeds=range(10))).unbeaten
    assert {"scratch", "feature_extraction"} <= set(planted.beaten)
    assert "fine_tune" in planted.advised
    alike = Plan(strategies=dict.fromkeys(Plan().strategies, 0.78), seeds=range(10))
    assert compared(tmp_path / "b", alike).unbeaten[0].beaten == ()


def test_without_enough_seeds_or_images_nothing_is_advised(tmp_path: Path) -> None:
    (few,) = compared(tmp_path / "few", Plan(seeds=(0, 1, 2))).unbeaten
    assert (few.state, few.advised) == ("too few seeds", ())
    study = compared(tmp_path / "shared", Plan(seeds=range(10), overlap=0.6))
    assert (study.unbeaten[0].state, study.unbeaten[0].advised) == ("pool too small", ())
    assert study.pairs[["difference", "low", "p", "p_holm", "low_new_images", "factor"]].isna().all(axis=None)
    assert {row["verdict"] for row in study.verdicts} == {"not tested"}
    (alone,) = compared(tmp_path / "alone", Plan(strategies={"fine_tune": 0.8})).unbeaten
    assert (alone.state, alone.advised) == ("one strategy", ("fine_tune",))


def test_a_strategy_that_diverged_is_not_rewarded_for_its_large_spread(tmp_path: Path) -> None:
    (found,) = compared(tmp_path / "one", Plan(diverged=[("fine_tune", 1)])).unbeaten
    assert "fine_tune" in found.unstable
    assert "fine_tune" not in found.advised
    everything = Plan(strategies=TWO, diverged=[(name, seed) for name in TWO for seed in range(5)])
    study = compared(tmp_path / "all", everything)
    assert study.unbeaten[0].advised == ()
    assert study.pairs[COMPARISON_COLUMNS[COMPARISON_COLUMNS.index("factor") :]].isna().all(axis=None)


def test_missing_runs_make_a_strategy_thin_and_do_not_undo_the_others(tmp_path: Path) -> None:
    (found,) = compared(tmp_path, Plan(missing=[("lp_ft", 3), ("lp_ft", 4)])).unbeaten
    assert (found.state, found.thin) == ("decided", ("lp_ft",))


def test_a_strategy_that_gives_all_images_one_class_is_never_advised(tmp_path: Path) -> None:
    tables = load(write_tables(tmp_path / "quick", Plan(strategies=TWO)))
    assert one_class(tables, 100) == {}
    row = {str(name): i for i, name in enumerate(tables.predictions.fingerprints)}
    predicted = tables.predictions.predicted.copy()
    for name in tables.runs.query("strategy == 'fine_tune' and seed < 3")["fingerprint"]:
        predicted[row[name]] = 1
    flat = replace(tables, predictions=replace(tables.predictions, predicted=predicted))
    assert one_class(flat, 100) == {"fine_tune": 3}
    assert compare(flat).unbeaten[0].unstable == ("fine_tune",)


@pytest.mark.parametrize("judge_by", ["balanced_accuracy", "accuracy"])
def test_a_model_that_always_answers_the_large_class_is_never_advised(tmp_path: Path, judge_by: str) -> None:
    study = compared(tmp_path, replace(UNEVEN, judge_by=judge_by))
    assert (study.strategies["test_accuracy"] <= 95.0 + 1e-9).all()  # plain accuracy has `scratch` first
    (found,) = study.unbeaten
    assert "scratch" not in (*found.advised, *found.doubtful)
    if judge_by == "balanced_accuracy":
        assert study.baseline == 50
        assert "scratch" in found.beaten
        assert set(found.advised) <= {"feature_extraction", "fine_tune"}


def test_everything_is_judged_by_the_accuracy_that_the_study_names(tmp_path: Path) -> None:
    plan = Plan(strategies={"scratch": 0.6, **TWO}, seeds=range(10), judge_by="balanced_accuracy", overlap=0.15)
    study = compared(tmp_path, plan)
    runs = pd.read_csv(tmp_path / "runs.csv").pivot_table(index="seed", columns="strategy", values="balanced_accuracy")
    found = study.gain(100, "fine_tune", "feature_extraction")
    d = 100 * (runs["fine_tune"] - runs["feature_extraction"])
    factor = (1 + 9 * 0.15) / (1 - 0.15)
    error = np.sqrt(factor / 10) * d.std()
    assert (found["metric"], found["overlap"], found["family"]) == ("balanced_accuracy", 0.15, "pairs")
    assert found["factor"] == pytest.approx(factor)
    assert found["difference"] == pytest.approx(d.mean(), rel=1e-4)
    assert found["p"] == pytest.approx(2 * stats.t.sf(abs(d.mean()) / error, 9), rel=1e-4)
    assert found["high"] - found["low"] == pytest.approx(2 * stats.t.ppf(0.975, 9) * error, rel=1e-4)


def test_with_all_images_the_factor_is_one(tmp_path: Path) -> None:
    (pair,) = compared(tmp_path, Plan(strategies=TWO, per_class=(0,))).pairs.to_dict("records")
    assert (pair["overlap"], pair["factor"]) == (1, 1)


def test_families_are_the_pairs_of_default_strategies_and_those_of_batch_norm(tmp_path: Path) -> None:
    study = compared(tmp_path, MANY)
    pairs = study.pairs
    assert pairs["family"].value_counts().to_dict() == {"pairs": 36, "none": 18, "batch_norm": 1}
    family = pairs[pairs["family"] == "pairs"].sort_values("p")
    by_hand = np.minimum(np.maximum.accumulate(family["p"] * (36 - np.arange(36))), 1)
    assert family["p_holm"].to_numpy() == pytest.approx(by_hand.to_numpy())
    assert (pairs.query("family == 'batch_norm'")["p_holm"] == pairs.query("family == 'batch_norm'")["p"]).all()
    assert pairs.query("family == 'none'")["p_holm"].isna().all()
    assert list(study.names)[:9] == list(DEFAULT_ORDER)


def test_a_strategy_that_is_no_default_is_compared_and_not_advised(tmp_path: Path) -> None:
    strategies = {**MANY.strategies, "fine_tune_batch_norm_train": 0.9}
    (found,) = compared(tmp_path / "better", replace(MANY, strategies=strategies)).unbeaten
    assert set(found.others) == {"fine_tune_batch_norm_train", "nearest_mean"}
    assert not set(found.others) & {*found.members, *found.doubtful, *found.unstable, *found.thin, *found.beaten}
    # Where a study names no two of them, all that it names are candidates.
    plan = Plan(strategies={"lda": 0.76, "nearest_mean": 0.7}, not_default=("nearest_mean",), seeds=range(10))
    named = compared(tmp_path / "named", plan)
    assert (named.unbeaten[0].others, named.unbeaten[0].beaten) == ((), ("nearest_mean",))
    (pair,) = named.pairs.to_dict("records")
    assert (pair["family"], pair["p_holm"]) == ("pairs", pair["p"])


def test_the_set_that_nothing_beats_is_never_tested_against_a_winner_picked_on_test() -> None:
    strategies = pd.DataFrame(
        {"per_class": 100, "strategy": ["a", "b", "c"], "k": 10, "judged": [80.0, 79.0, 70.0], "diverged": 0}
    )
    ends = {"difference": [-1.0, -10.0, -9.0], "low": [-3.0, -19.0, -20.0], "high": [1.0, -1.0, 2.0]}
    pairs = pd.DataFrame(
        {"per_class": 100, "a": ["a", "a", "b"], "b": ["b", "c", "c"], "k": 10, "overlap": 0.1, **ends}
    )
    found = unbeaten(strategies, pairs.assign(p_holm=[0.3, 0.001, 0.06]), 100, frozenset("abc"), frozenset())
    assert (found.members, found.doubtful, found.beaten) == (("a", "b"), (), ("c",))
    # A sign that does not survive the correction is said, and beats nobody.
    leaning = pairs.assign(p_holm=[0.3, 0.06, 0.3], high=[-0.1, -1.0, 2.0])
    found = unbeaten(strategies, leaning, 100, frozenset("abc"), frozenset())
    assert (found.members, found.doubtful, found.beaten) == (("a",), ("b", "c"), ())


def test_a_study_without_runs_is_refused_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(TablesError, match=r"no final run yet.*dvc repro"):
        compared(tmp_path, Plan(strategies=TWO, missing=[(name, s) for name in TWO for s in range(5)]))


PUBLISHED = sorted(path.parent for path in Path("reports").glob("*/comparisons.csv"))


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_the_published_comparisons_are_what_the_published_tables_give(folder: Path) -> None:
    found = pd.read_csv(folder / "comparisons.csv")
    expected = all_pairs(load(folder)).reset_index(drop=True)
    for column in COMPARISON_COLUMNS:
        if not pd.api.types.is_numeric_dtype(found[column]):
            assert list(found[column]) == list(expected[column])
        else:
            given = expected[column].astype("float64").to_numpy()
            np.testing.assert_allclose(found[column].astype("float64").to_numpy(), given, rtol=1e-5, atol=1e-12)
