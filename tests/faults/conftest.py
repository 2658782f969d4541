"""A project with one folder of images, and what stage `prepare` makes of it."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.stages import prepare, subset
from tests.conftest import write_image_folder
from tests.faults.tiny_study import Nursery

PARAMS = """\
active: [tiny]
studies:
  tiny:
    dataset: {{folder: {folder}}}
    backbone: efficientnet_lite0
    resolution: {resolution}
    per_class: [2]
    seeds: 2
    epochs: 2
    learning_rates: textbook
    strategies: [{strategies}]
    watched: 4
strategies:
  feature_extraction: {{phases: [{{share: 1, lr: {{head: 1.0e-3}}}}]}}
  whole_images: {{crop: whole, phases: [{{share: 1, lr: {{head: 1.0e-3}}}}]}}
"""


@dataclass
class Project:
    """A folder of two classes, `dark` and `bright`, with 14 training and 6 test images each, 24 px."""

    root: Path
    said: pytest.LogCaptureFixture

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def prepared(self) -> Path:
        return self.root / "data" / "tiny"

    def write_params(
        self, folder: str = "images", resolution: int = 32, strategies: str = "feature_extraction"
    ) -> None:
        text = PARAMS.format(folder=folder, resolution=resolution, strategies=strategies)
        (self.root / "params.yaml").write_text(text, encoding="utf-8")

    def prepare(self) -> dict[str, Any]:
        """Run the stage; returns the data card."""
        self.said.clear()
        prepare.prepare("tiny")
        card: dict[str, Any] = json.loads((self.prepared / "card.json").read_text(encoding="utf-8"))
        return card

    def refusal(self) -> str:
        """Run the stage, which has to refuse the folder; returns what it says."""
        with pytest.raises(UserError) as caught:
            self.prepare()
        str(caught.value).encode()  # a message that can be printed
        return str(caught.value)

    def draws(self) -> dict[str, Any]:
        """Run stage `subset`; returns what it drew, as ids."""
        subset.subset("tiny")
        content = json.loads((self.prepared / "subsets.json").read_text(encoding="utf-8"))
        ids = [row["id"] for row in self.index()]
        return {key: [ids[at] for at in content["drawn"][key]] for key in content["drawn"]}

    def index(self) -> list[dict[str, str]]:
        with (self.prepared / "index.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def pixels(self, name: str = "images.npy") -> np.ndarray:
        stored: np.ndarray = np.load(self.prepared / name)
        return stored

    def all_said(self) -> str:
        return "\n".join(record.getMessage() for record in self.said.records)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Project:
    caplog.set_level(logging.INFO)
    write_image_folder(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    made = Project(tmp_path, caplog)
    made.write_params()
    return made


_count = 0


def picture(path: Path, size: tuple[int, int] = (24, 24), **save: Any) -> Path:
    """Write a noisy image that no other one equals."""
    global _count
    _count += 1
    noise = np.random.default_rng(1000 + _count).integers(0, 256, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise.astype(np.uint8)).save(path, **save)
    return path


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Where the processes of a module's tests come from, and gone with it."""
    made = Nursery()
    yield made
    made.close()
