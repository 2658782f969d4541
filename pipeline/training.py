"""One cell in, one run out; no disk, no tracking, no argv."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline import augmentation, backbones, drift, evaluation, phases, prefix
from pipeline.backbones import GroupedModel, Preprocessing
from pipeline.evaluation import Metrics
from pipeline.randomness import numpy_stream, seed_of, torch_stream
from pipeline.strategies import GROUPS, Cell, Phase, Strategy, epochs_of_phases

NUMERICS_VERSION = 1  # raise by hand whenever the numbers of a run can change; every cell is then trained anew

EVALUATION_BATCH = 128


class OutOfMemory(RuntimeError):
    """The device has too little memory for a cell; the message names the setting to lower."""


@dataclass(frozen=True)
class Images:
    """Some images of a data set."""

    pixels: Tensor  # uint8 [n, 3, H, W], at the size they are stored in
    labels: Tensor  # int64 [n]
    indices: NDArray[np.int64]  # [n] positions in the data set

    def __len__(self) -> int:
        return len(self.indices)

    def at(self, device: torch.device, preprocessing: Preprocessing) -> Images:
        """The same images on a device, at the working size."""
        pixels = augmentation.to_resolution(self.pixels.to(device), preprocessing)
        return Images(pixels, self.labels.to(device), self.indices)


@dataclass(frozen=True)
class Task:
    """All that one training run depends on."""

    cell: Cell
    strategy: Strategy  # its rates scaled already
    backbone: str
    resolution: int  # pixels
    epochs: int
    batch_size: int
    classes: int
    dataset_images: int  # in the whole data set
    train: Images
    watched: Images  # validation, evaluated every epoch; may be empty
    judged: Images  # evaluated once at the end: the test images, or a pilot's share for tuning


@dataclass(frozen=True)
class HistoryRow:
    """One value of a learning curve."""

    phase: int  # from 1
    epoch: int  # from 1, through all phases
    split: str  # train | val
    metric: str  # loss | accuracy
    value: float


@dataclass(frozen=True)
class DriftRow:
    """How far one group was from its start at the end of a phase."""

    phase: int  # from 1
    group: str
    weight_distance: float


@dataclass(frozen=True)
class Run:
    """What a trained cell leaves."""

    cell: Cell
    status: str  # ok | diverged
    train_accuracy: float
    val_accuracy: float | None  # None where nothing was left to watch
    judged: Metrics
    seconds: float  # of training, evaluation left out
    trainable_parameters: int  # in the phase where most learn
    total_parameters: int
    history: tuple[HistoryRow, ...]
    drift: tuple[DriftRow, ...]
    predicted: NDArray[np.uint16]  # [judged images] predicted class


Progress = Callable[[int], None]  # told the number of finished epochs


def train(
    task: Task, device: torch.device, progress: Progress = lambda epoch: None, state: Mapping[str, Tensor] | None = None
) -> Run:
    """Train one cell.

    The same task gives the same run, bit for bit, on one machine with one thread count. `state` saves reading the
    weight file again. Raises OutOfMemory with the setting to lower.
    """
    with surroundings(task, device):
        return Training(task, device, state).run(progress)


@contextlib.contextmanager
def surroundings(task: Task, device: torch.device) -> Iterator[None]:
    """What a cell trains in: the caller's random state kept, the right precision, memory errors that say what to do."""
    try:
        with torch.random.fork_rng(devices=[]), _precision(device, task.resolution):
            yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(
            f"out of memory on {device} in {task.cell}: lower resolution (now {task.resolution}) or batch_size "
            f"(now {task.batch_size}) in params.yaml; nothing was changed by itself"
        ) from error


@contextlib.contextmanager
def _precision(device: torch.device, resolution: int) -> Iterator[None]:
    """bf16 where the hardware has it and it pays: always on a GPU, from 128 px on a CPU."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        # For EfficientNet-Lite0 it pays at 128 px and above, not at 96.
        fast = resolution >= 128 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    with torch.autocast(device.type, torch.bfloat16, enabled=fast):
        yield


class Training:
    """The state of one run while it lasts."""

    def __init__(self, task: Task, device: torch.device, state: Mapping[str, Tensor] | None) -> None:
        self.task, self.device = task, device
        self.strategy = task.strategy
        self.preprocessing = backbones.REGISTRY[task.backbone].preprocessing().at(task.resolution)
        initialisation = torch_stream("initialisation", task.cell.seed)
        model = backbones.build(
            task.backbone, task.classes, self.strategy.weights, initialisation, self.strategy.dropout, state
        )
        self.model: GroupedModel = model.to(device)
        self.start_weights = drift.weights_of(model)
        self.train_images = task.train.at(device, self.preprocessing)
        self.watched = task.watched.at(device, self.preprocessing)
        self.history: list[HistoryRow] = []
        self.drift: list[DriftRow] = []
        self.seconds = 0.0
        self.steps_done = 0

    def run(self, progress: Progress) -> Run:
        """All phases, then the final evaluation."""
        task, strategy = self.task, self.strategy
        lengths = epochs_of_phases([phase.share for phase in strategy.phases], task.epochs)
        epoch, alive = 0, True
        for number, (phase, length) in enumerate(zip(strategy.phases, lengths, strict=True), start=1):
            for finite in self.phase(number, phase, length, epoch):
                epoch += 1
                alive = finite
                progress(epoch)
            if not alive:
                break
            for group, distance in drift.weight_distances(self.model, self.start_weights).items():
                self.drift.append(DriftRow(number, group, distance))
        return self.finish(alive)

    def phase(self, number: int, phase: Phase, epochs: int, epochs_before: int) -> Iterator[bool]:
        """Train one phase; after every epoch, whether the run is still finite. Ends at the first epoch that isn't."""
        task, strategy, model = self.task, self.strategy, self.model
        images = len(task.train)
        since = time.perf_counter()
        phases.freeze(model, phase, strategy.batch_norm)
        optimizer = phases.optimizer(model, phase)
        model.eval()
        kept, seen = self.shortcut(phase)
        self.seconds += time.perf_counter() - since
        watched = prefix.compute(model, kept.start if kept else GROUPS[0], self.normalised(self.watched), flipped=False)
        batches = math.ceil(images / task.batch_size)
        steps = batches * epochs
        for epoch in range(epochs_before + 1, epochs_before + epochs + 1):
            since = time.perf_counter()
            phases.set_training(model, phase, strategy.batch_norm, strategy.frozen_groups)
            order = numpy_stream("order", task.cell.seed, epoch).permutation(images)
            draws = augmentation.Draws.of(task.cell.seed, epoch, task.dataset_images)
            # As even as possible: a last batch of a few images would spoil BatchNorm's statistics.
            for number_in_epoch, positions in enumerate(np.array_split(order, batches)):
                step = (epoch - epochs_before - 1) * batches + number_in_epoch
                phases.set_rates(optimizer, phase, phases.rate_factor(step, steps))
                torch.manual_seed(seed_of("dropout", task.cell.seed, self.steps_done))
                self.step(optimizer, kept, positions, draws)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds += time.perf_counter() - since
            model.eval()
            finite = self.record(number, epoch, "train", self.train_images, seen)
            if finite and len(task.watched):
                finite = self.record(number, epoch, "val", self.watched, watched)
            yield finite
            if not finite:
                return

    def shortcut(self, phase: Phase) -> tuple[prefix.Prefix | None, prefix.Prefix]:
        """What is kept of the training images for steps (None where every step runs it all) and for evaluation."""
        strategy = self.strategy
        start = prefix.start_of(strategy, phase)
        count = prefix.views(strategy.augmentation)
        sample = next(self.normalised(self.train_images))[:1]
        if count is not None and prefix.fits(self.model, start, sample, count * len(self.task.train)):
            kept = prefix.compute(self.model, start, self.normalised(self.train_images), flipped=count == 2)
            return kept, kept
        return None, prefix.compute(self.model, GROUPS[0], self.normalised(self.train_images), flipped=False)

    def normalised(self, images: Images) -> Iterator[Tensor]:
        """Normalised batches of images at the working size."""
        for pixels in torch.split(images.pixels, EVALUATION_BATCH):
            yield augmentation.normalise(pixels, self.preprocessing, self.strategy.normalisation)

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        kept: prefix.Prefix | None,
        positions: NDArray[np.int64],
        draws: augmentation.Draws,
    ) -> Tensor:
        """One training step on the drawn images at `positions`; their loss before it."""
        indices = self.task.train.indices[positions]
        at = torch.from_numpy(positions).to(self.device)
        if kept is None:
            pixels = augmentation.augment(self.train_images.pixels[at], indices, draws, self.strategy.augmentation)
            batch = augmentation.normalise(pixels, self.preprocessing, self.strategy.normalisation)
            logits = self.model(batch)
        else:
            flipped = draws.flips(indices) if self.strategy.augmentation == "flip" else None
            logits = self.model(kept.batch(positions, flipped), start=kept.start)
        loss = F.cross_entropy(logits.float(), self.train_images.labels[at])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.steps_done += 1
        return loss.detach()

    def record(self, phase: int, epoch: int, split: str, images: Images, seen: prefix.Prefix) -> bool:
        """Evaluate and note loss and accuracy of one split; whether the loss is finite."""
        logits = evaluation.predict(lambda rows: self.model(rows, start=seen.start), seen.batches(EVALUATION_BATCH))
        return note(self.history, phase, epoch, split, logits, images.labels)

    def finish(self, finite: bool) -> Run:
        """Read the judged images once, and gather the run."""
        self.model.eval()
        logits = evaluation.predict(self.model, self.judged_batches()) if finite else None
        learning = [phases.trainable_parameters(self.model, p, self.strategy.batch_norm) for p in self.strategy.phases]
        total = sum(weight.numel() for weight in self.model.parameters())
        return finished(self.task, logits, self.history, self.drift, self.seconds, max(learning), total)

    def judged_batches(self) -> Iterator[Tensor]:
        """The judged images, resized and normalised batch by batch: they may be many."""
        for pixels in torch.split(self.task.judged.pixels, EVALUATION_BATCH):
            sized = augmentation.to_resolution(pixels.to(self.device), self.preprocessing)
            yield augmentation.normalise(sized, self.preprocessing, self.strategy.normalisation)


def note(history: list[HistoryRow], phase: int, epoch: int, split: str, logits: Tensor, labels: Tensor) -> bool:
    """Add loss and accuracy of one split to `history`; whether the loss is finite, and nothing is added where not."""
    loss, accuracy = evaluation.loss_and_accuracy(logits, labels)
    if math.isfinite(loss):
        history.append(HistoryRow(phase, epoch, split, "loss", loss))
        history.append(HistoryRow(phase, epoch, split, "accuracy", accuracy))
    return math.isfinite(loss)


def finished(
    task: Task,
    logits: Tensor | None,
    history: Sequence[HistoryRow],
    moved: Sequence[DriftRow],
    seconds: float,
    trainable: int,
    total: int,
) -> Run:
    """The run that ends with these logits [judged images, classes]; None where it diverged before."""
    labels = task.judged.labels.numpy()
    finite = logits is not None and bool(torch.isfinite(logits).all())
    if logits is not None and finite:
        probabilities = evaluation.probabilities(logits)
    else:
        probabilities = evaluation.uniform(len(labels), task.classes)

    def accuracy(split: str, images: Images) -> float:
        if not finite:
            return _class_0(images)
        return next(row.value for row in reversed(history) if row.split == split and row.metric == "accuracy")

    return Run(
        cell=task.cell,
        status="ok" if finite else "diverged",
        train_accuracy=accuracy("train", task.train),
        val_accuracy=accuracy("val", task.watched) if len(task.watched) else None,
        judged=evaluation.metrics(probabilities, labels),
        seconds=seconds,
        trainable_parameters=trainable,
        total_parameters=total,
        history=tuple(history),
        drift=tuple(moved),
        predicted=probabilities.argmax(1).astype(np.uint16),
    )


def _class_0(images: Images) -> float:
    """The accuracy of a diverged run, which predicts class 0 everywhere."""
    return (images.labels == 0).double().mean().item()
