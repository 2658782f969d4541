"""What a study will train, on how much disk and for how long, and whether the images and weights allow it."""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from pipeline import activations, backbones, cost, execution, folders, identity, lr_finder, training
from pipeline.cost import Load
from pipeline.datasets import Listing
from pipeline.params import Params, Study
from pipeline.stages import cells, command, prepare, prepared, range_tests
from pipeline.stages.cells import Workbench
from pipeline.stages.check import CheckError, nearest
from pipeline.stages.noted import PreparedError
from pipeline.strategies import ALL, GROUPS, Crop, Role, Strategy
from pipeline.subsets import RESERVED_SHARE
from pipeline.tuning import GRID, Rates

RUN_BYTES = 4 << 10  # of a run in the store, beside what it predicts: 2 to 3 KB with 8 to 20 epochs
MIRRORED_BYTES = 120 << 10  # of a run in the tables and the figures and in MLflow
SAMPLED = 12  # images that are decoded to time it
LAST_STAGES = 3  # collect, mirror and report take as long as so many starts of a stage that trains

Kind = tuple[Role, str, int]  # role, strategy, size


@dataclass(frozen=True)
class Found:
    """What is known of a study's images."""

    classes: tuple[str, ...]
    pool: tuple[int, ...]  # of each class
    test: tuple[int, ...]  # of each class
    seconds: float  # until they are prepared
    bytes: int  # that preparing them writes


def forecast(loaded: Params, study: Study, listing: Listing, current: bool, start: float) -> Iterator[str]:
    """A few lines on what will run; `start` is how many seconds a stage takes before it does anything.

    Raises UserError of some kind for whatever would stop the study later.
    """
    found = (
        _as_prepared(study) if current else look(listing, study.backbone, study.resolution, loaded.crops(study.name))
    )
    prepare.expect_enough(study, listing, found.pool)
    bench = _bench(study) if current else None
    missing, declared = _missing(loaded, study, found, bench)
    tests = _range_tests(loaded, study, bench)
    loads = [_load(loaded, study, found, kind, count) for kind, count in missing.items()]
    for load in loads:
        training.refuse_single_batches(load.strategy, study.backbone, load.images, study.batch_size)
    judged = f"{_tested(study, found):,} test images"
    yield f"{len(found.classes)} classes, {sum(found.pool):,} images to draw from, {judged}"
    unknown = _unknown_signs(found.classes)
    if unknown:
        yield f"the figures' font lacks {' '.join(unknown)}: these signs of class names will be boxes there"
    if not loads and not tests:
        yield f"all {declared:,} runs are there, nothing is to be trained"
        return
    kept = "" if current or not (command.RESULTS / study.name).exists() else "; fewer, where a draw stays the same"
    yield f"to train: {_words(missing, tests)}{kept}"
    disk = _disk(study, loads, found)
    strategies = [load.strategy for load in loads] or [loaded.strategies[name] for name in study.strategies]
    speed = measure(
        study, strategies, len(found.classes), max((load.images for load in loads), default=study.batch_size)
    )
    took = in_words(_seconds(study, found, loads, tests, speed, start))
    at_once = f"{speed.workers} at once on {execution.device().type}"
    yield f"about {took}: {at_once}, {study.resolution} px, as a few timed steps of {study.backbone} have it"
    yield disk


def measure(study: Study, strategies: Iterable[Strategy], classes: int, images: int) -> cost.Speed:
    """Time a few steps of a study, in batches of cells that train on so many images."""
    device = execution.device()
    precision = study.precision or training.default_precision(device)
    memory = cells.WORKER_BYTES + cells.PIXEL_BYTES * study.batch_size * study.resolution**2
    batch = math.ceil(images / math.ceil(images / study.batch_size))
    batches = cost.Batches(study.backbone, study.weights, study.resolution, precision, classes, batch)
    return cost.measure(batches, strategies, device, execution.workers(memory, device.type))


def seconds(loaded: Params, study: Study, found: Found, speed: cost.Speed, start: float) -> float:
    """How long a study takes of which nothing is there yet."""
    missing, _ = _missing(loaded, study, found, None)
    loads = [_load(loaded, study, found, kind, count) for kind, count in missing.items()]
    return _seconds(study, found, loads, 0, speed, start)


def _seconds(study: Study, found: Found, loads: Sequence[Load], tests: int, speed: cost.Speed, start: float) -> float:
    stages = study.pilots + len(study.strategies) + bool(study.sweep) + bool(study.ablations) + bool(tests)
    tested = tests * lr_finder.STEPS * study.batch_size * max(speed.step.values(), default=0.0) / speed.workers
    trained = cost.seconds(loads, speed, study.epochs, study.batch_size)
    return found.seconds + trained + tested + start * (stages + LAST_STAGES)


# --- the images -----------------------------------------------------------------------------------------------------


def _as_prepared(study: Study) -> Found:
    data = prepared.read(study)
    counts = np.bincount(data.pool.labels, minlength=len(data.card.classes))
    return Found(data.card.classes, tuple(counts.tolist()), data.card.test_class_counts, 0.0, 0)


def look(listing: Listing, backbone: str, resolution: int, crops: Sequence[Crop]) -> Found:
    """What names and headers tell. Raises DatasetError that lists every image that can't be used, as `prepare` does."""
    sources = listing.sources()
    headers = identity.examine(listing, sources, resolution, execution.cores())
    pool = identity.pool_counts(listing, sources)
    preprocessing = backbones.REGISTRY[backbone].preprocessing()
    fits = {crop: None if headers.native else preprocessing.at(resolution, crop) for crop in crops}
    some = sources[:: math.ceil(len(sources) / SAMPLED)]
    since = time.perf_counter()
    for _ in identity.decode(some, fits, headers.deepest, 1):
        pass
    each = (time.perf_counter() - since) / len(some) / execution.cores()
    every = Counter((source.split, source.label) for source in sources)
    labels = range(len(listing.classes))
    test = [every["test", label] if listing.has_test else every["pool", label] - pool[label] for label in labels]
    side = headers.native or resolution
    kept = len(sources) * side**2 * 3 * (1 if headers.native else len(crops))
    # Twice: prepare writes a copy in the order of names first.
    return Found(listing.classes, tuple(pool), tuple(test), len(sources) * each, 2 * kept)


def _tested(study: Study, found: Found) -> int:
    return min(sum(found.test), study.test_images or sum(found.test))


def _unknown_signs(classes: Sequence[str]) -> list[str]:
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    known = FT2Font(str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf")).get_charmap()
    return [folders.shown(sign) for sign in sorted(set("".join(classes))) if ord(sign) not in known]


# --- the runs -------------------------------------------------------------------------------------------------------


def _bench(study: Study) -> Workbench | None:
    """The study with its draws; None where they are still to be made."""
    try:
        return Workbench(study.name)
    except PreparedError:
        return None


def _missing(loaded: Params, study: Study, found: Found, bench: Workbench | None) -> tuple[Counter[Kind], int]:
    """How many cells of each kind the run store lacks, and how many are declared in all."""
    missing, declared = Counter[Kind](), 0
    rates: Rates | None = None
    if bench is not None:
        try:
            rates = bench.rates
        except PreparedError:
            rates = None
    for role in get_args(Role):
        if role == "pilot" and rates is None:
            missing += _pilots(loaded, study, found, bench)
            continue
        if bench is None or (rates is None and role != "sweep"):
            every, lacking = loaded.cells(study.name, role, Rates({}), {}), None
        else:
            every = bench.declared(role)
            lacking = [cell for cell in every if bench.stored(cell) is None and bench.twin(cell) is None]
        declared += len(every)
        missing.update((role, cell.strategy, cell.per_class) for cell in (every if lacking is None else lacking))
    return missing, declared


def _pilots(loaded: Params, study: Study, found: Found, bench: Workbench | None) -> Counter[Kind]:
    """About how many pilots will be trained: nobody knows yet how far the climbs go."""
    counts = Counter[Kind]()
    for name in study.strategies if study.pilots else ():
        strategy = loaded.strategies[name]
        for size in study.per_class:
            per_class = _drawn(found, size)
            seeds = cost.pilots(per_class) if bench is None else len(bench.subsets.pilots[size])
            kind: Kind = ("pilot", name, size)
            counts[kind] = round(cost.tried(strategy, per_class, seeds) * seeds)
            if bench is not None and not strategy.closed_form:
                tried = Rates({str(size): {name: {"tried": dict.fromkeys(map(str, GRID))}}})
                possible = loaded.cells(study.name, "pilot", tried, bench.subsets.pilots, name)
                counts[kind] -= sum(bench.stored(cell) is not None for cell in possible if cell.per_class == size)
    return +counts


def _range_tests(loaded: Params, study: Study, bench: Workbench | None) -> int:
    if bench is None:
        trained = [name for name in study.strategies if not loaded.strategies[name].closed_form]
        return len(trained) * len(study.lr_finder_seeds)
    return sum(range_tests.read(bench, cell) is None for cell in range_tests.tested(bench))


def _drawn(found: Found, size: int) -> list[int]:
    """How many images of each class a draw takes."""
    return list(found.pool) if size == ALL else [size] * len(found.pool)


def _load(loaded: Params, study: Study, found: Found, kind: Kind, count: int) -> Load:
    role, name, size = kind
    images, judged = sum(_drawn(found, size)), _tested(study, found)
    draws, watched = len(study.seeds), min(study.watched, int(RESERVED_SHARE * sum(found.pool)))
    if role == "pilot":
        judged = watched = cost.held_out(_drawn(found, size))
        images, draws = images - judged, cost.pilots(_drawn(found, size))
    return Load(loaded.strategy(name), count, min(draws, count), images, watched, judged)


def _words(missing: Counter[Kind], tests: int) -> str:
    words: dict[Role, str] = {"pilot": "of pilots, which choose the rates", "final": "final", "sweep": "of the sweep"}
    words["ablation"] = "of ablations"
    of_role = Counter[Role]()
    for (role, _, _), count in missing.items():
        of_role[role] += count
    parts = [f"{of_role[role]:,} {words[role]}" for role in words if of_role[role]]
    return ", ".join([*parts, *([f"{tests} range tests"] if tests else [])])


# --- the disk -------------------------------------------------------------------------------------------------------


def _disk(study: Study, loads: Sequence[Load], found: Found) -> str:
    """What it will take. Raises CheckError where the images and runs alone don't fit; activations may go without."""
    cached = _activations(study, loads)
    stored = sum(int(load.cells) * (RUN_BYTES + 2 * load.judged) for load in loads)
    shown = sum(int(load.cells) for load in loads) * MIRRORED_BYTES
    needs = {command.DATA / study.name: found.bytes, command.RESULTS: stored, command.REPORTS: shown}
    disks: dict[int, tuple[Path, int]] = {}
    for place, need in needs.items():
        disk = nearest(place).stat().st_dev
        disks[disk] = place, disks.get(disk, (place, 0))[1] + need
    for place, need in disks.values():
        free = shutil.disk_usage(nearest(place)).free
        if need > free:
            raise CheckError(
                f"the disk of {place} has {_size(free)} free, and study '{study.name}' writes {_size(need)}; free some "
                "space first"
            )
    free = shutil.disk_usage(nearest(command.DATA)).free
    return f"about {_size(sum(needs.values()) + cached)} on disk, {_size(free)} are free"


def _activations(study: Study, loads: Sequence[Load]) -> int:
    """Bytes of the sets that are kept, each once."""
    sets: dict[tuple[object, ...], int] = {}
    rows = activations.outline(study.backbone, study.resolution).rows
    for load in loads:
        start, strategy = activations.start_of_run(load.strategy), load.strategy
        if start == GROUPS[0]:
            continue
        of = start, strategy.normalisation, strategy.crop
        each = math.prod(rows[start]) * 4
        sets[(*of, "judged", load.judged)] = each * (load.judged + study.watched)
        if start == GROUPS[-1]:
            views = len(activations.views(strategy))
            sets[(*of, load.images, views)] = each * load.images * views * load.draws
    return sum(size for size in sets.values() if size <= activations.BUDGET)


# --- words ----------------------------------------------------------------------------------------------------------


def in_words(seconds: float) -> str:
    """A time to plan with: `40 s`, `7 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60 // 10 * 10} min"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
