"""The same work with Thaw: decode once, then all runs as the stages train them."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm  # noqa: F401 - or the first run would pay for it; for the peers too, imports count as start-up
import torch

from pipeline import backbones, datasets, execution
from pipeline.strategies import Cell, Phase, Strategy
from pipeline.training import Images, Task
from tests.benchmarks.peers.workload import Workload

BACKBONES = {"tf_efficientnet_lite0": "efficientnet_lite0"}


def decoded(workload: Workload, folder: Path, first: int) -> Images:
    """The images of one folder, from position `first` of the data set on."""
    names = sorted(entry.name for entry in folder.iterdir())
    found = [(path, label) for label, name in enumerate(names) for path in sorted((folder / name).iterdir())]
    sources = tuple(datasets.Source(path.name, label, False, "", path) for path, label in found)
    preprocessing = backbones.REGISTRY[BACKBONES[workload.backbone]].preprocessing().at(workload.resolution)
    dataset = datasets.Dataset("", "", "", tuple(names), sources)
    pixels = np.stack(list(datasets.decode(dataset, preprocessing, None, execution.workers())))
    labels = torch.tensor([label for _, label in found])
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2), labels, np.arange(first, first + len(found)))


def tasks(workload: Workload) -> list[Task]:
    """All runs as tasks. The validation images are those of every seed, decoded once, watched and judged."""
    watched = decoded(workload, Path(workload.images(workload.seeds[0], "val")), 0)
    count, train = len(watched), {}
    for seed in workload.seeds:
        train[seed] = decoded(workload, Path(workload.images(seed, "train")), count)
        count += len(train[seed])
    return [_task(workload, name, given, seed, (train[seed], watched, watched), count)
            for name, given, seed in workload.runs()]  # fmt: skip


def _task(
    workload: Workload, name: str, given: dict[str, Any], seed: int, images: tuple[Images, Images, Images], count: int
) -> Task:
    epochs = sum(phase["epochs"] for phase in given["phases"])
    phases = tuple(Phase(phase["epochs"] / epochs, phase["rates"]) for phase in given["phases"])
    return Task(
        Cell("peers", "final", name, len(images[0]) // workload.classes, 1.0, seed),
        Strategy(name, phases, weights=given["weights"]),
        BACKBONES[workload.backbone], workload.resolution, epochs, workload.batch_size, workload.classes, count,
        *images,
    )  # fmt: skip


def main() -> None:
    """Train the runs of the workload named on the command line, and print what came of them."""
    workload = Workload(**json.loads(Path(sys.argv[1]).read_text()))
    ready, since, runs = time.time(), time.perf_counter(), []
    given = tasks(workload)
    state, _ = backbones.read_weights(backbones.REGISTRY[BACKBONES[workload.backbone]].weights)
    # A stage's cells train side by side; the stages follow each other, as under DVC.
    for name in workload.strategies:
        own = [task for task in given if task.strategy.name == name]
        for run in execution.run_all(own, execution.device(), state, lambda *_: None):
            runs.append({"strategy": name, "seed": run.cell.seed, "accuracy": run.judged.accuracy,
                         "seconds": time.perf_counter() - since})  # fmt: skip
            since = time.perf_counter()
    print(json.dumps({"ready": ready, "done": time.time(), "runs": runs}))


if __name__ == "__main__":
    main()
