"""Predictions and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.strategies import Metric

Probabilities = NDArray[np.float64]

CALIBRATION_BINS = 15  # of equal width, as Guo et al. (2017) use
UNEVEN = 1.5  # times the smallest class of the test images: where the largest is over it, plain accuracy misleads


@dataclass(frozen=True)
class Metrics:
    """What predictions on one set of images are worth; accuracies are fractions."""

    accuracy: float
    balanced_accuracy: float  # mean recall over the classes that occur
    log_loss: float  # nats
    ece: float  # expected calibration error, a fraction


def judge_by(test_class_counts: Sequence[int]) -> Metric:
    """The accuracy that decides unless a study names one, by how many test images each class has."""
    return "balanced_accuracy" if max(test_class_counts) > UNEVEN * min(test_class_counts) else "accuracy"


def predict(forward: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> Tensor:
    """Logits [N, classes] in float32 of all images in `batches`; the caller has set evaluation mode."""
    with torch.inference_mode():
        return torch.cat([forward(batch).float() for batch in batches])


def loss_and_accuracy(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy in nats and the fraction of images whose class is predicted."""
    loss = F.cross_entropy(logits, labels)
    return loss.item(), (logits.argmax(1) == labels).double().mean().item()


def probabilities(logits: Tensor) -> Probabilities:
    """Softmax of logits [N, classes], in double precision."""
    result: Probabilities = logits.double().softmax(1).cpu().numpy()
    return result


def uniform(images: int, classes: int) -> Probabilities:
    """What a diverged run predicts: every class alike, which makes class 0 the predicted one."""
    return np.full((images, classes), 1 / classes)


def metrics(predicted: Probabilities, labels: NDArray[np.int64]) -> Metrics:
    """Judge predicted probabilities [N, classes] against labels [N]. Raises ValueError where they don't match."""
    images, classes = predicted.shape
    if labels.shape != (images,):
        raise ValueError(f"{images} predictions for {labels.shape} labels")
    chosen = predicted.argmax(1)
    of_class = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[chosen == labels], minlength=classes)
    recall = hits[of_class > 0] / of_class[of_class > 0]
    right = predicted[np.arange(images), labels]
    return Metrics(
        accuracy=float((chosen == labels).mean()),
        balanced_accuracy=float(recall.mean()),
        log_loss=float(-np.log(np.maximum(right, np.finfo(np.float64).tiny)).mean()),
        ece=_calibration_error(predicted.max(1), chosen == labels),
    )


def _calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    """Mean gap between confidence and accuracy over bins of confidence, weighted by images (Guo et al., 2017)."""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    count = np.bincount(bins, minlength=CALIBRATION_BINS)
    gap = np.bincount(bins, confidence, CALIBRATION_BINS) - np.bincount(bins, correct, CALIBRATION_BINS)
    return float(np.abs(gap).sum() / count.sum())
