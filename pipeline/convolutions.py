"""Convolutions in the form that a CPU runs fastest, equal to the originals within rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _SmallMapDepthwise(torch.autograd.Function):
    """A depthwise convolution whose weight gradient is summed tap by tap.

    oneDNN's weight gradient falls off a cliff where the kernel is larger than the map: 52 ms for 32 maps of
    1152 × 3 × 3 under a 5 × 5 kernel (one AVX2 thread, torch 2.14), 5 ms this way. The rest is its own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        stride, padding = ctx.stride, ctx.padding
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], weight.shape[0],
                [True, False, False],
            )[0]  # fmt: skip
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(x, gradient, weight, stride, padding)
        return of_x, of_weight, None, None


def _weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    channels, _, size, _ = weight.shape
    high, wide = gradient.shape[2:]
    padded = F.pad(x, (padding,) * 4).permute(0, 2, 3, 1)  # channels last in memory: each tap is one contiguous sweep
    gradient = gradient.permute(0, 2, 3, 1)
    taps = x.new_empty(size * size, channels)
    for row in range(size):
        rows = slice(row, row + stride * (high - 1) + 1, stride)
        for column in range(size):
            columns = slice(column, column + stride * (wide - 1) + 1, stride)
            taps[row * size + column] = (padded[:, rows, columns] * gradient).sum((0, 1, 2))
    return taps.t().reshape(weight.shape).contiguous(memory_format=torch.channels_last)


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with one filter a channel, square kernel and no bias, fast on maps smaller than its kernel."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve [N, C, H, W], as `nn.Conv2d` does."""
        small = min(input.shape[-2:]) < self.kernel_size[0]
        if small and input.device.type == "cpu" and torch.is_grad_enabled() and self.weight.requires_grad:
            return _SmallMapDepthwise.apply(  # type: ignore[no-any-return]
                input, self.weight, self.stride[0], self.padding[0]
            )
        return super().forward(input)


class MirrorImage(nn.Module):
    """Turn [N, C, H, W] by half a turn: what a backbone whose kernels `mirror_same_padding` turned expects to see."""

    def forward(self, images: Tensor) -> Tensor:
        """Turn a batch of images."""
        return images.flip(2, 3).contiguous(memory_format=torch.channels_last)


def mirror_same_padding(module: nn.Module) -> None:
    """Replace TensorFlow's `same` convolutions by ordinary ones, in place, for inputs turned by half a turn.

    `same` pads an even input more on the right and bottom, which PyTorch can only do by copying the whole map first
    (12% of a training step at 96 px). Turned by half a turn, image and kernels alike, the surplus lies on the left and
    top, and that is what symmetric padding of (kernel - 1) / 2 gives at stride 1 and 2 for odd and even inputs. Sums
    and pooled features are the same numbers in another order.
    """
    for name, child in module.named_children():
        if not isinstance(child, nn.Conv2d):
            mirror_same_padding(child)
            continue
        size, stride = child.kernel_size[0], child.stride[0]
        if size != child.kernel_size[1] or size % 2 == 0 or stride not in (1, 2) or child.bias is not None:
            raise ValueError(f"convolution {name} of kernel {child.kernel_size}, stride {stride} can't be mirrored")
        depthwise = child.groups == child.in_channels == child.out_channels
        kind = DepthwiseConv2d if depthwise else nn.Conv2d
        plain = kind(
            child.in_channels, child.out_channels, size, stride, size // 2, groups=child.groups, bias=False,
            device="meta",
        )  # fmt: skip
        with torch.no_grad():
            plain.weight = nn.Parameter(child.weight.flip(2, 3).contiguous(memory_format=torch.channels_last))
        setattr(module, name, plain)
