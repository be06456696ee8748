"""The Triton kernels of NT-Xent's forward pass over the triangle of pairs of rows, and what finishes its sums.

A program takes one pair of groups of blocks, I ≤ J, and owns two slots of partial sums: J for I's rows, I for J's. With
a fixed maximum a block of columns stays resident and its sums are a tile in registers; sums of rows, each within few
threads, leave by relaxed additions to the program's own slot, for which nothing waits. An address is added to by one
thread of one program, or between barriers: every sum has one fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .ntxent_tiles import (
    COUNTS,
    LN2,
    LOG2E,
    LOWEST,
    _block,
    _inverse_tau,
    _merge,
    _out_of_regime,
    _similarities,
)


@triton.jit
def _add_partial(shift_ptr, total_ptr, slot, index, M, best, sums):
    """Adds to a program's own slot. The barriers order this after the same program's earlier additions."""
    offset = slot.to(tl.int64) * M + index
    inside = index < M
    tl.debug_barrier()
    total = tl.load(total_ptr + offset, mask=inside, other=0.0)
    shift = tl.load(shift_ptr + offset, mask=inside, other=LOWEST)
    tl.debug_barrier()
    top, total = _merge(shift, total, best, sums)
    tl.store(shift_ptr + offset, top, mask=inside)
    tl.store(total_ptr + offset, total, mask=inside)


@triton.jit
def _tile(z_ptr, resident, rows, columns, M, D, B: tl.constexpr, BD: tl.constexpr,
          SINGLE: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Similarities of two blocks; SINGLE: `resident` are the columns' rows of z."""
    if SINGLE:
        z = _block(z_ptr, rows, tl.arange(0, BD), rows < M, D)
        s = tl.dot(z, tl.trans(resident), input_precision=PRECISION)
    else:
        s = _similarities(z_ptr, rows, columns, M, D, B, B, BD, PRECISION)
    return s


@triton.jit
def _fixed_sums(z_ptr, total_ptr, I, J, c2, M, D, GROUP,  # noqa: E741
                B: tl.constexpr, BD: tl.constexpr, SINGLE: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """A program's sums with a fixed maximum."""
    blocks = tl.cdiv(M, B)
    depth = tl.arange(0, BD)
    of_rows, of_columns = total_ptr + J.to(tl.int64) * M, total_ptr + I.to(tl.int64) * M
    for j in range(J * GROUP, tl.minimum((J + 1) * GROUP, blocks)):
        columns = j * B + tl.arange(0, B)
        z_j = _block(z_ptr, columns, depth, columns < M, D)
        sums = tl.zeros((B, B), tl.float32)
        for i in range(I * GROUP, tl.minimum((I + 1) * GROUP, j + 1)):
            rows = i * B + tl.arange(0, B)
            u = _tile(z_ptr, z_j, rows, columns, M, D, B, BD, SINGLE, PRECISION) * c2
            if (i == j) | ((j + 1) * B > M):
                u = tl.where((rows[:, None] < columns[None, :]) & (columns < M)[None, :], u, LOWEST)
            e = tl.exp2(u)
            sums += e
            tl.atomic_add(of_rows + rows, tl.sum(e, 1), mask=rows < M, sem="relaxed")
        # In a diagonal group both sums of a block go to one address, from two threads.
        tl.debug_barrier()
        tl.atomic_add(of_columns + columns, tl.sum(sums, 0), mask=columns < M, sem="relaxed")
        tl.debug_barrier()


@triton.jit
def _running_sums(z_ptr, shift_ptr, total_ptr, I, J, c2, M, D, GROUP,  # noqa: E741
                  B: tl.constexpr, BD: tl.constexpr, SINGLE: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """A program's sums with running maxima."""
    blocks = tl.cdiv(M, B)
    depth = tl.arange(0, BD)
    for j in range(J * GROUP, tl.minimum((J + 1) * GROUP, blocks)):
        columns = j * B + tl.arange(0, B)
        z_j = _block(z_ptr, columns, depth, columns < M, D)
        best = tl.full((B,), LOWEST, tl.float32)
        sums = tl.zeros((B,), tl.float32)
        for i in range(I * GROUP, tl.minimum((I + 1) * GROUP, j + 1)):
            rows = i * B + tl.arange(0, B)
            u = _tile(z_ptr, z_j, rows, columns, M, D, B, BD, SINGLE, PRECISION) * c2
            if (i == j) | ((j + 1) * B > M):
                u = tl.where((rows[:, None] < columns[None, :]) & (columns < M)[None, :], u, LOWEST)
            row_best = tl.max(u, 1)
            row_sums = tl.sum(tl.exp2(u - row_best[:, None]), 1)
            row_sums = tl.where(row_best == LOWEST, 0.0, row_sums)
            _add_partial(shift_ptr, total_ptr, J, rows, M, row_best, row_sums)
            column_best = tl.max(u, 0)
            column_sums = tl.sum(tl.exp2(u - column_best[None, :]), 0)
            column_sums = tl.where(column_best == LOWEST, 0.0, column_sums)
            best, sums = _merge(best, sums, column_best, column_sums)
        _add_partial(shift_ptr, total_ptr, I, columns, M, best, sums)


@triton.jit(do_not_specialize=COUNTS)
def forward_triangle_kernel(z_ptr, tau_ptr, tau, shift_ptr, total_ptr, M, D, GROUP,
                            B: tl.constexpr, BD: tl.constexpr, FIXED: tl.constexpr,
                            EITHER: tl.constexpr, TENSOR: tl.constexpr, SINGLE: tl.constexpr,
                            PRECISION: tl.constexpr):  # fmt: skip
    """Σ_k 2^(c2 s_ik) from each pair of groups I ≤ J, of GROUP blocks each: of J's columns for I's rows, in
    slot J, and of I's rows for J's columns, in slot I. Program t is pair t of the triangle, by columns; its tiles
    are B × B pairs."""
    c = _inverse_tau(tau_ptr, tau, TENSOR)
    if EITHER:  # noqa: SIM102, decided by the compiler, and the other one by the program
        if _out_of_regime(c, FIXED):
            return
    t = tl.program_id(0)
    J = ((tl.sqrt(8.0 * t.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    J = tl.where(t < J * (J + 1) // 2, J - 1, J)
    J = tl.where(t >= (J + 1) * (J + 2) // 2, J + 1, J)
    I = t - J * (J + 1) // 2  # noqa: E741
    c2 = c * LOG2E
    if FIXED:
        _fixed_sums(z_ptr, total_ptr, I, J, c2, M, D, GROUP, B, BD, SINGLE, PRECISION)
    else:
        _running_sums(z_ptr, shift_ptr, total_ptr, I, J, c2, M, D, GROUP, B, BD, SINGLE, PRECISION)


@triton.jit(do_not_specialize=COUNTS)
def finish_forward_kernel(shift_ptr, total_ptr, pull_ptr, share_ptr, tau_ptr, tau, stats_ptr,
                          loss_ptr, M, SLOTS, BM: tl.constexpr, FIXED: tl.constexpr,
                          EITHER: tl.constexpr, TENSOR: tl.constexpr):  # fmt: skip
    """Adds the slots in order: statistics and loss of each row. EITHER: of sums of whichever regime."""
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
            best = tl.load(shift_ptr + offset + rows, mask=inside, other=LOWEST)
            if EITHER:
                best = tl.where(_out_of_regime(c, True), best, 0.0)
            shift, total = _merge(shift, total, best, part)
    share = tl.load(share_ptr + rows, mask=inside, other=0.0)
    pull = tl.load(pull_ptr + rows, mask=inside, other=0.0)
    tl.store(stats_ptr + rows, shift * LN2 / c, mask=inside)
    tl.store(stats_ptr + M + rows, total, mask=inside)
    loss = shift * LN2 - c * pull + tl.log2(total) * LN2
    tl.store(loss_ptr + rows, tl.where(share > 0, loss, 0.0), mask=inside)
