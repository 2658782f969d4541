"""A study's prepared data on disk: decoded images, their index, the data card, the drawn subsets."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.datasets import Dataset, Pixels
from pipeline.params import Study
from pipeline.runs import RunStoreError, write_atomically
from pipeline.stages.command import DATA
from pipeline.subsets import Indices, Pool
from pipeline.training import Images


@dataclass(frozen=True)
class Card:
    """What a report says of a data set."""

    name: str
    source: str
    licence: str
    sha256: str
    classes: tuple[str, ...]
    pool_images: int
    test_images: int
    test_class_counts: tuple[int, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """A prepared data set: the pool comes first, then the test images."""

    pixels: Pixels  # [images, H, W, 3], memory-mapped
    labels: Indices  # [images]
    ids: tuple[str, ...]
    card: Card

    @property
    def pool(self) -> Pool:
        """What draws may take."""
        count = self.card.pool_images
        return Pool(np.arange(count), self.labels[:count], self.card.classes, self.card.sha256)

    @property
    def test(self) -> Indices:
        """Positions of the test images."""
        return np.arange(self.card.pool_images, len(self.labels))

    def images(self, indices: Indices) -> Images:
        """The images at some positions, in memory."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.pixels[indices])).permute(0, 3, 1, 2)
        return Images(pixels, torch.from_numpy(self.labels[indices]), np.asarray(indices, dtype=np.int64))

    def ids_sha256(self, indices: Indices) -> str:
        """Checksum of the ids of some images, in order."""
        return hashlib.sha256("\n".join(self.ids[index] for index in indices).encode()).hexdigest()


def folder(study: str) -> Path:
    """Where the prepared data of a study lie."""
    return DATA / study


def pixels_path(study: str) -> Path:
    """The decoded images."""
    return folder(study) / "images.npy"


def _images_of(study: Study) -> dict[str, Any]:
    """What the prepared images of a study depend on."""
    spec = study.dataset
    return {
        "dataset": {"name": spec.name, **spec.options},
        "backbone": study.backbone,
        "resolution": study.resolution,
    }


def _subsets_of(study: Study, data_sha256: str) -> dict[str, Any]:
    """What the subsets of a study depend on."""
    return {
        "data_sha256": data_sha256,
        "per_class": list(study.per_class),
        "seeds": list(study.seeds),
        "learning_rates": study.learning_rates,  # tuned ones need the pilots' draws
        "watched": study.watched,
    }


def _refuse_stale(target: Path, made_from: Mapping[str, Any], wanted: Mapping[str, Any], stage: str) -> None:
    """DVC knows when a file is stale; a stage that is run by hand finds it out here.

    Trained on other images than the parameters name, runs would be stored where nobody looks for them.
    """
    for key, value in wanted.items():
        if made_from.get(key) != value:
            raise RunStoreError(
                f"{target} was made with {key} {made_from.get(key)!r}, and it is {value!r} now; `dvc repro` makes it "
                f"anew, or `python -m pipeline.stages.{stage}` does"
            )


def write_index(study: Study, dataset: Dataset) -> None:
    """Write the index and the data card."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "label", "split", "sha256"))
    writer.writerows((s.id, s.label, "test" if s.test else "pool", s.sha256) for s in dataset.sources)
    write_atomically(folder(study.name) / "index.csv", text.getvalue().encode())
    test = [source.label for source in dataset.sources if source.test]
    card = Card(
        name=dataset.name,
        source=dataset.origin,
        licence=dataset.licence,
        sha256=dataset.sha256,
        classes=dataset.classes,
        pool_images=len(dataset.sources) - len(test),
        test_images=len(test),
        test_class_counts=tuple(test.count(label) for label in range(len(dataset.classes))),
        notes=dataset.notes,
    )
    write_json(folder(study.name) / "card.json", {**asdict(card), "made_from": _images_of(study)})


def read(study: Study) -> Prepared:
    """The prepared data of a study. Raises RunStoreError where they were prepared from other parameters."""
    place = folder(study.name)
    card: dict[str, Any] = json.loads((place / "card.json").read_text())
    _refuse_stale(place / "card.json", card.pop("made_from", {}), _images_of(study), f"prepare {study.name}")
    for key in ("classes", "test_class_counts", "notes"):
        card[key] = tuple(card[key])
    with (place / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return Prepared(
        np.load(pixels_path(study.name), mmap_mode="r"),
        np.array([int(row["label"]) for row in rows], dtype=np.int64),
        tuple(row["id"] for row in rows),
        Card(**card),
    )


@dataclass(frozen=True)
class Subsets:
    """The drawn subsets of a study, as positions in its prepared data."""

    drawn: Mapping[tuple[int, int], Indices]  # (per_class, seed), seeds of pilots included
    watched: Indices
    overlap: Mapping[int, float]  # per_class: the mean share of images that two seeds have in common


def write_subsets(study: Study, data_sha256: str, subsets: Subsets) -> None:
    """Write the subsets of a study."""
    content = {
        "made_from": _subsets_of(study, data_sha256),
        "drawn": {f"{per_class}/{seed}": drawn.tolist() for (per_class, seed), drawn in subsets.drawn.items()},
        "watched": subsets.watched.tolist(),
        "overlap": {str(per_class): share for per_class, share in subsets.overlap.items()},
    }
    write_atomically(folder(study.name) / "subsets.json", json.dumps(content).encode())


def read_subsets(study: Study, data_sha256: str) -> Subsets:
    """The subsets of a study. Raises RunStoreError where they were drawn for other parameters or data."""
    target = folder(study.name) / "subsets.json"
    content = json.loads(target.read_text())
    _refuse_stale(target, content.get("made_from", {}), _subsets_of(study, data_sha256), f"subset {study.name}")
    drawn = {}
    for key, indices in content["drawn"].items():
        per_class, _, seed = key.partition("/")
        drawn[int(per_class), int(seed)] = np.array(indices, dtype=np.int64)
    overlap = {int(per_class): share for per_class, share in content["overlap"].items()}
    return Subsets(drawn, np.array(content["watched"], dtype=np.int64), overlap)


def write_json(target: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON."""
    write_atomically(target, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
