"""Who is who among the images of a data set: decoded, identified, cleared of copies, and split once for all."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from pipeline import decoding, folders
from pipeline.datasets import Listing
from pipeline.decoding import Decoded, T
from pipeline.folders import DatasetError, Source, Split
from pipeline.preprocessing import Preprocessing
from pipeline.randomness import keys_of, uniform
from pipeline.strategies import Crop

TEST_SHARE = 0.25  # of each class, where a data set brings no test split of its own
LISTED = 20  # so many of a kind are named in a message


@dataclass(frozen=True)
class Member:
    """One image of a data set whose identity is known."""

    id: str
    label: int
    split: Split
    name: str  # where it is in the data set, for people
    row: int  # of the decoded images


@dataclass(frozen=True)
class Dataset:
    """The images of a data set: the pool, the test images, those watched; each by id, none twice."""

    members: tuple[Member, ...]
    notes: tuple[str, ...]
    copies: int  # left out, since the same pixels are there once already
    sha256: str  # of ids, labels and splits; names, places and encodings don't matter


def pool_counts(listing: Listing, sources: Iterable[Source]) -> list[int]:
    """At most so many images of each class can be drawn, as far as names tell.

    Raises DatasetError for a class too small to be split.
    """
    counts = Counter(source.label for source in sources if source.split == "pool")
    every = [counts[label] for label in range(len(listing.classes))]
    if listing.has_test:
        return every
    for label, count in enumerate(every):
        _expect_two(listing, label, count, count)
    return [count - _test_count(count) for count in every]


# --- decoding -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What the headers of all images say together."""

    native: int | None  # the side in pixels if all are squares of one size below the working size
    deepest: int | None  # the largest value where all have 16 bits
    notes: tuple[str, ...]


def examine(listing: Listing, sources: Sequence[Source], working: int, workers: int) -> Look:
    """Read every header. Raises DatasetError that lists every entry that can't be used; none is skipped.

    Squares of one size below the `working` size are stored as they are, and resized on the device.
    """
    refused = list(listing.refused)
    sizes: set[tuple[int, int]] = set()
    deep = 0
    for _, header in _each(decoding.header, sources, workers, refused):
        sizes.add(header.size)
        deep += header.deep
    if len(refused) > len(listing.refused):  # then all that is damaged is named at once, behind its header too
        refused = list(listing.refused)
        for _ in _each(decoding.upright, sources, workers, refused):
            pass
    _refuse(refused)
    deepest: int | None = None
    notes: tuple[str, ...] = ()
    if deep == len(sources):
        deepest = max(value for _, value in _each(decoding.deepest, sources, workers, refused))
        notes = (f"16-bit grey images; their largest value, {deepest}, becomes white",)
    elif deep:
        notes = (
            f"{deep} of {len(sources)} images have 16 bits and are divided by 256: those that use few bits look dark",
        )
    _refuse(refused)
    side = min(next(iter(sizes)))
    native = side if sizes == {(side, side)} and side < working else None
    return Look(native, deepest, notes)


def decode(
    sources: Sequence[Source], fits: Mapping[Crop, Preprocessing | None], deepest: int | None, workers: int
) -> Iterator[Decoded]:
    """Every image in order, fitted to each crop, or as it is where that is None.

    Raises DatasetError that lists every image that can't be read; none is skipped.
    """
    refused: list[str] = []

    def one(content: decoding.Content) -> Decoded:
        return decoding.decode(content, fits, deepest)

    for _, decoded in _each(one, sources, workers, refused):
        if not refused:
            yield decoded
    _refuse(refused)


def _each(
    read: Callable[[decoding.Content], T], sources: Sequence[Source], workers: int, refused: list[str]
) -> Iterator[tuple[Source, T]]:
    """`read` of every source in order, several at once; what can't be read goes to `refused`."""

    def one(source: Source) -> T | DatasetError:
        try:
            return read(source.content)
        except DatasetError as error:
            return error

    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such images are refused
        for start in range(0, len(sources), 256):
            some = sources[start : start + 256]
            for source, result in zip(some, pool.map(one, some), strict=True):
                if isinstance(result, DatasetError):
                    refused.append(f"{folders.shown(source.name)}: {result}")
                else:
                    yield source, result


def _refuse(entries: Sequence[str]) -> None:
    if entries:
        raise DatasetError(f"can't be used, {len(entries)} in all:\n  " + "\n  ".join(entries))


# --- from decoded images to a data set ------------------------------------------------------------------------------


def settle(listing: Listing, sources: Sequence[Source], ids: Sequence[str], notes: Sequence[str] = ()) -> Dataset:
    """Find copies and contradictions by identity, and split: what every study relies on.

    Copies within a class and split are kept once, the first by name. Raises DatasetError for equal pixels under two
    labels or in two splits, and for a class that has too few different images.
    """
    same: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(ids):
        same[name].append(row)
    groups = [[sources[row] for row in rows] for rows in same.values() if len(rows) > 1]
    _refuse_groups([g for g in groups if len({source.label for source in g}) > 1], "under two labels")
    _refuse_groups([g for g in groups if len({source.split for source in g}) > 1], "in two splits")
    kept = [
        Member(name, sources[rows[0]].label, sources[rows[0]].split, sources[rows[0]].name, rows[0])
        for name, rows in same.items()
    ]
    notes = [*listing.notes, *notes]
    copies = len(sources) - len(kept)
    if copies:
        notes.append(f"copies left out, with the same pixels as another image of their class: {copies}")
    if not listing.has_test:
        kept = _split(listing, kept, Counter(source.label for source in sources))
        notes.append(f"no test split of its own: {TEST_SHARE:.0%} of each class, chosen by their pixels, are tested on")
    for split, what in (("pool", "training"), ("test", "test")):
        present = {member.label for member in kept if member.split == split}
        for label, name in enumerate(listing.classes):
            if label not in present:
                raise DatasetError(f"{listing.name}: class '{folders.shown(name)}' has no {what} image")
    order = {"pool": 0, "test": 1, "watch": 2}
    kept.sort(key=lambda member: (order[member.split], member.id))
    digest = hashlib.sha256("\n".join(f"{m.id}\t{m.label}\t{m.split}" for m in kept).encode())
    return Dataset(tuple(kept), tuple(notes), copies, digest.hexdigest())


def _refuse_groups(groups: Sequence[Sequence[Source]], where: str) -> None:
    if groups:
        lines = [" = ".join(folders.shown(source.name) for source in group) for group in groups[:LISTED]]
        more = [f"and {len(groups) - LISTED} more"] if len(groups) > LISTED else []
        raise DatasetError(
            f"the same image {where}, {len(groups)} in all; keep one of each:\n  " + "\n  ".join([*lines, *more])
        )


def _test_count(members: int) -> int:
    return max(1, round(TEST_SHARE * members))


def _expect_two(listing: Listing, label: int, different: int, files: int) -> None:
    if different < 2:
        copies = f" ({files} copies)" if files > 1 else ""
        raise DatasetError(
            f"{listing.name}: class '{folders.shown(listing.classes[label])}' has a single image{copies}; without a "
            "test folder at least 2 different ones are needed, one to train on and one to test"
        )


def _split(listing: Listing, members: Sequence[Member], files: Mapping[int, int]) -> list[Member]:
    """Put `TEST_SHARE` of each class into the test split, fixed by identity: the same images whatever their names."""
    numbers = uniform(keys_of([member.id for member in members]), 1, "test split")[:, 0]
    ranked = sorted((number, m.id, m) for number, m in zip(numbers.tolist(), members, strict=True))
    result = []
    for label in range(len(listing.classes)):
        mine = [member for _, _, member in ranked if member.label == label]
        _expect_two(listing, label, len(mine), files[label])
        count = _test_count(len(mine))
        result += [Member(m.id, m.label, "test" if at < count else "pool", m.name, m.row) for at, m in enumerate(mine)]
    return result
