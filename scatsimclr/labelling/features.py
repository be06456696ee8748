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

LARGEST_SIDE = 64  # pixels that images are made smaller to, without a run that says how large they are
LARGE_SIDE = 48  # from which on the scale is 2³ pixels, not 2², and coefficients are averaged to fewer places
BATCH = 256


class _Front(nn.Module):
    """Scattering transform and log front, of images (N, C, H, W)."""

    def __init__(self, shape: tuple[int, int], colours: int):
        super().__init__()
        large = min(shape) >= LARGE_SIDE
        J = 3 if large else 2
        self.transform = Scattering2D(J, shape, L=8)
        grid = (shape[0] >> J, shape[1] >> J)
        self.front = LogFront(colours, self.transform.channels, grid, PLACES // 2 if large else PLACES)

    def scatter(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return self.transform.features(x, channels_last=True, dtype=dtype)


@torch.inference_mode()
def scattering_features(pixels: Tensor, seed: int = 0) -> Tensor:
    """Whitened scattering (scatsimclr.models.front) of pixels uint8 (n, H, W, C), standardised: (n, F) float32.

    Whitened by the views that the recipe for folders makes of them. Grey pictures are transformed once and not three
    times.
    """
    if bool((pixels == pixels[..., :1]).all()):
        pixels = pixels[..., :1]
    height, width, colours = pixels.shape[1:]
    shape = (height, width)
    mean, deviation = normalization("folder", colours)
    settings = asdict(load_config(None, ["dataset.dataset=folder"]).augment)
    spec = AugmentSpec(shape, mean=mean, std=deviation, **settings)
    model = _Front(shape, colours)
    fit_front(model, pixels, Augment(spec, seed))
    parts = [model.scatter(center_view(part, spec), torch.float32) for part in pixels.split(BATCH)]
    features = torch.cat([model.front.whitened(part) for part in parts])
    return Standard.of_part("whitened", features)(features)
