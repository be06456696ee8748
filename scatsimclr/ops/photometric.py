"""The operator `photometric`: everything of a view after its geometry, in one pass over the batch."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from scatsimclr.ops.library import (
    IMPLEMENTATIONS,
    LIBRARY,
    Implementation,
    extension_missing,
    key_call,
    select,
)
from scatsimclr.reference import photometric as reference

# images (B, H, W, C) -> (B, H, W, C) of the table's dtype, C 3 or 1; the rest as in scatsimclr.reference.photometric.
LIBRARY.define(
    "photometric(Tensor images, Tensor mirror, Tensor order, Tensor factors, Tensor grayscale, Tensor weights, "
    "Tensor table) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.impl("photometric", reference.photometric, "CompositeExplicitAutograd")
_forward = torch.ops.scatsimclr.photometric.default


@torch.library.register_fake("scatsimclr::photometric", lib=LIBRARY)
def _(images, mirror, order, factors, grayscale, weights, table):
    return torch.empty(images.shape, dtype=table.dtype, device=images.device)


def _triton(*args: Tensor) -> Tensor:
    from scatsimclr.kernels import photometric as kernels

    return kernels.photometric(*args)


_HAVE_TRITON = importlib.util.find_spec("triton") is not None
if _HAVE_TRITON:
    LIBRARY.impl("photometric", _triton, "CUDA")


def _triton_missing() -> str | None:
    if not _HAVE_TRITON:
        return "triton is not installed"
    return None if torch.cuda.is_available() else "this machine has no CUDA device"


IMPLEMENTATIONS["photometric"] = {
    "cpu": Implementation(
        "cpu", "cpu", key_call(_forward, torch._C.DispatchKey.CPU), None, extension_missing
    ),
    # Interpreter and ahead-of-time compiler only so far: not yet run on hardware (house rule 18).
    "triton": Implementation("triton", "cuda", _triton, None, _triton_missing),
    "reference": Implementation("reference", "any", reference.photometric, None),
}


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
    """Colour jitter, grey, blur and normalisation of uint8 images (B, H, W, C), RGB or, with one channel, grey.

    The arguments are those of `scatsimclr.reference.photometric.photometric`, all on the images' device; the values
    are the same to the last bit in every implementation. Not differentiable.

    Returns (B, C, H, W), channels-last, of the table's dtype.

    Raises:
        ValueError, TypeError: an argument of the wrong shape or dtype, or the backend cannot serve the device.
    """
    batch = images.shape[0] if images.ndim else 0
    channels = 1 if images.ndim == 4 and images.shape[3] == 1 else 3
    expected = {
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
            raise TypeError(f"{name}: expected {dtype}, got {tensor.dtype}")
        if len(shape) != tensor.ndim or any(
            want not in (None, got) for want, got in zip(shape, tensor.shape, strict=True)
        ):
            wanted = ", ".join("any" if side is None else str(side) for side in shape)
            raise ValueError(f"{name}: expected shape ({wanted}), got {tuple(tensor.shape)}")
    args = tuple(tensor for tensor, _, _ in expected.values())
    run = _forward if backend == "auto" else select("photometric", backend, images.device).forward
    return run(*args).permute(0, 3, 1, 2)
