"""Nested, stratified draws per seed: what is trained on, split for tuning, judged, and watched as validation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.files import shown
from pipeline.randomness import Keys, uniform
from pipeline.strategies import ALL
from pipeline.tuning import FEW_IMAGES, PILOT_SEEDS

Indices = NDArray[np.int64]

RESERVED_SHARE = 0.2  # never more of the pool than this is kept for watching
TUNING_SHARE = 0.8  # of a pilot's drawn images are trained on; the rest chooses the rate
FEWEST_PILOTS = 2


class SubsetError(UserError):
    """More images asked for than there are."""


@dataclass(frozen=True)
class Pool:
    """Some images of a data set: what draws may take, or what is judged."""

    indices: Indices  # [n] positions in the prepared array, ascending
    labels: Indices  # [n] class of each
    classes: tuple[str, ...]
    keys: Keys  # [n] what random numbers depend on, never the position

    def ranked(self, *stream: str | int) -> Indices:
        """Places 0 to n - 1 in the order of the images' random numbers in `stream`."""
        order: Indices = np.lexsort((self.keys, uniform(self.keys, 1, *stream)[:, 0]))
        return order

    def in_natural_shares(self, *stream: str | int) -> Indices:
        """All positions in a random order of which every beginning has the classes' shares."""
        order = self.ranked(*stream)
        labels = self.labels[order]
        # Image j of a class with n images stands at (j + 1/2) / n of the line.
        place = np.empty(len(order))
        for label in range(len(self.classes)):
            members = np.flatnonzero(labels == label)
            place[members] = (np.arange(len(members)) + 0.5) / max(len(members), 1)
        result: Indices = self.indices[order[np.lexsort((labels, place))]]
        return result


def reserved(pool: Pool, at_most: int) -> Indices:
    """The images that draws take last, natural class shares, in the order in which they are watched."""
    return pool.in_natural_shares("reserved")[: min(at_most, int(len(pool.indices) * RESERVED_SHARE))]


def draw(pool: Pool, per_class: int, seed: int, last: Indices) -> Indices:
    """The `per_class` images of each class that `seed` draws: [classes × per_class], class by class; or ALL, the pool.

    Those with the smallest random numbers, `last` after all others. Nested: fewer images of the same seed are the
    first of each class. Raises SubsetError where a class is too small.
    """
    order = pool.ranked("draw", seed)
    late = np.isin(pool.indices[order], last)
    order = np.concatenate([order[~late], order[late]])
    chosen = []
    for label, name in enumerate(pool.classes):
        members = pool.indices[order[pool.labels[order] == label]]
        if len(members) < per_class:
            raise SubsetError(
                f"per_class: {per_class} images of class '{shown(name)}' asked for, but only {len(members)} can be "
                "drawn"
            )
        chosen.append(members if per_class == ALL else members[:per_class])
    return np.concatenate(chosen)


def tuning_split(pool: Pool, drawn: Indices, seed: int) -> tuple[Indices, Indices]:
    """Split a pilot's draw into what it trains on and what judges it: 80/20 within each class.

    Keyed by the pilot's seed, since with ALL every pilot draws the same images and has to hold out others. Raises
    SubsetError where a class would be left without an image on either side.
    """
    at = np.searchsorted(pool.indices, drawn)
    labels, keys = pool.labels[at], pool.keys[at]
    order = np.lexsort((keys, uniform(keys, 1, "tuning split", seed)[:, 0]))
    judges = np.zeros(len(drawn), dtype=np.bool_)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        kept = min(round(TUNING_SHARE * len(members)), len(members) - 1)
        if kept < 1:
            raise SubsetError(
                f"per_class: {len(members)} images a class can't be split for tuning; at least 2 are needed"
            )
        judges[members[: len(members) - kept]] = True
    return drawn[~judges], drawn[judges]


def pilots(pool: Pool, per_class: int, last: Indices) -> tuple[int, ...]:
    """As many pilots' seeds as it takes to judge a rate on `FEW_IMAGES` distinct images, from two to ten.

    With 8 images, as two pilots of 10 a class once had on two classes, a rate is a coin toss.
    """
    seen = np.empty(0, dtype=np.int64)
    for count, seed in enumerate(PILOT_SEEDS, start=1):
        held = tuning_split(pool, draw(pool, per_class, seed, last), seed)[1]
        seen = np.union1d(seen, held)
        if count >= FEWEST_PILOTS and len(seen) >= FEW_IMAGES:
            return PILOT_SEEDS[:count]
    return PILOT_SEEDS


def judged(test: Pool, at_most: int | None) -> Indices:
    """The test images that are used, in ascending order: all, or `at_most` in natural shares, nested.

    Raises SubsetError where a class would be left without a test image.
    """
    chosen = test.in_natural_shares("test subset")[:at_most]
    present = set(test.labels[np.isin(test.indices, chosen)].tolist())
    for label, name in enumerate(test.classes):
        if label not in present:
            raise SubsetError(
                f"test_images: {at_most} in natural shares leave class '{shown(name)}' without one; give more"
            )
    return np.sort(chosen)


def watched(candidates: Indices, draws: Iterable[Indices], at_most: int) -> Indices:
    """The images watched as validation: the first candidates that no draw took; empty where none is left."""
    taken = np.concatenate([np.empty(0, dtype=np.int64), *draws])
    return candidates[~np.isin(candidates, taken)][:at_most]


def overlap(draws: Sequence[Indices], labels: Indices) -> float:
    """The mean share of a class' images that two draws have in common, of the class where it is highest.

    `labels` are the classes of the data set's images. 0 for a single draw. A mean over the classes would be no bound:
    a small class whose images return in every draw can carry the whole difference.
    """
    if len(draws) < 2:
        return 0.0
    times = np.bincount(np.concatenate(draws), minlength=len(labels))  # in how many draws an image is
    pairs = len(draws) * (len(draws) - 1)
    shares = []
    for label in np.unique(labels[draws[0]]):
        mine = times[labels == label]
        shares.append(float((mine * (mine - 1)).sum()) * len(draws) / (pairs * int(mine.sum())))
    return max(shares)
