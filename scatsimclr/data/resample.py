"""Lanczos resampling and nearest-neighbour affine maps of 8-bit image batches, exactly as Pillow rounds.

Pillow resamples 8-bit images in two passes, horizontal then vertical, with weights rounded to 22
fractional bits and the result of each pass rounded and clipped to 8 bits. A product of such a weight
and a level has at most 31 bits, so float64 sums of them are exact in any order: a pass can be a
matrix product, and its result cannot depend on the batch, the thread count or the BLAS in use.
"""

import functools
import math

import torch

_WEIGHT_BITS = 22  # Pillow's PRECISION_BITS = 32 - 8 - 2
_SUPPORT = 3.0  # Lanczos, a = 3


def lanczos_taps(lengths: torch.Tensor, out_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pillow's Lanczos weights for stretching `length` pixels onto `out_size` pixels.

    On shrinking (length > out_size) the kernel widens with the scale: the antialiasing of Pillow.

    Args:
        lengths: (N,) int64, source lengths in pixels, each at least 1.
        out_size: pixels to produce.

    Returns:
        first: (N, out_size) int64, the source pixel of tap 0.
        weights: (N, T, out_size) float64, multiples of 2**-22; zero where a tap is not used.
    """
    length = lengths.to(torch.float64)[:, None]
    scale = length / out_size
    stretch = scale.clamp(min=1.0)
    support = _SUPPORT * stretch
    center = (torch.arange(out_size, dtype=torch.float64) + 0.5) * scale
    first = (center - support + 0.5).floor().clamp(min=0.0)
    last = torch.minimum((center + support + 0.5).floor(), length)
    count = 2 * math.ceil(float(support.max())) + 1
    columns, total = [], torch.zeros_like(center)
    for tap in range(count):
        position = (tap + first - center + 0.5) / stretch
        inside = (first + tap < last) & (position >= -_SUPPORT) & (position < _SUPPORT)
        weight = torch.where(inside, torch.sinc(position) * torch.sinc(position / _SUPPORT), 0.0)
        total += weight
        columns.append(weight)
    scaled = torch.stack(columns, 1) / total[:, None] * 2.0**_WEIGHT_BITS
    rounded = torch.trunc(scaled + torch.where(scaled < 0, -0.5, 0.5))
    return first.to(torch.int64), rounded * 2.0**-_WEIGHT_BITS


@functools.lru_cache(maxsize=8)
def _taps_of_all_lengths(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The taps of every crop length 1..size stretched to `size`; row length - 1. A few hundred kB."""
    return lanczos_taps(torch.arange(1, size + 1), size)


def crop_matrix(start: torch.Tensor, length: torch.Tensor, size: int, mirror=None) -> torch.Tensor:
    """One axis of "crop, then resize back to `size`" for each sample, as a matrix.

    Args:
        start, length: (B,) int64 with 0 <= start, 1 <= length, start + length <= size.
        size: pixels along the axis, before and after.
        mirror: None, or (B,) bool: turn the result of these samples around.

    Returns:
        float64 (B, size, size), indexed (sample, source pixel, result pixel), multiples of 2**-22.
    """
    first, weights = (table.to(start.device)[length - 1] for table in _taps_of_all_lengths(size))
    if mirror is not None:
        first = torch.where(mirror[:, None], first.flip(-1), first)
        weights = torch.where(mirror[:, None, None], weights.flip(-1), weights)
    taps = weights.shape[1]
    source = (first + start[:, None])[:, None, :] + torch.arange(taps, device=start.device)[None, :, None]
    # Unused taps can point past the edge: they fall into `taps` spare rows, with weight zero.
    matrix = weights.new_zeros(len(start), size + taps, size)
    return matrix.scatter_(1, source, weights)[:, :size]


def _round_to_levels(levels: torch.Tensor) -> torch.Tensor:
    """Pillow's rounding in place: half up, then clipped to 0..255."""
    return levels.add_(0.5).floor_().clamp_(0.0, 255.0)


def resample(images: torch.Tensor, across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Both passes, horizontal first.

    Args:
        images: uint8 (B, H, W, 3).
        across: float64 (B or 1, W, X), down: float64 (B or 1, H, Y), as from `crop_matrix`.

    Returns:
        float64 (B, Y, 3, X), whole numbers 0..255. Accumulated in float64, exactly.
    """
    batch, height, width, _ = images.shape
    out_width, out_height = across.shape[-1], down.shape[-1]
    rows = torch.empty(batch, height, 3, width, dtype=torch.float64, device=images.device)
    rows.copy_(images.transpose(2, 3))
    wide = _round_to_levels(torch.matmul(rows.view(batch, height * 3, width), across))
    tall = torch.matmul(down.transpose(1, 2), wide.view(batch, height, 3 * out_width))
    return _round_to_levels(tall).view(batch, out_height, 3, out_width)


def resize(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Lanczos resize of a whole batch: `PIL.Image.resize(size, LANCZOS)`, level for level.

    Args:
        images: uint8 (B, H, W, 3).
        size: (height, width) wanted.

    Returns:
        uint8 (B, height, width, 3).
    """
    matrices = []
    for source, target in zip(images.shape[1:3], size, strict=True):
        first, weights = lanczos_taps(torch.tensor([source]), target)
        taps = weights.shape[1]
        rows = first[:, None, :] + torch.arange(taps)[None, :, None]
        matrix = weights.new_zeros(1, source + taps, target).scatter_(1, rows, weights)
        matrices.append(matrix[:, :source].to(images.device))
    down, across = matrices
    return resample(images, across, down).to(torch.uint8).transpose(2, 3).contiguous()


def affine_nearest(planes: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """`PIL.Image.transform(size, AFFINE, inverse, NEAREST)`: 16.16 fixed point, black outside.

    Args:
        planes: float32 (3, B, H, W).
        inverse: float64 (B, 6), (a, b, c, d, e, f) per sample: a result pixel (x, y) shows the source
            point (a x + b y + c, d x + e y + f), in pixels with centres at halves.

    Returns:
        float32 (3, B, H, W).
    """
    _, batch, height, width = planes.shape
    a, b, c, d, e, f = inverse.unbind(1)
    fixed = torch.stack((a, b, c + (a + b) * 0.5, d, e, f + (d + e) * 0.5), 1)
    fixed = (fixed * 65536.0 + 0.5).floor().to(torch.int64)[:, :, None, None]
    x = torch.arange(width, device=planes.device)[None, None, :]
    y = torch.arange(height, device=planes.device)[None, :, None]
    column = (fixed[:, 2] + x * fixed[:, 0] + y * fixed[:, 1]) >> 16
    row = (fixed[:, 5] + x * fixed[:, 3] + y * fixed[:, 4]) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    flat = torch.where(inside, row * width + column, 0).view(1, batch, -1).expand(3, -1, -1)
    moved = planes.reshape(3, batch, -1).gather(2, flat).view(planes.shape)
    return moved.mul_(inside)
