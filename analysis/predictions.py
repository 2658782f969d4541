"""Predicted classes of the test images, and that they belong to the runs."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.checks import ROLE_FILES, TESTED_ROLES, TablesError, cell_name


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
        correct = self.correct(fingerprints)
        recalls = [correct[:, self.labels == index].mean(axis=1) for index in np.unique(self.labels)]
        return {"test_accuracy": correct.mean(axis=1), "balanced_accuracy": np.mean(recalls, axis=0)}


def read_predictions(path: Path) -> Predictions:
    if not path.is_file():
        raise TablesError(f"{path} does not exist; stage collect writes it: run `dvc repro`")
    names = {
        "ids": (1, "U"),
        "labels": (1, "iu"),
        "fingerprints": (1, "U"),
        "predicted": (2, "iu"),
        "classes": (1, "U"),
    }
    try:
        with np.load(path, allow_pickle=False) as packed:
            arrays = {name: packed[name] for name in packed.files}
    except (BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
        raise TablesError(f"{path} cannot be read ({error}); stage collect writes it: run `dvc repro`") from error
    absent = [name for name in names if name not in arrays]
    if absent:
        raise TablesError(f"{path} has no array {absent[0]!r}; it should hold {', '.join(names)}")
    for name, (dimensions, kinds) in names.items():
        array = arrays[name]
        if array.ndim != dimensions or (array.size and array.dtype.kind not in kinds):
            right = f"{dimensions} of {'text' if kinds == 'U' else 'whole numbers'}"
            raise TablesError(f"{path}: {name} has {array.ndim} dimensions of {array.dtype}, and should have {right}")
    return Predictions(
        ids=arrays["ids"],
        labels=arrays["labels"],
        fingerprints=arrays["fingerprints"],
        predicted=arrays["predicted"],
        classes=tuple(str(name) for name in arrays["classes"]),
    )


def check_predictions(
    predictions: Predictions, tables: dict[str, pd.DataFrame], provenance: dict[str, Any], folder: Path
) -> None:
    path = folder / "predictions.npz"
    images = len(predictions.ids)
    if predictions.labels.shape != (images,):
        raise TablesError(f"{path} has {len(predictions.labels)} labels for {images} ids; there should be one an id")
    if len(set(predictions.ids.tolist())) != images:
        raise TablesError(f"{path} holds a test image twice; every id should stand there once")
    shape = (len(predictions.fingerprints), images)
    if predictions.predicted.shape != shape:
        raise TablesError(
            f"{path}: predicted has the shape {predictions.predicted.shape}, and should have {shape}: "
            "a row a fingerprint, a column an id"
        )
    first = {str(name): i for i, name in reversed(list(enumerate(predictions.fingerprints)))}
    for name, row in zip(predictions.fingerprints, predictions.predicted, strict=True):
        if not np.array_equal(row, predictions.predicted[first[str(name)]]):
            raise TablesError(f"{path} has two different rows for fingerprint {name}; a run predicts once")
    dataset = provenance["dataset"]
    if list(predictions.classes) != list(dataset["classes"]):
        raise TablesError(
            f"{path}: the classes are {list(predictions.classes)}, and should be {dataset['classes']}, as in "
            "provenance.json"
        )
    used = [int(end) for a in (predictions.labels, predictions.predicted) if a.size for end in (a.min(), a.max())]
    strangers = [number for number in used if not 0 <= number < len(predictions.classes)]
    if strangers:
        raise TablesError(
            f"{path}: class {strangers[0]} is used, and there are {len(predictions.classes)} classes from 0"
        )
    counts = np.bincount(predictions.labels, minlength=len(predictions.classes)).tolist()
    if images != dataset["test_images"] or counts != list(dataset["test_class_counts"]):
        raise TablesError(
            f"{path} has {images} test images ({counts} by class); provenance.json has {dataset['test_images']} "
            f"({dataset['test_class_counts']}): they should be the same"
        )
    known = set(predictions.fingerprints.tolist())
    tested = pd.concat([tables[role].assign(file=ROLE_FILES[role]) for role in TESTED_ROLES])
    strange = sorted(known - set(tested["fingerprint"]))
    if strange:
        raise TablesError(f"{path}: no run has the fingerprint {strange[0]}; every row should belong to a run")
    for _, run in tested.iterrows():
        if run["fingerprint"] not in known:
            whose = f"{cell_name(run)} ({run['file']})"
            raise TablesError(f"{path} has no predictions of {whose}; every run should have some")
    if tested.empty:
        return
    # Less than half an image: one in a balanced accuracy counts least where its class is largest.
    least = {"test_accuracy": 1 / images, "balanced_accuracy": 1 / (np.count_nonzero(counts) * max(counts))}
    for column, exact in predictions.accuracies(tested["fingerprint"].tolist()).items():
        apart = np.abs(exact - tested[column].to_numpy()) > 0.5 * least[column]
        if apart.any():
            worst = int(np.argmax(apart))
            run = tested.iloc[worst]
            raise TablesError(
                f"{folder / run['file']}: {cell_name(run)} has {column} {run[column]:g}, and "
                f"predictions.npz gives {exact[worst]:.6g}: they should be the same"
            )
