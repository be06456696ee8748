"""The Morlet filter bank of kymatio 0.3, bit for bit and about a hundred times faster.

ψ[j, θ] has σ = 0.8·2^j, centre frequency ξ = (3/4)·π/2^j, angle (int(L − L/2 − 1) − θ)·π/L and slant 4/L; φ is an
isotropic Gaussian of σ = 0.8·2^(J−1). Filters are made in space on a periodic grid and used as spectra.

Everything that affects rounding is kept as in kymatio: complex64 accumulation over 5 × 5 periods in order,
float32 rotation matrices, 3.1415 for π in the norm (true π is off by 2.9e-5, more than kymatio's tolerance), and the
float32 Fourier transform that SciPy has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from scatsimclr.fourier import fft2
from scatsimclr.reference.scattering2d import psi_levels

# Below exp(−104) a term is under half of float32's smallest subnormal: adding it changes no bit.
_NEGLIGIBLE = 104.0


Complex = NDArray[np.complex64]


class LowPass(TypedDict):
    """φ: its spectra at J resolutions, and J."""

    levels: list[NDArray[np.float32]]
    j: int


class Wavelet(LowPass):
    """ψ[j, θ]: its spectra at each resolution that it is applied to, j and θ."""

    theta: int


@dataclass(frozen=True)
class FilterBank:
    """Spectra of a scattering transform; arrays are real, float32, read-only and shared.

    Attributes:
        phi: the low-pass. Its level r has shape (M'/2^r, N'/2^r), as those of the wavelets have.
        psi: J·L wavelets, by j, then θ.
    """

    phi: LowPass
    psi: list[Wavelet]

    def tensors(self) -> list[NDArray[np.float32]]:
        """All levels in the order of kymatio's buffers `tensor0…`: φ, then each ψ."""
        return [level for entry in (self.phi, *self.psi) for level in entry["levels"]]


def padded_shape(shape: tuple[int, int], J: int) -> tuple[int, int]:
    """Size (M', N') of the periodic grid for images (M, N): the next multiple of 2^J plus one to two more."""
    step = 2**J
    return ((shape[0] + step) // step + 1) * step, ((shape[1] + step) // step + 1) * step


@lru_cache(maxsize=4)
def filter_bank(M: int, N: int, J: int, L: int) -> FilterBank:
    """Filters for the periodic (padded) grid (M, N).

    Args:
        M, N: the grid's size, multiples of 2^J.
        J: log2 of the scale, at least 1.
        L: number of angles, at least 1.
    """
    psi: list[Wavelet] = []
    for j in range(J):
        angles = [(int(L - L / 2 - 1) - theta) * np.pi / L for theta in range(L)]
        space = [_morlet(M, N, 0.8 * 2**j, angle, 3.0 / 4.0 * np.pi / 2**j, 4.0 / L) for angle in angles]
        for theta, spectrum in enumerate(np.real(fft2(np.stack(space)))):
            levels = [_crop_spectrum(spectrum, level) for level in range(psi_levels(j, J))]
            psi.append({"levels": levels, "j": j, "theta": theta})
    spectrum = np.real(fft2(_gabor_pair(M, N, 0.8 * 2 ** (J - 1), 0, 0, 1.0)[0][None]))[0]
    return FilterBank({"levels": [_crop_spectrum(spectrum, level) for level in range(J)], "j": J}, psi)


def _morlet(M: int, N: int, sigma: float, theta: float, xi: float, slant: float) -> Complex:
    """A Gabor filter less the multiple of its envelope that makes its mean zero; complex64 (M, N)."""
    wave, envelope = _gabor_pair(M, N, sigma, theta, xi, slant)
    morlet: Complex = wave - np.sum(wave) / np.sum(envelope) * envelope
    return morlet


def _gabor_pair(
    M: int, N: int, sigma: float, theta: float, xi: float, slant: float
) -> tuple[Complex, Complex]:
    """exp(−uᵀCu + iξ(x cos θ + y sin θ)) and its envelope (ξ = 0), periodised; complex64 (M, N).

    C = R diag(1, slant²) R⁻¹ / (2σ²). Only the points where the envelope exceeds exp(−104) are evaluated.
    """
    cos, sin = np.cos(theta), np.sin(theta)
    rotation = np.array([[cos, -sin], [sin, cos]], np.float32)
    inverse = np.array([[cos, sin], [-sin, cos]], np.float32)
    curvature = np.dot(rotation, np.dot(np.array([[1, 0], [0, slant * slant]]), inverse)) / (
        2 * sigma * sigma
    )
    xx_weight, xy_weight, yy_weight = curvature[0, 0], curvature[0, 1] + curvature[1, 0], curvature[1, 1]

    # The ellipse uᵀCu ≤ 104 lies within |x| ≤ sqrt(104·C⁻¹₀₀), |y| ≤ sqrt(104·C⁻¹₁₁).
    determinant = xx_weight * yy_weight - xy_weight * xy_weight / 4
    reach_x = int(np.sqrt(_NEGLIGIBLE * yy_weight / determinant)) + 1
    reach_y = int(np.sqrt(_NEGLIGIBLE * xx_weight / determinant)) + 1

    wave, envelope = np.zeros((M, N), np.complex64), np.zeros((M, N), np.complex64)
    for ex in range(-2, 3):
        x = _within(ex * M, M, reach_x)
        for ey in range(-2, 3):
            y = _within(ey * N, N, reach_y)
            xx, yy = x[:, None], y[None, :]
            exponent = -(xx_weight * (xx * xx) + xy_weight * (xx * yy) + yy_weight * (yy * yy))
            rows, columns = np.nonzero(exponent > -_NEGLIGIBLE)
            if not len(rows):
                continue
            exponent = exponent[rows, columns]
            phase = x[rows] * xi * cos + y[columns] * xi * sin
            target = (x[rows] - ex * M, y[columns] - ey * N)
            wave[target] += np.exp(exponent + 1.0j * phase)
            envelope[target] += np.exp(exponent + 0.0j)
    norm = 2 * 3.1415 * sigma * sigma / slant
    wave /= norm
    envelope /= norm
    return wave, envelope


def _within(start: int, length: int, reach: int) -> NDArray[np.int_]:
    """The integers of [start, start + length) whose magnitude is at most `reach`."""
    return np.arange(max(start, -reach), min(start + length, reach + 1))


def _crop_spectrum(spectrum: NDArray[Any], level: int) -> NDArray[Any]:
    """The spectrum on a grid 2^level times coarser: high frequencies masked, then folded; read-only.

    The Nyquist bin comes from the negative side only, as in kymatio.
    """
    if level > 0:
        spectrum = spectrum.copy()
        for axis, size in enumerate(spectrum.shape):
            start, length = int(size * 2.0 ** (-level - 1)), int(size * (1 - 2.0**-level))
            np.moveaxis(spectrum, axis, 0)[start : start + length] = 0
    factor = 2**level
    blocks = spectrum.reshape(factor, spectrum.shape[0] // factor, factor, spectrum.shape[1] // factor)
    folded = np.zeros((blocks.shape[1], blocks.shape[3]), spectrum.dtype)
    for i in range(factor):
        for k in range(factor):
            folded += blocks[i, :, k]
    folded.setflags(write=False)
    return folded
