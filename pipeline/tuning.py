"""How rates are chosen: a climb over a fixed grid of lr_scales, judged on pilot images alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from pipeline.strategies import ALL, Metric

if TYPE_CHECKING:  # reading parameters needs no arrays
    from numpy.typing import NDArray

GRID: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
PILOT_SEEDS = tuple(range(1000, 1010))  # never final ones
START = (0.3, 1.0, 3.0)
# Fewer pilot images than this, and the climb looks two steps beyond its best scale: with one step, 5 of 28 curves of
# the first edition's studies would have stopped at a local peak.
FEW_IMAGES = 200
# A neighbour that is less far behind, about a standard error on 400 images, may be the near side of a higher peak: of
# LP-FT's rates on EuroSAT, three times the first was behind by one image of 400, and ten times ahead by seven.
CLEAR = Fraction(1, 100)


@dataclass(frozen=True)
class Judged:
    """What the pilots of one scale got right."""

    right: int
    of: int  # images judged, over all pilots: one that two of them hold out counts twice
    distinct: int  # images among them
    score: Fraction  # of the accuracy that decides, exact: two scales tie only where they really do
    log_loss: float  # nats, mean over the images


def judge(pilots: Iterable[tuple[NDArray[Any], NDArray[Any], NDArray[Any], float]], metric: Metric) -> Judged:
    """Pool the pilots of one scale, each given as positions, labels and predicted classes [n] and its log loss."""
    import numpy as np

    positions, labels, predicted, losses = zip(*pilots, strict=True)
    images = sum(len(of) for of in labels)
    all_labels = np.concatenate(labels)
    hits = np.concatenate(predicted) == all_labels
    classes = np.unique(all_labels) if metric == "balanced_accuracy" else ()
    recalls = [Fraction(int(hits[all_labels == label].sum()), int((all_labels == label).sum())) for label in classes]
    right = int(hits.sum())
    score = sum(recalls, Fraction()) / len(recalls) if recalls else Fraction(right, images)
    distinct = len(np.unique(np.concatenate(positions)))
    return Judged(
        right, images, distinct, score, sum(loss * len(of) for loss, of in zip(losses, labels, strict=True)) / images
    )


def climb(results: Mapping[float, Judged]) -> tuple[float, tuple[float, ...]]:
    """The best scale on the way up from 1, and the scales that must be tried before it may count as the best.

    The way goes from scale 1 to the better neighbour until the best has, on both sides, a neighbour that is worse by
    `CLEAR` or two that are worse (two in any case where `FEW_IMAGES` don't judge), or the grid ends. Scales that lie
    off the way decide nothing, tried or not.
    """
    seen = {scale: results[scale] for scale in START if scale in results}
    if len(seen) < len(START):
        return 1.0, tuple(scale for scale in START if scale not in seen)
    while True:
        best = min(seen, key=lambda scale: (-seen[scale].score, seen[scale].log_loss, scale))
        at = GRID.index(best)
        around = []
        for side in (GRID[:at][::-1], GRID[at + 1 :]):
            behind = [seen[best].score - seen[scale].score for scale in side[:1] if scale in seen]
            reach = 2 if seen[best].distinct < FEW_IMAGES or min(behind, default=CLEAR) < CLEAR else 1
            around += [scale for scale in side[:reach] if scale not in seen]
        missing = tuple(scale for scale in around if scale not in results)
        if missing or not around:
            return best, missing
        seen |= {scale: results[scale] for scale in around}


@dataclass(frozen=True)
class Rates:
    """What rates.json says: `{size: {strategy: {lr_scale, tried: {scale: {right, of, log_loss}}}}}`."""

    content: Mapping[str, Mapping[str, Mapping[str, Any]]]
    default: float = 1.0  # where the file says nothing

    def scale(self, per_class: int, strategy: str) -> float:
        """The lr_scale that final runs of a size and strategy use."""
        return float(self.content.get(str(per_class), {}).get(strategy, {}).get("lr_scale", self.default))

    def tried(self, per_class: int, strategy: str) -> tuple[float, ...]:
        """The lr_scales that pilots have tried."""
        return tuple(float(scale) for scale in self.content.get(str(per_class), {}).get(strategy, {}).get("tried", ()))


def entry(scale: float, tried: Mapping[float, Judged]) -> dict[str, Any]:
    """One strategy of one size as rates.json keeps it."""
    return {
        "lr_scale": scale,
        "tried": {
            f"{at:g}": {"right": tried[at].right, "of": tried[at].of, "log_loss": round(tried[at].log_loss, 6)}
            for at in sorted(tried)
        },
    }


def inherited(rates: Rates, sizes: Sequence[int], strategies: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Another study's scales for these sizes and strategies: of the same size, else of its largest."""
    own = [int(size) for size in rates.content]
    largest = ALL if ALL in own else max(own)
    return {
        str(size): {name: entry(rates.scale(size if size in own else largest, name), {}) for name in strategies}
        for size in sizes
    }
