"""All pairs: the forest plot, the maps and the table repeat the paired differences by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.comparison import Comparison, compare
from analysis.markdown import Picture, Section, Table
from analysis.sections.pairs import section
from analysis.style import save, theme
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables

THREE = {"scratch": 0.4, "feature_extraction": 0.75, "fine_tune": 0.8}


def study(folder: Path, **plan: Any) -> Comparison:
    return compare(load(write_tables(folder, Plan(**plan))))


def found(of: Comparison) -> tuple[Section, dict[str, Picture], list[Table]]:
    made = section(of)
    assert made is not None
    return made, {p.name: p for p in made.pictures}, [part for part in made.body if isinstance(part, Table)]


def accuracies(of: Comparison) -> pd.DataFrame:
    return of.tables.runs.pivot_table(index="seed", columns="strategy", values="judged") * 100


def test_the_forest_plot_holds_each_strategy_against_the_reference_whichever_stands_first(tmp_path: Path) -> None:
    of = study(tmp_path, strategies=THREE)
    _, pictures, _ = found(of)
    data, runs = pictures["forest"].data.set_index("strategy"), accuracies(of)
    assert list(data.index) == ["scratch", "fine_tune"]
    for name, row in data.iterrows():
        d = runs[name] - runs["feature_extraction"]
        low, high = stats.ttest_1samp(d, 0).confidence_interval(0.95)
        assert [row["difference"], row["low"], row["high"]] == pytest.approx([d.mean(), low, high])
        assert row["low_new_images"] < row["difference"] < row["high_new_images"]


def test_a_map_reads_row_minus_column_once_a_pair_and_what_is_told_apart_is_bold(tmp_path: Path) -> None:
    of = study(tmp_path, strategies={**THREE, "last_block": 0.75}, seed_sd=0.1, run_sd=1.0)
    _, pictures, _ = found(of)
    with theme():
        (panel,) = pictures["pairs"].draw().axes
    columns, rows = ([t.get_text() for t in labels] for labels in (panel.get_xticklabels(), panel.get_yticklabels()))
    assert (columns, rows) == (
        ["scratch", "feature_extraction", "last_block"],
        ["feature_extraction", "last_block", "fine_tune"],
    )
    means, told = accuracies(of).mean(), set()
    assert len(panel.texts) == 6
    for text in panel.texts:
        x, y = text.get_position()
        a, b = columns[int(x)], rows[int(y)]
        difference = float(text.get_text().split("\n")[0].replace("−", "-"))
        assert difference == pytest.approx(means[b] - means[a], abs=0.051)
        if text.get_fontweight() == "bold":
            told.add((a, b))
    decided = of.pairs[of.pairs["p_holm"] < 0.05]
    assert told == set(zip(decided["a"], decided["b"], strict=True))
    assert 3 <= len(told) < 6, "this test needs both kinds"


def test_every_pair_stands_in_the_table_and_one_outside_of_the_families_is_not_adjusted(tmp_path: Path) -> None:
    names = {**THREE, "fine_tune_batch_norm_train": 0.78, "nearest_mean": 0.7}
    of = study(tmp_path, strategies=names, not_default=("fine_tune_batch_norm_train", "nearest_mean"))
    _, _, (table,) = found(of)
    rows = {tuple(row[0].replace("`", "").split(" − ")): row for row in table.rows}
    assert len(rows) == 10
    assert rows["nearest_mean", "scratch"][3] == "not adjusted"
    families = [("fine_tune", "scratch"), ("fine_tune_batch_norm_train", "fine_tune")]
    assert all(rows[pair][3] != "not adjusted" for pair in families)
    runs = accuracies(of)
    won = int((runs["fine_tune"] > runs["feature_extraction"]).sum())
    assert rows["fine_tune", "feature_extraction"][4] == f"{won} of 5"


def test_a_pair_without_a_test_says_why_and_has_no_place_on_the_map(tmp_path: Path) -> None:
    four = {**THREE, "last_block": 0.77}
    of = study(tmp_path, strategies=four, missing=[("fine_tune", seed) for seed in range(1, 5)])
    _, pictures, (table,) = found(of)
    assert [row[1] for row in table.rows if "`fine_tune`" in row[0]] == ["fewer than two shared seeds"] * 3
    assert list(pictures["forest"].data["strategy"]) == ["scratch", "last_block"]
    assert "over all 3 pairs" in pictures["pairs"].caption
    with theme():
        (panel,) = pictures["pairs"].draw().axes
    assert len(panel.texts) == 3
    assert [t.get_text() for t in panel.get_yticklabels()] == ["feature_extraction", "last_block"]


def test_one_strategy_has_no_pairs_and_without_the_reference_there_is_no_forest_plot(tmp_path: Path) -> None:
    assert section(study(tmp_path / "one", strategies={"fine_tune": 0.8})) is None
    _, pictures, _ = found(study(tmp_path / "two", strategies={"fine_tune": 0.8, "lp_ft": 0.7, "scratch": 0.5}))
    assert set(pictures) == {"pairs"}


def test_two_sizes_are_a_map_and_a_table_each_and_draw(tmp_path: Path) -> None:
    _, pictures, tables = found(study(tmp_path, strategies=THREE, per_class=(10, 0), seeds=(0, 1, 2)))
    assert set(pictures) == {"forest", "pairs_10", "pairs_all"}
    assert len(tables) == 2
    for picture in pictures.values():
        with theme():
            save(picture.draw(), tmp_path / picture.name)


def test_training_from_random_weights_does_not_take_all_the_colours(tmp_path: Path) -> None:
    _, pictures, _ = found(study(tmp_path, strategies=THREE))
    with theme():
        (panel,) = pictures["pairs"].draw().axes
    near = pictures["pairs"].data.query("a == 'feature_extraction'")["difference"].iloc[0]
    assert panel.collections[0].get_clim() == pytest.approx((-near, near))
    assert np.abs(pictures["pairs"].data["difference"]).max() > 5 * near
