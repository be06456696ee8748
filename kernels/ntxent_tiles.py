"""The Triton kernels of NT-Xent. `scatsimclr.kernels.ntxent` launches them and says which when.

Rows z (M, D) are in the dtype of the products (bfloat16, float16, float32, float32 rounded to TF32); sums are
float32. Exponentials are base 2, c2 = log2(e)/τ: exp(c s) = 2^(c2 s). FIXED: no maximum, where |c s| ≤ 60 for
certain; else running row maxima. No atomics but the arrival counters; every sum has one fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
EPS = tl.constexpr(1e-12)
LOWEST = tl.constexpr(-3.0e38)


@triton.jit
def _inverse_tau(tau_ptr, tau, TENSOR: tl.constexpr):
    if TENSOR:
        tau = tl.load(tau_ptr).to(tl.float32)
    return 1.0 / tau


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
        tl.store(count_ptr, 0)


@triton.jit
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
            # Round to TF32's 10 bits here, not in the tensor core, which would cut them off.
            z = ((z.to(tl.int32, bitcast=True) + 0x1000) & -8192).to(tl.float32, bitcast=True)
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
def _add_partial(shift_ptr, total_ptr, slot, index, M, best, sums, FIXED: tl.constexpr):
    """Adds to a program's own slot. The barriers order this after the same program's earlier additions."""
    offset = slot.to(tl.int64) * M + index
    inside = index < M
    tl.debug_barrier()
    total = tl.load(total_ptr + offset, mask=inside, other=0.0)
    if FIXED:
        tl.debug_barrier()
        tl.store(total_ptr + offset, total + sums, mask=inside)
    else:
        shift = tl.load(shift_ptr + offset, mask=inside, other=LOWEST)
        tl.debug_barrier()
        top, total = _merge(shift, total, best, sums)
        tl.store(shift_ptr + offset, top, mask=inside)
        tl.store(total_ptr + offset, total, mask=inside)


@triton.jit
def forward_triangle_kernel(z_ptr, tau_ptr, tau, shift_ptr, total_ptr, M, D, GROUP,
                            B: tl.constexpr, BD: tl.constexpr, FIXED: tl.constexpr,
                            TENSOR: tl.constexpr, SINGLE: tl.constexpr,
                            PRECISION: tl.constexpr):  # fmt: skip
    """Σ_k 2^(c2 s_ik) from each pair of groups I ≤ J, of GROUP blocks each: of J's columns for I's rows, in
    slot J, and of I's rows for J's columns, in slot I. Program t is pair t of the triangle, by columns."""
    t = tl.program_id(0)
    J = ((tl.sqrt(8.0 * t.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    J = tl.where(t < J * (J + 1) // 2, J - 1, J)
    J = tl.where(t >= (J + 1) * (J + 2) // 2, J + 1, J)
    I = t - J * (J + 1) // 2  # noqa: E741
    c2 = _inverse_tau(tau_ptr, tau, TENSOR) * LOG2E
    blocks = tl.cdiv(M, B)
    for i in range(I * GROUP, tl.minimum((I + 1) * GROUP, blocks)):
        rows = i * B + tl.arange(0, B)
        best = tl.full((B,), LOWEST, tl.float32)
        sums = tl.zeros((B,), tl.float32)
        if SINGLE:
            z_i = _block(z_ptr, rows, tl.arange(0, BD), rows < M, D)
        for j in range(tl.maximum(J * GROUP, i), tl.minimum((J + 1) * GROUP, blocks)):
            columns = j * B + tl.arange(0, B)
            if SINGLE:
                z_j = _block(z_ptr, columns, tl.arange(0, BD), columns < M, D)
                u = tl.dot(z_i, tl.trans(z_j), input_precision=PRECISION) * c2
            else:
                u = _similarities(z_ptr, rows, columns, M, D, B, B, BD, PRECISION) * c2
            if (i == j) | ((j + 1) * B > M):
                u = tl.where((rows[:, None] != columns[None, :]) & (columns < M)[None, :], u, LOWEST)
            if (i + 1) * B > M:
                u = tl.where((rows < M)[:, None], u, LOWEST)
            if FIXED:
                e = tl.exp2(u)
                sums += tl.sum(e, 1)
                if i != j:
                    _add_partial(shift_ptr, total_ptr, I, columns, M, 0.0, tl.sum(e, 0), FIXED)
            else:
                row_best = tl.max(u, 1)
                row_sums = tl.sum(tl.exp2(u - row_best[:, None]), 1)
                row_sums = tl.where(row_best == LOWEST, 0.0, row_sums)
                best, sums = _merge(best, sums, row_best, row_sums)
                if i != j:
                    column_best = tl.max(u, 0)
                    column_sums = tl.sum(tl.exp2(u - column_best[None, :]), 0)
                    column_sums = tl.where(column_best == LOWEST, 0.0, column_sums)
                    _add_partial(shift_ptr, total_ptr, I, columns, M, column_best, column_sums, FIXED)
        _add_partial(shift_ptr, total_ptr, J, rows, M, best, sums, FIXED)


@triton.jit
def finish_forward_kernel(shift_ptr, total_ptr, pull_ptr, share_ptr, tau_ptr, tau, stats_ptr,
                          loss_ptr, M, SLOTS, BM: tl.constexpr, FIXED: tl.constexpr,
                          TENSOR: tl.constexpr):  # fmt: skip
    """Adds the slots in order: statistics and loss of each row."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    inside = rows < M
    c = _inverse_tau(tau_ptr, tau, TENSOR)
    shift = tl.full((BM,), 0.0 if FIXED else LOWEST, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    for slot in range(0, SLOTS):
        offset = tl.full((), 0, tl.int64) + slot * M.to(tl.int64)
        part = tl.load(total_ptr + offset + rows, mask=inside, other=0.0)
        if FIXED:
            total += part
        else:
            shift, total = _merge(
                shift, total, tl.load(shift_ptr + offset + rows, mask=inside, other=LOWEST), part
            )
    share = tl.load(share_ptr + rows, mask=inside, other=0.0)
    pull = tl.load(pull_ptr + rows, mask=inside, other=0.0)
    tl.store(stats_ptr + rows, shift * LN2 / c, mask=inside)
    tl.store(stats_ptr + M + rows, total, mask=inside)
    loss = shift * LN2 - c * pull + tl.log2(total) * LN2
    tl.store(loss_ptr + rows, tl.where(share > 0, loss, 0.0), mask=inside)


@triton.jit
def _positive(index_i, index_j, local, images):
    """Whether two local rows are views of one image (or one row): blocks are `local` rows of whole views."""
    same = (index_i % local % images)[:, None] == (index_j % local % images)[None, :]
    return same & ((index_i // local)[:, None] == (index_j // local)[None, :])


@triton.jit
def forward_rows_kernel(x_ptr, z_ptr, pull_ptr, share_ptr, tau_ptr, tau, stats_ptr, loss_ptr,
                        partial_ptr, count_ptr, out_ptr, M, D, first, local, images, views,
                        BI: tl.constexpr, BJ: tl.constexpr, BD: tl.constexpr,
                        FIXED: tl.constexpr, TENSOR: tl.constexpr, NORMALIZE: tl.constexpr,
                        SMALL: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Local rows against all rows.

    SMALL: from x itself to the loss, positives included, in one launch; otherwise from z to row losses, with the
    positives' mean similarities given.
    """
    rows = first + tl.program_id(0) * BI + tl.arange(0, BI)
    inside = rows < first + local
    c = _inverse_tau(tau_ptr, tau, TENSOR)
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


@triton.jit
def class_sums_kernel(z_ptr, order_ptr, begin_ptr, sums_ptr, M, D, BD: tl.constexpr):
    """Σ z over a class, by the program of its first place in the sorted order, row after row."""
    place = tl.program_id(0)
    begin = tl.load(begin_ptr + place)
    if begin == place:
        columns = tl.program_id(1) * BD + tl.arange(0, BD)
        total = tl.zeros((BD,), tl.float32)
        end = place
        more = True
        while more:
            row = tl.load(order_ptr + end)
            total += tl.load(z_ptr + row * D + columns, mask=columns < D, other=0.0).to(tl.float32)
            end += 1
            more = (end < M) & (tl.load(begin_ptr + tl.minimum(end, M - 1)) == begin)
        tl.store(sums_ptr + place.to(tl.int64) * D + columns, total, mask=columns < D)


@triton.jit
def _other_positives(z_ptr, sums_ptr, place_ptr, rows, columns, inside, D, local, images, views,
                     LABELS: tl.constexpr):  # fmt: skip
    """Σ_{p ∈ P(i)} z_p: the class's sum less the row itself, or the other views."""
    if LABELS:
        place = tl.load(place_ptr + rows, mask=inside, other=0)
        own = _block(z_ptr, rows, columns, inside, D).to(tl.float32)
        return _block(sums_ptr, place, columns, inside, D) - own
    image = rows // local * local + rows % local % images
    other = tl.zeros((rows.shape[0], columns.shape[0]), tl.float32)
    for v in range(0, views):
        view = image + v * images
        other += _block(z_ptr, view, columns, inside & (view != rows), D).to(tl.float32)
    return other


@triton.jit
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
