"""How far each layer group moved from where it started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from pipeline.backbones import GroupedModel
from pipeline.strategies import GROUPS


def weights_of(model: GroupedModel) -> dict[str, list[Tensor]]:
    """A copy of every group's weights (parameters, not buffers)."""
    return {name: [w.detach().clone() for w in model.group(name).parameters()] for name in GROUPS}


def weight_distances(model: GroupedModel, start: Mapping[str, list[Tensor]]) -> dict[str, float]:
    """For each group, ‖w − w_start‖ / ‖w_start‖ over all its weights; 0 is no move, 1 its own length."""
    return {name: distance(list(model.group(name).parameters()), start[name]) for name in GROUPS}


def distance(weights: Sequence[Tensor], start: Sequence[Tensor]) -> float:
    """‖w − w_start‖ / ‖w_start‖ over all of `weights`."""
    moved = sum(_square(w.detach() - w0) for w, w0 in zip(weights, start, strict=True))
    length = sum(_square(w0) for w0 in start)
    return float((moved / length) ** 0.5) if length else 0.0


def _square(tensor: Tensor) -> float:
    return tensor.double().square().sum().item()
