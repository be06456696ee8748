"""The least that a case must do: what a record's `work` counts, on any device and whatever an implementation saves."""

from __future__ import annotations

import math

from scatsimclr.filters import padded_shape
from scatsimclr.reference.scattering2d import channels


def coefficient_bytes(shape: tuple[int, ...], J: int, L: int, itemsize: int = 4) -> int:
    """What the scattering coefficients of (images, colours, height, width) take."""
    images, colours, height, width = shape
    return images * colours * channels(J, L, 2) * (height >> J) * (width >> J) * itemsize


def scattering_work(shape: tuple[int, ...], J: int, L: int, itemsize: int = 4) -> dict[str, float]:
    """Of (images, colours, height, width) in float32 to coefficients of `itemsize` bytes: bytes in and out, and float32
    operations of the Fourier transforms.

    5 n log2 n operations a complex transform of n points, half that of a real signal; products, moduli and low-pass
    are left out, so this floor cannot be reached.
    """
    images, colours, height, width = shape
    planes, (M, N) = images * colours, padded_shape((height, width), J)

    def fft(level):
        n = (M >> level) * (N >> level)
        return 5 * n * math.log2(n)

    operations = fft(0) / 2
    for j in range(J):
        operations += L * fft(j)
        if j < J - 1:
            operations += L * (fft(j) / 2 + sum(L * fft(k) for k in range(j + 1, J)))
    return {
        "bytes": planes * height * width * 4 + coefficient_bytes(shape, J, L, itemsize),
        "flop": planes * operations,
    }


def ntxent_work(M: int, D: int, itemsize: int = 4) -> dict[str, float]:
    """Of NT-Xent forward and backward for M rows: one product of similarities, two for the gradients; rows read,
    gradients written."""
    return {"flop": 6 * M * M * D, "bytes": 2 * M * D * itemsize}


def conv3x3_work(N: int, size: int, C: int, O: int, itemsize: int = 4, both: bool = True) -> dict[str, float]:  # noqa: E741
    """Of a 3×3 convolution of N images of size² from C to O channels, forward and backward, by filters alone or by both
    arguments: products of the definition; images and gradients read and written once."""
    products = 3 if both else 2
    images = (2 * C if both else C) + 2 * O
    return {
        "flop": products * 2 * 9 * N * size**2 * C * O,
        "bytes": N * size**2 * images * itemsize + 2 * 9 * C * O * 4,
    }
