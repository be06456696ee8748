"""Features of whole image sets: the encoder's, the scattering transform's, or both."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from scatsimclr.data.augment import AugmentSpec, center_view
from scatsimclr.data.mapped import AnyImages
from scatsimclr.models.encoder import Encoder
from scatsimclr.models.folding import folded
from scatsimclr.models.scatsimclr import ScatSimCLR
from scatsimclr.scattering import Scattering2D

# name -> its parts, side by side. scattering: all coefficients, place by place; pooled: their means over the cells of a
# POOLED × POOLED grid; texture: see texture_features; whitened: those of the log front, see scatsimclr.models.front.
FEATURES = {
    "h": ("h",),
    "z": ("z",),
    "scattering": ("scattering",),
    "pooled": ("pooled",),
    "texture": ("texture",),
    "both": ("h", "scattering"),
    "both_pooled": ("h", "pooled"),
    "whitened": ("whitened",),
    "h_whitened": ("h", "whitened"),
}
POOLED = 4
TEXTURES = 2048  # random features

# What messages and pages call them.
WORDS = {
    "h": "h", "z": "z", "scattering": "scattering", "pooled": "pooled scattering", "texture": "texture by scattering",
    "both": "h and scattering", "both_pooled": "h and pooled scattering", "whitened": "whitened scattering",
    "h_whitened": "h and whitened scattering",
}  # fmt: skip


class Extract(Protocol):
    """`extract`, or what does the same by several processes."""

    def __call__(
        self,
        model: Encoder,
        images: AnyImages,
        spec: AugmentSpec,
        *,
        batch_size: int = 256,
        features: str = "h",
        amp: torch.dtype | None = None,
        scattering: Scattering2D | None = None,
    ) -> Tensor: ...


@torch.inference_mode()
def extract(
    model: Encoder,
    images: AnyImages,
    spec: AugmentSpec,
    *,
    batch_size: int = 256,
    features: str = "h",
    amp: torch.dtype | None = None,
    scattering: Scattering2D | None = None,
) -> Tensor:
    """Features of every image, without augmentation.

    Args:
        model: The encoder. It is left as it is; a folded copy in evaluation mode does the work.
        images: uint8 (n, H, W, C), of which a batch at a time is on the model's device.
        spec: Their normalisation.
        batch_size: Images at a time.
        features: A name of FEATURES; several parts stand side by side, not standardised.
        amp: Precision of the network, None for float32. bfloat16 moves a feature vector by half a percent of its
            length.
        scattering: The transform, for features that need one.

    Returns:
        float32 (n, F), on the model's device.
    """
    device = next(model.parameters()).device
    encoder = folded(model)
    return torch.cat(
        [
            batch_features(
                encoder, center_view(images[s : s + batch_size].to(device), spec), features, amp, scattering
            )
            for s in range(0, len(images), batch_size)
        ]
    )


def batch_features(
    model: Encoder,
    x: Tensor,
    features: str,
    amp: torch.dtype | None = None,
    scattering: Scattering2D | None = None,
) -> Tensor:
    """Features float32 (n, F) of a batch of views x (n, C, H, W), by an encoder in evaluation mode: see `extract`.

    Raises:
        ValueError: For features that the encoder or the missing transform cannot make.
    """
    parts = []
    for part in FEATURES[features]:
        if part in ("h", "z"):
            with torch.autocast(x.device.type, amp, enabled=amp is not None):
                h = model.encode(x)
                parts.append((model.project(h) if part == "z" else h).float())
        elif part == "whitened":
            if not isinstance(model, ScatSimCLR):
                raise ValueError(
                    f"model must be a ScatSimCLR for whitened features, got {type(model).__name__}"
                )
            parts.append(model.whitened(x))
        elif scattering is None:
            raise ValueError(f"scattering must be a transform for features {features!r}, got None")
        elif part == "texture":
            parts.append(texture_features(scattering, x))
        else:
            parts.append(scattering_features(scattering, x, pooled=part == "pooled"))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def scattering_features(scattering: Scattering2D, x: Tensor, *, pooled: bool) -> Tensor:
    """Coefficients of views x (n, C, H, W), float32 (n, F): all of them, or means over a POOLED × POOLED grid."""
    coefficients = scattering.features(x, dtype=torch.float32)
    if pooled and min(coefficients.shape[2:]) > POOLED:
        coefficients = F.adaptive_avg_pool2d(coefficients, POOLED)
    return coefficients.flatten(1)


def texture_features(scattering: Scattering2D, x: Tensor) -> Tensor:
    """What there is in views x (n, C, H, W), wherever it is: float32 (n, TEXTURES).

    Means of the coefficients over the whole image, m, through random rectified projections relu(m W / 2 + b): linear
    functions of these are functions of m with an arc-cosine kernel (Cho and Saul, "Kernel Methods for Deep Learning",
    NIPS 2009). Textures and colours form classes that no plane separates: with 10 labels per class of photos, logistic
    regression on m itself has 35 ± 5 %, on these features 49 ± 4.
    """
    means = scattering.features(x, dtype=torch.float32).mean((2, 3))
    weights, bias = (values.to(x.device) for values in _projections(means.shape[1]))
    return (means @ weights / 2 + bias).relu()


@lru_cache(maxsize=8)
def _projections(width: int) -> tuple[Tensor, Tensor]:
    """W (width, TEXTURES) and b (TEXTURES,), standard normal, always the same."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(width, TEXTURES, generator=generator)
    return weights, torch.randn(TEXTURES, generator=generator)
