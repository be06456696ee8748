"""The Triton kernels of NT-Xent's gradient: one-sided, because G is symmetric, and therefore without atomics.

`backward_kernel` is long because its tiles stay in registers from the first load to the last store.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .ntxent_tiles import (
    EPS,
    LOG2E,
    LOWEST,
    _arrive,
    _block,
    _inverse_tau,
    _other_positives,
    _positive,
    _similarities,
    _unit_rows,
)


@triton.jit
def _weights(stats_ptr, share_ptr, index, inside, c2, M, FIXED: tl.constexpr,
             SMALL: tl.constexpr, GAIN: tl.constexpr):  # fmt: skip
    """Of each row: base-2 shift, and GAIN/E_i, 0 where it is no anchor. FIXED: other kernels' shifts are undone."""
    shift = tl.load(stats_ptr + index, mask=inside, other=0.0) * c2
    total = tl.load(stats_ptr + M + index, mask=inside, other=1.0)
    inverse = tl.where(inside, GAIN / total, 0.0)
    if FIXED:
        inverse = inverse * tl.exp2(-shift)
    if not SMALL:
        inverse = tl.where(tl.load(share_ptr + index, mask=inside, other=0.0) > 0, inverse, 0.0)
    return shift, inverse


@triton.jit
def backward_kernel(x_ptr, z_ptr, divisor_ptr, sums_ptr, place_ptr, share_ptr, stats_ptr,
                    tau_ptr, tau, grad_ptr, anchors_ptr, dx_ptr, dz_ptr, partial_ptr, count_ptr,
                    dtau_ptr, M, D, first, local, images, views, BI: tl.constexpr,
                    BJ: tl.constexpr, BD: tl.constexpr, FIXED: tl.constexpr,
                    TENSOR: tl.constexpr, NORMALIZE: tl.constexpr, SMALL: tl.constexpr,
                    LABELS: tl.constexpr, SINGLE: tl.constexpr, PRECISION: tl.constexpr,
                    GAIN: tl.constexpr):  # fmt: skip
    """∂loss/∂z of a block of local rows, Σ_k G_ik z_k less the positives, over a block of D.

    SMALL: everything is computed from x in this launch, and positives are subtracted from G itself. SINGLE: D is one
    block, and the Jacobian of the normalisation and ∂loss/∂τ are applied here; otherwise ∂loss/∂z is stored and
    `jacobian_kernel` applies them. GAIN keeps G within float16's range.
    """
    rows = first + tl.program_id(0) * BI + tl.arange(0, BI)
    inside = rows < first + local
    chunk = tl.program_id(1) * BD + tl.arange(0, BD)
    c = _inverse_tau(tau_ptr, tau, TENSOR)
    c2 = c * LOG2E
    dtype: tl.constexpr = z_ptr.dtype.element_ty
    if SMALL:
        z_i, divisor, length = _unit_rows(x_ptr, rows, chunk, inside, D, NORMALIZE, dtype)
    elif SINGLE:
        z_i = _block(z_ptr, rows, chunk, inside, D)
    shift_i, inverse_i = _weights(stats_ptr, share_ptr, rows, inside, c2, M, FIXED, SMALL, GAIN)
    acc = tl.zeros((BI, BD), tl.float32)
    for j in range(0, M, BJ):
        columns = j + tl.arange(0, BJ)
        if SMALL:
            z_j, _divisor_j, _length_j = _unit_rows(x_ptr, columns, chunk, columns < M, D, NORMALIZE, dtype)
        else:
            z_j = _block(z_ptr, columns, chunk, columns < M, D)
        if SINGLE:
            s = tl.dot(z_i, tl.trans(z_j), input_precision=PRECISION)
        else:
            s = _similarities(z_ptr, rows, columns, M, D, BI, BJ, BD, PRECISION)
        shift_j, inverse_j = _weights(stats_ptr, share_ptr, columns, columns < M, c2, M, FIXED, SMALL, GAIN)
        u = s * c2
        # Columns beyond M have no weight, but the rows' weights would count them; only the diagonal and the end need
        # a mask.
        edge = (j + BJ > M) | (
            (j < first + (tl.program_id(0) + 1) * BI) & (j + BJ > first + tl.program_id(0) * BI)
        )
        if edge:
            u = tl.where((rows[:, None] != columns[None, :]) & (columns < M)[None, :], u, LOWEST)
        if FIXED:
            g = tl.exp2(u) * (inverse_i[:, None] + inverse_j[None, :])
        else:
            g = tl.exp2(u - shift_i[:, None]) * inverse_i[:, None]
            g += tl.exp2(u - shift_j[None, :]) * inverse_j[None, :]
        if SMALL:
            other = rows[:, None] != columns[None, :]
            positive = _positive(rows, columns, local, images) & other
            g -= tl.where(positive, 2.0 * GAIN / tl.maximum(views - 1, 1), 0.0)
        acc = tl.dot(g.to(dtype), z_j, acc, input_precision=PRECISION)
    anchors = M.to(tl.float32)
    if LABELS:
        anchors = tl.load(anchors_ptr)
    scale = c * tl.load(grad_ptr).to(tl.float32) / anchors
    dz = acc * (scale / GAIN)
    if not SMALL:
        share = tl.load(share_ptr + rows, mask=inside, other=0.0)
        others = _other_positives(
            z_ptr, sums_ptr, place_ptr, rows, chunk, inside, D, local, images, views, LABELS
        )
        dz -= (2.0 * scale) * share[:, None] * others
    pointers = (rows - first).to(tl.int64)[:, None] * D + chunk[None, :]
    mask = inside[:, None] & (chunk < D)[None, :]
    if SINGLE:
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
        tl.store(dz_ptr + pointers, dz, mask=mask)


@triton.jit
def jacobian_kernel(z_ptr, divisor_ptr, dz_ptr, tau_ptr, tau, dx_ptr, partial_ptr, count_ptr,
                    dtau_ptr, D, first, local, BM: tl.constexpr, BD: tl.constexpr,
                    TENSOR: tl.constexpr, NORMALIZE: tl.constexpr):  # fmt: skip
    """dx from ∂loss/∂z (local rows), for D of several blocks."""
    own = tl.program_id(0) * BM + tl.arange(0, BM)
    inside = own < local
    along = tl.zeros((BM,), tl.float32)
    for d in range(0, D, BD):
        columns = d + tl.arange(0, BD)
        z = _block(z_ptr, own + first, columns, inside, D).to(tl.float32)
        along += tl.sum(z * _block(dz_ptr, own, columns, inside, D), 1)
    divisor = tl.full((BM,), 1.0, tl.float32)
    radial = tl.zeros((BM,), tl.float32)
    if NORMALIZE:
        divisor = tl.load(divisor_ptr + own + first, mask=inside, other=1.0)
        radial = tl.where(divisor > 0, along, 0.0)
    for d in range(0, D, BD):
        columns = d + tl.arange(0, BD)
        z = _block(z_ptr, own + first, columns, inside, D).to(tl.float32)
        dx = (_block(dz_ptr, own, columns, inside, D) - radial[:, None] * z) / tl.abs(divisor)[:, None]
        mask = inside[:, None] & (columns < D)[None, :]
        tl.store(
            dx_ptr + own.to(tl.int64)[:, None] * D + columns[None, :],
            dx.to(dx_ptr.dtype.element_ty),
            mask=mask,
        )
    _arrive(
        partial_ptr, count_ptr, dtau_ptr, tl.sum(along, 0), -0.5 * _inverse_tau(tau_ptr, tau, TENSOR), 128
    )
