"""What the Triton kernels of NT-Xent share, normalised rows, and the forward pass of local rows against all rows.

`scatsimclr.kernels.ntxent` launches them and says which when.

Rows z (M, D) are in the dtype of the products (bfloat16, float16, float32, float32 rounded to TF32); sums are
float32. Exponentials are base 2, c2 = log2(e)/τ: exp(c s) = 2^(c2 s). FIXED: no maximum, where |c s| ≤ 60 for
certain; else running row maxima. EITHER: τ is on the device; both are launched, and one of them ends at once. Every sum
has one fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .rounding import to_tf32

# Arguments of kernels that the compiler is to take as any number: as specialised ones, 1 would be a constant of another
# type, and every new size that 16 divides, or no longer, a compilation. The depth D does pay: rows are then aligned.
COUNTS = ("M", "GROUP", "span", "parts", "SLOTS", "first", "local", "images", "views")

LOG2E = tl.constexpr(1.4426950408889634)
# |c s| ≤ c: 2^(c2 s) and its sums over 2^30 rows stay within float32.
FIXED_LIMIT = tl.constexpr(60.0)
LN2 = tl.constexpr(0.6931471805599453)
EPS = tl.constexpr(1e-12)
LOWEST = tl.constexpr(-3.0e38)


@triton.jit
def _inverse_tau(tau_ptr, tau, TENSOR: tl.constexpr):
    if TENSOR:
        tau = tl.load(tau_ptr).to(tl.float32)
    return 1.0 / tau


@triton.jit
def _out_of_regime(c, FIXED: tl.constexpr):
    """Whether 1/τ, which only the device knows, is for the other one of two launches."""
    fixed = tl.abs(c) <= FIXED_LIMIT
    return fixed == 0 if FIXED else fixed


@triton.jit
def _block(base, rows, columns, row_mask, D):
    """Entries (rows, columns) of a contiguous (·, D) matrix; 0 outside. Offsets are 64 bits wide."""
    pointers = base + rows.to(tl.int64)[:, None] * D + columns[None, :]
    return tl.load(pointers, mask=row_mask[:, None] & (columns < D)[None, :], other=0.0)


@triton.jit
def _divisor(x):
    """max(|x|, 1e-12) by rows, and |x|; scaled by the largest entry, so that squares stay finite."""
    largest = tl.max(tl.abs(x), 1)
    largest = tl.where(largest > 0, largest, 1.0)
    scaled = x / largest[:, None]
    length = largest * tl.sqrt(tl.sum(scaled * scaled, 1))
    return tl.maximum(length, EPS), length


@triton.jit
def _unit_rows(x_ptr, rows, columns, row_mask, D, NORMALIZE: tl.constexpr, dtype: tl.constexpr):
    """Rows in the products' dtype, their divisors and lengths, for D within one block."""
    x = _block(x_ptr, rows, columns, row_mask, D).to(tl.float32)
    divisor, length = _divisor(x)
    if NORMALIZE:
        x = x / divisor[:, None]
    return x.to(dtype), divisor, length


@triton.jit
def _arrive(partial_ptr, count_ptr, out_ptr, own, scale, BLOCK: tl.constexpr):
    """Stores this program's partial sum; the last program to arrive adds them all up, in order, times scale."""
    programs = tl.num_programs(0)
    tl.store(partial_ptr + tl.program_id(0), own)
    tl.debug_barrier()
    if tl.atomic_add(count_ptr, 1, sem="acq_rel") == programs - 1:
        total = 0.0
        for start in range(0, programs, BLOCK):
            index = start + tl.arange(0, BLOCK)
            part = tl.load(partial_ptr + index, mask=index < programs, other=0.0, cache_modifier=".cg")
            total += tl.sum(part, 0)
        tl.store(out_ptr, total * scale)


@triton.jit(do_not_specialize=COUNTS)
def normalise_kernel(x_ptr, z_ptr, divisor_ptr, M, D, BM: tl.constexpr, BD: tl.constexpr,
                     NORMALIZE: tl.constexpr, TF32: tl.constexpr):  # fmt: skip
    """z = x / max(|x|, 1e-12), rounded once, and the divisor, negative where it is 1e-12."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    inside = rows < M
    divisor = tl.full((BM,), 1.0, tl.float32)
    if NORMALIZE:
        largest = tl.zeros((BM,), tl.float32)
        for d in range(0, D, BD):
            x = _block(x_ptr, rows, d + tl.arange(0, BD), inside, D).to(tl.float32)
            largest = tl.maximum(largest, tl.max(tl.abs(x), 1))
        largest = tl.where(largest > 0, largest, 1.0)
        squares = tl.zeros((BM,), tl.float32)
        for d in range(0, D, BD):
            x = _block(x_ptr, rows, d + tl.arange(0, BD), inside, D).to(tl.float32) / largest[:, None]
            squares += tl.sum(x * x, 1)
        length = largest * tl.sqrt(squares)
        divisor = tl.maximum(length, EPS)
        tl.store(divisor_ptr + rows, tl.where(length < EPS, -divisor, divisor), mask=inside)
    for d in range(0, D, BD):
        columns = d + tl.arange(0, BD)
        z = _block(x_ptr, rows, columns, inside, D).to(tl.float32) / divisor[:, None]
        if TF32:
            z = to_tf32(z)
        pointers = z_ptr + rows.to(tl.int64)[:, None] * D + columns[None, :]
        tl.store(pointers, z.to(z_ptr.dtype.element_ty), mask=inside[:, None] & (columns < D)[None, :])


@triton.jit
def _similarities(z_ptr, rows_i, rows_j, M, D, BI: tl.constexpr, BJ: tl.constexpr,
                  BD: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    s = tl.zeros((BI, BJ), tl.float32)
    for d in range(0, D, BD):
        columns = d + tl.arange(0, BD)
        a = _block(z_ptr, rows_i, columns, rows_i < M, D)
        b = _block(z_ptr, rows_j, columns, rows_j < M, D)
        s = tl.dot(a, tl.trans(b), s, input_precision=PRECISION)
    return s


@triton.jit
def _merge(shift, total, best, sums):
    """Two partial sums with their own maxima (base 2), as one."""
    top = tl.maximum(shift, best)
    return top, total * tl.exp2(shift - top) + sums * tl.exp2(best - top)


@triton.jit
def _positive(index_i, index_j, local, images):
    """Whether two local rows are views of one image (or one row): blocks are `local` rows of whole views."""
    same = (index_i % local % images)[:, None] == (index_j % local % images)[None, :]
    return same & ((index_i // local)[:, None] == (index_j // local)[None, :])


@triton.jit(do_not_specialize=COUNTS)
def forward_rows_kernel(x_ptr, z_ptr, pull_ptr, share_ptr, tau_ptr, tau, stats_ptr, loss_ptr,
                        partial_ptr, count_ptr, out_ptr, M, D, first, local, images, views,
                        BI: tl.constexpr, BJ: tl.constexpr, BD: tl.constexpr,
                        FIXED: tl.constexpr, EITHER: tl.constexpr, TENSOR: tl.constexpr,
                        NORMALIZE: tl.constexpr, SMALL: tl.constexpr,
                        PRECISION: tl.constexpr):  # fmt: skip
    """Local rows against all rows.

    SMALL: from x itself to the loss, positives included, in one launch; otherwise from z to row losses, with the
    positives' mean similarities given.
    """
    c = _inverse_tau(tau_ptr, tau, TENSOR)
    if EITHER:  # noqa: SIM102, decided by the compiler, and the other one by the program
        if _out_of_regime(c, FIXED):
            return
    rows = first + tl.program_id(0) * BI + tl.arange(0, BI)
    inside = rows < first + local
    c2 = c * LOG2E
    depth = tl.arange(0, BD)
    if SMALL:
        z_i, _divisor_i, _length_i = _unit_rows(
            x_ptr, rows, depth, inside, D, NORMALIZE, z_ptr.dtype.element_ty
        )
    shift = tl.full((BI,), 0.0 if FIXED else LOWEST, tl.float32)
    total = tl.zeros((BI,), tl.float32)
    pull = tl.zeros((BI,), tl.float32)
    for j in range(0, M, BJ):
        columns = j + tl.arange(0, BJ)
        if SMALL:
            z_j, _divisor_j, _length_j = _unit_rows(
                x_ptr, columns, depth, columns < M, D, NORMALIZE, z_ptr.dtype.element_ty
            )
            s = tl.dot(z_i, tl.trans(z_j), input_precision=PRECISION)
        else:
            s = _similarities(z_ptr, rows, columns, M, D, BI, BJ, BD, PRECISION)
        other = (rows[:, None] != columns[None, :]) & (columns < M)[None, :]
        if SMALL:
            pull += tl.sum(tl.where(_positive(rows, columns, local, images) & other, s, 0.0), 1)
        u = tl.where(other, s * c2, LOWEST)
        if FIXED:
            total += tl.sum(tl.exp2(u), 1)
        else:
            best = tl.max(u, 1)
            sums = tl.where(best == LOWEST, 0.0, tl.sum(tl.exp2(u - best[:, None]), 1))
            shift, total = _merge(shift, total, best, sums)
    tl.store(stats_ptr + rows - first, shift * LN2 / c, mask=inside)
    tl.store(stats_ptr + local + rows - first, total, mask=inside)
    if SMALL:
        loss = shift * LN2 + tl.log2(total) * LN2 - c * pull / tl.maximum(views - 1, 1)
        loss = tl.where(inside & (views > 1), loss, 0.0)
        _arrive(partial_ptr, count_ptr, out_ptr, tl.sum(loss, 0), 1.0 / M, 128)
    else:
        share = tl.load(share_ptr + rows, mask=inside, other=0.0)
        pull = tl.load(pull_ptr + rows, mask=inside, other=0.0)
        loss = shift * LN2 + tl.log2(total) * LN2 - c * pull
        tl.store(loss_ptr + rows - first, tl.where(share > 0, loss, 0.0), mask=inside)
