"""Features of whole image sets: the encoder's, the scattering transform's, or both."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scatsimclr.data.augment import AugmentSpec, center_view
from scatsimclr.models.folding import folded
from scatsimclr.scattering import Scattering2D

# name -> the parts that stand side by side. scattering: all coefficients, in their places; pooled: their means over
# the parts of a grid of POOLED × POOLED; whitened: of the log front, scatsimclr.models.front.
FEATURES = {
    "h": ("h",),
    "z": ("z",),
    "scattering": ("scattering",),
    "pooled": ("pooled",),
    "both": ("h", "scattering"),
    "both_pooled": ("h", "pooled"),
    "whitened": ("whitened",),
    "h_whitened": ("h", "whitened"),
}
POOLED = 4

# What a person reads.
WORDS = {
    "h": "h", "z": "z", "scattering": "scattering", "pooled": "pooled scattering", "both": "h and scattering",
    "both_pooled": "h and pooled scattering", "whitened": "whitened scattering",
    "h_whitened": "h and whitened scattering",
}  # fmt: skip


@torch.inference_mode()
def extract(
    model: nn.Module,
    images: Tensor,
    spec: AugmentSpec,
    *,
    batch_size: int = 256,
    features: str = "h",
    amp: torch.dtype | None = None,
    scattering: Scattering2D | None = None,
) -> Tensor:
    """Features of every image: images uint8 (n, H, W, C) → float32 (n, F), on the model's device.

    features: one of FEATURES, several parts side by side as they are. amp: of the network, None for float32; bfloat16
    moves a feature vector by half a percent of its length. scattering: the transform, for features that need one. Only
    `spec`'s normalisation, no augmentation; the model is left in the mode it is in, and works in evaluation mode,
    folded; every image, the last partial batch included.
    """
    device = next(model.parameters()).device
    encoder = folded(model)
    return torch.cat(
        [
            batch_features(encoder, center_view(chunk.to(device), spec), features, amp, scattering)
            for chunk in images.split(batch_size)
        ]
    )


def batch_features(
    model: nn.Module,
    x: Tensor,
    features: str,
    amp: torch.dtype | None = None,
    scattering: Scattering2D | None = None,
) -> Tensor:
    """Features by an encoder in evaluation mode of a batch of views x (n, C, H, W), float32 (n, F): see `extract`."""
    parts = []
    for part in FEATURES[features]:
        if part in ("h", "z"):
            with torch.autocast(x.device.type, amp, enabled=amp is not None):
                h = model.encode(x)
                parts.append((model.project(h) if part == "z" else h).float())
        elif part == "whitened":
            parts.append(model.whitened(x))
        else:
            parts.append(scattering_features(scattering, x, pooled=part == "pooled"))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def scattering_features(scattering: Scattering2D, x: Tensor, *, pooled: bool) -> Tensor:
    """Coefficients of views x (n, C, H, W), float32 (n, F): all of them, or means over POOLED × POOLED parts."""
    coefficients = scattering.features(x, dtype=torch.float32)
    if pooled and min(coefficients.shape[2:]) > POOLED:
        coefficients = F.adaptive_avg_pool2d(coefficients, POOLED)
    return coefficients.flatten(1)
