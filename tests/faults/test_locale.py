"""FAULT 39: in another locale every file is read and written as UTF-8, and every name is what it is elsewhere."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.analysis.conftest import Plan, write_tables
from tests.faults.conftest import Project

ROOT = Path(__file__).parents[2]
LOCALES = ("C", "ISO-8859-1")


@pytest.fixture(scope="module")
def latin_1(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """A locale of one byte a sign, made here: few machines have one."""
    place = tmp_path_factory.mktemp("locales")
    if shutil.which("localedef") is None:
        pytest.skip("no localedef")
    made = subprocess.run(["localedef", "-i", "en_US", "-f", "ISO-8859-1", place / "latin"], capture_output=True)
    if not (place / "latin").exists():
        pytest.skip(f"localedef makes none: {made.stderr.decode(errors='replace')[:200]}")
    return {"LC_ALL": "latin", "LOCPATH": str(place)}


@pytest.fixture(params=LOCALES)
def elsewhere(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """The environment of a process to which text is ASCII, or Latin-1."""
    names = {"LC_ALL": "C"} if request.param == "C" else request.getfixturevalue("latin_1")
    here = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    return {**here, **names, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}


def run(environment: Mapping[str, str], place: Path, *arguments: str | bytes) -> bytes:
    """Run Python; a file opened without its encoding is an error. Returns what it says on both streams."""
    strict = ("-X", "warn_default_encoding", "-W", "error::EncodingWarning:pipeline")
    done = subprocess.run([sys.executable, *strict, *arguments], cwd=place, env=environment, capture_output=True)
    said = done.stderr + done.stdout
    assert done.returncode == 0, said.decode(errors="replace")
    return said


def test_a_stage_has_utf_8_whatever_the_locale(elsewhere: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(
        "import sys, pathlib; from pipeline.stages import command\n"
        "def stage(name): print(sys.getfilesystemencoding(), ascii(name), pathlib.Path('é').exists(), '→')\n"
        "command.main(stage, '')\n",
        encoding="utf-8",
    )
    (tmp_path / "é").touch()
    said = run(elsewhere, tmp_path, "stage.py", "naïve 猫".encode())
    assert said.decode() == "utf-8 'na\\xefve \\u732b' True →\n"


@pytest.mark.faults
def test_a_folder_is_prepared_and_drawn_from_as_anywhere_else(elsewhere: Mapping[str, str], project: Project) -> None:
    (project.images / "train" / "dark").rename(project.images / "train" / "café")
    (project.images / "test" / "dark").rename(project.images / "test" / "café")
    (project.images / "train" / "bright" / "000.png").rename(project.images / "train" / "bright" / "猫 →.png")
    project.images.rename(project.root / "größe")
    project.write_params("größe, name: Blätter ×2, licence: ©")
    card, drawn = project.prepare(), project.draws()
    assert card["classes"] == ["bright", "café"]
    names = ("card.json", "index.csv", "subsets.json", "images.npy")
    expected = {name: (project.prepared / name).read_bytes() for name in names}
    shutil.rmtree(project.prepared)
    said = run(elsewhere, project.root, "-m", "pipeline.stages.prepare", "tiny")
    run(elsewhere, project.root, "-m", "pipeline.stages.subset", "tiny")
    assert {name: (project.prepared / name).read_bytes() for name in names} == expected
    assert "Blätter ×2" in said.decode()
    assert drawn == project.draws()


def test_the_collected_tables_are_read_as_anywhere_else(elsewhere: Mapping[str, str], tmp_path: Path) -> None:
    write_tables(tmp_path / "tables", Plan(classes={"café": 4, "猫": 4}, strategies={"lda": 0.5, "scratch": 0.5}))
    script = (
        "from pathlib import Path; from analysis import claims, tables; "
        "print(ascii(tables.load(Path('tables')).predictions.classes), len(claims.load_claims()) > 0)"
    )
    assert run(elsewhere, tmp_path, "-c", script).splitlines(keepends=True)[-1] == b"('caf\\xe9', '\\u732b') True\n"


@pytest.mark.parametrize("package", ["pipeline", "analysis"])
def test_every_text_is_opened_with_its_encoding(package: str) -> None:
    """What ruff's PLW1514 holds where it can tell a path, here for every call of these names."""
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            keys = {key.arg for key in node.keywords}
            texts = [given.value for given in node.args if isinstance(given, ast.Constant)]
            binary = called == "open" and any("b" in str(mode) and len(str(mode)) < 4 for mode in texts)
            of_os = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in ("os", "Image")
            if called in ("read_text", "write_text") or (called == "open" and not (binary or of_os)) or "text" in keys:
                assert "encoding" in keys, f"{path}, line {node.lineno}: {ast.unparse(node)}"
