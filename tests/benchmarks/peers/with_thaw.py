"""The same work with Thaw: a study of its own in a fresh folder, its stages one after another in one process."""

from __future__ import annotations

import csv
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm  # noqa: F401 - or the first run would pay for it; for the peers too, imports count as start-up
import yaml

from pipeline.stages import cells, noted, prepare, subset, tune
from pipeline.stages.cells import Workbench
from tests.benchmarks.peers.workload import Workload

STUDY = "peers"
BACKBONES = {"tf_efficientnet_lite0": "efficientnet_lite0"}


def parameters(workload: Workload) -> dict[str, Any]:
    """The workload as params.yaml holds it."""
    epochs = sum(phase["epochs"] for phase in next(iter(workload.strategies.values()))["phases"])
    return {
        "active": [STUDY],
        "studies": {
            STUDY: {
                "dataset": {"folder": workload.thaw_images},
                "backbone": BACKBONES[workload.backbone],
                "resolution": workload.resolution,
                "per_class": [workload.per_class],
                "seeds": _at_least_two(workload.seeds),
                "epochs": epochs,
                "batch_size": workload.batch_size,
                "learning_rates": "textbook",
            }
        },
        "strategies": {
            name: {
                **{key: value for key, value in given.items() if key != "phases"},
                "phases": [{"share": phase["epochs"] / epochs, "lr": phase["rates"]} for phase in given["phases"]],
            }
            for name, given in workload.strategies.items()
        },
    }


def _at_least_two(seeds: list[int]) -> list[int]:
    """A study declares two seeds at least; those that are no workload's are not trained."""
    return seeds if len(seeds) > 1 else [*seeds, seeds[0] + 1]


def train(workload: Workload) -> Iterator[dict[str, Any]]:
    """Run the stages up to `train`, and give what the run store holds then."""
    prepare.prepare(STUDY)
    subset.subset(STUDY)
    tune.tune(STUDY)
    for name in workload.strategies:
        # As stage `train` does, a new process under DVC: everything is read from disk again.
        bench = Workbench(STUDY)
        wanted = [cell for cell in bench.declared("final", name) if cell.seed in workload.seeds]
        cells.train_missing(bench, wanted, name)
        for cell in wanted:
            stored = bench.stored(cell)
            assert stored is not None, cell
            # Judged on the images that the peers watch; the test images are others, and of no use here.
            yield {
                "strategy": name,
                "seed": cell.seed,
                "accuracy": stored.run.val_accuracy,
                "seconds": stored.run.seconds,
            }


def refuse_other_images(workload: Workload) -> None:
    """Thaw draws for itself; that must have given the images that its peers found in their folders."""
    bench = Workbench(STUDY)
    with (bench.prepared.place / noted.INDEX).open(newline="", encoding="utf-8") as file:
        names = [Path(row["file"]).name for row in csv.DictReader(file)]
    for seed in workload.seeds:
        for split, mine in (("train", bench.subsets.drawn[workload.per_class, seed]), ("val", bench.subsets.watched)):
            theirs = sorted(path.name for path in Path(workload.images(seed, split)).glob("*/*"))
            if sorted(names[position] for position in mine) != theirs:
                raise RuntimeError(f"seed {seed}: {split} images are not those of the peers")


def main() -> None:
    """Train the runs of the workload named on the command line, and print what came of them."""
    workload = Workload.read(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        ready = time.time()
        Path("params.yaml").write_text(yaml.safe_dump(parameters(workload)), encoding="utf-8")
        runs = list(train(workload))
        done = time.time()
        refuse_other_images(workload)
    print(json.dumps({"ready": ready, "done": done, "runs": runs}))


if __name__ == "__main__":
    main()
