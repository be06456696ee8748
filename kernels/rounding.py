"""Rounding to what tensor cores multiply."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def to_tf32(x):
    """float32 rounded to TF32's 10 bits, halves away from zero. Tensor cores would cut the other 13 off, a bias."""
    rounded = (x.to(tl.int32, bitcast=True) + 0x1000) & -8192
    # The addition would carry CUDA's NaN, 0x7FFFFFFF, over to −0.
    return tl.where(x == x, rounded.to(tl.float32, bitcast=True), x)


@triton.jit
def operand(x, PRECISION: tl.constexpr):
    """x as an operand of a tl.dot with this input precision; those of "tf32x3" are rounded by the product itself."""
    if PRECISION == "tf32":
        x = to_tf32(x)
    return x
