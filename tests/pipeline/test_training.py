"""One cell in, one run out: the same bytes, with and without what is kept, and a diverged run is a result."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import activations, augmentation, backbones, prefix
from pipeline.strategies import Phase, Strategy
from pipeline.training import (
    NUMERICS_VERSION,
    OutOfMemory,
    Run,
    SingleImageBatch,
    Task,
    Training,
    default_precision,
    refuse_single_batches,
    surroundings,
    train,
)
from tests.conftest import ALL, BY_NAME, HEAD, STRATEGIES, same, some_images

CPU = torch.device("cpu")


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
def test_the_same_task_gives_the_same_run_bit_for_bit(task: Callable[..., Task], strategy: Strategy) -> None:
    one = train(task(strategy), CPU)
    torch.manual_seed(99)  # the caller's random state must not matter
    assert same(one, train(task(strategy), CPU))
    rows = {split: [row for row in one.history if row.split == split] for split in ("train", "val", "train_end")}
    assert all([row.epoch for row in rows[split]] == [1, 1, 2, 2, 3, 3, 4, 4] for split in ("train", "val"))
    assert [row.phase for row in rows["train_end"]] == [
        number for number, _ in enumerate(strategy.phases, start=1) for _ in ("loss", "accuracy")
    ]
    assert one.train_accuracy == rows["train_end"][-1].value
    assert len(one.history) == sum(len(found) for found in rows.values())
    assert len(one.drift) == 6 * len(strategy.phases)


def test_another_seed_gives_another_run(task: Callable[..., Task]) -> None:
    assert not same(train(task(STRATEGIES[1]), CPU), train(task(STRATEGIES[1], seed=1), CPU))


@pytest.mark.parametrize("augmentation", ["none", "flip"])
def test_the_training_curve_is_what_the_batches_had_before_their_steps(
    task: Callable[..., Task], augmentation: str
) -> None:
    still = Strategy("s", (Phase(1, dict.fromkeys(ALL, 1e-30)),), augmentation=augmentation)  # type: ignore[arg-type]
    one = task(still, epochs=2)
    training = Training(one, CPU, None)
    run = training.run(lambda epoch: None)
    losses = {(row.split, row.epoch): row.value for row in run.history if row.metric == "loss"}
    right = {(row.split, row.epoch): row.value for row in run.history if row.metric == "accuracy"}
    if augmentation == "none":  # nothing moves and nothing is drawn, so both ways of reading it agree
        assert losses["train", 2] == pytest.approx(losses["train_end", 2], rel=1e-5)
        assert right["train", 2] == right["train_end", 2]
    else:
        assert losses["train", 1] != losses["train", 2]
    assert ("train_end", 1) not in losses


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
    sample = next(training.normalised(training.train_images.pixels))[:1]
    with caplog.at_level(logging.INFO):
        assert not prefix.fits(training.model, "stage1", sample, 100, budget=1000)
    assert "no prefix shortcut at stage1" in caplog.text
    assert prefix.fits(training.model, "stage1", sample, 1)


def cached(strategy: Strategy, one: Task, folder: Path) -> list[str]:
    """Fill the cache of activations with what a cell reads: the starts of the sets it wants."""
    model = backbones.build(one.backbone, 2, "pretrained", torch.Generator(), state=None).requires_grad_(False).eval()
    wanted = activations.missing(activations.needed(one), folder)
    parts = ((piece, activations.compute(piece, model, CPU)) for piece in activations.pieces(wanted))
    with surroundings(one, CPU):
        activations.store(parts, folder)
    return [set_.start for set_ in wanted]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["feature_extraction", "last_block"])
def test_kept_activations_change_no_byte_of_a_run(
    task: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, precision: str
) -> None:
    images = {"judged": some_images(150, 18), "watched": some_images(130, 200)}  # more than a batch of evaluation
    one = task(BY_NAME[name], epochs=2, precision=precision, **images)
    alone = train(one, CPU)
    assert cached(one.strategy, one, tmp_path)
    read = []
    kept = activations.kept

    def watched(*asked: object) -> Tensor | None:
        read.append(kept(*asked))  # type: ignore[arg-type]
        return read[-1]

    monkeypatch.setattr(activations, "kept", watched)
    assert same(alone, train(replace(one, activations=tmp_path), CPU))
    assert sum(rows is not None for rows in read) == (4 if name == "feature_extraction" else 2)


def test_images_that_are_not_kept_are_never_all_in_memory_as_floats(
    task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 0
    normalise = augmentation.normalise

    def measured(images: Tensor, *rest: object) -> Tensor:
        nonlocal largest
        largest = max(largest, len(images))
        return normalise(images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(augmentation, "normalise", measured)
    monkeypatch.setattr("pipeline.training.EVALUATION_BATCH", 4)
    training = Training(task(BY_NAME["fine_tune"], epochs=1), CPU, None)
    assert training.run(lambda epoch: None).status == "ok"
    assert largest == 4  # of 12: batches of 4 are trained on, and 4 are evaluated at a time


def test_weights_go_back_to_the_end_of_the_head_phase_before_anything_is_evaluated_for_the_last_time(
    task: Callable[..., Task],
) -> None:
    phases = (Phase(0.5, HEAD), Phase(0.5, ALL))
    plain = Strategy("lp_ft", phases, batch_norm="train")
    ends: dict[float, dict[str, Tensor]] = {}
    runs = {}
    for share in (0.0, 0.5, 1.0):
        training = Training(task(replace(plain, interpolate=share)), CPU, None)
        runs[share] = training.run(lambda epoch: None)
        ends[share] = training.model.state_dict()
    steps = [[row for row in run.history if row.split == "train"] for run in runs.values()]
    assert steps[0] == steps[1] == steps[2]
    assert [row for row in runs[0.0].history if row.epoch < 4] == [row for row in runs[0.5].history if row.epoch < 4]
    losses = {run.history[-2].value for run in runs.values()}  # `train_end` is that of the model that is judged
    assert [row.split for row in runs[0.5].history[-2:]] == ["train_end", "train_end"]
    assert len(losses) == 3
    assert sum(row.weight_distance for row in runs[1.0].drift if row.phase == 2 and row.group != "head") == 0
    assert runs[0.0].judged.log_loss != runs[0.5].judged.log_loss
    first = Training(task(plain), CPU, None)
    list(first.phase(1, phases[0], 2, 0))
    moved = 0
    for key, there in first.model.state_dict().items():
        if not there.is_floating_point():
            continue
        assert torch.equal(ends[1.0][key], there), key
        torch.testing.assert_close(ends[0.5][key], (ends[0.0][key] + there) / 2, msg=key)
        moved += not torch.equal(ends[0.0][key], there)
    assert moved > 200  # weights and BatchNorm statistics


def test_interpolation_without_a_head_phase_is_refused(task: Callable[..., Task]) -> None:
    with pytest.raises(ValueError, match="no phase in which the head alone learns"):
        train(task(replace(BY_NAME["fine_tune"], interpolate=0.5)), CPU)


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
    assert {row.split for row in run.history} == {"train", "train_end"}


def test_dropout_narrows_nothing_in_evaluation_and_changes_training(task: Callable[..., Task]) -> None:
    plain, dropped = (Strategy("s", (Phase(1, HEAD),), dropout=p) for p in (0.0, 0.5))
    assert not same(train(task(plain), CPU), train(task(dropped), CPU))
    assert same(train(task(dropped), CPU), train(task(dropped), CPU))


def test_a_whole_image_is_another_crop_of_it(task: Callable[..., Task]) -> None:
    large = {part: some_images(12, first, 48) for part, first in (("train", 0), ("watched", 12), ("judged", 24))}
    own, whole = (task(replace(STRATEGIES[1], crop=crop), **large) for crop in ("own", "whole"))  # type: ignore[arg-type]
    assert Training(own, CPU, None).preprocessing.resize > Training(whole, CPU, None).preprocessing.resize == 32
    assert not same(train(own, CPU), train(whole, CPU))


def test_precision_is_the_tasks_and_not_the_hardwares(
    task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    with surroundings(task(STRATEGIES[1], precision="bfloat16"), CPU):
        seen.append(torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)).dtype)
    with surroundings(task(STRATEGIES[1], resolution=224), CPU):
        seen.append(torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)).dtype)
    assert seen == [torch.bfloat16, torch.float32]
    assert default_precision(CPU) == "float32"
    for has_it, expected in ((True, "bfloat16"), (False, "float32")):
        # A GPU that emulates it says yes unless asked otherwise.
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True, has=has_it: has or including_emulation
        )
        assert default_precision(torch.device("cuda")) == expected


def test_a_gpu_is_told_to_be_deterministic_and_told_nothing_afterwards(
    task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: torch.no_grad())  # CUDA's warns where there is none
    with surroundings(task(STRATEGIES[1]), torch.device("cuda")):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.are_deterministic_algorithms_enabled()


def test_out_of_memory_names_the_settings_to_lower(task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Training, "step", full)
    with pytest.raises(OutOfMemory, match=r"lower resolution \(now 32\) or batch_size \(now 5\)"):
        train(task(STRATEGIES[3]), CPU)


@pytest.mark.parametrize(("images", "batch_size", "remedy"), [
    (5, 2, "batch_size: 3"), (8, 1, "batch_size: 2"), (7, 1, "batch_size: 3"), (1, 4, "at least 2 images"),
])  # fmt: skip
def test_a_batch_of_one_image_under_batch_norm_in_training_mode_is_refused_with_a_size_that_works(
    task: Callable[..., Task], images: int, batch_size: int, remedy: str
) -> None:
    strategy = Strategy("s", (Phase(1, ALL),), batch_norm="train")
    with pytest.raises(SingleImageBatch, match=remedy):
        refuse_single_batches(strategy, "efficientnet_lite0", images, batch_size)
    with pytest.raises(SingleImageBatch, match=remedy):
        train(task(strategy, train=some_images(images, 0), batch_size=batch_size), CPU)
    refuse_single_batches(strategy, "convnext_tiny", images, batch_size)
    refuse_single_batches(replace(strategy, batch_norm="frozen"), "resnet18", images, batch_size)
    forgotten = replace(strategy, batch_norm="frozen", frozen_groups="batch_norm_forgotten")
    with pytest.raises(SingleImageBatch):
        refuse_single_batches(forgotten, "resnet18", images, batch_size)
    for size in range(2, 12):  # what is let through has no batch of one
        try:
            refuse_single_batches(strategy, "resnet18", images, size)
        except SingleImageBatch:
            continue
        assert min(len(part) for part in np.array_split(np.arange(images), math.ceil(images / size))) > 1


# --- the golden cell ------------------------------------------------------------------------------------------------


def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let cells compute in double precision, all but the loss at the very end."""
    build, normalise = backbones.build, augmentation.normalise
    monkeypatch.setattr(backbones, "build", lambda *given: build(*given).double())
    monkeypatch.setattr(augmentation, "normalise", lambda *given: normalise(*given).double())


STILL = Phase(1, dict.fromkeys(ALL, 1e-12))
PINNED = (
    replace(BY_NAME["gradual_unfreezing"], augmentation="none"),
    Strategy("batch_norm_train", (STILL,), batch_norm="train", augmentation="none", dropout=0.2),
    Strategy("scratch", (STILL,), weights="none", batch_norm="train", augmentation="none"),
)


@pytest.mark.parametrize("strategy", PINNED, ids=lambda strategy: strategy.name)
def test_golden_cell_results_change_only_with_the_numerics_version(
    task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch, strategy: Strategy
) -> None:
    """Where this fails, results have changed: raise NUMERICS_VERSION, then write the new numbers here.

    With fixed statistics a run is a smooth function of its start: in double precision two CPUs (AVX2, AVX512, SSE; one
    thread, two) are within 1e-7, what is left comes from the loss, which is single. With BatchNorm in training mode
    and batches of 4 on maps of one pixel they are 40% apart after a few steps even so. There the weights all but stand
    still, and what is pinned is the forward pass, its statistics, dropout and the start.
    """
    in_float64(monkeypatch)
    run = train(task(strategy, epochs=len(strategy.phases) + 1), CPU)
    losses, distances = GOLDEN[strategy.name]
    assert NUMERICS_VERSION == 2
    assert [row.value for row in run.history if row.metric == "loss"] == pytest.approx(losses, rel=1e-5)
    if distances:
        last = [row.weight_distance for row in run.drift if row.phase == len(strategy.phases)]
        assert last == pytest.approx(distances, rel=1e-5)


# Losses in the order of the history; how far each group moved, input to output.
GOLDEN: dict[str, tuple[list[float], list[float]]] = {
    "gradual_unfreezing": (
        [
            0.70366851,
            0.69308859,
            0.69306237,
            1.8928624,
            1.2328644,
            1.2381419,
            1.3338149,
            0.73377347,
            0.79576836,
            0.68568867,
            0.68214303,
        ],
        [0.0013738408, 0.0027687534, 0.0041653504, 0.0063582895, 0.0054709658, 0.29000605],
    ),
    "batch_norm_train": (
        [0.68529526, 0.69328421, 0.65177937, 0.69328421, 0.69328421],
        [],
    ),
    "scratch": (
        [0.77907566, 0.69305199, 0.7188253, 0.69446808, 0.69232291],
        [],
    ),
}


def test_training_in_bfloat16_learns_as_in_float32(task: Callable[..., Task]) -> None:
    """Autocast's cache would keep the weights of the first step to the end: what was learnt would never be seen."""
    head = Strategy("head", (Phase(1, {"head": 1e-1}),), augmentation="crop_and_colour")
    all_of_it = Strategy("scratch", (Phase(1, ALL),), weights="none", batch_norm="train")
    for strategy, backbone in ((head, "efficientnet_lite0"), (all_of_it, "resnet18")):
        for precision in ("float32", "bfloat16"):
            run = train(task(strategy, epochs=8, batch_size=6, backbone=backbone, precision=precision), CPU)
            losses = [row.value for row in run.history if (row.split, row.metric) == ("train", "loss")]
            assert losses[-1] < 0.55 * losses[0], (strategy.name, precision)
