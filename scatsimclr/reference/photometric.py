"""Colour, blur and normalisation of a batch of views in plain PyTorch: what `photometric` must compute."""

from __future__ import annotations

import torch
from torch import Tensor

from scatsimclr.reference.blur import gaussian_blur
from scatsimclr.reference.color import HUE, SATURATION, jitter_, luma

# Pixels processed at a time, so that the buffers of a slice stay in cache. Of 2**14 to 2**19, 2**18 took
# the least CPU time at 32 x 32 and at 96 x 96 (AMD EPYC 9004, one thread, torch 2.13, 2026-11-24).
SLICE_PIXELS = 1 << 18


def photometric(
    images: Tensor,
    mirror: Tensor,
    order: Tensor,
    factors: Tensor,
    grayscale: Tensor,
    weights: Tensor,
    table: Tensor,
) -> Tensor:
    """Mirror, jitter, grey, blur and a table for the levels; between the steps a picture is 8-bit levels.

    Args:
        images: uint8 (B, H, W, C): RGB with C = 3; grey with C = 1, which saturation, hue and grey leave unchanged.
        mirror: bool (B,), which samples are flipped left to right.
        order: int64 (B, 4), the colour steps of a sample in order: 0 brightness, 1 contrast, 2 saturation,
            3 hue, each at most once; -1 is no step.
        factors: float32 (B, 4), brightness, contrast and saturation factors (at least 0), and the hue's shift in
            levels of 256 a turn (whole, -255..255).
        grayscale: bool (B,).
        weights: int32 (B, half + 1), the blur's weights at distance half, …, 1, 0 along each axis; with both sides
            they add up to 256. (0, …, 0, 256) is no blur.
        table: (C, 256), the value of each level of each channel; any dtype.

    Returns:
        (B, H, W, C), contiguous, of the table's dtype: table[c, level].
    """
    result = torch.empty(images.shape, dtype=table.dtype, device=images.device)
    channels = images.shape[3]
    if channels == 1:
        order, grayscale = torch.where(order >= SATURATION, -1, order), torch.zeros_like(grayscale)
    # `jitter_` wants the samples in the order of their hue step; the unjittered come last.
    hue, jittered = order == HUE, (order >= 0).any(1)
    position = torch.where(hue.any(1), hue.to(torch.int64).argmax(1), 4)
    rows = torch.where(jittered, position, 5).argsort(stable=True)
    channel = torch.arange(channels, device=images.device)
    for part in rows.split(max(1, SLICE_PIXELS // max(1, images.shape[1] * images.shape[2]))):
        levels = images.index_select(0, part)
        turned = mirror[part].nonzero()[:, 0]
        levels.index_copy_(0, turned, levels.index_select(0, turned).flip(2))
        planes = levels.permute(3, 0, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        _steps(planes, int(jittered[part].sum()), order[part], factors[part], grayscale[part], weights[part])
        result.index_copy_(0, part, table[channel, planes.permute(1, 2, 3, 0).to(torch.int64)])
    return result


def _steps(
    planes: Tensor, jittered: int, order: Tensor, factors: Tensor, grayscale: Tensor, weights: Tensor
) -> None:
    """Jitter of the first `jittered` samples, grey and blur of float32 (C, B, H, W) levels, in place."""
    if jittered:
        jitter_(planes[:, :jittered], order[:jittered], factors[:jittered])
    grey = grayscale.nonzero()[:, 0]
    if len(grey):
        planes.index_copy_(1, grey, luma(planes.index_select(1, grey)).expand(3, -1, -1, -1))
    soft = (weights[:, -1] != 256).nonzero()[:, 0]
    if len(soft):
        planes.index_copy_(1, soft, gaussian_blur(planes.index_select(1, soft), weights[soft]))
