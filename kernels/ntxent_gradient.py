"""The Triton kernels of NT-Xent's gradient: one-sided, because G is symmetric, and therefore without atomics.

`backward_kernel` is long because its tiles stay in registers from the first load to the last store.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .ntxent_positives import _other_positives
from .ntxent_tiles import (
    COUNTS,
    EPS,
    LOG2E,
    LOWEST,
    _arrive,
    _block,
    _inverse_tau,
    _out_of_regime,
    _positive,
    _similarities,
    _unit_rows,
)
from .rounding import operand


@triton.jit
def _weight(shift, total, anchor, FIXED: tl.constexpr, GAIN: tl.constexpr):
    """What a row weighs its exponentials with, GAIN/E_i, 0 where it is no anchor.

    FIXED: that number, without other kernels' shifts (base 2); else what to subtract from exponents, of base 2.
    """
    if FIXED:
        weight = tl.where(anchor, GAIN / total * tl.exp2(-shift), 0.0)
    else:
        weight = tl.where(anchor, shift + tl.log2(total / GAIN), -LOWEST)
    return weight


@triton.jit
def _own_weight(stats_ptr, index, inside, c2, M, FIXED: tl.constexpr, GAIN: tl.constexpr):
    """`_weight` of rows that are all anchors."""
    shift = tl.load(stats_ptr + index, mask=inside, other=0.0) * c2
    total = tl.load(stats_ptr + M + index, mask=inside, other=1.0)
    return _weight(shift, total, inside, FIXED, GAIN)


@triton.jit(do_not_specialize=COUNTS)
def weights_kernel(stats_ptr, share_ptr, tau_ptr, tau, weights_ptr, M, BM: tl.constexpr,
                   FIXED: tl.constexpr, EITHER: tl.constexpr, TENSOR: tl.constexpr,
                   GAIN: tl.constexpr):  # fmt: skip
    """`_weight` of all rows; EITHER: as the launch of the gradient that goes on expects it."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    inside = rows < M
    c = _inverse_tau(tau_ptr, tau, TENSOR)
    shift = tl.load(stats_ptr + rows, mask=inside, other=0.0) * (c * LOG2E)
    total = tl.load(stats_ptr + M + rows, mask=inside, other=1.0)
    anchor = tl.load(share_ptr + rows, mask=inside, other=0.0) > 0
    weight = _weight(shift, total, anchor, FIXED, GAIN)
    if EITHER:
        weight = tl.where(_out_of_regime(c, FIXED), _weight(shift, total, anchor, not FIXED, GAIN), weight)
    tl.store(weights_ptr + rows, weight, mask=inside)


@triton.jit(do_not_specialize=COUNTS)
def backward_kernel(x_ptr, z_ptr, divisor_ptr, sums_ptr, place_ptr, share_ptr, stats_ptr, weights_ptr,
                    tau_ptr, tau, grad_ptr, anchors_ptr, dx_ptr, dz_ptr, partial_ptr, count_ptr,
                    dtau_ptr, M, D, first, local, images, views, span, BI: tl.constexpr,
                    BJ: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr, FIXED: tl.constexpr,
                    EITHER: tl.constexpr, TENSOR: tl.constexpr, NORMALIZE: tl.constexpr,
                    SMALL: tl.constexpr, LABELS: tl.constexpr, SINGLE: tl.constexpr,
                    WHOLE: tl.constexpr, PRECISION: tl.constexpr, GAIN: tl.constexpr):  # fmt: skip
    """∂loss/∂z of a block of local rows, Σ_k G_ik z_k over `span` columns k less the positives, over BD of D.

    SMALL: everything is computed from x in this launch, and positives are subtracted from G itself. Similarities are
    products of blocks of BK of D. SINGLE: it is one such block, and BD is BK. WHOLE: BD is all of D, and `span` is M;
    the Jacobian of the normalisation and ∂loss/∂τ are applied here. Otherwise parts of ∂loss/∂z (parts, local, D) are
    stored and `jacobian_kernel` adds them up and applies these. GAIN keeps G
    within float16's range.
    """
    c = _inverse_tau(tau_ptr, tau, TENSOR)
    if EITHER:  # noqa: SIM102, decided by the compiler, and the other one by the program
        if _out_of_regime(c, FIXED):
            return
    programs, chunks = tl.cdiv(local, BI), tl.cdiv(D, BD)
    begin = first + tl.program_id(0) % programs * BI
    rows = begin + tl.arange(0, BI)
    inside = rows < first + local
    chunk = tl.program_id(0) // programs % chunks * BD + tl.arange(0, BD)
    part = tl.program_id(0) // programs // chunks
    c2 = c * LOG2E
    dtype: tl.constexpr = z_ptr.dtype.element_ty
    if SMALL:
        z_i, divisor, length = _unit_rows(x_ptr, rows, chunk, inside, D, NORMALIZE, dtype)
        w_i = _own_weight(stats_ptr, rows, inside, c2, M, FIXED, GAIN)
    else:
        w_i = tl.load(weights_ptr + rows, mask=inside, other=0.0)
        if SINGLE:
            z_i = _block(z_ptr, rows, chunk, inside, D)
    acc = tl.zeros((BI, BD), tl.float32)
    for j in range(part * span, tl.minimum((part + 1) * span, M), BJ):
        columns = j + tl.arange(0, BJ)
        if SMALL:
            z_j, _divisor_j, _length_j = _unit_rows(x_ptr, columns, chunk, columns < M, D, NORMALIZE, dtype)
            w_j = _own_weight(stats_ptr, columns, columns < M, c2, M, FIXED, GAIN)
        else:
            z_j = _block(z_ptr, columns, chunk, columns < M, D)
            w_j = tl.load(weights_ptr + columns, mask=columns < M, other=0.0)
        if SINGLE:
            s = tl.dot(z_i, tl.trans(z_j), input_precision=PRECISION)
        else:
            s = _similarities(z_ptr, rows, columns, M, D, BI, BJ, BK, PRECISION)
        u = s * c2
        # Columns beyond M would count with the rows' weights; only the diagonal and the end need a mask.
        edge = (j + BJ > M) | ((j < begin + BI) & (j + BJ > begin))
        if edge:
            u = tl.where((rows[:, None] != columns[None, :]) & (columns < M)[None, :], u, LOWEST)
        if FIXED:
            g = tl.exp2(u) * (w_i[:, None] + w_j[None, :])
        else:
            g = tl.exp2(u - w_i[:, None]) + tl.exp2(u - w_j[None, :])
        if SMALL:
            other = rows[:, None] != columns[None, :]
            positive = _positive(rows, columns, local, images) & other
            g -= tl.where(positive, 2.0 * GAIN / tl.maximum(views - 1, 1), 0.0)
        acc = tl.dot(operand(g.to(dtype), PRECISION), z_j, acc, input_precision=PRECISION)
    anchors = M.to(tl.float32)
    if LABELS:
        anchors = tl.load(anchors_ptr)
    scale = c * tl.load(grad_ptr).to(tl.float32) / anchors
    dz = acc * (scale / GAIN)
    if not SMALL:
        share = tl.load(share_ptr + rows, mask=inside & (part == 0), other=0.0)
        others = _other_positives(
            z_ptr, sums_ptr, place_ptr, rows, chunk, inside, D, local, images, views, LABELS
        )
        dz -= (2.0 * scale) * share[:, None] * others
    pointers = (rows - first).to(tl.int64)[:, None] * D + chunk[None, :]
    mask = inside[:, None] & (chunk < D)[None, :]
    if WHOLE:
        if not SINGLE:
            z_i = _block(z_ptr, rows, chunk, inside, D)
        z = z_i.to(tl.float32)
        along = tl.where(inside, tl.sum(z * dz, 1), 0.0)
        if NORMALIZE:
            if SMALL:
                divisor = tl.where(length < EPS, -divisor, divisor)
            else:
                divisor = tl.load(divisor_ptr + rows, mask=inside, other=1.0)
            radial = tl.where(divisor > 0, along, 0.0)
            dz = (dz - radial[:, None] * z) / tl.abs(divisor)[:, None]
        tl.store(dx_ptr + pointers, dz.to(dx_ptr.dtype.element_ty), mask=mask)
        _arrive(partial_ptr, count_ptr, dtau_ptr, tl.sum(along, 0), -0.5 * c, 128)
    else:
        tl.store(dz_ptr + part.to(tl.int64) * local * D + pointers, dz, mask=mask)


@triton.jit
def _sum_of_parts(dz_ptr, rows, columns, inside, D, local, parts):
    total = _block(dz_ptr, rows, columns, inside, D)
    for part in range(1, parts):
        total += _block(dz_ptr + tl.cast(part, tl.int64) * local * D, rows, columns, inside, D)
    return total


@triton.jit(do_not_specialize=COUNTS)
def jacobian_kernel(z_ptr, divisor_ptr, dz_ptr, tau_ptr, tau, dx_ptr, partial_ptr, count_ptr,
                    dtau_ptr, D, first, local, parts, BM: tl.constexpr, BD: tl.constexpr,
                    TENSOR: tl.constexpr, NORMALIZE: tl.constexpr):  # fmt: skip
    """dx from parts of ∂loss/∂z (parts, local, D), added up in order."""
    own = tl.program_id(0) * BM + tl.arange(0, BM)
    inside = own < local
    along = tl.zeros((BM,), tl.float32)
    for d in range(0, D, BD):
        columns = d + tl.arange(0, BD)
        z = _block(z_ptr, own + first, columns, inside, D).to(tl.float32)
        along += tl.sum(z * _sum_of_parts(dz_ptr, own, columns, inside, D, local, parts), 1)
    divisor = tl.full((BM,), 1.0, tl.float32)
    radial = tl.zeros((BM,), tl.float32)
    if NORMALIZE:
        divisor = tl.load(divisor_ptr + own + first, mask=inside, other=1.0)
        radial = tl.where(divisor > 0, along, 0.0)
    inverse = 1.0 / tl.abs(divisor)
    for d in range(0, D, BD):
        columns = d + tl.arange(0, BD)
        z = _block(z_ptr, own + first, columns, inside, D).to(tl.float32)
        dz = _sum_of_parts(dz_ptr, own, columns, inside, D, local, parts)
        dx = (dz - radial[:, None] * z) * inverse[:, None]
        mask = inside[:, None] & (columns < D)[None, :]
        tl.store(
            dx_ptr + own.to(tl.int64)[:, None] * D + columns[None, :],
            dx.to(dx_ptr.dtype.element_ty),
            mask=mask,
        )
    _arrive(
        partial_ptr, count_ptr, dtau_ptr, tl.sum(along, 0), -0.5 * _inverse_tau(tau_ptr, tau, TENSOR), 128
    )
