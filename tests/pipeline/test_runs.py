"""The run store: whole or not there, the same bytes, one writer."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import runs
from pipeline.evaluation import Metrics
from pipeline.runs import Provenance, RunStoreError
from pipeline.strategies import Cell
from pipeline.training import DriftRow, HistoryRow, Run

CELL = Cell("tiny", "final", "fine_tune", 10, 0.3, 4)
KEY = runs.fingerprint({"cell": 1})
PROVENANCE = Provenance(
    "abc",
    1,
    "p",
    "d",
    "w",
    "cpu",
    "2.14.1",
    "some CPU",
    1,
    "3.11.7",
    {"numpy": "2"},
    "python",
    "2026-01-01T00:00:00+00:00",
)
RUN = Run(
    CELL, "ok", 0.9, 0.8, Metrics(0.5, 0.5, 0.7, 0.1, ((1, 1), (1, 1))), 1.25, 10, 20,
    (HistoryRow(1, 1, "train", "loss", 0.1 + 0.2),), (DriftRow(1, "head", 1e-3),),
    np.array([0, 1, 1, 0], dtype=np.uint16),
)  # fmt: skip


def stored(root: Path, run: Run = RUN, key: str = KEY) -> Path:
    return runs.write(root, run, PROVENANCE, key, "ids")


def test_what_is_written_is_read_back_exactly(tmp_path: Path) -> None:
    stored(tmp_path)
    back = runs.read(tmp_path, CELL, KEY)
    assert back is not None
    assert replace(back.run, predicted=RUN.predicted) == RUN
    assert np.array_equal(back.run.predicted, RUN.predicted)
    assert (back.provenance, back.fingerprint, back.test_ids_sha256) == (PROVENANCE, KEY, "ids")


def test_the_same_run_is_the_same_bytes(tmp_path: Path) -> None:
    one, other = stored(tmp_path / "a"), stored(tmp_path / "b")
    assert {f.name: f.read_bytes() for f in one.iterdir()} == {f.name: f.read_bytes() for f in other.iterdir()}


def test_a_run_stays_within_some_kilobytes(tmp_path: Path) -> None:
    run = replace(RUN, predicted=np.random.default_rng(0).integers(0, 10, 10_000).astype(np.uint16))
    assert sum(file.stat().st_size for file in stored(tmp_path, run).iterdir()) < 12_000


@pytest.mark.parametrize("file", [*runs.FILES, "manifest.json"])
def test_a_damaged_or_missing_file_makes_the_run_missing(tmp_path: Path, file: str) -> None:
    place = stored(tmp_path)
    content = (place / file).read_bytes()
    (place / file).write_bytes(content[:-3])
    assert runs.read(tmp_path, CELL, KEY) is None
    (place / file).unlink()
    assert runs.read(tmp_path, CELL, KEY) is None
    stored(tmp_path)  # trained again, it replaces the damaged one
    assert runs.read(tmp_path, CELL, KEY) is not None


def test_a_new_fingerprint_takes_the_place_of_the_old_run(tmp_path: Path) -> None:
    stored(tmp_path)
    new = runs.fingerprint({"cell": 2})
    stored(tmp_path, key=new)
    assert runs.read(tmp_path, CELL, KEY) is None
    assert runs.read(tmp_path, CELL, new) is not None
    assert len(list(runs.folder(tmp_path, CELL).iterdir())) == 1


def test_fingerprints_differ_in_every_input_and_not_in_order() -> None:
    base = {"a": 1, "b": [1, 2], "c": {"d": 0.1}}
    same = {"c": {"d": 0.1}, "b": [1, 2], "a": 1}
    assert runs.fingerprint(base) == runs.fingerprint(same)
    for changed in ({**base, "a": 2}, {**base, "b": [2, 1]}, {**base, "c": {"d": 0.10001}}, {**base, "e": None}):
        assert runs.fingerprint(changed) != runs.fingerprint(base)


def test_a_full_disk_is_an_error_and_earlier_runs_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    other = replace(RUN, cell=replace(CELL, seed=5))
    with pytest.raises(RunStoreError, match="No space left on device; earlier runs are intact"):
        stored(tmp_path, other)
    assert runs.read(tmp_path, CELL, KEY) is not None
    assert [entry.name for entry in runs.folder(tmp_path, CELL).iterdir()] == [runs.path(tmp_path, CELL, KEY).name]


def test_a_kill_in_the_middle_of_a_write_leaves_nothing_that_counts(tmp_path: Path) -> None:
    script = (
        "import os, signal, pathlib\nfrom pipeline import runs\n"
        "from tests.pipeline.test_runs import RUN, PROVENANCE, KEY\n"
        "runs._sync_folder = lambda target: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"runs.write(pathlib.Path({str(tmp_path)!r}), RUN, PROVENANCE, KEY, 'ids')\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -9
    assert runs.read(tmp_path, CELL, KEY) is None
    assert list(runs.folder(tmp_path, CELL).glob(".partial-*"))
    runs.sweep_leftovers(tmp_path, "tiny")
    assert not list(runs.folder(tmp_path, CELL).iterdir())


def test_the_second_writer_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    with (
        runs.lock(tmp_path, "tiny"),
        pytest.raises(RunStoreError, match=f"being trained by process {os.getpid()}"),
        runs.lock(tmp_path, "tiny"),
    ):
        pass
    with runs.lock(tmp_path, "tiny"):  # free again
        pass


def test_an_output_that_cannot_be_written_is_found_before_training(tmp_path: Path) -> None:
    blocked = tmp_path / "results"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(RunStoreError, match="make it writable before training"), runs.lock(blocked, "tiny"):
        pass
