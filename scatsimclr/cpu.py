"""What this machine's CPU multiplies by itself."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch


@functools.cache
def _capabilities() -> Mapping[str, object]:
    """PyTorch's names of the instruction sets; none where it cannot tell."""
    probe = getattr(torch.cpu, "get_capabilities", None)
    found: Mapping[str, object] = {} if probe is None else probe()
    return found


def matrix_units() -> bool:
    """Whether bfloat16 is multiplied in tiles (AMX), at many times the rate of the vector registers."""
    return bool(_capabilities().get("amx_bf16"))


def native_bfloat16() -> bool:
    """Whether bfloat16 is multiplied by instructions of its own (AVX-512 BF16, AMX)."""
    return matrix_units() or bool(_capabilities().get("avx512_bf16"))
