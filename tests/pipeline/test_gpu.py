"""What only a GPU can show: the same bytes every time, the CPU's numbers within rounding, and errors that help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline import evaluation, heads, lr_finder, runs
from pipeline.replay import Replayed
from pipeline.stages import cells
from pipeline.strategies import BACKBONES, Phase, Strategy
from pipeline.training import OutOfMemory, Task, Training, default_precision, surroundings, train
from tests.conftest import ALL, BY_NAME, STRATEGIES, same, some_images, train_tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

CPU, GPU = torch.device("cpu"), torch.device("cuda")
FULL = Strategy("full", (Phase(1, ALL),), weights="none", batch_norm="train")


@pytest.fixture(autouse=True)
def _on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("THAW_DEVICE", "cuda")
    yield
    torch.cuda.empty_cache()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
def test_the_same_task_gives_the_same_run_bit_for_bit(
    task: Callable[..., Task], strategy: Strategy, precision: str
) -> None:
    one = train(task(strategy, epochs=3, precision=precision), GPU)
    torch.manual_seed(99)
    assert one.status == "ok"
    assert same(one, train(task(strategy, epochs=3, precision=precision), GPU))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
def test_a_replayed_run_has_the_bytes_of_one_that_is_not(
    task: Callable[..., Task], strategy: Strategy, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = task(replace(strategy, dropout=0.3), precision=precision, watched=some_images(70, 12))
    recorded = []
    record = Replayed._record
    monkeypatch.setattr(Replayed, "_record", lambda self, inputs: recorded.append(inputs) or record(self, inputs))
    replayed = train(one, GPU)
    assert len(recorded) > len(strategy.phases)  # steps of each phase, and evaluation
    monkeypatch.setattr(Replayed, "__call__", lambda self, *inputs: self.work(*inputs))
    assert same(replayed, train(one, GPU))


@pytest.mark.parametrize("change", [
    {"augmentation": "crop_and_colour"}, {"dropout": 0.5}, {"crop": "whole"}, {"normalisation": "none"},
])  # fmt: skip
def test_what_ablations_change_gives_the_same_run_bit_for_bit(
    task: Callable[..., Task], change: dict[str, object]
) -> None:
    strategy = replace(BY_NAME["fine_tune"], **change)  # type: ignore[arg-type]
    large = {part: some_images(12, first, 48) for part, first in (("train", 0), ("watched", 12), ("judged", 24))}
    assert same(train(task(strategy, epochs=2, **large), GPU), train(task(strategy, epochs=2, **large), GPU))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_has_deterministic_algorithms_alone(
    task: Callable[..., Task], backbone: str, precision: str
) -> None:
    first, second = (train(task(FULL, 2, backbone, resolution=64, precision=precision), GPU) for _ in range(2))
    assert same(first, second)


@pytest.mark.parametrize("name", ["scratch", "feature_extraction", "fine_tune", "norm_only"])
def test_in_float32_a_gpu_computes_what_the_cpu_does(task: Callable[..., Task], name: str) -> None:
    one = task(BY_NAME[name], epochs=1, resolution=64)
    here, there = Training(one, CPU, None), Training(one, GPU, None)
    with surroundings(one, GPU):
        logits = [evaluation.predict(t.model.eval(), t.normalised(one.judged.pixels)).cpu() for t in (here, there)]
    assert (logits[0] - logits[1]).norm() < 1e-4 * logits[0].norm()
    runs_of = train(one, CPU), train(one, GPU)
    losses = [[row.value for row in run.history if row.split == "train" and row.metric == "loss"] for run in runs_of]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_heads_are_the_cpus(task: Callable[..., Task]) -> None:
    strategy = BY_NAME["feature_extraction"]
    tasks = [task(strategy, seed=seed) for seed in (0, 1)]
    batches = [heads.train_batch(tasks, device, None, lambda place, epoch: None) for device in (CPU, GPU, GPU)]
    assert all(same(a, b) for a, b in zip(batches[1], batches[2], strict=True))
    for here, there in zip(*batches[:2], strict=True):
        assert here.judged.log_loss == pytest.approx(there.judged.log_loss, rel=1e-3)
    for form in ("lda", "nearest_mean"):
        closed = task(Strategy(form, (), head=form))  # type: ignore[arg-type]
        here, there = (heads.closed_form(closed, device, None) for device in (CPU, GPU))
        assert here.judged.log_loss == pytest.approx(there.judged.log_loss, rel=1e-2)


def test_bfloat16_is_the_default_and_learns(task: Callable[..., Task]) -> None:
    precision = default_precision(GPU)
    assert precision == ("bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else "float32")
    run = train(task(Strategy("fine_tune", (Phase(1, ALL),)), epochs=8, precision=precision), GPU)
    losses = [row.value for row in run.history if row.split == "train_end" and row.metric == "loss"]
    assert losses[-1] < 0.5  # of two classes: 0.69 knows nothing


def test_a_range_test_leaves_no_trace(task: Callable[..., Task]) -> None:
    one = task(BY_NAME["fine_tune"])
    tests = [lr_finder.range_test(one, GPU) for _ in range(2)]
    assert tests[0] == tests[1]
    assert len(tests[0].losses) > 10


def test_out_of_memory_names_the_settings_to_lower(task: Callable[..., Task]) -> None:
    _, in_all = torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((200 << 20) / in_all)
    try:
        with pytest.raises(OutOfMemory, match=r"lower resolution \(now 224\)"):
            train(task(BY_NAME["fine_tune"], resolution=224, batch_size=12), GPU)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_several_workers_on_a_card_give_the_bytes_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = (
        "active: [tiny]\nstudies:\n  tiny: {dataset: {folder: images}, backbone: efficientnet_lite0, resolution: 32, "
        "per_class: [4], seeds: 3, epochs: 2, batch_size: 4, learning_rates: 10, watched: 0, strategies: [fine_tune]}\n"
        "strategies:\n  fine_tune: {phases: [{share: 1, lr: {all: 1.0e-4}}]}\n"
    )
    found = []
    for count in ("1", "2"):
        place = tmp_path / count
        train_tiny(place, params, [])
        monkeypatch.chdir(place)
        monkeypatch.setenv("THAW_WORKERS", count)
        cells.complete("tiny", "final", "fine_tune")
        bench = cells.Workbench("tiny")
        found.append([bench.stored(cell) for cell in bench.declared("final")])
    assert len(found[0]) == 3
    for alone, beside in zip(*found, strict=True):
        assert isinstance(alone, runs.StoredRun)
        assert isinstance(beside, runs.StoredRun)
        assert alone.provenance.device_kind == "cuda"
        assert alone.fingerprint == beside.fingerprint
        assert same(alone.run, beside.run)
