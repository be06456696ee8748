"""Features of whole image sets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scatsimclr.data.augment import AugmentSpec, center_view
from scatsimclr.models.folding import folded


@torch.inference_mode()
def extract(
    model: nn.Module,
    images: Tensor,
    spec: AugmentSpec,
    *,
    batch_size: int = 256,
    features: str = "h",
    amp: torch.dtype | None = None,
) -> Tensor:
    """Features of every image: images uint8 (n, H, W, 3) → float32 (n, F), on the model's device.

    features: "h", "z" or "both", h and z side by side. amp: of the network, None for float32; bfloat16 moves a
    feature vector by half a percent of its length. Only `spec`'s normalisation, no augmentation; the model is
    left in the mode it is in, and works in evaluation mode, folded; every image, the last partial batch included.
    """
    device = next(model.parameters()).device
    encoder = folded(model)
    return torch.cat(
        [
            batch_features(encoder, center_view(chunk.to(device), spec), features, amp)
            for chunk in images.split(batch_size)
        ]
    )


def batch_features(model: nn.Module, x: Tensor, features: str, amp: torch.dtype | None = None) -> Tensor:
    """Features by an encoder in evaluation mode of a batch of views x (n, 3, H, W), float32 (n, F): see `extract`."""
    with torch.autocast(x.device.type, amp, enabled=amp is not None):
        h = model.encode(x)
        if features == "h":
            return h.float()
        z = model.project(h)
    return z.float() if features == "z" else torch.cat((h.float(), z.float()), 1)
