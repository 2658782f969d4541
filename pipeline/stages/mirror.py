"""Rebuild the MLflow mirror of every study's run store (`make mirror`)."""

from __future__ import annotations

import logging
from typing import get_args

from pipeline import params
from pipeline.stages import cells, command, prepared
from pipeline.strategies import Role
from pipeline.tracking import Mirror

LOG = logging.getLogger(__name__)


def mirror() -> None:
    """Mirror the stored runs of every study that has been prepared."""
    with Mirror() as store:
        for study in params.load().studies:
            if not (prepared.folder(study) / "subsets.json").exists() or not cells.rates_of(study).exists():
                continue
            bench = cells.Workbench(study)
            declared = [cell for role in get_args(Role) for cell in bench.declared(role)]
            stored = [run for cell in declared if (run := bench.stored(cell)) is not None]
            added = sum(store.add(cells.as_mirrored(bench, run)) == "added" for run in stored)
            LOG.info(
                "%s: %d of %d declared cells are in the run store, %d new in MLflow",
                study, len(stored), len(declared), added,
            )  # fmt: skip


if __name__ == "__main__":
    command.main(mirror, "Mirror all stored runs to MLflow.", ())
