"""The range tests beside the rates used: medians over seeds, distances as factors, nothing where there is nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis import style
from analysis.comparison import compare
from analysis.markdown import Table
from analysis.sections.lr_finder import section, suggestions
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables

TESTED = Plan(epochs=4, lr_finder_seeds=(0, 1, 2))


def test_suggestions_stand_beside_the_scale_used(tmp_path: Path) -> None:
    tables = load(write_tables(tmp_path, TESTED))
    tables.provenance["parameters"]["lr_scales"] = {"100": {"fine_tune": 3.0}}
    table = suggestions(compare(tables))
    mine = table[(table["strategy"] == "fine_tune") & (table["rule"] == "steepest")]
    assert mine["scale"].tolist() == pytest.approx([0.30, 0.33, 0.36])
    assert mine["times"].tolist() == pytest.approx([0.10, 0.11, 0.12])
    assert np.isnan(table.loc[table["strategy"] == "scratch", "times"]).sum() == 3
    found = section(compare(tables))
    assert found is not None
    (shown,) = (part for part in found.body if isinstance(part, Table))
    rows = {row[0]: row[1:] for row in shown.rows}
    assert rows["`fine_tune`"] == ("3", "×3", "×0.33 [×0.3, ×0.36]", "×2 [×2, ×2]")
    assert rows["`scratch`"][2] == "–"


def test_strategies_near_the_scale_used_are_counted(tmp_path: Path) -> None:
    tables = load(write_tables(tmp_path, TESTED))
    tables.provenance["parameters"]["lr_scales"] = {"100": {"fine_tune": 0.5}}
    found = section(compare(tables))
    assert found is not None
    # 0.33 lies within a factor of 3 of 0.5 and not of 1; 2 of 1 and not of 0.5.
    assert "*steepest slope* for 1 of 6; *lowest / 10* for 6 of 7 strategies" in str(found.body[-1])
    (picture,) = found.pictures
    with style.theme():
        drawing = picture.draw()
        drawing.draw_without_rendering()
    assert len(drawing.axes[0].get_yticks()) == 7


def test_without_range_tests_there_is_no_section_and_without_suggestions_no_figure(tmp_path: Path) -> None:
    assert section(compare(load(write_tables(tmp_path / "none", Plan(epochs=4))))) is None
    tables = load(write_tables(tmp_path / "blank", TESTED))
    blank = tables.lr_suggestions.assign(steepest=np.nan, tenth_of_lowest=np.nan)
    found = section(compare(replace(tables, lr_suggestions=blank)))
    assert found is not None
    assert not list(found.pictures)
