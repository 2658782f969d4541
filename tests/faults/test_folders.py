"""FAULTS 26 to 34, 37, 45, 48: every entry of a folder is used, left out by reason, or refused by name."""

from __future__ import annotations

import errno
import os
import shutil
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.stages import prepared
from tests.faults.conftest import Project, picture


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()}


# --- 26, 48: what was touched, and what was only moved --------------------------------------------------------------


def test_a_second_look_leaves_every_byte_alone(project: Project) -> None:
    project.prepare()
    before = snapshot(project.prepared)
    project.prepare()
    assert snapshot(project.prepared) == before
    assert "nothing has changed" in project.all_said()


@pytest.mark.parametrize("change", ["added", "removed", "replaced", "replaced in secret", "moved"])
def test_an_image_that_was_changed_is_noticed(project: Project, change: str) -> None:
    before = project.prepare()["sha256"]
    victim = project.images / "train" / "dark" / "000.png"
    if change == "added":
        picture(victim.with_name("new.png"))
    elif change == "removed":
        victim.unlink()
    elif change == "moved":
        victim.rename(project.images / "train" / "bright" / "moved.png")
    else:
        stat = victim.stat()
        pixels = np.asarray(Image.open(victim)).copy()
        pixels[0, 0] ^= 1
        Image.fromarray(pixels).save(victim)
        if change == "replaced in secret":
            victim.write_bytes(victim.read_bytes()[: stat.st_size].ljust(stat.st_size, b"\0"))
            os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert project.prepare()["sha256"] != before


def test_a_deleted_output_is_made_again(project: Project) -> None:
    project.prepare()
    before = (project.prepared / "images.npy").read_bytes()
    (project.prepared / "images.npy").unlink()
    project.prepare()
    assert (project.prepared / "images.npy").read_bytes() == before


def test_what_is_only_left_out_changes_the_card_but_decodes_nothing(project: Project) -> None:
    project.prepare()
    before = snapshot(project.prepared)
    (project.images / "train" / "dark" / ".DS_Store").write_bytes(b"x")
    card = project.prepare()
    assert sum(card["skipped"].values()) == 1
    assert snapshot(project.prepared)["images.npy"] == before["images.npy"]


def test_a_moved_and_renamed_folder_of_renamed_and_repacked_files_keeps_its_draws(project: Project) -> None:
    first = project.prepare()
    drawn = project.draws()
    project.images.rename(project.root / "elsewhere")
    for number, path in enumerate(sorted((project.root / "elsewhere").rglob("*.png"))):
        if number % 2:
            Image.open(path).save(path.with_name(f"x{1000 - number}.bmp"))
        else:
            Image.open(path).save(path.with_name(f"x{1000 - number}.png"), compress_level=0)
        path.unlink()
    project.write_params("elsewhere")
    assert project.prepare()["sha256"] == first["sha256"]
    assert project.draws() == drawn


def test_prepared_data_of_a_folder_that_was_merely_moved_are_read(project: Project) -> None:
    from pipeline import params

    project.prepare()
    project.images.rename(project.root / "elsewhere")
    project.write_params("elsewhere")
    assert len(prepared.read(params.load().study("tiny")).labels) == 40
    picture(project.root / "elsewhere" / "train" / "dark" / "another.png")
    with pytest.raises(prepared.PreparedError, match="other files"):
        prepared.read(params.load().study("tiny"))
    project.prepare()
    assert len(prepared.read(params.load().study("tiny")).labels) == 41


def test_an_added_image_changes_few_draws(project: Project) -> None:
    project.prepare()
    before = project.draws()
    picture(project.images / "train" / "dark" / "new.png")
    project.prepare()
    after = project.draws()
    assert all(len(set(before[key]) - set(after[key])) <= 2 for key in before)


def test_looking_imports_neither_torch_nor_anything_slow(project: Project) -> None:
    import subprocess
    import sys

    project.prepare()
    script = (
        "import sys; from pipeline.stages.prepare import prepare; prepare('tiny'); "
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert done.returncode == 0, done.stderr
    for heavy in ("torch", "timm", "torchvision", "pandas", "mlflow", "scipy"):
        assert f"'{heavy}'" not in done.stdout


# --- 27: hidden and system entries ----------------------------------------------------------------------------------


def test_hidden_and_system_entries_are_neither_classes_nor_images_and_are_counted(project: Project) -> None:
    train = project.images / "train"
    before = project.prepare()
    shutil.copytree(train / "dark", train / ".ipynb_checkpoints")
    shutil.copytree(train / "dark", train / "dark" / ".ipynb_checkpoints")
    shutil.copytree(train / "dark", train / "__MACOSX" / "dark")
    shutil.copy(train / "dark" / "000.png", train / "dark" / "._000.png")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (train / "dark" / name).write_bytes(b"x")
    card = project.prepare()
    assert card["classes"] == ["bright", "dark"]
    assert card["sha256"] == before["sha256"]
    hidden, system = sorted(card["skipped"].items())
    assert hidden == ("hidden (the name begins with a dot)", 4)
    assert system[1] == 3
    picture(train / "dark" / "one more.png")
    project.prepare()
    assert "skipped 4: hidden" in project.all_said()


# --- 28: names of splits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "VALIDATION"])
def test_val_without_test_is_the_test_split(project: Project, name: str) -> None:
    expected = project.prepare()["sha256"]
    (project.images / "test").rename(project.images / name)
    card = project.prepare()
    assert card["sha256"] == expected
    assert any(f"{name}/" in note and "test split" in note for note in card["notes"])
    assert f"{name}/" in project.all_said()


def test_val_beside_test_is_watched(project: Project) -> None:
    for number in range(3):
        picture(project.images / "valid" / "dark" / f"{number}.png")
    card = project.prepare()
    assert (card["pool_images"], card["test_images"]) == (28, 12)
    assert any("valid/" in note and "watched" in note for note in card["notes"])
    project.draws()
    from pipeline import params

    study = params.load().study("tiny")
    data = prepared.read(study)
    assert set(prepared.read_subsets(study, data.card).watched) == set(data.watch) == {40, 41, 42}


def test_train_and_test_count_in_any_capitals(project: Project) -> None:
    expected = project.prepare()["sha256"]
    (project.images / "train").rename(project.images / "TRAIN")
    (project.images / "test").rename(project.images / "Test")
    assert project.prepare()["sha256"] == expected


def test_two_folders_of_one_split_are_refused(project: Project) -> None:
    shutil.copytree(project.images / "test", project.images / "val")
    shutil.copytree(project.images / "test", project.images / "valid")
    assert "'val' and 'valid'" in project.refusal()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("one level too high", "there is one in images/images"),
        ("the train folder itself", "give the folder above"),
        ("train in train", "images/train"),
        ("classes at the top", "'bright', 'dark' are the classes"),
        ("images in train itself", "14 files lie beside"),
        ("an archive", "unpack it"),
        ("nowhere", "No such file"),
        ("test without classes", "test: no class folders"),
    ],
)
def test_a_folder_that_is_arranged_otherwise_is_refused_with_where_things_are(
    project: Project, kind: str, said: str
) -> None:
    images = project.images
    if kind == "one level too high":
        images.rename(project.root / "inner")
        images.mkdir()
        (project.root / "inner").rename(images / "images")
    elif kind == "the train folder itself":
        project.write_params("images/train")
    elif kind == "train in train":
        (images / "train").rename(images / "inner")
        (images / "train").mkdir()
        (images / "inner").rename(images / "train" / "train")
    elif kind == "classes at the top":
        shutil.rmtree(images / "test")
        for name in ("dark", "bright"):
            (images / "train" / name).rename(images / name)
        (images / "train").rmdir()
    elif kind == "images in train itself":
        shutil.rmtree(images / "train" / "bright")
        for path in (images / "train" / "dark").iterdir():
            path.rename(images / "train" / path.name)
        (images / "train" / "dark").rmdir()
    elif kind == "an archive":
        (project.root / "images.zip").write_bytes(b"PK")
        project.write_params("images.zip")
    elif kind == "nowhere":
        project.write_params("nowhere")
    else:
        for path in (images / "test" / "dark").iterdir():
            path.rename(images / "test" / path.name)
        for name in ("dark", "bright"):
            shutil.rmtree(images / "test" / name)
    assert said in project.refusal()


# --- 30, 31: links, and what can't be read --------------------------------------------------------------------------


def test_links_to_folders_and_files_are_followed(project: Project) -> None:
    expected = project.prepare()["sha256"]
    dark = project.images / "train" / "dark"
    dark.rename(project.root / "real")
    dark.symlink_to(project.root / "real")
    (project.root / "real" / "000.png").rename(project.root / "one.png")
    (project.root / "real" / "000.png").symlink_to(project.root / "one.png")
    assert project.prepare()["sha256"] == expected


def test_an_image_behind_a_link_that_changes_is_noticed(project: Project) -> None:
    victim = project.images / "train" / "dark" / "000.png"
    victim.rename(project.root / "one.png")
    victim.symlink_to(project.root / "one.png")
    before = project.prepare()["sha256"]
    picture(project.root / "one.png")
    assert project.prepare()["sha256"] != before


def test_loops_doubles_and_broken_links_are_refused_by_name(project: Project) -> None:
    dark = project.images / "train" / "dark"
    (dark / "loop").symlink_to(project.images / "train")
    (dark / "self.png").symlink_to(dark / "self.png")
    (dark / "gone.png").symlink_to("/nowhere/x.png")
    (dark / "again").symlink_to(project.images / "test" / "dark")
    said = project.refusal()
    assert "train/dark/loop: leads to a folder that is here already, train" in said
    assert "train/dark/self.png: a broken link" in said
    assert "train/dark/gone.png: a broken link to /nowhere/x.png" in said
    assert "test/dark: leads to a folder that is here already, train/dark/again" in said


def test_unreadable_folders_and_files_are_listed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir, opened = os.scandir, Image.open
    (project.images / "train" / "dark" / "locked").mkdir()

    def refusing_scandir(path: str | Path = ".") -> object:
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    def refusing_open(path: str, *rest: object, **more: object) -> object:
        if str(path).endswith("003.png"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "scandir", refusing_scandir)
    monkeypatch.setattr(Image, "open", refusing_open)
    said = project.refusal()
    assert "train/dark/locked: can't be read (Permission denied)" in said
    assert "train/dark/003.png: Permission denied" in said
    assert "test/bright/003.png: Permission denied" in said


# --- 32: names ------------------------------------------------------------------------------------------------------


def test_names_that_are_no_text_are_refused_in_a_message_that_can_be_printed(project: Project) -> None:
    dark = project.images / "train" / "dark"
    try:
        (dark / "000.png").rename(dark / os.fsdecode(b"caf\xe9.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    (project.images / "train" / os.fsdecode(b"caf\xe9")).mkdir()
    said = project.refusal()
    assert "train/dark/caf\\xe9.png: the name is not UTF-8" in said
    assert "train/caf\\xe9: the name is not UTF-8" in said


def test_names_with_signs_of_their_own_are_kept(project: Project) -> None:
    dark = project.images / "train" / "dark"
    expected = project.prepare()["sha256"]
    for number, name in enumerate(("a b.png", "a,b.png", 'a"b.png', "a\nb.png", "a\tb.png", "猫🐈.png")):
        (dark / f"{number:03d}.png").rename(dark / name)
    assert project.prepare()["sha256"] == expected
    assert {"train/dark/a\\nb.png", "train/dark/猫🐈.png"} < {row["file"] for row in project.index()}


def test_classes_that_differ_by_unicode_form_alone_are_named(project: Project) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    (project.images / "train" / "dark").rename(project.images / "train" / composed)
    (project.images / "test" / "dark").rename(project.images / "test" / decomposed)
    said = project.refusal()
    assert "another Unicode form" in said
    assert "no such class" not in said


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("empty on both sides", "train/bird: no image in this class (it is empty)"),
        ("in train alone", "train/bird: test has no such class"),
        ("in test alone", "test/bird: train has no such class"),
        ("without a readable suffix", "train/bird: no image in this class (2 not an image (.heic))"),
    ],
)
def test_a_class_without_images_on_one_side_is_named_with_the_side(project: Project, kind: str, said: str) -> None:
    if kind != "in test alone":
        (project.images / "train" / "bird").mkdir()
    if kind != "in train alone":
        (project.images / "test" / "bird").mkdir()
    if kind == "in train alone":
        picture(project.images / "train" / "bird" / "0.png")
    elif kind == "in test alone":
        picture(project.images / "test" / "bird" / "0.png")
    elif kind == "without a readable suffix":
        picture(project.images / "test" / "bird" / "0.png")
        for number in range(2):
            (project.images / "train" / "bird" / f"{number}.HEIC").write_bytes(b"x")
    assert said in project.refusal()


# --- 33, 34: copies, contradictions, tiny classes -------------------------------------------------------------------


@pytest.mark.parametrize("how", ["the same file", "another encoding", "one byte more"])
def test_the_same_pixels_in_train_and_test_are_refused(project: Project, how: str) -> None:
    source, copy = project.images / "train" / "dark" / "003.png", project.images / "test" / "dark" / "copy.png"
    if how == "another encoding":
        Image.open(source).save(copy.with_suffix(".tiff"))
    else:
        copy.write_bytes(source.read_bytes() + (b"x" if how == "one byte more" else b""))
    said = project.refusal()
    assert "train/dark/003.png" in said
    assert "test/dark/copy" in said


def test_the_same_pixels_in_val_and_train_are_refused(project: Project) -> None:
    shutil.copytree(project.images / "train", project.images / "val")
    said = project.refusal()
    assert "28 in all" in said


@pytest.mark.parametrize("split", ["train", "test", "without a test folder"])
def test_the_same_pixels_under_two_labels_are_refused(project: Project, split: str) -> None:
    if split == "without a test folder":
        shutil.rmtree(project.images / "test")
        split = "train"
    place = project.images / split
    Image.open(place / "dark" / "003.png").save(place / "bright" / "x.bmp")
    said = project.refusal()
    assert "two labels" in said
    assert f"{split}/bright/x.bmp = {split}/dark/003.png" in said


def test_copies_within_a_class_are_used_once_counted_and_said(project: Project) -> None:
    shutil.rmtree(project.images / "test")
    expected = project.prepare()
    dark = project.images / "train" / "dark"
    for number in range(5):
        Image.open(dark / "003.png").save(dark / f"zz{number}.bmp")
    card = project.prepare()
    assert card["copies"] == 5
    assert card["sha256"] == expected["sha256"]
    assert len({row["id"] for row in project.index()}) == len(project.index()) == 28
    assert "train/dark/003.png" in {row["file"] for row in project.index()}
    assert "copies left out" in project.all_said()


def test_a_class_of_one_image_is_refused_by_name_where_it_has_to_be_split(project: Project) -> None:
    shutil.rmtree(project.images / "test")
    picture(project.images / "train" / "bird" / "0.png")
    said = project.refusal()
    assert "class 'bird' has a single image" in said
    for number in range(1, 4):
        shutil.copy(project.images / "train" / "bird" / "0.png", project.images / "train" / "bird" / f"{number}.png")
    assert "class 'bird' has a single image (4 copies)" in project.refusal()


# --- 37, 45: the user's own files, and a full disk ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["images.npy", "images_whole.npy", "index.csv", "card.json", "listing.json"])
def test_a_file_of_the_users_own_is_not_overwritten(project: Project, name: str) -> None:
    project.prepared.mkdir(parents=True)
    (project.prepared / name).write_text("mine")
    (project.prepared / "notes.txt").write_text("mine too")
    said = project.refusal()
    assert name in said
    assert {path.name: path.read_text() for path in project.prepared.iterdir()} == {
        name: "mine",
        "notes.txt": "mine too",
    }


def test_what_an_earlier_edition_or_a_crash_left_is_replaced(project: Project) -> None:
    expected = project.prepare()
    (project.prepared / "listing.json").unlink()  # an earlier edition kept none
    assert project.prepare() == expected
    (project.prepared / "listing.json").write_text('{"written_by": "thaw"}')  # a crash before the end
    (project.prepared / "images.npy").write_bytes(b"half")
    assert project.prepare() == expected
    assert project.pixels().shape == (40, 24, 24, 3)


def test_the_images_may_lie_where_their_prepared_data_do(project: Project) -> None:
    project.prepared.parent.mkdir()
    project.images.rename(project.prepared)
    project.write_params("data/tiny")
    project.prepare()
    before = snapshot(project.prepared)
    project.prepare()
    assert snapshot(project.prepared) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("full", ["scratch file", "images.npy"])
def test_a_full_disk_is_an_error_and_leaves_no_partial_file(
    project: Project, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    project.prepare()
    before = (project.prepared / "images.npy").read_bytes()
    picture(project.images / "train" / "dark" / "new.png")

    def on_a_full_disk(target: Path) -> Path:
        partial = target.with_name(".partial-full")
        partial.symlink_to("/dev/full")
        return partial

    with monkeypatch.context() as patch:
        if full == "scratch file":
            always_full = Path("/dev/full").open("r+b", buffering=0)  # noqa: SIM115 (the stage closes it)
            patch.setattr("tempfile.TemporaryFile", lambda **_: always_full)
        else:
            patch.setattr(prepared, "partial_of", on_a_full_disk)
        assert "No space left on device" in project.refusal()
    assert (project.prepared / "images.npy").read_bytes() == before
    assert not list(project.prepared.glob(".partial-*"))
    assert project.prepare()["pool_images"] == 29


def test_what_a_killed_prepare_left_is_swept_once_it_is_old(project: Project) -> None:
    project.prepared.mkdir(parents=True)
    old, young = (project.prepared / f".partial-{name}-images.npy" for name in ("old", "young"))
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    project.prepare()
    assert young.exists()
    assert not old.exists()
