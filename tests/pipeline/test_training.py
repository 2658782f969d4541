"""One cell in, one run out: the same bytes, with and without the shortcut, and a diverged run is a result."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline import execution, prefix
from pipeline.augmentation import Draws, augment
from pipeline.strategies import Phase, Strategy
from pipeline.training import NUMERICS_VERSION, OutOfMemory, Run, Task, Training, train
from tests.conftest import ALL, HEAD, STRATEGIES, some_images

CPU = torch.device("cpu")


def same(a: Run, b: Run) -> bool:
    return replace(a, seconds=0, predicted=None) == replace(b, seconds=0, predicted=None) and np.array_equal(  # type: ignore[arg-type]
        a.predicted, b.predicted
    )


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
def test_the_same_task_gives_the_same_run_bit_for_bit(task: Callable[..., Task], strategy: Strategy) -> None:
    one = train(task(strategy), CPU)
    torch.manual_seed(99)  # the caller's random state must not matter
    assert same(one, train(task(strategy), CPU))
    assert {row.epoch for row in one.history} == {1, 2, 3, 4}
    assert len(one.history) == 4 * 2 * 2
    assert len(one.drift) == 6 * len(strategy.phases)


def test_another_seed_gives_another_run(task: Callable[..., Task]) -> None:
    assert not same(train(task(STRATEGIES[1]), CPU), train(task(STRATEGIES[1], seed=1), CPU))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
def test_weights_and_predictions_are_the_same_without_the_prefix_shortcut(
    task: Callable[..., Task], strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained() -> tuple[Training, Run]:
        training = Training(task(strategy), CPU, None)
        return training, training.run(lambda epoch: None)

    fast, fast_run = trained()
    monkeypatch.setattr(prefix, "fits", lambda *_: False)
    slow, slow_run = trained()
    for key, weight in fast.model.state_dict().items():
        torch.testing.assert_close(weight, slow.model.state_dict()[key], rtol=1e-3, atol=2e-4, msg=key)
    assert np.array_equal(fast_run.predicted, slow_run.predicted)
    assert fast_run.judged.log_loss == pytest.approx(slow_run.judged.log_loss, rel=1e-2)


def test_the_shortcut_starts_behind_the_frozen_stretch_only_where_that_is_right() -> None:
    head = Phase(1, HEAD)
    assert prefix.start_of(Strategy("s", (head,)), head) == "head"
    middle = Phase(1, {"stage3": 1e-4, **HEAD})  # stage4 is frozen too, but behind a learning group
    assert prefix.start_of(Strategy("s", (middle,)), middle) == "stage3"
    assert prefix.start_of(Strategy("s", (head,), augmentation="crop_and_colour"), head) == "stem"
    assert prefix.start_of(Strategy("s", (head,), frozen_groups="batch_norm_forgotten"), head) == "stem"


def test_activations_over_the_budget_are_not_kept_and_the_log_says_so(
    task: Callable[..., Task], caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(task(STRATEGIES[1]), CPU, None)
    training.model.eval()
    sample = next(training.normalised(training.train_images))[:1]
    with caplog.at_level(logging.INFO):
        assert not prefix.fits(training.model, "stage1", sample, 100, budget=1000)
    assert "no prefix shortcut at stage1" in caplog.text
    assert prefix.fits(training.model, "stage1", sample, 1)


def test_a_diverged_run_stops_predicts_class_0_and_is_flagged(task: Callable[..., Task]) -> None:
    strategy = Strategy("fine_tune", (Phase(1, dict.fromkeys(ALL, 1e30)),))
    run = train(task(strategy), CPU)
    assert run.status == "diverged"
    assert not run.predicted.any()
    assert run.judged.accuracy == run.train_accuracy == run.val_accuracy == 0.5
    assert run.judged.log_loss == pytest.approx(math.log(2))
    assert max((row.epoch for row in run.history), default=0) < 4
    assert all(math.isfinite(row.value) for row in run.history)


def test_validation_is_blank_where_nothing_is_left_to_watch(task: Callable[..., Task]) -> None:
    run = train(task(STRATEGIES[1], watched=some_images(0, 50)), CPU)
    assert run.val_accuracy is None
    assert {row.split for row in run.history} == {"train"}


def test_the_augmentation_of_an_image_depends_on_seed_epoch_and_image_alone() -> None:
    few, many = Draws.of(3, 7, 10), Draws.of(3, 7, 500)
    assert np.array_equal(few.uniform, many.uniform[:10])
    assert not np.array_equal(few.uniform, Draws.of(3, 8, 10).uniform)
    images = torch.rand(4, 3, 8, 8) * 255
    for kind in ("flip", "crop_and_colour"):
        together = augment(images, np.array([5, 2, 9, 0]), few, kind)  # type: ignore[arg-type]
        alone = augment(images[2:3], np.array([9]), few, kind)  # type: ignore[arg-type]
        torch.testing.assert_close(together[2:3], alone)
        assert together.min() >= 0
        assert together.max() <= 255


def test_dropout_narrows_nothing_in_evaluation_and_changes_training(task: Callable[..., Task]) -> None:
    plain, dropped = (Strategy("s", (Phase(1, HEAD),), dropout=p) for p in (0.0, 0.5))
    assert not same(train(task(plain), CPU), train(task(dropped), CPU))
    assert same(train(task(dropped), CPU), train(task(dropped), CPU))


def test_out_of_memory_names_the_settings_to_lower(task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Training, "step", full)
    with pytest.raises(OutOfMemory, match=r"lower resolution \(now 32\) or batch_size \(now 5\)"):
        train(task(STRATEGIES[3]), CPU)


def test_cells_trained_side_by_side_are_those_trained_one_by_one(
    task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAW_WORKERS", "2")
    tasks = [task(STRATEGIES[2], seed=seed) for seed in range(3)]
    epochs: list[tuple[int, int]] = []
    together = {run.cell.seed: run for run in execution.run_all(tasks, CPU, None, lambda *seen: epochs.append(seen))}
    assert all(same(together[seed], train(tasks[seed], CPU)) for seed in range(3))
    assert sorted(epochs) == [(number, epoch) for number in range(3) for epoch in range(1, 5)]


def test_an_error_in_a_cell_reaches_the_caller(task: Callable[..., Task]) -> None:
    broken = task(STRATEGIES[1], backbone="no_such_backbone")
    with pytest.raises(KeyError, match="no_such_backbone"):
        list(execution.run_all([broken], CPU, None, lambda *_: None))


def test_golden_cell_results_change_only_with_the_numerics_version(task: Callable[..., Task]) -> None:
    """Where this fails, results have changed: raise NUMERICS_VERSION, then write the new numbers here.

    Loose enough for another CPU, far tighter than any change of method.
    """
    run = train(task(STRATEGIES[5]), CPU)
    losses = [row.value for row in run.history if row.split == "train" and row.metric == "loss"]
    distances = {row.group: row.weight_distance for row in run.drift if row.phase == 3}
    assert NUMERICS_VERSION == 1
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=5e-3)
    assert distances == pytest.approx(GOLDEN_DISTANCES, rel=2e-2)


GOLDEN_LOSSES = [0.6941, 0.67794, 0.69327, 0.69313]
GOLDEN_DISTANCES = {
    "stem": 0.001417, "stage1": 0.003012, "stage2": 0.004365, "stage3": 0.008053, "stage4": 0.009385, "head": 1.277234,
}  # fmt: skip
