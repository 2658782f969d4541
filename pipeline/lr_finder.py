"""Learning-rate range test (Smith, 2017, https://arxiv.org/abs/1506.01186): losses while the rates grow.

All rates of a phase are multiplied by a scale that grows exponentially from step to step. Two suggestions are read off
the smoothed loss: where it falls fastest over the logarithm of the scale, and a tenth of the scale where it is lowest.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline import phases, prefix
from pipeline.randomness import numpy_stream, seed_of
from pipeline.strategies import Phase, Strategy
from pipeline.training import Task, Training, surroundings

LOWEST, HIGHEST = 1e-3, 1e3  # lr_scale: times the rates that the strategy has
STEPS = 100
SMOOTHING = 0.9  # weight of the past in the mean of the losses, without its bias to zero
DIVERGED = 4.0  # times the lowest smoothed loss
UNSETTLED = 0.1  # of the steps, the first: the smoothed loss rests on too few


@dataclass(frozen=True)
class RangeTest:
    """Losses at growing scales, as far as the test came, and what they suggest."""

    scales: tuple[float, ...]
    losses: tuple[float, ...]  # of single batches, before their step
    smoothed: tuple[float, ...]
    steepest: float | None  # None where the loss never fell
    tenth_of_lowest: float | None
    diverged: bool  # stopped before the highest scale


def range_test(task: Task, device: torch.device, state: Mapping[str, Tensor] | None = None) -> RangeTest:
    """The range test of a cell, from its own start, in the phase with the most epochs (the later of equals)."""
    with surroundings(task, device):
        return explore(Training(task, device, state), longest(task.strategy))


def longest(strategy: Strategy) -> Phase:
    """The phase with the largest share; of equal ones the later, in which more learns as a rule."""
    return max(reversed(strategy.phases), key=lambda phase: phase.share)


def explore(training: Training, phase: Phase) -> RangeTest:
    """Try rates from `LOWEST` to `HIGHEST` times the phase's own, and leave the model as it was, bit for bit."""
    task, strategy, losses = training.task, training.strategy, []
    scales = np.geomspace(LOWEST, HIGHEST, STEPS)
    with _untouched(training):
        phases.freeze(training.model, phase, strategy)
        optimizer = phases.optimizer(training.model, phase, strategy)
        training.model.eval()
        views = prefix.views(strategy.augmentation) or 1
        kept = training.kept(task.train, training.train_images, prefix.start_of(strategy, phase), views)
        learn = training.learner(optimizer, kept)
        phases.set_training(training.model, phase, strategy)
        for step, (positions, epoch) in zip(range(STEPS), _batches(task), strict=False):
            phases.set_rates(optimizer, phase, float(scales[step]))
            torch.manual_seed(seed_of("range test", task.cell.seed, step))
            losses.append(training.step(learn, kept, positions, epoch)[0].item())
            if _has_diverged(losses):
                break
    return judge(scales[: len(losses)].tolist(), losses)


def judge(scales: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """What losses at growing scales suggest. Raises ValueError where there are not as many of each."""
    if len(scales) != len(losses):
        raise ValueError(f"{len(losses)} losses at {len(scales)} scales")
    smoothed = smooth(losses)
    diverged = _has_diverged(losses)
    usable = len(losses) - 1 if diverged and not math.isfinite(losses[-1]) else len(losses)
    first = math.ceil(UNSETTLED * STEPS)
    steepest = tenth = None
    if usable - first >= 3:
        curve, logarithms = np.array(smoothed[first:usable]), np.log(np.array(scales[first:usable]))
        lowest = int(curve.argmin())
        tenth = scales[first + lowest] / 10
        slopes = np.gradient(curve, logarithms)[: lowest + 1]
        if slopes.min() < 0:
            steepest = scales[first + int(slopes.argmin())]
    return RangeTest(tuple(scales), tuple(losses), tuple(smoothed), steepest, tenth, diverged)


def smooth(losses: Sequence[float]) -> list[float]:
    """The exponential mean of the losses so far, freed of its bias to zero."""
    mean, result = 0.0, []
    for count, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        result.append(mean / (1 - SMOOTHING**count))
    return result


def _has_diverged(losses: Sequence[float]) -> bool:
    if not math.isfinite(losses[-1]):
        return True
    smoothed = smooth(losses)
    return smoothed[-1] > DIVERGED * min(smoothed)


def _batches(task: Task) -> Iterator[tuple[np.ndarray[tuple[int], np.dtype[np.int64]], int]]:
    """Batches without end, in an order of their own: training's order is left alone."""
    images, epoch = len(task.train), 0
    while True:
        epoch += 1
        order = numpy_stream("range test", task.cell.seed, epoch).permutation(images)
        for positions in np.array_split(order, math.ceil(images / task.batch_size)):
            yield positions, epoch


@contextlib.contextmanager
def _untouched(training: Training) -> Iterator[None]:
    """Put everything back that training steps change: weights, buffers, what learns, modes, random state, counters."""
    model = training.model
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    learns = [weight.requires_grad for weight in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    steps_done = training.steps_done
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        model.load_state_dict(weights)
        model.zero_grad(set_to_none=True)
        for weight, learnt in zip(model.parameters(), learns, strict=True):
            weight.requires_grad_(learnt)
        for module, mode in modes:
            module.training = mode
        training.steps_done = steps_done
