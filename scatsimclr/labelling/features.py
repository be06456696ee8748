"""Features of images to label without a trained encoder: whitened scattering."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor, nn

from scatsimclr.config import load_config
from scatsimclr.data.augment import Augment, AugmentSpec, center_view
from scatsimclr.data.datasets import normalization
from scatsimclr.evaluation.front import fit_front
from scatsimclr.evaluation.standard import Standard
from scatsimclr.models.front import PLACES, LogFront
from scatsimclr.scattering import Scattering2D

LARGEST_SIDE = 64  # Images are shrunk to so many pixels where no run gives their size.
LARGE_SIDE = (
    48  # From so many pixels on, the scale is 2³, not 2², and coefficients are averaged to fewer places.
)
BATCH = 256


class _Front(nn.Module):
    """Scattering transform and log front, for images (N, C, H, W)."""

    def __init__(self, shape: tuple[int, int], colours: int):
        super().__init__()
        large = min(shape) >= LARGE_SIDE
        J = 3 if large else 2
        self.transform = Scattering2D(J, shape, L=8)
        grid = (shape[0] >> J, shape[1] >> J)
        self.front = LogFront(colours, self.transform.channels, grid, PLACES // 2 if large else PLACES)

    def scatter(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Scattering coefficients (N, C·K, H/2^J, W/2^J)."""
        return self.transform.features(x, channels_last=True, dtype=dtype)


@torch.inference_mode()
def scattering_features(pixels: Tensor, seed: int = 0) -> Tensor:
    """Whitened scattering (`scatsimclr.models.front`) of pixels uint8 (n, H, W, C), standardised: float32 (n, F).

    It is whitened by the views that the recipe for folders makes. Grey pictures are transformed once, not three times.
    """
    if bool((pixels == pixels[..., :1]).all()):
        pixels = pixels[..., :1]
    height, width, colours = pixels.shape[1:]
    mean, deviation = normalization("folder", colours)
    settings = asdict(load_config(None, ["dataset.dataset=folder"]).augment)
    spec = AugmentSpec((height, width), mean=mean, std=deviation, **settings)
    model = _Front((height, width), colours)
    fit_front(model, pixels, Augment(spec, seed))
    parts = [model.scatter(center_view(part, spec), torch.float32) for part in torch.split(pixels, BATCH)]
    features = torch.cat([model.front.whitened(part) for part in parts])
    return Standard.of_part("whitened", features)(features)
