"""Every launch of a Triton kernel goes through here."""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@lru_cache(maxsize=16)
def capability(device: torch.device) -> int:
    """A GPU's major compute capability: 8 for Ampere, 9 for Hopper, from 10 on for Blackwell. Else 9.

    Ampere's tensor cores read operands from registers, Hopper's from shared memory; Blackwell's also keep sums in a
    memory of their own.
    """
    return torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9


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
