"""The statistics of a run's images that its log front uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from scatsimclr.data.augment import Augment, center_view
from scatsimclr.data.mapped import AnyImages
from scatsimclr.models.front import LogFront

VIEWS = 3  # of each image
NUMBERS = 1 << 27  # coefficients of all views, at most; of more images a random sample is measured
BATCH = 256


class HasFront(Protocol):
    """What is needed of a model: its front, and the scattering coefficients (n, C·K, H, W) of views."""

    @property
    def front(self) -> LogFront | None: ...

    def scatter(self, x: Tensor, dtype: torch.dtype) -> Tensor: ...


@torch.inference_mode()
def fit_front(model: HasFront, images: AnyImages, augment: Augment) -> None:
    """Measures images and their views, without labels, and sets the statistics of the model's log front.

    Deterministic for the augmentation's seed. A model without a log front is left as it is.

    Args:
        model: The model.
        images: uint8 (n ≥ 1, H, W, C).
        augment: Makes the views.
    """
    front = model.front
    if front is None:
        return
    most = max(2, NUMBERS // (VIEWS * front.width))
    generator = torch.Generator().manual_seed(augment.seed)
    chosen = torch.randperm(len(images), generator=generator)[:most].sort().values
    device = next(front.buffers()).device

    def coefficients(view: int | None) -> Iterator[Tensor]:
        for part in torch.split(chosen, BATCH):
            batch = images[part.to(images.device)].to(device)
            x = center_view(batch, augment.spec) if view is None else augment(batch, part, 0, view)
            yield model.scatter(x.float(), dtype=torch.float32)

    total = sum((c.sum(0).mean((1, 2)) for c in coefficients(None)), torch.zeros((), device=device))
    front.set_floor(total / len(chosen))
    front.set_channels(*_moments(front.compressed(c) for c in coefficients(None)))
    plain = torch.cat([front.places_of(c) for c in coefficients(None)])
    views = torch.stack(
        [torch.cat([front.places_of(c) for c in coefficients(view)]) for view in range(VIEWS)]
    )
    front.set_whitening(plain, views, augment.seed)


def _moments(parts: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, float32 (C,), of each channel of (n, C, H, W), given in parts; sums in float64."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for part in parts:
        x = part.double()
        count += x.numel() // x.shape[1]
        total, squares = total + x.sum((0, 2, 3)), squares + x.square().sum((0, 2, 3))
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()
