"""Between the scattering coefficients and their use: logarithm, standardisation, whitening.

Scattering coefficients are moduli: their deviation grows with their mean, and those of the second order are orders of
magnitude smaller than those of the first. log(1 + c/floor) brings both to the same scale (Andén and Mallat, "Deep
scattering spectrum", 2014, section V; the floor is a tenth of a channel's mean).

Whitening suppresses the directions in which the augmentation moves an image's coefficients. Let D be the differences
between the views' standardised coefficients and their image's mean view, DᵀD/n = Σ e_i q_i q_iᵀ, and σ² the mean of the
eigenvalues beyond the first k. A vector x becomes

    x − Σ_{i ≤ k} (1 − √((σ² + λ) / (e_i + λ))) q_i q_iᵀ x,

which is (DᵀD/n + λ)^(−½) x up to a factor, with σ² for all eigenvalues beyond k. This is within-class covariance
normalisation (Hatch, Kajarekar, Stolcke, 2006) with images as the classes and views as their examples. It is also what
a linear network learns from positive pairs, in closed form: without labels or training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLOOR = 0.1  # of a channel's mean coefficient
LAMBDA = 0.1  # of a standardised coefficient's variance
# Directions that are suppressed. With 512, accuracy is 77.7 and 87.0 % for 10 and 100 labels per class; with all 5,184
# it is 77.7 and 87.2, with 256 77.1 and 86.6, with 128 76.4 and 86.1 (5,000 images of Fashion-MNIST, held-out training
# images).
DIRECTIONS = 512
PLACES = 8  # coefficients are averaged to a grid of at most so many places per side before they are whitened


class LogFront(nn.Module):
    """Coefficients (N, C·K, H, W) → the same shape and dtype, log-compressed and standardised channel by channel.

    Holds statistics of images and nothing that is trained; until `set_floor`, `set_channels` and `set_whitening` are
    called it only takes the logarithm. Coefficients of order 0, which may be negative, are only standardised.

    Args:
        colours: C.
        channels: K, coefficients per colour.
        grid: (H, W).
        places: The most places per side of the grid of the vectors that are whitened.
    """

    floor: Tensor
    mean: Tensor
    scale: Tensor
    whitening_mean: Tensor
    whitening_scale: Tensor
    directions: Tensor
    shrink: Tensor

    def __init__(self, colours: int, channels: int, grid: tuple[int, int], places: int = PLACES):
        super().__init__()
        count = colours * channels
        self.channels = channels
        self.places = (min(grid[0], places), min(grid[1], places))
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
        """Logarithms (N, C·K, H, W), float32; order 0 is unchanged."""
        x = coefficients.float()
        first = (torch.arange(x.shape[1], device=x.device) % self.channels == 0)[:, None, None]
        return torch.where(first, x, torch.log1p(x.clamp_min(0) / self.floor[:, None, None]))

    def forward(self, coefficients: Tensor) -> Tensor:
        x = (self.compressed(coefficients) - self.mean[:, None, None]) * self.scale[:, None, None]
        return x.to(coefficients.dtype)

    def places_of(self, coefficients: Tensor) -> Tensor:
        """Logarithms as vectors (N, width), float32, on a grid of `places`."""
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
        """Sets the floor by the means (C·K,) of the coefficients."""
        # A channel whose coefficients are all zero (black images) has no scale of its own.
        self.floor.copy_((FLOOR * means).clamp_min(1e-6 * means.abs().max().clamp_min(1e-6)))

    @torch.no_grad()
    def set_channels(self, mean: Tensor, deviation: Tensor) -> None:
        """Sets the mean and deviation (C·K,) of the logarithms; a constant channel becomes 0."""
        self.mean.copy_(mean)
        self.scale.copy_(_inverse(deviation))

    @torch.no_grad()
    def set_whitening(self, plain: Tensor, views: Tensor, seed: int = 0) -> None:
        """Sets the whitening, by a randomised decomposition.

        Args:
            plain: Logarithms as from `places_of`, (n, width), of images.
            views: Likewise of their views, (V ≥ 2, n, width).
            seed: The decomposition is deterministic for a seed.
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
        beyond: Tensor | float = 0.0  # where all directions are kept, instead of the rounding of both sums
        if kept < min(differences.shape):
            beyond = (differences.square().sum() - values.sum()).clamp_min(0) / max(1, self.width - kept)
        self.directions.zero_()
        self.shrink.zero_()
        self.directions[:, :kept] = axes[:, :kept]
        self.shrink[:kept] = (1 - ((beyond + LAMBDA) / (values + LAMBDA)).sqrt()).clamp_min(0)


def _inverse(deviation: Tensor) -> Tensor:
    return torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), 0)
