"""Gather the finished runs of a study into one file a strategy (`make pack STUDY=…`), so that git holds few files."""

from __future__ import annotations

import logging

from pipeline import runs
from pipeline.runs import RunStoreError
from pipeline.stages import command

LOG = logging.getLogger(__name__)


def pack(study: str) -> None:
    """Pack the runs of every role and strategy of a study; it needs neither its images nor its parameters.

    Raises RunStoreError where there are no runs, a pack is damaged, or a folder is being trained in.
    """
    root = command.RESULTS
    gathered = total = packs = 0
    for place in runs.folders(root, study):
        with runs.lock(root, study, place.parent.name, place.name):
            found = runs.pack(place)
        whole = {run.name for run in found if run.members is not None}
        for run in found:
            if run.name not in whole:
                LOG.warning(
                    "%s/%s is damaged and not packed; `dvc repro` trains it again where it is declared", place, run.name
                )
        gathered += sum(not run.packed and run.members is not None for run in found)
        total += len(whole)
        packs += bool(whole)
    if not packs:
        raise RunStoreError(f"{root / study} holds no finished run to pack; `dvc repro` trains the active studies")
    LOG.info("%s: %d runs packed, %d in %d packs now", study, gathered, total, packs)


if __name__ == "__main__":
    command.main(pack, "Gather a study's finished runs into one file a strategy.")
