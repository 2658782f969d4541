"""Accuracy against time: every default strategy at its mean and its median time, and none flattens the others."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.comparison import compare
from analysis.sections.cost import section
from analysis.style import save, theme
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables


def test_points_lie_at_median_times_and_mean_accuracies_and_what_is_far_below_is_noted(tmp_path: Path) -> None:
    names = {"scratch": 0.2, "feature_extraction": 0.75, "last_block": 0.77, "fine_tune": 0.8, "nearest_mean": 0.7}
    folder = write_tables(tmp_path, Plan(strategies=names, per_class=(10, 100), not_default=("nearest_mean",)))
    (picture,) = section(compare(load(folder))).pictures
    assert set(picture.data["strategy"]) == set(names) - {"nearest_mean"}
    runs = pd.read_csv(folder / "runs.csv").query("per_class == 100").groupby("strategy")
    with theme():
        drawing = picture.draw()
        save(drawing, tmp_path / "cost")
    panel = drawing.axes[1]
    shown = {tuple(point) for points in panel.collections[:1] for point in points.get_offsets().tolist()}
    times, accuracies = runs["seconds"].median(), 100 * runs["test_accuracy"].mean()
    for name in ("feature_extraction", "last_block", "fine_tune"):
        assert any(point == pytest.approx((times[name], accuracies[name]), rel=1e-4) for point in shown)
    assert len(shown) == 3
    assert [text.get_text() for text in panel.texts] == [f"{accuracies['scratch']:.1f} ▾"]
    assert panel.get_ylim()[0] > 60
    (legend,) = drawing.legends
    assert [text.get_text() for text in legend.get_texts()] == list(names)[:4]
