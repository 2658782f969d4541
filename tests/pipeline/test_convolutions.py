"""The fast convolutions equal the ordinary ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.convolutions import DepthwiseConv2d


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7])
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
