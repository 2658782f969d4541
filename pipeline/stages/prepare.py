"""Stage `prepare`: list, check, hash and decode a study's images once."""

from __future__ import annotations

import logging
import os
from collections import Counter

import numpy as np

from pipeline import backbones, datasets, params
from pipeline.stages import command, prepared
from pipeline.stages.progress import Progress
from pipeline.subsets import SubsetError

LOG = logging.getLogger(__name__)


def prepare(name: str) -> None:
    """Write data/<study>/: images.npy, index.csv, card.json."""
    study = params.load().study(name)
    preprocessing = backbones.REGISTRY[study.backbone].preprocessing().at(study.resolution)
    dataset = datasets.load(study.dataset.name, study.dataset.options)
    counts = Counter(source.label for source in dataset.sources if not source.test)
    for label, class_name in enumerate(dataset.classes):
        if max(study.per_class) > counts[label]:
            raise SubsetError(
                f"studies.{name}.per_class: {max(study.per_class)} images a class asked for, "
                f"but class '{class_name}' of {dataset.name} has {counts[label]}; give at most {min(counts.values())}"
            )
    native = datasets.stored_size(dataset, preprocessing)
    side = native or preprocessing.crop
    target = prepared.pixels_path(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(".partial-images.npy")
    shape = (len(dataset.sources), side, side, 3)
    pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
    with Progress(f"{name} · decode", len(dataset.sources), "image") as bar:
        for position, image in enumerate(datasets.decode(dataset, preprocessing, native, len(os.sched_getaffinity(0)))):
            pixels[position] = image
            bar.advance()
    pixels.flush()
    partial.replace(target)
    prepared.write_index(study, dataset)
    LOG.info("%s: %d images of %d classes, stored at %d px", dataset.name, shape[0], len(dataset.classes), side)


if __name__ == "__main__":
    command.main(prepare, "List, check, hash and decode the images of a study.")
