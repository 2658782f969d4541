"""The run store: one whole file a run or none, the same bytes, packs read like loose files, one writer a folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline import runs
from pipeline.evaluation import Metrics
from pipeline.files import partial_of
from pipeline.runs import Provenance, RunStoreError, StoredRun
from pipeline.stages import command, pack, prune
from pipeline.strategies import Cell, Role
from pipeline.training import DriftRow, HistoryRow, Run

CELL = Cell("tiny", "final", "fine_tune", 10, 0.3, 4)
KEY = runs.fingerprint({"cell": 1})
PROVENANCE = Provenance(
    "abc", 2, "p", "w", "float32", "cpu", "2.14.1", "some CPU", 1, "3.11.7", {"numpy": "2"}, "python",
    "2026-01-01T00:00:00+00:00",
)  # fmt: skip
RUN = Run(
    CELL, "ok", 0.9, 0.8, Metrics(0.5, 0.5, 0.7, 0.1), 1.25, 10, 20,
    (HistoryRow(1, 1, "train", "loss", 0.1 + 0.2),), (DriftRow(1, "head", 1e-3),),
    np.array([0, 1, 1, 0], dtype=np.uint16),
)  # fmt: skip


def store(root: Path, run: Run = RUN, key: str = KEY, provenance: Provenance = PROVENANCE) -> Path:
    return runs.write(root, run, provenance, key, "ids")


def run_of(seed: int) -> tuple[Run, str]:
    """Some run of a seed, with its fingerprint."""
    predicted = np.random.default_rng(seed).integers(0, 10, 300).astype(np.uint16)
    return replace(RUN, cell=replace(CELL, seed=seed), predicted=predicted), runs.fingerprint({"seed": seed})


def store_seeds(root: Path, seeds: Iterable[int]) -> None:
    for seed in seeds:
        store(root, *run_of(seed))


def as_stored(root: Path, seed: int) -> bool:
    """Whether the run of a seed is read back exactly; False where it is missing."""
    run, key = run_of(seed)
    back = runs.read(root, run.cell, key)
    if back is None:
        return False
    assert replace(back.run, predicted=RUN.predicted) == replace(run, predicted=RUN.predicted)
    assert np.array_equal(back.run.predicted, run.predicted)
    assert (back.provenance, back.fingerprint, back.test_ids_sha256) == (PROVENANCE, key, "ids")
    return True


def members(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def files(root: Path) -> list[str]:
    return sorted(entry.name for entry in runs.folder(root, CELL).iterdir())


# --- one run --------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_exactly(tmp_path: Path) -> None:
    store_seeds(tmp_path, [4])
    assert as_stored(tmp_path, 4)
    assert not as_stored(tmp_path, 5)


def test_a_run_is_one_file_that_any_tool_opens(tmp_path: Path) -> None:
    file = store(tmp_path)
    assert file == tmp_path / "tiny" / "final" / "fine_tune" / f"10-a-class_x0.3_seed4_{KEY[:12]}.zip"
    assert files(tmp_path) == [file.name]
    assert list(members(file)) == [*runs.FILES, runs.MANIFEST]


def test_the_same_run_is_the_same_bytes(tmp_path: Path) -> None:
    assert store(tmp_path / "a").read_bytes() == store(tmp_path / "b").read_bytes()


def test_only_the_manifest_knows_names_machines_and_times(tmp_path: Path) -> None:
    one = members(store(tmp_path))
    twin = replace(RUN, cell=Cell("other", "sweep", "fine_tune_one_rate", 10, 1.0, 4), seconds=9.0)
    elsewhere = replace(PROVENANCE, device="another CPU", commit="def", started="2027-01-01T00:00:00+00:00")
    two = members(store(tmp_path, twin, provenance=elsewhere))
    assert {name for name in one if one[name] != two[name]} == {runs.MANIFEST}
    back = runs.read(tmp_path, twin.cell, KEY)
    assert back is not None
    assert (back.run.cell, back.run.seconds, back.provenance) == (twin.cell, 9.0, elsewhere)


def test_members_are_hashed_unpacked_since_zlibs_differ(tmp_path: Path) -> None:
    file = store(tmp_path)
    content = members(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    assert runs.read(tmp_path, CELL, KEY) is not None


def test_a_run_of_10_000_predictions_stays_within_some_kilobytes(tmp_path: Path) -> None:
    run = replace(RUN, predicted=np.random.default_rng(0).integers(0, 10, 10_000).astype(np.uint16))
    assert store(tmp_path, run).stat().st_size < 12_000


def test_a_run_under_anothers_name_is_missing(tmp_path: Path) -> None:
    file = store(tmp_path)
    other, key = run_of(5)
    shutil.copy(file, runs.path(tmp_path, other.cell, key))
    assert runs.read(tmp_path, other.cell, key) is None
    with zipfile.ZipFile(runs.path(tmp_path, other.cell, key), "w") as archive:
        archive.writestr("holiday.jpg", b"a zip of something else")
    assert runs.read(tmp_path, other.cell, key) is None
    store_seeds(tmp_path, [5])  # trained, it takes the place of what was there
    assert as_stored(tmp_path, 5)


@pytest.mark.parametrize("member", [*runs.FILES, runs.MANIFEST])
def test_a_run_without_one_of_its_members_is_missing(tmp_path: Path, member: str) -> None:
    file = store(tmp_path)
    content = members(file)
    with zipfile.ZipFile(file, "w") as archive:
        for name in content.keys() - {member}:
            archive.writestr(name, content[name])
    assert runs.read(tmp_path, CELL, KEY) is None


def test_a_run_whose_numbers_were_edited_is_missing(tmp_path: Path) -> None:
    file = store(tmp_path)
    content = members(file)
    content["summary.json"] = content["summary.json"].replace(b'"accuracy": 0.5', b'"accuracy": 0.9')
    assert content != members(file)
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    assert runs.read(tmp_path, CELL, KEY) is None


def test_a_run_of_another_fingerprint_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    store(tmp_path)
    new = runs.fingerprint({"cell": 2})
    store(tmp_path, key=new)
    assert runs.read(tmp_path, CELL, KEY) is not None
    assert runs.read(tmp_path, CELL, new) is not None


def test_fingerprints_differ_in_every_input_and_not_in_order() -> None:
    base = {"a": 1, "b": [1, 2], "c": {"d": 0.1}}
    same = {"c": {"d": 0.1}, "b": [1, 2], "a": 1}
    assert runs.fingerprint(base) == runs.fingerprint(same)
    for changed in ({**base, "a": 2}, {**base, "b": [2, 1]}, {**base, "c": {"d": 0.10001}}, {**base, "e": None}):
        assert runs.fingerprint(changed) != runs.fingerprint(base)


def test_only_partial_files_older_than_an_hour_are_swept(tmp_path: Path) -> None:
    place = store(tmp_path)
    new, old, folder = (partial_of(place) for _ in range(3))
    new.touch()
    old.touch()
    folder.mkdir()  # as the first edition left them
    for entry in (old, folder):
        os.utime(entry, (0, 0))
    runs.sweep_leftovers(tmp_path, "tiny")
    assert files(tmp_path) == sorted([new.name, place.name])


# --- packs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty run store that stages use."""
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    return tmp_path


def test_packed_runs_are_read_like_loose_ones_and_packing_again_merges(results: Path) -> None:
    store_seeds(results, range(3))
    pack.pack("tiny")
    assert files(results) == ["runs.zip"]
    assert all(as_stored(results, seed) for seed in range(3))
    assert not as_stored(results, 3)
    store_seeds(results, [3])
    pack.pack("tiny")
    assert files(results) == ["runs.zip"]
    assert all(as_stored(results, seed) for seed in range(4))


def test_the_same_runs_make_the_same_pack_whatever_the_order(results: Path, tmp_path: Path) -> None:
    store_seeds(tmp_path, [2, 0])
    pack.pack("tiny")
    store_seeds(tmp_path, [1])
    pack.pack("tiny")
    store_seeds(tmp_path / "other", [0, 1, 2])
    runs.pack(runs.folder(tmp_path / "other", CELL))
    one, other = (runs.folder(root, CELL) / runs.PACK for root in (tmp_path, tmp_path / "other"))
    assert one.read_bytes() == other.read_bytes()
    before = one.stat()
    pack.pack("tiny")  # nothing new
    assert one.stat() == before


def test_a_loose_run_beats_a_packed_one_and_takes_its_place_when_packed(results: Path) -> None:
    run, key = run_of(0)
    store(results, run, key)
    pack.pack("tiny")
    store(results, replace(run, seconds=99.0), key)
    for _ in range(2):
        back = runs.read(results, run.cell, key)
        assert back is not None
        assert back.run.seconds == 99.0
        pack.pack("tiny")
    assert files(results) == ["runs.zip"]


def test_a_damaged_loose_run_hides_no_packed_one(results: Path) -> None:
    store_seeds(results, [0])
    pack.pack("tiny")
    run, key = run_of(0)
    store(results, run, key).write_bytes(b"half of a zi")
    assert as_stored(results, 0)
    pack.pack("tiny")
    assert as_stored(results, 0)


def test_a_damaged_loose_run_is_not_packed_and_not_deleted(results: Path, caplog: pytest.LogCaptureFixture) -> None:
    store_seeds(results, [0, 1])
    damaged = runs.path(results, *_of(1))
    damaged.write_bytes(damaged.read_bytes()[:-40])
    pack.pack("tiny")
    assert f"{damaged.with_suffix('')} is damaged and not packed" in caplog.text
    assert files(results) == sorted(["runs.zip", damaged.name])
    store_seeds(results, [1])  # trained again
    pack.pack("tiny")
    assert files(results) == ["runs.zip"]
    assert as_stored(results, 1)


def test_a_pack_that_says_nothing_is_never_replaced(results: Path) -> None:
    store_seeds(results, [0])
    pack.pack("tiny")
    place = runs.folder(results, CELL) / runs.PACK
    whole = place.read_bytes()
    place.write_bytes(whole[:-10])
    assert not as_stored(results, 0)
    store_seeds(results, [1])
    with pytest.raises(RunStoreError, match=f"git checkout -- {place}"):
        pack.pack("tiny")
    assert as_stored(results, 1)
    place.write_bytes(whole)
    assert as_stored(results, 0)


def test_a_pack_is_opened_once_however_many_runs_are_read(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_seeds(results, range(20))
    pack.pack("tiny")
    opened: list[Path] = []
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        opened.append(path)
        return read_bytes(path)

    runs._opened.cache_clear()
    monkeypatch.setattr(Path, "read_bytes", counted)
    assert all(as_stored(results, seed) for seed in range(20))
    assert [path.name for path in opened if path.name == runs.PACK] == [runs.PACK]


def test_a_study_without_runs_cannot_be_packed(results: Path) -> None:
    with pytest.raises(RunStoreError, match="tinny holds no finished run to pack"):
        pack.pack("tinny")
    assert not list(results.iterdir())


def _of(seed: int) -> tuple[Cell, str]:
    run, key = run_of(seed)
    return run.cell, key


# --- pruning --------------------------------------------------------------------------------------------------------


@dataclass
class Declared:
    """As much of a workbench as pruning asks."""

    root: Path
    fingerprints: Mapping[Cell, str]
    study: SimpleNamespace

    def declared(self, role: Role) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.fingerprints if cell.role == role)

    def fingerprint(self, cell: Cell) -> str:
        return self.fingerprints[cell]

    def stored(self, cell: Cell) -> StoredRun | None:
        return runs.read(self.root, cell, self.fingerprints[cell])


@pytest.fixture
def declare(results: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run store whose study declares seeds 0 and 1."""
    bench = Declared(results, dict(_of(seed) for seed in (0, 1)), SimpleNamespace(name="tiny"))
    monkeypatch.setattr(prune, "Workbench", lambda study: bench)
    (results / "tiny").mkdir()
    (results / "tiny" / "rates.json").write_text("{}")
    return results


def test_pruning_removes_what_no_cell_declares_loose_or_packed_and_says_why(
    declare: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    old, other = (replace(PROVENANCE, **change) for change in ({"numerics_version": 1}, {"parameters_sha256": "q"}))
    store_seeds(declare, [0, 2])
    store(declare, RUN, runs.fingerprint({"numerics": 1}), old)
    pack.pack("tiny")
    store_seeds(declare, [1, 3])
    store(declare, replace(RUN, cell=replace(CELL, seed=1)), runs.fingerprint({"images": 1}))
    store(declare, replace(RUN, cell=replace(CELL, strategy="forgotten")), KEY, other)
    damaged = store(declare, replace(RUN, cell=replace(CELL, seed=9)))
    damaged.write_bytes(b"")
    prune.prune("tiny")
    assert all(as_stored(declare, seed) for seed in (0, 1))
    names = {run.name for run in runs.kept(runs.folder(declare, CELL))}
    assert names == {runs.path(declare, *_of(seed)).stem for seed in (0, 1)}
    assert not list(runs.folder(declare, replace(CELL, strategy="forgotten")).glob("*.zip"))
    for what, why in {
        "seed2_": "no such cell is declared",
        "seed3_": "no such cell is declared",
        "seed4_": "version 1 of the numerics, and it is 2 now",
        "forgotten": "other parameters of the study",
        "seed1_": "its cell is declared with another strategy or other images",
        "seed9_": "damaged",
    }.items():
        assert any(what in line and line.endswith(why) for line in caplog.messages), (what, caplog.messages)
    assert "tiny: 6 runs removed, 2 stay" in caplog.text
    prune.prune("tiny")
    assert "tiny: 0 runs removed, 2 stay" in caplog.text


def test_pruning_removes_the_run_folders_of_the_first_edition(declare: Path) -> None:
    store_seeds(declare, [0])
    old = runs.path(declare, *_of(1)).with_suffix("")
    old.mkdir()
    (old / "summary.json").write_text("{}")
    prune.prune("tiny")
    assert not old.exists()
    assert as_stored(declare, 0)


def test_pruning_empties_a_pack_of_nothing_but_undeclared_runs(declare: Path) -> None:
    other = replace(CELL, strategy="forgotten")
    store(declare, replace(RUN, cell=other))
    store_seeds(declare, [0])
    pack.pack("tiny")
    prune.prune("tiny")
    assert not list(runs.folder(declare, other).iterdir())
    assert as_stored(declare, 0)


def test_pruning_removes_nothing_where_no_declared_run_is_stored(declare: Path) -> None:
    store_seeds(declare, [2])
    with pytest.raises(RunStoreError, match="none is of the 2 declared cells"):
        prune.prune("tiny")
    assert as_stored(declare, 2)


@pytest.mark.parametrize("missing", ["results/tiny/rates.json", "data/tiny/card.json"])
def test_pruning_removes_nothing_where_it_cannot_be_told_what_is_declared(
    declare: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def unprepared(study: str) -> None:
        Path(missing).read_text(encoding="utf-8")

    if missing.startswith("results"):
        (declare / "tiny" / "rates.json").unlink()
    else:
        monkeypatch.setattr(prune, "Workbench", unprepared)
    store_seeds(declare, [0, 2])
    with pytest.raises(RunStoreError, match=rf"{Path(missing).name}: No such file .* Nothing was removed"):
        prune.prune("tiny")
    assert as_stored(declare, 2)


def test_pruning_waits_for_no_training_and_takes_nothing_from_it(declare: Path) -> None:
    store_seeds(declare, [0, 2])
    with runs.lock(declare, "tiny", "final", "fine_tune"), pytest.raises(RunStoreError, match="is being written by"):
        prune.prune("tiny")
    assert as_stored(declare, 2)


# --- one writer -----------------------------------------------------------------------------------------------------


def test_the_second_writer_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    said = rf"final/fine_tune is being written by process {os.getpid()} on \S+ since 20\d\d-\S+; wait for it or stop it"
    with (
        runs.lock(tmp_path, "tiny", "final", "fine_tune"),
        pytest.raises(RunStoreError, match=said),
        runs.lock(tmp_path, "tiny", "final", "fine_tune"),
    ):
        pass
    with runs.lock(tmp_path, "tiny", "final", "fine_tune"):  # free again
        pass


def test_two_strategies_of_a_study_train_side_by_side(tmp_path: Path) -> None:
    with runs.lock(tmp_path, "tiny", "final", "fine_tune"), runs.lock(tmp_path, "tiny", "final", "lp_ft"):
        pass
    assert sorted(file.name for file in (tmp_path / "tiny" / ".locks").iterdir()) == ["final-fine_tune", "final-lp_ft"]


def test_a_lock_held_on_another_machine_names_the_machine(tmp_path: Path) -> None:
    with runs.lock(tmp_path, "tiny", "final", "lp_ft"):
        place = tmp_path / "tiny" / ".locks" / "final-lp_ft"
        place.write_text(json.dumps({"process": 1, "host": "gpu-2", "since": "2026-01-01T00:00:00+00:00"}))
        with (
            pytest.raises(RunStoreError, match="process 1 on gpu-2 since 2026-01-01T00:00:00"),
            runs.lock(tmp_path, "tiny", "final", "lp_ft"),
        ):
            pass
        place.write_text("")  # between taking the lock and saying so
        with (
            pytest.raises(RunStoreError, match="is being written by another process"),
            runs.lock(tmp_path, "tiny", "final", "lp_ft"),
        ):
            pass


def test_an_output_that_cannot_be_written_is_found_before_training(tmp_path: Path) -> None:
    blocked = tmp_path / "results"
    blocked.write_text("a file where the folder should be")
    with (
        pytest.raises(RunStoreError, match="make it writable before training"),
        runs.lock(blocked, "tiny", "final", "lp_ft"),
    ):
        pass
