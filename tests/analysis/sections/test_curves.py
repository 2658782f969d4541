"""Learning curves: means of the runs that did not diverge, phases, and a loss axis that shows validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from analysis.comparison import Comparison, compare
from analysis.markdown import Picture
from analysis.sections.curves import section
from analysis.style import save, theme
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables

TWO = {"feature_extraction": 0.75, "gradual_unfreezing": 0.79}


def study(folder: Path, **plan: Any) -> Comparison:
    return compare(load(write_tables(folder, Plan(**plan))))


def pictures(of: Comparison) -> dict[str, Picture]:
    made = section(of)
    assert made is not None
    return {picture.name: picture for picture in made.pictures}


def test_a_point_is_the_mean_over_seeds_with_its_t_interval(tmp_path: Path) -> None:
    of = study(tmp_path, strategies=TWO)
    data = pictures(of)["curves_accuracy"].data
    (row,) = data.query("strategy == 'feature_extraction' and split == 'val' and epoch == 3").to_dict("records")
    history = pd.read_csv(tmp_path / "history.csv").query("strategy == 'feature_extraction' and metric == 'accuracy'")
    values = 100 * history.query("split == 'val' and epoch == 3")["value"]
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert [row["mean"], row["low"], row["high"], row["n"]] == pytest.approx([values.mean(), low, high, 5])


def test_runs_that_diverged_are_left_out_and_heads_in_closed_form_have_no_curve(tmp_path: Path) -> None:
    gone = [("fine_tune", 0), *(("scratch", seed) for seed in range(5))]
    of = study(tmp_path, strategies={**TWO, "scratch": 0.6, "fine_tune": 0.8, "lda": 0.7}, diverged=gone)
    for picture in pictures(of).values():
        counts = picture.data.groupby("strategy")["n"].unique().map(list).to_dict()
        assert counts == {"feature_extraction": [5], "gradual_unfreezing": [5], "fine_tune": [4]}
        assert "without runs that diverged" in picture.caption


def test_phases_end_where_the_runs_changed_what_learns(tmp_path: Path) -> None:
    picture = pictures(study(tmp_path, strategies=TWO, per_class=(10, 100)))["curves_accuracy"]
    with theme():
        panels = {panel.get_title(loc="left"): panel for panel in picture.draw().axes}
    dotted = {
        name: sorted(float(line.get_xdata()[0]) for line in panel.lines if line.get_linestyle() == ":")  # type: ignore[index]
        for name, panel in panels.items()
    }
    assert dotted == {
        "feature_extraction": [],
        "gradual_unfreezing": [2.5, 5.5],
    }  # a quarter and a half of ten, rounded


def test_a_training_loss_near_zero_does_not_flatten_the_validation_losses(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, Plan(strategies=TWO))
    history = pd.read_csv(folder / "history.csv")
    late = (history["split"] == "train") & (history["metric"] == "loss") & (history["epoch"] > 5)
    history.loc[late, "value"] = 1e-6
    history.to_csv(folder / "history.csv", index=False)
    picture = pictures(compare(load(folder)))["curves_loss"]
    lowest = picture.data.query("split == 'val'")["mean"].min()
    with theme():
        assert picture.draw().axes[0].get_ylim()[0] == pytest.approx(lowest / 10 / 1.15)


def test_training_alone_is_shown_whole_and_called_so(tmp_path: Path) -> None:
    made = pictures(study(tmp_path, strategies=TWO, validation=False, seeds=(0,)))
    assert "validation" not in made["curves_loss"].caption + made["curves_loss"].alt
    for picture in made.values():
        with theme():
            drawing = picture.draw()
            (legend,) = drawing.legends
            assert [text.get_text() for text in legend.get_texts()] == ["100 images a class"]
            assert drawing.get_supylabel().startswith("training ")
            assert {line.get_linestyle() for panel in drawing.axes for line in panel.lines} <= {"-", ":"}
            save(drawing, tmp_path / picture.name)


def test_the_caption_counts_the_seeds_of_what_is_drawn(tmp_path: Path) -> None:
    once = [("lda", seed) for seed in range(1, 5)]  # a head in closed form, not drawn
    made = pictures(study(tmp_path, strategies={**TWO, "lda": 0.7}, missing=once))
    assert all("mean of 5 seeds" in picture.caption for picture in made.values())


def test_nothing_trained_has_no_curves(tmp_path: Path) -> None:
    assert section(study(tmp_path, strategies={"lda": 0.7, "nearest_mean": 0.6})) is None
