"""FAULT 31: files and folders that this user may not read are listed by name, all at once, and nothing is written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import write_image_folder
from tests.faults.conftest import PARAMS

ROOT = Path(__file__).parents[2]
NOBODY = 65534


@pytest.fixture
def owned_by_nobody() -> Iterator[Path]:
    """A project that nobody owns, in a place that everybody may enter."""
    with tempfile.TemporaryDirectory() as made:
        project = Path(made)
        write_image_folder(project / "images", train=3, test=2)
        text = PARAMS.format(folder="images", resolution=32, strategies="feature_extraction")
        (project / "params.yaml").write_text(text, encoding="utf-8")
        if os.geteuid() == 0:
            for path in (project, *project.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
        yield project


def prepare_as_nobody(project: Path) -> subprocess.CompletedProcess[bytes]:
    rights = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("no setpriv")
        rights = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    script = (
        "import sys; from pipeline.stages import command, prepare; sys.argv = ['prepare', 'tiny']\n"
        "print('imported'); command.main(prepare.prepare, '')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(project)}
    return subprocess.run(
        [*rights, sys.executable, "-c", script], cwd=project, env=environment, capture_output=True, check=False
    )


@pytest.mark.faults
def test_whatever_may_not_be_read_is_listed_and_nothing_is_written(owned_by_nobody: Path) -> None:
    train = owned_by_nobody / "images" / "train"
    (train / "dark" / "000.png").chmod(0)
    (train / "dark" / "without a suffix").write_bytes((train / "bright" / "000.png").read_bytes())
    (train / "dark" / "without a suffix").chmod(0)
    if os.geteuid() == 0:
        os.chown(train / "dark" / "without a suffix", NOBODY, NOBODY)
    (owned_by_nobody / "images" / "test" / "bright").chmod(0)
    done = prepare_as_nobody(owned_by_nobody)
    if b"imported" not in done.stdout:
        pytest.skip("another user can't import Thaw from here")
    said = done.stderr.decode()
    (owned_by_nobody / "images" / "test" / "bright").chmod(0o700)
    assert done.returncode == 1
    assert said.startswith("error: can't be used, 3 in all:")
    for refused in (
        "train/dark/000.png: Permission denied",
        "train/dark/without a suffix: Permission denied",
        "test/bright: can't be read (Permission denied)",
    ):
        assert refused in said
    assert not (owned_by_nobody / "data").exists()


@pytest.mark.faults
def test_a_folder_whose_splits_may_not_be_read_is_named(owned_by_nobody: Path) -> None:
    (owned_by_nobody / "images").chmod(0)
    done = prepare_as_nobody(owned_by_nobody)
    (owned_by_nobody / "images").chmod(0o700)
    if b"imported" not in done.stdout:
        pytest.skip("another user can't import Thaw from here")
    assert done.returncode == 1
    assert done.stderr.decode() == "error: images: can't be read (Permission denied)\n"
