"""Figures: every one is drawn from plain tables, readable, and the same from one time to the next."""

from __future__ import annotations

from io import BytesIO
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import plots

NAMES = ["scratch", "feature_extraction", "fine_tune", "mine"]


def png(figure: Figure) -> bytes:
    buffer = BytesIO()
    with mpl.rc_context(plots.STYLE):
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def summary_of(sizes: tuple[int, ...] = (100,)) -> pd.DataFrame:
    rows = [
        {
            "per_class": size,
            "strategy": name,
            "seconds": 2.0 + i * 9,
            "judged": 70.0 + i,
            "judged_low": 68.0 + i,
            "judged_high": 72.0 + i,
        }
        for size in sizes
        for i, name in enumerate(NAMES)
    ]
    return pd.DataFrame(rows)


def runs_of(sizes: tuple[int, ...] = (100,)) -> pd.DataFrame:
    summary = summary_of(sizes)
    parts = [summary.assign(seed=seed, status="ok", judged=summary["judged"] + seed) for seed in (-1, 1)]
    return pd.concat(parts, ignore_index=True)


def history_of(splits: tuple[str, ...] = ("train", "val")) -> pd.DataFrame:
    rows = [
        {"strategy": name, "seed": seed, "epoch": epoch, "split": split, "value": 50.0 + epoch, "status": "ok"}
        for name in NAMES
        for seed in (0, 1)
        for epoch in (1, 2, 3)
        for split in splits
    ]
    return pd.DataFrame(rows)


def test_the_nine_default_strategies_look_the_same_in_every_report_and_unlike_each_other() -> None:
    looks = plots.looks_of(["lp_ft", "scratch"])
    assert looks["scratch"] == plots.looks_of(NAMES)["scratch"]
    every = plots.looks_of([*plots.FIXED_LOOKS, "mine", "yours"])
    assert len(set(every.values())) == 11
    assert len({colour for colour, _ in plots.FIXED_LOOKS.values()}) == len(plots.FIXED_LOOKS) == 9


def test_numbers_carry_a_printed_sign_and_zero_none() -> None:
    assert [plots.signed(value) for value in (1.25, -0.04, -3.0)] == ["+1.2", "0.0", "−3.0"]


def test_rates_are_written_as_people_write_them() -> None:
    assert [plots.rate_text(rate) for rate in (1e-2, 1e-4, 3e-5, 2.5e-3)] == ["1e-2", "1e-4", "3e-5", "2.5e-3"]


def test_what_lies_far_outside_does_not_flatten_the_rest() -> None:
    near = {"a": (80.0, 84.0), "b": (78.0, 83.0), "c": (79.0, 82.0)}
    assert plots.core(near) == (78.0, 84.0, [])
    assert plots.core(near | {"scratch": (30.0, 35.0)}) == (78.0, 84.0, ["scratch"])
    # Never more than half: then the picture is about the gap.
    assert plots.core({"a": (80.0, 81.0), "b": (20.0, 21.0), "c": (22.0, 23.0)})[2] == ["a"]


def test_a_strategy_outside_of_the_picture_is_pointed_at_with_its_number() -> None:
    runs, summary = runs_of(), summary_of()
    for frame in (runs, summary):
        columns = [name for name in frame if str(name).startswith("judged")]
        frame.loc[frame["strategy"] == "scratch", columns] -= 50
    figure = plots.accuracy(runs, summary, plots.looks_of(NAMES), baseline=10.0, metric="test accuracy")
    words = [text.get_text() for text in figure.findobj(Text)]  # type: ignore[union-attr]
    assert "◀ 20.0, outside" in words
    png(figure)


@pytest.mark.parametrize("sizes", [(100,), (10, 100, 1000)])
def judged_cost_and_sizes_are_drawn_for_one_size_and_for_several(sizes: tuple[int, ...]) -> None:
    looks = plots.looks_of(NAMES)
    for figure in (
        plots.accuracy(runs_of(sizes), summary_of(sizes), looks, baseline=66.0, metric="balanced accuracy"),
        plots.cost(runs_of(sizes), summary_of(sizes), looks, "balanced accuracy"),
        plots.sizes(summary_of(sizes), looks, "balanced accuracy"),
    ):
        assert figure.get_size_inches()[0] * plots.DPI == pytest.approx(1005)
        assert png(figure)[:4] == b"\x89PNG"


def test_a_forest_plot_writes_its_numbers_and_says_where_there_are_none() -> None:
    pairs = pd.DataFrame(
        {
            "per_class": [100, 100],
            "strategy": ["scratch", "fine_tune"],
            "difference": [np.nan, 4.0],
            "low": [np.nan, 1.0],
            "high": [np.nan, 7.0],
            "low_new_images": [np.nan, 0.5],
            "high_new_images": [np.nan, 7.5],
            "p_holm": [np.nan, 0.01],
        }
    )
    seeds = pd.DataFrame({"per_class": [100, 100], "strategy": "fine_tune", "difference": [3.0, 5.0]})
    figure = plots.forest(pairs, seeds, plots.looks_of(NAMES), "points")
    words = [text.get_text() for text in figure.findobj(Text)]  # type: ignore[union-attr]
    assert "+4.0  [+1.0, +7.0]" in words
    assert "no numbers" in words
    png(figure)


def test_the_matrix_of_pairs_reads_row_minus_column_whatever_the_order_of_a_pair() -> None:
    rows = [
        {"a": a, "b": b, "k": 5, "difference": 3.0, "low": 1.0, "high": 5.0, "p_holm": 0.01}
        for a, b in combinations(NAMES, 2)
    ]
    rows[0] = {"a": "feature_extraction", "b": "scratch", "k": 5, "difference": -3.0, "low": -5.0, "high": -1.0}
    rows[0]["p_holm"] = 0.01
    rows[1] |= {"difference": np.nan}
    figure = plots.pair_matrix(pd.DataFrame(rows), NAMES)
    words = [text.get_text() for text in figure.findobj(Text)]  # type: ignore[union-attr]
    assert words.count("+3.0") == 5
    assert words.count("[1.0, 5.0]\np 0.010") == 5
    assert "no test:\nidentical\ndifferences" in words
    png(figure)


@pytest.mark.parametrize("splits", [("train", "val"), ("train",)])
@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_curves_are_drawn_with_phase_borders_and_without_validation(splits: tuple[str, ...], metric: str) -> None:
    borders = {"fine_tune": [1, 2]}
    figure = plots.curves(history_of(splits), NAMES, plots.looks_of(NAMES), borders, metric)
    titled = {panel.get_title(loc="left"): panel for panel in figure.axes}
    dashed = [line for line in titled["fine_tune"].lines if line.get_linestyle() == "--" and len(line.get_xdata()) == 2]  # type: ignore[arg-type]
    assert sorted(float(np.asarray(line.get_xdata())[0]) for line in dashed) == [1.5, 2.5]
    png(figure)


def test_a_training_loss_near_zero_does_not_flatten_the_validation_losses() -> None:
    history = history_of()
    watched = history["split"] == "val"
    history["value"] = np.where(watched, 1.5 + history["epoch"] / 10, 10.0 ** -history["epoch"])
    floor = plots.loss_floor(history)
    assert floor == pytest.approx(1.6 / plots.TRAINING_BELOW_VALIDATION)
    figure = plots.curves(history, NAMES, plots.looks_of(NAMES), {}, "loss")
    assert {panel.get_ylim()[0] for panel in figure.axes if panel.lines} == {floor}
    png(figure)
    assert plots.loss_floor(history[watched]) is None
    assert plots.loss_floor(history[~watched]) is None, "training alone is shown whole"


def test_a_strategy_whose_runs_all_diverged_says_so_in_its_panel() -> None:
    history = history_of()
    gone = history["strategy"] == "scratch"
    history.loc[gone, "status"] = "diverged"
    history.loc[gone & (history["epoch"] == 3), "value"] = np.nan
    figure = plots.curves(history, NAMES, plots.looks_of(NAMES), {}, "loss")
    assert "every run diverged" in [text.get_text() for text in figure.findobj(Text)]  # type: ignore[union-attr]
    png(figure)


@pytest.mark.parametrize("count", [1, 4, 7])
def test_a_sweep_is_drawn_for_any_number_of_rates(count: int) -> None:
    scales = [10.0**i for i in range(count, 0, -1)]
    history = pd.concat(
        history_of().query("strategy == 'mine'").assign(lr_scale=scale, metric=metric)
        for scale in scales
        for metric in ("accuracy", "loss")
    )
    png(plots.sweep_curves(history, scales, [plots.rate_text(scale) for scale in scales]))
    means = pd.DataFrame({"rate": scales, "train": 80.0, "val": np.nan, "test": 70.0, "drift": 0.1})
    png(plots.sweep_rates(means.assign(seed=0, status="ok"), means, "rate", "test accuracy"))


def test_drift_shows_zero_as_frozen_and_small_numbers_without_losing_them() -> None:
    table = pd.DataFrame({"strategy": "mine", "group": ["stem", "stage1", "head"], "weight_distance": [0, 2e-5, 0.3]})
    figure = plots.drift(table, ["mine"], ["stem", "stage1", "head"])
    assert {"0", "2e-05", "0.3"} <= {text.get_text() for text in figure.findobj(Text)}  # type: ignore[union-attr]
    png(figure)


def test_nothing_moved_at_all_is_still_a_picture() -> None:
    table = pd.DataFrame({"strategy": "mine", "group": ["stem", "head"], "weight_distance": [0.0, 0.0]})
    png(plots.drift(table, ["mine"], ["stem", "head"]))


def test_phases_recall_and_claims_are_drawn() -> None:
    ends = pd.DataFrame({"strategy": "mine", "seed": [0, 0, 1, 1], "phase": [1, 2, 1, 2], "value": [60.0, 70, 62, 71]})
    means = pd.DataFrame(
        {"strategy": "mine", "phase": [1, 2], "mean": [61.0, 70.5], "low": [np.nan, 60.0], "high": [np.nan, 80.0]}
    )
    png(plots.phases(ends, means, {"mine": ["head", "all"]}, plots.looks_of(NAMES)))
    recall = pd.DataFrame({"strategy": "mine", "class": ["a", "b"], "recall": [50.0, 50.0]})
    png(plots.recall(recall, ["mine"], ["a", "b"]))
    claims = pd.DataFrame(
        {
            "id": ["one", "two"],
            "effect": [3.0, 0.0],
            "low": [1.0, -2.0],
            "high": [5.0, 2.0],
            "margin": [1.0, 1.0],
            "verdict": ["supported", "open"],
        }
    )
    png(plots.claims(claims))


def test_the_same_table_gives_the_same_bytes() -> None:
    looks = plots.looks_of(NAMES)
    first, second = (png(plots.cost(runs_of(), summary_of(), looks, "test accuracy")) for _ in range(2))
    assert first == second
