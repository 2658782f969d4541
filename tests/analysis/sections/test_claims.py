"""Verdicts in a line each."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.markdown import Table, p_value, with_interval
from analysis.sections import claims
from tests.analysis.conftest import Plan
from tests.analysis.test_comparison import TWO, compared


def test_every_judged_claim_has_a_line_with_its_effect_and_margin(tmp_path: Path) -> None:
    study = compared(tmp_path, Plan())
    section, details = claims.section(study), claims.details(study)
    assert section is not None
    assert details is not None
    table, more = section.body[0], next(part for part in details.body if isinstance(part, Table))
    assert isinstance(table, Table)
    judged = [row for row in study.verdicts if row["verdict"] != "not tested"]
    assert 0 < len(judged) <= claims.MOST
    for row, line, long in zip(judged, table.rows, more.rows, strict=True):
        assert line[1] == long[1] == row["verdict"]
        shown = with_interval(row["effect"], row["low"], row["high"])
        assert line[2] == long[2]
        assert line[2].replace("%", "") == shown
        assert float(long[3].replace("−", "-")) == row["margin"]
        assert long[4] == p_value(row["p_adjusted"])
        assert "can't tell" not in long[5]  # the verdict says so
    ids = " ".join(str(part) for part in details.body) + " ".join(row[0] for row in more.rows)
    assert all(f"`{claim.id}`" in ids for claim in study.claims)


def test_predictions_stand_first_and_bold(tmp_path: Path) -> None:
    both = {**TWO, "fine_tune_batch_norm_train": 0.7, "scratch": 0.5}
    plan = Plan(study="tomato", strategies=both, per_class=(10, 50), seeds=range(10), overlap=0.02)
    section = claims.section(compared(tmp_path, plan))
    assert section is not None
    table = section.body[0]
    assert isinstance(table, Table)
    bold = [row[0].startswith("**") for row in table.rows]
    assert bold == sorted(bold, reverse=True)
    assert sum(bold) == 3
    assert all(" by at least " in row[0] or "within" in row[0] for row in table.rows[:3]), "a verdict is of the margin"


@pytest.mark.parametrize("study", ["nobody", "xray_all"])
def test_a_study_without_claims_has_no_such_section(tmp_path: Path, study: str) -> None:
    found = compared(tmp_path, Plan(study=study, strategies=TWO))
    assert (claims.section(found), claims.details(found)) == (None, None)
