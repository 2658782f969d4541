from pathlib import Path

import pytest

from analysis.comparison import Comparison, compare
from analysis.sections import provenance
from analysis.tables import load
from pipeline.tuning import GRID
from tests.analysis.conftest import Plan, write_tables

TRIED = {
    "100": {
        "fine_tune": {
            "lr_scale": 1.0,
            "tried": {
                "0.3": {"right": 100, "of": 240, "log_loss": 0.7},
                "1": {"right": 180, "of": 240, "log_loss": 0.6},
                "3": {"right": 150, "of": 240, "log_loss": 0.7},
            },
        },
        "scratch": {"lr_scale": 1.0, "tried": {}},
    },
}


@pytest.fixture
def study(tmp_path: Path) -> Comparison:
    plan = Plan(
        tried=TRIED,
        ablations={"fine_tune_dropout": ("fine_tune", 0.0), "fine_tune_batch_norm_frozen": ("fine_tune", 1.0)},
        environments=({"cells": 40}, {"cells": 5, "commit": "f" * 40 + "-dirty", "device": "another"}),
    )
    return compare(load(write_tables(tmp_path, plan)))


def test_recipes_have_a_row_a_phase_and_what_differs_from_most(study: Comparison) -> None:
    rows = provenance.recipes(study).rows
    at = [row[0] for row in rows].index("`gradual_unfreezing`")
    assert [row[:3] for row in rows[at : at + 3]] == [
        ("`gradual_unfreezing`", "2", "head 1e-3"),
        ("", "3", "stage4 1e-4, head 1e-3"),
        ("", "5", "stem to stage4 1e-4, head 1e-3"),
    ]
    by_name = {row[0]: row[3] for row in rows}
    assert by_name["`fine_tune`"] == "–"
    assert by_name["`scratch`"] == "random start"
    assert by_name["`fine_tune_dropout`"] == "changes `fine_tune`; dropout 0.5"
    assert by_name["`fine_tune_batch_norm_frozen`"] == "changes `fine_tune`; batch norm frozen"


def test_a_head_in_closed_form_has_no_phase(tmp_path: Path) -> None:
    study = compare(load(write_tables(tmp_path, Plan(strategies={"lda": 0.7, "fine_tune": 0.8}))))
    rows = provenance.recipes(study).rows
    assert rows[0][:3] == ("`lda`", "–", "head, closed form")


def test_tuning_shows_what_every_scale_reached_and_the_chosen_one_bold(study: Comparison) -> None:
    table = provenance.tuning(study)
    assert table.header == ("A class", "Strategy", "Images", "×0.3", "×1", "×3")
    assert table.rows == (("100", "`fine_tune`", "240", "41.7", "**75.0**", "62.5"),)


def test_a_study_that_tuned_nothing_has_no_table_of_rates(quick: Path) -> None:
    section = provenance.section(compare(load(quick)))
    assert "### Rates that were tried" not in section.body


def test_the_checklist_is_filled_by_the_facts(study: Comparison) -> None:
    facts = dict(provenance.checklist(study).rows)
    assert facts["Splits"] == "1,968 images to draw from, 656 for testing, 500 watched"
    assert facts["Seeds"] == "5: 0 to 4"
    assert facts["Training"] == "10 epochs, batches of 32; updates a run: 70 with 100 images a class"
    assert facts["Runs"] == "45 of 45 declared"
    assert facts["Commits"] == "`0123456789ab`, `ffffffffffff-dirty`"
    assert facts["Hardware"] == "CPU AMD EPYC 7B13, 2 threads, CPU another, 2 threads"
    assert facts["Search"] == "none: rates textbook"
    assert all(facts.values())


def test_the_checklist_says_how_rates_were_searched_where_they_were(study: Comparison) -> None:
    study.tables.provenance["parameters"]["study"]["learning_rates"] = "tuned"
    facts = dict(provenance.checklist(study).rows)
    assert facts["Search bounds"] == "×0.001 to ×1,000; tried ×0.3 to ×3"
    assert facts["Selection"].startswith("by test accuracy on held-out fifths")


def test_the_bounds_are_those_of_the_search() -> None:
    assert (min(GRID), max(GRID)) == provenance.BOUNDS
