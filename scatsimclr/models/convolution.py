"""3×3 convolutions of the encoders: layers of `torch.nn` that take the operator `conv3x3` where it is faster."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scatsimclr.cpu import matrix_units
from scatsimclr.ops.conv3x3 import conv3x3, serves

# Where the operator is faster than PyTorch's convolution (EPYC Zen 4, 2 threads, float32 and bfloat16, 2026-11-25).
# Below 256 tiles of 2×2 pixels the transforms of the filters cost more than the products save: 0.8 to 1.1 times the
# speed forward with 128 channels, 1.0 with 512; 1.2 to 1.5 at 288 and 512 tiles.
LEAST_TILES = 256
# Below 32 channels the transforms of the images cost more: 0.4 to 1.0 times the speed with 16, 1.3 to 2 with 32.
LEAST_CHANNELS = 32
# Products as a share of those of the definition. Tiles that reach beyond the border waste some: images of 7×7 have 0.58
# (1.2 times the speed), of 5×5 0.64 (0.95), of even sides 4/9.
MOST_PRODUCTS = 0.6


class Conv3x3(nn.Conv2d):
    """`nn.Conv2d(before, after, 3, padding=1, bias=False)`, with the same parameters and state dict.

    On a CPU, in float32 and under autocast in bfloat16, it is a Winograd convolution with 4/9 of the products: float32
    results differ by rounding, bfloat16 ones by about twice the rounding of a plain convolution.

    Args:
        before: Channels of the input.
        after: Channels of the result.
        backend: "auto", the operator `conv3x3` where it is faster, else plain PyTorch; or "reference", always the
            latter.
    """

    def __init__(self, before: int, after: int, *, backend: str = "auto"):
        super().__init__(before, after, 3, padding=1, bias=False)
        self.backend = backend

    def _faster(self, x: Tensor, dtype: torch.dtype) -> bool:
        channels = min(self.in_channels, self.out_channels)
        if self.backend != "auto" or x.ndim != 4 or channels < LEAST_CHANNELS:
            return False
        images, height, width = x.shape[0], *x.shape[2:]
        tiles = ((height + 1) // 2) * ((width + 1) // 2)
        if images * tiles < LEAST_TILES or 16 * tiles > MOST_PRODUCTS * 9 * height * width:
            return False
        # The plain convolution uses a CPU's matrix units, and is faster there.
        return serves(x.device, dtype) and not (dtype == torch.bfloat16 and matrix_units())

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu:
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
            if self._faster(x, dtype):
                return conv3x3(x.to(dtype), self.weight, self.bias)
        return super().forward(x)


class StridedConv3x3(nn.Conv2d):
    """`nn.Conv2d(before, after, 3, stride, padding=1, bias=False)`, with the same parameters and state dict.

    Along an axis of one pixel only the filters' middle is multiplied. oneDNN's bfloat16 kernels for AMX would not
    write the gradient of the other rows or columns, which is zero: it would be whatever was in memory, sometimes NaN
    (torch 2.13, stride 2, images one pixel wide).

    Args:
        before: Channels of the input.
        after: Channels of the result.
        stride: Along both axes.
    """

    def __init__(self, before: int, after: int, stride: int):
        super().__init__(before, after, 3, stride, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        padding = [1, 1]
        for axis in (0, 1):
            if x.shape[2 + axis] == 1:
                weight, padding[axis] = weight.narrow(2 + axis, 1, 1), 0
        return F.conv2d(x, weight, self.bias, self.stride, padding)


Network = TypeVar("Network", bound=nn.Module)


def plain_convolutions(model: Network) -> Network:
    """A copy of a model with PyTorch's own convolutions, for export to other runtimes."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, Conv3x3):
            module.backend = "reference"
    return copied
