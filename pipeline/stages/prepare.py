"""Stage `prepare`: list a study's images; where any was touched, check, identify and decode them all."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from pipeline import datasets, execution, folders, params
from pipeline.datasets import DatasetError, Listing
from pipeline.params import Study
from pipeline.preprocessing import Preprocessing
from pipeline.stages import command, noted
from pipeline.strategies import Crop

LOG = logging.getLogger(__name__)

BLOCK = 256  # images copied at once


def prepare(name: str) -> None:
    """Write data/<study>/: images.npy (images_whole.npy where a strategy cuts nothing off), index.csv, card.json.

    Leaves them as they are where the files' names, sizes and times are those of last time.
    """
    loaded = params.load()
    study, crops = loaded.study(name), loaded.crops(name)
    listing = datasets.look(study.dataset.name, study.dataset.options)
    try:
        if not listing.refused and noted.is_current(study, listing, crops):
            noted.write_card(study, listing, noted.found(study), crops)
            LOG.info("%s: nothing has changed since its images were prepared", listing.name)
            return
        _prepare(study, listing, crops)
    except OSError as error:
        raise noted.PreparedError(
            f"{folders.shown(str(error.filename or noted.folder(name)))}: {error.strerror or error}"
        ) from error


def _prepare(study: Study, listing: Listing, crops: Sequence[Crop]) -> None:
    # Here, since a look does without them, and without PyTorch.
    import tempfile

    import numpy as np

    from pipeline import backbones, identity
    from pipeline.stages import prepared
    from pipeline.stages.progress import Progress

    preprocessing = backbones.REGISTRY[study.backbone].preprocessing()
    sources = listing.sources()
    for reason, count in listing.skipped.items():
        LOG.info("%s: skipped %d: %s", listing.name, count, reason)
    if not listing.refused:
        expect_enough(study, listing, identity.pool_counts(listing, sources))
    headers = identity.examine(listing, sources, study.resolution, execution.cores())
    noted.claim(study)
    fits: dict[Crop, Preprocessing | None] = {"own": None}  # squares as they come; each crop is cut on the device
    if headers.native is None:
        fits = {crop: preprocessing.at(study.resolution, crop) for crop in crops}
    side = headers.native or study.resolution
    with tempfile.TemporaryFile(dir=noted.folder(study.name)) as scratch:
        ids = []
        with Progress(f"{study.name} · decode", len(sources), "image") as bar:
            for decoded in identity.decode(sources, fits, headers.deepest, execution.cores()):
                ids.append(decoded.id)
                for crop in fits:
                    scratch.write(decoded.stored[crop].tobytes())
                bar.advance()
        scratch.flush()
        dataset = identity.settle(listing, sources, ids, headers.notes)
        drawable = Counter(member.label for member in dataset.members if member.split == "pool")
        expect_enough(study, listing, [drawable[label] for label in range(len(listing.classes))])
        # Ordered by identity only now: an image's id, and so its place, follows from its pixels.
        rows = np.array([member.row for member in dataset.members])
        stored = np.memmap(scratch, np.uint8, "r", shape=(len(sources), len(fits), side, side, 3))
        for at, crop in enumerate(fits):
            blocks = (stored[rows[start : start + BLOCK], at] for start in range(0, len(rows), BLOCK))
            prepared.write_pixels(study, crop, blocks, (len(rows), side, side, 3))
    prepared.keep_pixels(study, fits)
    prepared.write_index(study, listing, dataset, crops)
    for note in dataset.notes:
        LOG.info("%s: %s", listing.name, note)
    LOG.info("%s: %d images of %d classes, stored at %d px", listing.name, len(rows), len(listing.classes), side)


def expect_enough(study: Study, listing: Listing, counts: Sequence[int]) -> None:
    """Raises DatasetError where a class has fewer images than the study asks for."""
    for label, count in enumerate(counts):
        if max(study.per_class) > count:
            raise DatasetError(
                f"studies.{study.name}.per_class: {max(study.per_class)} images a class asked for, but class "
                f"'{folders.shown(listing.classes[label])}' of {listing.name} has {count}; give at most {min(counts)}"
            )


if __name__ == "__main__":
    command.main(prepare, "List, check, identify and decode the images of a study.")
