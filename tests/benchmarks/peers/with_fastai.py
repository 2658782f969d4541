"""The same work with fastai."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import Learner  # its import adds fit_one_cycle
from fastai.data.transforms import Normalize
from fastai.learner import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.vision.augment import CropPad, Flip, Resize
from fastai.vision.data import ImageDataLoaders
from PIL.Image import Resampling

from tests.benchmarks.peers import model as models
from tests.benchmarks.peers.plain import WORKERS
from tests.benchmarks.peers.workload import Workload, contend

BICUBIC = (Resampling.BICUBIC, Resampling.NEAREST)  # of images, of masks
FROZEN_RATE = 1e-10  # fastai wants a rate for every group; frozen ones don't use it


class FrozenNorms(Callback):  # type: ignore[misc]
    """Keeps BatchNorm layers as they are; fastai's own `train_bn=False` speaks of frozen groups alone."""

    def __init__(self, layers: list[torch.nn.Module]) -> None:
        self.layers = layers

    def before_train(self) -> None:
        """After fastai has put all of the model into training mode."""
        for layer in self.layers:
            layer.eval()


def train(workload: Workload, strategy: dict[str, Any], seed: int) -> float:
    """Train one run; its accuracy after the last epoch."""
    torch.manual_seed(seed)
    sized = [Resize(workload.resize, resamples=BICUBIC), CropPad(workload.resolution)]
    data = ImageDataLoaders.from_folder(
        f"{workload.folder}/{seed}", train="train", valid="val", item_tfms=sized,
        batch_tfms=[Flip(), Normalize.from_stats(workload.mean, workload.std, cuda=False)],
        bs=workload.batch_size, val_bs=128, num_workers=WORKERS, device=torch.device("cpu"),
    )  # fmt: skip
    model = models.build(workload, strategy, seed)
    groups = models.groups(model)

    norms = models.frozen_norms(groups, strategy)
    for layer in norms:
        layer.requires_grad_(False)

    def splitter(_: Any) -> list[list[Any]]:
        still = {id(weight) for layer in norms for weight in layer.parameters()}
        return [[weight for weight in group.parameters() if id(weight) not in still] for group in groups.values()]

    learner = Learner(
        data, model, CrossEntropyLossFlat(), splitter=splitter, metrics=accuracy, train_bn=False, wd=0.01,
        cbs=[FrozenNorms(norms)],
    )  # fmt: skip
    names = list(groups)
    with learner.no_bar(), learner.no_logging():
        for phase in strategy["phases"]:
            learner.freeze_to(min(names.index(name) for name in phase["rates"]))
            rates = np.array([phase["rates"].get(name, FROZEN_RATE) for name in names])
            learner.fit_one_cycle(phase["epochs"], rates)
    return float(learner.recorder.values[-1][-1])


if __name__ == "__main__":
    contend(train)
