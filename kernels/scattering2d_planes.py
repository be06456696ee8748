"""Triton kernels of scattering around the transforms: padding, filtered products, low-pass, and their adjoints.

Together with cuFFT they serve any size; `scattering2d_paths` keeps small ones on chip. Spectra are half spectra
(rows, n/2 + 1) of real signals, complex64, read as int64. No atomics: adjoints gather. Low-pass products are tl.dot of
PRECISION "tf32x3" (float32 results) or "tf32" (half-precision results).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .blocks import own_block
from .rounding import operand
from .scattering2d_paths import COUNTS, _as_bits, _parts, _plane


@triton.jit
def _reflected(index, size):
    """Index reflection of period 2(size − 1)."""
    period = tl.maximum(2 * (size - 1), 1)
    index = (index % period + period) % period
    return tl.where(index < size, index, period - index)


@triton.jit(do_not_specialize=COUNTS)
def pad_kernel(x_ptr, out_ptr, plane0, colours, height, width, M, N, image_step, colour_step, row_step, column_step,
               BLOCK: tl.constexpr):  # fmt: skip
    """x (images, colours, height, width) of any strides, reflected to (planes, M, N) float32."""
    index, at = own_block(M * N, BLOCK)
    plane = plane0 + index
    y = _reflected(at // N - (M - height) // 2, height)
    x = _reflected(at % N - (N - width) // 2, width)
    base = x_ptr + (plane // colours).to(tl.int64) * image_step + (plane % colours).to(tl.int64) * colour_step
    value = tl.load(
        base + y.to(tl.int64) * row_step + x.to(tl.int64) * column_step, mask=at < M * N, other=0.0
    )
    tl.store(out_ptr + index.to(tl.int64) * (M * N) + at, value.to(tl.float32), mask=at < M * N)


@triton.jit(do_not_specialize=COUNTS)
def pad_adjoint_kernel(d_ptr, dx_ptr, plane0, height, width, M, N, BLOCK: tl.constexpr):
    """dx (planes, height, width): every pixel gathers all places of (planes, M, N) that the padding copied it to."""
    index, at = own_block(height * width, BLOCK)
    inside = at < height * width
    y, x = at // width, at % width
    top, left = (M - height) // 2, (N - width) // 2
    period_y, period_x = tl.maximum(2 * (height - 1), 1), tl.maximum(2 * (width - 1), 1)
    base = d_ptr + index.to(tl.int64) * (M * N)
    total = tl.zeros((BLOCK,), tl.float32)
    # A pixel i sits at i + t·period and, unless that is the same place, at −i + t·period.
    for ty in range(-(top // period_y) - 1, (M - top) // period_y + 2):
        for side_y in tl.static_range(2):
            py = top + ty * period_y + (y if side_y == 0 else -y)
            use_y = inside & (py >= 0) & (py < M)
            if side_y == 1:
                use_y = use_y & (2 * y % period_y != 0)
            for tx in range(-(left // period_x) - 1, (N - left) // period_x + 2):
                for side_x in tl.static_range(2):
                    px = left + tx * period_x + (x if side_x == 0 else -x)
                    use = use_y & (px >= 0) & (px < N)
                    if side_x == 1:
                        use = use & (2 * x % period_x != 0)
                    total += tl.load(base + py * N + px, mask=use, other=0.0)
    out = dx_ptr + (plane0 + index).to(tl.int64) * (height * width)
    tl.store(out + at, total, mask=inside)


@triton.jit(do_not_specialize=COUNTS)
def product_kernel(spectra_ptr, psi_ptr, out_ptr, L, m, n, rows, columns, fold, BLOCK: tl.constexpr):
    """Y (fields, L, rows, columns) = fold(û ψ̂), complex64; programs (field · L + θ, block of bins)."""
    index, at = own_block(rows * columns, BLOCK)
    inside = at < rows * columns
    row, column = at // columns, at % columns
    field, theta = index // L, index % L
    half = n // 2 + 1
    spectrum = spectra_ptr + field.to(tl.int64) * m * half
    psi = psi_ptr + theta.to(tl.int64) * m * n
    re, im = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for a in range(fold):
        for b in range(fold):
            ky, kx = row + a * rows, column + b * columns
            weight = tl.load(psi + ky * n + kx, mask=inside, other=0.0)
            mirrored = kx > n // 2
            source = tl.where(mirrored, (m - ky) % m * half + n - kx, ky * half + kx)
            u_re, u_im = _parts(tl.load(spectrum + source, mask=weight != 0.0, other=0))
            re += weight * u_re
            im += tl.where(mirrored, -weight, weight) * u_im
    out = out_ptr + index.to(tl.int64) * (rows * columns)
    tl.store(out + at, _as_bits(re, im), mask=inside)


@triton.jit
def _product_adjoint(dy, psi, ky, kx, n, rows, columns, inside):
    weight = tl.load(psi + ky * n + kx, mask=inside, other=0.0)
    re, im = _parts(
        tl.load(dy + (ky % rows) * columns + kx % columns, mask=inside & (weight != 0.0), other=0)
    )
    return weight * re, weight * im


@triton.jit(do_not_specialize=COUNTS)
def product_adjoint_kernel(
    dy_ptr, psi_ptr, out_ptr, L, m, n, rows, columns, ADD: tl.constexpr, BLOCK: tl.constexpr
):
    """∂/∂û (fields, m, n/2 + 1) = Σ_θ ψ̂ ∂/∂Y, made Hermitian, since û is that of a real signal.

    ADD: to what is there. Programs (field, block of bins).
    """
    half = n // 2 + 1
    field, at = own_block(m * half, BLOCK)
    inside = at < m * half
    ky, kx = at // half, at % half
    minus_ky, minus_kx = (m - ky) % m, (n - kx) % n
    field = field.to(tl.int64)
    re, im = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    dy, psi = dy_ptr + field * L * (rows * columns), psi_ptr
    for _theta in range(L):
        d_re, d_im = _product_adjoint(dy, psi, ky, kx, n, rows, columns, inside)
        e_re, e_im = _product_adjoint(dy, psi, minus_ky, minus_kx, n, rows, columns, inside)
        re += d_re + e_re
        im += d_im - e_im
        dy += rows * columns
        psi += m * n
    out = out_ptr + field * (m * half) + at
    re, im = re * 0.5, im * 0.5
    if ADD:
        old_re, old_im = _parts(tl.load(out, mask=inside, other=0))
        re, im = re + old_re, im + old_im
    tl.store(out, _as_bits(re, im), mask=inside)


@triton.jit
def _product(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b."""
    return tl.dot(operand(a, PRECISION), operand(b, PRECISION), acc, input_precision=PRECISION)


@triton.jit(do_not_specialize=COUNTS)
def low_pass_kernel(u_ptr, low_y_ptr, low_x_ptr, band_y_ptr, band_x_ptr, out_ptr, m, n, h, w, first, stride, L,
                    field0, P, colours, K, image_step, channel_step, row_step, column_step, B: tl.constexpr,
                    BK: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """S = A_y U A_xᵀ of signals (fields, L, m, n); programs (field · L + θ, B × B outputs)."""
    across = tl.cdiv(w, B)
    blocks = tl.cdiv(h, B) * across
    index, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    field, theta = index // L, index % L
    block_y, block_x = block // across, block % across
    y, x = block_y * B + tl.arange(0, B), block_x * B + tl.arange(0, B)
    k = tl.arange(0, BK)
    u = u_ptr + index.to(tl.int64) * m * n
    begin_x, end_x = tl.load(band_x_ptr + 2 * block_x), tl.load(band_x_ptr + 2 * block_x + 1)
    s = tl.zeros((B, B), tl.float32)
    for p0 in range(tl.load(band_y_ptr + 2 * block_y), tl.load(band_y_ptr + 2 * block_y + 1), BK):
        p = p0 + k
        rows = tl.zeros((BK, B), tl.float32)
        for q0 in range(begin_x, end_x, BK):
            q = q0 + k
            part = tl.load(
                u + p[:, None] * n + q[None, :], mask=(p < m)[:, None] & (q < n)[None, :], other=0.0
            )
            ax = tl.load(
                low_x_ptr + x[None, :] * n + q[:, None], mask=(q < n)[:, None] & (x < w)[None, :], other=0.0
            )
            rows = _product(part, ax, rows, PRECISION)
        ay = tl.load(
            low_y_ptr + y[:, None] * m + p[None, :], mask=(y < h)[:, None] & (p < m)[None, :], other=0.0
        )
        s = _product(ay, rows, s, PRECISION)
    out = _plane(out_ptr, (field0 + field) // P, colours, K, image_step, channel_step)
    out += (first + (field0 + field) % P * stride + theta).to(tl.int64) * channel_step
    out += y.to(tl.int64)[:, None] * row_step + x.to(tl.int64)[None, :] * column_step
    tl.store(out, s.to(out_ptr.dtype.element_ty), mask=(y < h)[:, None] & (x < w)[None, :])


@triton.jit(do_not_specialize=COUNTS)
def low_pass_adjoint_kernel(grad_ptr, low_y_ptr, low_x_ptr, z_ptr, du_ptr, out_ptr, m, n, h, w, first, stride, L,
                            field0, P, colours, K, image_step, channel_step, row_step, column_step,
                            HAVE_DU: tl.constexpr, MODULUS: tl.constexpr, B: tl.constexpr, BK: tl.constexpr,
                            PRECISION: tl.constexpr):  # fmt: skip
    """∂/∂U = A_yᵀ ∂/∂S A_x (+ du) of signals (fields, L, m, n); programs (field · L + θ, B × B pixels).

    MODULUS: z (complex64) becomes ∂/∂Z = ∂/∂U z/|z|, in place; else ∂/∂U is added to `out`, float32.
    """
    across = tl.cdiv(n, B)
    blocks = tl.cdiv(m, B) * across
    index, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    field, theta = index // L, index % L
    p = block // across * B + tl.arange(0, B)
    q = block % across * B + tl.arange(0, B)
    k = tl.arange(0, BK)
    grad = _plane(grad_ptr, (field0 + field) // P, colours, K, image_step, channel_step)
    grad += (first + (field0 + field) % P * stride + theta).to(tl.int64) * channel_step
    du = tl.zeros((B, B), tl.float32)
    for y0 in range(0, h, BK):
        y = y0 + k
        rows = tl.zeros((BK, B), tl.float32)
        for x0 in range(0, w, BK):
            x = x0 + k
            at = y.to(tl.int64)[:, None] * row_step + x.to(tl.int64)[None, :] * column_step
            part = tl.load(grad + at, mask=(y < h)[:, None] & (x < w)[None, :], other=0.0).to(tl.float32)
            ax = tl.load(
                low_x_ptr + x[:, None] * n + q[None, :], mask=(x < w)[:, None] & (q < n)[None, :], other=0.0
            )
            rows = _product(part, ax, rows, PRECISION)
        ay = tl.load(
            low_y_ptr + y[None, :] * m + p[:, None], mask=(y < h)[None, :] & (p < m)[:, None], other=0.0
        )
        du = _product(ay, rows, du, PRECISION)
    inside = (p < m)[:, None] & (q < n)[None, :]
    at = index.to(tl.int64) * m * n + p.to(tl.int64)[:, None] * n + q[None, :]
    if HAVE_DU:
        du += tl.load(du_ptr + at, mask=inside, other=0.0)
    if MODULUS:
        re, im = _parts(tl.load(z_ptr + at, mask=inside, other=0))
        length = tl.sqrt(re * re + im * im)
        du = tl.where(length > 0, du / length, 0.0)
        tl.store(z_ptr + at, _as_bits(re * du, im * du), mask=inside)
    else:
        tl.store(out_ptr + at, tl.load(out_ptr + at, mask=inside, other=0.0) + du, mask=inside)
