"""Nested, stratified draws per seed: what is trained on, split for tuning, and watched as validation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.randomness import numpy_stream
from pipeline.strategies import ALL

Indices = NDArray[np.int64]

RESERVED = 500  # pool images that draws touch last, so that validation can be watched on them
RESERVED_SHARE = 0.2  # and never more of the pool than this
TUNING_SHARE = 0.8  # of a pilot's drawn images are trained on; the rest chooses the rate


class SubsetError(ValueError):
    """More images asked for than there are."""


@dataclass(frozen=True)
class Pool:
    """The images that draws may take: their positions in the data set and their classes."""

    indices: Indices  # [n] positions in the prepared array
    labels: Indices  # [n] class of each
    classes: tuple[str, ...]
    sha256: str  # of the data set: with the seed, all that a draw depends on

    def of_class(self, label: int) -> Indices:
        """Positions of the images of one class, in ascending order."""
        members: Indices = self.indices[self.labels == label]
        return members


def reserved(pool: Pool) -> Indices:
    """The images that draws take last, natural class shares, in the order in which they are watched.

    They depend on the data set alone, so every study of the same data watches the same ones.
    """
    wanted = min(RESERVED, int(len(pool.indices) * RESERVED_SHARE))
    order = numpy_stream("reserved", pool.sha256).permutation(len(pool.indices))
    labels = pool.labels[order]
    # Every prefix has natural shares: image j of a class with n images stands at (j + 1/2) / n of the line.
    place = np.empty(len(order))
    for label in range(len(pool.classes)):
        members = np.flatnonzero(labels == label)
        place[members] = (np.arange(len(members)) + 0.5) / max(len(members), 1)
    return pool.indices[order[np.argsort(place, kind="stable")]][:wanted]


def draw(pool: Pool, per_class: int, seed: int) -> Indices:
    """The `per_class` images of each class that `seed` draws: [classes × per_class], class by class; or ALL, the pool.

    Nested: fewer images of the same seed are the first of each class. Raises SubsetError where a class is too small.
    """
    last = set(reserved(pool).tolist())
    chosen = []
    for label, name in enumerate(pool.classes):
        members = pool.of_class(label)
        if len(members) < per_class:
            raise SubsetError(
                f"per_class: {per_class} images of class '{name}' asked for, but only {len(members)} can be drawn"
            )
        shuffled = numpy_stream("draw", pool.sha256, seed, label).permutation(members)
        late = np.fromiter((index in last for index in shuffled), bool, len(shuffled))
        wanted = len(members) if per_class == ALL else per_class
        chosen.append(np.concatenate([shuffled[~late], shuffled[late]])[:wanted])
    return np.concatenate(chosen)


def tuning_split(drawn: Indices, labels: Indices) -> tuple[Indices, Indices]:
    """Split a draw, `labels` its classes, into what a pilot trains on and what judges it: 80/20 within each class.

    Raises SubsetError where a class would be left without an image on either side.
    """
    kept, held = [], []
    for label in dict.fromkeys(labels.tolist()):
        members = drawn[labels == label]
        cut = min(round(TUNING_SHARE * len(members)), len(members) - 1)
        if cut < 1:
            raise SubsetError(
                f"per_class: {len(members)} images a class can't be split for tuning; at least 2 are needed"
            )
        kept.append(members[:cut])
        held.append(members[cut:])
    return np.concatenate(kept), np.concatenate(held)


def watched(pool: Pool, draws: Iterable[Indices], at_most: int) -> Indices:
    """The pool images watched as validation: the first reserved ones that no draw took; empty where none is left."""
    taken: set[int] = set()
    for drawn in draws:
        taken.update(drawn.tolist())
    free = [index for index in reserved(pool).tolist() if index not in taken]
    return np.array(free[:at_most], dtype=np.int64)


def overlap(draws: list[Indices]) -> float:
    """The mean share of images that two draws have in common; 0 for a single draw."""
    sets = [set(drawn.tolist()) for drawn in draws]
    pairs = [(a, b) for i, a in enumerate(sets) for b in sets[:i]]
    return float(np.mean([len(a & b) / len(a) for a, b in pairs])) if pairs else 0.0
