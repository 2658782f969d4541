"""Phases: gains paired by seed, adjusted over the phases of a size, and their verdicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import style
from analysis.comparison import compare
from analysis.sections.phases import gains, section, verdict
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables


def test_gains_are_paired_by_seed_between_ends_of_phases(tmp_path: Path) -> None:
    study = compare(load(write_tables(tmp_path, Plan())))
    table = gains(study)
    history = pd.read_csv(tmp_path / "history.csv").query("split == 'val' and metric == 'accuracy'")
    mine = history[history["strategy"] == "gradual_unfreezing"].pivot_table(
        index="seed", columns="epoch", values="value"
    )
    gained = 100 * (mine[10] - mine[5]).to_numpy()
    row = table.query("strategy == 'gradual_unfreezing' and phase == 3").iloc[0]
    half = stats.t.ppf(0.975, 4) * gained.std(ddof=1) / np.sqrt(5)
    assert (row["gain"], row["gain_low"]) == pytest.approx((gained.mean(), gained.mean() - half))
    assert (row["learning"], row["epochs"]) == ("everything", 5)
    assert table.query("phase == 2")["learning"].tolist() == ["stage4 + head", "everything"]
    assert set(table["strategy"]) == {"gradual_unfreezing", "lp_ft"}
    read = pd.read_csv(tmp_path / "history.csv").query(
        "strategy == 'lp_ft' and metric == 'accuracy' and epoch == 5 and split == 'train_end'"
    )
    first = table.query("strategy == 'lp_ft' and phase == 1").iloc[0]
    assert first["train"] == pytest.approx(100 * read["value"].mean())
    assert np.isnan(first["gain"])


def test_verdicts_are_adjusted_over_all_phases_of_a_size(tmp_path: Path) -> None:
    """Gains that stand alone but not together: Holm by hand over two phases of one strategy and one of another."""
    spread = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) / 100
    reached = {  # fractions at the end of each phase, five seeds; each later one gains its number plus the spread
        "gradual_unfreezing": [0.5 + 0 * spread, 0.52 + spread, 0.54 + 2 * spread],
        "lp_ft": [0.5 + 0 * spread, 0.6 + spread],
    }
    rows = [
        {"role": "final", "strategy": name, "per_class": 100, "lr_scale": 1.0, "seed": seed, "phase": phase}
        | {"epoch": phase, "split": "val", "metric": "accuracy", "value": value}
        for name, phases in reached.items()
        for phase, values in enumerate(phases, start=1)
        for seed, value in enumerate(values)
    ]
    tables = load(write_tables(tmp_path, Plan(epochs=4)))
    table = gains(compare(replace(tables, history=pd.DataFrame(rows))))
    by_phase = table.set_index(["strategy", "phase"])["p_holm"]
    small, large = (stats.ttest_1samp(100 * spread + gain, 0).pvalue for gain in (2, 10))
    assert small < 0.05 < 2 * small
    assert by_phase[("lp_ft", 2)] == pytest.approx(3 * large)
    for phase in (2, 3):
        assert by_phase[("gradual_unfreezing", phase)] == pytest.approx(2 * small)
    assert np.isnan(by_phase[("lp_ft", 1)])
    assert [verdict(row) for row in table.to_dict("records")] == ["–", "can't tell", "can't tell", "–", "yes"]
    lost = {"phase": 2, "k": 5, "gain": -3.0, "p_holm": 0.01}
    assert verdict(lost) == "no, it cost"
    assert verdict({**lost, "k": 4}) == "too few seeds"


def test_the_section_has_a_panel_and_a_table_a_size(tmp_path: Path) -> None:
    study = compare(load(write_tables(tmp_path, Plan(epochs=4, per_class=(10, 100)))))
    found = section(study)
    assert found is not None
    (picture,) = found.pictures
    assert len(picture.data) == len(gains(study)) == 10
    with style.theme():
        drawing = picture.draw()
        drawing.draw_without_rendering()
    assert [panel.get_title(loc="left") for panel in drawing.axes] == ["10 images a class", "100 images a class"]


@pytest.mark.parametrize("plan", [Plan(epochs=4, validation=False), Plan(epochs=4, strategies={"scratch": 0.6})])
def test_without_validation_or_phases_there_is_no_section(tmp_path: Path, plan: Plan) -> None:
    assert section(compare(load(write_tables(tmp_path, plan)))) is None
