"""A study's prepared data on disk: decoded images, their index, the data card, the drawn subsets."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.files import partial_of, shown, sync_folder, write_atomically
from pipeline.randomness import keys_of
from pipeline.stages import noted
from pipeline.stages.noted import CARD, INDEX, PIXELS, images_of, json_of, place_of, record, write_card
from pipeline.stages.noted import PreparedError as PreparedError
from pipeline.stages.noted import folder as folder
from pipeline.stages.noted import write_json as write_json
from pipeline.strategies import Crop
from pipeline.subsets import Indices, Pool

if TYPE_CHECKING:
    from pipeline.datasets import Listing
    from pipeline.identity import Dataset
    from pipeline.params import Study
    from pipeline.training import Images

Pixels = NDArray[np.uint8]


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
    skipped: Mapping[str, int]  # reason: how many entries of the folder were left out
    copies: int  # images left out, since the same pixels are there once already
    notes: tuple[str, ...]
    beside: Mapping[str, str]  # checksums of what lies beside the images: own weights, inherited rates


@dataclass(frozen=True)
class Prepared:
    """A prepared data set: the pool comes first, then the test images, then those that are only watched."""

    place: Path
    stored: Mapping[Crop, Pixels]  # [images, H, W, 3], memory-mapped
    labels: Indices  # [images]
    ids: tuple[str, ...]
    keys: NDArray[np.uint64]  # [images]
    card: Card

    @property
    def pool(self) -> Pool:
        """What draws may take."""
        return self._range(0, self.card.pool_images)

    @property
    def tested(self) -> Pool:
        """All images of the test split."""
        return self._range(self.card.pool_images, self.card.pool_images + self.card.test_images)

    @property
    def validation(self) -> Pool:
        """The images that a folder sets apart to be watched."""
        return self._range(self.card.pool_images + self.card.test_images, len(self.labels))

    @property
    def test(self) -> Indices:
        """Positions of the test images."""
        return self.tested.indices

    @property
    def watch(self) -> Indices:
        """Positions of the images that a folder sets apart to be watched; empty where it has none."""
        return self.validation.indices

    def pixels(self, crop: Crop = "own") -> Pixels:
        """The decoded images for a crop: [images, H, W, 3]. Raises PreparedError where they were not prepared."""
        if crop not in self.stored:
            raise PreparedError(f"{self.place / PIXELS[crop]} is missing; `dvc repro` makes it")
        return self.stored[crop]

    def images(self, positions: Indices, crop: Crop = "own") -> Images:
        """The images at some positions; those of a contiguous range stay on disk until they are read."""
        import torch

        from pipeline.training import Images

        pixels, first = self.pixels(crop), int(positions[0]) if len(positions) else 0
        if np.array_equal(positions, np.arange(first, first + len(positions))):
            some = pixels[first : first + len(positions)]
        else:
            some = np.ascontiguousarray(pixels[positions])
        return Images(
            torch.from_numpy(some).permute(0, 3, 1, 2), torch.from_numpy(self.labels[positions]), self.keys[positions]
        )

    def ids_sha256(self, positions: Indices) -> str:
        """Checksum of the ids and labels of some images, in order."""
        lines = (f"{self.ids[position]}\t{self.labels[position]}" for position in positions)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _range(self, start: int, stop: int) -> Pool:
        return Pool(np.arange(start, stop), self.labels[start:stop], self.card.classes, self.keys[start:stop])


# --- what prepared data were made from ------------------------------------------------------------------------------


def _subsets_of(study: Study, card: Card) -> dict[str, Any]:
    """What the subsets of a study depend on, and what lies beside the images that runs on them depend on."""
    return {
        "data_sha256": card.sha256,
        "beside": dict(card.beside),
        "per_class": list(study.per_class),
        "seeds": list(study.seeds),
        "pilots": study.pilots,
        "watched": study.watched,
        "test_images": study.test_images,
    }


def _refuse_stale(target: Path, made_from: Mapping[str, Any], wanted: Mapping[str, Any], stage: str) -> None:
    """DVC knows when a file is stale; a stage that is run by hand finds it out here.

    Trained on other images than the parameters name, runs would be stored where nobody looks for them.
    """
    for key, value in wanted.items():
        if made_from.get(key) != value:
            raise PreparedError(
                f"{target} was made with {key} {made_from.get(key)!r}, and it is {value!r} now; `dvc repro` makes it "
                f"anew, or `python -m pipeline.stages.{stage}` does"
            )


def _refuse_other_files(study: Study, stamp: str) -> None:
    """The parameters name another place: is it the same folder, moved, or another one?"""
    from pipeline import datasets

    if datasets.look(study.dataset.name, study.dataset.options).stamp != stamp:
        raise PreparedError(
            f"{folder(study.name) / CARD} was made from other files than those in {place_of(study)}; `dvc repro` "
            f"makes it anew, or `python -m pipeline.stages.prepare {study.name}` does"
        )


# --- writing --------------------------------------------------------------------------------------------------------


def write_pixels(study: Study, crop: Crop, images: Iterable[Pixels], shape: tuple[int, ...]) -> None:
    """Write the decoded images, block by block, under another name first: a full disk leaves the old ones."""
    target = folder(study.name) / PIXELS[crop]
    partial = partial_of(target)
    try:
        with partial.open("wb") as file:  # written, not mapped: a full disk is an error then, no bus error
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for block in images:
                file.write(block.tobytes())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(target.parent)


def keep_pixels(study: Study, crops: Iterable[Crop]) -> None:
    """Remove the decoded images of crops that no strategy wants any more."""
    for crop in set(PIXELS) - set(crops):
        (folder(study.name) / PIXELS[crop]).unlink(missing_ok=True)


def write_index(study: Study, listing: Listing, dataset: Dataset, crops: Sequence[Crop]) -> None:
    """Write the index, the data card, and what all was made from."""
    place = folder(study.name)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "label", "split", "file"))
    writer.writerows((m.id, m.label, m.split, shown(m.name)) for m in dataset.members)
    write_atomically(place / INDEX, text.getvalue().encode())
    test = [member.label for member in dataset.members if member.split == "test"]
    write_card(
        study,
        listing,
        {
            "sha256": dataset.sha256,
            "classes": listing.classes,
            "pool_images": sum(member.split == "pool" for member in dataset.members),
            "test_images": len(test),
            "test_class_counts": [test.count(label) for label in range(len(listing.classes))],
            "copies": dataset.copies,
            "notes": dataset.notes,
        },
        crops,
    )


# --- reading --------------------------------------------------------------------------------------------------------


def read(study: Study) -> Prepared:
    """The prepared data of a study, their checksums taken anew: some tenths of a second for 200 MB.

    Raises PreparedError where they were made from other parameters or files, or are damaged.
    """
    place = folder(study.name)
    card = json_of(place / CARD)
    if not card:
        raise PreparedError(f"{place / CARD} is missing; `dvc repro` makes it")
    made_from = card.pop("made_from", {})
    wanted = {**images_of(study), "beside": noted.beside(study)}
    _refuse_stale(place / CARD, {**made_from, "beside": card.get("beside")}, wanted, f"prepare {study.name}")
    if not noted.is_whole(study):
        raise PreparedError(f"{place}: its files are not those that `prepare` wrote; `dvc repro` makes them anew")
    for name in noted.damaged(study):
        raise PreparedError(
            f"{place / name} does not hold what `prepare` wrote, as after an error of the disk; delete it, and "
            "`dvc repro` makes it anew"
        )
    if made_from.get("place") != place_of(study):
        _refuse_other_files(study, record(study).get("stamp", ""))
    for key in ("classes", "test_class_counts", "notes"):
        card[key] = tuple(card[key])
    with (place / INDEX).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ids = tuple(row["id"] for row in rows)
    labels = np.array([int(row["label"]) for row in rows], dtype=np.int64)
    # "c" never writes to the file, and spares PyTorch's warning about memory that can't be written to.
    stored = {crop: np.load(place / name, mmap_mode="c") for crop, name in PIXELS.items() if (place / name).exists()}
    if stored["own"].shape[1] < study.resolution:
        stored["whole"] = stored["own"]  # squares as they came; each crop is cut on the device
    return Prepared(place, stored, labels, ids, keys_of(ids), Card(**card))


# --- subsets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subsets:
    """The drawn subsets of a study, as positions in its prepared data."""

    drawn: Mapping[tuple[int, int], Indices]  # (per_class, seed), seeds of pilots included
    watched: Indices
    judged: Indices  # the test images that are used
    pilots: Mapping[int, tuple[int, ...]]  # per_class: the seeds that choose its rates; none where nothing is tuned
    overlap: Mapping[int, float]  # per_class: the mean share of a class that two seeds have in common, at its highest


def write_subsets(study: Study, card: Card, subsets: Subsets) -> None:
    """Write the subsets of a study."""
    content = {
        "made_from": _subsets_of(study, card),
        "drawn": {f"{per_class}/{seed}": drawn.tolist() for (per_class, seed), drawn in subsets.drawn.items()},
        "watched": subsets.watched.tolist(),
        "judged": subsets.judged.tolist(),
        "pilots": {str(per_class): list(seeds) for per_class, seeds in subsets.pilots.items()},
        "overlap": {str(per_class): share for per_class, share in subsets.overlap.items()},
    }
    write_atomically(folder(study.name) / "subsets.json", json.dumps(content).encode())


def read_subsets(study: Study, card: Card) -> Subsets:
    """The subsets of a study. Raises PreparedError where they were drawn for other parameters or data."""
    target = folder(study.name) / "subsets.json"
    content = json_of(target)
    if not content:
        raise PreparedError(f"{target} is missing; `dvc repro` makes it")
    _refuse_stale(target, content.get("made_from", {}), _subsets_of(study, card), f"subset {study.name}")
    drawn = {}
    for key, positions in content["drawn"].items():
        per_class, _, seed = key.partition("/")
        drawn[int(per_class), int(seed)] = np.array(positions, dtype=np.int64)
    return Subsets(
        drawn,
        np.array(content["watched"], dtype=np.int64),
        np.array(content["judged"], dtype=np.int64),
        {int(per_class): tuple(seeds) for per_class, seeds in content["pilots"].items()},
        {int(per_class): share for per_class, share in content["overlap"].items()},
    )
