"""Registry of data sets: where images come from, their checksums; nothing is decoded here."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import folders
from pipeline.folders import DatasetError as DatasetError
from pipeline.folders import Source, Split


@dataclass(frozen=True)
class Listing:
    """All that is known of a data set before an image is opened."""

    name: str
    origin: str
    licence: str
    classes: tuple[str, ...]
    sources: Callable[[], Sequence[Source]]
    stamp: str  # checksum of every file's name, size and times: equal where nothing was touched
    has_test: bool  # a test split of its own
    skipped: Mapping[str, int]  # reason: how many entries were left out
    refused: tuple[str, ...]  # entries that can't be used, and why
    notes: tuple[str, ...]


def look(name: str, options: Mapping[str, Any]) -> Listing:
    """List the images of data set `name` without opening one. Raises DatasetError."""
    return REGISTRY[name](options)


# --- the data sets --------------------------------------------------------------------------------------------------


def _folder(options: Mapping[str, Any]) -> Listing:
    """Any folder: `train/<class>/*` with `test/<class>/*` and `val/<class>/*` if given, else a fixed split."""
    root = Path(str(options["path"])).expanduser()
    found = folders.sort(root)
    return Listing(
        folders.shown(str(options.get("name", root.name or root.resolve().name))),
        folders.shown(f"folder {root.as_posix()}"),
        folders.shown(str(options.get("licence", "as given by whoever made the folder"))),
        found.classes,
        found.sources,
        found.stamp,
        found.has_test,
        found.skipped,
        found.refused,
        found.notes,
    )


def _elpv(options: Mapping[str, Any]) -> Listing:
    """Solar cells by electroluminescence (Deitsch et al., arXiv 1807.02894): 2,624 grey photographs of 300 × 300 px."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise DatasetError("data set elpv needs the package elpv-dataset: `pip install elpv-dataset`")
    place = Path(next(iter(spec.submodule_search_locations))) / "data"
    rows = [line.split() for line in (place / "labels.csv").read_text(encoding="utf-8").splitlines() if line.strip()]
    label = options.get("label", "defective")
    if label == "defective":
        classes: tuple[str, ...] = ("functional", "defective")
        note = "defective means a defect probability above 0.5 (annotated levels: 0, 1/3, 2/3, 1)"
    else:
        classes = ("0", "1/3", "2/3", "1")
        note = "the class is the annotated defect probability"
    sources = []
    for name, probability, _ in rows:
        level = round(float(probability) * 3)
        sources.append(Source(name, int(level >= 2) if label == "defective" else level, "pool", str(place / name)))
    return Listing(
        "ELPV",
        "package elpv-dataset, Deitsch et al. (2019), https://doi.org/10.1016/j.solener.2019.02.067",
        "CC BY-NC-SA 4.0: non-commercial use only",
        classes,
        lambda: sources,
        _stamp("ELPV", [place / "labels.csv", *(Path(str(source.content)) for source in sources)]),
        has_test=False,
        skipped={},
        refused=(),
        notes=(
            note,
            "grey images, replicated to three channels",
            "no module ids are published: cells of one module may stand in the pool and in the test split",
        ),
    )


def _stamp(name: str, paths: Iterable[Path]) -> str:
    try:
        return folders.stamp_of(paths)
    except OSError as error:
        raise DatasetError(f"{name}: {folders.shown(str(error.filename))} can't be read ({error.strerror})") from error


CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_FILES: Mapping[str, str] = {  # file: MD5
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


def _cifar10(options: Mapping[str, Any]) -> Listing:
    """CIFAR-10 (Krizhevsky, 2009) from its Python files, downloaded by torchvision if they are not on disk."""
    root = Path(str(options.get("root", "data"))).expanduser()
    place = root / CIFAR10_FOLDER
    if not place.is_dir():
        from torchvision.datasets import CIFAR10

        try:
            CIFAR10(str(root), download=True)
        except Exception as error:
            raise DatasetError(
                f"CIFAR-10 is not in {folders.shown(str(place))} and can't be downloaded ({error}); unpack "
                "cifar-10-python.tar.gz there"
            ) from error
    return Listing(
        "CIFAR-10",
        "torchvision, Krizhevsky (2009)",
        "as given by its authors",
        CIFAR10_CLASSES,
        lambda: [source for file, md5 in CIFAR10_FILES.items() for source in _cifar10_batch(place / file, md5)],
        _stamp("CIFAR-10", [place / file for file in CIFAR10_FILES]),
        has_test=True,
        skipped={},
        refused=(),
        notes=(),
    )


def _cifar10_batch(path: Path, md5: str) -> Iterator[Source]:
    """The images of one file, verified against its checksum before it is parsed."""
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DatasetError(
            f"CIFAR-10: {folders.shown(str(path))} has MD5 {found}, expected {md5}; unpack cifar-10-python.tar.gz anew"
        )
    batch: dict[str, Any] = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    import numpy as np  # here, since a look at a folder does without

    pixels = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    split: Split = "test" if path.name == "test_batch" else "pool"
    for position, (image, label) in enumerate(zip(pixels, batch["labels"], strict=True)):
        yield Source(f"{path.name}/{position:05d}", int(label), split, np.ascontiguousarray(image))


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


REGISTRY: Mapping[str, Callable[[Mapping[str, Any]], Listing]] = {"elpv": _elpv, "cifar10": _cifar10, "folder": _folder}
