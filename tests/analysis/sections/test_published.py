from pathlib import Path

import numpy as np
import pytest

from analysis.comparison import compare
from analysis.markdown import Table
from analysis.sections import published
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables


def test_published_accuracies_stand_in_order_among_those_of_the_largest_size(tmp_path: Path) -> None:
    others = ({"accuracy": 99.5, "what": "a CNN", "source": "A 2019"}, {"accuracy": 12, "what": "luck", "source": "B"})
    plan = Plan(per_class=(10, 100), strategies={"scratch": 0.6, "fine_tune": 0.8}, published=others)
    study = compare(load(write_tables(tmp_path, plan)))
    section = published.section(study)
    assert section is not None
    table, _, luck = section.body
    assert isinstance(table, Table)
    assert [row[1] for row in table.rows] == ["a CNN", "**fine_tune**", "`scratch`", "luck"]
    accuracy = study.of(100, "fine_tune")["test_accuracy"]
    assert float(table.rows[1][0].split()[0]) == pytest.approx(accuracy, abs=0.051)
    widest = 1.96 * np.sqrt(2 * 0.12 * 0.88 / study.dataset["test_images"]) * 100
    assert f"up to {widest:.1f} points" in luck


def test_a_study_that_names_nobody_has_no_such_section(quick: Path) -> None:
    assert published.section(compare(load(quick))) is None
