"""A study's rates.json: refused where it is not what params.yaml asks for, never filled up in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import params
from pipeline.stages import rates, tune
from pipeline.stages.noted import PreparedError
from tests.test_end_to_end import PARAMS

HEIR = """
  heir: {dataset: {folder: images}, backbone: efficientnet_lite0, resolution: 32, per_class: [all], seeds: 2, epochs: 2,
    learning_rates: tuned, rates_from: tiny, strategies: [fine_tune, lda]}
strategies:
"""
TUNED = PARAMS.replace("textbook", "tuned").replace("\nstrategies:\n", HEIR)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], params.Params]:
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> params.Params:
        Path("params.yaml").write_text(text, encoding="utf-8")
        return params.load()

    return write


def test_rates_for_other_parameters_are_refused(load: Callable[[str], params.Params]) -> None:
    loaded = load(PARAMS)
    tune.tune("tiny")
    assert rates.read(loaded, loaded.study("tiny")).scale(3, "fine_tune") == 1.0
    loaded = load(PARAMS.replace("learning_rates: textbook", "learning_rates: 10"))
    with pytest.raises(PreparedError, match="holds other rates than"):
        rates.read(loaded, loaded.study("tiny"))
    tune.tune("tiny")
    assert rates.read(loaded, loaded.study("tiny")).scale(3, "fine_tune") == 10.0


def test_a_rate_that_the_other_study_has_not_tuned_is_not_inherited(load: Callable[[str], params.Params]) -> None:
    loaded = load(TUNED)
    study, place = loaded.study("heir"), rates.place("tiny")
    with pytest.raises(PreparedError, match=r"no tuned rate of fine_tune; run study 'tiny' first \(active: \[tiny\]\)"):
        rates.given(loaded, study)
    place.parent.mkdir(parents=True)
    for content in ({}, {"6": {"feature_extraction": {"lr_scale": 3.0, "tried": {"3": {}}}}},
                    {"6": {"fine_tune": {"lr_scale": 1.0, "tried": {}}}}):  # fmt: skip
        place.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(PreparedError, match="no tuned rate of fine_tune"):
            rates.given(loaded, study)
    place.write_text(json.dumps({"6": {"fine_tune": {"lr_scale": 3.0, "tried": {"3": {}}}}}), encoding="utf-8")
    assert rates.given(loaded, study) == {"0": {"fine_tune": {"lr_scale": 3.0, "tried": {}}}}
    tune.tune("heir")
    place.write_text(json.dumps({"6": {"fine_tune": {"lr_scale": 10.0, "tried": {"3": {}}}}}), encoding="utf-8")
    with pytest.raises(PreparedError, match="holds other rates"):  # tuned anew since
        rates.read(loaded, study)


def test_a_damaged_file_is_named(load: Callable[[str], params.Params]) -> None:
    loaded = load(PARAMS)
    tune.tune("tiny")
    rates.place("tiny").write_text("<<<<<<< HEAD", encoding="utf-8")
    with pytest.raises(PreparedError, match="is no JSON"):
        rates.read(loaded, loaded.study("tiny"))
