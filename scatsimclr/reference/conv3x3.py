"""The 3×3 convolution of stride 1 with zero padding in plain PyTorch: what `conv3x3` must compute."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from scatsimclr.reference.accumulation import accumulate_dtype


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None, adjoint: bool) -> Tensor:
    """y[n, o, i, j] = bias[o] + Σ_c Σ_{a, b = −1, 0, 1} weight[o, c, a + 1, b + 1] x[n, c, i + a, j + b].

    x is 0 outside the image. The adjoint is
    y[n, c, i, j] = bias[c] + Σ_o Σ_{a, b} weight[o, c, a + 1, b + 1] x[n, o, i − a, j − b].

    Args:
        x: (N, C, H, W), for the adjoint (N, O, H, W); any floating-point dtype.
        weight: (O, C, 3, 3), float32, or float64 where x is.
        bias: None or (O,), for the adjoint (C,), of the weight's dtype.
        adjoint: whether to compute the adjoint.

    Returns:
        (N, O, H, W), for the adjoint (N, C, H, W), channels-last, of x's dtype; products and sums are in the weight's.
    """
    run: Callable[..., Tensor] = F.conv_transpose2d if adjoint else F.conv2d
    with torch.autocast(x.device.type, enabled=False):
        y = run(x.to(weight.dtype), weight, bias, padding=1)
    return y.to(x.dtype).contiguous(memory_format=torch.channels_last)


def conv3x3_weight(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient in the weight: Σ_{n, i, j} grad[n, o, i, j] x[n, c, i + a, j + b].

    Args:
        grad: (N, O, H, W), the gradient in the convolution's result, of x's dtype.
        x: (N, C, H, W), what was convolved.

    Returns:
        (O, C, 3, 3), channels-last, float32, or float64 where x is.
    """
    dtype = accumulate_dtype(x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        taps: Tensor = conv2d_weight(
            x.to(dtype), (grad.shape[1], x.shape[1], 3, 3), grad.to(dtype), padding=1
        )
    return taps.contiguous(memory_format=torch.channels_last)
