"""Triton kernels of `photometric`. `scatsimclr.kernels.photometric` launches them.

A program whose sample does not take part in its launch ends at once. CHANNELS, C, is 3, or 1 for grey images, which
saturation, hue and grey leave as they are. Levels between launches are uint8 (B, C, H·W) planes; sums along rows, whole
numbers below 2^16, are int32. The arithmetic is the reference's, rounding for rounding.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .blocks import own_block


@triton.jit
def _whole(x):
    return x.to(tl.int32).to(tl.float32)


@triton.jit
def _clipped(x):
    return tl.minimum(tl.maximum(x, 0.0), 255.0)


@triton.jit
def _luma(red, green, blue):
    level = red * (19595 / 65536) + green * (38470 / 65536) + blue * (7471 / 65536)
    return _whole(level + 0.5)


@triton.jit
def _channel(hue, chroma, value, CENTER: tl.constexpr):
    distance = tl.abs(hue - CENTER)
    distance = _clipped(510.0 - distance if CENTER == 765 else distance - 255.0)
    return value - _whole(tl.div_rn(distance * chroma + 32512.0, 65025.0 + 0.0 * chroma))


@triton.jit
def _shifted(red, green, blue, shift):
    """Pillow's 8-bit HSV hue shifted: see scatsimclr/reference/color.py."""
    value = tl.maximum(tl.maximum(red, green), blue)
    least = tl.minimum(tl.minimum(red, green), blue)
    middle = tl.maximum(tl.minimum(tl.maximum(red, green), blue), tl.minimum(red, green))
    spread = value - least
    rg = tl.where(red >= green, 1.0, 0.0)
    gb = tl.where(green >= blue, 1.0, 0.0)
    rb = tl.where(red >= blue, 1.0, 0.0)
    offset = 3.0 - 2.0 * rb + 2.0 * rg * (1.0 - 2.0 * rb + gb)
    parity = (1.0 - 2.0 * rg) * (1.0 - 2.0 * gb) * (1.0 - 2.0 * rb)
    hue = tl.div_rn(value - middle, tl.maximum(spread, 1.0)) * parity + offset
    hue = tl.div_rn(hue, 6.0 + 0.0 * hue) * 255.0
    hue = _whole(tl.where(hue < 0.0, hue + 255.0, hue)) + shift
    hue = tl.where(hue < 0.0, hue + 256.0, hue)
    hue = tl.where(hue >= 256.0, hue - 256.0, hue) * 6.0
    chroma = _whole(tl.div_rn(spread * 255.0, tl.maximum(value, 1.0))) * value
    return (
        _channel(hue, chroma, value, 765),
        _channel(hue, chroma, value, 510),
        _channel(hue, chroma, value, 1020),
    )


@triton.jit
def _blended(level, base, factor):
    return _whole(_clipped((level - base) * factor + base))


@triton.jit
def _grey_step(level, operation, factor, mean):
    if operation == 0:
        level = _blended(level, tl.zeros_like(level), factor)
    elif operation == 1:
        level = _blended(level, tl.zeros_like(level) + mean, factor)
    return level


@triton.jit
def _step(red, green, blue, operation, factor, mean):
    if operation == 3:
        red, green, blue = _shifted(red, green, blue, factor)
    elif operation >= 0:
        base = tl.zeros_like(red)
        if operation == 2:
            base = _luma(red, green, blue)
        elif operation == 1:
            base += mean
        red = _blended(red, base, factor)
        green = _blended(green, base, factor)
        blue = _blended(blue, base, factor)
    return red, green, blue


@triton.jit
def colour_kernel(
    images,
    order,
    factors,
    grayscale,
    sums,
    planes,
    pixels,
    CHANNELS: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """SUM: adds up the grey levels before each sample's contrast into `sums` (integers: any order is exact).

    Else: all colour steps and grey, images uint8 (B, H, W, C) -> planes uint8 (B, C, H·W).
    """
    sample, at = own_block(pixels, BLOCK)
    sample = sample.to(tl.int64)
    inside = at < pixels
    contrast = 4
    for s in tl.static_range(4):
        if tl.load(order + 4 * sample + s) == 1:
            contrast = s
    if SUM and contrast == 4:
        return
    source = images + sample * CHANNELS * pixels + CHANNELS * at
    red = tl.load(source, inside, 0).to(tl.float32)
    green, blue = red, red
    if CHANNELS == 3:
        green = tl.load(source + 1, inside, 0).to(tl.float32)
        blue = tl.load(source + 2, inside, 0).to(tl.float32)
    mean = 0.0
    if not SUM:
        total = tl.load(sums + sample)
        mean = ((2 * total + pixels) // (2 * pixels)).to(tl.float32)  # rounded half up
    for s in tl.static_range(4):
        operation = tl.load(order + 4 * sample + s)
        if not SUM or s < contrast:
            factor = tl.load(factors + 4 * sample + tl.maximum(operation, 0))
            if CHANNELS == 3:
                red, green, blue = _step(red, green, blue, operation, factor, mean)
            else:
                red = _grey_step(red, operation, factor, mean)
    if SUM:
        level = red
        if CHANNELS == 3:
            level = _luma(red, green, blue)
        tl.atomic_add(sums + sample, tl.sum(tl.where(inside, level, 0.0).to(tl.int64)))
    else:
        if CHANNELS == 3:  # noqa: SIM102, decided by the compiler, and the load by the program
            if tl.load(grayscale + sample) != 0:
                red = _luma(red, green, blue)
                green, blue = red, red
        target = planes + sample * CHANNELS * pixels + at
        tl.store(target, red.to(tl.uint8), inside)
        if CHANNELS == 3:
            tl.store(target + pixels, green.to(tl.uint8), inside)
            tl.store(target + 2 * pixels, blue.to(tl.uint8), inside)


@triton.jit
def _folded(k, length):
    """Index of an axis that is mirrored about its end pixels."""
    period = tl.maximum(2 * (length - 1), 1)
    k = tl.abs(k) % period
    return tl.where(k < length, k, period - k)


@triton.jit
def rows_kernel(planes, weights, middle, height, width, half, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """Sums along rows of the blurred samples' planes, int32 (B, C, H·W)."""
    pixels = height * width
    plane, at = own_block(pixels, BLOCK)
    plane = plane.to(tl.int64)
    row = weights + (plane // CHANNELS) * (half + 1)
    if tl.load(row + half) != 256:
        y, x = at // width, at % width
        total = tl.zeros([BLOCK], tl.int32)
        for k in range(-half, half + 1):
            weight = tl.load(row + half - tl.abs(k))
            source = planes + plane * pixels + y * width + _folded(x + k, width)
            total += weight * tl.load(source, at < pixels, 0).to(tl.int32)
        tl.store(middle + plane * pixels + at, total, at < pixels)


@triton.jit
def columns_kernel(
    planes,
    middle,
    weights,
    mirror,
    table,
    out,
    height,
    width,
    half,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums along columns where the sample is blurred, mirroring, the table: -> (B, H, W, C)."""
    pixels = height * width
    plane, at = own_block(pixels, BLOCK)
    channel, sample = plane % CHANNELS, (plane // CHANNELS).to(tl.int64)
    inside = at < pixels
    y, x = at // width, at % width
    plane = plane.to(tl.int64) * pixels
    row = weights + sample * (half + 1)
    level = tl.load(planes + plane + at, inside, 0).to(tl.int32)
    if tl.load(row + half) != 256:
        total = tl.full([BLOCK], 32768, tl.int32)
        for k in range(-half, half + 1):
            weight = tl.load(row + half - tl.abs(k))
            total += weight * tl.load(middle + plane + _folded(y + k, height) * width + x, inside, 0)
        level = total >> 16
    if tl.load(mirror + sample) != 0:
        x = width - 1 - x
    value = tl.load(table + 256 * channel + level, inside)
    tl.store(out + CHANNELS * (sample * pixels + y * width + x) + channel, value, inside)
