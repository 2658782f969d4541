"""Stage `collect`: the declared cells of a study as the tables that `analysis` reads."""

from __future__ import annotations

import csv
import io
import logging
import math
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np

from pipeline import backbones, phases
from pipeline.files import write_atomically
from pipeline.runs import RunStoreError, StoredRun
from pipeline.stages import cells, command, prepared, range_tests, whole
from pipeline.stages.cells import Workbench
from pipeline.stages.range_tests import StoredTest
from pipeline.strategies import BACKBONES, Cell, Role

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

    Raises RunStoreError where the images that a run was judged on are not the prepared ones, and where a table that
    holds rows would lose them all.
    """
    bench = Workbench(study)
    target = command.REPORTS / study
    declared = {role: bench.declared(role) for role in get_args(Role)}
    stored = {cell: run for of in declared.values() for cell in of if (run := bench.stored(cell)) is not None}
    tests = list(range_tests.all_stored(bench))
    for role, file in TABLES.items():
        found = sum(cell.role == role for cell in stored)
        _refuse_to_empty(target / file, f"{role} runs", len(declared[role]), found)
    _refuse_to_empty(target / "lr_suggestions.csv", "range tests", len(range_tests.tested(bench)), len(tests))
    _refuse_other_images(bench, stored.values())
    absent = [cell for of in declared.values() for cell in of if cell not in stored]
    for (role, strategy), count in Counter((cell.role, cell.strategy) for cell in absent).items():
        LOG.warning("missing: %d %s runs of %s; `dvc repro` trains them", count, role, strategy)
    absent_tests = len(range_tests.tested(bench)) - len(tests)
    if absent_tests:
        LOG.warning("%d range tests of learning rates are missing; `dvc repro` runs them", absent_tests)
    every = [cell for of in declared.values() for cell in of]
    _write(target / "declared.csv", KEY, ([getattr(cell, column) for column in KEY] for cell in every))
    for role, file in TABLES.items():
        rows = (_run_row(bench, run) for cell, run in stored.items() if cell.role == role)
        _write(target / file, RUN_COLUMNS, rows)
    _write(target / "history.csv", (*KEY, "phase", "epoch", "split", "metric", "value"), _history(stored.values()))
    _write(target / "drift.csv", (*KEY, "phase", "group", "weight_distance"), _drift(stored.values()))
    _write(target / "lr_finder.csv", FINDER_COLUMNS, _range_tests(tests))
    _write(target / "lr_suggestions.csv", SUGGESTION_COLUMNS, _suggestions(tests))
    judged_on_test = [run for cell, run in stored.items() if cell.role != "pilot"]
    write_atomically(target / "predictions.npz", _predictions(bench, judged_on_test))
    prepared.write_json(target / "provenance.json", _provenance(bench, stored, tests))
    if not absent and not absent_tests:
        whole.note(bench.params, bench.study, len(stored))
    LOG.info("%s: %d of %d declared cells collected in %s", study, len(stored), len(every), target)


def _refuse_to_empty(table: Path, what: str, declared: int, found: int) -> None:
    """A table of a published study may be all that is left of its runs."""
    if found or not declared or not table.exists():
        return
    with table.open(newline="", encoding="utf-8") as file:
        rows = sum(1 for _ in csv.reader(file)) - 1
    if rows > 0:
        raise RunStoreError(
            f"{table} holds {rows} rows, and of {declared} declared {what} none is found in "
            f"{command.RESULTS / table.parent.name} for today's parameters, versions and device; bring the run files "
            f"back, train them with `dvc repro`, or delete {table} to give them up. No table was changed"
        )


def _refuse_other_images(bench: Workbench, stored: Iterable[StoredRun]) -> None:
    sums: dict[bytes, str] = {}  # most runs are judged on the same images
    for run in stored:
        judged = bench.parts(run.run.cell)[2]
        key = judged.tobytes()
        if key not in sums:
            sums[key] = bench.prepared.ids_sha256(judged)
        if run.test_ids_sha256 != sums[key] or len(run.run.predicted) != len(judged):
            raise RunStoreError(
                f"{run.run.cell}: {len(run.run.predicted)} predictions that don't belong to the {len(judged)} images "
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


def _predictions(bench: Workbench, stored: Iterable[StoredRun]) -> bytes:
    judged = bench.subsets.judged
    small = np.uint8 if len(bench.prepared.card.classes) <= 256 else np.uint16
    once = {run.fingerprint: run.run.predicted for run in stored}  # cells that train the same share their run
    return _arrays(
        ids=np.array([bench.prepared.ids[position] for position in judged]),
        labels=bench.prepared.labels[judged].astype(small),
        classes=np.array(bench.prepared.card.classes),
        fingerprints=np.array(list(once), dtype="U64"),
        predicted=np.array(list(once.values()), dtype=small).reshape(len(once), len(judged)),
    )


def _arrays(**named: Any) -> bytes:
    """A compressed .npz without time stamps, so that the same arrays are the same bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in named.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            archive.writestr(info, content.getvalue(), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _provenance(bench: Workbench, stored: Mapping[Cell, StoredRun], tests: Iterable[StoredTest]) -> dict[str, Any]:
    study, card = bench.study, bench.prepared.card
    environments: dict[str, dict[str, Any]] = {}
    for cell, run in stored.items():
        fields = {key: value for key, value in asdict(run.provenance).items() if key != "started"}
        entry = environments.setdefault(repr(sorted(fields.items(), key=str)), {**fields, "cells": 0, "timed": []})
        entry["cells"] += 1
        if cell.role == "final" and cell.strategy not in entry["timed"]:
            entry["timed"].append(cell.strategy)
    # A run that is stored under two names was trained once.
    trained = {(run.fingerprint, run.provenance.started): run.run.seconds for run in stored.values()}
    names = {
        cell.strategy: None for cell in bench.declared("final") + bench.declared("sweep") + bench.declared("ablation")
    }
    rated = [name for name in study.strategies if not bench.params.strategy(name).closed_form]
    labels = bench.prepared.labels[bench.subsets.judged]
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
                "rates_from": study.rates_from,
            },
            "range_tests": len(range_tests.tested(bench)),
            "optimizer": (
                f"AdamW, weight decay {phases.WEIGHT_DECAY:g}, begun anew in every phase; the rates rise linearly over "
                f"the first {phases.WARM_UP_SHARE:.0%} of its steps and fall on a cosine to zero"
            ),
            "updates": _updates(bench),
            "strategies": {name: _strategy(bench, name) for name in names},
            "lr_scales": {
                str(size): {name: bench.rates.scale(size, name) for name in rated} for size in study.per_class
            },
            "judge_by": bench.judge_by,
            "precision": bench.precision,
            "pilots": {size: len(pilots) for size, pilots in _pilots(bench).items()},
            "tried": bench.rates.content,
            "tuning_images": {
                size: sum(len(bench.parts(cell)[2]) for cell in pilots) for size, pilots in _pilots(bench).items()
            },
        },
        "dataset": {
            "name": card.name,
            "source": bench.about.source or card.source,
            "licence": card.licence,
            "sha256": card.sha256,
            "classes": list(card.classes),
            "pool_images": card.pool_images,
            "test_images": len(labels),  # those that runs are judged on
            "watched_images": len(bench.subsets.watched),
            "test_class_counts": np.bincount(labels, minlength=len(card.classes)).tolist(),
            "overlap": {str(size): round(share, 6) for size, share in bench.subsets.overlap.items()},
            "notes": list(card.notes),
            "published": [asdict(entry) for entry in bench.about.published],
        },
        "backbone": {
            "name": study.backbone,
            "weights": bench.weights_name,
            "weights_sha256": bench.pretrained_sha256,
            "preprocessing": asdict(preprocessing),
        },
        "environments": list(environments.values()),
        "started": started[0] if started else "",
        "finished": started[-1] if started else "",
        "trainings": len(trained),
        "training_seconds": round(sum(trained.values()), 1),
        "range_tests": [{"commit": commit, "command": line} for commit, line in made],
        "notes": list(bench.about.notes),
    }  # fmt: skip


def _strategy(bench: Workbench, name: str) -> dict[str, Any]:
    described = cells.described(bench.params.strategy(name), bench.study.epochs)
    if BACKBONES[bench.study.backbone] != "batch":
        described.pop("batch_norm", None)
    ablation = bench.params.ablations.get(name)
    if ablation is not None:
        return {**described, "of": ablation.of}
    return {**described, "default": name in bench.params.default}


def _updates(bench: Workbench) -> dict[str, int]:
    """How many steps the optimizer takes in a final run of each size; a closed-form head takes none."""
    learning = (cell for cell in bench.declared("final") if not bench.strategy(cell).closed_form)
    images = {cell.per_class: len(bench.parts(cell)[0]) for cell in learning}
    return {str(size): bench.study.epochs * math.ceil(count / bench.study.batch_size) for size, count in images.items()}


def _pilots(bench: Workbench) -> dict[str, list[Cell]]:
    """For each size, one cell of every pilot seed: all rates of a seed are judged on the same images."""
    found: dict[str, dict[int, Cell]] = {}
    for cell in bench.declared("pilot"):
        found.setdefault(str(cell.per_class), {})[cell.seed] = cell
    return {size: list(of_seed.values()) for size, of_seed in found.items()}


def _write(target: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_atomically(target, text.getvalue().encode())


if __name__ == "__main__":
    command.main(collect, "Gather a study's runs into tables.")
