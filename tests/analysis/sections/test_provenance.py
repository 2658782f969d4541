from pathlib import Path

import pytest

from analysis.comparison import Comparison, compare
from analysis.sections import provenance
from analysis.tables import load
from pipeline.tuning import GRID
from tests.analysis.conftest import Plan, write_tables

TRIED = {
    "100": {
        "fine_tune": {"tried": {"0.3": {"right": 1, "of": 2}, "3": {"right": 2, "of": 2}}},
        "scratch": {"tried": {}},
    },
}


@pytest.fixture
def study(tmp_path: Path) -> Comparison:
    plan = Plan(
        tried=TRIED,
        environments=({"cells": 30}, {"cells": 5, "commit": "f" * 40 + "-dirty", "device": "another"}),
    )
    return compare(load(write_tables(tmp_path, plan)))


def test_the_checklist_is_filled_by_the_facts(study: Comparison) -> None:
    facts = dict(provenance.checklist(study).rows)
    assert facts["Splits"] == "1,968 images to draw from, 656 for testing, 500 watched"
    assert facts["Seeds"] == "5: 0 to 4"
    assert facts["Training"] == "10 epochs, batches of 32; updates a run: 70 with 100 images a class"
    assert facts["Runs"] == "35 of 35 declared"
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
