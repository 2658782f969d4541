"""Two commits compared: what is caught, what passes, and how often."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import regression
from analysis.regression import CELLS, EVERY, Change, changes, judge, main, slowdown
from tests.analysis.conftest import Plan, write_tables

NAMES = ("scratch", "feature_extraction", "last_block", "fine_tune", "discriminative", "lp_ft", "norm_only", "lda")
IMAGE = 100 / 656
SEED_SD = 1.7  # points, as `quick` has it


def repeat(draw: np.random.Generator, seeds: int = 5, run_sd: float = 0.7) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs of one study trained twice: the same draws, and noise of their own."""
    mean = draw.normal(75, 5, len(NAMES))[:, None] + draw.normal(0, math.sqrt(SEED_SD**2 - run_sd**2), seeds)
    tables = []
    for _ in range(2):
        accuracy = mean + draw.normal(0, run_sd, mean.shape)
        judged = np.round(accuracy / IMAGE) * IMAGE
        rows = [
            ("final", 100, name, 1.0, seed, judged[i, seed], -accuracy[i, seed], 0.0, 10 * draw.lognormal(0, 0.1))
            for i, name in enumerate(NAMES)
            for seed in range(seeds)
        ]
        tables.append(pd.DataFrame(rows, columns=[*CELLS, "seed", "judged", "log_loss", "ece", "seconds"]))
    return tables[0], tables[1]


def bad(found: list[Change]) -> list[str]:
    return [change.strategy for change in found if change.found.verdict == "worse" or change.slower]


def test_98_of_100_repeats_of_an_unchanged_commit_pass() -> None:
    """99.5% do at this noise, so that fewer than 98 would in 1% of all random states."""
    draw = np.random.default_rng(0)
    assert sum(not bad(changes(*repeat(draw), IMAGE)) for _ in range(100)) >= 98


def test_a_loss_of_2_points_is_caught_with_5_seeds_though_no_two_runs_are_the_same() -> None:
    draw = np.random.default_rng(1)
    caught = []
    for _ in range(20):
        base, head = repeat(draw)
        head["judged"] -= 2
        caught.append(EVERY in bad(changes(base, head, IMAGE)))
    assert sum(caught) >= 18


def test_a_loss_of_one_strategy_alone_is_told_beside_others_that_did_not_move() -> None:
    base, _ = repeat(np.random.default_rng(2))
    head = base.copy()
    lossy = head["strategy"] == "lp_ft"
    head.loc[lossy, "judged"] -= 2 + np.array([0.3, -0.2, 0.1, -0.4, 0.2])
    found = {change.strategy: change.found for change in changes(base, head, IMAGE)}
    assert found["lp_ft"].verdict == "worse"
    assert {found[name].verdict for name in (*NAMES, EVERY) if name != "lp_ft"} == {"equivalent"}


def test_a_gain_is_better_and_fails_nothing() -> None:
    base, head = repeat(np.random.default_rng(3))
    head["judged"] += 3
    found = changes(base, head, IMAGE)
    assert found[0].strategy == EVERY
    assert found[0].found.verdict == "better"
    assert bad(found) == []


def test_verdicts_follow_the_interval_and_the_margin() -> None:
    d = np.array([0.1, -0.1, 0.2, -0.2, 0.05])
    decisions = {shift: judge(d + shift, 1.0, 0.05) for shift in (0.0, -0.95, -1.5, 2.0)}
    assert [decision.verdict for decision in decisions.values()] == [
        "equivalent", "not enough runs", "worse", "better",
    ]  # fmt: skip
    assert decisions[-1.5].high < -1 < decisions[-0.95].high


def test_identical_differences_are_no_certainty_and_zero_ones_are_equivalent() -> None:
    lost, same, single = (judge(d, 0.4, 0.15) for d in (np.full(2, -0.5), np.zeros(1), np.array([-9.0])))
    assert lost.verdict == "not enough runs"
    assert lost.low < -0.5 < lost.high
    assert same[:4] == (0, 0, 0, "equivalent")
    assert single.verdict == "not enough runs"


def test_how_many_seeds_more_would_do_is_told_where_that_can_be() -> None:
    noisy = judge(np.array([-1.0, 1.2, 0.3, -0.8, 0.4]), 0.5, 0.1)
    change = Change("final", 100, "fine_tune", 1.0, 5, 0.5, noisy, False, 1.0, False)
    assert 20 < regression.more_seeds(change) < 60
    assert regression.more_seeds(change._replace(margin=0.02 + 1e-6)) == math.inf
    assert math.isnan(regression.more_seeds(change._replace(k=1, found=judge(np.array([1.0]), 0.5, 0.1))))


def test_a_slowdown_of_50_percent_is_caught_and_noise_is_not() -> None:
    draw = np.random.default_rng(4)
    base, head = repeat(draw)
    assert not any(change.slower for change in changes(base, head, IMAGE))
    head.loc[head["strategy"] == "fine_tune", "seconds"] *= 1.5
    assert [change.strategy for change in changes(base, head, IMAGE) if change.slower] == ["fine_tune"]
    seconds = np.array([2.0, 9.0, 3.0, 1.0, 2.5])
    assert slowdown(seconds, seconds * 1.5) == (1.5, True)
    assert not slowdown(seconds, np.array([4.0, 1.0, 5.0, 4.5, 2.0]))[1]  # a median of 1.6, and seeds at odds
    assert not slowdown(seconds[:1], 2 * seconds[:1])[1]


# --- tables, page, exit status --------------------------------------------------------------------------------------

PLAN = Plan(epochs=2, judge_by="balanced_accuracy")


def lossy(plan: Plan, points: float) -> Plan:
    return replace(plan, strategies={name: value - points / 100 for name, value in plan.strategies.items()})


def test_the_same_tables_are_equivalent_and_said_to_be_bit_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(write_tables(tmp_path / name, PLAN)) for name in ("base", "head")]
    page = tmp_path / "page.md"
    assert main([*folders, "--names", "abc", "def", "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.strip() == capsys.readouterr().out.strip()
    assert text.count("| equivalent (bit-equal) | 1.00 |") == 1 + len(PLAN.strategies)
    assert "**Nothing is worse.**" in text
    assert "def against abc" in text


def test_tables_that_lost_2_points_or_half_their_speed_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_tables(tmp_path / "base", PLAN)
    head = write_tables(tmp_path / "head", replace(lossy(PLAN, 2), seeds=(0, 1, 2, 3, 4, 5)))
    assert main([str(base), str(head)]) == 1
    text = capsys.readouterr().out
    assert "**Worse: `all strategies` at 100 (−2." in text
    assert "not compared, at the head alone: 1 final run of `fine_tune`" in text
    slow = write_tables(tmp_path / "slow", PLAN)
    runs = pd.read_csv(slow / "runs.csv")
    runs.loc[runs["strategy"] == "fine_tune", "seconds"] *= 1.5
    runs.to_csv(slow / "runs.csv", index=False)
    assert main([str(base), str(slow)]) == 1
    assert "**Worse: `fine_tune` at 100 (seconds × 1.50).**" in capsys.readouterr().out
    elsewhere = json.loads((slow / "provenance.json").read_text(encoding="utf-8"))
    elsewhere["environments"][0]["device"] = "another machine"
    (slow / "provenance.json").write_text(json.dumps(elsewhere), encoding="utf-8")
    assert main([str(base), str(slow)]) == 0
    assert "seconds are not judged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(PLAN, study="other"), "not the same study"),
        (replace(PLAN, classes={"functional": 431, "defective": 220}), "other images"),
        (replace(PLAN, seeds=(7, 8)), "no cell has a run at both"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: Plan, said: str
) -> None:
    folders = [str(write_tables(tmp_path / "a", PLAN)), str(write_tables(tmp_path / "b", other))]
    assert main(folders) == 2
    assert said in capsys.readouterr().err


def test_benchmarks_of_one_machine_are_set_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write_tables(tmp_path / "base", PLAN))

    def measured(name: str, cpu: str, **medians: float) -> str:
        entries: list[dict[str, Any]] = [{"name": key, "stats": {"median": value}} for key, value in medians.items()]
        content = {"machine_info": {"cpu": {"brand_raw": cpu}, "processor": ""}, "benchmarks": entries}
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        return str(tmp_path / name)

    old = measured("old.json", "one", test_step=0.1, test_load=1.0, test_gone=1.0)
    new = measured("new.json", "one", test_step=0.15, test_load=1.1)
    assert main([folder, folder, "--benchmarks", old, new]) == 1
    assert "**Worse: `test_step` (seconds × 1.50).**" in capsys.readouterr().out
    assert main([folder, folder, "--benchmarks", old, measured("far.json", "two", test_step=0.15)]) == 0
    assert "test_step" not in capsys.readouterr().out
