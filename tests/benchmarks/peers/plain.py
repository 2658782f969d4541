"""A plain PyTorch loop with ImageFolder and DataLoader, as a textbook writes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from tests.benchmarks.peers import model as models
from tests.benchmarks.peers.workload import Workload, contend

WORKERS = 2  # processes that decode


def loaders(workload: Workload, seed: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training and validation images."""
    bicubic = transforms.InterpolationMode.BICUBIC
    size = [transforms.Resize(workload.resize, bicubic), transforms.CenterCrop(workload.resolution)]
    end = [transforms.ToTensor(), transforms.Normalize(workload.mean, workload.std)]
    augmented = transforms.Compose([*size, transforms.RandomHorizontalFlip(), *end])
    plain = transforms.Compose([*size, *end])

    def loader(split: str, transform: Any, batch: int, shuffled: bool) -> DataLoader[Any]:
        images = ImageFolder(workload.images(seed, split), transform)
        return DataLoader(images, batch, shuffle=shuffled, num_workers=WORKERS, persistent_workers=True)

    return loader("train", augmented, workload.batch_size, True), loader("val", plain, 128, False)


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader[Any]) -> float:
    """The fraction of images whose class is predicted."""
    model.eval()
    right = total = 0
    for images, labels in loader:
        right += int((model(images).argmax(1) == labels).sum())
        total += len(labels)
    return right / total


def train(workload: Workload, strategy: dict[str, Any], seed: int) -> float:
    """Train one run; its accuracy after the last epoch."""
    model = models.build(workload, strategy, seed)
    groups = models.groups(model)
    training, validation = loaders(workload, seed)
    loss_of, last = nn.CrossEntropyLoss(), 0.0
    for phase in strategy["phases"]:
        rates = phase["rates"]
        models.thaw(groups, strategy, rates)
        optimizer = torch.optim.AdamW([{"params": groups[name].parameters(), "lr": rates[name]} for name in rates])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, phase["epochs"] * len(training))
        for _ in range(phase["epochs"]):
            models.set_training(groups, strategy, rates)
            for images, labels in training:
                optimizer.zero_grad()
                loss_of(model(images), labels).backward()
                optimizer.step()
                schedule.step()
            last = accuracy(model, validation)
    return last


if __name__ == "__main__":
    contend(train)
