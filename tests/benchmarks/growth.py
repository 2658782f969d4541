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
from unittest import mock

import numpy as np
import torch
import yaml
from torch.profiler import ProfilerActivity, profile

from pipeline import activations, backbones, execution, heads, params, training
from pipeline.backbones import GroupedModel
from pipeline.randomness import torch_stream
from pipeline.stages import prepare, subset, tune
from pipeline.stages.cells import Workbench
from pipeline.strategies import Cell
from pipeline.training import Task, Training
from tests.benchmarks import machine
from tests.benchmarks.peers import with_thaw
from tests.benchmarks.peers.compare import workload, write_images
from tests.benchmarks.test_speed import BATCH, CPU, PIXELS, a_task, first_phase, learning_from
from tests.conftest import some_images, write_image_folder

TARGET = Path("reports/benchmarks/growth.json")
FULL = ("fine_tune", "discriminative", "fine_tune_head_ten_times")  # strategies that cost the same
BASE = {"images a class": 100, "seeds": 2, "strategies": 1, "pixels": 64}
SIZES = {
    "images a class": (25, 50, 100, 200, 400),
    "seeds": (2, 4, 8),
    "strategies": (1, 2, 3),
    "pixels": (64, 96, 128, 160),
}
EPOCHS = 4
REPEATS = 2
TEST_IMAGES = 10_000  # of CIFAR-10


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
                workload(Path(folder), loaded, study, FULL[: at["strategies"]], EPOCHS).write(file)
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
    """Seconds of importing stages, with PyTorch alone beside it, and of a `dvc repro` with nothing to do."""

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
        for source in ("dvc.yaml", ".dvcignore"):
            shutil.copy(source, folder)
        write_image_folder(folder / "images")
        content = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        content["studies"] = {"quick": content["studies"]["quick"]}
        content["about"] = {"quick": {"source": "drawn for this measurement"}}
        content["studies"]["quick"].update(dataset={"folder": "images"}, resolution=32, per_class=[3], seeds=2)
        (folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        subprocess.run(("git", "init", "-q"), cwd=folder, check=True)
        subprocess.run(("dvc", "repro", "-q"), cwd=folder, check=True, capture_output=True, env=environment)
        modules = ("pipeline.stages.train", "pipeline.stages.cells", "torch")
        imports = {f"import {name}": median((sys.executable, "-c", f"import {name}"), folder) for name in modules}
        return {**imports, "dvc repro with nothing to do": median(("dvc", "repro"), folder)}


def feature_extraction_parts(loaded: params.Params) -> dict[str, float]:
    """Where the seconds of feature extraction go (20 epochs, one run, the embedded study's images), on one core."""
    _one_core()
    study = replace(loaded.study("quick"), seeds=(0,))
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), study)
        given = with_thaw.parameters(workload(Path(folder), loaded, study, ("feature_extraction",), 20))
        os.chdir(folder)
        try:
            Path("params.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
            marks = [time.perf_counter()]
            with mock.patch.object(execution, "cores", return_value=1):
                prepare.prepare(with_thaw.STUDY)
            marks.append(time.perf_counter())
            subset.subset(with_thaw.STUDY)
            tune.tune(with_thaw.STUDY)
            marks.append(time.perf_counter())
            bench = Workbench(with_thaw.STUDY)
            model, task = bench.frozen_model, bench.task(bench.declared("final")[0])
            marks.append(time.perf_counter())
            _keep_activations([task], model)
            marks.append(time.perf_counter())
            heads.train_batch([task], CPU, None, lambda *_: None)
            marks.append(time.perf_counter())
        finally:
            os.chdir(before)
    names = (
        "list, identify and decode every image once", "draw and declare", "read the weights and build the model",
        "features of every image and view", "train and judge the head",
    )  # fmt: skip
    return {name: round(end - start, 2) for name, start, end in zip(names, marks, marks[1:], strict=False)}


def _one_core() -> None:
    torch.set_num_threads(execution.THREADS)
    execution.keep_memory()


def _keep_activations(tasks: Sequence[Task], model: GroupedModel) -> None:
    """Fill the cache of frozen stretches for cells that share one, as a study does before it trains them."""
    folder = tasks[0].activations
    assert folder is not None
    wanted = activations.missing((one for task in tasks for one in activations.needed(task)), folder)
    pieces = activations.pieces(wanted)
    activations.store(((piece, activations.compute(piece, model, CPU)) for piece in pieces), folder)


def cell_of_many_test_images(loaded: params.Params) -> dict[str, float]:
    """Seconds of a `last_block` cell of 100 training and 10,000 test images on one core, with and without the cache.

    Images as CIFAR-10 has them, 32 px, on the study's resolution and epochs.
    """
    _one_core()
    study = loaded.study("cifar10")
    state, digest = backbones.pretrained(study.backbone)
    judged = some_images(TEST_IMAGES, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        cells = [
            Task(
                Cell("bench", "final", "last_block", 10, 1.0, seed), loaded.strategy("last_block"), study.backbone,
                study.resolution, study.epochs, study.batch_size, 10, "float32", some_images(100, 100 * seed),
                some_images(study.watched, 50_000), judged, Path(folder), digest,
            )
            for seed in (0, 1)
        ]  # fmt: skip
        model = backbones.build(study.backbone, 2, "pretrained", torch_stream("unused head"), state=state)
        filled = _seconds(lambda: _keep_activations(cells, model.requires_grad_(False).eval()))
        training.train(cells[0], CPU, state=state)
        kept = _seconds(lambda: training.train(cells[1], CPU, state=state))
        alone = _seconds(lambda: training.train(replace(cells[1], activations=None), CPU, state=state))
    return {"second cell": round(kept, 2), "cell without a cache": round(alone, 2), "filling it": round(filled, 2)}


def _seconds(work: Callable[[], object]) -> float:
    since = time.perf_counter()
    work()
    return time.perf_counter() - since


def _a_step(pixels: int = PIXELS) -> tuple[Training, Callable[[], object]]:
    """A training step of the pretrained backbone in which everything learns, one thread."""
    _one_core()
    cell = Training(a_task(learning_from("stem"), pixels=pixels), CPU, None)
    (learn, rows), positions = first_phase(cell), np.arange(BATCH)
    return cell, lambda: cell.step(learn, rows, positions, 1)


def folded_step() -> dict[str, float]:
    """Seconds of a step at 96 px with frozen BatchNorm folded into its convolutions, and unfolded, side by side."""
    _, folded = _a_step(96)
    with mock.patch.object(backbones, "fold_batch_norms"):
        _, unfolded = _a_step(96)
    steps = {"folded": folded, "unfolded": unfolded}
    seen = [{name: _seconds(step) for name, step in steps.items()} for _ in range(33)][3:]
    return {name: round(statistics.median(row[name] for row in seen), 4) for name in steps}


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
    cell, step = _a_step()
    eager_forward = cell.model.forward
    compiled_forward = torch.compile(eager_forward, dynamic=False)  # all batches have one shape

    def seconds(forward: Any) -> float:
        cell.model.forward = forward  # type: ignore[method-assign]
        return _seconds(step)

    first = seconds(compiled_forward)
    eager, compiled = zip(*((seconds(eager_forward), seconds(compiled_forward)) for _ in range(30)), strict=True)
    return {"first": first, "eager": statistics.median(eager), "compiled": statistics.median(compiled)}


def main() -> None:
    """Measure and write the results as JSON; sizes that were measured by the same commit stay."""
    content: dict[str, Any] = {
        "machine": machine.describe(),
        "base": BASE,
        "epochs": EPOCHS,
        "validation": params.load().study("quick").watched,
        "repeats": REPEATS,
        "growth": [],
    }
    if TARGET.exists():
        before = json.loads(TARGET.read_text(encoding="utf-8"))
        if before["machine"]["commit"] == content["machine"]["commit"]:
            content["growth"] = before["growth"]
    for row in grow(params.load(), content["growth"]):
        print(json.dumps(row), flush=True)
        content["growth"].append(row)
        _write(content)
    content |= {
        "start_up": start_up(),
        "feature_extraction": feature_extraction_parts(params.load()),
        "many_test_images": cell_of_many_test_images(params.load()),
        "folded": folded_step(),
        "step": profiled_step(),
    }
    content["compiled"] = compiled_step()  # the last: it takes longest
    _write(content)


def _write(content: dict[str, Any]) -> None:
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
