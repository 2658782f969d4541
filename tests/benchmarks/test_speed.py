"""How long the parts of a study take, on one thread each: `make bench`.

Sizes are those of the embedded study: 64 px, batches of 32, EfficientNet-Lite0.
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
from pipeline import augmentation, backbones, datasets, evaluation, execution, heads, phases, prefix, runs
from pipeline.evaluation import Metrics
from pipeline.runs import Provenance
from pipeline.stages import cells, collect, command, prepare, prepared, subset
from pipeline.strategies import GROUPS, Cell, Phase, Strategy
from pipeline.training import DriftRow, HistoryRow, Run, Task, Training
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


def a_task(strategy: Strategy, seed: int = 0, epochs: int = 2) -> Task:
    """A cell of the embedded study's size."""
    return Task(
        Cell("bench", "final", strategy.name, IMAGES // 2, 1.0, seed), strategy, "efficientnet_lite0", PIXELS, epochs,
        BATCH, 2, 10_000, some_images(IMAGES, IMAGES * seed, PIXELS), some_images(100, 5000, PIXELS),
        some_images(256, 6000, PIXELS),
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
        sources.append(datasets.Source(path.name, 0, False, "", path))
    dataset = datasets.Dataset("", "", "", ("one",), tuple(sources))
    benchmark(lambda: list(datasets.decode(dataset, PREPROCESSING, None, 1)))


def test_resize_a_batch(benchmark: BenchmarkFixture) -> None:
    pixels = some_images(BATCH, 0, 32).pixels
    benchmark(lambda: augmentation.to_resolution(pixels, PREPROCESSING))


@pytest.mark.parametrize("kind", ["flip", "crop_and_colour"])
def test_augment_and_normalise_a_batch(benchmark: BenchmarkFixture, kind: str) -> None:
    images = some_images(BATCH, 0, PIXELS)
    draws = augmentation.Draws.of(0, 1, 10_000)

    def work() -> torch.Tensor:
        augmented = augmentation.augment(images.pixels, images.indices, draws, kind)  # type: ignore[arg-type]
        return augmentation.normalise(augmented, PREPROCESSING, "own")

    benchmark(work)


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("group", GROUPS)
def test_step_learning_from(
    benchmark: BenchmarkFixture, state: dict[str, torch.Tensor], group: str, kept: bool
) -> None:
    strategy = learning_from(group)
    training = Training(a_task(strategy), CPU, state)
    phase = strategy.phases[0]
    phases.freeze(training.model, phase, "train")
    optimizer = phases.optimizer(training.model, phase)
    training.model.eval()
    activations = training.shortcut(phase)[0] if kept else None
    phases.set_training(training.model, phase, "train", "frozen")
    draws, positions = augmentation.Draws.of(0, 1, 10_000), np.arange(BATCH)
    benchmark(lambda: training.step(optimizer, activations, positions, draws))


@pytest.mark.parametrize("group", ["stage2", "stage4", "head"])
def test_compute_the_prefix_of_200_images(
    benchmark: BenchmarkFixture, state: dict[str, torch.Tensor], group: str
) -> None:
    training = Training(a_task(learning_from(group)), CPU, state)
    training.model.eval()
    images = list(training.normalised(training.train_images))
    benchmark(lambda: prefix.compute(training.model, group, images, flipped=True))


@pytest.mark.parametrize("count", [1, 10, 50])
def test_head_batch_epoch_of_cells(benchmark: BenchmarkFixture, state: dict[str, torch.Tensor], count: int) -> None:
    tasks = [a_task(HEAD_ONLY, seed, epochs=1) for seed in range(count)]
    together = heads.Together(tasks, CPU, state)
    rows = np.random.default_rng(0).standard_normal((IMAGES + 256, 1280), dtype=np.float32)
    extracted = [(rows[: len(piece.images.pixels[piece.first : piece.first + 128])], 0.0) for piece in together.pieces]
    benchmark(lambda: list(together.train(extracted, lambda *_: None)))


def test_evaluate_128_images(benchmark: BenchmarkFixture, state: dict[str, torch.Tensor]) -> None:
    training = Training(a_task(learning_from("stem")), CPU, state)
    training.model.eval()
    batch = next(training.normalised(training.train_images))
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
    Path("params.yaml").write_text(PARAMS.format(seeds=SEEDS, strategies="\n".join(blocks)))
    prepare.prepare("many")
    subset.subset("many")
    prepared.write_json(cells.rates_of("many"), {size: {f"s{i}": 1.0 for i in range(STRATEGIES)} for size in "36"})
    bench = cells.Workbench("many")
    template = _some_run(len(bench.prepared.test))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # it would take minutes, and nothing here has to outlive a crash
        for cell in bench.declared("final"):
            run = replace(template, cell=cell)
            ids = bench.prepared.ids_sha256(bench.parts(cell)[2])
            runs.write(command.RESULTS, run, _PROVENANCE, bench.fingerprint(cell), ids)


_PROVENANCE = Provenance(
    "0" * 40, 1, "0" * 64, "0" * 64, "", "cpu", "2", "cpu", 1, "3", {}, "none", "2026-01-01T00:00:00+00:00"
)  # fmt: skip


def _some_run(judged: int) -> Run:
    history = tuple(
        HistoryRow(1, epoch, split, metric, 0.5)
        for epoch in range(1, 7)
        for split in ("train", "val")
        for metric in ("loss", "accuracy")
    )
    half = judged // 2
    metrics = Metrics(0.5, 0.5, 0.7, 0.1, ((half, 0), (half, 0)))
    drift = tuple(DriftRow(1, group, 0.1) for group in GROUPS)
    predicted = np.zeros(judged, dtype=np.uint16)
    cell = Cell("many", "final", "s0", 3, 1.0, 0)
    return Run(cell, "ok", 0.5, 0.5, metrics, 1.0, 1000, 1000, history, drift, predicted)


def test_collect_10_000_runs(benchmark: BenchmarkFixture, many_runs: None) -> None:
    benchmark.pedantic(lambda: collect.collect("many"), rounds=1)
    assert len((command.REPORTS / "many" / "runs.csv").read_text().splitlines()) == 1 + 2 * SEEDS * STRATEGIES


def test_analyse_10_000_runs(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    names = list(Plan().strategies.items())[:STRATEGIES]
    plan = Plan(strategies=dict(names), per_class=(10, 100), seeds=range(SEEDS), epochs=6)
    folder = write_tables(tmp_path / "quick", plan)
    benchmark.pedantic(lambda: report.write(folder), rounds=1)
