"""What frozen BatchNorm gains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from analysis.markdown import Picture
from analysis.sections import batch_norm
from analysis.style import theme
from tests.analysis.conftest import Plan
from tests.analysis.test_comparison import MANY, TWO, compared


def test_a_single_pair_is_one_sentence_with_the_paired_gain(tmp_path: Path) -> None:
    study = compared(tmp_path, MANY)
    (row,) = batch_norm.gains(study).to_dict("records")
    runs = study.tables.runs.pivot_table(index="seed", columns="strategy", values="test_accuracy")
    gain = 100 * (runs["fine_tune"] - runs["fine_tune_batch_norm_train"]).mean()
    assert (row["strategy"], row["difference"]) == ("fine_tune", pytest.approx(gain))
    section = batch_norm.section(study)
    assert section is not None
    assert str(section.body[0]).startswith(f"With 100 images a class, frozen BatchNorm gives `fine_tune` +{gain:.1f} [")


def test_several_pairs_are_a_figure_and_counts(tmp_path: Path) -> None:
    both = {**TWO, "last_block": 0.8, "fine_tune_batch_norm_train": 0.7, "last_block_batch_norm_train": 0.9}
    names = tuple(name for name in both if name.endswith("train"))
    section = batch_norm.section(compared(tmp_path, replace(MANY, strategies=both, not_default=names)))
    assert section is not None
    picture, words = section.body
    assert isinstance(picture, Picture)
    with theme():
        assert [label.get_text() for label in picture.draw().axes[0].get_yticklabels()] == ["last_block", "fine_tune"]
    assert "frozen is better for 1 of 2 strategies, worse for 1 (−1" in str(words)


def test_a_study_that_ran_nothing_both_ways_has_no_such_section(tmp_path: Path) -> None:
    assert batch_norm.section(compared(tmp_path, Plan(strategies=TWO))) is None
