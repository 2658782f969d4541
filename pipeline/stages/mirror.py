"""Stage `mirror`: the stored runs of a study as MLflow shows them (`make mirror`: of every study)."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import get_args

from pipeline import params
from pipeline.errors import UserError
from pipeline.runs import StoredRun
from pipeline.stages import command, rates
from pipeline.stages.cells import Workbench
from pipeline.strategies import Role
from pipeline.tracking import DatasetInput, Mirror, MirroredRun, Point

LOG = logging.getLogger(__name__)


def mirror(*studies: str) -> None:
    """Mirror the stored runs of these studies; of every one that has been prepared where none is named."""
    loaded = params.load()
    with Mirror() as store:
        for name in studies or loaded.studies:
            if not studies and not rates.place(name).exists():
                continue  # never run here
            loaded.study(name)
            try:
                bench = Workbench(name)
                declared = [cell for role in get_args(Role) for cell in bench.declared(role)]
            except UserError as error:  # a study that is out of date must not keep the others from being mirrored
                LOG.warning("%s: not mirrored: %s", name, error)
                continue
            stored = [run for cell in declared if (run := bench.stored(cell)) is not None]
            added = sum(store.add(as_mirrored(bench, run)) == "added" for run in stored)
            LOG.info(
                "%s: %d of %d declared cells are in the run store, %d new in MLflow",
                name, len(stored), len(declared), added,
            )  # fmt: skip


def as_mirrored(bench: Workbench, stored: StoredRun) -> MirroredRun:
    """A stored run as MLflow is to show it."""
    run, card, study = stored.run, bench.prepared.card, bench.study
    judged_on = "tuning split" if run.cell.role == "pilot" else "test"
    return MirroredRun(
        cell=run.cell,
        params={
            **bench.shared(),
            "dataset": card.name,
            "learning_rates": study.learning_rates,
            "weights": bench.strategy(run.cell).weights,
        },
        curves=[Point(row.epoch, f"{row.split}/{row.metric}", row.value) for row in run.history],
        final={
            "test/accuracy": run.judged.accuracy,
            "test/balanced_accuracy": run.judged.balanced_accuracy,
            "test/log_loss": run.judged.log_loss,
            "test/ece": run.judged.ece,
            "seconds": run.seconds,
            "trainable_parameters": float(run.trainable_parameters),
        },
        tags={
            "commit": stored.provenance.commit,
            "fingerprint": stored.fingerprint,
            "status": run.status,
            "device": stored.provenance.device,
            "judged_on": judged_on,
        },
        dataset=DatasetInput(
            card.name, card.sha256, card.source, card.pool_images + card.test_images, len(card.classes)
        ),
        started=datetime.fromisoformat(stored.provenance.started),
        seconds=run.seconds,
        experiment=study.name,
        description=(
            f"{card.name}, {study.backbone} at {study.resolution} px, {study.epochs} epochs, "
            f"{len(study.seeds)} seeds; the report is reports/{study.name}/report.md"
        ),
    )


if __name__ == "__main__":
    command.main(mirror, "Mirror stored runs to MLflow.", several="studies")
