"""The range tests beside the rates used: medians over seeds, distances as factors, nothing where there is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import finder, report
from analysis.tables import TablesError, load
from tests.analysis.conftest import Plan, write_tables

TESTED = Plan(lr_finder_seeds=(0, 1, 2))


def test_suggestions_are_medians_over_seeds_beside_the_scale_used(tmp_path: Path) -> None:
    tables = load(write_tables(tmp_path, TESTED))
    provenance = {"parameters": {"lr_scales": {"100": {"fine_tune": 3.0}}}}
    table = finder.compared(tables.lr_suggestions, provenance)
    row = table[(table["strategy"] == "fine_tune") & (table["rule"] == "steepest")].iloc[0]
    assert (row["k"], row["found"], row["used"]) == (3, 3, 3.0)
    assert row["middle"] == pytest.approx(0.33)
    assert (row["low"], row["high"]) == pytest.approx((0.30, 0.36))
    assert row["times"] == pytest.approx(0.11)
    others = table[(table["strategy"] == "last_block") & (table["rule"] == "tenth_of_lowest")].iloc[0]
    assert (others["used"], others["times"]) == (1.0, 2.0)
    rows = {row[0]: row for row in finder.rows_of(table).rows}
    assert rows["`scratch`"][3:5] == ("no suggestion", "–")
    assert rows["`fine_tune`"][3] == "×0.33 [0.3, 0.36]"


def test_words_count_the_strategies_near_the_scale_used(tmp_path: Path) -> None:
    tables = load(write_tables(tmp_path, TESTED))
    provenance = {"parameters": {"lr_scales": {"100": {"fine_tune": 30.0}}}}
    steepest, tenth = finder.words(finder.compared(tables.lr_suggestions, provenance), tuned=True)
    # All but scratch suggest 0.33: within a factor of 3.03 of 1, so none is near.
    assert "within a factor of 3 of the tuned scale for 0 of 6 strategies" in steepest
    assert "off by a factor of 91" in steepest
    assert "for 6 of 7 strategies" in tenth


def test_the_report_has_the_section_only_where_there_are_range_tests(tmp_path: Path) -> None:
    for name, plan, there in (("a", TESTED, True), ("b", Plan(), False)):
        folder = write_tables(tmp_path / name, plan)
        report.write(folder)
        text = (folder / "report.md").read_text()
        assert ("## LR finder" in text) == there
        assert (folder / "figures" / "lr_finder.png").exists() == there


def test_a_range_test_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, TESTED)
    file = folder / "lr_suggestions.csv"
    file.write_text(file.read_text() + file.read_text().splitlines()[1] + "\n")
    with pytest.raises(TablesError, match="more than once"):
        load(folder)
