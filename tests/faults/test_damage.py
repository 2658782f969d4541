"""Damaged, missing, doubled, misaligned and mixed: prepared images, run files and tables of a collected study.

FAULTS.md 11 (of data) and 23 to 25. Tables are read as the report reads them.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import tables
from analysis.checks import SAME_EVERYWHERE
from analysis.tables import TablesError
from pipeline import runs
from pipeline.runs import MANIFEST, RunStoreError
from pipeline.stages import cells, collect, prepare
from pipeline.stages.noted import PreparedError
from tests.conftest import train_tiny
from tests.faults.test_weights import flip
from tests.test_end_to_end import PARAMS, run_bytes, stored_runs

pytestmark = pytest.mark.faults

FINAL = Path("results/tiny/final/fine_tune")
REPORTS = Path("reports/tiny")
TEXT = PARAMS.replace("fine_tune, lda]", "fine_tune]").replace("sweep: {fine_tune: [100, 1]}", "")


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose runs are all collected."""
    folder = tmp_path_factory.mktemp("collected") / "project"
    train_tiny(folder, TEXT, ("fine_tune", "feature_extraction"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        collect.collect("tiny")
    return folder


@pytest.fixture
def study(collected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is where stages run."""
    shutil.copytree(collected, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("THAW_WORKERS", "1")
    return tmp_path / "project"


def edit_run(file: Path, edit: Callable[[dict[str, bytes], dict[str, Any]], None]) -> None:
    """Change members and manifest of a run; its checksums follow, so that the file stays whole."""
    archive = runs._archive(file.read_bytes())
    assert archive is not None
    members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members[MANIFEST])
    edit(members, manifest)
    manifest["sha256"] = {name: runs._sha256(members[name]) for name in runs.FILES}
    file.write_bytes(runs._zip({**members, MANIFEST: json.dumps(manifest).encode()}))


# --- a flipped bit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["images.npy", "index.csv"])
def test_a_bit_that_flips_in_prepared_data_is_noticed_before_anything_is_trained_on_them(
    study: Path, name: str
) -> None:
    file = study / "data" / "tiny" / name
    whole, places = file.read_bytes(), random.Random(11)
    for _ in range(10):
        bit = places.randrange(8 * len(whole))
        flip(file, bit)
        with pytest.raises(PreparedError, match=rf"data/tiny/{name} .* delete it"):
            cells.Workbench("tiny")
        flip(file, bit)
    cells.Workbench("tiny")
    flip(file, 8 * len(whole) // 2)
    file.unlink()  # as the message says
    prepare.prepare("tiny")
    assert file.read_bytes() == whole
    cells.Workbench("tiny")


def test_a_look_at_untouched_images_takes_no_flipped_bit_for_right(study: Path) -> None:
    prepare.prepare("tiny")  # copied files have other times
    file = study / "data" / "tiny" / "images.npy"
    flip(file, 8 * file.stat().st_size - 1)
    (study / "images" / "train" / "dark" / ".hidden").touch()  # changes the card alone
    prepare.prepare("tiny")
    with pytest.raises(PreparedError, match=r"images\.npy does not hold"):
        cells.Workbench("tiny")


def test_a_run_file_with_a_flipped_bit_is_trained_again_and_is_what_it_was(study: Path) -> None:
    expected, places = run_bytes(study), random.Random(12)
    for strategy in ("fine_tune", "feature_extraction"):
        file = stored_runs(study / "results/tiny/final" / strategy)[0]
        while True:  # a bit that nobody reads does no harm
            bit = places.randrange(8 * file.stat().st_size)
            flip(file, bit)
            if runs._whole(runs._archive(file.read_bytes()), "") is None:
                break
            flip(file, bit)
        cells.complete("tiny", "final", strategy)
    assert run_bytes(study) == expected


def test_a_bit_that_flips_in_the_predictions_is_refused_or_changes_nothing(study: Path) -> None:
    file, places = REPORTS / "predictions.npz", random.Random(13)
    before = tables.load(REPORTS).predictions
    refused = 0
    for _ in range(60):
        bit = places.randrange(8 * file.stat().st_size)
        flip(file, bit)
        try:
            found = tables.load(REPORTS).predictions
        except TablesError:
            refused += 1
        else:
            assert np.array_equal(found.predicted, before.predicted)
            assert np.array_equal(found.ids, before.ids)
        flip(file, bit)
    assert refused


# --- missing, doubled -----------------------------------------------------------------------------------------------


def test_a_missing_run_is_named_by_collect_and_by_the_analysis(study: Path, caplog: pytest.LogCaptureFixture) -> None:
    next(FINAL.glob("6-a-class_x1_seed1_*")).unlink()
    with caplog.at_level(logging.WARNING):
        collect.collect("tiny")
    assert "missing: 1 final runs of fine_tune; `dvc repro` trains them" in caplog.text
    absent = tables.load(REPORTS).missing_cells
    assert absent[["role", "strategy", "per_class", "seed"]].to_numpy().tolist() == [["final", "fine_tune", 6, 1]]


@pytest.mark.parametrize("name", ["runs.csv", "declared.csv", "history.csv", "drift.csv"])
def test_a_doubled_cell_is_refused_with_its_name(study: Path, name: str) -> None:
    lines = (REPORTS / name).read_text(encoding="utf-8").splitlines()
    (REPORTS / name).write_text("\n".join([*lines, lines[-1]]) + "\n", encoding="utf-8")
    with pytest.raises(TablesError, match=rf"{name} holds this more than once: final .*, seed [01]"):
        tables.load(REPORTS)


# --- misaligned -----------------------------------------------------------------------------------------------------


def test_predictions_of_other_test_images_or_of_fewer_are_refused_by_collect(study: Path) -> None:
    file = stored_runs(FINAL)[0]
    whole, before = file.read_bytes(), (REPORTS / "predictions.npz").read_bytes()

    def of_others(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
        manifest["test_ids_sha256"] = "0" * 64

    def one_less(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
        members["predictions.npy"] = runs._array(np.load(io.BytesIO(members["predictions.npy"]))[1:])

    for edit, count in ((of_others, 12), (one_less, 11)):
        file.write_bytes(whole)
        edit_run(file, edit)
        with pytest.raises(RunStoreError, match=f"{count} predictions that don't belong to the 12 images"):
            collect.collect("tiny")
        assert (REPORTS / "predictions.npz").read_bytes() == before


def test_predictions_that_are_shifted_against_the_images_are_refused_by_the_analysis(study: Path) -> None:
    with np.load(REPORTS / "predictions.npz") as packed:
        arrays = {name: packed[name] for name in packed.files}
    shifted = {
        "the images": {"labels": np.roll(arrays["labels"], 3)},
        "the runs": {"predicted": np.roll(arrays["predicted"], 1, axis=0)},
        "one less": {"predicted": arrays["predicted"][:, 1:]},
    }
    for changed in shifted.values():
        np.savez_compressed(REPORTS / "predictions.npz", **{**arrays, **changed})
        with pytest.raises(TablesError, match=r"predictions\.npz"):
            tables.load(REPORTS)


# --- mixed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", SAME_EVERYWHERE)
def test_one_run_of_another_provenance_is_refused_and_the_field_is_named(study: Path, field: str) -> None:
    def strange(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
        manifest["provenance"][field] = 1 if field == "numerics_version" else "strange"

    edit_run(stored_runs(FINAL)[0], strange)
    collect.collect("tiny")
    with pytest.raises(TablesError, match=rf"the runs differ in {field} \(.*{'1' if 'num' in field else 'strange'}"):
        tables.load(REPORTS)


def test_another_commit_machine_or_hour_is_no_mixture(study: Path) -> None:
    def elsewhere(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
        manifest["provenance"] |= {"commit": "f" * 40, "device": "another CPU", "started": "2020-01-01T00:00:00+00:00"}

    edit_run(stored_runs(FINAL)[0], elsewhere)
    collect.collect("tiny")
    assert len(tables.load(REPORTS).provenance["environments"]) == 2
    with (REPORTS / "runs.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 8
