"""Colour steps on batches of 8-bit levels with Pillow's arithmetic, level for level.

Images are planes: float32 (3, B, H, W), whole numbers 0..255, or (1, B, H, W) of grey images, which only brightness and
contrast change. Each step leaves whole numbers, as torchvision does by way of Pillow: brightness, contrast and
saturation blend with a base image and truncate (Pillow's Blend.c), grey is
L = (19595 R + 38470 G + 7471 B + 2**15) >> 16 and hue is a shift of Pillow's 8-bit HSV (Convert.c). Multiplications and
additions whose rounding matters are separate calls: a fused multiply-add may be used for some pixels of a tensor and
not for others.
"""

from __future__ import annotations

import torch

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def luma(planes: torch.Tensor) -> torch.Tensor:
    """Pillow's L: float32 (B, H, W), whole numbers. Every sum is below 2**24: exact in float32."""
    if len(planes) == 1:
        return planes[0].clone()  # what the sum of three equal levels is
    red, green, blue = planes
    level: torch.Tensor = red * (19595 / 65536)
    level.add_(green, alpha=38470 / 65536).add_(blue, alpha=7471 / 65536)
    return level.add_(0.5).floor_()


def mean_level(level: torch.Tensor) -> torch.Tensor:
    """The rounded mean of each L image: (B, H, W) -> (B,). Rows add up exactly, images in float64."""
    mean = level.sum(2).sum(1, dtype=torch.float64) / (level.shape[1] * level.shape[2])
    return mean.add_(0.5).floor_().to(level.dtype)


def blend_(planes: torch.Tensor, operation: torch.Tensor, factor: torch.Tensor) -> None:
    """Brightness, contrast or saturation, chosen per sample, in place.

    All three are base + factor (x - base), clipped and truncated; the base is black, the mean of the
    grey image, or the grey image.

    Args:
        planes: float32 (C, B, H, W), changed; C is 3 or 1.
        operation: (B,) int64, BRIGHTNESS, CONTRAST or SATURATION.
        factor: (B,) float32, at least 0; 1 changes nothing.
    """
    column = (-1, 1, 1)
    base = luma(planes)
    level = torch.where(operation == CONTRAST, mean_level(base), 0.0)
    base.mul_((operation == SATURATION).to(base.dtype).view(column)).add_(level.view(column))
    planes.sub_(base).mul_(factor.view(column)).add_(base).clamp_(0.0, 255.0).floor_()


def _hue_and_chroma(planes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pillow's RGB -> HSV: hue and saturation 0..255 and value, each (B, H, W) float32 whole numbers.

    With x = (max - mid) / (max - min), hue is A + x or A - x sextants, A one of -1, 1, 3, 5 by the
    order of the channels; this form rounds as Convert.c does, for each of the 2**24 colours.
    Where max = min Pillow's hue is 0 and here it is not: saturation 0 makes it meaningless.
    """
    red, green, blue = planes
    high, low = torch.maximum(red, green), torch.minimum(red, green)
    middle = torch.minimum(high, blue)
    value = torch.maximum(high, blue, out=high)
    torch.maximum(middle, low, out=middle)
    spread = value - torch.minimum(low, blue, out=low)
    hue = torch.sub(value, middle, out=middle).div_(torch.clamp(spread, min=1.0, out=low))
    # 1 where the first channel is at least the second, else 0.
    rg, gb, rb = red.clone().ge_(green), green.clone().ge_(blue), red.clone().ge_(blue)
    turn = rb * -2.0  # A = 3 - 2 rb + 2 rg (1 - 2 rb + gb)
    offset = (turn + gb).add_(1.0).mul_(rg).mul_(2.0).add_(turn).add_(3.0)
    parity = rg.mul_(-2.0).add_(1.0).mul_(gb.mul_(-2.0).add_(1.0)).mul_(turn.add_(1.0))
    hue.mul_(parity).add_(offset).div_(6.0).mul_(255.0)
    torch.lt(hue, 0.0, out=parity)
    hue.add_(parity, alpha=255.0).floor_()
    saturation = spread.mul_(255.0).div_(torch.clamp(value, min=1.0, out=parity)).floor_()
    return hue, saturation, value


def shift_hue_(planes: torch.Tensor, shift: torch.Tensor) -> None:
    """Turn the 8-bit HSV hue of each sample, in place: torchvision's `adjust_hue` on Pillow images.

    Args:
        planes: float32 (3, B, H, W), changed, even by a shift of 0: 8-bit HSV is lossy.
        shift: (B,) float32, whole numbers in -255..255: levels of 256 per turn.
    """
    hue, saturation, value = _hue_and_chroma(planes)
    hue.add_(shift.view(-1, 1, 1))
    scratch = torch.mul(hue, 1 / 256).floor_()
    hue.add_(scratch, alpha=-256.0).mul_(6.0)  # 8-bit wrap-around; then 255 units to a sextant
    chroma = saturation.mul_(value)
    for plane, center in zip(planes, (765.0, 510.0, 1020.0), strict=True):
        torch.sub(hue, center, out=scratch).abs_()
        if center == 765.0:  # red is dark around cyan, green and blue are bright around their own hue
            scratch.neg_().add_(510.0)
        else:
            scratch.sub_(255.0)
        # value - round(value s c / 255**2); the numerator is below 2**24 and never an exact tie.
        scratch.clamp_(0.0, 255.0).mul_(chroma).add_(32512.0).div_(65025.0).floor_()
        torch.sub(value, scratch, out=plane)


def jitter_(planes: torch.Tensor, order: torch.Tensor, factors: torch.Tensor) -> None:
    """The steps of each sample in its own order, in place.

    Args:
        planes: float32 (C, B, H, W), changed; samples are sorted by the position of HUE in their order, so that every
            step finds its hue samples side by side; samples without HUE come last. With C = 1 there is no HUE.
        order: (B, 4) int64, the four steps of each sample, -1 for none.
        factors: (B, 4) float32: brightness, contrast, saturation factors, and the hue's shift in levels.
    """
    batch = len(order)
    hue = order == HUE
    position = torch.where(hue.any(1), hue.to(torch.int64).argmax(1), 4).tolist()
    for step in range(4):
        operation = order[:, step].clamp(min=0)
        factor = factors.gather(1, operation[:, None])[:, 0]
        factor = torch.where(order[:, step] < 0, 1.0, factor)
        start = sum(p < step for p in position)
        stop = start + position.count(step)
        if start < stop:
            shift_hue_(planes[:, start:stop], factor[start:stop])
        for first, last in ((0, start), (stop, batch)):
            if first < last:
                blend_(planes[:, first:last], operation[first:last], factor[first:last])
