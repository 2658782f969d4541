"""What `make study` says and refuses before anything is trained, and what it may cost where nothing is to be done."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import cost
from pipeline.cost import Load, Speed, Step
from pipeline.errors import UserError
from pipeline.stages import activate, check, collect, command, prepare, subset, train, tune
from pipeline.strategies import GROUPS, Phase, Strategy
from tests.conftest import write_image_folder

ROOT = Path(__file__).parents[2]
PARAMS = """
active: [tiny] # mine
studies:
  tiny:
    dataset: {folder: images}
    backbone: efficientnet_lite0
    resolution: 32
    per_class: [3]
    seeds: 2
    epochs: 2
    learning_rates: textbook
    watched: 4
  other:
    {dataset: elpv, backbone: resnet18, resolution: 32, per_class: [3], seeds: 2, epochs: 1, learning_rates: tuned}
strategies:
  feature_extraction: {phases: [{share: 1, lr: {head: 1.0e-3}}]}
  lda: {head: lda}
ablations: {}
about: {}
"""


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """A project with a tiny study that nothing was done for; what is said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THAW_WORKERS", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    write_image_folder(tmp_path / "images")
    Path("params.yaml").write_text(PARAMS, encoding="utf-8")
    caplog.set_level(logging.INFO)
    return caplog


def change(old: str, new: str) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    assert old in text
    Path("params.yaml").write_text(text.replace(old, new), encoding="utf-8")


def refusal(*studies: str) -> str:
    with pytest.raises(UserError) as caught:
        check.check(*studies)
    return str(caught.value)


def everything() -> None:
    for stage in (prepare.prepare, subset.subset, tune.tune):
        stage("tiny")
    for strategy in ("feature_extraction", "lda"):
        train.train("tiny", strategy)
    collect.collect("tiny")


# --- what is said ---------------------------------------------------------------------------------------------------


def test_a_fresh_study_is_told_in_a_few_lines_and_its_name_is_printed(
    said: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    check.check()
    assert capsys.readouterr().out == "tiny\n"
    lines = [record.getMessage() for record in said.records]
    assert len(lines) == 4
    assert lines[:2] == ["tiny: 2 classes, 28 images to draw from, 12 test images", "tiny: to train: 4 final"]
    assert "about" in lines[2]
    assert "free" in lines[3]
    assert sorted(path.name for path in Path().iterdir()) == ["images", "params.yaml"]  # a check leaves nothing behind


def test_with_nothing_to_do_it_needs_no_torch_and_a_touched_image_is_looked_at(said: pytest.LogCaptureFixture) -> None:
    everything()
    script = (
        "import sys; from pipeline.stages import check; check.check(); print({'torch', 'numpy'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "tiny\nset()\n"
    check.check()
    assert said.records[-1].getMessage() == "tiny: all 4 runs are there, nothing is to be trained"

    next(Path("results/tiny/final/lda").glob("*.zip")).unlink()
    check.check()
    assert "tiny: to train: 1 final" in [record.getMessage() for record in said.records]

    Image.new("RGB", (24, 24), "red").save("images/train/dark/new.png")
    check.check()
    assert "tiny: to train: 4 final; fewer, where a draw stays the same" in said.text


def test_pilots_are_foreseen_and_those_that_are_there_are_not_counted_again(said: pytest.LogCaptureFixture) -> None:
    change("learning_rates: textbook", "learning_rates: tuned")
    change("per_class: [3]\n", "per_class: [4]\n")
    check.check()
    # One image of four judges each class: ten pilots see no 200 of them, and a head tries all thirteen rates.
    assert "130 of pilots, which choose the rates, 4 final" in said.text
    for stage in (prepare.prepare, subset.subset, tune.tune):
        stage("tiny")
    said.clear()
    check.check()
    assert "to train: 4 final" in said.text


def test_signs_that_the_figures_font_lacks_are_named(said: pytest.LogCaptureFixture) -> None:
    for split in ("train", "test"):
        Path("images", split, "dark").rename(Path("images", split, "暗い $x$"))
    check.check()
    assert "font lacks い 暗" in said.text


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[tiny] # mine", "tiny", "active"),
        ("[tiny] # mine", "[]", "active"),
        ("[tiny] # mine", "[tny]", "did you mean 'tiny'"),
        ("active:", "activ:", "activ"),
        ("ablations: {}\nabout: {}\n", "", "write ablations: {}, about: {}"),
        ("per_class: [3]\n", "per_class: [15]\n", "15 images a class"),
        ("folder: images", "folder: pictures", "pictures: can't be read"),
        ("backbone: efficientnet_lite0\n", "backbone: {name: resnet18, weights: mine.pth}\n", "file mine.pth"),
        ("textbook\n", "tuned\n    rates_from: other\n    strategies: [lda]\n", "run study 'other' first"),
        ("lda: {head: lda}", "lda: {batch_norm: train, phases: [{share: 1, lr: {all: 1.0e-3}}]}", "batch_size"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("said")
def test_what_would_fail_later_is_refused_at_once(old: str, new: str, words: str) -> None:
    change(old, new)
    if words == "batch_size":
        change("epochs: 2\n", "epochs: 2\n    batch_size: 2\n")
        change("per_class: [3]\n    seeds", "per_class: [all]\n    seeds")
        Path("images/train/dark/000.png").unlink()  # an odd number of images
    assert words in refusal()


@pytest.mark.usefixtures("said")
def test_every_damaged_image_is_listed() -> None:
    for name in ("000.png", "001.png"):
        image = Path("images/train/dark", name)
        image.write_bytes(image.read_bytes()[:40])
    words = refusal()
    assert "dark/000.png" in words
    assert "dark/001.png" in words


@pytest.mark.usefixtures("said")
def test_weights_of_another_model_are_refused_before_any_step() -> None:
    from safetensors.torch import save_file

    save_file({"conv1.weight": torch.zeros(3)}, "mine.safetensors")
    change("backbone: efficientnet_lite0\n", "backbone: {name: resnet18, weights: mine.safetensors}\n")
    assert "don't fit resnet18" in refusal()


@pytest.mark.usefixtures("said")
def test_places_that_cannot_be_written_are_named_together() -> None:
    Path("results").write_text("not a folder", encoding="utf-8")
    assert "results" in refusal()


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.usefixtures("said")
def test_a_disk_without_room_for_images_and_runs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: _Usage(1, 1, 1000))
    assert "free some space first" in refusal()


# --- one study, active ----------------------------------------------------------------------------------------------


def test_a_study_is_made_active_in_the_file_and_that_is_said_once(said: pytest.LogCaptureFixture) -> None:
    activate.activate("tiny")
    assert Path("params.yaml").read_text(encoding="utf-8") == PARAMS
    activate.activate("other")
    assert Path("params.yaml").read_text(encoding="utf-8") == PARAMS.replace("[tiny]", "[other]")
    assert [record.getMessage() for record in said.records] == [
        "params.yaml: active is [other] from now on, and was [tiny]"
    ]
    with pytest.raises(UserError, match="no study 'othr'; did you mean 'other'"):
        activate.activate("othr")


def test_a_commit_is_dirty_by_code_and_parameters_alone_and_never_another_repositorys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THAW_COMMIT", raising=False)
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "code.py").write_text("1\n")
    (tmp_path / "params.yaml").write_text(PARAMS)
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    for arguments in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "t")):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    clean = command.commit()
    assert len(clean) == 40
    change("[tiny]", "[other]")
    assert command.commit() == clean
    change("epochs: 2", "epochs: 3")
    assert command.commit() == f"{clean}-dirty"
    monkeypatch.chdir(tmp_path / "pipeline")
    assert command.commit() == "unknown"


def test_make_says_before_the_installation_that_git_has_no_repository_or_another_one(tmp_path: Path) -> None:
    def make(target: str) -> subprocess.CompletedProcess[str]:
        place = tmp_path / "outer" / "thaw"
        environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
        arguments = ["make", "-n", target] if target == "study" else ["make", target]
        return subprocess.run(arguments, cwd=place, env=environment, capture_output=True, text=True, check=False)

    (tmp_path / "outer" / "thaw").mkdir(parents=True)
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / "outer" / "thaw")
    plan = make("study").stdout
    assert plan.index("git rev-parse") < plan.index("pip install") < plan.index("dvc repro")
    without = make("repository")
    assert without.returncode != 0
    assert "run: git init" in without.stderr
    subprocess.run(["git", "init", "-q"], cwd=tmp_path / "outer", check=True)
    inside = make("repository")
    assert inside.returncode == 0
    assert "inside another git repository" in inside.stderr
    subprocess.run(["git", "init", "-q"], cwd=tmp_path / "outer" / "thaw", check=True)
    assert make("repository").stderr == ""


# --- how long -------------------------------------------------------------------------------------------------------

ALL = Strategy("fine_tune", (Phase(1, dict.fromkeys(GROUPS, 1e-4)),))
BLOCK = Strategy("last_block", (Phase(1, {"stage4": 1e-4, "head": 1e-4}),))
HEAD = Strategy("feature_extraction", (Phase(1, {"head": 1e-3}),))
SPEED = Speed(
    {cost.step_of(ALL, ALL.phases[0]): 4.0, cost.step_of(BLOCK, BLOCK.phases[0]): 1.0},
    {"stem": 1.0, "stage4": 0.25, "head": 0.0},
    build=0.0,
    workers=2,
)


def seconds(*loads: Load) -> float:
    return cost.seconds(loads, SPEED, 10, 32)


def test_time_counts_steps_evaluations_and_each_frozen_stretch_once() -> None:
    # Ten epochs of 20 images, those again at the end of the phase, and 50 that are judged; two workers share it.
    assert seconds(Load(ALL, 3, 3, 20, 0, 50)) == 3 * (10 * 20 * 4.0 + 20 + 50) / 2
    # The judged images pass the frozen stretch once for all cells, the training images in two views for each.
    each = 10 * 20 * 1.0 + 20 * 0.25 + 50 * 0.25 + 2 * 20 * 0.75
    assert seconds(Load(BLOCK, 3, 3, 20, 0, 50)) == (50 * 0.75 + 3 * each) / 2
    # Heads read features, which each draw's images give once in each view.
    head = (50 + 3 * 2 * 20) / 2
    assert seconds(Load(HEAD, 3, 3, 20, 0, 50)) == pytest.approx(head, rel=1e-3)
    assert seconds(Load(HEAD, 39, 3, 20, 0, 50)) == pytest.approx(head, rel=1e-2)


def test_kinds_of_steps_are_timed_once_each() -> None:
    scratch = Strategy("scratch", ALL.phases, weights="none", batch_norm="train")
    batches = cost.Batches("efficientnet_lite0", None, 32, "float32", 2, 4)
    strategies = [ALL, BLOCK, scratch, Strategy("again", ALL.phases)]
    speed, *others = (cost.measure(batches, strategies, torch.device("cpu"), 1) for _ in range(4))
    assert set(speed.step) == {cost.step_of(strategy, strategy.phases[0]) for strategy in (ALL, BLOCK, scratch)}
    assert all(np.isfinite(value) and value > 0 for value in [*speed.step.values(), speed.look["stem"], speed.build])
    # The quickest of several: a busy machine delays any of them.
    looks = [each.look for each in (speed, *others)]
    assert min(look["stage4"] for look in looks) < min(look["stem"] for look in looks)
    assert speed.times(4).step[Step("stem", GROUPS, ("train", "all", "flip", "frozen"))] == 4 * max(
        value for step, value in speed.step.items() if step.rest[0] == "train"
    )
