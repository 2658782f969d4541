"""Images come in whole, converted soundly, identified by their pixels, and split once for all."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import datasets, decoding, identity
from pipeline.datasets import DatasetError
from pipeline.identity import Dataset
from pipeline.preprocessing import Preprocessing
from tests.conftest import write_image_folder

PREPROCESSING = Preprocessing(40, 32, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def settled(name: str, options: dict[str, str]) -> Dataset:
    listing = datasets.look(name, options)
    sources = listing.sources()
    headers = identity.examine(listing, sources, 32, 2)
    ids = [decoded.id for decoded in identity.decode(sources, {}, headers.deepest, 2)]
    return identity.settle(listing, sources, ids)


def folder(path: Path) -> Dataset:
    return settled("folder", {"path": str(path)})


def test_elpv_has_its_2624_photographs_and_a_fixed_stratified_split() -> None:
    dataset = settled("elpv", {})
    labels = np.array([member.label for member in dataset.members])
    test = np.array([member.split == "test" for member in dataset.members])
    assert len(labels) == 2624
    assert np.bincount(labels).tolist() == [1803, 821]  # p > 0.5: 31.3% defective
    assert np.bincount(labels[test]).tolist() == [451, 205]
    assert dataset.copies == 0
    assert dataset.sha256 == "2e71b464e5d0d01eab8d07f6e6ec2db576aae65bf7287648cc4470c018c7d26f"
    levels = datasets.look("elpv", {"label": "four_levels"})
    assert np.bincount([source.label for source in levels.sources()]).tolist() == [1508, 295, 106, 715]
    grey = np.asarray(decoding.upright(levels.sources()[0].content))
    assert grey.shape == (300, 300, 3)
    assert (grey[..., 0] == grey[..., 2]).all()


def test_members_are_ordered_by_split_and_identity_whatever_the_files_are_called(image_folder: Path) -> None:
    before = folder(image_folder)
    assert [member.split for member in before.members] == ["pool"] * 28 + ["test"] * 12
    for number, path in enumerate(sorted(image_folder.rglob("*.png"))):
        path.rename(path.with_name(f"{(number * 7) % 40}-renamed.png"))
    after = folder(image_folder)
    assert [(m.id, m.label, m.split) for m in after.members] == [(m.id, m.label, m.split) for m in before.members]
    assert after.sha256 == before.sha256


def test_an_id_is_the_checksum_of_shape_and_upright_pixels() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert decoding.identity(pixels) == hashlib.sha256(b"2x4\n" + bytes(range(24))).hexdigest()
    assert decoding.identity(pixels.reshape(4, 2, 3)) != decoding.identity(pixels)


def test_a_folder_without_test_images_is_split_by_pixels_alone_and_stays_so_as_it_grows(image_folder: Path) -> None:
    shutil.rmtree(image_folder / "test")
    before = {member.id for member in folder(image_folder).members if member.split == "test"}
    assert len(before) == 8  # a quarter of 14, rounded, of each class
    dark = image_folder / "train" / "dark"
    Image.open(dark / "000.png").save(dark / "zzz.bmp")
    (dark / "000.png").unlink()
    assert {member.id for member in folder(image_folder).members if member.split == "test"} == before
    Image.new("RGB", (24, 24), "red").save(dark / "new.png")
    after = {member.id for member in folder(image_folder).members if member.split == "test"}
    assert len(before - after) <= 1


def test_the_checksum_covers_pixels_labels_and_splits(image_folder: Path) -> None:
    before = folder(image_folder).sha256
    victim = image_folder / "train" / "dark" / "000.png"
    victim.rename(image_folder / "train" / "bright" / "other.png")
    moved = folder(image_folder).sha256
    (image_folder / "train" / "bright" / "other.png").rename(image_folder / "test" / "dark" / "other.png")
    tested = folder(image_folder).sha256
    Image.new("RGB", (24, 24)).save(image_folder / "test" / "dark" / "other.png")
    assert len({before, moved, tested, folder(image_folder).sha256}) == 4


def test_grey_alpha_palette_16_bit_and_cmyk_become_what_a_person_sees(tmp_path: Path) -> None:
    Image.new("L", (24, 24), 100).save(tmp_path / "grey.png")
    Image.new("RGBA", (24, 24), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (24, 24), (10, 200, 30)).quantize(4).save(tmp_path / "palette.png")
    Image.fromarray(np.full((24, 24), 51400, dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.new("CMYK", (24, 24), (0, 0, 0, 255)).save(tmp_path / "print.jpg")
    seen = {path.name: np.asarray(decoding.upright(str(path))) for path in tmp_path.iterdir()}
    assert (seen["grey.png"] == 100).all()
    assert (seen["clear.png"] == 255).all()  # nothing on white
    assert (seen["palette.png"] == (10, 200, 30)).all()
    assert (seen["deep.png"] == 200).all()
    assert seen["print.jpg"].max() < 60


def test_rotated_photographs_are_turned_upright(tmp_path: Path) -> None:
    image = Image.fromarray(np.concatenate([np.zeros((12, 24, 3)), np.full((12, 24, 3), 255)]).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "turned.png", exif=exif)
    assert np.asarray(decoding.upright(str(tmp_path / "turned.png")))[0].min() == 255


@pytest.mark.parametrize("size", [(40, 40), (32, 32), (300, 200), (201, 333), (50, 41), (20, 30), (33, 600)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", ["own", "whole"])
def test_an_image_is_fitted_as_by_resizing_all_of_it_and_cutting_the_centre(
    size: tuple[int, int], interpolation: str, crop: str
) -> None:
    preprocessing = Preprocessing(40, 32, interpolation, (0, 0, 0), (1, 1, 1)).at(32, crop)  # type: ignore[arg-type]
    # Away from black and white, where clipping between the two passes would tell their order.
    noise = np.random.default_rng(size[0]).integers(80, 176, (size[1], size[0], 3)).astype(np.uint8)
    image = Image.fromarray(noise)
    other = int(preprocessing.resize * max(size) / min(size))
    target = (preprocessing.resize, other) if size[0] <= size[1] else (other, preprocessing.resize)
    whole = image.resize(target, Image.Resampling[interpolation.upper()])
    left, top = round((target[0] - 32) / 2), round((target[1] - 32) / 2)
    expected = np.asarray(whole.crop((left, top, left + 32, top + 32))).astype(int)
    assert abs(np.asarray(decoding.fit(image, preprocessing)) - expected).max() <= 2


def test_images_smaller_than_the_working_size_are_stored_as_they_are(image_folder: Path) -> None:
    def native(working: int) -> int | None:
        listing = datasets.look("folder", {"path": str(image_folder)})
        return identity.examine(listing, listing.sources(), working, 2).native

    assert native(32) == 24
    assert native(24) is None
    Image.new("RGB", (30, 24)).save(image_folder / "train" / "dark" / "odd.png")
    assert native(32) is None


def test_a_class_that_copies_leave_too_small_is_refused(tmp_path: Path) -> None:
    write_image_folder(tmp_path, train=2, test=1)
    shutil.rmtree(tmp_path / "test")
    assert [member.split for member in folder(tmp_path).members] == ["pool", "pool", "test", "test"]
    shutil.copy(tmp_path / "train" / "dark" / "000.png", tmp_path / "train" / "dark" / "001.png")
    with pytest.raises(DatasetError, match=r"class 'dark' has a single image \(2 copies\)"):
        folder(tmp_path)


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny files of CIFAR-10's layout, with checksums of their own."""
    base = tmp_path / datasets.CIFAR10_FOLDER
    base.mkdir()
    generator = np.random.default_rng(0)
    files = {}
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        pixels = generator.integers(0, 256, (20, 3072)).astype(np.uint8)
        (base / name).write_bytes(pickle.dumps({"data": pixels, "labels": [n % 10 for n in range(20)]}))
        files[name] = hashlib.md5((base / name).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets, "CIFAR10_FILES", files)
    return tmp_path


def test_cifar10_names_the_files_and_classes_that_torchvision_does() -> None:
    from torchvision.datasets import CIFAR10

    assert [[file, md5] for file, md5 in datasets.CIFAR10_FILES.items()] == CIFAR10.train_list + CIFAR10.test_list
    assert CIFAR10.base_folder == datasets.CIFAR10_FOLDER


def test_cifar10_is_read_from_its_files_on_disk(cifar10: Path) -> None:
    dataset = settled("cifar10", {"root": str(cifar10)})
    assert len(dataset.members) == 60
    assert sum(member.split == "test" for member in dataset.members) == 20
    listing = datasets.look("cifar10", {"root": str(cifar10)})
    assert identity.examine(listing, listing.sources(), 96, 1).native == 32


def test_an_altered_cifar10_file_is_noticed_and_refused_before_it_is_parsed(cifar10: Path) -> None:
    before = datasets.look("cifar10", {"root": str(cifar10)}).stamp
    path = cifar10 / "cifar-10-batches-py" / "data_batch_1"
    path.write_bytes(path.read_bytes() + b"x")
    listing = datasets.look("cifar10", {"root": str(cifar10)})
    assert listing.stamp != before
    with pytest.raises(DatasetError, match="data_batch_1 has MD5"):
        listing.sources()
    path.unlink()
    with pytest.raises(DatasetError, match="data_batch_1 can't be read"):
        datasets.look("cifar10", {"root": str(cifar10)})


def test_a_cifar10_batch_with_code_in_it_is_not_run(cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cifar10 / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(b"cos\nsystem\n(S'touch exploded'\ntR.")
    monkeypatch.setattr(datasets, "CIFAR10_FILES", {"test_batch": hashlib.md5(path.read_bytes()).hexdigest()})
    with pytest.raises(DatasetError, match="holds more than arrays"):
        datasets.look("cifar10", {"root": str(cifar10)}).sources()
