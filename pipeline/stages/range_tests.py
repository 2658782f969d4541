"""The range test of every strategy of a study, kept in a file each."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import lr_finder, runs
from pipeline.files import write_atomically
from pipeline.lr_finder import RangeTest
from pipeline.stages import cells, command
from pipeline.stages.cells import Workbench
from pipeline.stages.progress import Progress
from pipeline.strategies import Cell


def tested(bench: Workbench) -> tuple[Cell, ...]:
    """The cells whose rates are tested: the largest size, at the rates as written."""
    study = bench.study
    return tuple(
        Cell(study.name, "final", name, max(study.per_class), 1.0, seed)
        for name in study.strategies
        for seed in study.lr_finder_seeds
        if not bench.params.strategies[name].closed_form
    )


def complete(study: str) -> None:
    """Make the range tests that are missing."""
    bench = Workbench(study)
    with runs.lock(command.RESULTS, study, "lr_finder"):
        missing = [cell for cell in tested(bench) if read(bench, cell) is None]
        if missing:
            _test(bench, missing)


def _test(bench: Workbench, missing: list[Cell]) -> None:
    commit = command.commit()
    with Progress(f"{bench.study.name} · LR finder", len(missing), "test") as bar:
        for cell, found in bench.each(_range_test, missing):
            content = {
                "fingerprint": _fingerprint(bench, cell),
                "scales": found.scales,
                "losses": [loss if math.isfinite(loss) else None for loss in found.losses],
                "provenance": asdict(bench.provenance(cell, commit, time.time())),
            }
            write_atomically(_path(cell), (json.dumps(content, indent=1) + "\n").encode())
            bar.advance(1, str(cell))


def _range_test(cell: Cell, report: Callable[[int], None]) -> RangeTest:
    bench = cells.bench_of(cell.study)
    task = bench.task(cell)
    return lr_finder.range_test(task, bench.device, bench.weights[0] if task.strategy.weights == "pretrained" else None)


@dataclass(frozen=True)
class StoredTest:
    """A range test as it is kept."""

    cell: Cell
    found: RangeTest
    provenance: Mapping[str, Any]  # where and with what it was made, as of a run


def read(bench: Workbench, cell: Cell) -> StoredTest | None:
    """The stored range test of a cell; None where it is missing, damaged or of other inputs."""
    try:
        content = json.loads(_path(cell).read_bytes())
        if content["fingerprint"] != _fingerprint(bench, cell):
            return None
        losses = [math.nan if loss is None else loss for loss in content["losses"]]
        return StoredTest(cell, lr_finder.judge(content["scales"], losses), content["provenance"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def all_stored(bench: Workbench) -> Iterator[StoredTest]:
    """The range tests that are there."""
    return (found for cell in tested(bench) if (found := read(bench, cell)) is not None)


def _path(cell: Cell) -> Path:
    name = f"{cell.strategy}_{cell.file_size}_seed{cell.seed}.json"
    return command.RESULTS / cell.study / "lr_finder" / name


def _fingerprint(bench: Workbench, cell: Cell) -> str:
    span = (lr_finder.LOWEST, lr_finder.HIGHEST, lr_finder.STEPS, lr_finder.SMOOTHING, lr_finder.DIVERGED)
    return runs.fingerprint({**bench.inputs(cell), "range_test": span})
