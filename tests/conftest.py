"""What all tests share: one thread, tiny images, tiny tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.strategies import GROUPS, Cell, Phase, Strategy
from pipeline.training import Images, Run, Task

os.environ.setdefault("THAW_DEVICE", "cpu")  # what tests expect is a CPU's; those of a GPU ask for it

ALL = dict.fromkeys(GROUPS, 1e-3)
HEAD = {"head": 1e-2}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest first: so no worker is left with one of them while the others have nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def some_images(count: int, first: int, pixels: int = 32) -> Images:
    """Random images of two classes that differ in brightness, with keys `first`, `first` + 1, …"""
    generator = torch.Generator().manual_seed(first)
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 128, (count, 3, pixels, pixels), generator=generator)
    values = (noise + 96 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    return Images(
        values.contiguous(memory_format=torch.channels_last), labels, np.arange(first, first + count, dtype=np.uint64)
    )


@pytest.fixture
def task() -> Callable[..., Task]:
    """Make a tiny task: 12 images of 32 px, two classes."""

    def make(
        strategy: Strategy, epochs: int = 4, backbone: str = "efficientnet_lite0", seed: int = 0, **changes: object
    ) -> Task:
        given: dict[str, object] = {
            "cell": Cell("tiny", "final", strategy.name, 6, 1.0, seed),
            "strategy": strategy,
            "backbone": backbone,
            "resolution": 32,
            "epochs": epochs,
            "batch_size": 5,
            "classes": 2,
            "precision": "float32",
            "train": some_images(12, 0),
            "watched": some_images(6, 12),
            "judged": some_images(10, 18),
        }
        return Task(**{**given, **changes})  # type: ignore[arg-type]

    return make


STRATEGIES = (
    Strategy("scratch", (Phase(1, ALL),), weights="none", batch_norm="train"),
    Strategy("feature_extraction", (Phase(1, HEAD),)),
    Strategy("last_block", (Phase(1, {"stage4": 1e-3, **HEAD}),)),
    Strategy("fine_tune", (Phase(1, {**ALL, **HEAD}),)),
    Strategy("discriminative", (Phase(1, {**ALL, "stem": 1e-4, **HEAD}),)),
    Strategy(
        "gradual_unfreezing",
        (Phase(0.25, HEAD), Phase(0.25, {"stage4": 1e-3, **HEAD}), Phase(0.5, {**ALL, **HEAD})),
    ),
    Strategy("lp_ft", (Phase(0.5, HEAD), Phase(0.5, ALL))),
    Strategy("norm_only", (Phase(1, ALL),), learn="norms", batch_norm="statistics_fixed"),
    Strategy("fine_tune_batch_norm_train", (Phase(1, ALL),), batch_norm="train"),
)
BY_NAME = {strategy.name: strategy for strategy in STRATEGIES}


def same(one: Run, other: Run) -> bool:
    """Whether two runs have the same bytes, however long they took."""
    numbers = [replace(run, seconds=0, predicted=None) for run in (one, other)]  # type: ignore[arg-type]
    return numbers[0] == numbers[1] and np.array_equal(one.predicted, other.predicted)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder data set of two classes, 14 training and 6 test images each, 24 px, dark against bright."""
    return write_image_folder(tmp_path / "images")


def write_image_folder(root: Path, train: int = 14, test: int = 6) -> Path:
    """Write PNG files `train/<class>/…` and `test/<class>/…`."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for label, name in enumerate(("dark", "bright")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                values = generator.integers(0, 128, (24, 24, 3)) + 96 * label
                Image.fromarray(values.astype(np.uint8)).save(folder / f"{number:03d}.png")
    return root


def train_tiny(folder: Path, params: str, strategies: Sequence[str]) -> None:
    """A study called tiny, in a folder that becomes its project: prepared, tuned, and the final runs of strategies."""
    from pipeline.stages import cells, prepare, subset, tune

    folder.mkdir(exist_ok=True)
    write_image_folder(folder / "images")
    (folder / "params.yaml").write_text(params, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("THAW_WORKERS", "1")
        for stage in (prepare.prepare, subset.subset, tune.tune):
            stage("tiny")
        for strategy in strategies:
            cells.complete("tiny", "final", strategy)
