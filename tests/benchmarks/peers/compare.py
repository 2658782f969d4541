"""Train the same work with Thaw and its peers, in alternating order: `make bench-peers`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import backbones, datasets, params, subsets
from pipeline.strategies import epochs_of_phases
from tests.benchmarks import machine
from tests.benchmarks.peers.workload import Workload

PEERS_PYTHON = Path(".venv-peers/bin/python")
CONTENDERS = {"thaw": "with_thaw", "plain PyTorch": "plain", "fastai": "with_fastai", "Lightning": "with_lightning"}
WORKLOADS: dict[str, tuple[tuple[str, ...], int, int]] = {  # strategies, seeds, epochs
    "feature extraction, one run": (("feature_extraction",), 1, 20),
    "feature extraction, five seeds": (("feature_extraction",), 5, 20),
    "fine-tuning, two seeds": (("fine_tune",), 2, 10),  # a study has at least two: it compares in pairs
    "seven strategies, five seeds": ((), 5, 3),
}
REPEATS = {"feature extraction, one run": 3, "fine-tuning, two seeds": 2}  # others: 1
TARGET = Path("reports/benchmarks/peers.json")


def write_images(root: Path, study: params.Study) -> None:
    """The images that the study draws and those that it watches, as image folders for every seed."""
    dataset = datasets.load(study.dataset.name, study.dataset.options)
    labels = np.array([source.label for source in dataset.sources])
    count = sum(not source.test for source in dataset.sources)
    pool = subsets.Pool(np.arange(count), labels[:count], dataset.classes, dataset.sha256)
    drawn = {seed: subsets.draw(pool, study.per_class[0], seed) for seed in study.seeds}
    watched = subsets.watched(pool, drawn.values(), study.watched)
    for seed, train in drawn.items():
        for split, indices in {"train": train, "val": watched}.items():
            for index in indices:
                source = dataset.sources[index]
                folder = root / str(seed) / split / dataset.classes[source.label]
                folder.mkdir(parents=True, exist_ok=True)
                assert isinstance(source.content, Path)
                shutil.copy(source.content, folder / source.content.name)


def workload(
    root: Path, loaded: params.Params, study: params.Study, names: Sequence[str], seeds: int, epochs: int
) -> Workload:
    """Some strategies (all where none is named) over the first seeds of a study, as every contender reads it."""
    strategies: dict[str, Any] = {}
    for strategy in (loaded.strategy(chosen) for chosen in names or study.strategies):
        lengths = epochs_of_phases([phase.share for phase in strategy.phases], epochs)
        phases = [
            {"epochs": length, "rates": dict(phase.rates)}
            for phase, length in zip(strategy.phases, lengths, strict=True)
        ]
        strategies[strategy.name] = {"weights": strategy.weights, "phases": phases}
    entry = backbones.REGISTRY[study.backbone]
    preprocessing = entry.preprocessing().at(study.resolution)
    return Workload(
        folder=str(root),
        seeds=list(study.seeds[:seeds]),
        strategies=strategies,
        resize=preprocessing.resize,
        resolution=study.resolution,
        mean=list(preprocessing.mean),
        std=list(preprocessing.std),
        batch_size=study.batch_size,
        classes=len(list((root / str(study.seeds[0]) / "val").iterdir())),
        backbone="tf_efficientnet_lite0",
        weights_file=str(entry.weights.find()),
    )


def measure(contender: str, given: Path) -> dict[str, Any]:
    """One contender on one workload."""
    python = sys.executable if contender == "thaw" else str(PEERS_PYTHON)
    module = f"tests.benchmarks.peers.{CONTENDERS[contender]}"
    seen = machine.watch((python, "-m", module, str(given)))
    said = json.loads(seen.output.strip().splitlines()[-1])
    return {
        "contender": contender,
        "commit": machine.describe()["commit"],
        "seconds": round(seen.seconds, 2),
        "work_seconds": round(said["done"] - said["ready"], 2),  # without imports and the interpreter's end
        "peak_mb": round(seen.peak_mb),
        "runs": len(said["runs"]),
        "accuracy": float(np.mean([run["accuracy"] for run in said["runs"]])),
    }


def main() -> None:
    """Measure all workloads and write the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--contenders", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--repeats", type=int, help="instead of the usual: fewer for long workloads")
    parser.add_argument("--target", type=Path, default=TARGET)
    given = parser.parse_args()
    loaded = params.load()
    study = loaded.study("quick")
    # Other workloads that were measured before stay: an hour's work may come in parts.
    before = json.loads(given.target.read_text())["results"] if given.target.exists() else []
    results = [result for result in before if result["workload"] not in given.workloads]
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), study)
        for name in given.workloads:
            file = Path(folder) / "workload.json"
            workload(Path(folder), loaded, study, *WORKLOADS[name]).write(file)
            for repeat in range(given.repeats or REPEATS.get(name, 1)):
                turn = repeat % len(given.contenders)  # who starts changes
                for contender in given.contenders[turn:] + given.contenders[:turn]:
                    result = {"workload": name, "repeat": repeat, **measure(contender, file)}
                    print(json.dumps(result), flush=True)
                    results.append(result)
                    _write(given.target, study, results)


def _write(target: Path, study: params.Study, results: list[dict[str, Any]]) -> None:
    content = {
        "command": "make bench-peers",
        "machine": machine.describe(),
        "peers": [line for line in _pins() if not line.startswith("#")],
        "images": {"resolution": study.resolution, "train": 2 * study.per_class[0], "validation": study.watched},
        "results": results,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content, indent=1) + "\n")


def _pins() -> list[str]:
    return (Path(__file__).parent / "requirements.txt").read_text().splitlines()


if __name__ == "__main__":
    main()
