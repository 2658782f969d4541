"""What a frozen pretrained stretch makes of a set of images, computed once and kept on disk for all cells of a study.

Nothing depends on the cache: what is missing, damaged or over the budget is computed by whoever needs it, in batches
of the set's own, in its own order, so the bytes are the same whoever does.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import augmentation, backbones, prefix
from pipeline.backbones import GroupedModel
from pipeline.clock import clock
from pipeline.files import PARTIAL, partial_of, sweep, sync_folder
from pipeline.strategies import GROUPS, Strategy

if TYPE_CHECKING:  # training reads this cache
    from pipeline.training import Images, Task

LOG = logging.getLogger(__name__)

BUDGET = 1 << 30  # bytes of one set on disk
# Images that pass the stretch together; training evaluates in batches of the same size. As fast as 128, which takes
# more memory than a training step (two workers at 64 px: 1,335 MB against 1,237).
BATCH = 64

Rows = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Wanted:
    """A set of images behind a stretch of frozen pretrained groups, as cells read it."""

    task: Task  # of any cell that reads it
    images: Images
    start: str  # first group after the stretch
    flipped: bool

    @cached_property
    def name(self) -> str:
        """Its file, named by all that its rows depend on, and by nothing else."""
        task = self.task
        content = {
            "weights": task.weights_sha256,
            "backbone": task.backbone,
            "precision": task.precision,
            "normalisation": task.strategy.normalisation,
            "crop": task.strategy.crop,
            "resolution": task.resolution,
            "stored": list(self.images.pixels.shape[1:]),
            "start": self.start,
            "flipped": self.flipped,
            "images": hashlib.sha256(self.images.keys.astype("<u8").tobytes()).hexdigest(),
        }
        return f"{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]}.npy"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its rows: [images, …] channels last."""
        return len(self.images), *outline(self.task.backbone, self.task.resolution).rows[self.start]


@dataclass(frozen=True, eq=False)
class Piece:
    """A batch of a set."""

    wanted: Wanted
    first: int  # position of its first image in the set


@dataclass(frozen=True)
class Outline:
    """A backbone without its head, measured without weights."""

    rows: dict[str, tuple[int, ...]]  # group: what it sees of an image, channels last
    parameters: int

    @property
    def features(self) -> int:
        """How many numbers the head sees of an image."""
        return self.rows["head"][0]


@functools.cache
def outline(backbone: str, resolution: int) -> Outline:
    """The shapes between the groups of a backbone at `resolution`."""
    entry, rows = backbones.REGISTRY[backbone], {}
    with torch.no_grad(), torch.device("meta"):
        groups, x = entry.split(entry.build()), torch.empty(1, 3, resolution, resolution)
        for name, group in groups.items():
            rows[name] = tuple(prefix.rows(x).shape[1:])
            x = group.eval()(x)
    rows["head"] = tuple(prefix.rows(x).shape[1:])
    return Outline(rows, sum(weight.numel() for group in groups.values() for weight in group.parameters()))


# --- what is wanted -------------------------------------------------------------------------------------------------


def start_of_run(strategy: Strategy) -> str:
    """The first group that any phase changes or runs at every step: what lies before it is as it was pretrained."""
    if strategy.weights != "pretrained" or strategy.frozen_groups != "frozen":
        return GROUPS[0]
    if strategy.closed_form:
        return GROUPS[-1]
    return min((prefix.start_of(strategy, phase) for phase in strategy.phases), key=GROUPS.index)


def views(strategy: Strategy) -> tuple[bool, ...]:
    """Whether the views of a training image that a head learns from are flipped."""
    return (False, True) if strategy.augmentation == "flip" and not strategy.closed_form else (False,)


def needed(task: Task) -> list[Wanted]:
    """The sets that a cell reads: judged and watched images, and training images where it learns but a head.

    Sets over the budget are left out, which is logged once.
    """
    start = start_of_run(task.strategy)
    if start == GROUPS[0]:
        return []
    sets = [Wanted(task, task.judged, start, False), Wanted(task, task.watched, start, False)]
    if start == GROUPS[-1]:
        sets += [Wanted(task, task.train, start, flipped) for flipped in views(task.strategy)]
    return [wanted for wanted in sets if len(wanted.images) and _affordable(wanted)]


def _affordable(wanted: Wanted) -> bool:
    size = math.prod(wanted.shape) * 4
    if size > BUDGET:
        _say_too_large(wanted.start, size)
    return size <= BUDGET


@functools.cache
def _say_too_large(start: str, size: int) -> None:
    LOG.info(
        "no cache of what comes before %s: %d MB of activations, %d MB allowed; every cell computes its own",
        start, size >> 20, BUDGET >> 20,
    )  # fmt: skip


# --- reading --------------------------------------------------------------------------------------------------------


def kept(task: Task, images: Images, start: str, flipped: bool) -> Tensor | None:
    """The rows [images, …] (float32, channels last, memory-mapped) of a set; None where a cell computes its own."""
    pristine = GROUPS.index(start) <= GROUPS.index(start_of_run(task.strategy))
    if task.activations is None or start == GROUPS[0] or not pristine or not len(images):
        return None
    found = read(Wanted(task, images, start, flipped), task.activations)
    return None if found is None else found[0]


def read(wanted: Wanted, folder: Path) -> tuple[Tensor, float] | None:
    """The rows of a set, memory-mapped, and the seconds they took; None where the file is missing or not whole."""
    path, shape = folder / wanted.name, wanted.shape
    size = math.prod(shape) * 4
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                return None
            header = np.lib.format.read_array_header_1_0(file)
            begin = file.tell()
            if header != (shape, False, np.dtype("<f4")) or path.stat().st_size != begin + size + 8:
                return None
            file.seek(begin + size)
            seconds = float(np.frombuffer(file.read(8), "<f8")[0])
        # Copied on write, which never happens: torch warns of arrays that it must not write to.
        rows = np.memmap(path, np.float32, "c", begin, shape)
    except (OSError, ValueError):
        return None
    return torch.from_numpy(rows), seconds


def missing(wanted: Iterable[Wanted], folder: Path) -> list[Wanted]:
    """The sets that `folder` lacks, each once."""
    by_name = {one.name: one for one in wanted}
    return [one for one in by_name.values() if read(one, folder) is None]


# --- computing ------------------------------------------------------------------------------------------------------


def pieces(wanted: Iterable[Wanted]) -> list[Piece]:
    """The batches in which sets pass the stretch."""
    return [Piece(one, first) for one in wanted for first in range(0, len(one.images), BATCH)]


def compute(piece: Piece, model: GroupedModel, device: torch.device) -> tuple[Rows, float]:
    """The rows of a piece and the seconds they took.

    `model` is frozen, pretrained and in evaluation mode; the caller has set the surroundings of the task.
    """
    now, wanted = clock(device), piece.wanted
    since = now()
    strategy = wanted.task.strategy
    preprocessing = backbones.REGISTRY[wanted.task.backbone].preprocessing().at(wanted.task.resolution, strategy.crop)
    with torch.no_grad():
        pixels = wanted.images.pixels[piece.first : piece.first + BATCH].to(device)
        sized = augmentation.to_resolution(pixels, preprocessing)
        batch = augmentation.normalise(sized, preprocessing, strategy.normalisation)
        if wanted.flipped:
            batch = batch.flip(3).contiguous(memory_format=torch.channels_last)
        rows: Rows = prefix.rows(model(batch, stop=wanted.start)).cpu().numpy()
    return rows, now() - since


def read_or_compute(wanted: Wanted, model: Callable[[], GroupedModel], device: torch.device) -> tuple[Tensor, float]:
    """The rows of a set on the device, from the cache if it has them, and the seconds they took.

    `model()` gives the model for `compute`.
    """
    folder = wanted.task.activations
    found = None if folder is None else read(wanted, folder)
    if found is not None:
        return found[0].to(device), found[1]
    parts, seconds = zip(*(compute(piece, model(), device) for piece in pieces([wanted])), strict=True)
    return torch.from_numpy(np.concatenate(parts)).to(device), sum(seconds)


# --- writing --------------------------------------------------------------------------------------------------------


def store(parts: Iterable[tuple[Piece, tuple[Rows, float]]], folder: Path) -> None:
    """Write sets as what `compute` made of their pieces comes in, in any order; a whole set is renamed into place.

    A full or read-only disk is a warning: cells compute for themselves then.
    """
    writers: dict[str, _Writer] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder.glob(f"{PARTIAL}*"))
        for piece, (rows, seconds) in parts:
            name = piece.wanted.name
            if name not in writers:
                writers[name] = _Writer(piece.wanted, folder)
            if writers[name].add(piece.first, rows, seconds):
                del writers[name]
    except OSError as error:
        LOG.warning(
            "can't keep activations in %s: %s; every cell computes its own, with the same result",
            folder, error.strerror,
        )  # fmt: skip
    finally:
        for writer in writers.values():
            writer.drop()


class _Writer:
    """One set on its way to disk. It is written, not mapped: a full disk is then an error, and no bus error."""

    def __init__(self, wanted: Wanted, folder: Path) -> None:
        self.target = folder / wanted.name
        self.partial = partial_of(self.target)
        self.shape, self.left, self.seconds = wanted.shape, len(wanted.images), 0.0
        self.file: BinaryIO = self.partial.open("wb")
        header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self.file, header)
        self.begin = self.file.tell()

    def add(self, first: int, rows: Rows, seconds: float) -> bool:
        """Write the rows of one piece; whether the set is whole and in its place."""
        self.file.seek(self.begin + first * math.prod(self.shape[1:]) * 4)
        self.file.write(np.ascontiguousarray(rows, "<f4").tobytes())
        self.left -= len(rows)
        self.seconds += seconds
        if self.left:
            return False
        self.file.seek(self.begin + math.prod(self.shape) * 4)
        self.file.write(np.array([self.seconds], "<f8").tobytes())
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self.partial.replace(self.target)
        sync_folder(self.target.parent)
        return True

    def drop(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):
            self.file.close()  # writes what is buffered, for which there may be no room
        self.partial.unlink(missing_ok=True)
