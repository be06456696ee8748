"""What stands between the scattering coefficients and those who use them: logarithm, standardisation, whitening.

Scattering coefficients are moduli: their deviation grows with their mean, and those of the second order are orders of
magnitude smaller than those of the first. log(1 + c/floor) makes both alike (Andén and Mallat, "Deep scattering
spectrum", 2014, section V; the floor is a tenth of a channel's mean).

Whitening suppresses the directions in which the augmentation moves an image's coefficients. With D the differences of
the views' standardised coefficients from their image's mean view, DᵀD/n = Σ e_i q_i q_iᵀ, and σ² the mean of the
eigenvalues beyond the first k, a vector x becomes

    x − Σ_{i ≤ k} (1 − √((σ² + λ) / (e_i + λ))) q_i q_iᵀ x,

(DᵀD/n + λ)^(−½) x up to a factor, with the eigenvalues beyond k taken together. It is within-class covariance
normalisation (Hatch, Kajarekar, Stolcke, 2006) with images as the classes and views as their examples, and what a
linear network learns from positive pairs, in closed form: no labels, no training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLOOR = 0.1  # of a channel's mean coefficient
LAMBDA = 0.1  # of a standardised coefficient's variance
# Directions that are suppressed. Of 512 against all 5,184: 77.7 and 87.0 % against 77.7 and 87.2 with 10 and 100 labels
# a class (5,000 images of Fashion-MNIST, held-out training images); of 256: 77.1 and 86.6, of 128: 76.4 and 86.1.
DIRECTIONS = 512
PLACES = 8  # coefficients are averaged to a grid of at most so many places a side before they are whitened


class LogFront(nn.Module):
    """Coefficients (N, C·K, H, W) → the same shape and dtype, log-compressed and standardised channel by channel.

    colours C, channels K of each, (H, W) the coefficients' grid; places: most of the vectors' grid, a side. Holds
    statistics of images and nothing that is trained; until `set_floor`, `set_channels` and `set_whitening` it only
    takes the logarithm. The coefficients of order 0, which may be negative, are standardised alone.
    """

    def __init__(self, colours: int, channels: int, grid: tuple[int, int], places: int = PLACES):
        super().__init__()
        count = colours * channels
        self.channels = channels
        self.places = tuple(min(side, places) for side in grid)
        self.width = count * self.places[0] * self.places[1]
        directions = min(DIRECTIONS, self.width)
        for name, shape in (
            ("floor", (count,)), ("mean", (count,)), ("scale", (count,)),
            ("whitening_mean", (self.width,)), ("whitening_scale", (self.width,)),
            ("directions", (self.width, directions)), ("shrink", (directions,)),
        ):  # fmt: skip
            value = torch.ones if name in ("floor", "scale", "whitening_scale") else torch.zeros
            self.register_buffer(name, value(shape))

    def compressed(self, coefficients: Tensor) -> Tensor:
        """Logarithms (N, C·K, H, W), float32; order 0 as it is."""
        x = coefficients.float()
        first = (torch.arange(x.shape[1], device=x.device) % self.channels == 0)[:, None, None]
        return torch.where(first, x, torch.log1p(x.clamp_min(0) / self.floor[:, None, None]))

    def forward(self, coefficients: Tensor) -> Tensor:
        x = (self.compressed(coefficients) - self.mean[:, None, None]) * self.scale[:, None, None]
        return x.to(coefficients.dtype)

    def places_of(self, coefficients: Tensor) -> Tensor:
        """Logarithms as vectors (N, width), float32, of a grid of at most PLACES × PLACES."""
        x = self.compressed(coefficients)
        if tuple(x.shape[2:]) != self.places:
            x = F.adaptive_avg_pool2d(x, self.places)
        return x.flatten(1)

    def whitened(self, coefficients: Tensor) -> Tensor:
        """Whitened logarithms (N, width), float32, of coefficients (N, C·K, H, W)."""
        x = (self.places_of(coefficients) - self.whitening_mean) * self.whitening_scale
        return x - (x @ self.directions * self.shrink) @ self.directions.T

    @torch.no_grad()
    def set_floor(self, means: Tensor) -> None:
        """means (C·K,): of the coefficients."""
        # A channel without a coefficient (black images) has no scale of its own.
        self.floor.copy_((FLOOR * means).clamp_min(1e-6 * means.abs().max().clamp_min(1e-6)))

    @torch.no_grad()
    def set_channels(self, mean: Tensor, deviation: Tensor) -> None:
        """Mean and deviation (C·K,) of the logarithms; a channel that is constant becomes 0."""
        self.mean.copy_(mean)
        self.scale.copy_(_inverse(deviation))

    @torch.no_grad()
    def set_whitening(self, plain: Tensor, views: Tensor, seed: int = 0) -> None:
        """From logarithms as of `places_of`: plain (n, width) of images, views (V ≥ 2, n, width) of their views.

        The directions come from a randomised decomposition, deterministic for a seed.
        """
        self.whitening_mean.copy_(plain.mean(0))
        self.whitening_scale.copy_(_inverse(plain.std(0, correction=0)))
        count, images = views.shape[:2]
        differences = ((views - views.mean(0)) * self.whitening_scale).flatten(0, 1)
        differences /= ((count - 1) * images) ** 0.5
        kept = min(self.shrink.numel(), min(differences.shape))
        with torch.random.fork_rng(devices=[plain.device] if plain.is_cuda else []):
            torch.manual_seed(seed)
            oversampled = min(kept + 64, min(differences.shape))
            _, values, axes = torch.svd_lowrank(differences, q=oversampled, niter=2)
        values = values[:kept].square()
        beyond = (differences.square().sum() - values.sum()).clamp_min(0) / max(1, self.width - kept)
        if kept == min(differences.shape):
            beyond = 0.0  # not the rounding of both sums
        self.directions.zero_()
        self.shrink.zero_()
        self.directions[:, :kept] = axes[:, :kept]
        self.shrink[:kept] = (1 - ((beyond + LAMBDA) / (values + LAMBDA)).sqrt()).clamp_min(0)


def _inverse(deviation: Tensor) -> Tensor:
    return torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), 0)
