"""Stage `collect`: the declared cells of a study as the tables that `analysis` reads."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np

from pipeline import backbones, phases, runs
from pipeline.runs import RunStoreError, StoredRun
from pipeline.stages import cells, command, lr_finder, prepared
from pipeline.stages.cells import Workbench
from pipeline.stages.lr_finder import StoredTest
from pipeline.strategies import Cell, Role, size_words

LOG = logging.getLogger(__name__)

KEY = ("study", "role", "strategy", "per_class", "lr_scale", "seed")
TABLES: dict[Role, str] = {"final": "runs.csv", "pilot": "tune.csv", "sweep": "sweep.csv", "ablation": "ablations.csv"}
RUN_COLUMNS = (
    "study", "role", "dataset", "backbone", "strategy", "per_class", "seed", "lr_scale", "status", "train_accuracy",
    "val_accuracy", "test_accuracy", "balanced_accuracy", "log_loss", "ece", "seconds", "trainable_parameters",
    "total_parameters", "fingerprint",
)  # fmt: skip
FINDER_COLUMNS = ("study", "strategy", "per_class", "seed", "lr_scale", "loss", "smoothed")
SUGGESTION_COLUMNS = ("study", "strategy", "per_class", "seed", "steepest", "tenth_of_lowest", "status")


def collect(study: str) -> None:
    """Write the tables of reports/<study>/, the predictions and the provenance.

    Raises RunStoreError where the test images of a run are not the prepared ones.
    """
    bench = Workbench(study)
    target = command.REPORTS / study
    declared = [cell for role in get_args(Role) for cell in bench.declared(role)]
    stored = {cell: run for cell in declared if (run := bench.stored(cell)) is not None}
    absent = [cell for cell in declared if cell not in stored]
    for (role, strategy), count in Counter((cell.role, cell.strategy) for cell in absent).items():
        LOG.warning("missing: %d %s runs of %s; `dvc repro` trains them", count, role, strategy)
    _refuse_other_test_images(bench, stored.values())
    _write(target / "declared.csv", KEY, ([getattr(cell, column) for column in KEY] for cell in declared))
    for role, file in TABLES.items():
        rows = (_run_row(bench, run) for cell, run in stored.items() if cell.role == role)
        _write(target / file, RUN_COLUMNS, rows)
    _write(target / "history.csv", (*KEY, "phase", "epoch", "split", "metric", "value"), _history(stored.values()))
    _write(target / "drift.csv", (*KEY, "phase", "group", "weight_distance"), _drift(stored.values()))
    tests = list(lr_finder.all_stored(bench))
    absent_tests = len(lr_finder.tested(bench)) - len(tests)
    if absent_tests:
        LOG.warning("%d range tests of learning rates are missing; `dvc repro` runs them", absent_tests)
    _write(target / "lr_finder.csv", FINDER_COLUMNS, _range_tests(tests))
    _write(target / "lr_suggestions.csv", SUGGESTION_COLUMNS, _suggestions(tests))
    judged_on_test = [run for cell, run in stored.items() if cell.role != "pilot"]
    runs.write_atomically(target / "predictions.npz", _predictions(bench, judged_on_test))
    prepared.write_json(target / "provenance.json", _provenance(bench, stored, tests))
    LOG.info("%s: %d of %d declared cells collected in %s", study, len(stored), len(declared), target)


def _refuse_other_test_images(bench: Workbench, stored: Iterable[StoredRun]) -> None:
    for run in stored:
        expected = bench.prepared.ids_sha256(bench.parts(run.run.cell)[2])
        images = len(bench.parts(run.run.cell)[2])
        if run.test_ids_sha256 != expected or len(run.run.predicted) != images:
            raise RunStoreError(
                f"{run.run.cell}: {len(run.run.predicted)} predictions that don't belong to the {images} images "
                "it should have been judged on; delete the run and start `dvc repro`"
            )


def _run_row(bench: Workbench, stored: StoredRun) -> list[Any]:
    run, judged = stored.run, stored.run.judged
    pilot = run.cell.role == "pilot"
    return [
        run.cell.study, run.cell.role, bench.prepared.card.name, bench.study.backbone, run.cell.strategy,
        run.cell.per_class, run.cell.seed, run.cell.lr_scale, run.status, run.train_accuracy, run.val_accuracy,
        None if pilot else judged.accuracy, judged.balanced_accuracy, judged.log_loss, judged.ece, run.seconds,
        run.trainable_parameters, run.total_parameters, stored.fingerprint,
    ]  # fmt: skip


def _history(stored: Iterable[StoredRun]) -> Iterable[list[Any]]:
    for run in stored:
        key = [getattr(run.run.cell, column) for column in KEY]
        for row in run.run.history:
            yield [*key, row.phase, row.epoch, row.split, row.metric, round(row.value, 6)]


def _drift(stored: Iterable[StoredRun]) -> Iterable[list[Any]]:
    for run in stored:
        key = [getattr(run.run.cell, column) for column in KEY]
        for row in run.run.drift:
            yield [*key, row.phase, row.group, f"{row.weight_distance:.6g}"]


def _range_tests(tests: Iterable[StoredTest]) -> Iterable[list[Any]]:
    for cell, found in ((test.cell, test.found) for test in tests):
        for scale, loss, smoothed in zip(found.scales, found.losses, found.smoothed, strict=True):
            if math.isfinite(loss):
                key = [cell.study, cell.strategy, cell.per_class, cell.seed]
                yield [*key, f"{scale:.6g}", round(loss, 6), round(smoothed, 6)]


def _suggestions(tests: Iterable[StoredTest]) -> Iterable[list[Any]]:
    for cell, found in ((test.cell, test.found) for test in tests):
        rates = [None if scale is None else f"{scale:.6g}" for scale in (found.steepest, found.tenth_of_lowest)]
        yield [cell.study, cell.strategy, cell.per_class, cell.seed, *rates, "diverged" if found.diverged else "ok"]


def _predictions(bench: Workbench, stored: Sequence[StoredRun]) -> bytes:
    test = bench.prepared.test
    small = np.uint8 if len(bench.prepared.card.classes) <= 256 else np.uint16
    return runs.arrays(
        ids=np.array([bench.prepared.ids[index] for index in test]),
        labels=bench.prepared.labels[test].astype(small),
        classes=np.array(bench.prepared.card.classes),
        fingerprints=np.array([run.fingerprint for run in stored], dtype="U64"),
        predicted=np.array([run.run.predicted for run in stored], dtype=small).reshape(len(stored), len(test)),
    )


def _provenance(bench: Workbench, stored: dict[Cell, StoredRun], tests: Iterable[StoredTest]) -> dict[str, Any]:
    study, card = bench.study, bench.prepared.card
    environments: dict[str, dict[str, Any]] = {}
    for cell, run in stored.items():
        fields = {key: value for key, value in asdict(run.provenance).items() if key != "started"}
        entry = environments.setdefault(repr(sorted(fields.items(), key=str)), {**fields, "cells": 0, "timed": []})
        entry["cells"] += 1
        if cell.role == "final" and cell.strategy not in entry["timed"]:
            entry["timed"].append(cell.strategy)
    # A run that is stored under two names was trained once.
    trained = {(bench.content(cell), run.provenance.started): run.run.seconds for cell, run in stored.items()}
    names = {
        cell.strategy: None for cell in bench.declared("final") + bench.declared("sweep") + bench.declared("ablation")
    }
    scales = cells.read_rates(study.name)
    made = dict.fromkeys((test.provenance["commit"], test.provenance["command"]) for test in tests)
    started = sorted(run.provenance.started for run in stored.values())
    preprocessing = backbones.REGISTRY[study.backbone].preprocessing().at(study.resolution)
    return {
        "study": study.name,
        "parameters": {
            "study": {
                **bench.shared(),
                "per_class": list(study.per_class),
                "seeds": list(study.seeds),
                "learning_rates": study.learning_rates,
            },
            "range_tests": len(lr_finder.tested(bench)),
            "optimizer": (
                f"AdamW, weight decay {phases.WEIGHT_DECAY:g}, begun anew in every phase; the rates rise linearly over "
                f"the first {phases.WARM_UP_SHARE:.0%} of its steps and fall on a cosine to zero"
            ),
            "updates": _updates(bench),
            "strategies": {name: _strategy(bench, name) for name in names},
            "lr_scales": {
                str(size): {name: scale for (of, name), scale in scales.items() if of == size}
                for size in study.per_class
            },
            "tuning_notes": _tuning_notes(bench, scales),
            "tuning_images": _tuning_images(bench),
        },
        "dataset": {
            "name": card.name,
            "source": study.source or card.source,
            "licence": card.licence,
            "sha256": card.sha256,
            "classes": list(card.classes),
            "pool_images": card.pool_images,
            "test_images": card.test_images,
            "watched_images": len(bench.subsets.watched),
            "test_class_counts": list(card.test_class_counts),
            "overlap": {str(size): round(share, 4) for size, share in bench.subsets.overlap.items()},
            "notes": list(card.notes),
            "published": [asdict(entry) for entry in study.published],
        },
        "backbone": {
            "name": study.backbone,
            "weights": backbones.REGISTRY[study.backbone].weights_name,
            "weights_sha256": bench.weights[1],
            "preprocessing": asdict(preprocessing),
        },
        "environments": list(environments.values()),
        "started": started[0] if started else "",
        "finished": started[-1] if started else "",
        "trainings": len(trained),
        "training_seconds": round(sum(trained.values()), 1),
        "range_tests": [{"commit": commit, "command": line} for commit, line in made],
        "notes": list(study.notes),
    }  # fmt: skip


def _strategy(bench: Workbench, name: str) -> dict[str, Any]:
    described = cells.described(bench.params.strategy(name), bench.study.epochs)
    ablation = bench.params.ablations.get(name)
    return described if ablation is None else {**described, "of": ablation.of}


def _updates(bench: Workbench) -> dict[str, int]:
    """How many steps the optimizer takes in a final run of each size."""
    images = {cell.per_class: len(bench.parts(cell)[0]) for cell in bench.declared("final")}
    return {str(size): bench.study.epochs * math.ceil(count / bench.study.batch_size) for size, count in images.items()}


def _tuning_images(bench: Workbench) -> dict[str, int]:
    """How many images judged each rate of a size, over all pilot seeds."""
    pilots = {(cell.per_class, cell.seed): cell for cell in bench.declared("pilot")}
    count: Counter[str] = Counter()
    for (size, _), cell in pilots.items():
        count[str(size)] += len(bench.parts(cell)[2])
    return dict(count)


def _tuning_notes(bench: Workbench, scales: dict[tuple[int, str], float]) -> list[str]:
    tried = Counter(cell.lr_scale for cell in bench.declared("pilot"))
    if not tried:
        return []
    return [
        f"`{name}` at {size_words(size)}: scale {scale:g} was chosen at the edge of those tried; "
        "a better one may lie beyond"
        for (size, name), scale in scales.items()
        if scale in (min(tried), max(tried))
    ]


def _write(target: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    runs.write_atomically(target, text.getvalue().encode())


if __name__ == "__main__":
    command.main(collect, "Gather a study's runs into tables.")
