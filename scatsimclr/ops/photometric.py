"""The operator `photometric`: everything of a view after its geometry, in one pass over the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scatsimclr.ops.library import late, register
from scatsimclr.reference import photometric as reference


def _triton() -> Any:
    from scatsimclr.kernels import photometric as kernels

    return kernels


def _fake(images: Tensor, *others: Tensor, **named: Any) -> Tensor:
    table = others[-1]
    return torch.empty(images.shape, dtype=table.dtype, device=images.device)


# images (B, H, W, C) -> (B, H, W, C) of the table's dtype, C 3 or 1; the rest as in scatsimclr.reference.photometric.
PHOTOMETRIC = register(
    "photometric",
    "(Tensor images, Tensor mirror, Tensor order, Tensor factors, Tensor grayscale, Tensor weights, Tensor table) "
    "-> Tensor",
    fake=_fake,
    reference=reference.photometric,
    cpu=True,
    triton=late(lambda: _triton().photometric),
)


def photometric(
    images: Tensor,
    mirror: Tensor,
    order: Tensor,
    factors: Tensor,
    grayscale: Tensor,
    weights: Tensor,
    table: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """Colour jitter, grey, blur and normalisation of uint8 images; the same bits from every implementation.

    Not differentiable.

    Args:
        images: uint8 (B, H, W, C): RGB or, with one channel, grey.
        mirror, order, factors, grayscale, weights, table: see `scatsimclr.reference.photometric.photometric`; all
            on the images' device.
        backend: "auto" or the name of one implementation.

    Returns:
        (B, C, H, W), channels-last, of the table's dtype.

    Raises:
        ValueError, TypeError: an argument of the wrong shape or dtype, or a backend that cannot serve the device.
    """
    batch = images.shape[0] if images.ndim else 0
    channels = 1 if images.ndim == 4 and images.shape[3] == 1 else 3
    expected: dict[str, tuple[Tensor, torch.dtype, tuple[int | None, ...]]] = {
        "images": (images, torch.uint8, (batch, None, None, channels)),
        "mirror": (mirror, torch.bool, (batch,)),
        "order": (order, torch.int64, (batch, 4)),
        "factors": (factors, torch.float32, (batch, 4)),
        "grayscale": (grayscale, torch.bool, (batch,)),
        "weights": (weights, torch.int32, (batch, None)),
        "table": (table, table.dtype, (channels, 256)),
    }
    for name, (tensor, dtype, shape) in expected.items():
        if tensor.dtype != dtype:
            raise TypeError(f"{name} must be {dtype}, got {tensor.dtype}")
        if len(shape) != tensor.ndim or any(
            want not in (None, got) for want, got in zip(shape, tensor.shape, strict=True)
        ):
            wanted = ", ".join("any" if side is None else str(side) for side in shape)
            raise ValueError(f"{name} must have shape ({wanted}), got {tuple(tensor.shape)}")
    if backend != "auto":
        PHOTOMETRIC.check(backend, images.device)
    run = PHOTOMETRIC.by(backend)
    return run(images, mirror, order, factors, grayscale, weights, table).permute(0, 3, 1, 2)
