"""The work that a case requires by definition, on any device, whatever an implementation saves."""

from __future__ import annotations

import math

from scatsimclr.filters import padded_shape
from scatsimclr.reference.scattering2d import channels


def coefficient_bytes(shape: tuple[int, ...], J: int, L: int, itemsize: int = 4) -> int:
    """Size of the scattering coefficients of (images, colours, height, width)."""
    images, colours, height, width = shape
    return images * colours * channels(J, L, 2) * (height >> J) * (width >> J) * itemsize


def scattering_work(shape: tuple[int, ...], J: int, L: int, itemsize: int = 4) -> dict[str, float]:
    """Work of the transform of (images, colours, height, width), float32, to coefficients of `itemsize` bytes.

    "bytes" are read and written; "flop" are those of the Fourier transforms: 5 n log2 n for a complex transform of n
    points, half as many for a real signal. Products, moduli and low-pass filters are not counted, so that this floor
    cannot be reached.
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
    """Work of NT-Xent, forward and backward, for M rows: 5·M²·D operations, of which a multiply-add is two.

    The similarity of each pair once, as they are symmetric: a triangle, M²·D. For the gradients all similarities again,
    as they are not stored, and their product with the rows: 2·M²·D each. Exponentials are not counted. Rows are read,
    gradients written.
    """
    return {"flop": 5 * M * M * D, "bytes": 2 * M * D * itemsize}


def conv3x3_work(N: int, size: int, C: int, O: int, itemsize: int = 4, both: bool = True) -> dict[str, float]:  # noqa: E741
    """Work of a 3×3 convolution of N images of size² pixels from C to O channels, forward and backward.

    The gradient is that of the filters or, with `both`, also that of the images. Operations are those of the
    definition; images and gradients are read and written once.
    """
    products = 3 if both else 2
    images = (2 * C if both else C) + 2 * O
    return {
        "flop": products * 2 * 9 * N * size**2 * C * O,
        "bytes": N * size**2 * images * itemsize + 2 * 9 * C * O * 4,
    }
