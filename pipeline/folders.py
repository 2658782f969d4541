"""Sort every entry of a folder of images into image, skipped (by reason) or refused; no image is opened for it.

`train/<class>/*`, with `test/<class>/*` and `val/<class>/*` (or valid, validation) if given, in any capitals.
"""

from __future__ import annotations

import functools
import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pipeline.errors import UserError
from pipeline.files import PARTIAL
from pipeline.files import shown as shown

if TYPE_CHECKING:
    from pipeline.decoding import Content

Split = Literal["pool", "test", "watch"]

SPLITS: Mapping[str, str] = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
USUAL = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# EPS would start another program; the others are recognised by Pillow, not decoded.
NOT_DECODED = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})
SYSTEM = frozenset({
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin",
    "system volume information",
})  # fmt: skip
HIDDEN = "hidden (the name begins with a dot)"
OF_A_SYSTEM = "left by an operating system (Thumbs.db, desktop.ini, __MACOSX)"
NO_CLASS = "beside the class folders"
NO_SPLIT = "image or folder beside train"
NO_FILE = "neither a file nor a folder"


class DatasetError(UserError):
    """A data set that is missing, altered, or can't be used as it is."""


class Source(NamedTuple):
    """One image that has not been decoded yet."""

    name: str  # where it is in the data set, for people
    label: int
    split: Split
    content: Content


@dataclass(frozen=True)
class Folder:
    """What a folder holds."""

    classes: tuple[str, ...]
    sources: Callable[[], Sequence[Source]]  # by name
    skipped: Mapping[str, int]  # reason: how many entries
    refused: tuple[str, ...]  # an entry and why it can't be used
    has_test: bool
    notes: tuple[str, ...]
    stamp: str  # checksum of every image's name, size and times


def sort(root: Path) -> Folder:
    """Look through a folder. Raises DatasetError where there is no `train` with classes, and says where it may be."""
    splits, top = _splits(root)
    walk = _Walk(str(root), skipped=top)
    held = {split: walk.classes(name) for split, name in splits.items()}
    classes = tuple(sorted(held["train"]))
    if not walk.refused:
        _expect_classes(root / splits["train"], held["train"], walk)
    has_test = bool({"test", "val"} & set(splits))
    notes = []
    for split, found in held.items():
        role: Split = "pool"
        if split == "test" or (split == "val" and "test" not in splits):
            role = "test"
        elif split == "val":
            role = "watch"
        walk.refused += _differing(splits["train"], classes, splits[split], tuple(sorted(found)), role)
        for label, name in enumerate(classes):
            if name in found:
                walk.read(found[name], label, role)
    if "val" in splits:
        seen = "the watched images" if "test" in splits else "the test split, since there is no test folder"
        notes.append(f"the images in {splits['val']}/ are {seen}")
    return Folder(
        classes,
        lambda: [Source(*fields) for fields in sorted(walk.found)],
        dict(sorted(walk.skipped.items())),
        tuple(sorted(walk.refused)),
        has_test,
        tuple(notes),
        hashlib.sha256("\n".join(sorted(walk.lines)).encode("utf-8", "surrogateescape")).hexdigest(),
    )


def stamp_of(paths: Iterable[Path]) -> str:
    """Checksum of some files' names, sizes and times. Raises OSError."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        stat = path.stat()
        digest.update(f"{path.name}\t{stat.st_size}\t{stat.st_mtime_ns}\t{stat.st_ctime_ns}\n".encode())
    return digest.hexdigest()


# --- entries --------------------------------------------------------------------------------------------------------


class _Walk:
    """Goes through a folder once and keeps what becomes of every entry."""

    def __init__(self, root: str, skipped: Counter[str]) -> None:
        self.root = root
        self.skipped = skipped
        self.found: list[tuple[str, int, Split, str]] = []  # of every image, a Source's fields
        self.refused: list[str] = []
        self.lines: list[str] = []  # of the stamp
        self._seen: dict[tuple[int, int], str] = {}  # every folder that was read, so that each is read once

    def classes(self, split: str) -> dict[str, str]:
        """The class folders of a split: name -> path below the root."""
        found = {}
        for entry, is_folder in self._entries(split):
            if is_folder:
                found[entry.name] = f"{split}/{entry.name}"
            else:
                self.skipped[NO_CLASS] += 1
        for name in found:
            twins = [other for other in found if other != name and _normal(other) == _normal(name)]
            if twins:
                self.refused.append(f"{shown(split)}/{shown(name)}: two folders have this name, in two Unicode forms")
        return found

    def read(self, folder: str, label: int, split: Split) -> None:
        """Every image of one class of a split, however deep."""
        before, left_out = len(self.found), Counter[str]()
        refused = len(self.refused)
        todo = [folder]
        while todo:
            place = todo.pop()
            for entry, is_folder in self._entries(place):
                name = f"{place}/{entry.name}"
                if is_folder:
                    todo.append(name)
                    continue
                try:
                    reason = _no_image(entry)
                    stat = entry.stat()
                except OSError as error:
                    self.refused.append(f"{shown(name)}: {error.strerror}")
                    continue
                if reason:
                    left_out[reason] += 1
                    continue
                self.found.append((name, label, split, entry.path))
                self.lines.append(f"{name}\t{stat.st_size}\t{stat.st_mtime_ns}\t{stat.st_ctime_ns}")
        self.skipped += left_out
        if split != "watch" and len(self.found) == before and len(self.refused) == refused:
            seen = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "it is empty"
            self.refused.append(f"{shown(folder)}: no image in this class ({seen})")

    def _entries(self, folder: str) -> Iterable[tuple[os.DirEntry[str], bool]]:
        """The visible entries of a folder, and whether each is a folder. Links are followed, every folder once."""
        path = f"{self.root}/{folder}"
        try:
            stat = Path(path).stat()
            first = self._seen.setdefault((stat.st_dev, stat.st_ino), folder)
            if first != folder:
                self.refused.append(f"{shown(folder)}: leads to a folder that is here already, {shown(first)}")
                return
            with os.scandir(path) as found:
                entries = list(found)
        except OSError as error:
            self.refused.append(f"{shown(folder)}: can't be read ({error.strerror})")
            return
        for entry in entries:
            name = entry.name
            if name[0] == ".":
                self.skipped[HIDDEN] += 1
            elif name.lower() in SYSTEM:
                self.skipped[OF_A_SYSTEM] += 1
            elif not name.isascii() and not _is_utf8(name):
                self.refused.append(f"{shown(f'{folder}/{name}')}: the name is not UTF-8; rename it")
            elif entry.is_symlink() and (wrong := _broken(entry.path)):
                self.refused.append(f"{shown(f'{folder}/{name}')}: {wrong}")
            else:
                yield entry, entry.is_dir()


def _no_image(entry: os.DirEntry[str]) -> str:
    """Why an entry is no image, or nothing."""
    if not entry.is_file():
        return NO_FILE
    suffix = suffix_of(entry.name)
    if is_image_suffix(suffix):
        return ""
    if suffix:
        return f"not an image ({shown(suffix)})"
    return "" if is_image(entry.path) else "no suffix, and no image"


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _broken(path: str) -> str:
    """What is wrong with a link, or nothing."""
    try:
        Path(path).stat()
    except OSError as error:
        return f"a broken link to {shown(str(Path(path).readlink()))} ({error.strerror})"
    return ""


# --- where train and the classes are --------------------------------------------------------------------------------


def _splits(root: Path) -> tuple[dict[str, str], Counter[str]]:
    """The folders that hold splits, by what they are, train first; and what else lies beside them."""
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except NotADirectoryError:
        raise DatasetError(f"{_at(root)}: a file; unpack it and name the folder") from None
    except OSError as error:
        raise DatasetError(f"{_at(root)}: can't be read ({error.strerror})") from None
    found: dict[str, str] = {}
    skipped = Counter[str]()
    for entry in entries:
        split = SPLITS.get(entry.name.lower())
        if split and entry.is_dir():
            if split in found:
                raise DatasetError(
                    f"{_at(root)}: '{found[split]}' and '{entry.name}' are both {split} folders; keep one"
                )
            found[split] = entry.name
        elif entry.name[0] == ".":
            skipped[HIDDEN] += not entry.name.startswith(PARTIAL)  # prepared data may lie beside train
        elif entry.name.lower() in SYSTEM:
            skipped[OF_A_SYSTEM] += 1
        else:  # texts and tables are what one expects beside train
            skipped[NO_SPLIT] += entry.is_dir() or is_image_suffix(suffix_of(entry.name))
    if "train" not in found:
        raise DatasetError(f"{_at(root)}: no folder 'train' with one folder for each class{_hint(root)}")
    return {split: found[split] for split in ("train", "test", "val") if split in found}, +skipped


def _at(place: Path) -> str:
    return shown(str(place))


def _hint(root: Path) -> str:
    """Where `train` may be instead."""
    if root.name.lower() in SPLITS:
        return f"; give the folder above, {_at(root.parent)}"
    below = _folders(root)
    for place in [*below, *(deeper for folder in below[:100] for deeper in _folders(folder))]:
        if any(folder.name.lower() == "train" for folder in _folders(place)):
            return f"; there is one in {_at(place)}: give that"
    if below:
        some = ", ".join(f"'{shown(folder.name)}'" for folder in below[:3])
        return f"; if {some}{', ...' if len(below) > 3 else ''} are the classes, move them into {_at(root / 'train')}"
    return f"; expected {_at(root / 'train' / '<class>' / '*.jpg')}"


def _folders(place: Path) -> list[Path]:
    try:
        with os.scandir(place) as entries:
            return sorted(place / e.name for e in entries if e.name[0] != "." and e.is_dir())
    except OSError:
        return []


def _expect_classes(train: Path, classes: Iterable[str], walk: _Walk) -> None:
    names = list(classes)
    if names and all(name.lower() in SPLITS for name in names):
        raise DatasetError(
            f"{_at(train)}: it holds {', '.join(names)} instead of classes; if its classes are in there, give "
            f"{_at(train)}"
        )
    if len(names) < 2:
        loose = walk.skipped[NO_CLASS]
        raise DatasetError(
            f"{_at(train)}: {len(names)} class folders found, at least 2 are needed"
            + (f"; {loose} files lie beside them: sort them into one folder for each class" if loose else "")
        )


def _differing(train: str, classes: tuple[str, ...], other: str, found: tuple[str, ...], role: Split) -> list[str]:
    """The classes that one side alone has."""
    if role != "pool" and not found:
        return [f"{other}: no class folders, as {train} has them; sort its images into classes, or move it away"]
    missing = sorted(set(classes) - set(found)) if role == "test" else []
    strange = sorted(set(found) - set(classes))
    known = {_normal(name): name for name in classes}
    result = []
    for name in strange:
        if _normal(name) in known:
            result.append(
                f"{other}/{shown(name)}: {train} has this class in another Unicode form; give both the same name"
            )
            missing = [known_name for known_name in missing if _normal(known_name) != _normal(name)]
        else:
            result.append(f"{other}/{shown(name)}: {train} has no such class")
    return result + [f"{train}/{shown(name)}: {other} has no such class" for name in missing]


# --- what counts as an image ----------------------------------------------------------------------------------------


def suffix_of(name: str) -> str:
    """The suffix of a file's name in small letters, with its dot; empty where it has none."""
    dot = name.rfind(".")
    return name[dot:].lower() if 0 < dot < len(name) - 1 else ""


def is_image_suffix(suffix: str) -> bool:
    """Whether Pillow decodes files of this suffix here."""
    return suffix in USUAL or suffix in _suffixes()


def is_image(path: str) -> bool:
    """Whether a file is an image by its content, whatever its name. Raises OSError where it can't be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=formats("")):
            return True
    except UnidentifiedImageError:
        return False
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True  # decoding refuses it by name


@functools.cache
def _suffixes() -> Mapping[str, str]:
    from PIL import Image  # here and below, since a folder of the usual suffixes is sorted without

    Image.init()  # imports every plugin; the usual suffixes do without
    return {suffix: name for suffix, name in Image.EXTENSION.items() if name in Image.OPEN and name not in NOT_DECODED}


@functools.cache
def formats(suffix: str) -> tuple[str, ...]:
    """The formats a file may have: those that a signature tells, and the one that its suffix names."""
    from PIL import Image

    Image.init()
    told = [name for name in Image.ID if Image.OPEN[name][1] is not None and name not in NOT_DECODED]
    named = _suffixes().get(suffix)
    return tuple(told) if named is None or named in told else (*told, named)
