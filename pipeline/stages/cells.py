"""Bring a study's declared cells into the run store: what is there stays, what is missing is trained."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline import backbones, execution, heads, params, runs
from pipeline.runs import Provenance, StoredRun
from pipeline.stages import command, prepared
from pipeline.stages.progress import Progress
from pipeline.strategies import Cell, Role, Strategy, epochs_of_phases
from pipeline.subsets import Indices, tuning_split
from pipeline.tracking import DatasetInput, Mirror, MirroredRun, Point
from pipeline.training import NUMERICS_VERSION, Images, Task

LOG = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")
RATES = "rates.json"


class Workbench:
    """A study with its prepared data: from a declared cell to its task, its fingerprint and its stored run."""

    def __init__(self, study: str) -> None:
        self.params = params.load()
        self.study = self.params.study(study)
        self.prepared = prepared.read(self.study)
        self.subsets = prepared.read_subsets(self.study, self.prepared.card.sha256)
        self.device = execution.device()
        self._images: dict[str, Images] = {}
        self._by_companions: dict[Role, Mapping[heads.Companions, tuple[Cell, ...]]] = {}

    def declared(self, role: Role, strategy: str | None = None) -> tuple[Cell, ...]:
        """The cells that the study declares, final ones and ablations at their tuned rates."""
        scales = read_rates(self.study.name) if role in ("final", "ablation") else None
        return self.params.cells(self.study.name, role, scales, strategy)

    def strategy(self, cell: Cell) -> Strategy:
        """How a cell adapts the backbone, its rates scaled."""
        return self.params.strategy(cell.strategy).scaled(cell.lr_scale)

    def parts(self, cell: Cell) -> tuple[Indices, Indices, Indices]:
        """Which images a cell trains on, watches, and is judged on."""
        drawn = self.subsets.drawn[cell.per_class, cell.seed]
        if cell.role == "pilot":
            trained_on, judged = tuning_split(drawn, self.prepared.labels[drawn])
            return trained_on, judged, judged
        return drawn, self.subsets.watched, self.prepared.test

    def images(self, indices: Indices) -> Images:
        """Some images in memory; cells of a seed share them."""
        key = indices.tobytes().hex()
        return self._images.setdefault(key, self.prepared.images(indices))

    def task(self, cell: Cell) -> Task:
        """All that training a cell depends on."""
        trained_on, watched, judged = self.parts(cell)
        return Task(
            cell=cell,
            strategy=self.strategy(cell),
            backbone=self.study.backbone,
            resolution=self.study.resolution,
            epochs=self.study.epochs,
            batch_size=self.study.batch_size,
            classes=len(self.prepared.card.classes),
            dataset_images=len(self.prepared.labels),
            train=self.images(trained_on),
            watched=self.images(watched),
            judged=self.images(judged),
        )

    @cached_property
    def weights(self) -> tuple[Mapping[str, Tensor], str]:
        """The pretrained weights and their SHA-256, hashed anew in every process."""
        return backbones.read_weights(backbones.REGISTRY[self.study.backbone].weights)

    def shared(self) -> dict[str, Any]:
        """The parameters that all cells of the study have in common."""
        study = self.study
        return {
            "dataset": {"name": study.dataset.name, **study.dataset.options},
            "backbone": study.backbone,
            "resolution": study.resolution,
            "epochs": study.epochs,
            "batch_size": study.batch_size,
        }

    def weights_sha256(self, cell: Cell) -> str:
        """Checksum of the weights a cell starts from; empty where they are random."""
        return "" if self.strategy(cell).weights == "none" else self.weights[1]

    def together(self, cell: Cell) -> tuple[Cell, ...]:
        """The declared cells that train with this one as one batched head, itself among them; none if it trains alone.

        They are stored together: where one is missing, all are trained again.
        """
        if not heads.batchable(self.params.strategy(cell.strategy)):
            return ()
        return self._companions(cell.role)[heads.companions(cell)]

    def _companions(self, role: Role) -> Mapping[heads.Companions, tuple[Cell, ...]]:
        if role not in self._by_companions:
            found: dict[heads.Companions, tuple[Cell, ...]] = {}
            for cell in self.declared(role):
                found[heads.companions(cell)] = (*found.get(heads.companions(cell), ()), cell)
            self._by_companions[role] = found
        return self._by_companions[role]

    def inputs(self, cell: Cell) -> dict[str, Any]:
        """Everything that can change a cell's result where it trains alone."""
        trained_on, watched, judged = (self.prepared.ids_sha256(part) for part in self.parts(cell))
        return {
            "cell": asdict(cell),
            "parameters": self.shared(),
            "strategy": asdict(self.strategy(cell)),
            "data_sha256": self.prepared.card.sha256,
            "images": {"train": trained_on, "watched": watched, "judged": judged},
            "weights_sha256": self.weights_sha256(cell),
            "torch": _torch_release(),
            "device_kind": self.device.type,
            "numerics_version": NUMERICS_VERSION,
        }

    def fingerprint(self, cell: Cell) -> str:
        """The SHA-256 of everything that can change a cell's result."""
        together = [(other.lr_scale, other.seed) for other in self.together(cell)]
        return runs.fingerprint({**self.inputs(cell), **({"together": together} if together else {})})

    def stored(self, cell: Cell) -> StoredRun | None:
        """The run of a cell, if the store has it and it is whole."""
        return runs.read(command.RESULTS, cell, self.fingerprint(cell))

    def twin(self, cell: Cell) -> StoredRun | None:
        """The run of a cell as another one has left it that trains the same under another name or role; None without.

        A sweep that tries the tuned rate, say, repeats the final run. Which of them is trained depends on the order of
        the stages, which DVC need not know: the numbers are the same.
        """
        others = () if cell.role == "pilot" or self.together(cell) else self._twins.get(self.content(cell), ())
        for other in others:
            if other != cell and (found := self.stored(other)) is not None:
                return replace(found, run=replace(found.run, cell=cell), fingerprint=self.fingerprint(cell))
        return None

    @cached_property
    def _twins(self) -> Mapping[str, tuple[Cell, ...]]:
        """The declared cells that train alone, by what they train."""
        found: dict[str, tuple[Cell, ...]] = {}
        if rates_of(self.study.name).exists():  # else nobody knows yet what final runs and ablations are
            for cell in self.declared("final") + self.declared("sweep") + self.declared("ablation"):
                if not self.together(cell):
                    content = self.content(cell)
                    found[content] = (*found.get(content, ()), cell)
        return found

    def content(self, cell: Cell) -> str:
        """The fingerprint without the names: the seed alone feeds the random streams, and rates are in the strategy."""
        inputs = self.inputs(cell)
        strategy = {**inputs["strategy"], "name": ""}
        return runs.fingerprint({**inputs, "cell": (cell.per_class, cell.seed), "strategy": strategy})

    def provenance(self, cell: Cell, commit: str, started: float) -> Provenance:
        """Where, when and with what a cell was trained."""
        on_cpu = self.device.type == "cpu"
        return Provenance(
            commit=commit,
            numerics_version=NUMERICS_VERSION,
            parameters_sha256=hashlib.sha256(json.dumps(self.shared(), sort_keys=True).encode()).hexdigest(),
            data_sha256=self.prepared.card.sha256,
            weights_sha256=self.weights_sha256(cell),
            device_kind=self.device.type,
            torch=_torch_release(),
            device=_cpu() if on_cpu else torch.cuda.get_device_name(self.device),
            threads=execution.THREADS if on_cpu else torch.get_num_threads(),
            python=platform.python_version(),
            versions={package: metadata.version(package) for package in PACKAGES},
            command=_command(),
            started=datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        )


def complete(study: str, role: Role, strategy: str | None = None) -> None:
    """Train the declared cells that the run store lacks, store each as it finishes, and mirror all to MLflow."""
    bench = Workbench(study)
    cells = bench.declared(role, strategy)
    # DVC runs `train` for every strategy of params.yaml; for one that the study leaves out it, too, wants a folder.
    places = {runs.folder(command.RESULTS, cell) for cell in cells} or {
        command.RESULTS / study / role / (strategy or "")
    }
    with runs.lock(command.RESULTS, study):
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
            if not cells:
                (place / ".gitkeep").touch()  # git and DVC both know files alone
        runs.sweep_leftovers(command.RESULTS, study)
        stored = {cell: bench.stored(cell) for cell in cells}
        with Mirror() as mirror:
            for run in stored.values():
                if run is not None:
                    mirror.add(as_mirrored(bench, run))
            broken = {cell for cell, run in stored.items() if run is None}
            missing = [cell for cell in cells if cell in broken or not broken.isdisjoint(bench.together(cell))]
            missing = [cell for cell in missing if not _taken_from_twin(bench, cell, mirror)]
            if missing:
                _train(bench, missing, f"{study} · {strategy or role}", mirror)


def _taken_from_twin(bench: Workbench, cell: Cell, mirror: Mirror) -> bool:
    """Store the run of a cell that has been trained under another name, with where and when that was."""
    twin = bench.twin(cell)
    if twin is None:
        return False
    runs.write(command.RESULTS, twin.run, twin.provenance, twin.fingerprint, twin.test_ids_sha256)
    mirror.add(as_mirrored(bench, twin))
    LOG.info("%s (%s): the same training as a run that is there, taken from it", cell, cell.role)
    return True


def _train(bench: Workbench, cells: Sequence[Cell], title: str, mirror: Mirror) -> None:
    commit, finished = command.commit(), 0
    tasks = [bench.task(cell) for cell in cells]
    state = bench.weights[0] if any(task.strategy.weights == "pretrained" for task in tasks) else None
    epochs = dict.fromkeys(cells, 0)
    with Progress(title, bench.study.epochs * len(cells), "epoch") as bar:

        def watch(number: int, epoch: int) -> None:
            cell = cells[number]
            bar.advance(epoch - epochs[cell], f"{cell.size}, seed {cell.seed}, epoch {epoch}")
            epochs[cell] = epoch

        for run in execution.run_all(tasks, bench.device, state, watch):
            cell, key = run.cell, bench.fingerprint(run.cell)
            provenance = bench.provenance(cell, commit, time.time() - run.seconds)
            ids = bench.prepared.ids_sha256(bench.parts(cell)[2])
            runs.write(command.RESULTS, run, provenance, key, ids)
            mirror.add(as_mirrored(bench, StoredRun(run, provenance, key, ids)))
            finished += 1
            result = f"accuracy {run.judged.accuracy:.1%}" if run.status == "ok" else "diverged"
            bar.say(f"{cell}: {result}, {run.seconds:.0f} s of training ({finished} of {len(cells)})")


def as_mirrored(bench: Workbench, stored: StoredRun) -> MirroredRun:
    """A stored run as MLflow is to show it."""
    run, card, study = stored.run, bench.prepared.card, bench.study
    judged_on = "tuning split" if run.cell.role == "pilot" else "test"
    return MirroredRun(
        cell=run.cell,
        params={
            **{key: value for key, value in bench.shared().items() if key != "dataset"},
            "dataset": card.name,
            "learning_rates": study.learning_rates,
            "weights": bench.strategy(run.cell).weights,
        },
        curves=[Point(row.epoch, f"{row.split}/{row.metric}", row.value) for row in run.history],
        final={
            "test/accuracy": run.judged.accuracy,
            "test/balanced_accuracy": run.judged.balanced_accuracy,
            "test/log_loss": run.judged.log_loss,
            "test/ece": run.judged.ece,
            "seconds": run.seconds,
            "trainable_parameters": float(run.trainable_parameters),
        },
        tags={
            "commit": stored.provenance.commit,
            "fingerprint": stored.fingerprint,
            "status": run.status,
            "device": stored.provenance.device,
            "judged_on": judged_on,
        },
        dataset=DatasetInput(
            card.name, card.sha256, card.source, card.pool_images + card.test_images, len(card.classes)
        ),
        started=datetime.fromisoformat(stored.provenance.started),
        seconds=run.seconds,
        experiment=study.name,
        description=(
            f"{card.name}, {study.backbone} at {study.resolution} px, {study.epochs} epochs, "
            f"{len(study.seeds)} seeds; the report is reports/{study.name}/report.md"
        ),
    )


def rates_of(study: str) -> Path:
    """Where the chosen rates of a study lie."""
    return command.RESULTS / study / RATES


def read_rates(study: str) -> dict[tuple[int, str], float]:
    """The lr_scale of every size and strategy that stage `tune` chose."""
    content = json.loads(rates_of(study).read_text())
    return {(int(size), name): float(scale) for size, chosen in content.items() for name, scale in chosen.items()}


def described(strategy: Strategy, epochs: int) -> dict[str, Any]:
    """A strategy as a report shows it."""
    plain = asdict(strategy)
    return {
        **{key: value for key, value in plain.items() if key not in ("name", "phases")},
        "phases": [{"share": phase.share, "lr": dict(phase.rates)} for phase in strategy.phases],
        "epochs_of_phases": list(epochs_of_phases([phase.share for phase in strategy.phases], epochs)),
    }


def _torch_release() -> str:
    return torch.__version__.partition("+")[0]  # what follows names the build


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{model} ({capability}, {execution.workers()} cores)"


def _command() -> str:
    module = getattr(sys.modules["__main__"].__spec__, "name", None)
    return shlex.join(["python", *(["-m", module] if module else []), *sys.argv[1:]])
