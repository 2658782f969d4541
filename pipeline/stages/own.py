"""Write a study of someone's own images into params.yaml, chosen to fit into some minutes (`make own FOLDER=…`)."""

from __future__ import annotations

import logging
import math
import re
import statistics
import time
from dataclasses import replace
from pathlib import Path

from pipeline import choosing, datasets, editing, params
from pipeline.choosing import Choice, Images
from pipeline.datasets import Listing
from pipeline.errors import UserError
from pipeline.files import write_atomically
from pipeline.params import DatasetSpec, Params, Study
from pipeline.stages import command

LOG = logging.getLogger(__name__)

BACKBONE = "efficientnet_lite0"
TIMED_AT = 96  # pixels at most; others are taken in proportion
SIZED = 200  # images whose headers tell how large they are


class OwnError(UserError):
    """A name, a folder or a time that no study can be made of."""


def own(folder: str, name: str, minutes: str) -> None:
    """Choose a study of the images in `folder`, write it into params.yaml, and print its name.

    A study of that folder that is there already stays as it is. An empty `name` is the folder's own.
    """
    loaded = params.load()
    limit = _minutes(minutes)
    if not folder:
        raise OwnError("which images? make own FOLDER=/path/of/images, with train/<class>/* in it")
    listing = datasets.look("folder", {"path": folder})
    study = _name(loaded, folder, name)
    if study in loaded.studies:
        LOG.info("%s: this study is in %s already and goes on as it stands there", study, params.FILE)
    else:
        _write(loaded, study, folder, listing, limit)
    print(study)


def _minutes(given: str) -> float:
    try:
        minutes = float(given)
    except ValueError:
        minutes = math.nan
    if not (math.isfinite(minutes) and minutes > 0):
        raise OwnError(f"MINUTES={given}: give a number above 0, such as 60")
    return minutes


def _name(loaded: Params, folder: str, name: str) -> str:
    """What the study is called. Raises OwnError where that can't name a folder, or names another study."""
    mine = [known.name for known in loaded.studies.values() if _is_of(known, folder)]
    if not name and mine:
        return mine[0]
    wanted = name or re.sub(r"[^\w-]+", "_", Path(folder).expanduser().absolute().name, flags=re.ASCII).strip("_-")
    if not re.fullmatch(r"\w[\w-]*", wanted, re.ASCII):
        raise OwnError(f"NAME={wanted}: use letters, digits, _ and -, such as NAME=my_photos")
    if wanted in loaded.studies and wanted not in mine:
        raise OwnError(f"NAME={wanted} is another study in {params.FILE}; give another, such as NAME=my_{wanted}")
    return wanted


def _is_of(study: Study, folder: str) -> bool:
    given = study.dataset.options.get("path")
    return isinstance(given, str) and Path(given).expanduser().resolve() == Path(folder).expanduser().resolve()


def _write(loaded: Params, name: str, folder: str, listing: Listing, minutes: float) -> None:
    since = time.perf_counter()
    from pipeline.stages import forecast  # brings torch along, which takes seconds: as every stage that trains will

    start = time.perf_counter() - since
    found = forecast.look(listing, BACKBONE, TIMED_AT, ("own",))
    images = Images(found.pool, found.test, _side(listing))
    wish = choosing.best(images)

    def studied(choice: Choice) -> Study:
        return Study(
            name=name,
            dataset=DatasetSpec("folder", {"path": folder}),
            backbone=BACKBONE,
            weights=None,
            resolution=choice.resolution,
            per_class=choice.per_class,
            seeds=tuple(range(choice.seeds)),
            epochs=choice.epochs,
            learning_rates=choice.learning_rates,
            rates_from=None,
            precision=None,
            judge_by=None,
            test_images=choice.test_images,
            sweep={},
            ablations=(),
            batch_size=32,
            watched=choosing.WATCHED,
            sweep_seeds=(),
            ablation_seeds={},
            lr_finder_seeds=(),
            strategies=loaded.default,
        )

    timed = studied(replace(wish, resolution=min(wish.resolution, TIMED_AT)))
    LOG.info("%s: timing a few steps of %s", name, BACKBONE)
    strategies = [loaded.strategies[strategy] for strategy in loaded.default]
    speed = forecast.measure(timed, strategies, len(found.classes), timed.batch_size)

    def seconds(choice: Choice) -> float:
        study = studied(choice)
        with_it = replace(loaded, studies={**loaded.studies, name: study})
        pace = speed.times((study.resolution / timed.resolution) ** 2)
        return forecast.seconds(with_it, study, found, pace, start)

    choice = choosing.choose(images, minutes, seconds)
    keys = {"dataset": {"folder": folder, "name": listing.name}, "backbone": BACKBONE, **choice.keys()}
    text = params.FILE.read_bytes().decode()
    write_atomically(
        params.FILE, editing.with_study(text, name, f"chosen by `make own` for {minutes:g} minutes", keys).encode()
    )
    smallest, largest = min(found.pool), max(found.pool)
    LOG.info(
        "%s: %d classes of %s to draw from, %d test images, about %d px",
        name, len(found.classes), f"{smallest}" if smallest == largest else f"{smallest} to {largest}",
        sum(found.test), images.side,
    )  # fmt: skip
    LOG.info("%s: about %s of %g min: %s", name, forecast.in_words(seconds(choice)), minutes, choice)
    for reason in choosing.reasons(choice, wish):
        LOG.info("%s: %s", name, reason)
    LOG.info("%s: written into %s; change it there as you like", name, params.FILE)


def _side(listing: Listing) -> int:
    """Pixels of a usual image's shorter side."""
    from pipeline import decoding

    sources = listing.sources()
    some = sources[:: math.ceil(len(sources) / SIZED)]
    return round(statistics.median(min(decoding.header(source.content).size) for source in some))


if __name__ == "__main__":
    command.main(own, "Choose a study of your own images.", ("folder", "name", "minutes"))
