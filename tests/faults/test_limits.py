"""Too little memory, a full disk, no right to write, numbers that run away, a batch of one image.

FAULTS.md 14, 15, 18, 19, 43 and 45, each injected for real into the stages of a study.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis import tables
from pipeline.files import PARTIAL
from tests.faults.tiny_study import ALL_STAGES, BEFORE_TRAINING, NOBODY, Nursery, left_by, small_disk
from tests.test_end_to_end import PARAMS, make_project, run_bytes, stored_runs

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform != "linux", reason="injects as Linux does")]

ONE_WORKER = "os.environ['THAW_WORKERS'] = '1'\n"


@pytest.fixture(scope="module")
def unbroken(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study as it is where nothing goes wrong."""
    folder = make_project(tmp_path_factory.mktemp("unbroken") / "project")
    nursery.run(folder, *ALL_STAGES)
    return folder


@pytest.fixture
def study(unbroken: Path, tmp_path: Path) -> Path:
    """A copy of the study, prepared and collected, without a run."""
    folder = tmp_path / "project"
    shutil.copytree(unbroken, folder)
    for role in ("final", "sweep"):
        shutil.rmtree(folder / "results" / "tiny" / role)
    return folder


# --- memory ---------------------------------------------------------------------------------------------------------

LARGE = PARAMS.replace("resolution: 32", "resolution: 320")

LIMITED = """
import resource
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (400 << 20),) * 2)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_that_runs_out_is_one_line_that_names_what_to_lower_and_no_run_is_changed_by_itself(
    nursery: Nursery, study: Path, workers: int
) -> None:
    (study / "params.yaml").write_text(LARGE, encoding="utf-8")
    nursery.run(study, *BEFORE_TRAINING)
    said = nursery.refusal(study, "train tiny fine_tune", before=LIMITED + ONE_WORKER.replace("1", str(workers)))
    assert "error: out of memory on cpu in tiny fine_tune" in said
    assert "lower resolution (now 320) or batch_size (now 32) in params.yaml; nothing was changed by itself" in said
    assert not stored_runs(study / "results/tiny/final/fine_tune")


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group whose members together may take 900 MB."""
    for root, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / f"thaw-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(900 << 20), encoding="utf-8")
        except OSError:
            group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("no control group of one's own can be made here")


def test_a_worker_that_the_kernel_kills_for_want_of_memory_is_one_line_that_names_what_to_lower(
    nursery: Nursery, study: Path, small_group: Path
) -> None:
    (study / "params.yaml").write_text(LARGE, encoding="utf-8")
    nursery.run(study, *BEFORE_TRAINING)
    # The stage itself is spared, as it would be where it is the smaller one.
    joined = f"open('{small_group / 'cgroup.procs'}', 'w').write(str(os.getpid()))\n"
    spared = "os.register_at_fork(after_in_child=lambda: open('/proc/self/oom_score_adj', 'w').write('1000'))\n"
    said = nursery.refusal(study, "train tiny fine_tune", before=joined + spared)
    assert "error: a worker process was killed (signal 9), most likely for want of memory: lower THAW_WORKERS" in said
    assert not stored_runs(study / "results/tiny/final/fine_tune")


# --- a full disk ----------------------------------------------------------------------------------------------------


def enlarge(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=10m", place], check=True)


def test_a_disk_that_fills_up_with_runs_ends_training_and_the_next_one_goes_on_to_the_same_bytes(
    nursery: Nursery, study: Path, unbroken: Path
) -> None:
    shutil.rmtree(study / "results")
    with small_disk(study / "results", "56k"):
        nursery.run(study, "tune tiny")
        said = nursery.refusal(study, "train tiny fine_tune", "sweep tiny", before=ONE_WORKER)
        assert "No space left on device; " in said
        assert not list((study / "results").rglob(f"{PARTIAL}*"))
        kept = {path: path.stat().st_mtime_ns for path in (study / "results").rglob("[!.]*.zip")}
        assert kept
        enlarge(study / "results")
        nursery.run(study, *ALL_STAGES)
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        assert left_by(study) == left_by(unbroken)


def test_a_disk_that_fills_up_with_images_is_one_line_and_leaves_no_partial_file(nursery: Nursery, study: Path) -> None:
    shutil.rmtree(study / "data")
    with small_disk(study / "data", "64k"):
        assert "No space left on device" in nursery.refusal(study, "prepare tiny")
        assert not list((study / "data").rglob(f"{PARTIAL}*"))
        assert "data/tiny/card.json is missing; `dvc repro` makes it" in nursery.refusal(study, "subset tiny")
        enlarge(study / "data")
        nursery.run(study, "prepare tiny", "subset tiny")


def test_a_disk_that_fills_up_with_tables_is_one_line_and_every_table_is_the_old_one_or_the_new(
    nursery: Nursery, unbroken: Path, tmp_path: Path
) -> None:
    study = tmp_path / "project"
    shutil.copytree(unbroken, study)
    expected = left_by(study)
    reports = study / "reports"
    shutil.rmtree(reports)
    with small_disk(reports, "24k"):
        said = nursery.refusal(study, "collect tiny")
        assert "error: reports/tiny/" in said
        assert "No space left on device" in said
        assert not list(reports.rglob(f"{PARTIAL}*"))
        with pytest.raises(tables.TablesError, match="does not exist; stage collect writes it: run `dvc repro`"):
            tables.load(reports / "tiny")
        enlarge(reports)
        nursery.run(study, "collect tiny")
        assert left_by(study) == expected


def test_a_disk_that_fills_up_with_pictures_is_one_line_and_leaves_every_page_as_it_was(
    unbroken: Path, tmp_path: Path
) -> None:
    report = [sys.executable, "-m", "analysis.report", "tiny", "--reports", tmp_path / "reports"]

    def pages() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tmp_path / "reports").rglob("*") if path.is_file()}

    with small_disk(tmp_path / "reports", "10m"):
        shutil.copytree(unbroken / "reports" / "tiny", tmp_path / "reports" / "tiny")
        subprocess.run(report, check=True)
        first = pages()
        for old in [*(tmp_path / "reports").rglob("*.md"), *(tmp_path / "reports").rglob("figures/*")]:
            old.write_text("an old one", encoding="utf-8")
        before = pages()
        used = shutil.disk_usage(tmp_path / "reports").used
        subprocess.run(["mount", "-o", f"remount,size={used + (64 << 10)}", tmp_path / "reports"], check=True)
        done = subprocess.run(report, check=False, capture_output=True, text=True)
        assert done.returncode == 1
        assert re.fullmatch(r"error: .*: No space left on device; the pages are as they were\n", done.stderr)
        assert pages() == before
        enlarge(tmp_path / "reports")
        subprocess.run(report, check=True)
        assert pages() == first


# --- no right to write ----------------------------------------------------------------------------------------------


def test_folders_that_another_user_owns_are_named_before_training_and_before_tables_are_written(
    nursery: Nursery, study: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    other = f"os.setgroups([])\nos.setgid({NOBODY})\nos.setuid({NOBODY})\n"
    with tempfile.TemporaryDirectory() as name:  # unlike pytest's, others may look into it
        Path(name).chmod(0o755)
        shutil.copytree(study, f"{name}/project")
        folder = Path(name) / "project"
        said = nursery.refusal(folder, "train tiny fine_tune", before=other)
        assert "error: can't write to results/tiny/final/fine_tune: Permission denied; make it writable before" in said
        assert not (folder / "results/tiny/final").exists()
        nursery.run(folder, "train tiny fine_tune")
        for table in (folder / "reports/tiny").iterdir():
            table.unlink()  # else it is missed that a table would lose its rows
        said = nursery.refusal(folder, "collect tiny", before=other)
        assert "error: reports/tiny/declared.csv: Permission denied; finished runs are kept" in said


# --- numbers that run away, and a batch of one ----------------------------------------------------------------------


def test_a_diverged_strategy_is_recorded_counted_and_the_study_goes_on(
    nursery: Nursery, study: Path, unbroken: Path
) -> None:
    text = PARAMS.replace("{share: 1, lr: {all: 1.0e-4}}", "{share: 1, lr: {all: 1.0e+20}}")
    (study / "params.yaml").write_text(text, encoding="utf-8")
    said = nursery.run(study, *ALL_STAGES)
    assert said.count(": diverged, ") == 4 + 4  # final runs, and the sweep's other scale
    with (study / "reports/tiny/runs.csv").open(encoding="utf-8") as file:
        status = {(row["strategy"], row["status"]) for row in csv.DictReader(file)}
    assert status == {("feature_extraction", "ok"), ("fine_tune", "diverged"), ("lda", "ok")}
    loaded = tables.load(study / "reports/tiny")
    assert loaded.missing_cells.empty
    assert set(loaded.predictions.by(loaded.runs.query("status == 'diverged'")["fingerprint"].tolist()).flat) == {0}
    others = {name: content for name, content in run_bytes(unbroken).items() if "fine_tune" not in name}
    assert others.items() <= run_bytes(study).items()
    before = {path: path.stat().st_mtime_ns for path in (study / "results").rglob("[!.]*.zip")}
    nursery.run(study, *ALL_STAGES)  # a diverged run is a run: it isn't trained again
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_batch_of_one_image_under_batch_norm_is_refused_before_anything_is_trained(
    nursery: Nursery, study: Path
) -> None:
    text = PARAMS.replace("[3, 6]", "[all]").replace("watched: 4", "watched: 4\n    batch_size: 2")
    text = text.replace("lr: {all: 1.0e-4}}]}\n  lda", "lr: {all: 1.0e-4}}], batch_norm: train}\n  lda")
    (study / "params.yaml").write_text(text, encoding="utf-8")
    next((study / "images/train/dark").iterdir()).unlink()  # 27 are left
    nursery.run(study, *BEFORE_TRAINING)
    said = nursery.refusal(study, "train tiny fine_tune")
    assert "error: fine_tune: 27 training images in batches of 2 leave a batch of one image" in said
    assert "use batch_size: 3" in said
    assert not list((study / "results/tiny/final").rglob("*.zip"))
    (study / "params.yaml").write_text(text.replace("batch_size: 2", "batch_size: 3"), encoding="utf-8")
    nursery.run(study, "train tiny fine_tune")
