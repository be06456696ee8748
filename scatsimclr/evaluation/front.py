"""The statistics of a run's images that its log front stands on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from scatsimclr.data.augment import Augment, center_view

VIEWS = 3  # of each image
NUMBERS = 1 << 27  # in all views' coefficients, at most; of more images a seeded part is looked at
BATCH = 256


@torch.inference_mode()
def fit_front(model: nn.Module, images: Tensor, augment: Augment) -> None:
    """Measures images uint8 (n ≥ 1, H, W, C) and their views, and sets the model's front. No label is needed.

    The model is an encoder or what has its `front` and `scatter`. Deterministic for the augmentation's seed. Without
    the log front there is nothing to do.
    """
    front = model.front
    if front is None:
        return
    most = max(2, NUMBERS // (VIEWS * front.width))
    generator = torch.Generator().manual_seed(augment.seed)
    chosen = torch.randperm(len(images), generator=generator)[:most].sort().values
    device = front.floor.device

    def coefficients(view: int | None) -> Iterator[Tensor]:
        for part in chosen.split(BATCH):
            batch = images[part.to(images.device)].to(device)
            x = center_view(batch, augment.spec) if view is None else augment(batch, part, 0, view)
            yield model.scatter(x.float(), dtype=torch.float32)

    front.set_floor(sum(c.sum(0).mean((1, 2)) for c in coefficients(None)) / len(chosen))
    front.set_channels(*_moments(front.compressed(c) for c in coefficients(None)))
    plain = torch.cat([front.places_of(c) for c in coefficients(None)])
    views = torch.stack(
        [torch.cat([front.places_of(c) for c in coefficients(view)]) for view in range(VIEWS)]
    )
    front.set_whitening(plain, views, augment.seed)


def _moments(parts: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of (n, C, H, W) in parts; sums in float64."""
    count, total, squares = 0, 0.0, 0.0
    for part in parts:
        x = part.double()
        count += x.numel() // x.shape[1]
        total, squares = total + x.sum((0, 2, 3)), squares + x.square().sum((0, 2, 3))
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()
