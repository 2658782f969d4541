"""Other machines and places: no affinity, no fork, another locale, no git, a repository that is another's.

FAULTS.md 39, 44 and 46, and that none of it, nor company, changes a byte of a run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.stages import command
from tests.faults.tiny_study import ALL_STAGES, Nursery, left_by
from tests.test_end_to_end import PARAMS, ROOT, SEVERAL, make_project, manifest, run_bytes, stored_runs

faults = pytest.mark.faults
linux = pytest.mark.skipif(sys.platform != "linux", reason="injects as Linux does")
FINE_TUNE = "results/tiny/final/fine_tune"
# Text that neither ASCII nor Latin-1 has.
NOTED = PARAMS.replace("name: squares", "name: Käfer 甲虫").replace(
    "squares that a test has drawn", "drawn − by a test ×"
)


@pytest.fixture(scope="module")
def whole(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, trained in forked processes under UTF-8."""
    folder = make_project(tmp_path_factory.mktemp("whole") / "project")
    (folder / "params.yaml").write_text(NOTED, encoding="utf-8")
    nursery.run(folder, *ALL_STAGES)
    return folder


@pytest.fixture
def study(whole: Path, tmp_path: Path) -> Path:
    """A copy of it without runs and tables."""
    shutil.copytree(whole, tmp_path / "project")
    for place in ("results/tiny/final", "results/tiny/sweep", "reports"):
        shutil.rmtree(tmp_path / "project" / place)
    return tmp_path / "project"


def of_fine_tune(folder: Path) -> Mapping[str, bytes]:
    return {name: content for name, content in run_bytes(folder).items() if name.startswith(FINE_TUNE)}


def start(folder: Path, *stages: str, **environment: str) -> subprocess.Popen[bytes]:
    """Stages in a Python of their own."""
    return subprocess.Popen(
        [sys.executable, "-c", SEVERAL, *(f"pipeline.stages.{stage}" for stage in stages)],
        cwd=folder, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(process: subprocess.Popen[bytes]) -> str:
    """What it said until its end, which must be a good one."""
    said = process.communicate()[0].decode("utf-8", errors="replace")
    assert process.returncode == 0, said
    return said


# --- what others lack, and company ----------------------------------------------------------------------------------


@faults
def test_a_fresh_process_beside_others_without_affinity_or_fork_gives_the_same_bytes(study: Path, whole: Path) -> None:
    lacking = study / "lacking"
    lacking.mkdir()
    (lacking / "sitecustomize.py").write_text("import os\ndel os.sched_getaffinity\n", encoding="utf-8")
    path = f"{lacking}{os.pathsep}{study}"
    spawned = start(
        study, "train tiny fine_tune", THAW_START_METHOD="spawn", PYTHONPATH=path, PYTHONHASHSEED="1", THAW_WORKERS="2"
    )
    beside = start(study, "train tiny feature_extraction", PYTHONHASHSEED="2", THAW_WORKERS="1", OMP_NUM_THREADS="2")
    ended(spawned)
    ended(beside)
    again = run_bytes(study)
    expected = run_bytes(whole)
    assert len(stored_runs(study / FINE_TUNE)) == 4
    assert again
    assert again == {name: expected[name] for name in again}
    shutil.rmtree(study / "results/tiny/final")
    ended(start(study, "train tiny fine_tune", PYTHONHASHSEED="3", THAW_WORKERS="1"))  # alone, in one process
    assert run_bytes(study) == of_fine_tune(whole)


# --- another locale -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["C", "Latin-1"])
def locale(request: pytest.FixtureRequest, tmp_path: Path) -> Mapping[str, str]:
    """An environment whose text is not UTF-8, and in which Python is kept from making it so."""
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    if request.param == "C":
        return {**plain, "LC_ALL": "C"}
    made = subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", tmp_path / "en_US.ISO-8859-1"],
        capture_output=True, text=True, check=False,
    ) if shutil.which("localedef") else None  # fmt: skip
    if made is None or made.returncode:
        pytest.skip("no localedef that makes a Latin-1 locale")
    return {**plain, "LC_ALL": "en_US.ISO-8859-1", "LOCPATH": str(tmp_path)}


@faults
@linux
def test_another_locale_reads_and_writes_the_same_bytes(locale: Mapping[str, str], study: Path, whole: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import locale; print(locale.getpreferredencoding(False))"],
        env={**os.environ, **locale}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "utf" not in told.stdout.lower()
    shutil.rmtree(study / "data")
    said = ended(start(study, *ALL_STAGES, **locale, THAW_WORKERS="2"))
    assert "Traceback" not in said
    assert left_by(study) == left_by(whole)
    for name in ("data/tiny/card.json", "data/tiny/index.csv", "reports/tiny/provenance.json"):
        assert (study / name).read_text(encoding="utf-8")
    assert "Käfer 甲虫" in (study / "data/tiny/card.json").read_text(encoding="utf-8")


# --- no git, and another's repository -------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    named = ("-c", "user.name=t", "-c", "user.email=t@t")
    return subprocess.run(
        ["git", *named, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def within_another(tmp_path: Path) -> Path:
    """Thaw's files, unpacked inside a repository of something else."""
    git(tmp_path, "init", "-q")
    (tmp_path / "other.txt").write_text("something else", encoding="utf-8")
    git(tmp_path, "add", "other.txt")
    git(tmp_path, "commit", "-qm", "another's")
    inner = tmp_path / "thaw"
    inner.mkdir()
    for name in ("Makefile", "params.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, inner)
    return inner


def test_the_commit_of_another_repository_is_never_recorded(
    within_another: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THAW_COMMIT", raising=False)
    monkeypatch.chdir(within_another)
    assert command.commit() == "unknown"
    monkeypatch.setenv("THAW_COMMIT", "told")
    assert command.commit() == "told"
    git(within_another, "init", "-q")
    git(within_another, "add", "params.yaml")
    git(within_another, "commit", "-qm", "Thaw's own")
    assert command.commit() == git(within_another, "rev-parse", "HEAD")
    (within_another / "params.yaml").write_text("active: []\n", encoding="utf-8")
    assert command.commit() == git(within_another, "rev-parse", "HEAD") + "-dirty"


@faults
def test_without_git_and_inside_another_repository_runs_are_made_and_have_no_commit(
    study: Path, whole: Path, nursery: Nursery
) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}-dirty", commits(whole).pop())
    nursery.run(study, "train tiny fine_tune", before="os.environ['PATH'] = '/nowhere'")
    assert commits(study) == {"unknown"}
    shutil.rmtree(study / FINE_TUNE)
    shutil.rmtree(study / ".git")
    git(study.parent, "init", "-q")
    (study.parent / "other.txt").touch()
    git(study.parent, "add", "other.txt")
    git(study.parent, "commit", "-qm", "another's")
    nursery.run(study, "train tiny fine_tune")
    assert commits(study) == {"unknown"}
    assert run_bytes(study) == of_fine_tune(whole)


def commits(folder: Path) -> set[str]:
    return {manifest(file)["provenance"]["commit"] for file in stored_runs(folder / FINE_TUNE)}
