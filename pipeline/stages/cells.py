"""Bring a study's declared cells into the run store: what is there stays, what is missing is trained."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache, cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from pipeline import activations, backbones, cluster, evaluation, execution, heads, params, runs, training
from pipeline.randomness import torch_stream
from pipeline.runs import Provenance, StoredRun
from pipeline.stages import command, noted, prepared, rates
from pipeline.stages.progress import Progress
from pipeline.strategies import Cell, Crop, Metric, Precision, Role, Strategy, epochs_of_phases
from pipeline.subsets import Indices, tuning_split
from pipeline.training import NUMERICS_VERSION, Images, Run, Task
from pipeline.tuning import GRID, Rates

LOG = logging.getLogger(__name__)

NUMERIC = ("torch", "torchvision", "timm", "pillow")  # whose releases may change a run's numbers
PACKAGES = (*NUMERIC, "numpy", "scikit-learn")
# What a worker takes beside its imports: with EfficientNet-Lite0 800 bytes for every pixel of a batch (210 MB at 64
# px, 760 at 128, 2,300 at 224, batches of 32), with larger backbones two to three times that.
WORKER_BYTES, PIXEL_BYTES = 100 << 20, 2000

J = TypeVar("J")
R = TypeVar("R")


class Workbench:
    """A study with its prepared data: from a declared cell to its task, its fingerprint and its stored run."""

    def __init__(self, study: str) -> None:
        self.params = params.load()
        self.study = self.params.study(study)
        self.prepared = prepared.read(self.study)
        self.subsets = prepared.read_subsets(self.study, self.prepared.card)
        self.device = execution.device()
        self._wanted: tuple[Cell | None, list[activations.Wanted]] = (None, [])
        self._in_memory: dict[tuple[Crop, bytes], Images] = {}
        self._checksums: dict[bytes, str] = {}
        self._together: dict[heads.Companions, tuple[Cell, ...]] = {}

    @property
    def about(self) -> params.About:
        """What a reader of the study's report needs beside its numbers."""
        return self.params.about[self.study.name]

    @property
    def precision(self) -> Precision:
        """What cells compute in: as the study says, or as suits the device."""
        return self.study.precision or training.default_precision(self.device)

    @property
    def judge_by(self) -> Metric:
        """The accuracy that decides: as the study says, or as the test images' classes ask for."""
        return self.study.judge_by or evaluation.judge_by(self.judged_class_counts)

    @property
    def judged_class_counts(self) -> tuple[int, ...]:
        """How many test images of each class judge a run."""
        labels = self.prepared.labels[self.subsets.judged].tolist()
        return tuple(labels.count(label) for label in range(len(self.prepared.card.classes)))

    @cached_property
    def rates(self) -> Rates:
        """What stage `tune` chose."""
        return rates.read(self.params, self.study)

    def declared(self, role: Role, strategy: str | None = None) -> tuple[Cell, ...]:
        """The cells that the study declares: pilots as they were tried, others at the chosen rates."""
        chosen = Rates({}) if role == "sweep" else self.rates
        return self.params.cells(self.study.name, role, chosen, self.subsets.pilots, strategy)

    def strategy(self, cell: Cell) -> Strategy:
        """How a cell adapts the backbone, its rates scaled."""
        return self.params.strategy(cell.strategy).scaled(cell.lr_scale)

    def parts(self, cell: Cell) -> tuple[Indices, Indices, Indices]:
        """Which images a cell trains on, watches, and is judged on."""
        drawn = self.subsets.drawn[cell.per_class, cell.seed]
        if cell.role == "pilot":
            trained_on, judged = tuning_split(self.prepared.pool, drawn, cell.seed)
            return trained_on, judged, judged
        return drawn, self.subsets.watched, self.subsets.judged

    def task(self, cell: Cell) -> Task:
        """All that training a cell depends on."""
        strategy = self.strategy(cell)
        trained_on, watched, judged = (self._images(part, strategy.crop) for part in self.parts(cell))
        return Task(
            cell=cell,
            strategy=strategy,
            backbone=self.study.backbone,
            resolution=self.study.resolution,
            epochs=self.study.epochs,
            batch_size=self.study.batch_size,
            classes=len(self.prepared.card.classes),
            precision=self.precision,
            train=trained_on,
            watched=watched,
            judged=judged,
            activations=self.cache,
            weights_sha256=self.weights_sha256(cell),
        )

    def _images(self, part: Indices, crop: Crop) -> Images:
        """Some images in memory: the cells of a job share them."""
        key = crop, part.tobytes()
        if key not in self._in_memory:
            self._in_memory[key] = self.prepared.images(part, crop)
        return self._in_memory[key]

    def forget_images(self) -> None:
        """Let go of the images that the last job shared."""
        self._in_memory.clear()
        self._wanted = (None, [])

    @property
    def cache(self) -> Path:
        """Where what frozen stretches make of the study's images is kept."""
        made_by = (self.device.type, NUMERICS_VERSION, noted.DECODING_VERSION, *_versions(*NUMERIC).values())
        return prepared.folder(self.study.name) / ".activations" / "-".join(map(str, made_by))

    @cached_property
    def weights(self) -> tuple[Mapping[str, Tensor], str]:
        """The pretrained weights and their SHA-256, hashed anew in every process.

        Raises WeightsError where they are not those in the fingerprints of the cells that begin with them.
        """
        state, digest = backbones.pretrained(self.study.backbone, self.study.weights)
        if digest != self.pretrained_sha256:
            raise backbones.WeightsError(f"{self.study.weights} was replaced since the study began; start `dvc repro`")
        return state, digest

    @cached_property
    def pretrained_sha256(self) -> str:
        """The SHA-256 of the pretrained weights, without loading them."""
        return backbones.digest_of(backbones.weights_of(self.study.backbone, self.study.weights))

    @property
    def weights_name(self) -> str:
        """The pretrained weights as a report names them."""
        return backbones.weights_name(backbones.weights_of(self.study.backbone, self.study.weights))

    def shared(self) -> dict[str, Any]:
        """The parameters that all cells of the study have in common."""
        study = self.study
        return {
            "backbone": study.backbone,
            "resolution": study.resolution,
            "epochs": study.epochs,
            "batch_size": study.batch_size,
            "precision": self.precision,
        }

    def weights_sha256(self, cell: Cell) -> str:
        """Checksum of the weights a cell starts from; empty where they are random."""
        return "" if self.strategy(cell).weights == "none" else self.pretrained_sha256

    def trains_together(self, name: str) -> bool:
        """Whether the cells of a strategy that differ in seed and rate alone train as one batched head."""
        return heads.batchable(self.params.strategy(name))

    def together(self, cell: Cell) -> tuple[Cell, ...]:
        """The declared cells that train with this one as one batched head, itself among them; none if it trains alone.

        They are stored together: where one is missing, all are trained again.
        """
        if not self.trains_together(cell.strategy):
            return ()
        key = heads.companions(cell)
        if key not in self._together:
            if cell.role == "pilot":  # heads try the whole grid at once, before anybody knows which scales count
                seeds = self.subsets.pilots[cell.per_class]
                found = [replace(cell, lr_scale=scale, seed=seed) for scale in GRID for seed in seeds]
            else:
                found = [other for other in self.declared(cell.role, cell.strategy) if heads.companions(other) == key]
            self._together[key] = tuple(found)
        return self._together[key]

    def inputs(self, cell: Cell) -> dict[str, Any]:
        """Everything that can change the result of a cell that trains alone, and nothing else: no name, no path.

        The seed alone feeds the random streams, and rates are in the strategy: cells that train the same under two
        names have the same inputs.
        """
        trained_on, watched, judged = (self._ids_sha256(part) for part in self.parts(cell))
        strategy = {key: value for key, value in asdict(self.strategy(cell)).items() if key != "name"}
        return {
            "seed": cell.seed,
            "strategy": strategy,
            "parameters": self.shared(),  # for a closed form too, though it reads few: runs of one report agree in them
            "classes": len(self.prepared.card.classes),
            "images": {"train": trained_on, "watched": watched, "judged": judged},
            "stored_at": self.prepared.pixels().shape[1],  # pixels: at their own size or at the working size
            "weights_sha256": self.weights_sha256(cell),
            "versions": _versions(*NUMERIC, *(["scikit-learn"] if strategy["head"] == "lda" else [])),
            "decoding": noted.DECODING_VERSION,
            "device_kind": self.device.type,
            "numerics_version": NUMERICS_VERSION,
        }

    def wanted(self, cell: Cell) -> list[activations.Wanted]:
        """What a cell reads from the cache of frozen stretches; the last cell's is kept, for its many batches."""
        if self._wanted[0] != cell:
            self._wanted = cell, activations.needed(self.task(cell))
        return self._wanted[1]

    @cached_property
    def frozen_model(self) -> backbones.GroupedModel:
        """The pretrained backbone as every frozen stretch has it."""
        unused = torch_stream("unused head")
        model = backbones.build(self.study.backbone, 2, "pretrained", unused, state=self.weights[0])
        return model.to(self.device).requires_grad_(False).eval()

    def each(
        self, work: execution.Work[J, R], jobs: Sequence[J], watch: Callable[[J, int], None] = lambda *_: None
    ) -> Iterator[tuple[J, R]]:
        """Do jobs side by side, as many at once as the machine has room for; workers find this study ready.

        On a cluster, where THAW_SCHEDULER names one, as many at once as it has workers.
        """
        share(self)
        if cluster.scheduler():
            done = cluster.each(partial(elsewhere, self.study.name, self.seen, work), jobs, watch, self.device.type)
            for job, (result, self.machine) in done:
                yield job, result
            return
        study = self.study
        count = execution.workers(WORKER_BYTES + PIXEL_BYTES * study.batch_size * study.resolution**2, self.device.type)
        yield from execution.each(work, jobs, watch, min(count, len(jobs)), self.device.type)

    @cached_property
    def seen(self) -> dict[str, str]:
        """What must be the same on every machine that trains cells of this study."""
        study = self.study
        names = sorted({*study.strategies, *study.ablations, *study.sweep})
        read = {
            "parameters": repr((study, [self.params.strategy(name) for name in names])),
            "prepared data": repr(self.prepared.card),  # subsets are drawn from these two
        }
        return {
            **{name: hashlib.sha256(value.encode()).hexdigest() for name, value in read.items()},
            **_versions(*NUMERIC),
            "numerics version": str(NUMERICS_VERSION),
            "device kind": self.device.type,
            "precision": self.precision,
        }

    @cached_property
    def machine(self) -> dict[str, Any]:
        """What trains here; on a cluster, what did the job whose result was given last."""
        on_cpu = self.device.type == "cpu"
        return {
            "device": _cpu() if on_cpu else torch.cuda.get_device_name(self.device),
            "threads": execution.THREADS if on_cpu else torch.get_num_threads(),
            "python": platform.python_version(),
            "versions": _versions(*PACKAGES),
        }

    def fingerprint(self, cell: Cell, elsewhere: Provenance | None = None) -> str:
        """The SHA-256 of everything that can change a cell's result; `elsewhere`: on that machine, not on this one."""
        together = [(other.lr_scale, other.seed) for other in self.together(cell)]
        inputs = self.inputs(cell)
        if elsewhere is not None:
            inputs["versions"] = {package: elsewhere.versions.get(package) for package in inputs["versions"]}
            inputs["device_kind"] = elsewhere.device_kind
            inputs["parameters"] = {**inputs["parameters"], "precision": elsewhere.precision}
        return runs.fingerprint({**inputs, **({"together": together} if together else {})})

    def _ids_sha256(self, part: Indices) -> str:
        key = part.tobytes()
        if key not in self._checksums:
            self._checksums[key] = self.prepared.ids_sha256(part)
        return self._checksums[key]

    def stored(self, cell: Cell) -> StoredRun | None:
        """The run of a cell, if the store has it and it is whole."""
        return runs.read(command.RESULTS, cell, self.fingerprint(cell))

    def twin(self, cell: Cell) -> StoredRun | None:
        """The run of a cell as another one has left it that trains the same under another name or role; None without.

        A sweep that tries the chosen rate, say, repeats the final run. Which of them is trained depends on the order
        of the stages, which DVC need not know: the numbers are the same.
        """
        if cell.role == "pilot" or self.together(cell):
            return None
        for other in self._twins.get(self.fingerprint(cell), ()):
            if other != cell and (found := self.stored(other)) is not None:
                return replace(found, run=replace(found.run, cell=cell))
        return None

    @cached_property
    def _twins(self) -> Mapping[str, tuple[Cell, ...]]:
        """The declared cells by what they train."""
        found: dict[str, tuple[Cell, ...]] = {}
        if rates.place(self.study.name).exists():  # else nobody knows yet what final runs and ablations are
            for cell in self.declared("final") + self.declared("sweep") + self.declared("ablation"):
                found[self.fingerprint(cell)] = (*found.get(self.fingerprint(cell), ()), cell)
        return found

    def provenance(self, cell: Cell, commit: str, started: float) -> Provenance:
        """Where, when and with what a cell was trained."""
        return Provenance(
            commit=commit,
            numerics_version=NUMERICS_VERSION,
            parameters_sha256=hashlib.sha256(json.dumps(self.shared(), sort_keys=True).encode()).hexdigest(),
            weights_sha256=self.weights_sha256(cell),
            precision=self.precision,
            device_kind=self.device.type,
            torch=_versions("torch")["torch"],
            **self.machine,
            command=_command(),
            started=datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        )


def complete(study: str, role: Role, strategy: str | None = None) -> None:
    """Train the declared cells that the run store lacks, and store each as it finishes."""
    bench = Workbench(study)
    train_missing(bench, bench.declared(role, strategy), f"{study} · {strategy or role}")


def train_missing(bench: Workbench, cells: Sequence[Cell], title: str) -> None:
    """Train those of some cells of one role that the run store lacks."""
    with ExitStack() as locks:
        for role, strategy in dict.fromkeys((cell.role, cell.strategy) for cell in cells):
            locks.enter_context(runs.lock(command.RESULTS, bench.study.name, role, strategy))
        runs.sweep_leftovers(command.RESULTS, bench.study.name)
        broken = {cell for cell in cells if bench.stored(cell) is None}
        missing = [cell for cell in cells if cell in broken or not broken.isdisjoint(bench.together(cell))]
        missing = [cell for cell in missing if not _taken_from_twin(bench, cell)]
        for cell in missing:  # all of them, before the first is trained
            images, study = len(bench.parts(cell)[0]), bench.study
            training.refuse_single_batches(bench.strategy(cell), study.backbone, images, study.batch_size)
        if missing:
            _train(bench, missing, title)


def _taken_from_twin(bench: Workbench, cell: Cell) -> bool:
    """Store the run of a cell that has been trained under another name, with where and when that was."""
    twin = bench.twin(cell)
    if twin is None:
        return False
    runs.write(command.RESULTS, twin.run, twin.provenance, twin.fingerprint, twin.test_ids_sha256)
    LOG.info("%s (%s): the same training as a run that is there, taken from it", cell, cell.role)
    return True


Job = tuple[Cell, ...]  # cells that one worker trains together


def _train(bench: Workbench, cells: Sequence[Cell], title: str) -> None:
    commit, finished = command.commit(), 0
    _keep_activations(bench, cells, title)
    jobs = _jobs(bench, cells)
    epochs = dict.fromkeys(jobs, 0)
    with Progress(title, bench.study.epochs * len(cells), "epoch") as bar:

        def watch(job: Job, done: int) -> None:
            bar.advance(done - epochs[job], f"{job[0].size}, seed {job[0].seed}")
            epochs[job] = done

        for job, trained in bench.each(train_job, jobs, watch):
            watch(job, bench.study.epochs * len(job))
            for run in trained:
                cell, key = run.cell, bench.fingerprint(run.cell)
                provenance = bench.provenance(cell, commit, time.time() - run.seconds)
                ids = bench.prepared.ids_sha256(bench.parts(cell)[2])
                runs.write(command.RESULTS, run, provenance, key, ids)
                finished += 1
                result = f"accuracy {run.judged.accuracy:.1%}" if run.status == "ok" else "diverged"
                bar.say(f"{cell}: {result}, {run.seconds:.0f} s of training ({finished} of {len(cells)})")


@dataclass(frozen=True)
class Batch:
    """A batch of a set of images that passes a frozen stretch, named so that a worker finds it in its own view."""

    cell: Cell  # any that reads the set
    name: str  # of the set
    first: int  # position of its first image in the set


def _keep_activations(bench: Workbench, cells: Sequence[Cell], title: str) -> None:
    """Put into the study's cache what frozen stretches make of the images that these cells share."""
    wanted = activations.missing((one for cell in cells for one in bench.wanted(cell)), bench.cache)
    pieces = {
        Batch(piece.wanted.task.cell, piece.wanted.name, piece.first): piece for piece in activations.pieces(wanted)
    }
    if not pieces:
        return
    with Progress(f"{title} · frozen groups", len(pieces), "batch") as bar:

        def computed() -> Iterator[tuple[activations.Piece, tuple[activations.Rows, float]]]:
            for batch, rows in bench.each(pass_batch, list(pieces)):
                bar.advance()
                yield pieces[batch], rows

        activations.store(computed(), bench.cache)
    bench.forget_images()


def pass_batch(batch: Batch, report: Callable[[int], None]) -> tuple[activations.Rows, float]:
    """Run a batch through its frozen stretch, wherever this runs."""
    bench = bench_of(batch.cell.study)
    wanted = next(one for one in bench.wanted(batch.cell) if one.name == batch.name)
    with training.surroundings(wanted.task, bench.device):
        return activations.compute(activations.Piece(wanted, batch.first), bench.frozen_model, bench.device)


def _jobs(bench: Workbench, cells: Sequence[Cell]) -> list[Job]:
    """Cells that train as one batched head in one job, each other cell in its own; the quick ones first."""
    batches: dict[heads.Companions, Job] = {}
    alone: list[Job] = []
    for cell in cells:
        if bench.trains_together(cell.strategy):
            batches[heads.companions(cell)] = (*batches.get(heads.companions(cell), ()), cell)
        else:
            alone.append((cell,))
    return [*batches.values(), *alone]


_BENCH: Workbench | None = None


def share(bench: Workbench) -> None:
    """Leave the study where workers look for it: forked ones find it, others make their own."""
    global _BENCH
    _BENCH = bench


def bench_of(study: str) -> Workbench:
    """A worker's own view of a study, read from disk once in every process."""
    if _BENCH is None or _BENCH.study.name != study:
        share(Workbench(study))
    assert _BENCH is not None
    return _BENCH


def elsewhere(
    study: str, seen: Mapping[str, str], work: execution.Work[J, R], job: J, report: Callable[[int], None]
) -> tuple[R, dict[str, Any]]:
    """Do a job where no study is inherited, and say on what machine. Raises PreparedError where it is another study.

    Such a worker outlives stages: it reads the study again where that has changed since.
    """
    if _BENCH is None or _BENCH.seen != seen:
        share(Workbench(study))
    bench = bench_of(study)
    if differing := [name for name, value in seen.items() if bench.seen[name] != value]:
        raise prepared.PreparedError(
            f"{platform.node()} sees another {', another '.join(differing)} of {study} than this stage does: all "
            "machines need the same files, the same releases and the same kind of device"
        )
    return work(job, report), bench.machine


def train_job(job: Job, report: Callable[[int], None]) -> list[Run]:
    """Train the cells of a job, wherever this runs: the worker reads the prepared data itself."""
    bench = bench_of(job[0].study)
    bench.forget_images()
    tasks = [bench.task(cell) for cell in job]
    first = tasks[0].strategy
    state = bench.weights[0] if first.weights == "pretrained" else None
    if first.closed_form:
        return [heads.closed_form(task, bench.device, state) for task in tasks]
    if heads.batchable(first):
        done = dict.fromkeys(range(len(tasks)), 0)

        def watch(place: int, epoch: int) -> None:
            done[place] = epoch
            report(sum(done.values()))

        return heads.train_batch(tasks, bench.device, state, watch)
    return [training.train(task, bench.device, report, state) for task in tasks]


def described(strategy: Strategy, epochs: int) -> dict[str, Any]:
    """A strategy as a report shows it."""
    plain = asdict(strategy)
    return {
        **{key: value for key, value in plain.items() if key not in ("name", "phases")},
        "phases": [{"share": phase.share, "lr": dict(phase.rates)} for phase in strategy.phases],
        "epochs_of_phases": (
            [] if strategy.closed_form else list(epochs_of_phases([phase.share for phase in strategy.phases], epochs))
        ),
    }


@cache
def _versions(*packages: str) -> dict[str, str]:
    """Releases, without what names the build."""
    return {package: metadata.version(package).partition("+")[0] for package in packages}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{model} ({capability}, {execution.workers()} cores)"


def _command() -> str:
    module = getattr(sys.modules["__main__"].__spec__, "name", None)
    return shlex.join(["python", *(["-m", module] if module else []), *sys.argv[1:]])
