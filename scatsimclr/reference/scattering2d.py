r"""2D wavelet scattering, plain PyTorch.

    S0 = x ⋆ φ        S1[λ] = |x ⋆ ψ_λ| ⋆ φ        S2[λ, μ] = ||x ⋆ ψ_λ| ⋆ ψ_μ| ⋆ φ,   j(μ) > j(λ)

each sampled on the grid of step 2^J (Bruna and Mallat 2013; Andén et al., kymatio 0.3, whose numbers these
are). Convolutions are products of spectra on a padded, periodic grid; every product is decimated by folding
its spectrum, which aliases exactly as sampling the full-resolution product would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def channels(J: int, L: int, max_order: int) -> int:
    """Number of scattering coefficients per pixel: 1 + JL (+ L²J(J−1)/2 with the second order)."""
    return 1 + J * L + (L * L * J * (J - 1) // 2 if max_order >= 2 else 0)


def psi_levels(j: int, J: int) -> int:
    """Number of resolutions at which kymatio stores the wavelets of scale j."""
    return min(j + 1, max(J - 1, 1))


def pad(x: Tensor, padded: tuple[int, int]) -> Tensor:
    """Reflects x (..., M, N) without repeating the edge, to `padded` = (M', N').

    Indices are reflected with period 2(M−1), as in numpy.pad(mode="reflect"), so that a pad may be as wide as the
    image.
    """
    for dim, target in ((-2, padded[0]), (-1, padded[1])):
        size = x.shape[dim]
        period = max(2 * (size - 1), 1)
        index = (torch.arange(target, device=x.device) - (target - size) // 2) % period
        x = x.index_select(dim, torch.where(index < size, index, period - index))
    return x


def fold(spectrum: Tensor, k: int) -> Tensor:
    """Spectrum (..., M, N) of the signal sampled at every k-th pixel: the mean over the k × k blocks."""
    if k == 1:
        return spectrum
    m, n = spectrum.shape[-2] // k, spectrum.shape[-1] // k
    blocks: Tensor = spectrum.unflatten(-1, (k, n)).unflatten(-3, (k, m))
    return blocks.mean((-4, -2))


class _Modulus(torch.autograd.Function):
    """|z| of a complex tensor, with the subgradient 0 at 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        squares: Tensor = z.real * z.real + z.imag * z.imag
        return squares.sqrt()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        z, modulus = ctx.saved_tensors
        derivative: Tensor = torch.where(modulus == 0, 0, grad / modulus) * z
        return derivative

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        z, modulus = ctx.saved_tensors
        along = z.real * tangent.real + z.imag * tangent.imag
        derivative: Tensor = torch.where(modulus == 0, 0, along / modulus)
        return derivative


_modulus: Callable[[Tensor], Tensor] = _Modulus.apply


def scattering2d(x: Tensor, filters: list[Tensor], J: int, L: int, max_order: int, pre_pad: bool) -> Tensor:
    """Scattering coefficients, in the dtype of x and filters.

    Args:
        x: images (..., M, N).
        filters: spectra of φ at its J resolutions, then of each ψ[j, θ] at its `psi_levels`, each (M', N', 1)
            and real.
        J: log2 of the scale.
        L: number of angles.
        max_order: 2, or less for orders 0 and 1 only.
        pre_pad: whether x is already padded, to (M', N').

    Returns:
        (..., K, H, W); the K channels are S0, S1 by (j, θ), S2 by (j1, θ1, j2, θ2).
    """
    spectra = [f.squeeze(-1) for f in filters]
    phi, rest = spectra[:J], iter(spectra[J:])
    psi = [(j, [next(rest) for _ in range(psi_levels(j, J))]) for j in range(J) for _ in range(L)]

    def low_pass(u_hat: Tensor, j: int) -> Tensor:
        low: Tensor = torch.fft.ifft2(fold(u_hat * phi[j], 2 ** (J - j))).real
        return low[..., 1:-1, 1:-1]

    def wavelet_modulus(u_hat: Tensor, psi_hat: Tensor, k: int) -> Tensor:
        spectrum: Tensor = torch.fft.fft2(_modulus(torch.fft.ifft2(fold(u_hat * psi_hat, k))))
        return spectrum

    u0 = torch.fft.fft2(x if pre_pad else pad(x, (phi[0].shape[0], phi[0].shape[1])))
    s0, s1, s2 = [low_pass(u0, 0)], [], []
    for j1, levels1 in psi:
        u1 = wavelet_modulus(u0, levels1[0], 2**j1)
        s1.append(low_pass(u1, j1))
        if max_order < 2:
            continue
        for j2, levels2 in psi:
            if j2 > j1:
                u2 = wavelet_modulus(u1, levels2[j1], 2 ** (j2 - j1))
                s2.append(low_pass(u2, j2))
    return torch.stack(s0 + s1 + s2, dim=-3)
