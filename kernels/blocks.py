"""Which part of a launch is a program's own, where a grid of one dimension stands for two."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def own_block(size, BLOCK: tl.constexpr):
    """Programs are (item, block of its `size` numbers), blocks fastest: the item, and the numbers' indices."""
    blocks = tl.cdiv(size, BLOCK)
    return tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
