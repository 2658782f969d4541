"""Cells that train only a head give the same together as one by one, and are stored and retrained together."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline import execution, heads
from pipeline.strategies import Cell, Phase, Strategy
from pipeline.training import Run, Task, train
from tests.conftest import ALL, STRATEGIES, some_images

CPU = torch.device("cpu")
PLAIN = Strategy("feature_extraction", (Phase(1, {"head": 1e-2}),))
VARIANTS = (
    PLAIN,
    replace(PLAIN, name="no_augmentation", augmentation="none"),
    replace(PLAIN, name="dropout", dropout=0.5),
    replace(PLAIN, name="imagenet", normalisation="imagenet"),
    replace(PLAIN, name="two_phases", phases=(Phase(0.5, {"head": 1e-2}), Phase(0.5, {"head": 1e-4}))),
)


def cells(task: Callable[..., Task], strategy: Strategy, scales: tuple[float, ...] = (0.3, 1, 10)) -> list[Task]:
    """Two seeds of three rates; the seeds train on images of their own."""
    return [
        task(
            strategy.scaled(scale),
            seed=seed,
            cell=Cell("tiny", "pilot", strategy.name, 6, scale, seed),
            train=some_images(12, 30 * seed),
        )
        for seed in (0, 1)
        for scale in scales
    ]


def together(tasks: list[Task]) -> dict[Cell, Run]:
    return {run.cell: run for run in execution.run_all(tasks, CPU, None, lambda *_: None)}


@pytest.mark.parametrize("strategy", VARIANTS, ids=lambda strategy: strategy.name)
def test_heads_trained_together_are_those_trained_one_by_one(task: Callable[..., Task], strategy: Strategy) -> None:
    tasks = cells(task, strategy)
    batched = together(tasks)
    assert len(batched) == len(tasks)
    for one in tasks:
        alone, other = train(one, CPU), batched[one.cell]
        assert other.status == alone.status == "ok"
        assert [(r.phase, r.epoch, r.split, r.metric) for r in other.history] == [
            (r.phase, r.epoch, r.split, r.metric) for r in alone.history
        ]
        values = [[row.value for row in run.history] for run in (other, alone)]
        assert values[0] == pytest.approx(values[1], rel=1e-3, abs=1e-5)
        moved = [{(row.phase, row.group): row.weight_distance for row in run.drift} for run in (other, alone)]
        assert moved[0] == pytest.approx(moved[1], rel=1e-3, abs=1e-9)
        assert other.judged.log_loss == pytest.approx(alone.judged.log_loss, rel=1e-3)
        assert np.array_equal(other.predicted, alone.predicted)
        assert (other.trainable_parameters, other.total_parameters) == (
            alone.trainable_parameters, alone.total_parameters,
        )  # fmt: skip


def test_rates_and_seeds_stay_apart(task: Callable[..., Task]) -> None:
    losses = {cell: run.judged.log_loss for cell, run in together(cells(task, PLAIN)).items()}
    assert len(set(losses.values())) == len(losses)


def test_the_same_cells_together_give_the_same_bytes(task: Callable[..., Task]) -> None:
    one, other = together(cells(task, PLAIN)), together(cells(task, PLAIN))
    for cell, run in one.items():
        assert run.history == other[cell].history
        assert run.judged == other[cell].judged


def test_one_diverged_head_leaves_the_others_alone(task: Callable[..., Task]) -> None:
    runs = together(cells(task, PLAIN, (1, 1e40)))
    assert {run.status for cell, run in runs.items() if cell.lr_scale == 1e40} == {"diverged"}
    assert {run.status for cell, run in runs.items() if cell.lr_scale == 1} == {"ok"}
    broken = next(run for cell, run in runs.items() if cell.lr_scale == 1e40)
    alone = train(next(one for one in cells(task, PLAIN, (1e40,)) if one.cell == broken.cell), CPU)
    assert (broken.judged, broken.train_accuracy, broken.drift) == (alone.judged, alone.train_accuracy, alone.drift)
    assert len(broken.history) == len(alone.history)


def test_only_cells_with_nothing_but_a_head_to_train_are_batched(task: Callable[..., Task]) -> None:
    assert [strategy.name for strategy in STRATEGIES if heads.batchable(strategy)] == ["feature_extraction"]
    assert not heads.batchable(replace(PLAIN, augmentation="crop_and_colour"))
    assert not heads.batchable(replace(PLAIN, frozen_groups="batch_norm_forgotten"))
    assert not heads.batchable(replace(PLAIN, weights="none"))  # every seed has a backbone of its own
    assert not heads.batchable(replace(PLAIN, phases=(Phase(0.5, {"head": 1e-3}), Phase(0.5, ALL))))
    mixed = heads.Together([task(STRATEGIES[3]), *cells(task, PLAIN)], CPU, None)
    assert mixed.alone == [0]
    assert list(mixed.groups.values()) == [[1, 2, 3, 4, 5, 6]]


def test_every_set_of_images_passes_the_backbone_once(task: Callable[..., Task]) -> None:
    tasks = cells(task, PLAIN) + cells(task, VARIANTS[2])
    ready = heads.Together(tasks, CPU, None)
    # Two seeds' training images in two views, the watched and the judged images: shared by rates and by dropout.
    assert len(ready.pieces) == 2 * 2 + 1 + 1
    assert len(heads.Together(tasks + cells(task, VARIANTS[3]), CPU, None).pieces) == 2 * 6


def test_features_over_the_budget_are_not_kept_and_the_log_says_so(
    task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(heads, "BUDGET", 1000)
    tasks = cells(task, PLAIN, (1,))
    with caplog.at_level(logging.INFO):
        runs = together(tasks)
    assert "heads are trained one by one" in caplog.text
    assert len(runs) == 2
