"""Check what a study needs before its hours begin, and say what will run and for about how long (`make study`)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

import yaml

from pipeline import datasets, params
from pipeline.errors import UserError
from pipeline.params import Params, Study
from pipeline.stages import command, noted, rates, whole

LOG = logging.getLogger(__name__)

SQLITE = "sqlite:///"
EXPECTED = ("ablations", "about")  # may be empty; without them, DVC stops after the training


class CheckError(UserError):
    """Something that would stop a study later."""


def check(*studies: str) -> None:
    """Check some studies, or all active ones, and print their names: what is wrong with one is said before any runs."""
    loaded = params.load()
    absent = [key for key in EXPECTED if key not in yaml.safe_load(params.FILE.read_text(encoding="utf-8"))]
    if absent:
        raise CheckError(
            f"{params.FILE}: {' and '.join(absent)} missing; write {', '.join(f'{key}: {{}}' for key in absent)}"
        )
    chosen = [loaded.study(name) for name in studies or loaded.active]
    _expect_writable(study.name for study in chosen)
    for study in chosen:
        if not study.pilots and study.rates_from not in {other.name for other in chosen}:
            rates.given(loaded, study)  # raises where the other study has not tuned them
        _check(loaded, study)
    print(*(study.name for study in chosen))


def _check(loaded: Params, study: Study) -> None:
    listing = datasets.look(study.dataset.name, study.dataset.options)
    current = not listing.refused and noted.is_current(study, listing, loaded.crops(study.name))
    stored = whole.runs_of(loaded, study) if current else None
    if stored is not None:
        LOG.info("%s: all %d runs are there, nothing is to be trained", study.name, stored)
        return
    since = time.perf_counter()
    from pipeline.stages import forecast  # brings torch along, which takes seconds: as every stage that trains will

    for line in forecast.forecast(loaded, study, listing, current, time.perf_counter() - since):
        LOG.info("%s: %s", study.name, line)


def _expect_writable(studies: Iterable[str]) -> None:
    """Raises CheckError that names every place where a study could not write."""
    places = [root / name for name in studies for root in (command.DATA, command.RESULTS, command.REPORTS)]
    shut = [str(found) for found in map(nearest, places) if not os.access(found, os.W_OK | os.X_OK)]
    mlflow = os.environ.get("MLFLOW_TRACKING_URI", "")
    if mlflow.startswith(SQLITE):
        file = Path(mlflow.removeprefix(SQLITE))
        needed = [nearest(file.parent), *([file] if file.exists() else [])]
        shut += [str(place) for place in needed if not os.access(place, os.W_OK)]
    if shut:
        raise CheckError(
            f"can't write to {', '.join(dict.fromkeys(shut))}; make it writable before anything is trained"
        )


def nearest(place: Path) -> Path:
    """A folder, or the nearest one above it that is there."""
    return next(folder for folder in (place, *place.absolute().parents) if folder.exists())


if __name__ == "__main__":
    command.main(check, "Check studies before they run, and say what will run.", several="studies")
