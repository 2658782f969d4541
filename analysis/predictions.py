"""Predicted classes of the test images, and that they belong to the runs."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.checks import ROLE_FILES, TESTED_ROLES, WRITTEN, TablesError, cell_name

# Dimensions and kinds of what the file holds.
_ARRAYS = {"ids": (1, "U"), "labels": (1, "iu"), "fingerprints": (1, "U"), "predicted": (2, "iu"), "classes": (1, "U")}


@dataclass(frozen=True)
class Predictions:
    """Predicted classes of the test images: one row a run, one column an image."""

    ids: npt.NDArray[np.str_]  # [N]
    labels: npt.NDArray[np.integer[Any]]  # [N]
    fingerprints: npt.NDArray[np.str_]  # [M]
    predicted: npt.NDArray[np.integer[Any]]  # [M, N]
    classes: tuple[str, ...]

    def by(self, fingerprints: Sequence[str]) -> npt.NDArray[np.integer[Any]]:
        """The classes that these runs predict: [len(fingerprints), N]."""
        row = {str(name): i for i, name in enumerate(self.fingerprints)}
        return self.predicted[np.array([row[name] for name in fingerprints], dtype=np.intp)]

    def correct(self, fingerprints: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which test images these runs get right: [len(fingerprints), N]."""
        return np.asarray(self.by(fingerprints) == self.labels, dtype=np.bool_)

    def accuracies(self, fingerprints: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
        """Both accuracies of these runs, by column: the share of images they get right, and the mean over classes."""
        balanced = np.mean([*self.recalls(fingerprints).values()], axis=0)
        return {"test_accuracy": self.correct(fingerprints).mean(axis=1), "balanced_accuracy": balanced}

    def recalls(self, fingerprints: Sequence[str]) -> dict[int, npt.NDArray[np.float64]]:
        """By class, the share of its test images that each of these runs gets right; of classes that have some."""
        correct = self.correct(fingerprints)
        return {int(c): correct[:, self.labels == c].mean(axis=1) for c in np.unique(self.labels)}


def read_predictions(path: Path) -> Predictions:
    """The predictions of a study, in arrays of the right kind; raises TablesError."""
    if not path.is_file():
        raise TablesError(f"{path} does not exist; {WRITTEN}")
    try:
        with np.load(path, allow_pickle=False) as packed:
            arrays = {name: packed[name] for name in packed.files}
    except (BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
        raise TablesError(f"{path} cannot be read ({error}); {WRITTEN}") from error
    for name in _ARRAYS:
        if name not in arrays:
            raise TablesError(f"{path} has no array {name!r}; it should hold {', '.join(_ARRAYS)}")
    for name, (dimensions, kinds) in _ARRAYS.items():
        array = arrays[name]
        if array.ndim != dimensions or (array.size and array.dtype.kind not in kinds):
            right = f"{dimensions} of {'text' if kinds == 'U' else 'whole numbers'}"
            raise TablesError(f"{path}: {name} has {array.ndim} dimensions of {array.dtype}, and should have {right}")
    ids, labels, fingerprints, predicted, classes = (arrays[name] for name in _ARRAYS)
    return Predictions(ids, labels, fingerprints, predicted, tuple(map(str, classes)))


def check_predictions(
    predictions: Predictions, tables: Mapping[str, pd.DataFrame], provenance: Mapping[str, Any], folder: Path
) -> None:
    """Raises TablesError where predictions contradict themselves, the tables of runs (by role) or the provenance."""
    for problem in _contradictions(predictions, provenance["dataset"]):
        raise TablesError(f"{folder / 'predictions.npz'}{problem}")
    tested = pd.concat([tables[role].assign(file=ROLE_FILES[role]) for role in TESTED_ROLES])
    for problem in _not_of_the_runs(predictions, tested, folder):
        raise TablesError(problem)


def _contradictions(predictions: Predictions, dataset: Mapping[str, Any]) -> Iterator[str]:
    labels, predicted, classes = predictions.labels, predictions.predicted, list(predictions.classes)
    images = len(predictions.ids)
    if labels.shape != (images,):
        yield f" has {len(labels)} labels for {images} ids; there should be one an id"
    if len(set(predictions.ids.tolist())) != images:
        yield " holds a test image twice; every id should stand there once"
    shape = (len(predictions.fingerprints), images)
    if predicted.shape != shape:
        which = "a row a fingerprint, a column an id"
        yield f": predicted has the shape {predicted.shape}, and should have {shape}: {which}"
    first: dict[str, npt.NDArray[Any]] = {}
    for name, row in zip(predictions.fingerprints, predicted, strict=True):
        if not np.array_equal(row, first.setdefault(str(name), row)):
            yield f" has two different rows for fingerprint {name}; a run predicts once"
    if classes != list(dataset["classes"]):
        yield f": the classes are {classes}, and should be {dataset['classes']}, as in provenance.json"
    used = [int(end) for a in (labels, predicted) if a.size for end in (a.min(), a.max())]
    for number in used:
        if not 0 <= number < len(classes):
            yield f": class {number} is used, and there are {len(classes)} classes from 0"
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    if images != dataset["test_images"] or counts != list(dataset["test_class_counts"]):
        known = f"{dataset['test_images']} ({dataset['test_class_counts']}): they should be the same"
        yield f" has {images} test images ({counts} by class); provenance.json has {known}"


def _not_of_the_runs(predictions: Predictions, tested: pd.DataFrame, folder: Path) -> Iterator[str]:
    path, known = folder / "predictions.npz", set(predictions.fingerprints.tolist())
    for strange in sorted(known - set(tested["fingerprint"])):
        yield f"{path}: no run has the fingerprint {strange}; every row should belong to a run"
    for _, run in tested[~tested["fingerprint"].isin(known)].iterrows():
        yield f"{path} has no predictions of {cell_name(run)} ({run['file']}); every run should have some"
    if tested.empty:
        return
    # Less than half an image: one in a balanced accuracy counts least where its class is largest.
    counts = np.bincount(predictions.labels)
    least = {"test_accuracy": 1 / counts.sum(), "balanced_accuracy": 1 / (np.count_nonzero(counts) * counts.max())}
    for column, exact in predictions.accuracies(tested["fingerprint"].tolist()).items():
        apart = np.abs(exact - tested[column].to_numpy()) > 0.5 * least[column]
        for worst in np.flatnonzero(apart):
            run = tested.iloc[worst]
            given = f"{folder / run['file']}: {cell_name(run)} has {column} {run[column]:g}"
            yield f"{given}, and predictions.npz gives {exact[worst]:.6g}: they should be the same"
