"""How time and memory grow with a study, what starting costs, and what a training step spends its time on."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch.profiler import ProfilerActivity, profile

from pipeline import augmentation, backbones, execution, heads, params, phases
from pipeline.strategies import GROUPS, Phase, Strategy
from pipeline.training import Training
from tests.benchmarks import machine
from tests.benchmarks.peers.compare import workload, write_images
from tests.benchmarks.peers.with_thaw import tasks
from tests.benchmarks.test_speed import BATCH, CPU, a_task
from tests.conftest import write_image_folder

TARGET = Path("reports/benchmarks/growth.json")
FULL = ("fine_tune", "discriminative", "scratch")  # strategies that cost the same
BASE = {"images a class": 100, "seeds": 2, "strategies": 1, "pixels": 64}
SIZES = {
    "images a class": (25, 50, 100, 200, 400),
    "seeds": (2, 4, 8),
    "strategies": (1, 2, 3),
    "pixels": (64, 96, 128, 160),
}
EPOCHS = 4
REPEATS = 2


def grow(loaded: params.Params, there: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One axis at a time, the others as in `BASE`; the median of several. What is `there` is not measured again."""
    quick = loaded.study("quick")
    for axis, sizes in SIZES.items():
        for size in sizes:
            if any((row["axis"], row["size"]) == (axis, size) for row in there):
                continue
            at = {**BASE, axis: size}
            study = replace(
                quick, per_class=(at["images a class"],), resolution=at["pixels"], seeds=tuple(range(at["seeds"]))
            )
            with tempfile.TemporaryDirectory() as folder:
                write_images(Path(folder), study)
                file = Path(folder) / "workload.json"
                workload(Path(folder), loaded, study, FULL[: at["strategies"]], at["seeds"], EPOCHS).write(file)
                seen = [_once(file) for _ in range(REPEATS)]
            yield {
                "axis": axis,
                "size": size,
                "seconds": round(statistics.median(seconds for seconds, _ in seen), 2),
                "peak_mb": round(statistics.median(peak for _, peak in seen)),
            }


def _once(file: Path) -> tuple[float, float]:
    seen = machine.watch((sys.executable, "-m", "tests.benchmarks.peers.with_thaw", str(file)))
    said = json.loads(seen.output.strip().splitlines()[-1])
    return said["done"] - said["ready"], seen.peak_mb


def start_up() -> dict[str, float]:
    """Seconds of importing a stage, and of a `dvc repro` with nothing to do."""

    def median(arguments: tuple[str, ...], folder: Path) -> float:
        took = []
        for _ in range(5):
            since = time.perf_counter()
            subprocess.run(arguments, cwd=folder, check=True, capture_output=True, env=environment)
            took.append(time.perf_counter() - since)
        return round(statistics.median(took), 2)

    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["MLFLOW_TRACKING_URI"] = "sqlite:///mlflow.db"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for source in ("pipeline", "analysis", ".dvc"):
            shutil.copytree(source, folder / source, ignore=shutil.ignore_patterns("__pycache__", "tmp", "cache"))
        shutil.copy("dvc.yaml", folder)
        write_image_folder(folder / "images")
        content = yaml.safe_load(Path("params.yaml").read_text())
        content["studies"] = {"quick": content["studies"]["quick"]}
        content["studies"]["quick"].update(dataset={"folder": "images"}, resolution=32, per_class=[3], seeds=2)
        (folder / "params.yaml").write_text(yaml.safe_dump(content))
        subprocess.run(("git", "init", "-q"), cwd=folder, check=True)
        subprocess.run(("dvc", "repro", "-q"), cwd=folder, check=True, capture_output=True, env=environment)
        return {
            "import pipeline.stages.train": median((sys.executable, "-c", "import pipeline.stages.train"), folder),
            "dvc repro with nothing to do": median(("dvc", "repro"), folder),
        }


def feature_extraction_parts(loaded: params.Params) -> dict[str, float]:
    """Where the seconds of feature extraction go (20 epochs, one run, the embedded study's images), on one core."""
    execution.keep_memory()
    torch.set_num_threads(execution.THREADS)
    state, _ = backbones.read_weights(backbones.REGISTRY["efficientnet_lite0"].weights)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), loaded.study("quick"))
        work = workload(Path(folder), loaded, loaded.study("quick"), ("feature_extraction",), 1, 20)
        marks = [time.perf_counter()]
        given = tasks(work)
        marks.append(time.perf_counter())
        together = heads.Together(given, CPU, state)
        marks.append(time.perf_counter())
        extracted = [together.extract(piece) for piece in range(len(together.pieces))]
        marks.append(time.perf_counter())
        list(together.train(extracted, lambda *_: None))
        marks.append(time.perf_counter())
    names = ("decode every image once", "build the model", "features of every image and view", "train the head")
    return {name: round(end - start, 2) for name, start, end in zip(names, marks, marks[1:], strict=False)}


def _a_step() -> tuple[Training, Callable[[], None]]:
    """A fine-tuning step, one thread."""
    torch.set_num_threads(execution.THREADS)
    execution.keep_memory()
    strategy = Strategy("fine_tune", (Phase(1, dict.fromkeys(GROUPS, 1e-4)),))
    training = Training(a_task(strategy), CPU, None)
    phase = strategy.phases[0]
    phases.freeze(training.model, phase, "train")
    optimizer = phases.optimizer(training.model, phase)
    phases.set_training(training.model, phase, "train", "frozen")
    draws, positions = augmentation.Draws.of(0, 1, 10_000), np.arange(BATCH)
    return training, lambda: training.step(optimizer, None, positions, draws)


def profiled_step() -> list[dict[str, Any]]:
    """Where a fine-tuning step spends its time: operators by their share."""
    _, step = _a_step()
    for _ in range(3):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(10):
            step()
    events = seen.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    rows = [{"operator": event.key, "share": round(event.self_cpu_time_total / total, 4)} for event in events]
    return sorted(rows, key=lambda row: -row["share"])[:10]


def compiled_step() -> dict[str, float] | None:
    """Seconds of the first compiled step, and of later ones beside eager ones; None without a C++ compiler."""
    if shutil.which("g++") is None:
        return None
    training, step = _a_step()
    eager_forward = training.model.forward
    compiled_forward = torch.compile(eager_forward)

    def seconds(forward: Any) -> float:
        training.model.forward = forward  # type: ignore[method-assign]
        since = time.perf_counter()
        step()
        return time.perf_counter() - since

    first = seconds(compiled_forward)
    eager, compiled = zip(*((seconds(eager_forward), seconds(compiled_forward)) for _ in range(30)), strict=True)
    return {"first": first, "eager": statistics.median(eager), "compiled": statistics.median(compiled)}


def main() -> None:
    """Measure and write the results as JSON; sizes that were measured by the same commit stay."""
    content = {
        "machine": machine.describe(),
        "base": BASE,
        "epochs": EPOCHS,
        "validation": params.load().study("quick").watched,
        "repeats": REPEATS,
        "growth": [],
    }
    if TARGET.exists():
        before = json.loads(TARGET.read_text())
        if before["machine"]["commit"] == content["machine"]["commit"]:
            content["growth"] = before["growth"]
    for row in grow(params.load(), content["growth"]):
        print(json.dumps(row), flush=True)
        content["growth"].append(row)
        _write(content)
    content |= {
        "start_up": start_up(),
        "feature_extraction": feature_extraction_parts(params.load()),
        "step": profiled_step(),
        "compiled": compiled_step(),
    }
    _write(content)


def _write(content: dict[str, Any]) -> None:
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
