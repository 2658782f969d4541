"""A study that fits into some minutes, chosen from counts alone: no image, no model, an invented speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import choosing
from pipeline.choosing import Choice, ChoosingError, Images
from pipeline.strategies import ALL

LEAVES = Images(pool=(150, 240), test=(50, 80), side=300)


def slow(per_image: float, images: Images = LEAVES) -> Callable[[Choice], float]:
    """Seconds of a study, where an image takes `per_image` in a step at 96 px, and tuning costs as five more seeds."""

    def seconds(choice: Choice) -> float:
        drawn = sum(sum(images.pool) if size == ALL else size * len(images.pool) for size in choice.per_class)
        cells = choice.seeds + (5 if choice.learning_rates == "tuned" else 0)
        seen = drawn * choice.epochs + min(choice.test_images or sum(images.test), sum(images.test)) / 4
        return cells * seen * per_image * (choice.resolution / 96) ** 2

    return seconds


def test_with_time_enough_everything_is_as_good_as_the_images_allow() -> None:
    choice = choosing.choose(LEAVES, 60, slow(1e-6))
    assert choice == choosing.best(LEAVES) == Choice(224, (10, 50), 10, 20, "tuned", None)
    assert choosing.reasons(choice, choice) == [
        "less than half of the smallest class is drawn, so that seeds draw different images"
    ]


def test_less_time_gives_fewer_seeds_first() -> None:
    choices = [choosing.choose(LEAVES, minutes, slow(0.004)) for minutes in (20, 10)]
    assert choices == [choosing.best(LEAVES), replace(choosing.best(LEAVES), seeds=5)]


def test_what_was_given_up_for_want_of_time_is_said() -> None:
    choice = choosing.choose(LEAVES, 1, slow(0.01))
    said = " ".join(choosing.reasons(choice, choosing.best(LEAVES)))
    assert f"{choice.resolution} px instead of 224" in said
    assert "5 seeds instead of 10" in said
    assert "one scale for all rates instead of tuned ones" in said
    assert "exploratory" in said


def test_without_tuning_there_are_steps_enough_to_learn_at_the_scale_that_is_given() -> None:
    choice = choosing.choose(LEAVES, 1, slow(0.01))
    assert choice.learning_rates == 3.0
    assert choice.epochs * -(-max(choice.per_class) * 2 // 32) >= choosing.FEWEST_STEPS


def test_what_fits_nowhere_is_refused_with_the_minutes_that_do() -> None:
    with pytest.raises(ChoosingError, match="MINUTES=") as caught:
        choosing.choose(LEAVES, 1, slow(1.0))
    minutes = int(str(caught.value).rpartition("=")[2])
    choosing.choose(LEAVES, minutes, slow(1.0))
    with pytest.raises(ChoosingError):
        choosing.choose(LEAVES, minutes - 1, slow(1.0))


def test_a_tiny_class_takes_all_images_and_a_tinier_one_is_refused() -> None:
    choice = choosing.choose(Images((6, 9), (2, 3), 40), 60, slow(1e-6))
    assert choice.per_class == (ALL,)
    assert choice.keys()["per_class"] == ["all"]
    assert choice.resolution == 64  # never below, however small the images are
    with pytest.raises(ChoosingError, match="smallest class has 3 images"):
        choosing.choose(Images((3, 90), (2, 3), 40), 60, slow(1e-6))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # of a loaded machine
@given(
    pool=st.lists(st.integers(4, 5000), min_size=2, max_size=20),
    test=st.integers(1, 900),
    side=st.integers(1, 4000),
    minutes=st.floats(0.5, 1e4),
    speed=st.floats(1e-6, 1e-1),
)
def test_every_choice_fits_the_minutes_and_the_images(
    pool: list[int], test: int, side: int, minutes: float, speed: float
) -> None:
    images = Images(tuple(pool), tuple(test + label for label in range(len(pool))), side)
    seconds = slow(speed, images)
    try:
        choice = choosing.choose(images, minutes, seconds)
    except ChoosingError:
        return
    assert seconds(choice) <= 60 * minutes
    spared = min(choosing.WATCHED, sum(pool) / 5) / sum(pool)
    assert choice.per_class == (ALL,) or max(choice.per_class) < min(pool) * (1 - spared) / 2
    assert choice.seeds in (5, 10)
    assert 64 <= choice.resolution <= max(side, 64)
    assert choice.test_images is None or choice.test_images >= sum(images.test) / min(images.test)
