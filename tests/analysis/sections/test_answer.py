"""What to use, a row a size."""

from __future__ import annotations

from pathlib import Path

from analysis.markdown import number, with_interval
from analysis.sections import answer
from tests.analysis.conftest import Plan
from tests.analysis.test_comparison import TWO, compared


def test_a_row_names_the_highest_of_the_set_with_its_gain_and_the_faster_ones(tmp_path: Path) -> None:
    three = {"feature_extraction": 0.70, "last_block": 0.799, "fine_tune": 0.80}
    study = compared(tmp_path, Plan(strategies=three, seeds=range(10), per_class=(10, 100)))
    rows = answer.table(study).rows
    assert [row[0] for row in rows] == ["10", "100"]
    use, *others = study.unbeaten[1].advised
    assert others, "the two are planted alike"
    row = study.of(100, use)
    gain = study.gain(100, use, "feature_extraction")
    assert rows[1][1] == f"**{use}**"
    assert rows[1][2] == f"{number(row['judged'])} [{number(row['judged_low'])}, {number(row['judged_high'])}]"
    assert rows[1][3] == with_interval(gain["difference"], gain["low"], gain["high"])
    fast = others == ["last_block"]  # 6.5 s against 20
    assert rows[1][5].startswith("last_block (6." if fast else "fine_tune")


def test_what_is_open_says_why_in_the_row(tmp_path: Path) -> None:
    few = compared(tmp_path / "few", Plan(strategies=TWO, seeds=(0, 1, 2)))
    assert answer.table(few).rows[0][1:] == ("open", "–", "–", "–", "too few seeds to tell")
    gone = compared(tmp_path / "gone", Plan(strategies=TWO, diverged=[(name, s) for name in TWO for s in range(5)]))
    assert "failed in some run" in answer.table(gone).rows[0][-1]


def test_the_reference_has_no_gain_over_itself(tmp_path: Path) -> None:
    study = compared(tmp_path, Plan(strategies={"feature_extraction": 0.9, "fine_tune": 0.7}, seeds=range(10)))
    assert answer.table(study).rows[0][1:4:2] == ("**feature_extraction**", "–")


def test_the_setting_is_one_line(tmp_path: Path) -> None:
    said = answer.setting(compared(tmp_path, Plan(strategies=TWO)))
    assert said == (
        "elpv, 2 classes, 656 test images · efficientnet_lite0 at 96 px, 10 epochs, 5 seeds, rates textbook"
    )
