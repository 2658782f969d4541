"""Activations of the frozen stretch at the input, computed once for every image and view."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.backbones import GroupedModel
from pipeline.strategies import GROUPS, Augmentation, Phase, Strategy

LOG = logging.getLogger(__name__)

BUDGET = 1 << 30  # bytes of activations that one cell may hold


@dataclass(frozen=True)
class Prefix:
    """What the frozen stretch of a phase made of some images, and where the rest of the model starts."""

    start: str  # first group after the stretch
    rows: Tensor  # [views × images, …] channels last in memory; the flipped images follow the plain ones
    images: int

    def batch(self, positions: NDArray[np.int64], flipped: NDArray[np.bool_] | None = None) -> Tensor:
        """The activations of the images at `positions`, each in the view asked for."""
        chosen = positions if flipped is None else positions + self.images * flipped
        return maps(self.rows.index_select(0, torch.from_numpy(chosen).to(self.rows.device)))


def rows(maps: Tensor) -> Tensor:
    """Activations [N, …] as they are kept: in float32, channels last as a plain contiguous array.

    So picking images is copying rows, and the rest of a model sees the same bytes whether or not they were kept.
    """
    whole = maps.float() if maps.dtype == torch.bfloat16 else maps
    return (whole.permute(0, 2, 3, 1) if maps.ndim == 4 else whole).contiguous()


def maps(rows: Tensor) -> Tensor:
    """Kept rows as the next group takes them: [N, C, H, W] or [N, features]."""
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows


def views(augmentation: Augmentation) -> int | None:
    """How many views of an image an augmentation can make; None where they can't be counted."""
    return {"none": 1, "flip": 2}.get(augmentation)


def start_of(strategy: Strategy, phase: Phase) -> str:
    """The first group that has to run at every step of `phase`; the first of all where nothing before it can be kept.

    A stretch can be kept where its output is a function of the image alone: all frozen in evaluation mode, and the
    views of an image countable. That fails for forgotten BatchNorm and for random crops.
    """
    if strategy.frozen_groups != "frozen" or views(strategy.augmentation) is None:
        return GROUPS[0]
    return GROUPS[len(phase.frozen_prefix)]


def fits(model: GroupedModel, start: str, sample: Tensor, images: int, budget: int = BUDGET) -> bool:
    """Whether activations of `images` views at group `start` stay within `budget` bytes; says so where they don't.

    `sample` is one normalised image [1, 3, H, W].
    """
    with torch.no_grad():
        one = rows(model(sample, stop=start))
    needed = one.numel() * one.element_size() * images
    if needed > budget:
        LOG.info(
            "no prefix shortcut at %s: %d MB of activations, %d MB allowed; the frozen groups run at every step",
            start, needed >> 20, budget >> 20,
        )  # fmt: skip
    return needed <= budget


def compute(model: GroupedModel, start: str, batches: Iterable[Tensor]) -> Tensor:
    """Run the groups before `start` once over normalised images: their rows. The caller has set evaluation mode."""
    with torch.no_grad():
        return torch.cat([rows(model(batch, stop=start)) for batch in batches])
