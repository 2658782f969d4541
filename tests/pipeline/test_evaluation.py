"""Metrics by known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from pipeline import drift, evaluation
from pipeline.backbones import build


def test_metrics_equal_an_independent_implementation() -> None:
    generator = np.random.default_rng(0)
    predicted = generator.dirichlet(np.ones(4), 200)
    labels = generator.choice(4, 200, p=[0.6, 0.2, 0.15, 0.05])
    mine = evaluation.metrics(predicted, labels)
    chosen = predicted.argmax(1)
    assert mine.accuracy == pytest.approx(reference.accuracy_score(labels, chosen))
    assert mine.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(labels, chosen))
    assert mine.log_loss == pytest.approx(reference.log_loss(labels, predicted))


def test_a_class_without_test_images_has_no_recall() -> None:
    predicted = np.eye(3)[[0, 0, 1, 2]]
    assert evaluation.metrics(predicted, np.array([0, 0, 1, 1])).balanced_accuracy == 0.75


def test_uneven_test_classes_are_judged_by_balanced_accuracy() -> None:
    assert evaluation.judge_by([950, 50]) == "balanced_accuracy"
    assert evaluation.judge_by([100, 150, 120]) == "accuracy"
    assert evaluation.judge_by([100, 151]) == "balanced_accuracy"


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    predicted = np.array([[0.9, 0.1]] * 10)
    labels = np.array([0] * 6 + [1] * 4)
    assert evaluation.metrics(predicted, labels).ece == pytest.approx(0.3)
    assert evaluation.metrics(np.array([[1.0, 0.0]] * 3), np.zeros(3, dtype=int)).ece == 0


def test_a_uniform_prediction_is_class_0_with_the_log_of_the_class_count() -> None:
    mine = evaluation.metrics(evaluation.uniform(4, 3), np.array([0, 1, 2, 2]))
    assert mine.accuracy == 0.25
    assert mine.balanced_accuracy == pytest.approx(1 / 3)
    assert mine.log_loss == pytest.approx(np.log(3))


def test_a_certain_and_wrong_prediction_stays_finite() -> None:
    assert np.isfinite(evaluation.metrics(np.array([[1.0, 0.0]]), np.array([1])).log_loss)


def test_predictions_and_labels_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="3 predictions"):
        evaluation.metrics(np.full((3, 2), 0.5), np.array([0, 1]))


def test_drift_is_the_relative_distance_of_each_group() -> None:
    model = build("efficientnet_lite0", 2, "none", torch.Generator().manual_seed(0))
    start = drift.weights_of(model)
    assert set(drift.weight_distances(model, start).values()) == {0.0}
    with torch.no_grad():
        for weight in model.group("stage2").parameters():
            weight *= 3
    moved = drift.weight_distances(model, start)
    assert moved["stage2"] == pytest.approx(2)
    assert moved["stem"] == moved["head"] == 0
