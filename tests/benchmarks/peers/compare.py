"""Train the same work with Thaw and its peers, in alternating order: `make bench-peers`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import backbones, datasets, execution, identity, params, subsets
from pipeline.randomness import keys_of
from pipeline.strategies import epochs_of_phases
from tests.benchmarks import machine
from tests.benchmarks.peers.workload import Workload

PEERS_PYTHON = Path(".venv-peers/bin/python")
CONTENDERS = {"thaw": "with_thaw", "plain PyTorch": "plain", "fastai": "with_fastai", "Lightning": "with_lightning"}
SEVEN = ("scratch", "feature_extraction", "last_block", "fine_tune", "discriminative", "gradual_unfreezing", "lp_ft")
WORKLOADS: dict[str, tuple[tuple[str, ...], int, int]] = {  # strategies, seeds, epochs
    "feature extraction, one run": (("feature_extraction",), 1, 20),
    "feature extraction, five seeds": (("feature_extraction",), 5, 20),
    "fine-tuning, two seeds": (("fine_tune",), 2, 10),  # a study has at least two: it compares in pairs
    "seven strategies, five seeds": (SEVEN, 5, 3),
}
PIXELS = 64
REPEATS = {"seven strategies, five seeds": 1}  # others: 3
TARGET = Path("reports/benchmarks/peers.json")


def write_images(root: Path, study: params.Study) -> None:
    """The images that the study draws, and those that it watches, as image folders for Thaw and for its peers.

    Nobody has to decode more than the others: Thaw's pool are the images that some seed draws, no others. As test
    images, which Thaw asks for, it has as many as are watched.
    """
    listing = datasets.look(study.dataset.name, study.dataset.options)
    sources = listing.sources()
    ids = [decoded.id for decoded in identity.decode(sources, {}, None, execution.cores())]
    members = identity.settle(listing, sources, ids).members
    pool, test = (_images(members, listing.classes, split) for split in ("pool", "test"))
    last = subsets.reserved(pool, study.watched)
    drawn = {seed: subsets.draw(pool, study.per_class[0], seed, last) for seed in study.seeds}
    watched = subsets.watched(last, drawn.values(), study.watched)
    wanted = {"thaw/test": subsets.judged(test, study.watched), "thaw/val": watched}
    wanted["thaw/train"] = np.unique(np.concatenate(list(drawn.values())))
    for seed, train in drawn.items():
        wanted |= {f"{seed}/train": train, f"{seed}/val": watched}
    for place, positions in wanted.items():
        for member in (members[position] for position in positions):
            folder = root / place / listing.classes[member.label]
            folder.mkdir(parents=True, exist_ok=True)
            source = Path(str(sources[member.row].content))
            shutil.copy(source, folder / source.name)


def _images(members: Sequence[identity.Member], classes: tuple[str, ...], split: str) -> subsets.Pool:
    positions = np.array([at for at, member in enumerate(members) if member.split == split])
    mine = [members[at] for at in positions]
    labels = np.array([member.label for member in mine])
    return subsets.Pool(positions, labels, classes, keys_of([member.id for member in mine]))


def workload(root: Path, loaded: params.Params, study: params.Study, names: Sequence[str], epochs: int) -> Workload:
    """Some strategies over the seeds of a study, at its learning rates, as every contender reads it."""
    scale = 1.0 if isinstance(study.learning_rates, str) else study.learning_rates
    strategies: dict[str, Any] = {}
    for strategy in (loaded.strategy(name).scaled(scale) for name in names):
        lengths = epochs_of_phases([phase.share for phase in strategy.phases], epochs)
        phases = [
            {"epochs": length, "rates": dict(phase.rates)}
            for phase, length in zip(strategy.phases, lengths, strict=True)
        ]
        strategies[strategy.name] = {
            "weights": strategy.weights, "batch_norm": strategy.batch_norm, "phases": phases,
        }  # fmt: skip
    entry = backbones.REGISTRY[study.backbone]
    preprocessing = entry.preprocessing().at(study.resolution)
    return Workload(
        folder=str(root),
        seeds=list(study.seeds),
        strategies=strategies,
        resize=preprocessing.resize,
        resolution=study.resolution,
        mean=list(preprocessing.mean),
        std=list(preprocessing.std),
        batch_size=study.batch_size,
        classes=len(list((root / "thaw" / "train").iterdir())),
        per_class=study.per_class[0],
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


def kept(target: Path, workloads: Sequence[str]) -> list[dict[str, Any]]:
    """Earlier results of other workloads, of this machine alone: an hour's work may come in parts."""
    if not target.exists():
        return []
    before = json.loads(target.read_text(encoding="utf-8"))
    here = before["machine"]["cpu"] == machine.describe()["cpu"]
    return [result for result in before["results"] if here and result["workload"] not in workloads]


def main() -> None:
    """Measure all workloads and write the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--contenders", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--repeats", type=int, help="rounds, instead of 3, and 1 of the longest workload")
    parser.add_argument("--target", type=Path, default=TARGET)
    given = parser.parse_args()
    loaded = params.load()
    study = replace(loaded.study("quick"), resolution=PIXELS)
    results = kept(given.target, given.workloads)
    for name in given.workloads:
        strategies, seeds, epochs = WORKLOADS[name]
        with tempfile.TemporaryDirectory() as folder:
            own = replace(study, seeds=study.seeds[:seeds])
            write_images(Path(folder), own)
            file = Path(folder) / "workload.json"
            workload(Path(folder), loaded, own, strategies, epochs).write(file)
            for repeat in range(given.repeats or REPEATS.get(name, 3)):
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
    target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _pins() -> list[str]:
    return (Path(__file__).parent / "requirements.txt").read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    main()
