"""Apply a phase to a model: what learns, how fast, and what BatchNorm does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.backbones import GroupedModel
from pipeline.strategies import GROUPS, BatchNorm, FrozenGroups, Phase

WEIGHT_DECAY = 0.01  # AdamW's default; at these rates and lengths it shrinks a weight by well under 0.1%
WARM_UP_SHARE = 0.1  # of a phase's steps, linear, at least one step


def batch_norms(module: nn.Module) -> Iterator[_BatchNorm]:
    """Every BatchNorm layer inside `module`."""
    return (layer for layer in module.modules() if isinstance(layer, _BatchNorm))


def freeze(model: GroupedModel, phase: Phase, batch_norm: BatchNorm) -> None:
    """Let exactly the weights learn that `phase` names. Raises KeyError for a group that doesn't exist."""
    for name in phase.rates:
        model.group(name)
    for name in GROUPS:
        group = model.group(name)
        group.requires_grad_(name in phase.rates)
        if batch_norm == "frozen":
            for layer in batch_norms(group):
                layer.requires_grad_(False)
    model.zero_grad(set_to_none=True)


def set_training(model: GroupedModel, phase: Phase, batch_norm: BatchNorm, frozen_groups: FrozenGroups) -> None:
    """Put every group into its mode for a training step; to be called again after every evaluation.

    Frozen groups evaluate: running statistics, no dropout, no stochastic depth. `batch_norm` speaks of the learning
    groups; `batch_norm_forgotten` is the textbook's pitfall, frozen groups left in training mode.
    """
    for name in GROUPS:
        group = model.group(name)
        if name in phase.rates:
            group.train()
            if batch_norm != "train":
                for layer in batch_norms(group):
                    layer.eval()
        else:
            group.train(frozen_groups == "batch_norm_forgotten")


def optimizer(model: GroupedModel, phase: Phase) -> torch.optim.AdamW:
    """AdamW over the learning groups, one named parameter group each, at the phase's rates."""
    groups: list[dict[str, Any]] = []
    for name in phase.learning:
        weights = [weight for weight in model.group(name).parameters() if weight.requires_grad]
        if weights:
            groups.append({"params": weights, "lr": phase.rates[name], "name": name})
    return torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY, fused=True)


def rate_factor(step: int, steps: int) -> float:
    """What rates are multiplied by in `step` (from 0) of a phase of `steps`: linear warm-up, then cosine to zero."""
    warm_up = max(1, round(WARM_UP_SHARE * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up + 1) / (steps - warm_up + 1)))


def set_rates(optimizer: torch.optim.Optimizer, phase: Phase, factor: float) -> None:
    """Set every parameter group to its rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = phase.rates[group["name"]] * factor


def trainable_parameters(model: GroupedModel, phase: Phase, batch_norm: BatchNorm) -> int:
    """How many numbers learn in `phase`."""
    still = {id(w) for layer in batch_norms(model) for w in layer.parameters()} if batch_norm == "frozen" else set()
    return sum(w.numel() for name in phase.learning for w in model.group(name).parameters() if id(w) not in still)
