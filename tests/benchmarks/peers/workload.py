"""The same work for Thaw and its peers: image folders, weights, strategies, seeds and epochs, as one JSON file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Workload:
    """What every contender trains.

    Folders, each with one folder a class: <folder>/<seed>/train and val for the peers. <folder>/thaw/train holds the
    training images of all seeds, of which Thaw draws the same for each; its val is the peers', its test other images.
    """

    folder: str
    seeds: list[int]
    strategies: dict[str, Any]  # name: {weights, batch_norm, phases: [{epochs, rates: {group: rate}}]}
    resize: int  # pixels of the shorter side, bicubic, before the centre is cut out
    resolution: int  # pixels
    mean: list[float]
    std: list[float]
    batch_size: int
    classes: int
    per_class: int  # training images of each class
    backbone: str  # as timm names it
    weights_file: str

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Workload:
        """Read what `write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def runs(self) -> Iterator[tuple[str, dict[str, Any], int]]:
        """Name, strategy and seed of every run."""
        return ((name, strategy, seed) for seed in self.seeds for name, strategy in self.strategies.items())

    def images(self, seed: int, split: str) -> str:
        """One of the peers' folders of images."""
        return f"{self.folder}/{seed}/{split}"

    @property
    def thaw_images(self) -> str:
        """Thaw's folder of images."""
        return f"{self.folder}/thaw"


def contend(train: Callable[[Workload, dict[str, Any], int], float]) -> None:
    """Train the runs of the workload named on the command line one after another, and print what came of them."""
    workload = Workload.read(Path(sys.argv[1]))
    ready, runs = time.time(), []
    for name, strategy, seed in workload.runs():
        since = time.perf_counter()
        accuracy = train(workload, strategy, seed)
        runs.append({"strategy": name, "seed": seed, "accuracy": accuracy, "seconds": time.perf_counter() - since})
    print(json.dumps({"ready": ready, "done": time.time(), "runs": runs}))
