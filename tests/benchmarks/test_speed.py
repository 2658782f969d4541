"""How long the parts of a study take, on one thread each: `make bench`.

EfficientNet-Lite0 at 64 px, batches of 32.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from analysis import report
from pipeline import activations, augmentation, backbones, evaluation, execution, heads, identity, phases, prefix, runs
from pipeline.evaluation import Metrics
from pipeline.folders import Source
from pipeline.replay import Replayed
from pipeline.runs import Provenance
from pipeline.stages import cells, collect, command, prepare, subset, tune
from pipeline.strategies import GROUPS, Augmentation, Cell, Phase, Strategy
from pipeline.training import (
    NUMERICS_VERSION,
    DriftRow,
    HistoryRow,
    Run,
    Task,
    Training,
    default_precision,
    surroundings,
)
from tests.analysis.conftest import Plan, write_tables
from tests.conftest import some_images, write_image_folder

CPU = torch.device("cpu")
PIXELS, BATCH, IMAGES = 64, 32, 200
PREPROCESSING = backbones.REGISTRY["efficientnet_lite0"].preprocessing().at(PIXELS)
HEAD_ONLY = Strategy("feature_extraction", (Phase(1, {"head": 1e-3}),))


@pytest.fixture(autouse=True, scope="module")
def _memory_as_in_a_study() -> None:
    execution.keep_memory()


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """The pretrained weights."""
    return dict(backbones.read_weights(backbones.REGISTRY["efficientnet_lite0"].weights)[0])


def a_task(strategy: Strategy, seed: int = 0, epochs: int = 2, pixels: int = PIXELS) -> Task:
    """A cell of the embedded study's size."""
    return Task(
        Cell("bench", "final", strategy.name, IMAGES // 2, 1.0, seed), strategy, "efficientnet_lite0", pixels, epochs,
        BATCH, 2, "float32", some_images(IMAGES, IMAGES * seed, pixels), some_images(100, 50_000, pixels),
        some_images(256, 60_000, pixels),
    )  # fmt: skip


def learning_from(group: str) -> Strategy:
    """A strategy whose groups from `group` on learn."""
    return Strategy(f"from_{group}", (Phase(1, dict.fromkeys(GROUPS[GROUPS.index(group) :], 1e-4)),))


# --- images ---------------------------------------------------------------------------------------------------------


def test_decode_64_files(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    sources = []
    for number in range(64):
        path = tmp_path / f"{number}.png"
        Image.fromarray(generator.integers(0, 256, (300, 300), dtype=np.uint8)).save(path)
        sources.append(Source(path.name, 0, "pool", str(path)))
    benchmark(lambda: list(identity.decode(sources, {"own": PREPROCESSING}, None, 1)))


def test_resize_a_batch(benchmark: BenchmarkFixture) -> None:
    pixels = some_images(BATCH, 0, 32).pixels
    benchmark(lambda: augmentation.to_resolution(pixels, PREPROCESSING))


@pytest.mark.parametrize("kind", ["flip", "crop_and_colour"])
def test_augment_and_normalise_a_batch(benchmark: BenchmarkFixture, kind: Augmentation) -> None:
    images = some_images(BATCH, 0, PIXELS)

    def work() -> torch.Tensor:
        augmented = augmentation.augment(images.pixels, images.keys, 0, 1, kind)
        return augmentation.normalise(augmented, PREPROCESSING, "own")

    benchmark(work)


# --- training -------------------------------------------------------------------------------------------------------


def first_phase(training: Training, kept: bool = False) -> tuple[Replayed, prefix.Prefix | None]:
    """What a step of the first phase needs: how it learns, and the activations it starts from, where they are kept."""
    strategy = training.task.strategy
    phase = strategy.phases[0]
    phases.freeze(training.model, phase, strategy)
    optimizer = phases.optimizer(training.model, phase, strategy)
    training.model.eval()
    start = prefix.start_of(strategy, phase)
    rows = training.kept(training.task.train, training.train_images, start, 2) if kept else None
    phases.set_training(training.model, phase, strategy)
    return training.learner(optimizer, rows), rows


@pytest.mark.parametrize("kept", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("group", GROUPS)
def test_step_learning_from(
    benchmark: BenchmarkFixture, state: dict[str, torch.Tensor], group: str, kept: bool
) -> None:
    training = Training(a_task(learning_from(group)), CPU, state)
    learn, rows = first_phase(training, kept)
    positions = np.arange(BATCH)
    benchmark(lambda: training.step(learn, rows, positions, 1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("replayed", [True, False], ids=["replayed", "launched"])
def test_step_on_a_gpu(benchmark: BenchmarkFixture, state: dict[str, torch.Tensor], replayed: bool) -> None:
    """Everything learns, 224 px, in the precision that suits the card."""
    gpu = torch.device("cuda")
    task = replace(a_task(learning_from("stem"), pixels=224), precision=default_precision(gpu))
    with surroundings(task, gpu):
        training = Training(task, gpu, state)
        learn, _ = first_phase(training)
        learn, positions = learn if replayed else learn.work, np.arange(BATCH)

        def step() -> None:
            training.step(learn, None, positions, 1)
            torch.cuda.synchronize()

        benchmark(step)


@pytest.mark.parametrize("group", ["stage2", "stage4", "head"])
def test_compute_the_prefix_of_200_images(
    benchmark: BenchmarkFixture, state: dict[str, torch.Tensor], group: str
) -> None:
    training = Training(a_task(learning_from(group)), CPU, state)
    training.model.eval()
    benchmark(lambda: training.rows(training.task.train, training.train_images, group, False))


@pytest.mark.parametrize("count", [1, 10, 50])
def test_head_batch_epoch_of_cells(benchmark: BenchmarkFixture, tmp_path: Path, count: int) -> None:
    """Features as the cache of a study has them; reading them is part of it."""
    tasks = [
        replace(a_task(HEAD_ONLY, seed, epochs=1), activations=tmp_path, weights_sha256="0") for seed in range(count)
    ]
    wanted = activations.missing((one for task in tasks for one in activations.needed(task)), tmp_path)
    some = np.random.default_rng(0).standard_normal((activations.BATCH, 1280), dtype=np.float32)
    pieces = activations.pieces(wanted)
    activations.store(((piece, (some[: len(piece.wanted.images) - piece.first], 0.0)) for piece in pieces), tmp_path)
    benchmark(lambda: heads.train_batch(tasks, CPU, None, lambda *_: None))


def test_evaluate_a_batch(benchmark: BenchmarkFixture, state: dict[str, torch.Tensor]) -> None:
    training = Training(a_task(learning_from("stem")), CPU, state)
    training.model.eval()
    batch = next(training.normalised(training.train_images.pixels))
    benchmark(lambda: evaluation.predict(training.model, [batch]))


# --- 10,000 runs ----------------------------------------------------------------------------------------------------

SEEDS, STRATEGIES = 1000, 5
PARAMS = """
active: [many]
studies:
  many: {{dataset: {{folder: images, name: squares}}, backbone: efficientnet_lite0, resolution: 32, per_class: [3, 6],
    seeds: {seeds}, epochs: 6, learning_rates: textbook, watched: 4}}
strategies:
{strategies}
"""


@pytest.fixture
def many_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run store of 10,000 runs, all of them the same but for their cells."""
    monkeypatch.chdir(tmp_path)
    write_image_folder(tmp_path / "images")
    blocks = [f"  s{i}: {{phases: [{{share: 1, lr: {{all: 1.0e-{i + 1}}}}}]}}" for i in range(STRATEGIES)]
    Path("params.yaml").write_text(PARAMS.format(seeds=SEEDS, strategies="\n".join(blocks)), encoding="utf-8")
    prepare.prepare("many")
    subset.subset("many")
    tune.tune("many")
    bench = cells.Workbench("many")
    template = _some_run(len(bench.prepared.test))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # it would take minutes, and nothing here has to outlive a crash
        for cell in bench.declared("final"):
            run = replace(template, cell=cell)
            ids = bench.prepared.ids_sha256(bench.parts(cell)[2])
            runs.write(command.RESULTS, run, _PROVENANCE, bench.fingerprint(cell), ids)


_PROVENANCE = Provenance(
    "0" * 40, NUMERICS_VERSION, "0" * 64, "0" * 64, "float32", "cpu", "2", "cpu", 1, "3", {}, "none",
    "2026-01-01T00:00:00+00:00",
)  # fmt: skip


def _some_run(judged: int) -> Run:
    history = tuple(
        HistoryRow(1, epoch, split, metric, 0.5)
        for epoch in range(1, 7)
        for split in ("train", "val")
        for metric in ("loss", "accuracy")
    )
    metrics = Metrics(0.5, 0.5, 0.7, 0.1)
    drift = tuple(DriftRow(1, group, 0.1) for group in GROUPS)
    predicted = np.zeros(judged, dtype=np.uint16)
    cell = Cell("many", "final", "s0", 3, 1.0, 0)
    return Run(cell, "ok", 0.5, 0.5, metrics, 1.0, 1000, 1000, history, drift, predicted)


def test_collect_10_000_runs(benchmark: BenchmarkFixture, many_runs: None) -> None:
    benchmark.pedantic(lambda: collect.collect("many"), rounds=1)
    table = (command.REPORTS / "many" / "runs.csv").read_text(encoding="utf-8")
    assert len(table.splitlines()) == 1 + 2 * SEEDS * STRATEGIES


def test_analyse_10_000_runs(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    names = list(Plan().strategies.items())[:STRATEGIES]
    plan = Plan(strategies=dict(names), per_class=(10, 100), seeds=range(SEEDS), epochs=6)
    folder = write_tables(tmp_path / "quick", plan)
    benchmark.pedantic(lambda: report.write(folder), rounds=1)
