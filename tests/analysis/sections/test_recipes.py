from pathlib import Path

import pytest

from analysis.comparison import Comparison, compare
from analysis.sections import recipes
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables

TRIED = {
    "100": {
        "fine_tune": {
            "lr_scale": 1.0,
            "tried": {
                "0.3": {"right": 100, "of": 240, "log_loss": 0.7},
                "1": {"right": 180, "of": 240, "log_loss": 0.6},
                "3": {"right": 150, "of": 240, "log_loss": 0.7},
                "10": {"right": 120, "of": 240, "log_loss": 0.8},
                "30": {"right": 60, "of": 240, "log_loss": 0.9},
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
    )
    return compare(load(write_tables(tmp_path, plan)))


def test_recipes_have_a_row_a_phase_and_what_differs_from_most(study: Comparison) -> None:
    rows = recipes.recipes(study).rows
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
    rows = recipes.recipes(study).rows
    assert rows[0][:3] == ("`lda`", "–", "head, closed form")


def test_tuning_shows_what_every_scale_reached_and_the_chosen_one_bold(study: Comparison) -> None:
    curve, table = "41.7 **75.0** 62.5 50.0 25.0", recipes.tuning(study)
    assert table.header == ("A class", "Strategy", "From", "Right, %", "Chosen")
    assert table.rows == (("100", "`fine_tune`", "×0.3", curve, "×1"),)


def test_a_study_that_tuned_nothing_has_no_table_of_rates(quick: Path) -> None:
    section = recipes.section(compare(load(quick)))
    assert "### Rates that were tried" not in section.body
