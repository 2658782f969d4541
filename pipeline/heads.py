"""Cells that adapt nothing but a head, on features computed once: trained together, or in closed form."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline import activations, augmentation, backbones, drift, phases, prefix
from pipeline.activations import Wanted
from pipeline.backbones import GroupedModel
from pipeline.clock import clock
from pipeline.errors import UserError
from pipeline.randomness import numpy_stream, seed_of, torch_stream
from pipeline.strategies import GROUPS, Cell, Strategy, epochs_of_phases
from pipeline.training import DriftRow, HistoryRow, Images, Run, Task, finished, note, note_values, surroundings

BETAS, EPSILON = (0.9, 0.999), 1e-8  # torch.optim.AdamW's own

Watch = Callable[[int, int], None]  # told the task's number and its finished epochs
Companions = tuple[str, str, str, int]
Linear = tuple[NDArray[np.float64], NDArray[np.float64]]  # weights [classes, features], biases [classes]


class HeadError(UserError):
    """A head that can't be made of these images."""


def batchable(strategy: Strategy) -> bool:
    """Whether a cell of this strategy can train with others: only its head learns, on features that can be kept."""
    return (
        strategy.weights == "pretrained"
        and not strategy.closed_form
        and all(phase.learning == ("head",) and prefix.start_of(strategy, phase) == "head" for phase in strategy.phases)
    )


def companions(cell: Cell) -> Companions:
    """What cells that train together have in common; seeds and rates differ."""
    return cell.study, cell.role, cell.strategy, cell.per_class


class _Features:
    """The features that cells read, each set once, and the frozen backbone, built where the cache lacks a set."""

    def __init__(self, task: Task, device: torch.device, state: Mapping[str, Tensor] | None) -> None:
        self.task, self.device, self.state = task, device, state
        self.model: GroupedModel | None = None
        self.sets: dict[str, tuple[Tensor, float]] = {}

    def of(self, task: Task, images: Images, flipped: bool = False) -> tuple[Tensor, float]:
        """The features [images, features] of one view, and the seconds they took."""
        wanted = Wanted(task, images, GROUPS[-1], flipped)
        if wanted.name not in self.sets:
            self.sets[wanted.name] = activations.read_or_compute(wanted, self.body, self.device)
        return self.sets[wanted.name]

    def body(self) -> GroupedModel:
        """The backbone as the task's cell would start from it."""
        if self.model is None:
            task = self.task
            seed = torch_stream("initialisation", task.cell.seed)
            model = backbones.build(task.backbone, task.classes, task.strategy.weights, seed, state=self.state)
            self.model = model.to(self.device).requires_grad_(False).eval()
        return self.model


# --- trained heads --------------------------------------------------------------------------------------------------


def train_batch(
    tasks: Sequence[Task], device: torch.device, state: Mapping[str, Tensor] | None, watch: Watch
) -> list[Run]:
    """Train batchable cells that differ in seed and rate alone as one batched head; a run for each task.

    Each run is that of `training.train` up to rounding. `state` saves reading the weight file again.
    """
    with surroundings(tasks[0], device):
        return _Batch(tasks, device, state).run(watch)


class _Batch:
    """Cells that differ in seed and rate alone, as one batched head: weights [cells, classes, features]."""

    def __init__(self, tasks: Sequence[Task], device: torch.device, state: Mapping[str, Tensor] | None) -> None:
        self.tasks, self.first = tasks, tasks[0]
        self.outline = activations.outline(self.first.backbone, self.first.resolution)
        features, views = _Features(self.first, device, state), activations.views(self.first.strategy)
        # The rates of a seed share its images, order, flips and dropout.
        self.seeds = list(dict.fromkeys(task.cell.seed for task in tasks))
        of_seed = {task.cell.seed: task for task in tasks}
        self.seed_tasks = [of_seed[seed] for seed in self.seeds]
        self.seed_of = torch.tensor([self.seeds.index(task.cell.seed) for task in tasks], device=device)
        sets = [[features.of(task, task.train, flipped) for flipped in views] for task in self.seed_tasks]
        self.rows = [[rows for rows, _ in of_views] for of_views in sets]  # [seeds][views], each [images, features]
        # As if each cell had computed its features itself: its cost doesn't depend on who else trains.
        self.seconds = [sum(took for _, took in sets[self.seeds.index(task.cell.seed)]) for task in tasks]
        self.watched = [features.of(task, task.watched)[0] for task in tasks if len(task.watched)]
        self.judged = [features.of(task, task.judged)[0] for task in tasks]
        self.labels = torch.stack([task.train.labels for task in self.seed_tasks]).to(device)
        heads = [
            backbones.head(self.outline.features, task.classes, torch_stream("initialisation", task.cell.seed))
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
        total = self.outline.parameters + learning
        for place, task in enumerate(self.tasks):
            logits = self.logits(place, self.judged[place]) if self.alive[place] else None
            runs.append(
                finished(task, logits, self.history[place], self.drift[place], self.seconds[place], learning, total)
            )
        return runs

    def phase(self, number: int, epochs: int, epochs_before: int, watch: Watch) -> None:
        """Train one phase of all cells, and note every epoch."""
        images = len(self.first.train)
        batches = math.ceil(images / self.first.batch_size)
        now = clock(self.weight.device)
        rates = torch.tensor([task.strategy.phases[number - 1].rates["head"] for task in self.tasks])
        optimizer = _AdamW((self.weight, self.bias), rates.view(-1, 1, 1).to(self.weight.device))
        for epoch in range(epochs_before + 1, epochs_before + epochs + 1):
            since = now()
            orders = np.stack([numpy_stream("order", seed, epoch).permutation(images) for seed in self.seeds])
            flips = self.flips(orders, epoch)
            losses = self.weight.new_zeros(len(self.tasks))
            right = self.weight.new_zeros(len(self.tasks))
            for number_in_epoch, at in enumerate(np.array_split(np.arange(images), batches)):
                step = (epoch - epochs_before - 1) * batches + number_in_epoch
                part = slice(at[0], at[-1] + 1)
                factor = phases.rate_factor(step, batches * epochs)
                loss, correct = self.step(optimizer, orders[:, part], flips[:, part], factor)
                losses += loss
                right += correct
            share = (now() - since) / len(self.tasks)
            self.seconds = [seconds + share for seconds in self.seconds]
            means = (losses / images).tolist(), (right / images).tolist()
            for place, (loss_of_cell, accuracy) in enumerate(zip(*means, strict=True)):
                if self.alive[place]:
                    last = epoch == epochs_before + epochs
                    self.alive[place] = self.record(place, number, epoch, loss_of_cell, accuracy, last)
                    watch(place, epoch)

    def flips(self, orders: NDArray[np.int64], epoch: int) -> NDArray[np.bool_]:
        """Which images are flipped this epoch, [seeds, images] in each seed's order."""
        if len(self.rows[0]) == 1:
            return np.zeros(orders.shape, dtype=np.bool_)
        return np.stack([
            augmentation.flips(task.train.keys[order], task.cell.seed, epoch)
            for task, order in zip(self.seed_tasks, orders, strict=True)
        ])  # fmt: skip

    def step(
        self, optimizer: _AdamW, positions: NDArray[np.int64], flips: NDArray[np.bool_], factor: float
    ) -> tuple[Tensor, Tensor]:
        """One step of all cells on images at `positions` [seeds, batch]; before it, each cell's loss and right ones.

        Both are sums over the batch.
        """
        device, dropout, batch = self.weight.device, self.first.strategy.dropout, positions.shape[1]
        at = torch.from_numpy(positions).to(device)
        flipped = torch.from_numpy(flips).to(device).unsqueeze(2)
        seen = []
        for place, seed in enumerate(self.seeds):
            x = self.rows[place][0].index_select(0, at[place])
            if len(self.rows[place]) == 2:
                x = torch.where(flipped[place], self.rows[place][1].index_select(0, at[place]), x)
            if dropout:
                torch.manual_seed(seed_of("dropout", seed, self.steps_done))
                x = F.dropout(x, dropout)
            seen.append(x)
        x, labels = torch.stack(seen), self.labels.gather(1, at)
        if len(self.tasks) > len(self.seeds):
            x, labels = x.index_select(0, self.seed_of), labels.index_select(0, self.seed_of)
        logits = torch.baddbmm(self.bias, x, self.weight.transpose(1, 2)).float()
        losses = F.cross_entropy(logits.flatten(0, 1), labels.reshape(-1), reduction="none").view(-1, batch).sum(1)
        # Each cell's loss is a mean over its own batch; their sum gives each cell its own gradient.
        (losses.sum() / batch).backward()
        optimizer.step(factor)
        self.steps_done += 1
        return losses.detach(), (logits.detach().argmax(2) == labels).sum(1)

    def record(self, place: int, phase: int, epoch: int, loss: float, accuracy: float, last: bool) -> bool:
        """Note one cell's epoch, and at the `last` of a phase its training images; whether it is still finite."""
        task, history = self.tasks[place], self.history[place]
        finite = note_values(history, phase, epoch, "train", loss, accuracy)
        if finite and len(task.watched):
            watched = self.logits(place, self.watched[place])
            finite = note(history, phase, epoch, "val", watched, task.watched.labels.to(watched.device))
        if finite and last:
            seed = int(self.seed_of[place])
            finite = note(
                history, phase, epoch, "train_end", self.logits(place, self.rows[seed][0]), self.labels[seed]
            )  # fmt: skip
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


# --- heads in closed form -------------------------------------------------------------------------------------------


def closed_form(task: Task, device: torch.device, state: Mapping[str, Tensor] | None) -> Run:
    """The run of a cell whose head is computed from the features of the plain view; nothing is trained.

    It has one epoch, and no drift: the head replaces the random one. Not finite in any number is diverged. Raises
    HeadError where each class has a single image.
    """
    return fitted(task, device, state)[0]


def fitted(task: Task, device: torch.device, state: Mapping[str, Tensor] | None) -> tuple[Run, Linear | None]:
    """The run of `closed_form`, and its head; none where it can't be computed."""
    with surroundings(task, device):
        features = _Features(task, device, state)
        rows, seconds = features.of(task, task.train)
        now, labels = clock(device), task.train.labels.numpy()
        since = now()
        _refuse_too_few(task, np.bincount(labels, minlength=task.classes))
        x, head = rows.double().cpu().numpy(), None
        if np.isfinite(x).all():
            with contextlib.suppress(np.linalg.LinAlgError):
                head = _FORMS[task.strategy.head](x, labels)
        seconds += now() - since
        history: list[HistoryRow] = []
        logits = None
        if head is not None:
            finite = note(history, 1, 1, "train_end", _logits(head, rows), task.train.labels.to(device))
            if finite and len(task.watched):
                watched = _logits(head, features.of(task, task.watched)[0])
                finite = note(history, 1, 1, "val", watched, task.watched.labels.to(device))
            logits = _logits(head, features.of(task, task.judged)[0]) if finite else None
        outline = activations.outline(task.backbone, task.resolution)
        numbers = task.classes * (outline.features + 1)
        return finished(task, logits, history, [], seconds, numbers, outline.parameters + numbers), head


def _refuse_too_few(task: Task, counts: NDArray[np.int64]) -> None:
    """How images spread within classes can't be told from one of each; nor can a class be known without any."""
    if counts.min() == 0:
        raise HeadError(
            f"{task.cell}: head '{task.strategy.head}' needs an image of every class, and class "
            f"{int(counts.argmin())} has none to train on"
        )
    if counts.max() == 1:
        raise HeadError(
            f"{task.cell}: head '{task.strategy.head}' needs 2 images of at least one class, and each has 1; raise "
            f"per_class, or leave '{task.strategy.name}' out of the study's strategies"
        )


def _logits(head: Linear, rows: Tensor) -> Tensor:
    """Logits [images, classes] in double precision."""
    weight, bias = (torch.from_numpy(part).to(rows.device) for part in head)
    return torch.cat([F.linear(part.double(), weight, bias) for part in torch.split(rows, activations.BATCH)])


def _lda(x: NDArray[np.float64], labels: NDArray[np.int64]) -> Linear:
    """Linear discriminant analysis, the covariance shrunk as Ledoit and Wolf (2004) do."""
    # Here, since only these heads need it, and it takes two seconds to import.
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from threadpoolctl import threadpool_limits

    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    # Sums over several threads depend on how many there are.
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Only one sample available")  # a class of one image adds no spread
        model.fit(x, labels)
    if len(model.classes_) == 2:  # one line of numbers: how much class 1 is to be preferred
        return np.vstack((-model.coef_, model.coef_)) / 2, np.concatenate((-model.intercept_, model.intercept_)) / 2
    return model.coef_, model.intercept_


def _nearest_mean(x: NDArray[np.float64], labels: NDArray[np.int64]) -> Linear:
    """The class with the nearest mean (Euclidean).

    Probabilities are those of one Gaussian a class around its mean, all of the same variance in every direction: the
    pooled variance within classes, over all features. Classes are equally likely beforehand.
    """
    means = np.stack([x[labels == label].mean(0) for label in range(labels.max() + 1)])
    spread = np.square(x - means[labels]).sum()
    variance = spread / ((len(x) - len(means)) * x.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):  # images that are all alike: not finite, diverged
        return means / variance, -np.square(means).sum(1) / (2 * variance)


_FORMS: Mapping[str, Callable[[NDArray[np.float64], NDArray[np.int64]], Linear]] = {
    "lda": _lda,
    "nearest_mean": _nearest_mean,
}
