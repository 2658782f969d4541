"""The range test finds the rates that a known loss has, stops where it diverges, and leaves no trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline import lr_finder
from pipeline.lr_finder import STEPS, explore, judge, longest, range_test, smooth
from pipeline.strategies import Phase, Strategy
from pipeline.training import Task, Training
from tests.conftest import ALL, HEAD, STRATEGIES

CPU = torch.device("cpu")
SCALES = np.geomspace(1e-3, 1e3, STEPS)


def test_suggestions_lie_where_a_known_loss_falls_fastest_and_a_tenth_below_its_lowest_point() -> None:
    logarithm = np.log10(SCALES)
    losses = 2 - 1 / (1 + np.exp(-4 * (logarithm + 1))) + 0.5 * np.maximum(logarithm - 1, 0)  # steepest at 0.1
    found = judge(SCALES.tolist(), losses.tolist())
    assert found.steepest is not None
    assert found.tenth_of_lowest is not None
    # The smoothed curve lags behind by about ten steps, which is half a decade here.
    assert 0.1 <= found.steepest <= 0.1 * 10**0.7
    assert found.tenth_of_lowest == pytest.approx(SCALES[int(np.argmin(smooth(losses.tolist())))] / 10)
    assert not found.diverged


def test_a_loss_that_never_falls_suggests_no_slope() -> None:
    rising = np.linspace(1, 2, STEPS)
    assert judge(SCALES.tolist(), rising.tolist()).steepest is None


def test_too_few_losses_suggest_nothing_and_unequal_numbers_are_refused() -> None:
    few = judge([1e-3, 1e-2], [1.0, math.nan])
    assert few.diverged
    assert few.steepest is None
    assert few.tenth_of_lowest is None
    with pytest.raises(ValueError, match="2 losses at 3 scales"):
        judge([1, 2, 3], [1.0, 1.0])


def test_smoothing_has_no_bias_to_zero() -> None:
    assert smooth([3.0] * 5) == pytest.approx([3.0] * 5)


def test_the_phase_with_the_most_epochs_is_tested() -> None:
    assert longest(STRATEGIES[5]).learning == tuple(ALL)
    assert longest(Strategy("s", (Phase(0.5, HEAD), Phase(0.5, ALL)))).rates == ALL
    assert longest(Strategy("s", (Phase(0.6, HEAD), Phase(0.4, ALL)))).rates == HEAD


@pytest.mark.parametrize("strategy", [STRATEGIES[1], STRATEGIES[2], STRATEGIES[3]], ids=lambda strategy: strategy.name)
def test_the_model_is_left_bit_for_bit_as_it_was(task: Callable[..., Task], strategy: Strategy) -> None:
    tested, untested = (Training(task(strategy), CPU, None) for _ in range(2))
    random_state = torch.get_rng_state()
    explore(tested, longest(strategy))
    assert torch.equal(torch.get_rng_state(), random_state)
    for key, value in untested.model.state_dict().items():
        assert torch.equal(tested.model.state_dict()[key], value), key
    one, other = tested.run(lambda epoch: None), untested.run(lambda epoch: None)
    assert replace(one, seconds=0, predicted=None) == replace(other, seconds=0, predicted=None)  # type: ignore[arg-type]
    assert np.array_equal(one.predicted, other.predicted)


def test_rates_that_are_too_high_stop_the_test(task: Callable[..., Task]) -> None:
    strategy = Strategy("s", (Phase(1, dict.fromkeys(ALL, 1e3)),))
    found = range_test(task(strategy), CPU)
    assert found.diverged
    assert len(found.losses) < STEPS
    assert found.scales == tuple(SCALES[: len(found.losses)].tolist())


def test_the_same_cell_gives_the_same_test_and_another_seed_another(task: Callable[..., Task]) -> None:
    one = range_test(task(STRATEGIES[1]), CPU)
    assert one == range_test(task(STRATEGIES[1]), CPU)
    assert one != range_test(task(STRATEGIES[1], seed=1), CPU)
    assert one.scales[0] == lr_finder.LOWEST
