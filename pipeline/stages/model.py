"""The end of a study (`make model STUDY=…`): one model, its card, and a recipe that makes it without Thaw."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from pipeline import backbones, datasets, execution, heads, identity, native, recipe, training
from pipeline.backbones import IMAGENET_MEAN, IMAGENET_STD, GroupedModel
from pipeline.errors import UserError
from pipeline.files import write_atomically
from pipeline.folders import shown
from pipeline.preprocessing import Preprocessing
from pipeline.randomness import torch_stream
from pipeline.stages import command, ready
from pipeline.stages.cells import Workbench
from pipeline.stages.noted import write_json
from pipeline.stages.progress import Progress
from pipeline.strategies import ALL, Cell, Normalisation, epochs_of_phases, size_words
from pipeline.training import Run, Task
from pipeline.tuning import inherited

LOG = logging.getLogger(__name__)

MODELS = Path("models")
WEIGHTS, DESCRIPTION, CARD, RECIPE = "model.safetensors", "model.json", "README.md", "recipe.py"


class ModelError(UserError):
    """A strategy of which no model can be made."""


def model(study: str, strategy: str, advice: str) -> None:
    """Write models/<study>/: weights, what they need to be used, a model card, and a recipe.

    `advice` is what the report says of the strategies at the study's largest size, the advised one first: a JSON list
    of {strategy, per_class, judged, low, high, metric, advised}, in percent. An empty `strategy` takes that. Raises
    ModelError where nothing is advised, the study doesn't compare it, or it diverged.
    """
    bench = ready.workbench(study)
    compared: list[dict[str, Any]] = json.loads(advice)
    name = strategy or next((entry["strategy"] for entry in compared if entry["advised"]), "")
    if not name:
        raise ModelError(f"STRATEGY: study {study} decides nothing at its largest size; name the strategy to train")
    if name not in bench.study.strategies:
        raise ModelError(f"STRATEGY: no '{name}' in study {study}; choose from {', '.join(bench.study.strategies)}")
    task = _task(bench, name)
    if task.strategy.frozen_groups != "frozen":
        raise ModelError(f"STRATEGY: '{name}' leaves frozen groups in training mode, a pitfall to measure, not to use")
    training.refuse_single_batches(task.strategy, task.backbone, len(task.train), task.batch_size)
    trained, run = _trained(bench, task)
    if run.status != "ok":
        raise ModelError(f"{name} diverged at its tuned rate on all {len(task.train)} images; give another STRATEGY")
    content = safetensors.torch.save(native.state_of(trained, task.backbone))
    listing = datasets.look(bench.study.dataset.name, bench.study.dataset.options)
    look = identity.examine(listing, listing.sources(), task.resolution, execution.cores())
    description = {
        "study": study,
        "strategy": name,
        "lr_scale": task.cell.lr_scale,
        "backbone": task.backbone,
        "classes": bench.prepared.card.classes,
        "training_images": len(task.train),
        "preprocessing": asdict(_preprocessing(task)),
        "squares_of": look.native,  # pixels: as small as this, all images were squares, resized without Pillow
        "white": look.deepest,  # of 16-bit images, where all were
        "sha256": hashlib.sha256(content).hexdigest(),
        "test": {"images": len(task.judged), **asdict(run.judged)},
        "commit": command.commit(),
    }
    expected = next((entry for entry in compared if entry["strategy"] == name), None)
    place = MODELS / study
    write_atomically(place / WEIGHTS, content)
    write_json(place / DESCRIPTION, description)
    write_atomically(place / CARD, _card(bench, task, description, expected).encode())
    script = recipe.write(
        study, task.strategy, task.backbone, _preprocessing(task), task.epochs, task.batch_size, bench.study.weights
    )
    write_atomically(place / RECIPE, script.encode())
    LOG.info(
        "%s: %s, %.1f%% on the test images (%s)", place, name, 100 * getattr(run.judged, bench.judge_by), bench.judge_by
    )


def _task(bench: Workbench, name: str) -> Task:
    """The strategy on every training image, at the rate tuned for the largest size; nothing is watched."""
    study, prepared = bench.study, bench.prepared
    plain = bench.params.strategy(name)
    chosen = inherited(bench.rates, [ALL], [name])[str(ALL)][name]["lr_scale"]
    scale = 1.0 if plain.closed_form else float(chosen)
    images = [
        prepared.images(part, plain.crop)
        for part in (prepared.pool.indices, bench.subsets.judged[:0], bench.subsets.judged)
    ]
    cell = Cell(study.name, "final", name, ALL, scale, 0)
    return Task(
        cell=cell,
        strategy=plain.scaled(scale),
        backbone=study.backbone,
        resolution=study.resolution,
        epochs=study.epochs,
        batch_size=study.batch_size,
        classes=len(prepared.card.classes),
        precision=bench.precision,
        train=images[0],
        watched=images[1],
        judged=images[2],
        weights_sha256=bench.weights_sha256(cell),
    )


def _trained(bench: Workbench, task: Task) -> tuple[GroupedModel, Run]:
    """The model of a task, and its run."""
    state = bench.weights[0] if task.strategy.weights == "pretrained" else None
    if task.strategy.closed_form:
        run, head = heads.fitted(task, bench.device, state)
        made = backbones.build(task.backbone, task.classes, "pretrained", torch_stream("replaced"), state=state)
        if head is not None:
            linear = made.group("head").get_submodule("1")
            linear.load_state_dict(
                {key: torch.from_numpy(part) for key, part in zip(("weight", "bias"), head, strict=True)}
            )
        return made, run
    execution.keep_memory()
    with Progress(f"{task.cell}", task.epochs, "epoch") as bar, training.surroundings(task, bench.device):
        training_of = training.Training(task, bench.device, state)
        run = training_of.run(lambda _: bar.advance())
        return training_of.model, run


def _preprocessing(task: Task) -> Preprocessing:
    """What an image goes through, with the mean and deviation that the strategy normalises by."""
    own = backbones.REGISTRY[task.backbone].preprocessing().at(task.resolution, task.strategy.crop)
    used: dict[Normalisation, Preprocessing] = {
        "own": own,
        "imagenet": replace(own, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        "none": replace(own, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    }
    return used[task.strategy.normalisation]


def _card(bench: Workbench, task: Task, description: dict[str, Any], expected: dict[str, Any] | None) -> str:
    """The model card, as Markdown."""
    card, strategy = bench.prepared.card, task.strategy
    lengths = epochs_of_phases([phase.share for phase in strategy.phases], task.epochs) if strategy.phases else ()
    return recipe.TEMPLATES.get_template("model_card.md.j2").render(
        **description,
        data=card,
        source=bench.about.source or card.source,
        notes=[*bench.about.notes, *card.notes],
        names=[shown(name) for name in card.classes],
        weights=bench.weights_name if strategy.weights == "pretrained" else "random weights",
        weights_sha256=task.weights_sha256,
        phases=[(epochs, dict(phase.rates)) for epochs, phase in zip(lengths, strategy.phases, strict=True)],
        head=strategy.head,
        augmentation=strategy.augmentation,
        batch_norm=strategy.batch_norm,
        epochs=task.epochs,
        batch_size=task.batch_size,
        metric=bench.judge_by,
        expected=expected,
        size=size_words(int(expected["per_class"])) if expected else "",
        tuned=bench.study.learning_rates == "tuned",
    )


if __name__ == "__main__":
    command.main(model, "Train one model of a study on all its images.", ("study", "strategy", "advice"))
