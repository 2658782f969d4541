"""What a user does: `dvc repro` on their own images, again, after a change, and after a kill."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import runs
from pipeline.tuning import GRID
from tests.conftest import write_image_folder

ROOT = Path(__file__).parent.parent

PARAMS = """
active: [tiny]
studies:
  tiny:
    dataset: {folder: images, name: squares}
    backbone: efficientnet_lite0
    resolution: 32
    per_class: [3, 6]
    seeds: 2
    epochs: 2
    learning_rates: textbook
    strategies: [feature_extraction, fine_tune, lda] # not the last: its stage has nothing to do
    watched: 4
    sweep: {fine_tune: [100, 1]}
strategies:
  feature_extraction: {phases: [{share: 1, lr: {head: 1.0e-3}}]}
  fine_tune: {phases: [{share: 1, lr: {all: 1.0e-4}}]}
  lda: {head: lda}
  last_block: {phases: [{share: 1, lr: {stage4: 1.0e-4, head: 1.0e-4}}]}
ablations: {}
about:
  tiny: {source: squares that a test has drawn}
"""


# Importing torch costs more than these stages do, so several run in one interpreter.
SEVERAL = """
import runpy, sys
for line in sys.argv[1:]:
    sys.argv = line.split()
    runpy.run_module(sys.argv[0], run_name="__main__")
"""


def command(*arguments: str, folder: Path, check: bool = True, workers: int = 1) -> subprocess.CompletedProcess[str]:
    python = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{python}{os.pathsep}{os.environ['PATH']}", "THAW_WORKERS": str(workers)}
    environment["MLFLOW_TRACKING_URI"] = "sqlite:///mlflow.db"
    done = subprocess.run(arguments, cwd=folder, env=environment, text=True, capture_output=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def run_stages(*lines: str, folder: Path, check: bool = True, workers: int = 1) -> subprocess.CompletedProcess[str]:
    """Run stages, each given as its name and its arguments, as `python -m` would, one after the other."""
    modules = [line if line.startswith("analysis.") else f"pipeline.stages.{line}" for line in lines]
    return command(sys.executable, "-c", SEVERAL, *modules, folder=folder, check=check, workers=workers)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with a tiny study of generated images."""
    return make_project(tmp_path / "project")


def make_project(folder: Path) -> Path:
    """Copy the project, in a repository of its own, with a tiny study of generated images."""
    folder.mkdir()
    for name in ("pipeline", "analysis", ".dvc", ".dvcignore", "dvc.yaml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "tmp", "cache"))
        else:
            shutil.copy(source, folder / name)
    (folder / "params.yaml").write_text(PARAMS)
    (folder / ".gitignore").write_text("/images/\n/data/\n/mlflow.db*\n")
    write_image_folder(folder / "images")
    for arguments in (
        ("init", "-q"),
        ("add", "-A"),
        ("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "t"),
    ):
        command("git", *arguments, folder=folder)
    return folder


def stored_runs(place: Path) -> list[Path]:
    """The finished runs of a strategy."""
    return sorted(place.glob("[!.]*_seed*.zip"))


def run_bytes(folder: Path) -> dict[str, bytes]:
    """Every member of every stored run but the manifests, which hold times."""
    contents = {}
    for file in (folder / "results").rglob("[!.]*_seed*.zip"):
        with zipfile.ZipFile(file) as run:
            for member in set(run.namelist()) - {"manifest.json"}:
                contents[f"{file.relative_to(folder)}/{member}"] = run.read(member)
    return contents


def manifest(file: Path) -> dict[str, Any]:
    """Where, when and with what a run was made."""
    with zipfile.ZipFile(file) as run:
        content: dict[str, Any] = json.loads(run.read("manifest.json"))
        return content


def ran(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The stages that a `dvc repro` has run."""
    return re.findall(r"Running stage '([\w@-]+)'", done.stdout + done.stderr)


@pytest.mark.slow
def test_dvc_repro_leaves_tables_a_report_and_mirrored_runs_and_repeats_only_what_changed(project: Path) -> None:
    command("dvc", "repro", folder=project, workers=2)
    reports = project / "reports" / "tiny"
    with (reports / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 2
    assert {row["status"] for row in rows} == {"ok"}
    assert len((reports / "sweep.csv").read_text().splitlines()) == 1 + 2 * 2 * 2
    assert (reports / "lr_suggestions.csv").read_text().splitlines()[1:] == []  # the study asks for no range test
    assert json.loads((project / "results" / "tiny" / "rates.json").read_text()) == {
        size: {name: {"lr_scale": 1.0, "tried": {}} for name in ("feature_extraction", "fine_tune")}
        for size in ("3", "6")
    }
    report = (reports / "report.md").read_text()
    assert "](details.md)" in report
    for heading in ("Before you trust this", "Cite"):
        assert heading in report
    assert list((reports / "figures").glob("*.png"))
    assert "squares that a test has drawn" in (reports / "details.md").read_text(encoding="utf-8")
    assert (project / "mlflow.db").exists()
    shown = command("dvc", "metrics", "show", folder=project).stdout
    assert {line.split()[0] for line in shown.splitlines()[1:]} == {
        f"reports/tiny/metrics/{name}.json" for name in ("feature_extraction", "fine_tune", "lda")
    }

    before = {file: file.read_bytes() for file in reports.rglob("*") if file.is_file()}
    assert ran(command("dvc", "repro", folder=project)) == ["prepare@tiny"]  # it always looks at the images
    command(sys.executable, "-m", "analysis.report", "tiny", folder=project)
    assert {file: file.read_bytes() for file in reports.rglob("*") if file.is_file()} == before

    # A changed note is rendered, and nothing is trained for it.
    stored = run_bytes(project)
    (project / "params.yaml").write_text(PARAMS.replace("squares that a test", "little squares that a test"))
    assert sorted(ran(command("dvc", "repro", folder=project))) == [
        "collect@tiny", "mirror@tiny", "prepare@tiny", "report@tiny",
    ]  # fmt: skip
    assert "little squares that a test has drawn" in (reports / "details.md").read_text()
    assert run_bytes(project) == stored

    # One strategy's rate changes: only its runs are trained.
    faster = PARAMS.replace("{share: 1, lr: {head: 1.0e-3}}", "{share: 1, lr: {head: 2.0e-3}}")
    (project / "params.yaml").write_text(faster)
    pending = command("dvc", "status", folder=project).stdout
    assert "train@tiny-feature_extraction" in pending
    assert "train@tiny-fine_tune" not in pending

    # Changed images are noticed, and all that rests on them is made anew.
    (project / "params.yaml").write_text(PARAMS)
    for image in (project / "images" / "test" / "dark").iterdir():  # what was dark is bright now
        pixels = np.asarray(Image.open(image)) // 2 + 120
        Image.fromarray(pixels.astype(np.uint8)).save(image)
    again = ran(command("dvc", "repro", "train@tiny-fine_tune", folder=project, workers=2))
    assert again == ["prepare@tiny", "subset@tiny", "tune@tiny", "train@tiny-fine_tune"]
    assert len(stored_runs(project / "results/tiny/final/fine_tune")) == 2 * 4  # those of the old images stay
    pending = command("dvc", "status", folder=project).stdout
    assert "collect@tiny" in pending


def test_a_renamed_folder_and_another_encoding_keep_their_runs(project: Path) -> None:
    lines = ("prepare tiny", "subset tiny", "tune tiny", "train tiny fine_tune")
    run_stages(*lines, folder=project)
    place = project / "results" / "tiny" / "final" / "fine_tune"
    written = {path: path.stat().st_mtime_ns for path in stored_runs(place)}
    (project / "images").rename(project / "pictures")
    for image in (project / "pictures" / "train" / "dark").iterdir():
        Image.open(image).save(image.with_suffix(".bmp"))
        image.unlink()
    (project / "params.yaml").write_text(PARAMS.replace("folder: images, name: squares", "folder: pictures, name: b"))
    run_stages(*lines, folder=project)
    assert {path: path.stat().st_mtime_ns for path in stored_runs(place)} == written


@pytest.mark.slow
def test_a_killed_stage_goes_on_where_it_was_and_ends_with_the_same_bytes(project: Path) -> None:
    run_stages("prepare tiny", "subset tiny", "tune tiny", folder=project)
    environment = {**os.environ, "THAW_WORKERS": "1"}
    arguments = (sys.executable, "-m", "pipeline.stages.train", "tiny", "fine_tune")
    killed = subprocess.Popen(
        arguments, cwd=project, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    place = project / "results" / "tiny" / "final" / "fine_tune"
    deadline = time.monotonic() + 60
    while not stored_runs(place) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in stored_runs(place)}
    assert 1 <= len(kept) < 4

    command(*arguments, folder=project, workers=2)
    assert {name: (place / name).stat().st_mtime_ns for name in kept} == kept  # finished runs are not trained again
    resumed = run_bytes(project)
    assert len(stored_runs(place)) == 4
    shutil.rmtree(place)
    command(*arguments, folder=project)
    assert run_bytes(project) == resumed


def test_heads_that_trained_together_are_trained_again_together(project: Path) -> None:
    train_heads = "train tiny feature_extraction"
    run_stages("prepare tiny", "subset tiny", "tune tiny", train_heads, folder=project)
    place = project / "results" / "tiny" / "final" / "feature_extraction"
    written = {path.name: path.stat().st_mtime_ns for path in stored_runs(place)}
    before = run_bytes(project)
    next(place.glob("3-a-class_x1_seed0_*")).unlink()
    run_stages(train_heads, folder=project)
    assert run_bytes(project) == before
    again = {path.name for path in stored_runs(place) if path.stat().st_mtime_ns != written[path.name]}
    assert again == {name for name in written if name.startswith("3-a-class")}  # the other size had its own group

    (project / "params.yaml").write_text(PARAMS.replace("seeds: 2", "seeds: 3"))
    run_stages("subset tiny", "tune tiny", train_heads, folder=project)  # a third seed changes the company
    new = {path.name for path in stored_runs(place)} - set(written)
    assert len(new) == 2 * 3
    assert set(written) <= {path.name for path in stored_runs(place)}  # runs of other inputs stay


def test_a_cell_that_was_trained_under_another_name_takes_that_run_and_it_has_the_same_bytes(project: Path) -> None:
    run_stages("prepare tiny", "subset tiny", "tune tiny", "sweep tiny", folder=project)
    sweep, final = project / "results/tiny/sweep/fine_tune", project / "results/tiny/final/fine_tune"
    trained = {path.name.rpartition("_")[0]: path for path in sweep.glob("*_x1_seed*")}
    done = run_stages("train tiny fine_tune", folder=project)
    assert done.stderr.count("the same training as a run that is there") == len(trained) == 4
    taken = {path.name.rpartition("_")[0]: path for path in final.glob("*_x1_seed*")}
    assert taken.keys() == trained.keys()
    contents = run_bytes(project)
    for name, place in taken.items():
        made, told = manifest(trained[name]), manifest(place)
        assert told["provenance"] == made["provenance"]  # where and when the run was made
        assert told["fingerprint"] == made["fingerprint"]
        own = f"{place.relative_to(project)}/"
        for file, content in contents.items():
            if file.startswith(own):
                assert content == contents[file.replace(own, f"{trained[name].relative_to(project)}/")]
    run_stages("train tiny feature_extraction", "collect tiny", folder=project)
    provenance = json.loads((project / "reports" / "tiny" / "provenance.json").read_text())
    cells = sum(environment["cells"] for environment in provenance["environments"])
    assert provenance["trainings"] == cells - len(taken)
    before = run_bytes(project)
    shutil.rmtree(sweep)
    shutil.rmtree(final)
    run_stages("train tiny fine_tune", "sweep tiny", folder=project)  # now the final runs are trained
    assert run_bytes(project) == before


@pytest.mark.slow
def test_range_tests_are_kept_and_only_missing_ones_are_made(project: Path) -> None:
    (project / "params.yaml").write_text(PARAMS.replace("watched: 4", "watched: 4\n    lr_finder_seeds: 2"))
    run_stages("prepare tiny", "subset tiny", "tune tiny", "lr_finder tiny", folder=project, workers=2)
    place = project / "results" / "tiny" / "lr_finder"
    contents = {path.name: path.read_bytes() for path in place.glob("*.json")}
    assert sorted(contents) == [  # none of `lda`, which has no rate
        f"{strategy}_6-a-class_seed{seed}.json" for strategy in ("feature_extraction", "fine_tune") for seed in (0, 1)
    ]
    broken = place / "fine_tune_6-a-class_seed1.json"
    broken.write_text("{")
    trains = [f"train tiny {strategy}" for strategy in ("feature_extraction", "fine_tune")]
    run_stages("lr_finder tiny", *trains, "collect tiny", "analysis.report tiny", folder=project)
    again = {path.name: path.read_bytes() for path in place.glob("*.json")}
    assert json.loads(again[broken.name])["losses"] == json.loads(contents[broken.name])["losses"]
    assert {name for name in contents if again[name] != contents[name]} <= {broken.name}
    with (project / "reports" / "tiny" / "lr_suggestions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["strategy"], row["seed"]) for row in rows] == [
        (strategy, seed) for strategy in ("feature_extraction", "fine_tune") for seed in "01"
    ]
    tests = json.loads((project / "reports" / "tiny" / "provenance.json").read_text())["range_tests"]
    assert {len(test["commit"].removesuffix("-dirty")) for test in tests} == {40}
    assert all(test["command"].startswith("python") for test in tests)
    assert "## LR finder" in (project / "reports" / "tiny" / "details.md").read_text(encoding="utf-8")


def test_a_second_writer_of_a_strategy_is_refused_and_one_of_another_is_not(project: Path) -> None:
    run_stages("prepare tiny", "subset tiny", "tune tiny", folder=project)
    with runs.lock(project / "results", "tiny", "sweep", "fine_tune"):
        second = run_stages("sweep tiny", folder=project, check=False)
        run_stages("train tiny feature_extraction", folder=project)
    assert second.returncode == 1
    assert str(os.getpid()) in second.stderr


def test_a_stage_run_by_hand_refuses_images_and_subsets_made_for_other_parameters(project: Path) -> None:
    run_stages("prepare tiny", "subset tiny", "tune tiny", folder=project)
    (project / "params.yaml").write_text(PARAMS.replace("watched: 4", "watched: 2"))
    done = run_stages("train tiny fine_tune", folder=project, check=False)
    assert done.returncode == 1
    assert "data/tiny/subsets.json was made with watched 4, and it is 2 now" in done.stderr
    assert "python -m pipeline.stages.subset tiny" in done.stderr
    (project / "params.yaml").write_text(PARAMS.replace("resolution: 32", "resolution: 64"))
    done = run_stages("subset tiny", folder=project, check=False)
    assert done.returncode == 1
    assert "data/tiny/card.json was made with resolution 32, and it is 64 now" in done.stderr
    assert not (project / "results" / "tiny" / "final").exists()


def test_more_images_than_there_are_are_refused_before_decoding(project: Path) -> None:
    (project / "params.yaml").write_text(PARAMS.replace("[3, 6]", "[3, 60]"))
    done = run_stages("prepare tiny", folder=project, check=False)
    assert done.returncode == 1
    assert "60 images a class asked for, but class 'bright' of squares has 14; give at most 14" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "data").exists()


@pytest.mark.slow
def test_tuning_climbs_on_pilot_seeds_and_final_runs_use_what_it_found(project: Path) -> None:
    tuned = PARAMS.replace("textbook", "tuned").replace("[3, 6]", "[6]").replace("sweep: {fine_tune: [100, 1]}", "")
    (project / "params.yaml").write_text(tuned)
    lines = ("prepare tiny", "subset tiny", "tune tiny", "train tiny feature_extraction", "train tiny lda")
    run_stages(*lines, folder=project, workers=2)
    rates = json.loads((project / "results" / "tiny" / "rates.json").read_text())["6"]
    assert set(rates) == {"feature_extraction", "fine_tune"}
    assert list(map(float, rates["feature_extraction"]["tried"])) == list(GRID)  # heads: all at once
    tried = sorted(map(float, rates["fine_tune"]["tried"]))
    assert tried == list(GRID[GRID.index(tried[0]) : GRID.index(tried[-1]) + 1])
    for chosen in rates.values():
        scales = sorted(map(float, chosen["tried"]))
        assert scales[0] < chosen["lr_scale"] < scales[-1] or chosen["lr_scale"] in (GRID[0], GRID[-1])
    pilots = json.loads((project / "data" / "tiny" / "subsets.json").read_text())["pilots"]["6"]
    assert len(stored_runs(project / "results/tiny/pilot/fine_tune")) == len(tried) * len(pilots)
    finals = stored_runs(project / "results/tiny/final/feature_extraction")
    scale = f"_x{rates['feature_extraction']['lr_scale']:g}_"
    assert len(finals) == 2
    assert all(scale in run.name for run in finals)
    before = {run: run.stat().st_mtime_ns for run in (project / "results").rglob("*.zip")}
    run_stages("tune tiny", folder=project)  # nothing is tried twice
    assert {run: run.stat().st_mtime_ns for run in (project / "results").rglob("*.zip")} == before
    heir = (
        "  heir: {dataset: {folder: images}, backbone: efficientnet_lite0, resolution: 32, per_class: [all], seeds: 2, "
    )
    heir += "epochs: 2, learning_rates: tuned, rates_from: tiny, strategies: [fine_tune, lda]}\nstrategies:\n"
    (project / "params.yaml").write_text(tuned.replace("strategies:\n", heir))
    run_stages("prepare heir", "subset heir", "tune heir", "train heir lda", folder=project)
    inherited = json.loads((project / "results" / "heir" / "rates.json").read_text())
    assert inherited == {"0": {"fine_tune": {"lr_scale": rates["fine_tune"]["lr_scale"], "tried": {}}}}
    assert len(stored_runs(project / "results/heir/final/lda")) == 1
