"""The run store: one file set per cell, keyed by a fingerprint, written atomically, verified when read, locked."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation import Metrics
from pipeline.strategies import Cell
from pipeline.training import DriftRow, HistoryRow, Run

FILES = ("summary.json", "history.csv", "drift.csv", "predictions.npz")


class RunStoreError(RuntimeError):
    """A run store that is damaged, in use or can't be written."""


@dataclass(frozen=True)
class Provenance:
    """Where, when and with what a run was made; none of it changes the result."""

    commit: str
    numerics_version: int
    parameters_sha256: str  # of what all cells of the study share
    data_sha256: str
    weights_sha256: str  # empty where the weights are random
    device_kind: str  # cpu | cuda
    torch: str
    device: str
    threads: int
    python: str
    versions: Mapping[str, str]
    command: str
    started: str  # ISO 8601, UTC


@dataclass(frozen=True)
class StoredRun:
    """A run as read from the store."""

    run: Run
    provenance: Provenance
    fingerprint: str
    test_ids_sha256: str  # of the ids of the judged images, in order


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """SHA-256 over everything that can change a result, as canonical JSON."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, allow_nan=False).encode()).hexdigest()


def folder(root: Path, cell: Cell) -> Path:
    """Where the runs of a cell's strategy lie: results/<study>/<role>/<strategy>."""
    return root / cell.study / cell.role / cell.strategy


def _name(cell: Cell) -> str:
    return f"{cell.file_size}_x{cell.lr_scale:g}_seed{cell.seed}"


def path(root: Path, cell: Cell, key: str) -> Path:
    """The folder of one run; it exists exactly if the run is whole."""
    return folder(root, cell) / f"{_name(cell)}_{key[:12]}"


# --- writing --------------------------------------------------------------------------------------------------------


def write(root: Path, run: Run, provenance: Provenance, key: str, test_ids_sha256: str) -> Path:
    """Store a run: all files in a folder beside its place, synced, then renamed; then earlier runs of the cell go.

    Raises RunStoreError where the disk is full or read-only; runs stored before stay intact.
    """
    place = path(root, run.cell, key)
    contents = {
        "summary.json": _json(_summary(run)),
        "history.csv": _table(("phase", "epoch", "split", "metric", "value"), [asdict(row) for row in run.history]),
        "drift.csv": _table(("phase", "group", "weight_distance"), [asdict(row) for row in run.drift]),
        "predictions.npz": arrays(predicted=run.predicted),
    }
    manifest = {
        "fingerprint": key,
        "test_ids_sha256": test_ids_sha256,
        "seconds": round(run.seconds, 3),  # here: all other files depend on the fingerprint alone
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        "provenance": asdict(provenance),
    }
    partial = place.with_name(f".partial-{place.name}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, content in {**contents, "manifest.json": _json(manifest)}.items():
            _write_synced(partial / name, content)
        _sync_folder(partial)
        shutil.rmtree(place, ignore_errors=True)  # a damaged set of the same fingerprint
        partial.rename(place)
        _sync_folder(place.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunStoreError(f"can't store the run in {place}: {error.strerror}; earlier runs are intact") from error
    for old in place.parent.glob(f"{_name(run.cell)}_*"):
        if old != place:
            shutil.rmtree(old, ignore_errors=True)
    return place


def _summary(run: Run) -> dict[str, Any]:
    return {
        "cell": asdict(run.cell),
        "status": run.status,
        "train_accuracy": run.train_accuracy,
        "val_accuracy": run.val_accuracy,
        "judged": asdict(run.judged),
        "trainable_parameters": run.trainable_parameters,
        "total_parameters": run.total_parameters,
    }


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def arrays(**named: Any) -> bytes:
    """A compressed .npz without time stamps, so that the same arrays are the same bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in named.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(array), allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), content.getvalue(), zipfile.ZIP_DEFLATED
            )
    return file.getvalue()


def write_atomically(target: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, meets the old content or the new, never half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".partial-{target.name}")
    _write_synced(partial, content)
    partial.replace(target)
    _sync_folder(target.parent)


def _write_synced(target: Path, content: bytes) -> None:
    with target.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(target: Path) -> None:
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- reading --------------------------------------------------------------------------------------------------------


def read(root: Path, cell: Cell, key: str) -> StoredRun | None:
    """The stored run of a cell if it is whole; None where it is missing, damaged or of another fingerprint."""
    place = path(root, cell, key)
    try:
        manifest = json.loads((place / "manifest.json").read_bytes())
        contents = {name: (place / name).read_bytes() for name in FILES}
        whole = all(hashlib.sha256(contents[name]).hexdigest() == manifest["files"][name] for name in FILES)
        if not whole or manifest["fingerprint"] != key:
            return None
        run = _run(contents, manifest["seconds"])
        return StoredRun(run, Provenance(**manifest["provenance"]), key, manifest["test_ids_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a file that is missing, or of another make


def _run(contents: Mapping[str, bytes], seconds: float) -> Run:
    summary = json.loads(contents["summary.json"])
    judged = summary.pop("judged")
    judged["confusion"] = tuple(tuple(row) for row in judged["confusion"])
    with np.load(io.BytesIO(contents["predictions.npz"]), allow_pickle=False) as arrays:
        predicted = arrays["predicted"]
    history = tuple(
        HistoryRow(int(row["phase"]), int(row["epoch"]), row["split"], row["metric"], float(row["value"]))
        for row in csv.DictReader(io.StringIO(contents["history.csv"].decode()))
    )
    moved = tuple(
        DriftRow(int(row["phase"]), row["group"], float(row["weight_distance"]))
        for row in csv.DictReader(io.StringIO(contents["drift.csv"].decode()))
    )
    return Run(
        **{**summary, "cell": Cell(**summary["cell"])},
        judged=Metrics(**judged),
        seconds=seconds,
        history=history,
        drift=moved,
        predicted=predicted,
    )


def sweep_leftovers(root: Path, study: str) -> None:
    """Remove what a killed writer left of a run."""
    for partial in (root / study).glob("*/*/.partial-*"):
        shutil.rmtree(partial, ignore_errors=True)


# --- one writer -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(root: Path, study: str) -> Iterator[None]:
    """Be the only writer of a study's runs. Raises RunStoreError that says who is, or that nobody can be."""
    place = root / study / ".lock"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunStoreError(
            f"can't write to {place.parent}: {error.strerror}; make it writable before training"
        ) from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunStoreError(
                f"study '{study}' is being trained by process {file.read().strip() or 'unknown'} "
                f"(lock {place}); wait for it or stop it"
            ) from error
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
