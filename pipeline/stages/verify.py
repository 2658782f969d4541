"""Retrain cells of a published study, picked at random, and say of each whether it agrees (`make verify STUDY=…`)."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from pipeline import runs
from pipeline.errors import UserError
from pipeline.runs import Kept, Provenance, StoredRun
from pipeline.stages import cells, command, ready
from pipeline.stages.cells import Workbench
from pipeline.stages.progress import Progress
from pipeline.strategies import Cell, Role
from pipeline.training import Run

LOG = logging.getLogger(__name__)

ROLES: tuple[Role, ...] = ("final", "sweep", "ablation")
LUCK = 3  # standard errors of what n other predictions change in how many are right, by chance: √n at most


class VerifyError(UserError):
    """Runs that don't agree with what was published, or nothing to compare with."""


def verify(study: str, count: str, seed: str) -> None:
    """Retrain `count` cells of the study's run store, in which nothing is written.

    An empty `seed` is drawn, and said. Raises VerifyError where one doesn't agree, or there is none.
    """
    if not (count.isdecimal() and int(count)) or (seed and not seed.isdecimal()):
        raise VerifyError(f"CELLS is {count!r} and SEED {seed!r}; give whole numbers, CELLS from 1")
    drawn = int(seed) if seed else random.SystemRandom().randrange(1_000_000)
    bench = ready.workbench(study)
    picked = _picked(bench, int(count), drawn)
    LOG.info("%s: %d cells picked with SEED=%d", study, len(picked), drawn)
    differing = 0
    for published, run in _retrained(bench, picked):
        here = bench.provenance(run.cell, published.provenance.commit, 0)
        agrees, said = compared(published, run, same_machine(published.provenance, here))
        LOG.info("%s (%s): %s, %s", run.cell, run.cell.role, "agrees" if agrees else "DIFFERS", said)
        differing += not agrees
    if differing:
        raise VerifyError(f"{differing} of {len(picked)} cells differ from what {command.RESULTS / study} holds")


def _picked(bench: Workbench, count: int, seed: int) -> list[StoredRun]:
    """Published runs of declared cells, at random. Raises VerifyError where there is none."""
    declared = [cell for role in ROLES for cell in bench.declared(role)]
    random.Random(seed).shuffle(declared)
    kept = cache(runs.kept)  # of a strategy's folder
    found: list[StoredRun] = []
    others: list[Provenance] = []
    for cell in declared:
        mine = [run for run in kept(runs.folder(command.RESULTS, cell)) if run.name.startswith(f"{runs.named(cell)}_")]
        run = bench.stored(cell) or _of_this_study(bench, cell, mine, others)
        if run is not None:
            found.append(run)
        if len(found) == count:
            return found
    if found:
        return found
    if others:
        raise VerifyError(
            f"{command.RESULTS / bench.study.name}: its runs were trained on other images, with other parameters or by "
            f"another edition; those of commit {others[0].commit} made them"
        )
    raise VerifyError(f"{command.RESULTS / bench.study.name} holds no run of a declared cell; `dvc repro` trains them")


def _of_this_study(bench: Workbench, cell: Cell, mine: Sequence[Kept], others: list[Provenance]) -> StoredRun | None:
    """The run of a cell as another machine or other releases left it; runs of something else go to `others`."""
    for run in mine:
        try:
            made, key = Provenance(**run.manifest["provenance"]), str(run.manifest["fingerprint"])
        except (KeyError, TypeError):  # damaged, or of another edition
            continue
        if bench.fingerprint(cell, made) == key:
            return runs.read(command.RESULTS, cell, key)
        others.append(made)
    return None


def _retrained(bench: Workbench, picked: Sequence[StoredRun]) -> Iterator[tuple[StoredRun, Run]]:
    """Each published run with the one that its cell leaves here, as they finish; with the whole batch of a head's."""
    published = {stored.run.cell: stored for stored in picked}
    jobs = list(dict.fromkeys(bench.together(cell) or (cell,) for cell in published))
    epochs = dict.fromkeys(jobs, 0)
    with Progress(f"{bench.study.name} · verify", bench.study.epochs * sum(map(len, jobs)), "epoch") as bar:

        def watch(job: cells.Job, done: int) -> None:
            bar.advance(done - epochs[job], str(job[0]))
            epochs[job] = done

        for _, trained in bench.each(cells.train_job, jobs, watch):
            for run in trained:
                if run.cell in published:
                    yield published[run.cell], run


def same_machine(there: Provenance, here: Provenance) -> bool:
    """Whether two machines have to leave the same bytes: the same processor, the same releases."""

    def kind(made: Provenance) -> tuple[object, ...]:
        processor, _, cores = made.device.rpartition(", ")  # how many cores there are changes nothing
        return processor or cores, made.device_kind, made.threads, made.precision, dict(made.versions)

    return kind(there) == kind(here)


def compared(published: StoredRun, run: Run, same: bool) -> tuple[bool, str]:
    """Whether a run agrees with the published one, and what to say of it.

    On the `same` kind of machine all bytes have to be equal. Elsewhere sums are rounded in another order, and training
    carries that on: other predictions are then no better and no worse but for chance. Measured on 12 runs of study
    tomato, AVX2 against AVX512: heads predict the same; of the others 9 to 281 of 750 predictions differ, and the
    accuracy by at most 1.9 points, 1.5 standard errors.
    """
    old = published.run
    if runs.members(old) == runs.members(run):
        return True, "the same bytes"
    other, images = int(np.count_nonzero(run.predicted != old.predicted)), len(old.predicted)
    tolerated = LUCK * math.sqrt(other) / images
    said = (
        f"accuracy {old.judged.accuracy:.2%} there, {run.judged.accuracy:.2%} here, "
        f"{other} of {images} predictions differ"
    )
    if same:
        return False, f"{said}; the processor and the releases are those noted, so the bytes should be the same"
    within = abs(run.judged.accuracy - old.judged.accuracy) <= tolerated
    words = f"{said}; on another machine that may make {100 * tolerated:.1f} points"
    return within and run.status == old.status, words


if __name__ == "__main__":
    command.main(verify, "Retrain cells of a published study and compare.", ("study", "cells", "seed"))
