"""`make regress`: two commits of a project, by their committed tables or by training both."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.params import ParamsError
from pipeline.stages import regress
from pipeline.stages.regress import RegressError
from tests.analysis.conftest import Plan, write_tables
from tests.conftest import write_image_folder

ROOT = Path(__file__).parent.parent

PARAMS = """
active: [tiny]
studies:
  tiny:
    dataset: {folder: images, name: squares}
    backbone: efficientnet_lite0
    resolution: 32
    per_class: [3]
    seeds: 2
    epochs: 1
    learning_rates: textbook
    strategies: [feature_extraction, fine_tune]
    watched: 4
strategies:
  feature_extraction: {phases: [{share: 1, lr: {head: 1.0e-3}}]}
  fine_tune: {phases: [{share: 1, lr: {all: 1.0e-4}}]}
ablations: {}
"""


def commit(folder: Path) -> str:
    """Commit all there is; returns its name."""
    for arguments in (("add", "-A"), ("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "t")):
        subprocess.run(("git", *arguments), cwd=folder, check=True)
    done = subprocess.run(("git", "rev-parse", "HEAD"), cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository without a commit, in which this process is; `analysis` is found from it."""
    folder = tmp_path / "project"
    folder.mkdir()
    subprocess.run(("git", "init", "-q"), cwd=folder, check=True)
    (folder / "params.yaml").write_text(PARAMS, encoding="utf-8")
    (folder / ".gitignore").write_text("/images/\n/data/\n/.regress/\n__pycache__/\n", encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


def test_a_published_study_is_compared_by_its_committed_tables(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(epochs=2)
    worse = replace(plan, strategies={name: value - 0.02 for name, value in plan.strategies.items()})
    write_tables(project / "reports" / "quick", plan)
    base = commit(project)
    write_tables(project / "reports" / "quick", worse)
    head = commit(project)
    shutil.rmtree(project / "reports")  # what is committed counts
    with pytest.raises(SystemExit) as ended:
        regress.regress(base[:9], "quick")
    assert ended.value.code == 1
    assert "**Worse: `all strategies` at 100" in capfd.readouterr().out
    page = project / ".regress" / "quick.md"
    assert f"{head[:12]} against {base[:12]}" in page.read_text(encoding="utf-8")

    write_tables(project / "reports" / "quick", replace(plan, classes={"functional": 431, "defective": 220}))
    commit(project)
    with pytest.raises(SystemExit) as refused:
        regress.regress(base, "quick")
    assert refused.value.code == 2
    assert not page.exists()


def test_what_cannot_be_compared_is_refused_before_anything_is_trained(project: Path) -> None:
    (project / "pipeline").mkdir()
    version = project / "pipeline" / "training.py"
    version.write_text("NUMERICS_VERSION = 1  # the first\n", encoding="utf-8")
    first = commit(project)
    version.write_text("NUMERICS_VERSION = 2  # the second\n", encoding="utf-8")
    base = commit(project)
    (project / "params.yaml").write_text(PARAMS.replace("tiny", "new"), encoding="utf-8")
    with pytest.raises(RegressError, match="there is no commit 'nowhere'"):
        regress.regress("nowhere", "tiny")
    with pytest.raises(RegressError, match=r"study 'new' is not known at .*; it has tiny"):
        regress.regress(base, "new")
    with pytest.raises(ParamsError, match="tiny"):
        regress.regress(base, "tiny")
    with pytest.raises(RegressError, match="first edition"):
        regress.regress(first, "new")
    assert not any((project / ".regress").iterdir())


@pytest.mark.faults
def test_both_commits_are_trained_by_their_own_code_and_what_is_trained_stays(project: Path) -> None:
    for package in ("pipeline", "analysis"):
        shutil.copytree(ROOT / package, project / package, ignore=shutil.ignore_patterns("__pycache__"))
    write_image_folder(project / "images")
    base = commit(project)
    changed = PARAMS.replace("{share: 1, lr: {head: 1.0e-3}}", "{share: 1, lr: {head: 1.0e-2}}")
    (project / "params.yaml").write_text(changed, encoding="utf-8")

    def compare() -> str:
        arguments = (sys.executable, "-m", "pipeline.stages.regress", "HEAD", "tiny")
        done = subprocess.run(arguments, cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr  # 1 where the machine was busier the second time
        assert "with changes that are not committed" in done.stderr
        return done.stdout

    rows = {line.split("|")[1].strip(): line for line in compare().splitlines() if line.startswith("| `")}
    assert "equivalent (bit-equal)" in rows["`fine_tune`"]
    assert "bit-equal" not in rows["`feature_extraction`"]
    there = project / ".regress" / base[:12]
    assert (there / "params.yaml").read_text(encoding="utf-8") == PARAMS
    runs = {path: path.stat().st_mtime_ns for place in (there, project) for path in (place / "results").rglob("*.zip")}
    assert len(runs) == 2 * 2 * 2
    compare()
    assert {path: path.stat().st_mtime_ns for path in runs} == runs
