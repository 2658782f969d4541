"""Every strategy in one table and one figure."""

from __future__ import annotations

from pathlib import Path

from analysis.markdown import Picture, Table, number
from analysis.sections import strategies
from analysis.style import theme
from tests.analysis.conftest import Plan
from tests.analysis.test_comparison import TWO, compared


def test_the_table_is_best_first_at_the_largest_size_with_the_set_in_bold(tmp_path: Path) -> None:
    study = compared(tmp_path, Plan(strategies={"scratch": 0.4, **TWO}, seeds=range(10), per_class=(10, 100)))
    _, table, words = strategies.section(study).body
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["**fine_tune**", "feature_extraction", "scratch"]
    row = study.of(100, "fine_tune")
    half = (row["judged_high"] - row["judged_low"]) / 2
    assert table.rows[0][2] == f"**{number(row['judged'])}** ±{number(half)}"
    assert "Always answering the largest class gets 65.7%" in str(words)


def test_an_interval_that_ends_at_100_percent_counts_with_its_whole_half(tmp_path: Path) -> None:
    near = {"feature_extraction": 0.985, "fine_tune": 0.99}
    study = compared(tmp_path, Plan(strategies=near, seeds=range(3), seed_sd=3.0))
    row, table = study.of(100, "fine_tune"), strategies.section(study).body[1]
    assert isinstance(table, Table)
    assert row["judged_high"] == 100
    cell = next(row[1] for row in table.rows if "fine_tune" in row[0])
    assert cell.endswith(f"±{number(row['judged'] - row['judged_low'])}")


def test_a_strategy_outside_the_comparison_is_in_italics_and_the_words_say_so(tmp_path: Path) -> None:
    named = {**TWO, "last_block": 0.7, "lda": 0.99}
    study = compared(tmp_path, Plan(strategies=named, seeds=range(10), not_default=["lda"]))
    _, table, words = strategies.section(study).body
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["**fine_tune**", "feature_extraction", "last_block", "*lda*"]
    assert "Italic: not a default strategy" in str(words)


def test_what_lies_far_below_is_noted_at_the_edge_and_does_not_flatten_the_rest(tmp_path: Path) -> None:
    study = compared(tmp_path, Plan(strategies={"scratch": 0.1, **TWO}, seeds=range(10)))
    picture = strategies.section(study).body[0]
    assert isinstance(picture, Picture)
    with theme():
        (panel,) = picture.draw().axes
    assert panel.get_xlim()[0] > 60
    mean = study.of(100, "scratch")["judged"]
    assert f"◂ {mean:.1f}" in [text.get_text() for text in panel.texts]
    assert "◂: further left" in picture.caption


def test_a_caption_explains_no_sign_that_is_not_drawn(tmp_path: Path) -> None:
    picture = strategies.section(compared(tmp_path, Plan(strategies=TWO, seeds=range(10)))).body[0]
    assert isinstance(picture, Picture)
    assert "◂" not in picture.caption
    assert "dotted" not in picture.caption


def test_a_diverged_run_is_told_in_its_cell(tmp_path: Path) -> None:
    study = compared(tmp_path, Plan(diverged=[("fine_tune", 1)]))
    table = strategies.section(study).body[1]
    assert isinstance(table, Table)
    (row,) = [row for row in table.rows if row[0] == "fine_tune"]
    assert row[1].endswith("(1 diverged)")


def test_the_details_hold_a_row_a_strategy_and_size(tmp_path: Path) -> None:
    study = compared(tmp_path, Plan(strategies=TWO, per_class=(10, 0)))
    table = strategies.details(study).body[0]
    assert isinstance(table, Table)
    assert [(row[0], row[1]) for row in table.rows] == [(f"`{name}`", size) for size in ("all", "10") for name in TWO]
    assert "Balanced accuracy" in table.header


def test_where_classes_are_even_there_is_one_accuracy_alone(tmp_path: Path) -> None:
    table = strategies.details(compared(tmp_path, Plan(strategies=TWO, classes={"a": 300, "b": 310}))).body[0]
    assert isinstance(table, Table)
    assert "Balanced accuracy" not in table.header
    assert {len(row) for row in table.rows} == {len(table.header)}
