"""One cell in, one run out; no tracking, no argv, and of the disk only what others have kept there."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline import activations, augmentation, backbones, drift, evaluation, phases, prefix
from pipeline.backbones import GroupedModel
from pipeline.clock import clock
from pipeline.errors import UserError
from pipeline.evaluation import Metrics
from pipeline.preprocessing import Preprocessing
from pipeline.randomness import numpy_stream, seed_of, torch_stream
from pipeline.replay import Replayed
from pipeline.strategies import BACKBONES, GROUPS, Cell, Phase, Precision, Strategy, epochs_of_phases

NUMERICS_VERSION = 2  # raise by hand whenever the numbers of a run can change; every cell is then trained anew

EVALUATION_BATCH = activations.BATCH
# What PyTorch's and oneDNN's allocators on a CPU say: their errors have no class of their own.
NO_MEMORY = ("can't allocate memory", "could not create a primitive", "could not create a memory object")


class OutOfMemory(UserError):
    """The device has too little memory for a cell; the message names the setting to lower."""


class SingleImageBatch(UserError):
    """A batch of one image, of which BatchNorm can't take statistics; the message names a batch size that works."""


@dataclass(frozen=True)
class Images:
    """Some images of a data set."""

    pixels: Tensor  # uint8 [n, 3, H, W], at the size they are stored in
    labels: Tensor  # int64 [n]
    keys: NDArray[np.uint64]  # [n] what identifies an image, whatever it is called and wherever it lies

    def __len__(self) -> int:
        return len(self.keys)

    def at(self, device: torch.device, preprocessing: Preprocessing) -> Images:
        """The same images on a device, at the working size."""
        pixels = augmentation.to_resolution(self.pixels.to(device), preprocessing)
        return Images(pixels, self.labels.to(device), self.keys)


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
    precision: Precision
    train: Images
    watched: Images  # validation, evaluated every epoch; may be empty
    judged: Images  # evaluated once at the end: the test images, or a pilot's share for tuning
    activations: Path | None = None  # folder of kept activations of frozen stretches; changes no number
    weights_sha256: str = ""  # of the pretrained weights


@dataclass(frozen=True)
class HistoryRow:
    """One value of a learning curve."""

    phase: int  # from 1
    epoch: int  # from 1, through all phases
    split: str  # train (an epoch's own batches, before their steps) | train_end (of a phase, in evaluation mode) | val
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
    train_accuracy: float  # in evaluation mode, at the end
    val_accuracy: float | None  # None where nothing was left to watch
    judged: Metrics
    seconds: float  # of training, evaluation left out; on a CPU those its thread worked
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
    """What a cell trains in: the caller's random state kept, the task's precision, the same bytes every time.

    Memory errors say what to do.
    """
    # Without its cache, which keeps a copy of every weight that learns, as it was at the first step, to the end.
    reduced = torch.autocast(
        device.type, torch.bfloat16, enabled=task.precision == "bfloat16", cache_enabled=False
    )  # fmt: skip
    try:
        with torch.random.fork_rng(devices=[]), _deterministic(device), reduced:
            yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(words in str(error) for words in NO_MEMORY):
            raise
        raise OutOfMemory(
            f"out of memory on {device} in {task.cell}: lower resolution (now {task.resolution}) or batch_size "
            f"(now {task.batch_size}) in params.yaml; nothing was changed by itself"
        ) from error


@contextlib.contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """On a GPU: deterministic algorithms alone, and float32 that is float32 (no TF32). A CPU needs no asking."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts, with the first product
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled()
    filled, tf32 = memory.fill_uninitialized_memory, torch.backends.cuda.matmul.allow_tf32
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # a guard for debugging that writes every tensor twice
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filled
        torch.backends.cuda.matmul.allow_tf32 = tf32


def default_precision(device: torch.device) -> Precision:
    """What a study computes in where it doesn't say: bfloat16 on a GPU that has it, float32 elsewhere.

    On a CPU bfloat16 is slower at every size: oneDNN's depthwise 5 × 5 has no fast form of it.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    return "float32"


def refuse_single_batches(strategy: Strategy, backbone: str, images: int, batch_size: int) -> None:
    """Refuse a cell one of whose batches is a single image where BatchNorm takes statistics of it.

    Batches are as even as possible, so this takes an odd number of images in twos, or batches or images of one.
    Raises SingleImageBatch with the next batch size that works.
    """
    trains = strategy.batch_norm == "train" or strategy.frozen_groups == "batch_norm_forgotten"
    if not trains or BACKBONES[backbone] != "batch" or _smallest_batch(images, batch_size) > 1:
        return
    larger = next((size for size in range(batch_size + 1, images + 1) if _smallest_batch(images, size) > 1), None)
    remedy = "use at least 2 images" if larger is None else f"use batch_size: {larger}"
    raise SingleImageBatch(
        f"{strategy.name}: {images} training images in batches of {batch_size} leave a batch of one image, and "
        f"BatchNorm in training mode can't take its statistics; {remedy}"
    )


def _smallest_batch(images: int, batch_size: int) -> int:
    return images // math.ceil(images / batch_size)


class Training:
    """The state of one run while it lasts."""

    def __init__(self, task: Task, device: torch.device, state: Mapping[str, Tensor] | None) -> None:
        self.task, self.device, self.clock = task, device, clock(device)
        self.strategy = task.strategy
        refuse_single_batches(task.strategy, task.backbone, len(task.train), task.batch_size)
        if self.strategy.interpolate and not any(phase.learning == GROUPS[-1:] for phase in self.strategy.phases):
            raise ValueError(f"{self.strategy.name}: interpolate, but no phase in which the head alone learns")
        self.preprocessing = backbones.REGISTRY[task.backbone].preprocessing().at(task.resolution, task.strategy.crop)
        initialisation = torch_stream("initialisation", task.cell.seed)
        model = backbones.build(
            task.backbone, task.classes, self.strategy.weights, initialisation, self.strategy.dropout, state
        )
        self.model: GroupedModel = model.to(device)
        self.start_weights = drift.weights_of(model)
        self.head_phase_end: dict[str, Tensor] = {}  # all weights and buffers, where the strategy goes back to them
        self.train_images = task.train.at(device, self.preprocessing)
        self.watched = task.watched.at(device, self.preprocessing)
        self.outputs: dict[str, Replayed] = {}  # of the model, by the group that they start from
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
            if strategy.interpolate and phase.learning == GROUPS[-1:]:
                self.head_phase_end = {key: value.clone() for key, value in self.model.state_dict().items()}
        return self.finish(alive)

    def phase(self, number: int, phase: Phase, epochs: int, epochs_before: int) -> Iterator[bool]:
        """Train one phase; after every epoch, whether the run is still finite. Ends at the first epoch that isn't."""
        task, strategy, model = self.task, self.strategy, self.model
        images = len(task.train)
        since = self.clock()
        phases.freeze(model, phase, strategy)
        optimizer = phases.optimizer(model, phase, strategy)
        model.eval()
        start = prefix.start_of(strategy, phase)
        kept = self.kept(task.train, self.train_images, start, prefix.views(strategy.augmentation) or 1)
        self.seconds += self.clock() - since
        watched = self.kept(task.watched, self.watched, start, 1)
        learn, batches = self.learner(optimizer, kept), math.ceil(images / task.batch_size)
        steps = batches * epochs
        for epoch in range(epochs_before + 1, epochs_before + epochs + 1):
            since = self.clock()
            phases.set_training(model, phase, strategy)
            order = numpy_stream("order", task.cell.seed, epoch).permutation(images)
            loss, right = torch.zeros(2, dtype=torch.float64, device=self.device)
            # As even as possible: a last batch of a few images would spoil BatchNorm's statistics.
            for number_in_epoch, positions in enumerate(np.array_split(order, batches)):
                step = (epoch - epochs_before - 1) * batches + number_in_epoch
                phases.set_rates(optimizer, phase, phases.rate_factor(step, steps))
                torch.manual_seed(seed_of("dropout", task.cell.seed, self.steps_done))
                of_batch, right_of_batch = self.step(learn, kept, positions, epoch)
                loss += of_batch * len(positions)
                right += right_of_batch
            seen = loss.item() / images, right.item() / images  # waits for the device
            self.seconds += self.clock() - since
            finite = note_values(self.history, number, epoch, "train", *seen)
            model.eval()
            if strategy.interpolate and number == len(strategy.phases) and epoch == epochs_before + epochs:
                self.go_back(strategy.interpolate)  # what is seen from here on is the model that will be judged
                kept = watched = None
            if finite and len(task.watched):
                finite = self.record(number, epoch, "val", self.watched, watched)
            if finite and epoch == epochs_before + epochs:
                finite = self.record(number, epoch, "train_end", self.train_images, kept)
            yield finite
            if not finite:
                return

    def kept(self, images: Images, sized: Images, start: str, views: int) -> prefix.Prefix | None:
        """What the groups before `start` make of some images, plain or in both views; None where it isn't kept.

        `sized` are the same images at the working size. The caller has set evaluation mode.
        """
        if start == GROUPS[0] or not len(images):
            return None
        sample = next(self.normalised(sized.pixels))[:1]
        if not prefix.fits(self.model, start, sample, views * len(images)):
            return None
        rows = [self.rows(images, sized, start, flipped) for flipped in (False, True)[:views]]
        return prefix.Prefix(start, torch.cat(rows), len(images))

    def rows(self, images: Images, sized: Images, start: str, flipped: bool) -> Tensor:
        """The rows of one view at `start`, from the cache of the study where it has them."""
        found = activations.kept(self.task, images, start, flipped)
        if found is not None:
            return found.to(self.device)
        batches = self.normalised(sized.pixels)
        if flipped:
            batches = (batch.flip(3).contiguous(memory_format=torch.channels_last) for batch in batches)
        return prefix.compute(self.model, start, batches)

    def normalised(self, pixels: Tensor) -> Iterator[Tensor]:
        """Images as the model takes them, in batches: moved to the device, resized if need be, normalised."""
        for part in torch.split(pixels, EVALUATION_BATCH):
            sized = augmentation.to_resolution(part.to(self.device), self.preprocessing)
            yield augmentation.normalise(sized, self.preprocessing, self.strategy.normalisation)

    def learner(self, optimizer: torch.optim.Optimizer, kept: prefix.Prefix | None) -> Replayed:
        """What a step does with a batch and its labels: their mean loss and how many were right before it."""
        model, start = self.model, GROUPS[0] if kept is None else kept.start

        def learn(batch: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(batch, start=start).float()
            loss = F.cross_entropy(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.detach(), (logits.detach().argmax(1) == labels).sum()

        return Replayed(learn)

    def step(
        self, learn: Replayed, kept: prefix.Prefix | None, positions: NDArray[np.int64], epoch: int
    ) -> tuple[Tensor, ...]:
        """One training step on the drawn images at `positions`; their mean loss and how many were right before it."""
        seed, augmented = self.task.cell.seed, self.strategy.augmentation
        keys = self.task.train.keys[positions]
        at = torch.from_numpy(positions).to(self.device)
        labels = self.train_images.labels[at]
        if kept is None:
            pixels = augmentation.augment(self.train_images.pixels[at], keys, seed, epoch, augmented)
            batch = augmentation.normalise(pixels, self.preprocessing, self.strategy.normalisation)
        else:
            flipped = augmentation.flips(keys, seed, epoch) if augmented == "flip" else None
            batch = kept.batch(positions, flipped)
        self.steps_done += 1
        return learn(batch, labels)

    def record(self, phase: int, epoch: int, split: str, images: Images, kept: prefix.Prefix | None) -> bool:
        """Evaluate and note loss and accuracy of one split; whether the loss is finite."""
        if kept is None:
            logits = self.logits(GROUPS[0], self.normalised(images.pixels))
        else:
            plain = kept.rows[: kept.images]
            logits = self.behind(kept.start, torch.split(plain, EVALUATION_BATCH))
        return note(self.history, phase, epoch, split, logits, images.labels)

    def behind(self, start: str, rows: Iterable[Tensor]) -> Tensor:
        """Logits of images from their rows at `start`."""
        # Copied, for a group may write over its input.
        return self.logits(start, (prefix.maps(part.to(self.device, copy=True)) for part in rows))

    def logits(self, start: str, batches: Iterable[Tensor]) -> Tensor:
        """Logits of batches that enter the model at `start`; the caller has set evaluation mode."""
        if start not in self.outputs:
            model = self.model  # alone: what holds itself is let go of late
            self.outputs[start] = Replayed(lambda batch: (model(batch, start=start),))
        return evaluation.predict(lambda batch: self.outputs[start](batch)[0], batches)

    def finish(self, finite: bool) -> Run:
        """Read the judged images once, and gather the run."""
        self.model.eval()
        logits = self.judged_logits() if finite else None
        learning = [phases.trainable_parameters(self.model, phase, self.strategy) for phase in self.strategy.phases]
        total = sum(weight.numel() for weight in self.model.parameters())
        return finished(self.task, logits, self.history, self.drift, self.seconds, max(learning), total)

    def go_back(self, share: float) -> None:
        """Move all weights, and the BatchNorm statistics, this share of the way back to the end of the head phase."""
        with torch.no_grad():
            for key, value in self.model.state_dict().items():
                if value.is_floating_point():
                    value.lerp_(self.head_phase_end[key], share)

    def judged_logits(self) -> Tensor:
        """Logits of the judged images, from the cache of the study as far as it goes; the same bytes without it."""
        judged = self.task.judged
        start = activations.start_of_run(self.strategy)
        if start == GROUPS[0]:
            return self.logits(GROUPS[0], self.normalised(judged.pixels))
        found = activations.kept(self.task, judged, start, False)
        if found is not None:
            return self.behind(start, torch.split(found, EVALUATION_BATCH))
        return self.behind(start, (prefix.compute(self.model, start, [x]) for x in self.normalised(judged.pixels)))


def note(history: list[HistoryRow], phase: int, epoch: int, split: str, logits: Tensor, labels: Tensor) -> bool:
    """Judge one split and note it."""
    return note_values(history, phase, epoch, split, *evaluation.loss_and_accuracy(logits, labels))


def note_values(history: list[HistoryRow], phase: int, epoch: int, split: str, loss: float, accuracy: float) -> bool:
    """Add loss and accuracy of one split to `history`; whether the loss is finite, and nothing is added where not."""
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
        train_accuracy=accuracy("train_end", task.train),
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
