"""A strategy as a script of plain PyTorch that anyone can copy: `templates/recipe.py.j2`, filled in."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline import augmentation, backbones, native, phases
from pipeline.backbones import PackageWeights, TorchvisionWeights
from pipeline.preprocessing import Preprocessing
from pipeline.strategies import BACKBONES, GROUPS, Phase, Strategy, epochs_of_phases

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)
LINE = 114  # signs of a phase's line, behind its indent

HEADS = {
    "lda": ("sklearn.discriminant_analysis", 'LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")'),
    "nearest_mean": ("sklearn.neighbors", "NearestCentroid()"),
}


def write(
    study: str,
    strategy: Strategy,
    backbone: str,
    preprocessing: Preprocessing,
    epochs: int,
    batch_size: int,
    own_weights: str | None = None,
) -> str:
    """The script for a strategy at its scaled rates; `preprocessing` is that of its resolution, crop, normalisation.

    `own_weights` is the file that the backbone starts from instead of the registry's.
    """
    lengths = epochs_of_phases([phase.share for phase in strategy.phases], epochs) if strategy.phases else ()
    fixed = BACKBONES[backbone] == "batch" and strategy.batch_norm != "train"
    frozen = fixed and strategy.batch_norm == "frozen"
    imports, needs, made = _model(strategy, backbone, own_weights)
    head = _head(strategy, backbone)
    if strategy.closed_form:
        module, closed = HEADS[strategy.head]
        imports = ["import joblib", f"from {module} import {closed.partition('(')[0]}", *imports]
    imports += ["import torch", "from torch import nn", "from torchvision import transforms as T"]
    imports.append("from torchvision.datasets import ImageFolder")
    needs = ["torch", "torchvision", *needs, *(["scikit-learn"] if strategy.closed_form else [])]
    said = (
        f"{strategy.name} on {backbone}, as the Thaw study {study} tuned it: `python recipe.py FOLDER` trains on "
        f"FOLDER/train/<class>/*, tests on FOLDER/test/<class>/* and writes "
        f"{'head.joblib' if strategy.closed_form else 'model.pt'}. Needs {', '.join(needs)}."
    )
    return TEMPLATES.get_template("recipe.py.j2").render(
        said=textwrap.fill(said, LINE, break_on_hyphens=False),
        closed_form=strategy.closed_form,
        imports=sorted(imports, key=lambda line: line.split()[1]),
        build=[*made, *head],
        phases=[line for at in zip(lengths, strategy.phases, strict=True) for line in _phase(*at, backbone)],
        preprocessing=preprocessing,
        augmentation="" if strategy.closed_form else _augmentation(strategy, preprocessing.crop),
        batch_size=batch_size,
        layers=" if not isinstance(m, nn.BatchNorm2d)" if frozen else "",
        training="not isinstance(m, nn.BatchNorm2d)" if fixed and not frozen else "True",
        weights=" if m in norms" if strategy.learn == "norms" else "",
        weight_decay=phases.WEIGHT_DECAY,
        warm_up=phases.WARM_UP_SHARE,
        interpolate=strategy.interpolate,
        head_phase=max((at for at, phase in enumerate(strategy.phases) if phase.learning == GROUPS[-1:]), default=None),
        head=HEADS[strategy.head][1] if strategy.closed_form else "",
    )


def _phase(epochs: int, phase: Phase, backbone: str) -> list[str]:
    """One phase as lines of a list: its epochs, and the modules that learn at each rate."""
    rates = native.places(backbone, phase.rates)
    text = f"({epochs}, {{{', '.join(f'{rate:g}: {modules}' for rate, modules in rates.items())}}}),".replace("'", '"')
    return textwrap.wrap(text, LINE, subsequent_indent="     ", break_on_hyphens=False)


def _model(strategy: Strategy, backbone: str, own_weights: str | None) -> tuple[list[str], list[str], list[str]]:
    """Imports, the packages they need, and the lines that make the library's model with its weights."""
    outline, source = native.outline(backbone), backbones.weights_of(backbone, own_weights)
    if type(outline).__module__.startswith("timm."):
        imports, needs = ["import timm"], ["timm"]
        make = f'timm.create_model("{outline.pretrained_cfg["architecture"]}"'  # type: ignore[index]
    else:
        imports, needs = ["from torchvision import models"], []
        make = f'models.get_model("{backbone}"'
    if strategy.weights == "none":
        return imports, needs, [f"model = {make})"]
    if isinstance(source, TorchvisionWeights):
        return imports, needs, [f'model = {make}, weights="{source.member}")']
    file = json.dumps(source.find().as_posix(), ensure_ascii=False)
    if isinstance(source, PackageWeights):
        imports.append(f"import {source.package} as package")
        needs.append(source.package.replace("_", "-"))
        file = f'f"{{package.__path__[0]}}/{source.file}"'
    if file.endswith('.safetensors"'):
        imports.append("from safetensors.torch import load_file")
        needs.append("safetensors")
        state = f"state = load_file({file})"
    else:
        state = f"state = torch.load({file}, weights_only=True)"
    load = "model.load_state_dict(state)"
    if outline.state_dict().keys().isdisjoint(backbones.read_weights(source)[0]):
        load = "model.load_state_dict(dict(zip(model.state_dict(), state.values())))  # other names, same order"
    return imports, needs, [f"model = {make})", state, load]


def _head(strategy: Strategy, backbone: str) -> list[str]:
    """The lines that give the model its head; in closed form none, so that it gives features."""
    new, before, behind = native.head(backbone), [], []
    layers = [] if new.pooled else ["nn.AdaptiveAvgPool2d(1)", "nn.Flatten()"]
    if strategy.closed_form:
        layers = layers or ["nn.Identity()"]
    else:
        linear = f"nn.Linear({new.features}, len(folders[0].classes))"
        if strategy.learn == "norms":  # and the head, whole
            before, linear = [f"head = {linear}"], "head"
            norms = "isinstance(m, (nn.BatchNorm2d, nn.LayerNorm))"
            behind = [f"norms = [head, *(m for m in model.modules() if {norms})]"]
        layers += [*([f"nn.Dropout({strategy.dropout})"] if strategy.dropout else []), linear]
    module = layers[0] if len(layers) == 1 else f"nn.Sequential({', '.join(layers)})"
    return [*before, f'model.set_submodule("{new.place}", {module})', *behind]


def _augmentation(strategy: Strategy, crop: int) -> str:
    low, high = augmentation.CROP_AREA
    flip, jitter = "T.RandomHorizontalFlip()", ", ".join([str(augmentation.JITTER)] * 3)
    cropped = f"T.RandomResizedCrop({crop}, ({low:g}, {high:g}), (1, 1))"
    return {"none": "", "flip": flip, "crop_and_colour": f"T.Compose([{cropped}, T.ColorJitter({jitter}), {flip}])"}[
        strategy.augmentation
    ]
