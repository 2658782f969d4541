"""FAULTS 32 and 38: whatever a name on the user's disk holds, it is printed and written as one line of text."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import params
from pipeline.files import shown
from pipeline.stages import prepared, subset
from tests.faults.conftest import Project, picture

ODD = (
    "a\nb",
    "a\rb",
    "a\tb",
    "\x1b[31mred",
    "left\u202eright",
    "\u2066iso",
    "zero\u200bwidth",
    "line\u2028end",
    "\x7f",
)


@pytest.mark.parametrize("name", [*ODD, chr(0xDCE9), chr(0xD800), "\0", "\ufeff", "\U000e0001", "\uffff", "\x85"])
def test_a_name_is_shown_in_one_line_of_printable_text(name: str) -> None:
    said = shown(f"café {name} 猫")
    assert said.isprintable()
    assert said.startswith("café ")
    assert said.endswith(" 猫")
    assert "\\" in said
    said.encode()


@pytest.mark.parametrize(
    "name", ["", "dark", "a b", "$^$", "<b>|*x*`", "猫🐈", "naïve", "Ω≈ç√", "\\n", "שלום", "e\u0301"]
)
def test_a_name_of_ordinary_text_is_shown_as_it_is(name: str) -> None:
    assert shown(name) == name


def test_a_byte_that_is_no_text_is_shown_by_its_number() -> None:
    assert shown(os.fsdecode(b"caf\xe9")) == "caf\\xe9"


def rename(project: Project, name: str) -> None:
    for split in ("train", "test"):
        (project.images / split / "dark").rename(project.images / split / name)


def said_of(project: Project, name: str) -> str:
    """What prepare says when it refuses; every line of it can be printed."""
    said = project.refusal()
    assert all(line.isprintable() for line in said.split("\n"))
    assert shown(name) in said
    return said


def two_labels(project: Project, name: str) -> None:
    shutil.copy(project.images / "train" / name / "000.png", project.images / "train" / "bright" / "copy.png")


def too_few(project: Project, name: str) -> None:
    (project.images / "train" / name / "000.png").unlink()
    text = (project.root / "params.yaml").read_text(encoding="utf-8")
    (project.root / "params.yaml").write_text(text.replace("per_class: [2]", "per_class: [14]"), encoding="utf-8")


def one_image(project: Project, name: str) -> None:
    shutil.rmtree(project.images / "test")
    for path in sorted((project.images / "train" / name).iterdir())[1:]:
        path.unlink()


def not_in_test(project: Project, name: str) -> None:
    (project.images / "test" / name).rename(project.images / "test" / "dark")


def damaged(project: Project, name: str) -> None:
    (project.images / "train" / name / f"{name}.png").write_bytes(b"x")


def emptied(project: Project, name: str) -> None:
    shutil.rmtree(project.images / "test" / name)
    (project.images / "test" / name).mkdir()


def broken_link(project: Project, name: str) -> None:
    (project.images / "train" / name / f"{name}.png").symlink_to(f"/nowhere/{name}")


def nested(project: Project, name: str) -> None:
    (project.images / "train" / name / name).symlink_to(project.images / "train" / name)


@pytest.mark.parametrize("kind", [two_labels, too_few, one_image, not_in_test, damaged, emptied, broken_link, nested])
@pytest.mark.parametrize("name", [ODD[0], ODD[3], ODD[4]])
def test_every_refusal_shows_the_class_in_printable_lines(
    project: Project, kind: Callable[[Project, str], None], name: str
) -> None:
    rename(project, name)
    kind(project, name)
    said_of(project, name)


@pytest.mark.parametrize("name", ODD)
def test_a_place_and_a_title_are_shown_in_printable_lines(project: Project, name: str) -> None:
    quoted = name.encode("unicode_escape").decode()
    for given in (f'"nowhere/{quoted}"', f'"images/{quoted}", name: "{quoted}"', f'"{quoted}/train"'):
        project.write_params(given)
        said_of(project, name)
    (project.images / "inner" / name).mkdir(parents=True)
    (project.images / "train").rename(project.images / "inner" / name / "train")
    project.write_params()
    said_of(project, name)


def test_what_is_said_and_written_beside_the_images_is_printable(project: Project) -> None:
    for number, name in enumerate(ODD):
        path = project.images / "train" / "dark" / f"{number:03d}.png"
        path.rename(path.with_name(f"{name}.png"))
        (project.images / "train" / "dark" / f"x.{name}").write_bytes(b"x")
    rename(project, ODD[0])
    project.images.rename(project.root / ODD[3])
    project.write_params('"\\x1b[31mred", licence: "a\\nb"')
    card = project.prepare()
    assert card["name"] == shown(ODD[3])
    assert card["licence"] == "a\\nb"
    assert all(record.getMessage().isprintable() for record in project.said.records)
    assert len(project.index()) == 40
    assert all(row["file"].isprintable() for row in project.index())
    assert len(prepared.read(params.load().study("tiny")).ids) == 40


def test_a_draw_that_is_refused_shows_the_class(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rename(project, "a\nb")
    project.write_params()
    text = (project.root / "params.yaml").read_text(encoding="utf-8").replace("watched: 4", "test_images: 2")
    (project.root / "params.yaml").write_text(text, encoding="utf-8")
    for path in sorted((project.images / "test" / "a\nb").iterdir())[1:]:
        path.unlink()
    for number in range(60):
        picture(project.images / "test" / "bright" / f"more{number}.png")
    project.prepare()
    with pytest.raises(Exception, match=r"leave class 'a.*nb' without one") as caught:
        subset.subset("tiny")
    assert str(caught.value).isprintable()


def test_a_folder_named_by_a_dot_has_a_name(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write_params(".")
    shutil.move(project.images / "train", project.root / "train")
    assert project.prepare()["name"] == Path.cwd().name
