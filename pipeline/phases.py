"""Apply a phase to a model: what learns, how fast, and what BatchNorm does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.backbones import GroupedModel
from pipeline.strategies import GROUPS, Phase, Strategy

# AdamW's default. By itself it shrinks a weight by 0.03% in 640 steps (1,000 images, 20 epochs, batches of 32) at a
# rate of 1e-4, by 0.3% at 1e-3 and by 3% at 1e-2, as tuned rates may have it; in 20 steps by a thirtieth of that.
WEIGHT_DECAY = 0.01
WARM_UP_SHARE = 0.1  # of a phase's steps, linear, at least one step


NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # LayerNorm2d of torchvision and timm is a LayerNorm


def batch_norms(module: nn.Module) -> Iterator[_BatchNorm]:
    """Every BatchNorm layer inside `module`."""
    return (layer for layer in module.modules() if isinstance(layer, _BatchNorm))


def learning_weights(model: GroupedModel, phase: Phase, strategy: Strategy) -> dict[str, list[nn.Parameter]]:
    """The weights that learn in `phase`, by group. Raises KeyError for a group that doesn't exist."""
    found = {}
    for name in phase.rates:
        group = model.group(name)
        layers: Iterator[nn.Module] = iter([group])
        if strategy.learn == "norms" and name != GROUPS[-1]:
            layers = (layer for layer in group.modules() if isinstance(layer, NORMS))
        still: set[int] = set()
        if strategy.batch_norm == "frozen":
            still = {id(weight) for layer in batch_norms(group) for weight in layer.parameters()}
        found[name] = [weight for layer in layers for weight in layer.parameters() if id(weight) not in still]
    return found


def freeze(model: GroupedModel, phase: Phase, strategy: Strategy) -> None:
    """Let exactly the weights learn that `phase` names. Raises KeyError for a group that doesn't exist."""
    learning = learning_weights(model, phase, strategy)
    model.requires_grad_(False)
    for weights in learning.values():
        for weight in weights:
            weight.requires_grad_(True)
    model.zero_grad(set_to_none=True)


def set_training(model: GroupedModel, phase: Phase, strategy: Strategy) -> None:
    """Put every group into its mode for a training step; to be called again after every evaluation.

    Frozen groups evaluate: running statistics, no dropout, no stochastic depth. `batch_norm` speaks of the learning
    groups; `batch_norm_forgotten` is the textbook's pitfall, frozen groups left in training mode.
    """
    for name in GROUPS:
        group = model.group(name)
        if name in phase.rates:
            group.train()
            if strategy.batch_norm != "train":
                for layer in batch_norms(group):
                    layer.eval()
        else:
            group.train(strategy.frozen_groups == "batch_norm_forgotten")


def optimizer(model: GroupedModel, phase: Phase, strategy: Strategy) -> torch.optim.AdamW:
    """AdamW over the weights that learn, one named parameter group for each group of the model, at its rate."""
    learning = learning_weights(model, phase, strategy)
    groups: list[dict[str, Any]] = [
        {"params": learning[name], "lr": phase.rates[name], "name": name} for name in phase.learning if learning[name]
    ]
    device = next(model.parameters()).device
    if on_gpu := device.type == "cuda":
        for group in groups:
            group["lr"] = torch.tensor(group["lr"], device=device)  # where a CUDA graph reads it anew at every step
    return torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY, fused=True, capturable=on_gpu)


def rate_factor(step: int, steps: int) -> float:
    """What rates are multiplied by in `step` (from 0) of a phase of `steps`: linear warm-up, then cosine to zero."""
    warm_up = max(1, round(WARM_UP_SHARE * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up + 1) / (steps - warm_up + 1)))


def set_rates(optimizer: torch.optim.Optimizer, phase: Phase, factor: float) -> None:
    """Set every parameter group to its rate times `factor`."""
    for group in optimizer.param_groups:
        rate = phase.rates[group["name"]] * factor
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def trainable_parameters(model: GroupedModel, phase: Phase, strategy: Strategy) -> int:
    """How many numbers learn in `phase`."""
    return sum(weight.numel() for weights in learning_weights(model, phase, strategy).values() for weight in weights)
