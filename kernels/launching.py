"""Every launch of a Triton kernel goes through here."""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@lru_cache(maxsize=16)
def blackwell(device: torch.device) -> bool:
    """Whether a device's tensor cores keep sums in a memory of their own: compute capability 10 and newer."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 10


def launch(kernel: Any, programs: int, *args: Any, warps: int = 4, **options: Any) -> None:
    """Launches a kernel on the device of its tensors, whichever is the current one.

    Grids have one dimension: CUDA allows 2³¹ − 1 programs in the first and 65,535 in the others.

    Args:
        kernel: what `triton.jit` made.
        programs: how many to start.
        args: the kernel's arguments; the first tensor among them says which device.
        warps: of a program.
        options: the kernel's constexpr arguments, and the compiler's options.
    """
    device = next(arg.device for arg in args if isinstance(arg, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[(programs,)](*args, num_warps=warps, **options)
