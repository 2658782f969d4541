"""Cells that adapt only a head give the same together as one by one, and closed forms are what they say they are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline import activations, backbones, heads
from pipeline.errors import UserError
from pipeline.strategies import Cell, Phase, Strategy
from pipeline.training import EVALUATION_BATCH, Run, Task, train
from tests.conftest import ALL, STRATEGIES, some_images
from tests.pipeline.test_activations import body, fill, same

CPU = torch.device("cpu")
PLAIN = Strategy("feature_extraction", (Phase(1, {"head": 1e-2}),))
VARIANTS = (
    PLAIN,
    replace(PLAIN, name="no_augmentation", augmentation="none"),
    replace(PLAIN, name="dropout", dropout=0.5),
    replace(PLAIN, name="imagenet", normalisation="imagenet"),
    replace(PLAIN, name="two_phases", phases=(Phase(0.5, {"head": 1e-2}), Phase(0.5, {"head": 1e-4}))),
)
LDA, NEAREST = Strategy("lda", (), head="lda"), Strategy("nearest_mean", (), head="nearest_mean")
CLOSED = pytest.mark.parametrize("strategy", [LDA, NEAREST], ids=lambda strategy: strategy.name)


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
    runs = heads.train_batch(tasks, CPU, None, lambda *_: None)
    assert [run.cell for run in runs] == [one.cell for one in tasks]
    return {run.cell: run for run in runs}


def history(run: Run) -> dict[tuple[int, int, str, str], float]:
    return {(row.phase, row.epoch, row.split, row.metric): row.value for row in run.history}


@pytest.mark.parametrize("strategy", VARIANTS, ids=lambda strategy: strategy.name)
def test_heads_trained_together_are_those_trained_one_by_one(task: Callable[..., Task], strategy: Strategy) -> None:
    tasks = cells(task, strategy)
    batched = together(tasks)
    for one in tasks:
        alone, other = train(one, CPU), batched[one.cell]
        assert other.status == alone.status == "ok"
        assert history(other) == pytest.approx(history(alone), rel=1e-3, abs=1e-5)
        moved = [{(row.phase, row.group): row.weight_distance for row in run.drift} for run in (other, alone)]
        assert moved[0] == pytest.approx(moved[1], rel=1e-3, abs=1e-9)
        assert other.judged.log_loss == pytest.approx(alone.judged.log_loss, rel=1e-3)
        assert np.array_equal(other.predicted, alone.predicted)
        assert (other.train_accuracy, other.val_accuracy) == (alone.train_accuracy, alone.val_accuracy)
        assert (other.trainable_parameters, other.total_parameters) == (
            alone.trainable_parameters, alone.total_parameters,
        )  # fmt: skip


def test_a_cell_alone_and_cells_of_some_rates_of_some_seeds_train_as_a_batch_too(task: Callable[..., Task]) -> None:
    tasks = cells(task, PLAIN)
    whole = together(tasks)
    for some in (tasks[:1], [tasks[5], tasks[0], tasks[1]]):
        for cell, run in together(some).items():
            assert history(run) == pytest.approx(history(whole[cell]), rel=1e-3, abs=1e-5)


def test_all_splits_are_noted_when_they_are_due(task: Callable[..., Task]) -> None:
    run = next(iter(together(cells(task, VARIANTS[4])).values()))
    epochs = {
        split: {row.epoch for row in run.history if row.split == split} for split in ("train", "train_end", "val")
    }
    assert epochs == {"train": {1, 2, 3, 4}, "train_end": {2, 4}, "val": {1, 2, 3, 4}}
    unwatched = [replace(one, watched=some_images(0, 0)) for one in cells(task, PLAIN)]
    run = next(iter(together(unwatched).values()))
    assert {row.split for row in run.history} == {"train", "train_end"}
    assert run.val_accuracy is None


def test_every_cells_epochs_are_told(task: Callable[..., Task]) -> None:
    told: list[tuple[int, int]] = []
    heads.train_batch(cells(task, PLAIN), CPU, None, lambda place, epoch: told.append((place, epoch)))
    assert sorted(told) == [(place, epoch) for place in range(6) for epoch in (1, 2, 3, 4)]


def test_rates_and_seeds_stay_apart(task: Callable[..., Task]) -> None:
    losses = {cell: run.judged.log_loss for cell, run in together(cells(task, PLAIN)).items()}
    assert len(set(losses.values())) == len(losses)


def test_the_same_cells_together_give_the_same_bytes_with_and_without_the_cache(
    task: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = cells(task, PLAIN)
    one, other = together(tasks), together(tasks)
    for given in tasks:
        fill(given, tmp_path)
    monkeypatch.setattr(backbones, "build", None)  # nobody needs the backbone any more
    cached = together([replace(given, activations=tmp_path) for given in tasks])
    for cell, run in one.items():
        assert same(run, other[cell])
        assert same(run, cached[cell])


def test_every_set_of_images_passes_the_backbone_once(
    task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    compute = activations.compute
    monkeypatch.setattr(activations, "compute", lambda piece, *rest: (computed.append(piece), compute(piece, *rest))[1])
    together(cells(task, PLAIN))
    # Two seeds' training images in two views, the watched and the judged images: shared by rates.
    assert len(computed) == 2 * 2 + 1 + 1


def test_a_cells_seconds_hold_its_features_wherever_they_come_from(task: Callable[..., Task], tmp_path: Path) -> None:
    tasks = cells(task, PLAIN)
    for one in [*tasks, task(LDA)]:
        for wanted in activations.needed(one):
            took = 1e5 if wanted.images is one.train else 9e6  # reading the others is evaluation
            activations.store([(piece, (np.zeros(wanted.shape, np.float32), took))
                               for piece in activations.pieces([wanted])], tmp_path)  # fmt: skip
    runs = together([replace(one, activations=tmp_path) for one in tasks])
    assert {run.seconds // 1e5 for run in runs.values()} == {2}  # two views
    assert heads.closed_form(replace(task(LDA), activations=tmp_path), CPU, None).seconds // 1e5 == 1


def test_one_diverged_head_leaves_the_others_alone(task: Callable[..., Task]) -> None:
    tasks = cells(task, PLAIN, (1, 1e40))
    runs = together(tasks)
    assert {run.status for cell, run in runs.items() if cell.lr_scale == 1e40} == {"diverged"}
    assert {run.status for cell, run in runs.items() if cell.lr_scale == 1} == {"ok"}
    whole = together(cells(task, PLAIN, (1,)))
    for cell, run in whole.items():
        assert history(runs[cell]) == pytest.approx(history(run), rel=1e-3, abs=1e-5)
    for one in tasks[1::2]:
        alone, broken = train(one, CPU), runs[one.cell]
        assert (broken.judged, broken.train_accuracy, broken.drift) == (alone.judged, alone.train_accuracy, alone.drift)
        assert history(broken).keys() == history(alone).keys()


def test_only_cells_with_nothing_but_a_head_to_train_are_batched() -> None:
    assert [strategy.name for strategy in STRATEGIES if heads.batchable(strategy)] == ["feature_extraction"]
    assert not heads.batchable(replace(PLAIN, augmentation="crop_and_colour"))
    assert not heads.batchable(replace(PLAIN, frozen_groups="batch_norm_forgotten"))
    assert not heads.batchable(replace(PLAIN, weights="none"))  # every seed has a backbone of its own
    assert not heads.batchable(replace(PLAIN, phases=(Phase(0.5, {"head": 1e-3}), Phase(0.5, ALL))))
    assert not heads.batchable(LDA)


# --- closed form ----------------------------------------------------------------------------------------------------


def features(task: Task) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the training and the judged images."""
    model = body(task)
    train_rows, judged_rows = (
        activations.read_or_compute(activations.Wanted(task, images, "head", False), lambda: model, CPU)[0]
        for images in (task.train, task.judged)
    )
    return train_rows.double().numpy(), judged_rows.double().numpy()


def three_classes(task: Callable[..., Task], strategy: Strategy) -> Task:
    """A third class of images brighter still, and uneven sizes."""
    images = some_images(24, 0)
    labels = images.labels.clone()
    labels[:9] = 2
    pixels = images.pixels.clone()
    pixels[:9] = (pixels[:9] // 4) + 190
    images = replace(images, pixels=pixels, labels=labels)
    return task(strategy, classes=3, train=images, judged=replace(images, keys=images.keys + 100))


@CLOSED
def test_a_closed_form_head_is_a_run_like_any_other(strategy: Strategy, task: Callable[..., Task]) -> None:
    one = task(strategy)
    run = heads.closed_form(one, CPU, None)
    assert run.status == "ok"
    assert run.train_accuracy == 1.0
    assert run.val_accuracy is not None
    assert set(history(run)) == {
        (1, 1, split, metric) for split in ("train_end", "val") for metric in ("loss", "accuracy")
    }
    assert run.drift == ()
    assert run.predicted.dtype == np.uint16
    assert run.seconds > 0
    trained = together([task(PLAIN)])[task(PLAIN).cell]
    assert (run.trainable_parameters, run.total_parameters) == (trained.trainable_parameters, trained.total_parameters)
    assert same(run, heads.closed_form(one, CPU, None))


@CLOSED
def test_a_closed_form_reads_the_cache_and_gives_the_same_bytes(
    strategy: Strategy, task: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = task(strategy, judged=some_images(EVALUATION_BATCH + 3, 50))
    alone = heads.closed_form(one, CPU, None)
    fill(one, tmp_path)
    monkeypatch.setattr(backbones, "build", None)
    assert same(heads.closed_form(replace(one, activations=tmp_path), CPU, None), alone)


@pytest.mark.parametrize("make", [lambda task, strategy: task(strategy), three_classes], ids=["two", "three"])
def test_lda_is_scikit_learns(make: Callable[..., Task], task: Callable[..., Task]) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    one = make(task, LDA)
    x, judged = features(one)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x, one.train.labels.numpy())
    run = heads.closed_form(one, CPU, None)
    assert np.array_equal(run.predicted, model.predict(judged))
    right = model.predict_proba(judged)[np.arange(len(judged)), one.judged.labels.numpy()]
    expected = -np.log(np.maximum(right, np.finfo(float).tiny)).mean()
    assert run.judged.log_loss == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_nearest_mean_is_the_nearest_mean_under_one_variance(task: Callable[..., Task]) -> None:
    one = three_classes(task, NEAREST)
    x, judged = features(one)
    labels = one.train.labels.numpy()
    means = np.stack([x[labels == label].mean(0) for label in range(3)])
    variance = sum(np.square(x[labels == label] - means[label]).sum() for label in range(3)) / (21 * x.shape[1])
    squares = np.square(judged[:, None] - means).sum(2)
    run = heads.closed_form(one, CPU, None)
    assert np.array_equal(run.predicted, squares.argmin(1))
    logits = -squares / (2 * variance)
    logits -= logits.max(1, keepdims=True)
    right = np.take_along_axis(logits, one.judged.labels.numpy()[:, None], 1)[:, 0] - np.log(np.exp(logits).sum(1))
    expected = -np.maximum(right, math.log(np.finfo(float).tiny)).mean()
    assert run.judged.log_loss == pytest.approx(expected, rel=1e-6)


@CLOSED
def test_a_class_of_one_image_works_beside_larger_ones(strategy: Strategy, task: Callable[..., Task]) -> None:
    images = some_images(7, 0)
    labels = torch.tensor([1, 0, 0, 0, 0, 0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = heads.closed_form(task(strategy, train=replace(images, labels=labels)), CPU, None)
    assert run.status == "ok"
    assert math.isfinite(run.judged.log_loss)


@CLOSED
def test_one_image_of_each_class_is_refused_with_what_to_change(strategy: Strategy, task: Callable[..., Task]) -> None:
    with pytest.raises(UserError, match=rf"'{strategy.name}' needs 2 images.*per_class"):
        heads.closed_form(task(strategy, train=some_images(2, 0)), CPU, None)


@CLOSED
def test_a_class_without_an_image_is_refused(strategy: Strategy, task: Callable[..., Task]) -> None:
    with pytest.raises(UserError, match="class 2 has none"):
        heads.closed_form(task(strategy, classes=3), CPU, None)


@CLOSED
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_a_diverged_run(
    strategy: Strategy, value: float, task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = task(strategy)

    def rows(wanted: activations.Wanted, *rest: object) -> tuple[torch.Tensor, float]:
        return torch.full((len(wanted.images), 1280), value), 0.1

    monkeypatch.setattr(activations, "read_or_compute", rows)
    run = heads.closed_form(one, CPU, None)
    assert (run.status, run.history, run.train_accuracy) == ("diverged", (), 0.5)
    assert not run.predicted.any()


def test_images_that_are_all_alike_are_a_diverged_nearest_mean(task: Callable[..., Task]) -> None:
    images = some_images(12, 0)
    alike = replace(images, pixels=torch.zeros_like(images.pixels))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert heads.closed_form(task(NEAREST, train=alike), CPU, None).status == "diverged"


def test_equations_without_a_solution_are_a_diverged_run(
    task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsolvable(*_: object) -> None:
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr(heads, "_FORMS", {"lda": unsolvable})
    assert heads.closed_form(task(LDA), CPU, None).status == "diverged"


def test_lda_runs_on_one_thread(task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from threadpoolctl import threadpool_info

    threads: set[int] = set()
    fit = LinearDiscriminantAnalysis.fit

    def watched(*arguments: object) -> object:
        threads.update(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return fit(*arguments)

    monkeypatch.setattr(LinearDiscriminantAnalysis, "fit", watched)
    heads.closed_form(task(LDA), CPU, None)
    assert threads == {1}
