"""Convolutions in the form that a CPU runs fastest, equal to the originals within rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class _FiveByFive(torch.autograd.Function):
    """A depthwise 5 × 5 convolution whose weight gradient is put together from 3 × 3 ones.

    oneDNN's own is slow for this kernel, the more so the smaller the map: for 32 maps 13 ms at 1152 × 2 × 2, 8 at
    480 × 4 × 4, 5.4 at 240 × 12 × 12, and 1.1, 1.4 and 4.3 ms this way (one AVX2 thread; with AVX512 3.8, 2.1, 5.1 and
    1.0, 0.8, 4.3; torch 2.14). On larger maps there is nothing to gain. The rest is its own.
    """

    LARGEST = 12  # pixels of a map's side

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, 1, weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        stride, padding = ctx.stride, ctx.padding
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _gradients(gradient, x, weight, stride, padding, [True, False, False])[0]
        if ctx.needs_input_grad[1]:
            of_weight = torch.empty_like(weight)
            corner = weight.new_empty(weight.shape[0], 1, 3, 3)  # its shape alone matters
            padded = F.pad(x, (padding,) * 4)
            high, wide = (stride * (side - 1) + 3 for side in gradient.shape[2:])
            for row in (0, 2):  # four corners of 3 × 3 taps; the middle row and column come twice
                for column in (0, 2):
                    seen = padded[:, :, row : row + high, column : column + wide]
                    seen = seen.contiguous(memory_format=torch.channels_last)
                    taps = _gradients(gradient, seen, corner, stride, 0, [False, True, False])[1]
                    of_weight[:, :, row : row + 3, column : column + 3] = taps
        return of_x, of_weight, None, None, None


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a depthwise convolution for its input, weight and bias, those that are wanted."""
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], weight.shape[0], wanted
    )
    return found


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with one filter a channel, a square kernel and no bias that learns; 5 × 5 is fast on small maps."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        slow = self.kernel_size[0] == 5 and max(input.shape[-2:]) <= _FiveByFive.LARGEST and input.device.type == "cpu"
        if slow and torch.is_grad_enabled() and weight.requires_grad and not torch.is_autocast_enabled("cpu"):
            return _FiveByFive.apply(  # type: ignore[no-any-return]
                input, weight, bias, self.stride[0], self.padding[0]
            )
        plain: Tensor = super()._conv_forward(input, weight, bias)
        return plain


class _ClampInPlace(torch.autograd.Function):
    """ReLU6 in place that keeps its result alone; `nn.ReLU6(inplace=True)` copies its input for the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        F.hardtanh(x, 0.0, 6.0, inplace=True)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors  # 0 or 6 exactly where the input was outside
        return torch.ops.aten.hardtanh_backward(gradients[0], result, 0.0, 6.0)  # type: ignore[no-any-return]


class ReLU6(nn.Module):
    """`nn.ReLU6(inplace=True)` with half the memory."""

    def forward(self, input: Tensor) -> Tensor:
        """Clamp to 0..6."""
        return _ClampInPlace.apply(input)  # type: ignore[no-any-return]


class _Fold:
    """A convolution and the BatchNorm behind it, computed as one convolution wherever the BatchNorm is fixed.

    conv(x, w)·s + b = conv(x, w·s) + b, computed anew at every step: the gradient reaches w through the product, and
    w stays what the optimizer moves. Both modules keep their parameters, buffers and names.
    """

    def __init__(self, convolution: nn.Conv2d, norm: _BatchNorm) -> None:
        self.convolution, self.norm, self.unfolded = convolution, norm, norm.forward
        convolution.forward = self.convolve  # type: ignore[method-assign]
        norm.forward = self.normalise  # type: ignore[method-assign]

    def fixed(self) -> bool:
        """Whether the BatchNorm is a constant scale and shift in this pass: evaluation mode, and its weights still."""
        learns = self.norm.weight.requires_grad or self.norm.bias.requires_grad
        return not self.norm.training and not (learns and torch.is_grad_enabled())

    def convolve(self, input: Tensor) -> Tensor:
        convolution, norm = self.convolution, self.norm
        weight, bias = convolution.weight, convolution.bias
        if self.fixed():
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            mean = norm.running_mean if bias is None else norm.running_mean - bias
            weight, bias = weight * scale.view(-1, 1, 1, 1), norm.bias - mean * scale
        result: Tensor = convolution._conv_forward(input, weight, bias)
        return result

    def normalise(self, input: Tensor) -> Tensor:
        if not self.fixed():
            return self.unfolded(input)
        for name in ("drop", "act"):  # timm's BatchNormAct2d applies both after normalising
            module = self.norm._modules.get(name)
            input = input if module is None else module(input)
        return input


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | _BatchNorm | ReLU6) or super().is_leaf_module(m, module_qualified_name)


def fold_batch_norms(body: nn.Module) -> int:
    """Fold every BatchNorm of `body` whose input is a convolution's output that nothing else sees; how many.

    In place, once a model; from then on each forward pass folds those that are fixed (see `_Fold`).
    """
    modules = dict(body.named_modules())
    pairs = []
    for node in _Tracer().trace(body).nodes:
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, _BatchNorm) or not (norm.affine and norm.track_running_stats):
            continue
        before = node.args[0]
        if isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1:
            convolution = modules[str(before.target)]
            if isinstance(convolution, nn.Conv2d):
                pairs.append(_Fold(convolution, norm))
    return len(pairs)


def clamp_in_place(module: nn.Module) -> None:
    """Let every ReLU6 inside `module` clamp in place, without a copy."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU6):
            setattr(module, name, ReLU6())
        else:
            clamp_in_place(child)


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
