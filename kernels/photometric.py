"""Colour, blur and normalisation of views on the GPU: `scatsimclr.reference.photometric` to the last bit.

Up to four launches over (samples, blocks of pixels): the sums that contrast is centred on, the colour steps, and the
two passes of the blur. Launches compile without fused multiply-adds and divide with IEEE rounding, as the reference
does.

Not yet run on hardware: checked by Triton's interpreter and its ahead-of-time compiler.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from . import launching
from . import photometric_pixels as pixels

BLOCK = 1024
WARPS = 4


def _launch(kernel: Any, programs: int, *args: Any, **options: Any) -> None:
    launching.launch(kernel, programs, *args, warps=WARPS, enable_fp_fusion=False, BLOCK=BLOCK, **options)


def photometric(
    images: Tensor,
    mirror: Tensor,
    order: Tensor,
    factors: Tensor,
    grayscale: Tensor,
    weights: Tensor,
    table: Tensor,
) -> Tensor:
    """`scatsimclr.reference.photometric.photometric`, with the same arguments and the same bits."""
    batch, height, width, channels = images.shape
    out = torch.empty(images.shape, dtype=table.dtype, device=images.device)
    if not out.numel():
        return out
    images, mirror, order, factors, grayscale, weights, table = (
        t.contiguous() for t in (images, mirror, order, factors, grayscale, weights, table)
    )
    area, half = height * width, weights.shape[1] - 1
    sums = torch.zeros(batch, dtype=torch.int64, device=images.device)
    planes = torch.empty((batch, channels, area), dtype=torch.uint8, device=images.device)
    middle = torch.empty((batch, channels, area) if half else (1,), dtype=torch.int32, device=images.device)
    blocks = triton.cdiv(area, BLOCK)
    mirror, grayscale = mirror.view(torch.uint8), grayscale.view(torch.uint8)
    for only_sums in (True, False):
        _launch(
            pixels.colour_kernel, batch * blocks, images, order, factors, grayscale, sums, planes, area,
            CHANNELS=channels, SUM=only_sums,
        )  # fmt: skip
    if half:
        _launch(
            pixels.rows_kernel, batch * channels * blocks, planes, weights, middle, height, width, half,
            CHANNELS=channels,
        )  # fmt: skip
    _launch(
        pixels.columns_kernel, batch * channels * blocks, planes, middle, weights, mirror, table, out, height, width,
        half, CHANNELS=channels,
    )  # fmt: skip
    return out
