"""Features of whole image sets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scatsimclr.data.augment import AugmentSpec, center_view


@torch.inference_mode()
def extract(
    model: nn.Module, images: Tensor, spec: AugmentSpec, *, batch_size: int = 256, features: str = "h"
) -> Tensor:
    """Features of every image: images uint8 (n, H, W, 3) → float32 (n, F), on the model's device.

    features: "h", "z" or "both", h and z side by side. Only `spec`'s normalisation, no augmentation; evaluation mode
    (the mode before is restored); every image, the last partial batch included.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        found = [
            batch_features(model, center_view(chunk.to(device), spec), features)
            for chunk in images.split(batch_size)
        ]
    finally:
        model.train(training)
    return torch.cat(found)


def batch_features(model: nn.Module, x: Tensor, features: str) -> Tensor:
    """Features of a batch of views x (n, 3, H, W), float32 (n, F): "h", "z" or "both"."""
    h = model.encode(x)
    if features == "h":
        return h.float()
    z = model.project(h)
    return z.float() if features == "z" else torch.cat((h, z), 1).float()
