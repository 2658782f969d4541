"""Frozen means frozen, and rates reach the groups they are meant for."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from pipeline import backbones, phases
from pipeline.strategies import BACKBONES, GROUPS, Phase, Strategy, epochs_of_phases
from pipeline.training import Task, Training
from tests.conftest import ALL, HEAD, STRATEGIES

CPU = torch.device("cpu")


def states(model: backbones.GroupedModel) -> dict[str, dict[str, torch.Tensor]]:
    return {name: {k: v.clone() for k, v in model.group(name).state_dict().items()} for name in GROUPS}


def moved(before: dict[str, dict[str, torch.Tensor]], after: dict[str, dict[str, torch.Tensor]]) -> set[str]:
    return {g for g in GROUPS if any(not torch.equal(before[g][key], after[g][key]) for key in before[g])}


@pytest.mark.parametrize(
    ("strategy", "backbone"),
    [*((strategy, "efficientnet_lite0") for strategy in STRATEGIES), (STRATEGIES[5], "resnet18")],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize("augmentation", ["flip", "crop_and_colour"])  # with and without the prefix shortcut
def test_groups_without_a_rate_do_not_move_by_a_bit_in_any_phase(
    task: Callable[..., Task], strategy: Strategy, augmentation: str, backbone: str
) -> None:
    changed = Strategy(strategy.name, strategy.phases, weights="none", augmentation=augmentation)  # type: ignore[arg-type]
    training = Training(task(changed, backbone=backbone), CPU, None)
    lengths = epochs_of_phases([phase.share for phase in changed.phases], 4)
    done = 0
    for number, (phase, length) in enumerate(zip(changed.phases, lengths, strict=True), start=1):
        before = states(training.model)
        assert all(training.phase(number, phase, length, done))
        done += length
        assert moved(before, states(training.model)) == set(phase.learning)
    training.finish(True)


def test_evaluation_moves_nothing_and_training_mode_comes_back_after_it() -> None:
    model = backbones.build("efficientnet_lite0", 2, "none", torch.Generator().manual_seed(0))
    phase = Phase(1, {"stage4": 1e-4, **HEAD})
    model.eval()
    phases.set_training(model, phase, Strategy("s", (phase,), batch_norm="train"))
    assert [model.group(name).training for name in GROUPS] == [False, False, False, False, True, True]
    assert not any(layer.training for layer in model.group("stage3").modules())


@pytest.mark.parametrize(("mode", "statistics", "affine"), [
    ("train", True, True), ("statistics_fixed", False, True), ("frozen", False, False),
])  # fmt: skip
def test_batch_norm_of_learning_groups_does_what_its_mode_says(
    task: Callable[..., Task], mode: str, statistics: bool, affine: bool
) -> None:
    strategy = Strategy("s", (Phase(1, ALL),), batch_norm=mode)  # type: ignore[arg-type]
    training = Training(task(strategy, epochs=1), CPU, None)
    layer = next(phases.batch_norms(training.model.group("stage2")))
    mean, weight = layer.running_mean, layer.weight
    assert mean is not None
    mean_before, weight_before = mean.clone(), weight.detach().clone()
    list(training.phase(1, strategy.phases[0], 1, 0))
    assert torch.equal(mean, mean_before) != statistics
    assert torch.equal(weight, weight_before) != affine
    total = sum(w.numel() for w in training.model.parameters())
    learning = phases.trainable_parameters(training.model, strategy.phases[0], strategy)
    norms = sum(w.numel() for norm in phases.batch_norms(training.model) for w in norm.parameters())
    assert learning == (total if affine else total - norms)


def test_forgotten_batch_norm_moves_buffers_of_frozen_groups_and_no_weight(task: Callable[..., Task]) -> None:
    strategy = Strategy("s", (Phase(1, HEAD),), frozen_groups="batch_norm_forgotten")
    training = Training(task(strategy, epochs=1), CPU, None)
    before = states(training.model)
    list(training.phase(1, strategy.phases[0], 1, 0))
    after = states(training.model)
    for group in GROUPS[:-1]:
        for key in before[group]:
            buffer = "running" in key or "num_batches" in key
            assert torch.equal(before[group][key], after[group][key]) != buffer, key


def test_rates_reach_the_groups_they_are_meant_for() -> None:
    model = backbones.build("efficientnet_lite0", 2, "none", torch.Generator().manual_seed(0))
    phase = Phase(1, {"stage3": 1e-5, "stage4": 1e-4, "head": 1e-3})
    strategy = Strategy("s", (phase,), batch_norm="train")
    phases.freeze(model, phase, strategy)
    optimizer = phases.optimizer(model, phase, strategy)
    phases.set_rates(optimizer, phase, 0.5)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == {
        "stage3": 0.5e-5, "stage4": 0.5e-4, "head": 0.5e-3,
    }  # fmt: skip
    for group in optimizer.param_groups:
        expected = {id(weight) for weight in model.group(group["name"]).parameters()}
        assert {id(weight) for weight in group["params"]} == expected
    learning = {id(weight) for weight in model.parameters() if weight.requires_grad}
    assert learning == {id(weight) for group in optimizer.param_groups for weight in group["params"]}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_norms_learn_their_scale_and_shift_and_the_head_learns_and_nothing_else(backbone: str) -> None:
    model = backbones.build(backbone, 2, "none", torch.Generator().manual_seed(0))
    phase = Phase(1, ALL)
    strategy = Strategy("norm_only", (phase,), learn="norms", batch_norm="statistics_fixed")
    phases.freeze(model, phase, strategy)
    learning = {key for key, weight in model.named_parameters() if weight.requires_grad}
    kinds = (torch.nn.BatchNorm2d, torch.nn.LayerNorm)
    norms = {name for name, module in model.named_modules() if isinstance(module, kinds)}
    assert bool(norms) == (BACKBONES[backbone] != "none")
    expected = {f"{name}.{key}" for name in norms for key in ("weight", "bias")}
    assert learning == expected | {"groups.head.1.weight", "groups.head.1.bias"}
    optimizer = phases.optimizer(model, phase, strategy)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(learning)
    counted = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert phases.trainable_parameters(model, phase, strategy) == counted


def test_norms_alone_move_when_norms_alone_learn(task: Callable[..., Task]) -> None:
    strategy = Strategy("norm_only", (Phase(1, ALL),), learn="norms", batch_norm="statistics_fixed")
    training = Training(task(strategy, epochs=1), CPU, None)
    before = {key: value.clone() for key, value in training.model.state_dict().items()}
    list(training.phase(1, strategy.phases[0], 1, 0))
    moved = {key for key, value in training.model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {key for key, weight in training.model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(("rate", "shrinks"), [(1e-4, 3.2e-4), (1e-3, 3.2e-3), (1e-2, 3.2e-2)])
def test_weight_decay_shrinks_a_weight_by_what_its_comment_says(rate: float, shrinks: float) -> None:
    model = backbones.build("squeezenet1_1", 2, "none", torch.Generator().manual_seed(0)).double()
    phase = Phase(1, {"head": rate})
    optimizer = phases.optimizer(model, phase, Strategy("s", (phase,)))
    (head, _) = optimizer.param_groups[0]["params"]
    before = head.detach().clone()
    for step in range(640):
        for weight in optimizer.param_groups[0]["params"]:
            weight.grad = torch.zeros_like(weight)
        phases.set_rates(optimizer, phase, phases.rate_factor(step, 640))
        optimizer.step()
    torch.testing.assert_close(head.detach() / before, torch.full_like(before, 1 - shrinks), rtol=2e-3, atol=0)


def test_a_group_that_does_not_exist_is_refused_by_name() -> None:
    model = backbones.build("efficientnet_lite0", 2, "none", torch.Generator().manual_seed(0))
    with pytest.raises(KeyError, match="layer9"):
        phases.freeze(model, phase := Phase(1, {"layer9": 1e-3, "head": 1e-3}), Strategy("s", (phase,)))


def test_rates_warm_up_linearly_and_fall_to_almost_nothing_within_a_phase() -> None:
    factors = [phases.rate_factor(step, 40) for step in range(40)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(a > b for a, b in pairwise(factors[3:]))
    assert 0 < factors[-1] < 0.01
    assert phases.rate_factor(0, 1) == 1.0


@pytest.mark.parametrize(("shares", "epochs", "expected"), [
    ((0.25, 0.25, 0.5), 20, (5, 5, 10)), ((0.25, 0.25, 0.5), 8, (2, 2, 4)), ((0.25, 0.25, 0.5), 10, (3, 2, 5)),
    ((1,), 7, (7,)), ((0.05, 0.95), 3, (1, 2)), ((1 / 3, 1 / 3, 1 / 3), 10, (4, 3, 3)),
])  # fmt: skip
def test_shares_become_epochs_that_keep_the_total(
    shares: tuple[float, ...], epochs: int, expected: tuple[int, ...]
) -> None:
    assert epochs_of_phases(shares, epochs) == expected


def test_more_phases_than_epochs_are_refused() -> None:
    with pytest.raises(ValueError, match="3 phases do not fit into 2 epochs"):
        epochs_of_phases((0.2, 0.3, 0.5), 2)
