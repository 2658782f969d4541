"""How long a study takes: what its own backbone took for a few steps here, times the images that pass it."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from pipeline import activations, backbones, execution, heads, prefix, training
from pipeline.strategies import GROUPS, Cell, Phase, Precision, Role, Strategy, epochs_of_phases
from pipeline.training import Images, Task
from pipeline.tuning import FEW_IMAGES, GRID, PILOT_SEEDS

STEPS = 5  # of each kind: the first warms up, a GPU records the second, the last is followed by an evaluation
HEAD_STEP = 2e-4  # seconds: a step of a head alone on kept features, of one cell in a batch of them
# How many scales a climb tries, by how far it looks beyond its best; at least 3 + 2 or 3 + 4 where the best is inside.
TRIED = {"many images": 4.5, "few images": 6.0}


@dataclass(frozen=True)
class Batches:
    """What training looks like from afar: the batches that a study's cells are trained in."""

    backbone: str
    weights: str | None  # a file of the user's own
    resolution: int  # pixels
    precision: Precision
    classes: int
    images: int  # of a batch


@dataclass(frozen=True)
class Step:
    """What the time of a training step depends on, beside the batch."""

    start: str  # the first group that runs
    learning: tuple[str, ...]
    rest: tuple[str, ...]


@dataclass(frozen=True)
class Speed:
    """What one of several workers takes while all of them are at it, in seconds."""

    step: Mapping[Step, float]  # an image in a training step
    look: Mapping[str, float]  # group: an image in evaluation, from there to the end
    build: float  # a model
    workers: int

    def times(self, factor: float) -> Speed:
        """The speed where every image takes `factor` times as long: at other pixels, in proportion to their number."""
        step = {kind: value * factor for kind, value in self.step.items()}
        return replace(self, step=step, look={group: value * factor for group, value in self.look.items()})


@dataclass(frozen=True)
class Load:
    """Cells of one strategy that train on as many images."""

    strategy: Strategy
    cells: float
    draws: int  # sets of images among them
    images: int  # that each trains on
    watched: int  # that each looks at every epoch
    judged: int  # that each is judged on


def step_of(strategy: Strategy, phase: Phase) -> Step:
    """What the steps of a phase have in common with others that take as long."""
    rest = (strategy.batch_norm, strategy.learn, strategy.augmentation, strategy.frozen_groups)
    return Step(prefix.start_of(strategy, phase), phase.learning, rest)


# --- how much -------------------------------------------------------------------------------------------------------


def seconds(loads: Iterable[Load], speed: Speed, epochs: int, batch_size: int) -> float:
    """How long some cells take on all workers together, without the start of the stages and the images' decoding."""
    total, kept = 0.0, set[tuple[object, ...]]()
    for load in loads:
        strategy, start = load.strategy, activations.start_of_run(load.strategy)
        batches = math.ceil(load.images / batch_size)
        before = speed.look[GROUPS[0]] - speed.look[start]  # an image's way through the frozen stretch of the run
        pixels = strategy.normalisation, strategy.crop
        if load.cells and before and (start, load.judged, *pixels) not in kept:
            kept.add((start, load.judged, *pixels))
            total += (load.judged + load.watched) * before
        if start == GROUPS[-1]:
            if load.cells and (load.draws, load.images, *pixels) not in kept:
                kept.add((load.draws, load.images, *pixels))
                total += load.draws * load.images * len(activations.views(strategy)) * before
            total += load.cells * (1 if strategy.closed_form else epochs) * batches * HEAD_STEP
            continue
        each = speed.build + load.judged * speed.look[start]
        lengths = epochs_of_phases([phase.share for phase in strategy.phases], epochs)
        for phase, length in zip(strategy.phases, lengths, strict=True):
            step = step_of(strategy, phase)
            views = prefix.views(strategy.augmentation) or 1
            again = load.watched if step.start != start else 0  # the run's own stretch is kept for all cells
            each += length * (load.images * speed.step[step] + load.watched * speed.look[step.start])
            each += load.images * speed.look[step.start]
            if step.start != GROUPS[0]:
                each += (views * load.images + again) * (speed.look[GROUPS[0]] - speed.look[step.start])
        total += load.cells * each
    return total / speed.workers


def held_out(per_class: Sequence[int]) -> int:
    """How many of a pilot's images judge it, of so many in each class."""
    return sum(max(1, count - round(0.8 * count)) for count in per_class)


def pilots(per_class: Sequence[int]) -> int:
    """How many pilots about choose a rate, where each draws so many images of each class."""
    return min(max(2, math.ceil(FEW_IMAGES / held_out(per_class))), len(PILOT_SEEDS))


def tried(strategy: Strategy, per_class: Sequence[int], seeds: int) -> float:
    """How many rates a strategy's climb tries, about."""
    if strategy.closed_form:
        return 0
    if heads.batchable(strategy):
        return len(GRID)
    return TRIED["many images" if seeds * held_out(per_class) >= FEW_IMAGES else "few images"]


# --- how fast -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    step: Step
    strategy: Strategy  # of one phase
    batches: Batches


def measure(batches: Batches, strategies: Iterable[Strategy], device: torch.device, workers: int) -> Speed:
    """Time every kind of step of some strategies, by as many workers at once as will train.

    Raises WeightsError where the pretrained weights are missing, altered or made for another model.
    """
    kinds: dict[Step, Strategy] = {}
    every = list(strategies)
    if any(strategy.weights == "pretrained" for strategy in every):
        _state(batches.backbone, batches.weights)  # here, for forked workers find it then
    for strategy in every:
        for phase in strategy.phases:
            slow = Phase(1.0, dict.fromkeys(phase.rates, 1e-6))
            kinds.setdefault(step_of(strategy, phase), replace(strategy, phases=(slow,), interpolate=0.0))
    whole = Strategy("whole", (Phase(1.0, dict.fromkeys(GROUPS, 1e-6)),))
    if not any(step.start == GROUPS[0] for step in kinds):
        kinds[step_of(whole, whole.phases[0])] = whole
    jobs = [_Job(step, strategy, batches) for step, strategy in kinds.items() for _ in range(workers)]
    took: dict[Step, list[tuple[float, float, float]]] = {}
    for job, found in execution.each(_timed, jobs, lambda *_: None, workers, device.type):
        took.setdefault(job.step, []).append(found)
    mean = {step: [statistics.fmean(values) for values in zip(*found, strict=True)] for step, found in took.items()}
    look = {GROUPS[-1]: 0.0}
    for step, (_, looked, _) in mean.items():
        look[step.start] = max(look.get(step.start, 0.0), looked)
    return Speed(
        {step: found[0] for step, found in mean.items()}, look, statistics.fmean(f[2] for f in mean.values()), workers
    )


def _timed(job: _Job, report: Callable[[int], None]) -> tuple[float, float, float]:
    """Seconds that an image takes in a step and in evaluation, and that the model took to be made."""
    given, strategy = job.batches, job.strategy
    device = execution.device()
    pixels = np.random.default_rng(0).integers(0, 256, (given.images, 3, given.resolution, given.resolution), np.uint8)
    labels = torch.arange(given.images) % given.classes
    some = Images(torch.from_numpy(pixels), labels, np.arange(given.images, dtype=np.uint64))
    nothing = Images(some.pixels[:0], some.labels[:0], some.keys[:0])
    role: Role = "final"
    task = Task(
        cell=Cell("timed", role, strategy.name, given.images, 1.0, 0),
        strategy=strategy,
        backbone=given.backbone,
        resolution=given.resolution,
        epochs=STEPS,
        batch_size=given.images,
        classes=given.classes,
        precision=given.precision,
        train=some,
        watched=nothing,
        judged=nothing,
    )
    state = _state(given.backbone, given.weights) if strategy.weights == "pretrained" else None
    with training.surroundings(task, device):
        since = time.perf_counter()
        run = training.Training(task, device, state)
        built = time.perf_counter() - since
        ends = [time.perf_counter() for _ in run.phase(1, strategy.phases[0], STEPS, 0)]
        step = statistics.fmean(later - earlier for earlier, later in pairwise(ends[1:-1]))
        kept = run.kept(some, run.train_images, job.step.start, 1)
        since = time.perf_counter()
        run.record(1, STEPS, "val", run.train_images, kept)
        return step / given.images, (time.perf_counter() - since) / given.images, built


@functools.cache
def _state(backbone: str, weights: str | None) -> Mapping[str, torch.Tensor]:
    return backbones.pretrained(backbone, weights)[0]
