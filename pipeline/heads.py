"""Cells that train nothing but a head, together: features computed once, one batched head over all of them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline import augmentation, backbones, drift, phases, prefix
from pipeline.backbones import GroupedModel
from pipeline.randomness import numpy_stream, seed_of, torch_stream
from pipeline.strategies import GROUPS, Cell, Normalisation, Strategy, epochs_of_phases
from pipeline.training import EVALUATION_BATCH, DriftRow, HistoryRow, Images, Run, Task, finished, note, surroundings

LOG = logging.getLogger(__name__)

BUDGET = 1 << 30  # bytes of features that all cells of a stage may hold at once
BETAS, EPSILON = (0.9, 0.999), 1e-8  # torch.optim.AdamW's own

Watch = Callable[[int, int], None]  # told the task's number and its finished epochs
Companions = tuple[str, str, str, int]


def batchable(strategy: Strategy) -> bool:
    """Whether a cell of this strategy can train with others: only its head learns, on features that can be kept."""
    return strategy.weights == "pretrained" and all(
        phase.learning == ("head",) and prefix.start_of(strategy, phase) == "head" for phase in strategy.phases
    )


def companions(cell: Cell) -> Companions:
    """What cells that train together have in common; seeds and rates differ."""
    return cell.study, cell.role, cell.strategy, cell.per_class


@dataclass(frozen=True)
class Piece:
    """A batch of images that has to run through the frozen backbone once."""

    task: int  # any task that needs it
    images: Images
    first: int  # position of its first image in `images`
    flipped: bool
    key: str  # of the set of images, the view and the normalisation it belongs to


class Together:
    """The cells among `tasks` that can train together; whoever has them fetches the pieces, then trains.

    A set of images goes through the backbone in batches of its own, in its own order, as it would for a cell that
    trains alone: its features don't depend on which other cells there are.
    """

    def __init__(self, tasks: Sequence[Task], device: torch.device, state: Mapping[str, Tensor] | None) -> None:
        self.tasks, self.device = tasks, device
        self.groups: dict[Companions, list[int]] = {}
        self.pieces: list[Piece] = []
        self.model: GroupedModel | None = None
        able = [number for number, task in enumerate(tasks) if batchable(task.strategy)]
        if able:
            model = _body(tasks[able[0]], device, state)
            self.pieces = _pieces(tasks, able)
            needed = sum(len(_pixels(piece)) for piece in self.pieces) * model.features * 4
            if needed > BUDGET:
                LOG.info(
                    "heads are trained one by one: %d MB of features, %d MB allowed", needed >> 20, BUDGET >> 20
                )  # fmt: skip
                able, self.pieces = [], []
            else:
                self.model = model
        for number in able:
            self.groups.setdefault(companions(tasks[number].cell), []).append(number)
        self.alone = sorted(set(range(len(tasks))) - set(able))

    def extract(self, number: int) -> tuple[NDArray[np.float32], float]:
        """Features [images of the piece, features] of one piece, and the seconds they took."""
        assert self.model is not None
        piece = self.pieces[number]
        task, since = self.tasks[piece.task], time.perf_counter()
        preprocessing = backbones.REGISTRY[task.backbone].preprocessing().at(task.resolution)
        with surroundings(task, self.device), torch.inference_mode():
            sized = augmentation.to_resolution(_pixels(piece).to(self.device), preprocessing)
            batch = augmentation.normalise(sized, preprocessing, task.strategy.normalisation)
            if piece.flipped:
                batch = batch.flip(3).contiguous(memory_format=torch.channels_last)
            rows: NDArray[np.float32] = self.model(batch, stop="head").float().cpu().numpy()
        return rows, time.perf_counter() - since

    def train(self, extracted: Sequence[tuple[NDArray[np.float32], float]], watch: Watch) -> Iterator[Run]:
        """Train all groups on what `extract` gave for every piece; the runs of a group come together."""
        rows: dict[str, list[NDArray[np.float32]]] = {}
        seconds: dict[str, float] = {}
        for piece, (part, took) in zip(self.pieces, extracted, strict=True):
            rows.setdefault(piece.key, []).append(part)
            seconds[piece.key] = seconds.get(piece.key, 0.0) + took
        features = {key: torch.from_numpy(np.concatenate(parts)).to(self.device) for key, parts in rows.items()}
        users: dict[str, int] = {}
        for key in (key for numbers in self.groups.values() for number in numbers for key in self.train_keys(number)):
            users[key] = users.get(key, 0) + 1
        for numbers in self.groups.values():
            shares = [sum(seconds[key] / users[key] for key in self.train_keys(number)) for number in numbers]
            assert self.model is not None
            with surroundings(self.tasks[numbers[0]], self.device):
                group = _Group([self.tasks[number] for number in numbers], self.model, features, shares)
                runs = group.run(lambda place, epoch, numbers=numbers: watch(numbers[place], epoch))  # type: ignore[misc]
            yield from runs

    def train_keys(self, number: int) -> list[str]:
        """The sets of features a cell learns from."""
        task = self.tasks[number]
        return [_key(task.train, task.strategy.normalisation, view) for view in _flips(task.strategy)]


class _Group:
    """Cells that differ in seed and rate alone, as one batched head: weights [cells, classes, features]."""

    def __init__(
        self, tasks: Sequence[Task], model: GroupedModel, features: Mapping[str, Tensor], seconds: Sequence[float]
    ) -> None:
        self.tasks, self.first, self.seconds = tasks, tasks[0], list(seconds)
        self.body_parameters = sum(w.numel() for name in GROUPS[:-1] for w in model.group(name).parameters())
        device = next(iter(features.values())).device
        normalisation = self.first.strategy.normalisation
        flips = _flips(self.first.strategy)
        own = {_key(task.train, normalisation, view): 0 for task in tasks for view in flips}
        kept, count = [], 0
        for key in own:
            own[key] = count
            kept.append(features[key])
            count += len(features[key])
        self.rows = torch.cat(kept)  # [images and views of all cells, features]
        # Where each cell's plain images begin, and its flipped ones.
        self.begin = np.array([[own[_key(task.train, normalisation, view)] for view in flips] for task in tasks])
        self.watched = [features[_key(task.watched, normalisation, False)] for task in tasks if len(task.watched)]
        self.judged = [features[_key(task.judged, normalisation, False)] for task in tasks]
        self.labels = torch.stack([task.train.labels for task in tasks]).to(device)
        heads = [
            backbones.head(model.features, task.classes, torch_stream("initialisation", task.cell.seed))
            for task in tasks
        ]
        self.weight = torch.stack([head.weight.detach() for head in heads]).to(device).requires_grad_()
        self.bias = torch.stack([head.bias.detach() for head in heads]).unsqueeze(1).to(device).requires_grad_()
        self.start = [(w.clone(), b.clone()) for w, b in zip(self.weight.detach(), self.bias.detach(), strict=True)]
        self.history: list[list[HistoryRow]] = [[] for _ in tasks]
        self.drift: list[list[DriftRow]] = [[] for _ in tasks]
        self.alive = [True] * len(tasks)
        self.steps_done = 0

    def run(self, watch: Watch) -> list[Run]:
        """All phases, then the judged images of every cell."""
        strategy = self.first.strategy
        lengths = epochs_of_phases([phase.share for phase in strategy.phases], self.first.epochs)
        epoch = 0
        for number, length in enumerate(lengths, start=1):
            self.phase(number, length, epoch, watch)
            epoch += length
            for place, alive in enumerate(self.alive):
                if alive:
                    still = [DriftRow(number, group, 0.0) for group in GROUPS[:-1]]
                    moved = drift.distance((self.weight[place], self.bias[place]), self.start[place])
                    self.drift[place] += [*still, DriftRow(number, GROUPS[-1], moved)]
        runs = []
        learning = self.weight[0].numel() + self.bias[0].numel()
        for place, task in enumerate(self.tasks):
            logits = self.logits(place, self.judged[place]) if self.alive[place] else None
            total = self.body_parameters + learning
            runs.append(
                finished(task, logits, self.history[place], self.drift[place], self.seconds[place], learning, total)
            )
        return runs

    def phase(self, number: int, epochs: int, epochs_before: int, watch: Watch) -> None:
        """Train one phase of all cells, and note every epoch."""
        images = len(self.first.train)
        batches = math.ceil(images / self.first.batch_size)
        rates = torch.tensor([task.strategy.phases[number - 1].rates["head"] for task in self.tasks])
        optimizer = _AdamW((self.weight, self.bias), rates.view(-1, 1, 1).to(self.rows.device))
        for epoch in range(epochs_before + 1, epochs_before + epochs + 1):
            since = time.perf_counter()
            orders = np.stack([numpy_stream("order", task.cell.seed, epoch).permutation(images) for task in self.tasks])
            rows = self.begin[:, :1] + orders
            if self.begin.shape[1] == 2:
                drawn = [augmentation.Draws.of(task.cell.seed, epoch, task.dataset_images) for task in self.tasks]
                flipped = np.stack([
                    draws.flips(task.train.indices[order])
                    for task, draws, order in zip(self.tasks, drawn, orders, strict=True)
                ])  # fmt: skip
                rows = np.where(flipped, self.begin[:, 1:] + orders, rows)
            chosen = torch.from_numpy(rows).to(self.rows.device)
            labels = self.labels.gather(1, torch.from_numpy(orders).to(self.rows.device))
            for number_in_epoch, at in enumerate(np.array_split(np.arange(images), batches)):
                step = (epoch - epochs_before - 1) * batches + number_in_epoch
                part = slice(at[0], at[-1] + 1)
                self.step(optimizer, chosen[:, part], labels[:, part], phases.rate_factor(step, batches * epochs))
            share = (time.perf_counter() - since) / len(self.tasks)
            self.seconds = [seconds + share for seconds in self.seconds]
            for place in range(len(self.tasks)):
                if self.alive[place]:
                    self.alive[place] = self.record(place, number, epoch)
                    watch(place, epoch)

    def step(self, optimizer: _AdamW, rows: Tensor, labels: Tensor, factor: float) -> None:
        """One step of all cells on `rows` [cells, batch] of the kept features."""
        cells, batch = rows.shape
        x = self.rows.index_select(0, rows.reshape(-1)).view(cells, batch, -1)
        dropout = self.first.strategy.dropout
        if dropout:
            dropped = []
            for task, own in zip(self.tasks, x, strict=True):
                torch.manual_seed(seed_of("dropout", task.cell.seed, self.steps_done))
                dropped.append(F.dropout(own, dropout))
            x = torch.stack(dropped)
        logits = torch.baddbmm(self.bias, x, self.weight.transpose(1, 2)).float()
        # Each cell's loss is a mean over its own batch; their sum gives each cell its own gradient.
        loss = F.cross_entropy(logits.flatten(0, 1), labels.reshape(-1), reduction="sum") / batch
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step(factor)
        self.steps_done += 1

    def record(self, place: int, phase: int, epoch: int) -> bool:
        """Evaluate one cell; whether it is still finite."""
        task, history, begin = self.tasks[place], self.history[place], self.begin[place, 0]
        plain = self.rows[begin : begin + len(task.train)]
        finite = note(history, phase, epoch, "train", self.logits(place, plain), self.labels[place])
        if finite and len(task.watched):
            watched = self.logits(place, self.watched[place])
            finite = note(history, phase, epoch, "val", watched, task.watched.labels.to(watched.device))
        return finite

    def logits(self, place: int, rows: Tensor) -> Tensor:
        """Logits [images, classes] of one cell in float32."""
        with torch.inference_mode():
            return F.linear(rows, self.weight[place], self.bias[place, 0]).float()


class _AdamW:
    """AdamW (Loshchilov and Hutter, 2019) with a rate for every cell; torch.optim.AdamW has one for a whole tensor."""

    def __init__(self, weights: Sequence[Tensor], rates: Tensor) -> None:
        self.weights, self.rates = weights, rates  # rates [cells, 1, 1]
        self.means = [torch.zeros_like(w) for w in weights]
        self.squares = [torch.zeros_like(w) for w in weights]
        self.steps = 0

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Move the weights by their gradients at `factor` times their rates, and drop the gradients."""
        self.steps += 1
        first, second = BETAS
        rates = self.rates * factor
        for weight, mean, square in zip(self.weights, self.means, self.squares, strict=True):
            assert weight.grad is not None
            weight.mul_(1 - rates * phases.WEIGHT_DECAY)
            mean.lerp_(weight.grad, 1 - first)
            square.mul_(second).addcmul_(weight.grad, weight.grad, value=1 - second)
            scale = (square / (1 - second**self.steps)).sqrt_().add_(EPSILON)
            weight.sub_(rates / (1 - first**self.steps) * mean / scale)
            weight.grad = None


def _body(task: Task, device: torch.device, state: Mapping[str, Tensor] | None) -> GroupedModel:
    model = backbones.build(task.backbone, task.classes, "pretrained", torch_stream("unused head"), state=state)
    return model.to(device).requires_grad_(False).eval()


def _pieces(tasks: Sequence[Task], numbers: Sequence[int]) -> list[Piece]:
    pieces, seen = [], set()
    for number in numbers:
        task = tasks[number]
        sets = [(task.train, view) for view in _flips(task.strategy)] + [(task.watched, False), (task.judged, False)]
        for images, flipped in sets:
            key = _key(images, task.strategy.normalisation, flipped)
            if key not in seen:
                seen.add(key)
                firsts = range(0, len(images), EVALUATION_BATCH)
                pieces += [Piece(number, images, first, flipped, key) for first in firsts]
    return pieces


def _flips(strategy: Strategy) -> tuple[bool, ...]:
    return (False, True) if strategy.augmentation == "flip" else (False,)


def _key(images: Images, normalisation: Normalisation, flipped: bool) -> str:
    return f"{normalisation} {flipped} {images.indices.tobytes().hex()}"


def _pixels(piece: Piece) -> Tensor:
    return piece.images.pixels[piece.first : piece.first + EVALUATION_BATCH]
