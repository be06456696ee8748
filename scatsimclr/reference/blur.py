"""Gaussian blur of 8-bit levels as OpenCV computes it: integer weights, one rounding at the end.

For 8-bit images `cv2.GaussianBlur` rounds the kernel to 8 fractional bits, spreading the rounding
error along the taps so that they sum to exactly 256 (`getGaussianKernelFixedPoint_ED` in OpenCV's
smooth.dispatch.cpp), keeps the full sum between the two passes and rounds once. Every partial sum
stays below 2**24, so float32 holds it exactly and the order of summation cannot matter.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray


def gaussian_weights(sigma: ArrayLike, size: int) -> NDArray[np.int64]:
    """OpenCV's 8-bit Gaussian kernels.

    Args:
        sigma: (N,) standard deviations in pixels, each > 0.
        size: taps, odd.

    Returns:
        int64 (N, size // 2 + 1): the weights at distance size // 2, ..., 1, 0; with both sides they
        sum to 256.
    """
    sigma = np.ascontiguousarray(sigma, dtype=np.float64)
    half = size // 2
    distance = np.arange(half, 0, -1)
    raw = np.exp(-0.5 * distance**2 / sigma[:, None] ** 2)
    total = np.ones(len(sigma))
    for tap in range(half):
        total += 2.0 * raw[:, tap]
    weights = np.empty((len(sigma), half + 1), np.int64)
    error = np.zeros(len(sigma))
    for tap in range(half):
        wanted = raw[:, tap] / total * 256.0 + error
        weights[:, tap] = np.rint(wanted)
        error = wanted - weights[:, tap]
    weights[:, half] = 256 - 2 * weights[:, :half].sum(1)
    return weights


def _mirrored(length: int, half: int) -> tuple[list[int], list[int]]:
    """Indices of the `half` pixels before and after an axis that is mirrored about its end pixels, at any length."""
    period = max(2 * (length - 1), 1)
    fold = [min(k, period - k) if length > 1 else 0 for k in range(period)]
    return [fold[-k % period] for k in range(half, 0, -1)], [
        fold[(length - 1 + k) % period] for k in range(1, half + 1)
    ]


def _pass(planes: torch.Tensor, weights: torch.Tensor, axis: int) -> torch.Tensor:
    """Weighted sum along `axis` (2 or 3) of (C, B, H, W); weights (B, taps) float32. Exact integers."""
    half, length = weights.shape[1] - 1, planes.shape[axis]
    before, after = (
        planes.index_select(axis, torch.tensor(side, dtype=torch.int64, device=planes.device))
        for side in _mirrored(length, half)
    )
    padded = torch.cat((before, planes, after), axis)
    weight = weights.t()[:, :, None, None]
    result = padded.narrow(axis, half, length) * weight[half]
    pair = torch.empty_like(result)
    for tap in range(half):
        torch.add(padded.narrow(axis, tap, length), padded.narrow(axis, 2 * half - tap, length), out=pair)
        result.addcmul_(pair, weight[tap])
    return result


def gaussian_blur(planes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Blur with a square kernel, the image mirrored about its edge pixels (reflect 101).

    Args:
        planes: float32 (C, B, H, W), whole numbers 0..255.
        weights: (B, half + 1) integers as from `gaussian_weights`.

    Returns:
        float32 (C, B, H, W), whole numbers 0..255. Accumulated in float32, exactly.
    """
    weights = weights.to(planes)
    sums = _pass(_pass(planes, weights, 3), weights, 2)
    return sums.add_(32768.0).mul_(2.0**-16).floor_()
