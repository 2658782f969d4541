"""Images come in whole, converted soundly, checked, and split once for all."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import datasets
from pipeline.backbones import Preprocessing
from pipeline.datasets import DatasetError
from tests.conftest import write_image_folder

PREPROCESSING = Preprocessing(40, 32, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def folder(path: Path) -> datasets.Dataset:
    return datasets.load("folder", {"path": str(path), "name": "squares"})


def decoded(path: Path) -> np.ndarray:
    dataset = folder(path)
    return np.stack(list(datasets.decode(dataset, PREPROCESSING, None, 2)))


def test_elpv_has_its_2624_photographs_and_a_fixed_stratified_split() -> None:
    dataset = datasets.load("elpv", {})
    labels = np.array([source.label for source in dataset.sources])
    test = np.array([source.test for source in dataset.sources])
    assert len(labels) == 2624
    assert np.bincount(labels).tolist() == [1803, 821]  # p > 0.5: 31.3% defective
    assert np.bincount(labels[test]).tolist() == [451, 205]
    assert dataset.sha256 == datasets.load("elpv", {}).sha256
    assert dataset.sha256 == "6dcdf1067c271d0f219c8e4db8ae80498eae98ae70d2cf524cba18f2bcf86d28"
    levels = datasets.load("elpv", {"label": "four_levels"})
    assert np.bincount([source.label for source in levels.sources]).tolist() == [1508, 295, 106, 715]
    grey = np.asarray(dataset.sources[0].open())
    assert grey.shape == (300, 300, 3)
    assert (grey[..., 0] == grey[..., 2]).all()


def test_a_folder_brings_its_own_test_split_and_counts_other_files(image_folder: Path) -> None:
    (image_folder / "train" / "dark" / "notes.txt").write_text("no image")
    dataset = folder(image_folder)
    assert dataset.name == "squares"
    assert dataset.classes == ("bright", "dark")
    assert sum(source.test for source in dataset.sources) == 12
    assert "1 files that are no images were ignored" in dataset.notes


def test_a_folder_without_test_images_is_split_by_content_alone(image_folder: Path) -> None:
    for path in (image_folder / "test").rglob("*.png"):
        path.unlink()
    for name in ("bright", "dark", ""):
        (image_folder / "test" / name).rmdir()
    before = {source.sha256 for source in folder(image_folder).sources if source.test}
    assert len(before) == 8  # a quarter of 14, rounded, of each class
    (image_folder / "train" / "dark" / "000.png").rename(image_folder / "train" / "dark" / "zzz.png")
    assert {source.sha256 for source in folder(image_folder).sources if source.test} == before


def test_the_checksum_covers_names_and_contents(image_folder: Path) -> None:
    before = folder(image_folder).sha256
    assert folder(image_folder).sha256 == before
    victim = image_folder / "train" / "dark" / "000.png"
    content = victim.read_bytes()
    Image.new("RGB", (24, 24)).save(victim)
    assert folder(image_folder).sha256 != before
    victim.write_bytes(content)
    victim.rename(victim.with_name("other.png"))
    assert folder(image_folder).sha256 != before


def test_the_same_image_in_train_and_test_is_refused_by_name(image_folder: Path) -> None:
    source = image_folder / "train" / "dark" / "003.png"
    (image_folder / "test" / "dark" / "copy.png").write_bytes(source.read_bytes())
    with pytest.raises(DatasetError, match=r"test/dark/copy.png = train/dark/003.png"):
        folder(image_folder)


def test_every_unreadable_image_is_listed_and_none_skipped(image_folder: Path) -> None:
    whole = (image_folder / "train" / "dark" / "000.png").read_bytes()
    (image_folder / "train" / "dark" / "000.png").write_bytes(whole[: len(whole) // 2])
    (image_folder / "test" / "bright" / "001.png").write_bytes(b"not an image")
    with pytest.raises(DatasetError, match="2 images") as error:
        decoded(image_folder)
    assert "train/dark/000.png" in str(error.value)
    assert "test/bright/001.png" in str(error.value)


def test_grey_alpha_palette_16_bit_and_cmyk_become_what_a_person_sees(tmp_path: Path) -> None:
    write_image_folder(tmp_path)
    dark = tmp_path / "train" / "dark"
    Image.new("L", (24, 24), 100).save(dark / "grey.png")
    Image.new("RGBA", (24, 24), (255, 0, 0, 0)).save(dark / "clear.png")
    Image.new("RGB", (24, 24), (10, 200, 30)).quantize(4).save(dark / "palette.png")
    Image.fromarray(np.full((24, 24), 51400, dtype=np.uint16)).save(dark / "deep.png")
    Image.new("CMYK", (24, 24), (0, 0, 0, 255)).save(dark / "print.jpg")
    by_id = {source.id.rpartition("/")[2]: np.asarray(source.open()) for source in folder(tmp_path).sources}
    assert (by_id["grey.png"] == 100).all()
    assert (by_id["clear.png"] == 255).all()  # nothing on white
    assert (by_id["palette.png"] == (10, 200, 30)).all()
    assert (by_id["deep.png"] == 200).all()
    assert by_id["print.jpg"].max() < 60


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image_folder(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(DatasetError, match="too many pixels"):
        decoded(tmp_path)


def test_rotated_photographs_are_turned_upright(tmp_path: Path) -> None:
    write_image_folder(tmp_path)
    image = Image.fromarray(np.concatenate([np.zeros((12, 24, 3)), np.full((12, 24, 3), 255)]).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "train" / "dark" / "turned.png", exif=exif)
    turned = next(source for source in folder(tmp_path).sources if source.id.endswith("turned.png")).open()
    assert np.asarray(turned)[0].min() == 255


@pytest.mark.parametrize("damage", ["no train folder", "one class", "empty class", "classes differ"])
def test_folders_that_cannot_be_used_are_refused_with_the_reason(image_folder: Path, damage: str) -> None:
    if damage == "no train folder":
        (image_folder / "train").rename(image_folder / "training")
    elif damage == "one class":
        for path in (image_folder / "train" / "dark").iterdir():
            path.unlink()
        (image_folder / "train" / "dark").rmdir()
    elif damage == "empty class":
        for path in (image_folder / "train" / "dark").iterdir():
            path.unlink()
    else:
        (image_folder / "test" / "dark").rename(image_folder / "test" / "darker")
    with pytest.raises(DatasetError):
        folder(image_folder)


def test_images_smaller_than_the_working_size_are_stored_as_they_are(image_folder: Path) -> None:
    dataset = folder(image_folder)
    assert datasets.stored_size(dataset, PREPROCESSING) == 24
    Image.new("RGB", (30, 24)).save(image_folder / "train" / "dark" / "odd.png")
    assert datasets.stored_size(folder(image_folder), PREPROCESSING) is None
    assert decoded(image_folder).shape[1:] == (32, 32, 3)


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny files of CIFAR-10's layout, with checksums of their own."""
    from torchvision.datasets import CIFAR10

    base = tmp_path / CIFAR10.base_folder
    base.mkdir()
    generator = np.random.default_rng(0)

    def write(name: str, content: object) -> list[str]:
        (base / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((base / name).read_bytes()).hexdigest()]

    def batch() -> dict[str, object]:
        return {"data": generator.integers(0, 256, (20, 3072)).astype(np.uint8), "labels": [n % 10 for n in range(20)]}

    monkeypatch.setattr(CIFAR10, "train_list", [write(f"data_batch_{n}", batch()) for n in range(1, 3)])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch())])
    name, md5 = write("batches.meta", {"label_names": [f"class{n}" for n in range(10)]})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    return tmp_path


def test_cifar10_is_read_from_its_files_on_disk(cifar10: Path) -> None:
    dataset = datasets.load("cifar10", {"root": str(cifar10)})
    assert len(dataset.sources) == 60
    assert sum(source.test for source in dataset.sources) == 20
    assert datasets.stored_size(dataset, PREPROCESSING) == 32 or PREPROCESSING.crop == 32
    pixels = np.stack(list(datasets.decode(dataset, PREPROCESSING, 32, 2)))
    assert pixels.shape == (60, 32, 32, 3)


def test_an_altered_cifar10_file_is_refused_before_it_is_parsed(cifar10: Path) -> None:
    path = cifar10 / "cifar-10-batches-py" / "data_batch_1"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DatasetError, match="data_batch_1 has MD5"):
        datasets.load("cifar10", {"root": str(cifar10)})


def test_a_cifar10_batch_with_code_in_it_is_not_run(cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    path = cifar10 / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(b"cos\nsystem\n(S'touch exploded'\ntR.")
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", digest]])
    with pytest.raises(DatasetError, match="holds more than arrays"):
        datasets.load("cifar10", {"root": str(cifar10)})
