"""Remove the runs of a study that no declared cell asks for (`make prune STUDY=…`)."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from pipeline import runs
from pipeline.runs import Kept, RunStoreError
from pipeline.stages import command
from pipeline.stages.cells import Workbench
from pipeline.strategies import Cell, Role

LOG = logging.getLogger(__name__)

RUN_FOLDER = re.compile(r".+_seed\d+_[0-9a-f]{12}")  # how the first edition kept a run
WHY = {  # what of a run's provenance its fingerprint covers, and what to say where it differs
    "numerics_version": "version {} of the numerics, and it is {} now",
    "torch": "torch {}, and it is {} now",
    "device_kind": "device {}, and it is {} now",
    "precision": "precision {}, and it is {} now",
    "weights_sha256": "other weights",
    "parameters_sha256": "other parameters of the study",
}


def prune(study: str) -> None:
    """Remove every run whose fingerprint no declared cell has, loose or packed, and say which and why.

    Raises RunStoreError where it can't be told which runs are declared, where a folder is being trained in, or where
    no declared run is stored, so that nothing would be left; then nothing is removed.
    """
    root = command.RESULTS
    bench, declared = _declared(study)
    names = {runs.path(root, cell, key).with_name(runs.named(cell)) for cell, key in declared.items()}
    keys = {key[:12] for key in declared.values()}
    doomed: dict[Path, list[Kept]] = {}
    old: list[Path] = []
    stay = 0
    with contextlib.ExitStack() as locks:
        for place in runs.folders(root, study):
            locks.enter_context(runs.lock(root, study, place.parent.name, place.name))
            found = runs.kept(place)
            doomed[place] = [run for run in found if run.name.rpartition("_")[2] not in keys]
            old += [entry for entry in sorted(place.iterdir()) if entry.is_dir() and RUN_FOLDER.fullmatch(entry.name)]
            stay += len({run.name for run in found} - {run.name for run in doomed[place]})
        now = _now(bench, declared) if old or any(doomed.values()) else {}
        for place, of_place in doomed.items():
            reasons = {run.name: _why(run, place, names, now) for run in of_place}
            if reasons:
                runs.remove(place, reasons)
            for name, why in reasons.items():
                LOG.info("removed %s: %s", place / name, why)
        for folder in old:
            shutil.rmtree(folder)
            LOG.info("removed %s: stored by the first edition", folder)
    removed = len({place / run.name for place, of_place in doomed.items() for run in of_place}) + len(old)
    LOG.info("%s: %d runs removed, %d stay", study, removed, stay)


def _declared(study: str) -> tuple[Workbench, Mapping[Cell, str]]:
    """The declared cells with their fingerprints."""
    try:
        (command.RESULTS / study / "rates.json").stat()  # without it, tuned runs and pilots seem not to be declared
        bench = Workbench(study)
        return bench, {cell: bench.fingerprint(cell) for role in get_args(Role) for cell in bench.declared(role)}
    except OSError as error:
        raise RunStoreError(
            f"can't tell which runs of '{study}' are declared: {error.filename}: {error.strerror}; "
            f"`dvc repro` makes it. Nothing was removed"
        ) from error


def _now(bench: Workbench, declared: Collection[Cell]) -> Mapping[str, Any]:
    """The provenance of a declared run."""
    for cell in declared:
        if (found := bench.stored(cell)) is not None:
            return asdict(found.provenance)
    study = bench.study.name
    raise RunStoreError(
        f"{command.RESULTS / study} holds runs, and none is of the {len(declared)} declared cells (other parameters, "
        f"versions or device?): nothing would be left. Train first, or delete the folder by hand. Nothing was removed"
    )


def _why(run: Kept, place: Path, names: Collection[Path], now: Mapping[str, Any]) -> str:
    if run.members is None:
        return "damaged"
    then = run.manifest.get("provenance", {})
    for field, words in WHY.items():
        if then.get(field) and now[field] and then[field] != now[field]:
            return words.format(then[field], now[field])
    if place / run.name.rpartition("_")[0] in names:
        return "its cell is declared with another strategy or other images"
    return "no such cell is declared"


if __name__ == "__main__":
    command.main(prune, "Remove the runs that a study does not declare.")
