"""The README's numbers are those of the reports."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis import readme
from tests.analysis.conftest import Plan, write_tables

ROOT = Path(__file__).parent.parent.parent
TWO = {"feature_extraction": 0.752, "fine_tune": 0.80}


def test_the_blocks_hold_the_studies_numbers_and_the_rest_stays(tmp_path: Path) -> None:
    folder = write_tables(
        tmp_path / "solar",
        Plan(study="solar", strategies=TWO, per_class=(10, 100), epochs=4, judge_by="balanced_accuracy"),
    )
    text = "before\n<!-- results of solar -->\nstale words\n<!-- end of results -->\nafter\n"
    first = readme.renewed(text, tmp_path)
    assert first.startswith("before\n<!-- results of solar -->\n")
    assert first.endswith("<!-- end of results -->\nafter\n")
    assert "stale words" not in first
    runs = pd.read_csv(folder / "runs.csv")
    for name in TWO:
        for size in (10, 100):
            mine = runs[(runs["strategy"] == name) & (runs["per_class"] == size)]
            assert f"{100 * mine['balanced_accuracy'].mean():.1f} [" in first
    assert readme.renewed(first, tmp_path) == first


def test_the_projects_readme_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = Path("README.md").read_text(encoding="utf-8")
    assert readme.BLOCK.search(text)
    assert readme.renewed(text, Path("reports")) == text
