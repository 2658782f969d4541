"""FAULTS 7, 8, 29, 35, 36: files of odd kinds become what a person sees, or are refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.faults.conftest import Project, picture

DARK = Path("train/dark")


def stored(project: Project, name: str) -> np.ndarray:
    """The decoded pixels of one file."""
    at = next(at for at, row in enumerate(project.index()) if row["file"] == f"{DARK.as_posix()}/{name}")
    pixels: np.ndarray = project.pixels()[at]
    return pixels


def test_whatever_pillow_reads_counts_and_the_rest_is_listed_by_suffix(project: Project) -> None:
    dark = project.images / DARK
    formats = {"a.jfif": "JPEG", "b.tif": "TIFF", "c.TIFF": "TIFF", "d.gif": "GIF", "e.jp2": "JPEG2000", "f.ppm": "PPM"}
    formats |= {"g.pgm": "PPM", "without a suffix": "JPEG", "h.JPG": "JPEG", "i.tga": "TGA"}
    for name, kind in formats.items():
        picture(dark / name, format=kind)
    (dark / "notes.txt").write_text("x")
    (dark / "more.txt").write_text("x")
    (dark / "README").write_text("no image")
    (dark / "raw.nef").write_bytes(b"II*\0")
    card = project.prepare()
    assert card["pool_images"] == 28 + len(formats)
    assert card["skipped"] == {"no suffix, and no image": 1, "not an image (.nef)": 1, "not an image (.txt)": 2}
    assert "skipped 2: not an image (.txt)" in project.all_said()


def test_a_class_of_tiff_files_is_a_class(project: Project) -> None:
    expected = project.prepare()["sha256"]
    for path in list((project.images / DARK).iterdir()):
        Image.open(path).save(path.with_suffix(".tif"))
        path.unlink()
    assert project.prepare()["sha256"] == expected


def test_everything_damaged_is_listed_at_once(project: Project) -> None:
    dark = project.images / DARK
    whole = picture(dark / "x.jpg", size=(200, 200)).read_bytes()
    (dark / "x.jpg").unlink()
    (dark / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (dark / "empty.png").write_bytes(b"")
    (dark / "page.jpg").write_text("<html>404</html>")
    Image.fromarray(np.zeros((24, 24), np.float32)).save(dark / "float.tif")
    (dark / "gone.png").symlink_to("/nowhere")
    said = project.refusal()
    assert "5 in all" in said
    for name, why in (("cut.jpg", "truncated"), ("empty.png", "an empty file"), ("page.jpg", "not a readable image")):
        assert f"train/dark/{name}: " in said
        assert why in said
    assert "train/dark/float.tif: images of mode F have no agreed range" in said


def test_a_truncated_image_alone_is_refused_and_nothing_is_written(project: Project) -> None:
    victim = project.images / DARK / "000.png"
    victim.write_bytes(victim.read_bytes()[:900])
    assert "train/dark/000.png: damaged" in project.refusal()
    assert not (project.prepared / "card.json").exists()


def test_a_postscript_file_in_disguise_starts_no_program(project: Project) -> None:
    (project.images / DARK / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    assert "train/dark/x.jpg: not a readable image" in project.refusal()


def test_a_decompression_bomb_is_refused_by_name(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(project.images / DARK / "big.png", size=(60, 60))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    said = project.refusal()
    assert "train/dark/big.png: too many pixels" in said
    assert "1 in all" in said


def deep(project: Project, top: int) -> None:
    """Turn every image of the folder into 16-bit grey, none above `top`."""
    for number, path in enumerate(sorted(project.images.rglob("*.png"))):
        values = np.random.default_rng(number).integers(0, top, (24, 24))
        values[0, 0] = top if number == 0 else 0
        Image.fromarray(values.astype(np.uint16)).save(path)


def test_a_folder_of_16_bit_images_that_use_few_bits_is_scaled_by_its_maximum_and_says_so(project: Project) -> None:
    deep(project, 4095)
    card = project.prepare()
    assert project.pixels().max() == 255
    assert 100 < project.pixels().mean() < 150
    assert any("4095" in note for note in card["notes"])
    assert "4095" in project.all_said()


def test_single_16_bit_images_are_divided_by_256_and_noted(project: Project) -> None:
    Image.fromarray(np.full((24, 24), 51400, np.uint16)).save(project.images / DARK / "deep.png")
    card = project.prepare()
    assert (stored(project, "deep.png") == 200).all()
    assert any("1 of 41 images have 16 bits" in note for note in card["notes"])


def test_a_16_bit_pgm_is_16_bits_too(project: Project) -> None:
    content = b"P5 24 24 65535\n" + np.full((24, 24), 51400, ">u2").tobytes()
    (project.images / DARK / "deep.pgm").write_bytes(content)
    project.prepare()
    assert (stored(project, "deep.pgm") == 200).all()


def test_a_long_strip_is_fitted_in_little_memory(project: Project) -> None:
    strip = np.random.default_rng(0).integers(0, 256, (60_000, 3, 3)).astype(np.uint8)
    strip[29_990:30_010] = 77  # what the middle shows
    Image.fromarray(strip).save(project.images / DARK / "long.png")
    asked: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def watched(image: Image.Image, size: tuple[int, int], *rest: object, **more: object) -> Image.Image:
        asked.append(size)
        return resize(image, size, *rest, **more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", watched)
        project.prepare()
    assert (
        max(wide * high for wide, high in asked) < 2 * 32 * 32
    )  # 3 x 60,000 px blown up to 32 px across would be 61 MB, to 224 px 3 GB
    assert (stored(project, "long.png") == 77).all()


def test_animated_images_count_by_their_first_frame_and_tiny_ones_are_fitted(project: Project) -> None:
    dark = project.images / DARK
    frames = [Image.new("RGB", (24, 24), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    frames[0].save(dark / "a.png", save_all=True, append_images=frames[1:], duration=100)
    for name, size in (("one.png", (1, 1)), ("tall.png", (1, 300)), ("wide.png", (300, 1))):
        picture(dark / name, size=size)
    project.prepare()
    assert (stored(project, "a.png") == (250, 0, 0)).all()
    assert project.pixels().shape == (44, 32, 32, 3)


def test_whole_images_are_stored_beside_cut_ones_where_a_strategy_wants_them(project: Project) -> None:
    project.write_params(strategies="feature_extraction, whole_images")
    project.prepare()
    assert not (project.prepared / "images_whole.npy").exists()  # squares are stored as they are, once
    for split in ("train", "test"):
        shutil.rmtree(project.images / split / "dark")
        for number in range(6):
            picture(project.images / split / "dark" / f"{number}.png", size=(100, 60))
    project.prepare()
    cut, whole = project.pixels(), project.pixels("images_whole.npy")
    assert cut.shape == whole.shape == (32, 32, 32, 3)
    assert (cut != whole).any()
    project.write_params()
    project.prepare()
    assert not (project.prepared / "images_whole.npy").exists()
