"""Registry of data sets: where images come from, their checksums, their fixed test split."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pickle
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.backbones import Preprocessing

Pixels = NDArray[np.uint8]

TEST_SHARE = 0.25  # of each class, where a data set brings no test split of its own
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


class DatasetError(ValueError):
    """A data set that is missing, altered, or can't be used as it is."""


@dataclass(frozen=True)
class Source:
    """One image that has not been decoded yet."""

    id: str  # unique in the data set, the same on every machine
    label: int
    test: bool
    sha256: str  # of the file's bytes, or of the raw pixels where there is no file
    content: Path | Pixels

    def open(self) -> Image.Image:
        """Decode to RGB. Raises DatasetError where the file is damaged or its mode can't be converted soundly."""
        if isinstance(self.content, Path):
            return _read(self.content)
        return Image.fromarray(self.content)


@dataclass(frozen=True)
class Dataset:
    """All images of a data set, the pool before the test images, each by id."""

    name: str
    origin: str
    licence: str
    classes: tuple[str, ...]
    sources: tuple[Source, ...]
    notes: tuple[str, ...] = ()
    sha256: str = field(default="", compare=False)


def load(name: str, options: Mapping[str, Any]) -> Dataset:
    """List and hash the images of data set `name`, and check what every study relies on.

    Raises DatasetError for an image that stands in the pool and in the test split, and for an empty class.
    """
    dataset = REGISTRY[name](options)
    sources = tuple(sorted(dataset.sources, key=lambda source: (source.test, source.id)))
    _refuse_leaks(sources)
    for split in (False, True):
        counts = Counter(source.label for source in sources if source.test == split)
        for label, class_name in enumerate(dataset.classes):
            if not counts[label]:
                raise DatasetError(
                    f"{dataset.name}: class '{class_name}' has no {'test' if split else 'training'} image"
                )
    digest = hashlib.sha256("\n".join(dataset.classes).encode())
    for source in sources:
        digest.update(f"\n{source.id}\t{source.label}\t{source.test}\t{source.sha256}".encode())
    return Dataset(
        dataset.name, dataset.origin, dataset.licence, dataset.classes, sources, dataset.notes, digest.hexdigest()
    )


def _refuse_leaks(sources: Sequence[Source]) -> None:
    pool = {source.sha256: source.id for source in sources if not source.test}
    leaks = [f"{source.id} = {pool[source.sha256]}" for source in sources if source.test and source.sha256 in pool]
    if leaks:
        listed = ", ".join(leaks[:10]) + (f" and {len(leaks) - 10} more" if len(leaks) > 10 else "")
        raise DatasetError(f"the same image in training and test data, remove one of each pair: {listed}")


# --- decoding -------------------------------------------------------------------------------------------------------


def _read(path: Path) -> Image.Image:
    """Open a file as upright RGB; alpha is laid over white, 16-bit grey is scaled to 8."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image), path)
    except DatasetError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DatasetError(f"{path}: refused, too many pixels ({error})") from error
    except Exception as error:
        raise DatasetError(f"{path}: not a readable image ({error})") from error


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV"):
        return image.convert("RGB")
    raise DatasetError(f"{path}: images of mode {image.mode} have no agreed range; save it as 8-bit RGB or grey")


def fit(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Shorter side to `resize`, then the centre `crop` × `crop`, as the weights' own transform does with PIL images."""
    wide, high = image.size
    resample = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[preprocessing.interpolation]
    short, long = min(wide, high), max(wide, high)
    if short != preprocessing.resize:
        other = int(preprocessing.resize * long / short)
        size = (preprocessing.resize, other) if wide <= high else (other, preprocessing.resize)
        image = image.resize(size, resample)
    left = round((image.width - preprocessing.crop) / 2)
    top = round((image.height - preprocessing.crop) / 2)
    return image.crop((left, top, left + preprocessing.crop, top + preprocessing.crop))


def stored_size(dataset: Dataset, preprocessing: Preprocessing) -> int | None:
    """The native side in pixels if all images are squares of one size below the working size, else None.

    Such images are stored as they are, and resized on the device; all others are stored at the working size.
    """
    sizes = set()
    for source in dataset.sources:
        if isinstance(source.content, Path):
            try:
                with Image.open(source.content) as image:
                    sizes.add(image.size)
            except Exception:
                return None  # decoding names every bad file
        else:
            sizes.add((source.content.shape[1], source.content.shape[0]))
        if len(sizes) > 1:
            return None
    ((wide, high),) = sizes
    return wide if wide == high and wide < preprocessing.crop else None


def decode(dataset: Dataset, preprocessing: Preprocessing, native: int | None, workers: int) -> Iterator[Pixels]:
    """Every image in order, as [H, W, 3] at its native size or fitted to the working size.

    Raises DatasetError that lists every file that can't be read; none is skipped.
    """

    def one(source: Source) -> Pixels | str:
        try:
            image = source.open()
        except DatasetError as error:
            return str(error)
        return np.asarray(image if native is not None else fit(image, preprocessing), dtype=np.uint8)

    bad: list[str] = []
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(dataset.sources), 256):
            for result in pool.map(one, dataset.sources[start : start + 256]):
                if isinstance(result, str):
                    bad.append(result)
                elif not bad:
                    yield result
    if bad:
        raise DatasetError(f"{len(bad)} images can't be used:\n  " + "\n  ".join(bad))


# --- splits ---------------------------------------------------------------------------------------------------------


def _split(sources: Sequence[Source]) -> list[Source]:
    """Put `TEST_SHARE` of each class into the test split, fixed by content: the same images whatever their order."""
    result = []
    for label in sorted({source.label for source in sources}):
        members = sorted((s for s in sources if s.label == label), key=lambda s: (_rank(s), s.id))
        count = max(1, round(TEST_SHARE * len(members)))
        while count < len(members) and members[count].sha256 == members[count - 1].sha256:
            count += 1  # never the same image on both sides
        result += [Source(s.id, s.label, position < count, s.sha256, s.content) for position, s in enumerate(members)]
    return result


def _rank(source: Source) -> str:
    return hashlib.sha256(f"test split {source.sha256}".encode()).hexdigest()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- the data sets --------------------------------------------------------------------------------------------------


def _elpv(options: Mapping[str, Any]) -> Dataset:
    """Solar cells by electroluminescence (Deitsch et al., arXiv 1807.02894): 2,624 grey photographs of 300 × 300 px."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise DatasetError("data set elpv needs the package elpv-dataset: `pip install elpv-dataset`")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    rows = [line.split() for line in (folder / "labels.csv").read_text().splitlines() if line.strip()]
    label = options.get("label", "defective")
    if label == "defective":
        classes: tuple[str, ...] = ("functional", "defective")
        note = "defective means a defect probability above 0.5 (annotated levels: 0, 1/3, 2/3, 1)"
    else:
        classes = ("0", "1/3", "2/3", "1")
        note = "the class is the annotated defect probability"
    sources = []
    for name, probability, _ in rows:
        path, level = folder / name, round(float(probability) * 3)
        sources.append(Source(name, int(level >= 2) if label == "defective" else level, False, _digest(path), path))
    return Dataset(
        "ELPV",
        "package elpv-dataset, Deitsch et al. (2019), https://doi.org/10.1016/j.solener.2019.02.067",
        "CC BY-NC-SA 4.0: non-commercial use only",
        classes,
        tuple(_split(sources)),
        (
            note,
            "grey images, replicated to three channels",
            "no module ids are published: cells of one module may stand in the pool and in the test split",
        ),
    )


def _folder(options: Mapping[str, Any]) -> Dataset:
    """Any folder: `train/<class>/*` with `test/<class>/*` if given, else a fixed stratified split."""
    root = Path(str(options["path"])).expanduser()
    train = root / "train"
    if not train.is_dir():
        raise DatasetError(f"{root}: no folder 'train' with one folder for each class; expected {train}/<class>/*.jpg")
    classes = tuple(sorted(entry.name for entry in train.iterdir() if entry.is_dir()))
    if len(classes) < 2:
        raise DatasetError(f"{train}: {len(classes)} class folders found, at least 2 are needed")
    test = root / "test"
    if test.is_dir():
        strangers = {entry.name for entry in test.iterdir() if entry.is_dir()} ^ set(classes)
        if strangers:
            raise DatasetError(f"{root}: classes differ between train and test: {', '.join(sorted(strangers))}")
    sources, ignored = [], 0
    for split in ("train", "test") if test.is_dir() else ("train",):
        for label, name in enumerate(classes):
            for path in sorted((root / split / name).rglob("*")):
                if not path.is_file():
                    continue
                if path.suffix.lower() not in SUFFIXES:
                    ignored += 1
                    continue
                sources.append(Source(path.relative_to(root).as_posix(), label, split == "test", _digest(path), path))
    if not sources:
        raise DatasetError(f"{root}: no images; JPEG, PNG, WebP and BMP files count")
    notes = (
        []
        if test.is_dir()
        else [f"no test folder: {TEST_SHARE:.0%} of each class, fixed by content, are the test split"]
    )
    if ignored:
        notes.append(f"{ignored} files that are no images were ignored")
    return Dataset(
        str(options.get("name", root.name)),
        f"folder {root.as_posix()}",
        str(options.get("licence", "as given by whoever made the folder")),
        classes,
        tuple(sources if test.is_dir() else _split(sources)),
        tuple(notes),
    )


class _ArraysOnly(pickle.Unpickler):
    """Reads CIFAR-10's batches, which are pickles, and refuses everything in them but NumPy arrays."""

    ALLOWED = frozenset({
        ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
    })  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        """The class a pickle asks for. Raises DatasetError for anything but an array."""
        if (module, name) not in self.ALLOWED:
            raise DatasetError(f"a CIFAR-10 batch asks for {module}.{name}; it holds more than arrays and is not run")
        return super().find_class(module, name)


def _cifar10(options: Mapping[str, Any]) -> Dataset:
    """CIFAR-10 (Krizhevsky, 2009) from torchvision's files, downloaded if they are not on disk."""
    from torchvision.datasets import CIFAR10

    root = Path(str(options.get("root", "data"))).expanduser()
    folder = root / CIFAR10.base_folder
    if not folder.is_dir():
        try:
            CIFAR10(str(root), download=True)
        except Exception as error:
            raise DatasetError(
                f"CIFAR-10 is not in {folder} and can't be downloaded ({error}); unpack cifar-10-python.tar.gz there"
            ) from error
    sources, classes = [], tuple(_cifar10_batch(folder, *_meta(CIFAR10))["label_names"])
    for test, files in ((False, CIFAR10.train_list), (True, CIFAR10.test_list)):
        for file, md5 in files:
            batch = _cifar10_batch(folder, file, md5)
            pixels = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            for position, (image, label) in enumerate(zip(pixels, batch["labels"], strict=True)):
                digest = hashlib.sha256(image.tobytes()).hexdigest()
                sources.append(Source(f"{file}/{position:05d}", int(label), test, digest, np.ascontiguousarray(image)))
    return Dataset("CIFAR-10", "torchvision, Krizhevsky (2009)", "as given by its authors", classes, tuple(sources))


def _meta(torchvision_cifar10: Any) -> tuple[str, str]:
    return torchvision_cifar10.meta["filename"], torchvision_cifar10.meta["md5"]


def _cifar10_batch(folder: Path, file: str, md5: str) -> dict[str, Any]:
    """One of its files, verified against torchvision's checksum before it is parsed."""
    path = folder / file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"CIFAR-10: {path} is missing; unpack cifar-10-python.tar.gz anew") from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DatasetError(f"CIFAR-10: {path} has MD5 {found}, expected {md5}; unpack cifar-10-python.tar.gz anew")
    batch: dict[str, Any] = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    return batch


REGISTRY: Mapping[str, Callable[[Mapping[str, Any]], Dataset]] = {"elpv": _elpv, "cifar10": _cifar10, "folder": _folder}
