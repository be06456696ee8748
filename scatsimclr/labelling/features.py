"""Features of images to label: of a trained encoder, or of the scattering transform alone."""

from __future__ import annotations

import torch
from torch import Tensor

from scatsimclr.evaluation.standard import Standard
from scatsimclr.scattering import Scattering2D

LARGEST_SIDE = 64  # pixels that images are made smaller to, without a run that says how large they are
WIDTH = 16_384  # numbers of an image beyond which coefficients are averaged over parts of the image
BATCH = 256


def scattering_features(pixels: Tensor) -> Tensor:
    """log(1 + S / mean S) of the scattering coefficients S of pixels uint8 (n, H, W, 3), standardised, (n, F) float32.

    The means are those of a path over all images. Grey pictures are transformed once and not three times.
    """
    side = min(pixels.shape[1:3])
    transform = Scattering2D(3 if side >= 48 else 2, tuple(pixels.shape[1:3]), L=8)
    grey = bool((pixels == pixels[..., :1]).all())
    parts = []
    for chunk in pixels.split(BATCH):
        x = chunk[..., :1] if grey else chunk
        maps = transform.features(x.permute(0, 3, 1, 2).contiguous().float() / 255, dtype=torch.float32)
        if maps[0].numel() > WIDTH:
            maps = torch.nn.functional.adaptive_avg_pool2d(maps, 4)
        parts.append(maps)
    maps = torch.cat(parts)
    mean = maps.mean((0, 2, 3), keepdim=True).clamp_min(1e-6)
    features = torch.log1p(maps.clamp_min(0) / mean).flatten(1)
    return Standard.of(features)(features)
