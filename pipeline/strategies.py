"""How a backbone is adapted: strategies, their phases and the cells they make, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

GROUPS: tuple[str, ...] = ("stem", "stage1", "stage2", "stage3", "stage4", "head")

ALL = 0  # as `per_class`: every image that can be drawn, in natural class shares

Role = Literal["final", "pilot", "sweep", "ablation"]
Weights = Literal["pretrained", "none"]
BatchNorm = Literal["train", "statistics_fixed", "frozen"]
Augmentation = Literal["none", "flip", "crop_and_colour"]
Normalisation = Literal["own", "imagenet", "none"]
FrozenGroups = Literal["frozen", "batch_norm_forgotten"]
Learn = Literal["all", "norms"]
Head = Literal["linear", "lda", "nearest_mean"]
Crop = Literal["own", "whole"]
Norm = Literal["batch", "layer", "none"]
Precision = Literal["float32", "bfloat16"]
Metric = Literal["accuracy", "balanced_accuracy"]

BACKBONES: Mapping[str, Norm] = {  # every name in params.yaml, with the kind of its normalisation layers
    "efficientnet_lite0": "batch",
    "efficientnet_lite1": "batch",
    "efficientnet_lite2": "batch",
    "resnet18": "batch",
    "resnet50": "batch",
    "mobilenet_v3_large": "batch",
    "convnext_tiny": "layer",
    "squeezenet1_1": "none",
}


@dataclass(frozen=True)
class Phase:
    """A share of the epochs during which the groups in `rates` learn; a group without a rate is frozen."""

    share: float
    rates: Mapping[str, float]  # learning rate of each learning group; `all` is resolved already

    @property
    def learning(self) -> tuple[str, ...]:
        """The learning groups, input to output."""
        return tuple(group for group in GROUPS if group in self.rates)

    @property
    def frozen(self) -> tuple[str, ...]:
        """The frozen groups, input to output."""
        return tuple(group for group in GROUPS if group not in self.rates)

    @property
    def frozen_prefix(self) -> tuple[str, ...]:
        """The longest stretch of frozen groups that starts at the input."""
        first = GROUPS.index(self.learning[0])
        return GROUPS[:first]


@dataclass(frozen=True)
class Strategy:
    """An ordered list of phases, and what else sets this way of adapting a backbone apart."""

    name: str
    phases: tuple[Phase, ...]  # none where the head has a closed form
    weights: Weights = "pretrained"
    batch_norm: BatchNorm = "frozen"  # of the learning groups; a frozen group's is always frozen
    dropout: float = 0.0  # probability, in front of the head
    augmentation: Augmentation = "flip"
    normalisation: Normalisation = "own"
    frozen_groups: FrozenGroups = "frozen"
    learn: Learn = "all"  # of the learning groups: every weight, or scale and shift of the norms alone; the head always
    head: Head = "linear"
    crop: Crop = "own"
    interpolate: float = 0.0  # how far all weights go back to the end of the head phase before the judged images

    @property
    def closed_form(self) -> bool:
        """Whether the head is computed from the features of the plain view: nothing learns, no rate matters."""
        return self.head != "linear"

    def scaled(self, lr_scale: float) -> Strategy:
        """The same strategy with every rate of every phase multiplied by `lr_scale`."""
        return replace(
            self,
            phases=tuple(
                replace(phase, rates={group: rate * lr_scale for group, rate in phase.rates.items()})
                for phase in self.phases
            ),
        )


@dataclass(frozen=True)
class Cell:
    """One training run, named by what sets it apart from the others of all studies."""

    study: str
    role: Role
    strategy: str
    per_class: int  # training images of each class, or ALL
    lr_scale: float
    seed: int

    @property
    def size(self) -> str:
        """How many images it trains on, in words."""
        return size_words(self.per_class)

    @property
    def file_size(self) -> str:
        """The same, as a part of file names: `10-a-class`, `all-images`."""
        return self.size.replace(" ", "-")

    def __str__(self) -> str:
        scale = "" if self.lr_scale == 1 else f" ×{self.lr_scale:g}"
        return f"{self.study} {self.strategy}{scale} {self.size}, seed {self.seed}"


def size_words(per_class: int) -> str:
    """`10 a class`, or `all images`."""
    return "all images" if per_class == ALL else f"{per_class} a class"


def epochs_of_phases(shares: Sequence[float], epochs: int) -> tuple[int, ...]:
    """Split `epochs` over `shares` by largest remainder, so that the total is kept and no phase is empty.

    Raises ValueError where there are more phases than epochs.
    """
    if len(shares) > epochs:
        raise ValueError(f"{len(shares)} phases do not fit into {epochs} epochs; every phase needs at least one")
    exact = [share * epochs for share in shares]
    # Rounded first: 0.1 * 30 is 3.0000000000000004, and must not count as a remainder.
    whole = [max(1, int(round(value, 9))) for value in exact]
    while sum(whole) < epochs:
        behind = max(range(len(shares)), key=lambda i: (round(exact[i] - whole[i], 9), -i))
        whole[behind] += 1
    while sum(whole) > epochs:
        ahead = max((i for i in range(len(shares)) if whole[i] > 1), key=lambda i: (round(whole[i] - exact[i], 9), i))
        whole[ahead] -= 1
    return tuple(whole)
