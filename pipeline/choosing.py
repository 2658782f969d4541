"""Choose a study of someone's images that fits into some time: sizes, seeds, pixels, epochs, rates, test images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import UserError
from pipeline.strategies import ALL
from pipeline.subsets import RESERVED_SHARE

SIZES = (5, 10, 20, 50, 100)  # of which a list takes the largest that time and images allow, and 10 beside it
PIXELS = (64, 96, 128, 160, 192, 224)
SEEDS = (5, 10)  # 5 are exploratory, 10 can be cited
EPOCHS = (10, 15, 20)
TESTED = (500, 1000, 2000)
# Of what draws may take of a class at most so much is drawn: where two seeds share half of it, nothing can be tested.
SHARE = 0.45
FEWEST = 4  # images of a class: fewer can't be split for tuning with something to learn on either side
FEWEST_STEPS, FEW_STEPS = 40, 300  # without tuning: with fewer nothing is learnt, or only at three times the rates
WATCHED = 100
SPARE = 0.9  # of the time: an estimate is none to the minute

# In which order the knobs are turned down until the time does, and up again where it then does for more.
DOWN = ("test_images", "seeds", *["resolution"] * 4, "per_class", "learning_rates", "per_class", "epochs") + (
    "resolution", "per_class", "epochs", "test_images",
) * 4  # fmt: skip
UP = ("learning_rates", "per_class", "epochs", "resolution", "seeds", "test_images")


class ChoosingError(UserError):
    """Images, or minutes, that are too few for any study."""


@dataclass(frozen=True)
class Images:
    """What a choice depends on."""

    pool: tuple[int, ...]  # that can be drawn, of each class
    test: tuple[int, ...]  # of each class
    side: int  # pixels of a usual image's shorter side


@dataclass(frozen=True)
class Choice:
    """The keys of a study that depend on images and time."""

    resolution: int
    per_class: tuple[int, ...]
    seeds: int
    epochs: int
    learning_rates: Literal["tuned", "textbook"] | float
    test_images: int | None

    def __str__(self) -> str:
        sizes = "all images" if self.per_class == (ALL,) else f"{' and '.join(map(str, self.per_class))} images a class"
        rates = {"tuned": "tuned rates", "textbook": "the textbook's rates"}.get(
            str(self.learning_rates), f"{self.learning_rates} times the textbook's rates"
        )
        tested = "" if self.test_images is None else f", {self.test_images} test images"
        return f"{sizes}, {self.seeds} seeds, {self.resolution} px, {self.epochs} epochs, {rates}{tested}"

    def keys(self) -> dict[str, Any]:
        """As params.yaml has them."""
        return {
            "resolution": self.resolution,
            "per_class": ["all"] if self.per_class == (ALL,) else list(self.per_class),
            "seeds": self.seeds,
            "epochs": self.epochs,
            "learning_rates": self.learning_rates,
            "watched": WATCHED,
            **({} if self.test_images is None else {"test_images": self.test_images}),
        }


def choose(images: Images, minutes: float, seconds: Callable[[Choice], float]) -> Choice:
    """The best study that takes at most `minutes`, where `seconds` tells what one takes.

    Raises ChoosingError where a class has too few images, and with the minutes of the smallest study where none fits.
    """
    knobs = _knobs(images)
    at = dict.fromkeys(knobs, 0)

    def fits(places: Mapping[str, int]) -> bool:
        return seconds(_choice(images, knobs, places)) <= SPARE * 60 * minutes

    for knob in DOWN:
        if fits(at):
            break
        at[knob] = min(at[knob] + 1, len(knobs[knob]) - 1)
    if not fits(at):
        least = math.ceil(seconds(_choice(images, knobs, at)) / SPARE / 60)
        raise ChoosingError(
            f"the smallest study of these images takes about {least} minutes here: give MINUTES={least}"
        )
    for knob in UP:
        while at[knob] and fits({**at, knob: at[knob] - 1}):
            at[knob] -= 1
    return _choice(images, knobs, at)


def best(images: Images) -> Choice:
    """What would be chosen if time were no matter."""
    knobs = _knobs(images)
    return _choice(images, knobs, dict.fromkeys(knobs, 0))


def reasons(choice: Choice, wish: Choice) -> list[str]:
    """Why a choice is what it is, in words."""
    said = []
    largest = max(choice.per_class)
    if largest == ALL:
        said.append("so few images that every run takes all of them")
    elif choice.per_class == wish.per_class:
        said.append("less than half of the smallest class is drawn, so that seeds draw different images")
    less = [
        f"{words} instead of {want}"
        for words, got, want in (
            (str(choice.test_images) + " test images", choice.test_images, wish.test_images or "all"),
            (f"{choice.seeds} seeds", choice.seeds, wish.seeds),
            (f"{choice.resolution} px", choice.resolution, wish.resolution),
            (f"{largest} a class", largest, max(wish.per_class)),
            (f"{choice.epochs} epochs", choice.epochs, wish.epochs),
            ("one scale for all rates", choice.learning_rates, "tuned ones"),
        )
        if got not in (want, None, "tuned")
    ]
    if less:
        said.append(f"for want of time: {', '.join(less)}")
    if choice.seeds < SEEDS[-1]:
        said.append(f"{choice.seeds} seeds are exploratory; {SEEDS[-1]} can be cited")
    return said


def _knobs(images: Images) -> dict[str, Sequence[Any]]:
    """What each key may be, from best to cheapest."""
    smallest = min(images.pool)
    if smallest < FEWEST:
        raise ChoosingError(
            f"the smallest class has {smallest} images to draw from, and at least {FEWEST} are needed; add some"
        )
    every = sum(images.pool)
    spared = min(WATCHED / every, RESERVED_SHARE)  # what is watched is drawn last
    fitting = [size for size in reversed(SIZES) if size <= SHARE * (1 - spared) * smallest]
    sizes = [(10, size) if size >= 50 else (size,) for size in fitting if size >= 10 or size == fitting[0]]
    rarest = sum(images.test) / min(images.test)  # so many test images have one of every class among them
    return {
        "test_images": [None, *(count for count in reversed(TESTED) if rarest <= count < sum(images.test))],
        "seeds": SEEDS[::-1],
        "resolution": [size for size in reversed(PIXELS) if size <= max(images.side, PIXELS[0])],
        "per_class": sizes or [(ALL,)],
        "learning_rates": ["tuned", "one scale"],
        "epochs": EPOCHS[::-1],
    }


def _choice(images: Images, knobs: Mapping[str, Sequence[Any]], at: Mapping[str, int]) -> Choice:
    given = {knob: levels[at[knob]] for knob, levels in knobs.items()}
    if given["learning_rates"] == "one scale":
        largest = max(given["per_class"])
        drawn = sum(images.pool) if largest == ALL else largest * len(images.pool)
        batches = math.ceil(drawn / 32)
        given["epochs"] = max(given["epochs"], math.ceil(FEWEST_STEPS / batches))
        given["learning_rates"] = 3.0 if given["epochs"] * batches < FEW_STEPS else "textbook"
    return Choice(**given)
