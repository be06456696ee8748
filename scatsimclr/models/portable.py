"""The scattering front end as matrix products and sums of real tensors, for export to other runtimes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scatsimclr.reference.scattering2d import fold, pad, psi_levels
from scatsimclr.scattering import Scattering2D

Complex = tuple[Tensor, Tensor]  # real and imaginary part


class PortableScattering(nn.Module):
    """The numbers of `Scattering2D.features`, x (N, C, M, N) → (N, C·K, H, W), as plain operations.

    All orientations of a scale go through one operator, so that the graph has dozens of nodes instead of the thousands
    of the reference's loop over paths; memory grows with L² at the finest scale. Fourier transforms are products with
    the matrices cos(2πnk/M) and sin(2πnk/M): every runtime multiplies matrices fast, but not every one has complex
    numbers. With onnxruntime's DFT, of 40×40 and 20×20, an encoder took about ten times as long (EPYC Zen 4, busy,
    onnxruntime 1.32, 2026-11-24).

    Args:
        scattering: The transform to replace; its filters are copied.
    """

    def __init__(self, scattering: Scattering2D):
        super().__init__()
        self.J, self.L = scattering.J, scattering.L
        self.max_order, self.pre_pad = scattering.max_order, bool(scattering.pre_pad)
        spectra = [buffer.detach().squeeze(-1).clone() for buffer in scattering.buffers()]
        self.padded: tuple[int, int] = (spectra[0].shape[0], spectra[0].shape[1])
        for j in range(self.J):
            self.register_buffer(f"phi{j}", spectra[j])
        rest = iter(spectra[self.J :])
        for j in range(self.J):
            levels = psi_levels(j, self.J)
            # kymatio's order: all levels of one orientation before those of the next.
            stack = [[next(rest) for _ in range(levels)] for _ in range(self.L)]
            for level in range(levels):
                self.register_buffer(f"psi{j}_{level}", torch.stack([theta[level] for theta in stack]))
        for length in {side >> j for side in self.padded for j in range(self.J + 1)}:
            turns = torch.outer(torch.arange(length), torch.arange(length)) % length
            angle = turns.double() * (2 * torch.pi / length)
            self.register_buffer(f"cos{length}", angle.cos().float())
            self.register_buffer(f"sin{length}", angle.sin().float())

    def _matrices(self, length: int) -> Complex:
        return getattr(self, f"cos{length}"), getattr(self, f"sin{length}")

    def _forward(self, u: Tensor) -> Complex:
        """Spectrum of a real field (…, M, N)."""
        (cm, sm), (cn, sn) = map(self._matrices, u.shape[-2:])
        a, b = cm @ u, -(sm @ u)
        return a @ cn + b @ sn, b @ cn - a @ sn

    def _inverse(self, spectrum: Complex) -> Complex:
        re, im = spectrum
        (cm, sm), (cn, sn) = map(self._matrices, re.shape[-2:])
        a, b = cm @ re - sm @ im, cm @ im + sm @ re
        scale = 1.0 / (re.shape[-2] * re.shape[-1])
        return (a @ cn - b @ sn) * scale, (b @ cn + a @ sn) * scale

    def _low_pass(self, spectrum: Complex, j: int) -> Tensor:
        phi, k = getattr(self, f"phi{j}"), 2 ** (self.J - j)
        return self._inverse((fold(spectrum[0] * phi, k), fold(spectrum[1] * phi, k)))[0][..., 1:-1, 1:-1]

    def _modulus(self, spectrum: Complex, j: int, level: int, k: int) -> Complex:
        """Spectra of |u ⋆ ψ_θ| for all θ of a scale: (…, M, N) → (…, L, M/k, N/k)."""
        psi = getattr(self, f"psi{j}_{level}")
        parts = [fold(part.unsqueeze(-3) * psi, k) for part in spectrum]
        re, im = self._inverse((parts[0], parts[1]))
        return self._forward((re * re + im * im).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        u0 = self._forward(x if self.pre_pad else pad(x, self.padded))
        orders = [self._low_pass(u0, 0).unsqueeze(2)]
        second = []
        for j1 in range(self.J):
            u1 = self._modulus(u0, j1, 0, 2**j1)
            orders.append(self._low_pass(u1, j1))
            if self.max_order >= 2 and j1 + 1 < self.J:
                paths = [
                    self._low_pass(self._modulus(u1, j2, j1, 2 ** (j2 - j1)), j2)
                    for j2 in range(j1 + 1, self.J)
                ]
                second.append(torch.cat(paths, 3).flatten(2, 3))
        return torch.cat(orders + second, 2).flatten(1, 2)
