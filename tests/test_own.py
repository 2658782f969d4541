"""README's section on one's own images, followed to the letter: its commands, as they stand there, on a folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import write_image_folder
from tests.test_end_to_end import ROOT, command

# Two strategies: nine would take minutes.
PARAMS = """\
active: [example]   # what runs

studies:
  example:
    {dataset: elpv, backbone: resnet18, resolution: 32, per_class: [3], seeds: 2, epochs: 1, learning_rates: tuned}
# how a backbone is adapted
strategies:
  feature_extraction: {phases: [{share: 1, lr: {head: 1.0e-3}}]}
  lda: {head: lda}
ablations: {}
about: {}
"""


def commands() -> list[str]:
    """The commands of README's section, without their comments."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Your own images\n")[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [line.partition("#")[0].strip() for line in block.group(1).splitlines()]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A fresh clone beside a folder of images, its environment installed."""
    if not (Path(sys.prefix) / "bin" / ".installed").exists():
        pytest.skip("not installed by make, which would install it anew here")
    folder = tmp_path / "thaw"
    files = ("pipeline", "analysis", ".dvc", ".dvcignore", ".gitignore", "dvc.yaml", "Makefile", "requirements.lock")
    for name in files:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "tmp", "cache"))
        else:
            shutil.copy(source, folder / name)
    (folder / "params.yaml").write_text(PARAMS, encoding="utf-8")
    (folder / ".venv").symlink_to(sys.prefix)
    os.utime(folder / "requirements.lock", (0, 0))  # older than what was installed from it
    command("git", "init", "-q", folder=folder)
    write_image_folder(tmp_path / "leaves", train=32)
    return folder


def make(line: str, project: Path) -> subprocess.CompletedProcess[str]:
    return command(*shlex.split(line.replace("/data/leaves", str(project.parent / "leaves"))), folder=project)


@pytest.mark.slow
def test_a_folder_becomes_a_study_with_an_answer_and_asked_again_it_goes_on(project: Path) -> None:
    first, second, third = commands()
    done = make(first, project)
    assert "reports/leaves/report.md" in done.stdout
    assert (project / "reports" / "leaves" / "report.md").exists()
    said = done.stderr.splitlines()
    assert "leaves: 2 classes of 32 to draw from, 12 test images, about 24 px" in said
    assert any(
        re.fullmatch(r"leaves: about .* of 60 min: 10 images a class, \d+ seeds, 64 px, .*", line) for line in said
    )
    assert any(line.startswith("leaves: to train: ") for line in said)

    text = (project / "params.yaml").read_text(encoding="utf-8")
    before, _, after = text.partition("  leaves: #")
    assert before.replace("[leaves]", "[example]").removesuffix("\n") == PARAMS[: PARAMS.index("# how")]
    assert after.endswith(PARAMS[PARAMS.index("# how") :])
    study = yaml.safe_load(text)["studies"]["leaves"]
    assert study["dataset"] == {"folder": str(project.parent / "leaves"), "name": "leaves"}
    assert study["per_class"] == [10]

    again = make(second, project)
    assert "nothing is to be trained" in again.stderr
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    assert "on the test images" in make(third, project).stderr
    assert (project / "models" / "leaves" / "recipe.py").exists()
    write_image_folder(project.parent / "leaves" / "more", train=1)
    (project.parent / "leaves/more/train/dark/000.png").rename(project.parent / "leaves/train/dark/new.png")
    shutil.rmtree(project.parent / "leaves" / "more")
    chosen = command(
        sys.executable, "-m", "pipeline.stages.own", str(project.parent / "leaves"), "", "5", folder=project
    )  # fmt: skip
    assert chosen.stdout == "leaves\n"
    assert (project / "params.yaml").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("", "", "60"), "which images?"),
        (("nowhere", "", "60"), "nowhere: can't be read"),
        (("../leaves", "example", "60"), "another study"),
        (("../leaves", "my leaves", "60"), "use letters, digits"),
        (("../leaves", "", "soon"), "a number above 0"),
        (("../leaves", "", "-1"), "a number above 0"),
        (("../leaves/train/dark", "", "60"), "no folder 'train'"),
        (("../one", "", "60"), "1 class folders found, at least 2 are needed"),
        (("../few", "", "60"), "at least 4 are needed"),
        (("../leaves", "", "0.001"), "give MINUTES="),
    ],
)
def test_what_no_study_can_be_made_of_is_refused_in_words_and_nothing_is_written(
    project: Path, arguments: tuple[str, ...], words: str
) -> None:
    write_image_folder(project.parent / "few", train=3)
    shutil.copytree(project.parent / "leaves/train/dark", project.parent / "one/train/dark")
    done = command(sys.executable, "-m", "pipeline.stages.own", *arguments, folder=project, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert (project / "params.yaml").read_text(encoding="utf-8") == PARAMS
