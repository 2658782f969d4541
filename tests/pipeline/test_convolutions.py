"""The fast convolutions equal the ordinary ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import backbones
from pipeline.convolutions import DepthwiseConv2d, ReLU6, fold_batch_norms
from pipeline.strategies import BACKBONES


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
def test_depthwise_convolution_and_its_gradients_equal_the_ordinary_ones(side: int, stride: int, size: int) -> None:
    torch.manual_seed(0)
    layer = DepthwiseConv2d(6, 6, size, stride, size // 2, groups=6, bias=False)
    x = torch.randn(4, 6, side, side, requires_grad=True)
    mine = layer(x)
    plain = F.conv2d(x, layer.weight, None, stride, size // 2, 1, 6)
    upstream = torch.randn_like(plain)
    torch.testing.assert_close(mine, plain)
    for a, b in zip(
        torch.autograd.grad(mine, (x, layer.weight), upstream),
        torch.autograd.grad(plain, (x, layer.weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_frozen_depthwise_convolution_is_an_ordinary_one() -> None:
    layer = DepthwiseConv2d(2, 2, 5, 1, 2, groups=2, bias=False).requires_grad_(False)
    x = torch.randn(1, 2, 3, 3, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None
    assert isinstance(layer, nn.Conv2d)


def test_a_depthwise_convolution_learns_in_bfloat16_too() -> None:
    layer = DepthwiseConv2d(2, 2, 5, 1, 2, groups=2, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(1, 2, 3, 3, requires_grad=True) * 2).float().sum().backward()
    assert layer.weight.grad is not None


def test_clamping_in_place_equals_relu6_and_keeps_nothing_but_its_result() -> None:
    start = torch.linspace(-2, 8, 101).requires_grad_()  # 0 and 6 among them
    mine, plain = ReLU6()(start * 1), F.relu6(start)
    assert torch.equal(mine, plain)
    upstream = torch.randn(101)
    assert torch.equal(*(torch.autograd.grad(y, start, upstream)[0] for y in (mine, plain)))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):  # type: ignore[func-returns-value]
        result = ReLU6()(start + 1)
    assert [tensor.data_ptr() for tensor in kept] == [result.data_ptr()]


def norms(model: nn.Module) -> Iterator[_BatchNorm]:
    return (layer for layer in model.modules() if isinstance(layer, _BatchNorm))


def made(name: str, dtype: torch.dtype) -> tuple[backbones.GroupedModel, backbones.GroupedModel]:
    """A backbone of random weights and BatchNorm statistics, folded as it is built and as published."""
    folded = backbones.build(name, 3, "none", torch.Generator().manual_seed(0)).to(dtype)
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in norms(folded):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.normal_(0, 0.1)
    plain = copy.deepcopy(folded)
    for layer in plain.modules():
        layer.__dict__.pop("forward", None)  # what folding puts in front of a module's own
    return folded, plain


def smoothed(module: nn.Module) -> None:
    """Replace what has kinks: a unit that rounding carries over one changes gradients by 1e-3, folded or not."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU | nn.ReLU6 | ReLU6 | nn.Hardswish):
            setattr(module, name, nn.SiLU())
        elif isinstance(child, nn.Hardsigmoid):
            setattr(module, name, nn.Sigmoid())
        elif isinstance(child, nn.MaxPool2d):
            setattr(module, name, nn.AvgPool2d(3, 2))
        else:
            smoothed(child)


def passed(model: backbones.GroupedModel, learns: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of a training step with fixed BatchNorm statistics, and the gradients."""
    model.train()
    for layer in norms(model):
        layer.eval().requires_grad_(learns)
    dtype = next(model.parameters()).dtype
    torch.manual_seed(2)  # stochastic depth and dropout draw the same
    x = torch.randn(4, 3, 64, 64, dtype=dtype).contiguous(memory_format=torch.channels_last)
    logits = model(x)
    F.cross_entropy(logits, torch.arange(4) % 3).backward()
    return logits.detach(), {key: w.grad for key, w in model.named_parameters() if w.grad is not None}


@pytest.mark.parametrize("name", BACKBONES)
def test_folded_batch_norm_gives_the_outputs_and_gradients_of_batch_norm_in_float64(name: str) -> None:
    (mine, my_gradients), (theirs, gradients) = (passed(model, learns=False) for model in made(name, torch.float64))
    assert float((mine - theirs).norm() / theirs.norm()) < 1e-9
    assert my_gradients.keys() == gradients.keys()
    for key, gradient in gradients.items():
        assert float((my_gradients[key] - gradient).norm()) <= 1e-9 * float(gradient.norm()), key


@pytest.mark.parametrize("name", BACKBONES)
def test_folded_batch_norm_is_within_rounding_in_float32_by_norm(name: str) -> None:
    folded, plain = made(name, torch.float32)
    assert float((passed(folded, False)[0] - (theirs := passed(plain, False)[0])).norm() / theirs.norm()) < 1e-4
    for model in (folded, plain):
        smoothed(model)
        model.zero_grad()
    (mine, my_gradients), (theirs, gradients) = (passed(model, learns=False) for model in (folded, plain))
    assert float((mine - theirs).norm() / theirs.norm()) < 1e-4
    every, off = (
        torch.cat([one.flatten() for one in chosen])
        for chosen in (gradients.values(), [my_gradients[key] - gradient for key, gradient in gradients.items()])
    )
    assert float(off.norm() / every.norm()) < 1e-4


@pytest.mark.parametrize("name", BACKBONES)
def test_every_batch_norm_is_folded_where_it_is_fixed_and_none_where_it_learns(name: str) -> None:
    folded, plain = made(name, torch.float32)
    assert list(folded.state_dict()) == list(plain.state_dict())
    pairs = [layer for layer in norms(folded) if "forward" in layer.__dict__]
    assert len(pairs) == len(list(norms(folded)))
    assert bool(pairs) == (BACKBONES[name] == "batch")
    # Where affine weights learn, it is the published model: bit for bit.
    (mine, my_gradients), (theirs, gradients) = (passed(model, learns=True) for model in (folded, plain))
    assert torch.equal(mine, theirs)
    assert all(torch.equal(my_gradients[key], gradient) for key, gradient in gradients.items())
    x = torch.rand(2, 3, 64, 64)
    for layer in [*norms(folded), *norms(plain)]:
        layer.train()  # as forgotten groups are
    torch.manual_seed(0)
    after = folded(x)
    torch.manual_seed(0)
    assert torch.equal(after, plain(x))


def test_a_convolution_that_others_see_and_one_with_a_bias_fold_as_they_should() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen, self.first = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.biased, self.second = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.seen(x)
            z: Tensor = self.second(self.biased(self.first(y)))
            return z + y

    torch.manual_seed(0)
    model = Branching().eval()
    model.second.running_mean = torch.randn(4)
    x = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        before = model(x)
        assert fold_batch_norms(model) == 1
        torch.testing.assert_close(model(x), before)
    assert "forward" not in model.first.__dict__
