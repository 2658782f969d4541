"""How far groups moved: means after the last phase of runs that did not diverge; frozen looks frozen."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from analysis.comparison import compare
from analysis.sections.drift import FROZEN, section
from analysis.style import save, theme
from analysis.tables import GROUPS, load
from tests.analysis.conftest import Plan, write_tables

NAMES = {"feature_extraction": 0.75, "gradual_unfreezing": 0.79, "fine_tune": 0.8}


def test_groups_are_read_after_the_last_phase_of_runs_that_did_not_diverge(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, Plan(strategies=NAMES, diverged=[("gradual_unfreezing", 0)]))
    drift = pd.read_csv(folder / "drift.csv")
    # What a run had reached before it diverged is no end.
    early = (drift["strategy"] == "gradual_unfreezing") & (drift["seed"] == 0) & (drift["phase"] == 1)
    drift.loc[early, "weight_distance"] = 1000.0
    drift.to_csv(folder / "drift.csv", index=False)
    made = section(compare(load(folder)))
    assert made is not None
    (picture,) = made.pictures
    steady = drift[(drift["seed"] > 0) & (drift["phase"] == 3) & (drift["strategy"] == "gradual_unfreezing")]
    data = picture.data.query("strategy == 'gradual_unfreezing'").set_index("group")
    expected = steady.groupby("group")["weight_distance"].mean()
    assert data["mean"].to_dict() == pytest.approx(expected.to_dict())
    assert set(data["count"]) == {4}


def test_a_frozen_group_is_grey_and_zero_and_small_moves_keep_their_digits(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, Plan(strategies=NAMES, per_class=(10, 100, 0)))
    drift = pd.read_csv(folder / "drift.csv")
    drift.loc[(drift["strategy"] == "fine_tune") & (drift["group"] == "stem"), "weight_distance"] = 2.3e-5
    drift.to_csv(folder / "drift.csv", index=False)
    made = section(compare(load(folder)))
    assert made is not None
    (picture,) = made.pictures
    with theme():
        drawing = picture.draw()
        save(drawing, tmp_path / "drift")
    panel = drawing.axes[0]
    rows = [label.get_text() for label in panel.get_yticklabels()]
    colours = [to_hex(colour) for colour in panel.collections[0].get_facecolor()]
    cells = {
        (rows[i // len(GROUPS)], GROUPS[i % len(GROUPS)]): (colour, text.get_text())
        for i, (colour, text) in enumerate(zip(colours, panel.texts, strict=True))
    }
    frozen = {cell for cell, (colour, text) in cells.items() if (colour, text) == (FROZEN.lower(), "0")}
    assert frozen == {("feature_extraction", group) for group in GROUPS[:-1]}
    assert cells["fine_tune", "stem"][1] == "2e-5"
    assert [colour for colour, _ in cells.values()].count(FROZEN.lower()) == len(frozen)


def test_a_strategy_that_has_not_run_at_a_size_is_blank_there(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, Plan(strategies=NAMES, per_class=(10, 100)))
    drift = pd.read_csv(folder / "drift.csv")
    drift[(drift["strategy"] != "fine_tune") | (drift["per_class"] != 100)].to_csv(folder / "drift.csv", index=False)
    made = section(compare(load(folder)))
    assert made is not None
    (picture,) = made.pictures
    with theme():
        panels = picture.draw().axes
    texts = [[text.get_text() for text in panel.texts] for panel in panels]
    assert "" not in texts[0]
    assert texts[1].count("") in (0, len(GROUPS))
    assert len([text for text in texts[1] if text]) == len(GROUPS) * 2


def test_nothing_moved_is_no_section(tmp_path: Path) -> None:
    assert section(compare(load(write_tables(tmp_path, Plan(strategies={"lda": 0.7, "nearest_mean": 0.6}))))) is None
