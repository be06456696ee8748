"""The Triton kernels of NT-Xent for the positives of a row: other views of its image, or the others of its class.

Sums over a class go by tiles of SEGMENT places of the order sorted by class, so that a few large classes take no longer
than many small ones; each has one fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .blocks import own_block
from .ntxent_tiles import COUNTS, _block

SEGMENT = 64


@triton.jit(do_not_specialize=COUNTS)
def segment_sums_kernel(z_ptr, order_ptr, begin_ptr, sums_ptr, M, D, BD: tl.constexpr, BM: tl.constexpr,
                        PRECISION: tl.constexpr):  # fmt: skip
    """Σ z over the part of a class in BM places of the sorted order, stored at the part's first place."""
    chunks = tl.cdiv(D, BD)
    start = tl.program_id(0) // chunks * BM
    places = start + tl.arange(0, BM)
    columns = tl.program_id(0) % chunks * BD + tl.arange(0, BD)
    inside = places < M
    begin = tl.load(begin_ptr + places, mask=inside, other=-1)
    row = tl.load(order_ptr + places, mask=inside, other=0)
    z = _block(z_ptr, row, columns, inside, D)
    same = (begin[:, None] == begin[None, :]).to(z.dtype)
    total = tl.dot(same, z, input_precision=PRECISION)
    leads = inside & ((places == start) | (places == begin))
    pointers = sums_ptr + places.to(tl.int64)[:, None] * D + columns[None, :]
    tl.store(pointers, total, mask=leads[:, None] & (columns < D)[None, :])


@triton.jit(do_not_specialize=COUNTS)
def class_sums_kernel(sums_ptr, begin_ptr, end_ptr, D, BD: tl.constexpr, BM: tl.constexpr):
    """Adds up a class's parts, in order, by the program of its first place, and there."""
    place, columns = own_block(D, BD)
    if tl.load(begin_ptr + place) == place:
        inside = columns < D
        total = tl.load(sums_ptr + place.to(tl.int64) * D + columns, mask=inside, other=0.0)
        for part in range((place // BM + 1) * BM, tl.load(end_ptr + place).to(tl.int32), BM):
            total += tl.load(sums_ptr + tl.cast(part, tl.int64) * D + columns, mask=inside, other=0.0)
        tl.store(sums_ptr + place.to(tl.int64) * D + columns, total, mask=inside)


@triton.jit
def _other_positives(z_ptr, sums_ptr, place_ptr, rows, columns, inside, D, local, images, views,
                     LABELS: tl.constexpr):  # fmt: skip
    """Σ_{p ∈ P(i)} z_p: the class's sum less the row itself, or the other views."""
    other = tl.zeros((rows.shape[0], columns.shape[0]), tl.float32)
    if LABELS:
        place = tl.load(place_ptr + rows, mask=inside, other=0)
        own = _block(z_ptr, rows, columns, inside, D).to(tl.float32)
        other = _block(sums_ptr, place, columns, inside, D) - own
    else:
        image = rows // local * local + rows % local % images
        for v in range(0, views):
            view = image + v * images
            other += _block(z_ptr, view, columns, inside & (view != rows), D).to(tl.float32)
    return other


@triton.jit(do_not_specialize=COUNTS)
def pull_kernel(z_ptr, sums_ptr, place_ptr, share_ptr, pull_ptr, M, D, local, images, views,
                BM: tl.constexpr, BD: tl.constexpr, LABELS: tl.constexpr):  # fmt: skip
    """Mean similarity of each row with its positives; share is 1/|P(i)|, 0 without any."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    inside = rows < M
    pull = tl.zeros((BM,), tl.float32)
    for d in range(0, D, BD):
        columns = d + tl.arange(0, BD)
        other = _other_positives(
            z_ptr, sums_ptr, place_ptr, rows, columns, inside, D, local, images, views, LABELS
        )
        pull += tl.sum(other * _block(z_ptr, rows, columns, inside, D).to(tl.float32), 1)
    tl.store(pull_ptr + rows, pull * tl.load(share_ptr + rows, mask=inside, other=0.0), mask=inside)
