"""Triton kernels that keep a whole scattering path on chip: folded spectra up to 64 × 64.

    Y = fold(û ψ̂)      Z = F Y Fᵀ, F[p, q] = exp(2πi pq/m)      U = |Z|      S = A_y U A_xᵀ

Transforms and low-pass are matrix products on tensor cores. Operands are float16 with float32 sums. SPLIT takes
each as hi + lo (22 bits) and computes three products, for float32 results; without it there is one product, for
half-precision results. Y is first scaled by a power of two, and U by a smaller one, to keep every operand in float16's
range.
RELOAD: the matrices of the transforms are read again for each product, and are its left factor. Before Hopper, operands
of tensor cores lie in registers, where a compiler that sees one load for all products keeps them, and has no room for
the rest.
Spectra are complex64, each number read as one int64. Nothing is shared between programs: no atomics, no races.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Arguments that the compiler is to take as any number: as specialised ones, those that are 1 or divided by 16 would
# make a compilation of nearly every size, order and scale.
COUNTS = (
    "fields", "L", "slots", "bins", "per_program", "first", "stride", "field0", "P", "colours", "K",
    "image_step", "colour_step", "channel_step", "row_step", "column_step",
    "plane0", "height", "width", "M", "N", "m", "n", "h", "w", "rows", "columns", "fold",
)  # fmt: skip


@triton.jit
def _halves(x):
    """x as hi + lo in float16."""
    hi = x.to(tl.float16)
    return hi, (x - hi.to(tl.float32)).to(tl.float16)


@triton.jit
def _product(a_hi, a_lo, b_hi, b_lo, acc, SPLIT: tl.constexpr):
    """acc + a b; the product of the two small parts is below float32's rounding."""
    if SPLIT:
        acc = tl.dot(a_lo, b_hi, acc)
        acc = tl.dot(a_hi, b_lo, acc)
    return tl.dot(a_hi, b_hi, acc)


@triton.jit
def _scale(re, im):
    """The power of two that brings the largest part into [2^7, 2^8), and its inverse; finite for 0, infinity and NaN.

    A sum of 64 such products is within float16's range, and small parts lose little to its subnormal numbers.
    """
    largest = tl.max(tl.max(tl.maximum(tl.abs(re), tl.abs(im)), 1), 0)
    exponent = largest.to(tl.int32, bitcast=True) & 0x7F800000
    exponent = tl.minimum(tl.maximum(exponent, 0x08000000), 0x7E800000)
    scale = (0x7F000000 - exponent + 0x03800000).to(tl.float32, bitcast=True)
    return scale, (exponent - 0x03800000).to(tl.float32, bitcast=True)


@triton.jit
def _parts(bits):
    """Real and imaginary part of complex64 numbers read as int64."""
    return bits.to(tl.int32).to(tl.float32, bitcast=True), (bits >> 32).to(tl.int32).to(
        tl.float32, bitcast=True
    )


@triton.jit
def _as_bits(re, im):
    """The inverse of `_parts`."""
    low = re.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    return (im.to(tl.int32, bitcast=True).to(tl.int64) << 32) | low


@triton.jit
def _folded(spectrum, code_ptr, weight_ptr, layers, PM: tl.constexpr, PN: tl.constexpr):
    """Y (PM, PN) = Σ weight · û[source]; `layers` sources at most. Where the weight is 0 the source is û[0]."""
    at = tl.arange(0, PM)[:, None] * PN + tl.arange(0, PN)[None, :]
    re = tl.zeros((PM, PN), tl.float32)
    im = tl.zeros((PM, PN), tl.float32)
    for layer in range(layers):
        code = tl.load(code_ptr + layer * (PM * PN) + at)
        weight = tl.load(weight_ptr + layer * (PM * PN) + at)
        source = code ^ (code >> 31)  # ~code where it is negative
        u_re, u_im = _parts(tl.load(spectrum + source))
        re += weight * u_re
        im += tl.where(code < 0, -weight, weight) * u_im
    return re, im


@triton.jit
def _matrix(ptr, part, ROWS: tl.constexpr, COLUMNS: tl.constexpr, RELOAD: tl.constexpr = False):
    """A stored matrix; RELOAD: this load is not made one with another of the same matrix."""
    at = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return tl.load(ptr + part * (ROWS * COLUMNS) + at, volatile=RELOAD)


@triton.jit
def _dft(ptr, P: tl.constexpr, SPLIT: tl.constexpr, RELOAD: tl.constexpr = False):
    """cos and sin (P, P), each as hi and lo; lo is hi where it is not used."""
    cos = _matrix(ptr, 0, P, P, RELOAD)
    sin = _matrix(ptr, 2, P, P, RELOAD)
    if SPLIT:
        return cos, _matrix(ptr, 1, P, P, RELOAD), sin, _matrix(ptr, 3, P, P, RELOAD)
    return cos, cos, sin, sin


@triton.jit
def _low(ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPLIT: tl.constexpr):
    hi = _matrix(ptr, 0, ROWS, COLUMNS)
    if SPLIT:
        return hi, _matrix(ptr, 1, ROWS, COLUMNS)
    return hi, hi


@triton.jit
def _beside(x, x_lo, f, f_lo, acc, LEFT: tl.constexpr, SPLIT: tl.constexpr):
    """acc + f x (LEFT), or acc + x f."""
    # Not `if` and two returns: the compiler would check the shapes of both.
    return _product(f, f_lo, x, x_lo, acc, SPLIT) if LEFT else _product(x, x_lo, f, f_lo, acc, SPLIT)


@triton.jit
def _transformed(
    re, im, dft, dft_ptr, LEFT: tl.constexpr, SPLIT: tl.constexpr, RELOAD: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr,
):  # fmt: skip
    """(cos + i sin) (re + i im), (M, N), or with the matrix on the right.

    RELOAD: the latter as transposes, whose left factor is the matrix, too; parts do not occupy registers together.
    """
    c, cl, s, sl = _dft(dft_ptr, M if LEFT else N, SPLIT, True) if RELOAD else dft
    re_hi, re_lo = _halves(re)
    im_hi, im_lo = _halves(im)
    if RELOAD:
        if not LEFT:
            re_hi, re_lo, im_hi, im_lo = tl.trans(re_hi), tl.trans(re_lo), tl.trans(im_hi), tl.trans(im_lo)
        zero = tl.zeros((M, N) if LEFT else (N, M), tl.float32)
        out_re = -_beside(im_hi, im_lo, s, sl, zero, True, SPLIT)
        out_im = _beside(im_hi, im_lo, c, cl, zero, True, SPLIT)
        tl.debug_barrier()  # or the compiler would read the real parts before it is done with the imaginary ones
        out_re = _beside(re_hi, re_lo, c, cl, out_re, True, SPLIT)
        out_im = _beside(re_hi, re_lo, s, sl, out_im, True, SPLIT)
        if not LEFT:
            out_re, out_im = tl.trans(out_re), tl.trans(out_im)
    else:
        zero = tl.zeros((M, N), tl.float32)
        out_re = _beside(re_hi, re_lo, c, cl, -_beside(im_hi, im_lo, s, sl, zero, LEFT, SPLIT), LEFT, SPLIT)
        out_im = _beside(re_hi, re_lo, s, sl, _beside(im_hi, im_lo, c, cl, zero, LEFT, SPLIT), LEFT, SPLIT)
    return out_re, out_im


@triton.jit
def _sources(code_ptr, weight_ptr, layers_ptr, theta, slots, PM: tl.constexpr, PN: tl.constexpr):
    """Where the codes and weights of filter θ begin, and how many sources a bin has at most."""
    offset = (theta * slots).to(tl.int64) * (PM * PN)
    return code_ptr + offset, weight_ptr + offset, tl.load(layers_ptr + theta)


@triton.jit
def _transforms(
    dft_y_ptr, dft_x_ptr, PM: tl.constexpr, PN: tl.constexpr, SQUARE: tl.constexpr, SPLIT: tl.constexpr
):
    """`_dft` of both axes; SQUARE: they are the same."""
    dft_y = _dft(dft_y_ptr, PM, SPLIT)
    return dft_y, dft_y if SQUARE else _dft(dft_x_ptr, PN, SPLIT)


@triton.jit
def _sizes(sizes_ptr):
    """m, n, h, w, and a 1 that the compiler does not know.

    Called inside the loop over fields, whose stores keep the loads from being hoisted: masks and offsets computed
    from these numbers would otherwise occupy registers throughout.
    """
    m, n = tl.load(sizes_ptr), tl.load(sizes_ptr + 1)
    return m, n, tl.load(sizes_ptr + 2), tl.load(sizes_ptr + 3), tl.load(sizes_ptr + 4)


@triton.jit
def _filtered(spectrum, code_ptr, weight_ptr, layers, dft_y, dft_x, dft_y_ptr, dft_x_ptr,
              SPLIT: tl.constexpr, RELOAD: tl.constexpr, PM: tl.constexpr, PN: tl.constexpr):  # fmt: skip
    """Z times a power of two, real and imaginary part, and that power's inverse."""
    re, im = _folded(spectrum, code_ptr, weight_ptr, layers, PM, PN)
    scale, inverse = _scale(re, im)
    re, im = _transformed(re * scale, im * scale, dft_y, dft_y_ptr, True, SPLIT, RELOAD, PM, PN)
    re, im = _transformed(re, im, dft_x, dft_x_ptr, False, SPLIT, RELOAD, PM, PN)
    return re, im, inverse


@triton.jit
def _plane(ptr, plane, colours, K, image_step, channel_step):
    """Where the coefficients of a plane begin in (images, colours · K, h, w) of any strides."""
    return (
        ptr + (plane // colours).to(tl.int64) * image_step + (plane % colours).to(tl.int64) * K * channel_step
    )


@triton.jit(do_not_specialize=COUNTS)
def path_kernel(spectra_ptr, code_ptr, weight_ptr, layers_ptr, sizes_ptr, dft_y_ptr, dft_x_ptr, low_y_ptr, low_x_ptr,
                u_ptr, out_ptr, fields, L, slots, bins, gain, shrink, per_program, first, stride, field0, P, colours,
                K, image_step, channel_step, row_step, column_step, PM: tl.constexpr, PN: tl.constexpr,
                PH: tl.constexpr, PW: tl.constexpr, SQUARE: tl.constexpr, STORE_U: tl.constexpr,
                STORE_S: tl.constexpr, SPLIT: tl.constexpr, RELOAD: tl.constexpr):  # fmt: skip
    """S of one filter θ for `per_program` fields (STORE_S), and U (fields, L, m, n), float32 (STORE_U).

    Fields are (plane, θ1), P of them a plane, the launch's first is field0; their spectra have `bins` numbers, filters
    `slots` sources a bin. θ changes fastest over programs: those that run together read the same spectra and write
    the same sectors.
    """
    theta = tl.program_id(0) % L
    begin = tl.program_id(0) // L * per_program
    code_ptr, weight_ptr, layers = _sources(code_ptr, weight_ptr, layers_ptr, theta, slots, PM, PN)
    dft_y, dft_x = _transforms(dft_y_ptr, dft_x_ptr, PM, PN, SQUARE, SPLIT)
    p, q = tl.arange(0, PM)[:, None], tl.arange(0, PN)[None, :]
    y, x = tl.arange(0, PH).to(tl.int64)[:, None], tl.arange(0, PW).to(tl.int64)[None, :]
    for step in range(tl.minimum(per_program, fields - begin)):
        field = begin + step
        m, n, h, w, one = _sizes(sizes_ptr)
        re, im, inverse = _filtered(
            spectra_ptr + field.to(tl.int64) * bins, code_ptr, weight_ptr, layers, dft_y, dft_x, dft_y_ptr,
            dft_x_ptr, SPLIT, RELOAD, PM, PN,
        )  # fmt: skip
        u = tl.sqrt(re * re + im * im)
        if STORE_U:
            at = (field * L + theta).to(tl.int64) * (m * n) + p * n + q
            tl.store(u_ptr + at, u * inverse, mask=(p < m) & (q < n))
        if STORE_S:
            # |Z| ≤ 2^8·√2·PM·PN: times `shrink` and A's gain, what follows stays in float16's range for any image.
            ax, axl = _low(low_x_ptr, PW, PN, SPLIT)
            u_hi, u_lo = _halves(u * shrink)
            ay, ayl = _low(low_y_ptr, PH, PM, SPLIT)
            rows = _product(ay, ayl, u_hi, u_lo, tl.zeros((PH, PN), tl.float32), SPLIT)
            r_hi, r_lo = _halves(rows)
            s = _product(r_hi, r_lo, tl.trans(ax), tl.trans(axl), tl.zeros((PH, PW), tl.float32), SPLIT)
            out = _plane(out_ptr, (field0 + field) // P, colours, K, image_step, channel_step)
            out += (first + (field0 + field) % P * stride + theta).to(tl.int64) * channel_step
            s = s * gain * inverse
            tl.store(
                out + y * (row_step * one) + x * (column_step * one),
                s.to(out_ptr.dtype.element_ty),
                mask=(y < h) & (x < w),
            )


@triton.jit(do_not_specialize=COUNTS)
def path_backward_kernel(spectra_ptr, code_ptr, weight_ptr, layers_ptr, sizes_ptr, dft_y_ptr, dft_x_ptr,
                         low_y_ptr, low_x_ptr, du_ptr, grad_ptr, dy_ptr, fields, L, slots, bins, gain, per_program,
                         first, stride, field0, P, colours, K, image_step, channel_step, row_step, column_step,
                         PM: tl.constexpr, PN: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
                         SQUARE: tl.constexpr, HAVE_DU: tl.constexpr, SPLIT: tl.constexpr,
                         RELOAD: tl.constexpr):  # fmt: skip
    """∂/∂Y (fields, L, m, n) complex64 of one filter's coefficients, whose gradient is `grad`; Z is computed again.

    HAVE_DU: `du` (fields, L, m, n) is what the second order adds to the gradient of U.
    """
    theta = tl.program_id(0) % L
    begin = tl.program_id(0) // L * per_program
    code_ptr, weight_ptr, layers = _sources(code_ptr, weight_ptr, layers_ptr, theta, slots, PM, PN)
    dft_y, dft_x = _transforms(dft_y_ptr, dft_x_ptr, PM, PN, SQUARE, SPLIT)
    p, q = tl.arange(0, PM)[:, None], tl.arange(0, PN)[None, :]
    y, x = tl.arange(0, PH).to(tl.int64)[:, None], tl.arange(0, PW).to(tl.int64)[None, :]
    for step in range(tl.minimum(per_program, fields - begin)):
        field = begin + step
        m, n, h, w, one = _sizes(sizes_ptr)
        re, im, _ = _filtered(
            spectra_ptr + field.to(tl.int64) * bins, code_ptr, weight_ptr, layers, dft_y, dft_x, dft_y_ptr,
            dft_x_ptr, SPLIT, RELOAD, PM, PN,
        )  # fmt: skip
        length = tl.sqrt(re * re + im * im)
        shorter = tl.where(length > 0, 1.0 / length, 0.0)

        # ∂/∂U = A_yᵀ ∂/∂S A_x
        ds = _plane(grad_ptr, (field0 + field) // P, colours, K, image_step, channel_step)
        ds += (first + (field0 + field) % P * stride + theta).to(tl.int64) * channel_step
        ds = tl.load(
            ds + y * (row_step * one) + x * (column_step * one), mask=(y < h) & (x < w), other=0.0
        ).to(tl.float32)
        scale, inverse = _scale(ds, ds)
        d_hi, d_lo = _halves(ds * scale)
        ax, axl = _low(low_x_ptr, PW, PN, SPLIT)
        rows = _product(d_hi, d_lo, ax, axl, tl.zeros((PH, PN), tl.float32), SPLIT)
        ay, ayl = _low(low_y_ptr, PH, PM, SPLIT)
        r_hi, r_lo = _halves(rows)
        du = _product(tl.trans(ay), tl.trans(ayl), r_hi, r_lo, tl.zeros((PM, PN), tl.float32), SPLIT)
        du = du * gain * inverse
        at = (field * L + theta).to(tl.int64) * (m * n) + p * n + q
        inside = (p < m) & (q < n)
        if HAVE_DU:
            du += tl.load(du_ptr + at, mask=inside, other=0.0)

        # ∂/∂Z = ∂/∂U Z/|Z|, and back through the transforms, whose adjoint is F̄.
        re, im = re * shorter * du, im * shorter * du
        scale, inverse = _scale(re, im)
        re, im = _transformed(re * scale, -im * scale, dft_x, dft_x_ptr, False, SPLIT, RELOAD, PM, PN)
        re, im = _transformed(re, im, dft_y, dft_y_ptr, True, SPLIT, RELOAD, PM, PN)
        tl.store(dy_ptr + at, _as_bits(re * inverse, -im * inverse), mask=inside)
