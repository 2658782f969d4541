"""The climb: no winner at an edge but the grid's own, ranks in whole numbers, one step or two by images judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tuning import FEW_IMAGES, GRID, START, Judged, Rates, climb, entry, inherited, judge


def judged(right: int, log_loss: float = 1.0, of: int = FEW_IMAGES) -> Judged:
    return Judged(right, of, of, Fraction(right, of), log_loss)


def climbed(curve: Callable[[float], Judged]) -> tuple[float, Mapping[float, Judged]]:
    """The whole climb over a curve, and what was tried on the way."""
    tried: dict[float, Judged] = {}
    while missing := climb(tried)[1]:
        tried |= {scale: curve(scale) for scale in missing}
    return climb(tried)[0], tried


def peak(at: float, of: int = FEW_IMAGES) -> Callable[[float], Judged]:
    return lambda scale: judged(100 - 5 * abs(GRID.index(scale) - GRID.index(at)), of=of)


def test_the_climb_begins_at_the_rates_as_written_and_their_neighbours() -> None:
    assert climb({}) == (1.0, START)
    assert climb({1.0: judged(5)}) == (1.0, (0.3, 3.0))


@pytest.mark.parametrize("best", GRID)
def test_the_climb_finds_the_peak_wherever_it_lies_and_it_has_a_worse_neighbour_on_both_sides(best: float) -> None:
    found, tried = climbed(peak(best))
    assert found == best
    at = GRID.index(best)
    assert {GRID[i] for i in (at - 1, at + 1) if 0 <= i < len(GRID)} <= set(tried)


def test_fewer_images_look_two_steps_beyond_and_pass_a_local_peak() -> None:
    curve = {0.3: 50, 1.0: 60, 3.0: 58, 10.0: 70, 30.0: 65, 100.0: 40}
    assert climbed(lambda scale: judged(curve.get(scale, 0)))[0] == 1.0
    few = FEW_IMAGES - 1
    found, tried = climbed(lambda scale: judged(curve.get(scale, 0), of=few))
    assert found == 10.0
    assert {1.0, 3.0, 30.0, 100.0} <= set(tried)


def test_a_neighbour_that_is_hardly_worse_does_not_end_the_climb() -> None:
    curve = {0.3: 50, 1.0: 60, 3.0: 59, 10.0: 70, 30.0: 40}
    assert climbed(lambda scale: judged(curve.get(scale, 0)))[0] == 10.0
    assert climbed(lambda scale: judged(curve.get(scale, 0) - 2 * (scale == 3.0)))[0] == 1.0


def test_ties_go_to_the_lower_log_loss_then_to_the_smaller_scale() -> None:
    assert climbed(lambda scale: judged(7, log_loss=0.5 if scale == 3 else 1.0))[0] == 3.0
    assert climbed(lambda scale: judged(7))[0] == 0.001  # all alike: nothing speaks for a higher rate


def test_scales_off_the_way_decide_nothing() -> None:
    results = {scale: judged(90 if scale == 1000 else 50 - abs(GRID.index(scale) - GRID.index(1.0))) for scale in GRID}
    assert climb(results) == (1.0, ())  # heads try the whole grid, and are judged by the same rule


@given(st.lists(st.integers(0, 20), min_size=len(GRID), max_size=len(GRID)), st.sampled_from([20, FEW_IMAGES]))
def test_no_winner_lies_at_an_edge_of_what_was_tried(rights: list[int], of: int) -> None:
    curve = dict(zip(GRID, rights, strict=True))
    found, tried = climbed(lambda scale: judged(curve[scale], of=of))
    assert found in (GRID[0], GRID[-1]) or min(tried) < found < max(tried)
    assert all(tried[found].score >= tried[other].score for other in tried)


def test_pilots_are_counted_in_whole_images() -> None:
    labels = np.array([0, 0, 0, 1])
    first, second = np.array([5, 6, 7, 8]), np.array([5, 6, 1, 2])  # two images are held out by both
    pilots = [(first, labels, np.array([0, 0, 1, 1]), 0.4), (second, labels, np.array([0, 0, 0, 0]), 0.8)]
    plain = judge(pilots, "accuracy")
    assert (plain.right, plain.of, plain.distinct, plain.score) == (6, 8, 6, Fraction(6, 8))
    assert plain.log_loss == pytest.approx(0.6)
    balanced = judge(pilots, "balanced_accuracy")
    assert (balanced.right, balanced.score) == (6, (Fraction(5, 6) + Fraction(1, 2)) / 2)


def test_balanced_accuracy_ranks_a_rate_that_finds_the_small_class_above_one_that_never_does() -> None:
    labels = np.array([0] * 19 + [1])
    images = np.arange(20)
    always = judge([(images, labels, np.zeros(20), 0.2)], "balanced_accuracy")
    finds = judge([(images, labels, np.array([1] * 3 + [0] * 16 + [1]), 0.5)], "balanced_accuracy")
    assert finds.score > always.score
    assert finds.right < always.right


def test_rates_are_kept_with_what_was_tried_and_read_back() -> None:
    found, tried = climbed(peak(10.0))
    rates = Rates({"10": {"fine_tune": entry(found, tried)}}, default=2.0)
    assert rates.scale(10, "fine_tune") == 10.0
    assert set(rates.tried(10, "fine_tune")) == set(tried)
    assert rates.content["10"]["fine_tune"]["tried"]["10"] == {"right": 100, "of": FEW_IMAGES, "log_loss": 1.0}
    assert (rates.scale(100, "fine_tune"), rates.tried(100, "fine_tune")) == (2.0, ())


def test_inherited_rates_are_those_of_the_same_size_or_of_the_largest() -> None:
    rates = Rates({str(size): {"fine_tune": entry(scale, {})} for size, scale in ((10, 3.0), (100, 10.0))})
    taken = inherited(rates, (10, 0), ("fine_tune",))
    assert {size: taken[size]["fine_tune"]["lr_scale"] for size in taken} == {"10": 3.0, "0": 10.0}
