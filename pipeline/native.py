"""A backbone as its own library builds it, for whoever has no Thaw: the places of its groups, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from pipeline.backbones import REGISTRY, GroupedModel
from pipeline.convolutions import MirrorImage
from pipeline.strategies import GROUPS

V = TypeVar("V")
HEAD = GROUPS[-1]


@dataclass(frozen=True)
class Head:
    """What the library's classifier is replaced by."""

    place: str  # the module that goes
    features: int  # what the linear layer sees of an image
    pooled: bool  # whether the backbone averages its maps itself

    def module(self, classes: int) -> nn.Module:
        """The new one: [N, features], or maps where the backbone doesn't pool, to [N, classes]."""
        linear = nn.Linear(self.features, classes)
        return linear if self.pooled else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


def outline(backbone: str) -> nn.Module:
    """The library's model without numbers."""
    with torch.device("meta"):
        return REGISTRY[backbone].build()


def places(backbone: str, of: Mapping[str, V]) -> dict[V, list[str]]:
    """The modules that hold the weights of the groups of one value, under the library's names, as few as say it.

    Groups that are not in `of` are left out; the head is always by itself, since dropout may lie beside it.
    """
    model = outline(backbone)
    groups = {
        id(weight): name for name, part in REGISTRY[backbone].split(model).items() for weight in part.parameters()
    }
    found: dict[V, list[str]] = {value: [] for value in of.values()}

    def sort(place: str, module: nn.Module) -> None:
        owners = {groups.get(id(weight), HEAD) for weight in module.parameters()}
        values = {of.get(owner) for owner in owners}
        if len(values) > 1 or (HEAD in owners and len(owners) > 1):
            for name, child in module.named_children():
                sort(f"{place}.{name}".removeprefix("."), child)
        for value in values if len(values) == 1 and (HEAD not in owners or len(owners) == 1) else ():
            if value is not None:
                found[value].append(place)

    sort("", model)
    return found


def head(backbone: str) -> Head:
    """Where the head of a backbone is, and what it sees."""
    (place,) = places(backbone, {HEAD: HEAD})[HEAD]
    old = outline(backbone).get_submodule(place)
    if isinstance(old, nn.Linear):
        return Head(place, old.in_features, True)
    convolution = next(layer for layer in old.modules() if isinstance(layer, nn.Conv2d))  # SqueezeNet's, on maps
    return Head(place, convolution.in_channels, False)


def build(backbone: str, classes: int) -> nn.Module:
    """The library's model with a linear head for `classes` classes, random weights: [N, 3, H, W] to [N, classes]."""
    model, new = REGISTRY[backbone].build(), head(backbone)
    model.set_submodule(new.place, new.module(classes))
    return model


def state_of(model: GroupedModel, backbone: str) -> dict[str, Tensor]:
    """The weights of a trained model, as the model that `build` makes takes them."""
    linear = [layer for layer in model.group(HEAD).modules() if isinstance(layer, nn.Linear)][-1]
    native = build(backbone, linear.out_features)
    new = native.get_submodule(head(backbone).place)
    [layer for layer in new.modules() if isinstance(layer, nn.Linear)][-1].load_state_dict(linear.state_dict())
    groups = REGISTRY[backbone].split(native)  # the same modules, under both names
    for name, part in groups.items():
        part.load_state_dict(model.group(name).state_dict())
    mirrored = any(isinstance(layer, MirrorImage) for layer in groups[GROUPS[0]].modules())
    return {
        key: (value.flip(2, 3) if mirrored and value.ndim == 4 else value).contiguous()
        for key, value in native.state_dict().items()
    }
