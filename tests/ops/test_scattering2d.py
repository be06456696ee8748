"""The operators `scattering2d`, `scattering2d_backward`, `scattering2d_pack`: the compiled kernel against the
reference, kymatio and float64, on every instruction set of this CPU. One file, long as it is: all tests share the
filters, the packs and the comparisons below."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

from scatsimclr.filters import filter_bank, padded_shape
from scatsimclr.ops import availability
from scatsimclr.ops.scattering2d import SCATTERING2D, SCATTERING2D_BACKWARD, scattering2d
from scatsimclr.reference import scattering2d as reference
from tests.ops.machine import available, forced, poisoned, threads

pytestmark = pytest.mark.skipif(
    not availability.compiled().usable, reason="the kernel needs the compiled extension"
)

OPS = torch.ops.scatsimclr


ISAS = available(["baseline", "avx2", "avx512"])


@pytest.fixture(params=ISAS)
def isa(request):
    with forced(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def _single_threaded_references():
    # Hundreds of tiny parallel FFTs of the references take seconds each on a busy machine.
    with threads(1):
        yield


@pytest.fixture(autouse=True)
def _poisoned():
    with poisoned():
        yield


@cache
def morlets(J, L, size, dtype=torch.float32):
    """kymatio's buffers for images of this size."""
    bank = filter_bank(*padded_shape(size, J), J, L)
    return [torch.tensor(level).unsqueeze(-1).to(dtype) for level in bank.tensors()]


@cache
def packed_morlets(J, L, size, dtype=torch.float32, max_order=2):
    return OPS.scattering2d_pack(morlets(J, L, size, dtype), J, L, max_order)


def random_filters(J, L, padded, dtype=torch.float64):
    """Filters without any structure: full support, φ neither separable nor even."""
    sizes = [(padded[0] >> j, padded[1] >> j) for j in range(J)]
    for j in range(J):
        sizes += [(padded[0] >> level, padded[1] >> level) for level in range(reference.psi_levels(j, J))] * L
    return [torch.randn(*size, 1, dtype=dtype) for size in sizes]


def kernel(x, filters, J, L, max_order=2, pre_pad=False, packed=None, channels_last=False, out_dtype=None):
    packed = OPS.scattering2d_pack(filters, J, L, max_order) if packed is None else packed
    with threads(2):
        return SCATTERING2D.by("cpu")(
            x, filters, packed, J, L, max_order, pre_pad, channels_last, out_dtype or x.dtype
        )


def kernel_gradient(grad, x, filters, packed, J, L, max_order=2, pre_pad=False):
    with threads(2):
        return SCATTERING2D_BACKWARD.by("cpu")(grad, x, filters, packed, J, L, max_order, pre_pad)


def morlet_kernel(x, J, L, max_order=2, **kwargs):
    size = tuple(x.shape[-2:])
    packed = packed_morlets(J, L, size, x.dtype, max_order)
    return kernel(x, morlets(J, L, size, x.dtype), J, L, max_order, packed=packed, **kwargs)


def plain(x, filters, J, L, max_order=2, pre_pad=False):
    return reference.scattering2d(x, filters, J, L, max_order, pre_pad).flatten(1, 2)


def plain_gradient(grad, x, filters, J, L, max_order=2, pre_pad=False):
    leaf = x.detach().clone().requires_grad_()
    return torch.autograd.grad(plain(leaf, filters, J, L, max_order, pre_pad), leaf, grad)[0]


def doubles(filters):
    return [f.double() for f in filters]


def orders(y, J, L):
    """The coefficients of orders 0, 1 and, where there are any, 2 of y (N, C·K, H, W)."""
    y = y.unflatten(
        1, (-1, reference.channels(J, L, 2) if y.shape[1] % reference.channels(J, L, 2) == 0 else 1 + J * L)
    )
    return [part for part in (y[:, :, :1], y[:, :, 1 : 1 + J * L], y[:, :, 1 + J * L :]) if part.numel()]


def assert_as_near(ours, theirs, truth, factor=2.0, roundings=1):
    """ours is at most `factor` times as far from the truth as theirs, plus some roundings of the largest value."""
    floor = roundings * 2.0**-24 * truth.abs().max()
    for measure in (lambda e: e.abs().max(), lambda e: e.square().mean().sqrt()):
        error, allowed = measure(ours - truth), factor * measure(theirs - truth) + floor
        assert error <= allowed, f"error {error:.2e}, allowed {allowed:.2e}"


# (x, J, L): one plane and many, primes, image as small as 2^J, pads that reach the image, L from 1 to 17, so
# that lanes span one plane, several, or a part of one.
SHAPES = [
    ((1, 1, 8, 8), 2, 8),
    ((3, 2, 32, 32), 2, 8),
    ((1, 3, 32, 32), 2, 16),
    ((17, 1, 16, 20), 2, 3),
    ((2, 3, 37, 53), 2, 6),
    ((1, 1, 61, 29), 3, 5),
    ((5, 1, 17, 31), 1, 7),
    ((1, 2, 48, 64), 4, 2),
    ((1, 1, 19, 23), 2, 17),
    ((2, 1, 64, 40), 3, 1),
    # Lanes are columns: one signal or few, rows of a part of the lanes, of one block and of many.
    ((1, 1, 40, 33), 3, 2),
    ((1, 1, 64, 75), 2, 1),
    ((2, 1, 8, 9), 2, 2),
]


@pytest.mark.parametrize(("shape", "J", "L"), SHAPES)
@pytest.mark.parametrize("max_order", [1, 2])
def test_as_near_to_the_truth_as_kymatio(isa, shape, J, L, max_order):
    # Errors of four inputs together: the smallest shapes have twenty values of an order, a matter of luck.
    filters = morlets(J, L, shape[2:])
    results = []
    for x in torch.rand(4, *shape):
        truth = plain(x.double(), doubles(filters), J, L, max_order)
        ours = morlet_kernel(x, J, L, max_order)
        assert ours.shape == truth.shape
        results.append((ours, plain(x, filters, J, L, max_order), truth))
    parts = zip(*(orders(torch.cat(y), J, L) for y in zip(*results, strict=True)), strict=True)
    for part in parts:
        assert_as_near(*part)


@pytest.mark.parametrize(("shape", "J", "L"), SHAPES)
def test_equals_kymatio(isa, shape, J, L):
    x = torch.rand(shape)
    theirs = ScatteringTorch2D(J, shape[2:], L)(x).flatten(1, 2)
    torch.testing.assert_close(morlet_kernel(x, J, L), theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("shape", "J", "L"), SHAPES)
def test_float64_is_exact(isa, shape, J, L):
    x, filters = torch.rand(shape, dtype=torch.float64), morlets(J, L, shape[2:], torch.float64)
    truth = plain(x, filters, J, L)
    torch.testing.assert_close(morlet_kernel(x, J, L), truth, rtol=1e-12, atol=0)
    grad = torch.randn_like(truth)
    dx = kernel_gradient(grad, x, filters, packed_morlets(J, L, shape[2:], torch.float64), J, L, 2, False)
    expected = plain_gradient(grad, x, filters, J, L)
    torch.testing.assert_close(dx, expected, rtol=0, atol=1e-12 * expected.abs().max().item())


@pytest.mark.parametrize(("shape", "J", "L"), SHAPES)
@pytest.mark.parametrize("max_order", [1, 2])
def test_gradient_as_near_to_the_truth_as_plain(isa, shape, J, L, max_order):
    x, filters = torch.rand(shape), morlets(J, L, shape[2:])
    grad = torch.randn_like(plain(x, filters, J, L, max_order))
    truth = plain_gradient(grad.double(), x.double(), doubles(filters), J, L, max_order)
    theirs = plain_gradient(grad, x, filters, J, L, max_order)
    ours = kernel_gradient(
        grad, x, filters, packed_morlets(J, L, shape[2:], torch.float32, max_order), J, L, max_order, False
    )
    # z/|z| multiplies the error of z by 1/|z|: where a modulus is near 0, both gradients are off by chance.
    # The typical error is compared as the coefficients' is, the largest with room for that chance.
    errors = [(g - truth).abs().flatten() for g in (ours, theirs)]
    floor = 2.0**-22 * truth.abs().max()
    assert errors[0].median() <= 2 * errors[1].median() + floor / 4
    assert errors[0].max() <= 20 * errors[1].max() + floor


# Every codelet, products of them, twiddled powers (32 … 512, 81, 25, 49) and primes without a codelet.
LENGTHS = [
    6,
    8,
    10,
    12,
    14,
    16,
    18,
    20,
    22,
    26,
    30,
    32,
    34,
    38,
    50,
    54,
    62,
    64,
    74,
    96,
    98,
    104,
    128,
    162,
    242,
    256,
]
LENGTHS += [258, 338, 454, 486, 512, 514]


@pytest.mark.parametrize("length", LENGTHS)
def test_transforms_of_every_length(isa, length):
    x = torch.randn(2, 1, length, 6, dtype=torch.float64)
    filters = random_filters(1, 2, (length, 6))
    truth = plain(x, filters, 1, 2, pre_pad=True)
    ours = kernel(x, filters, 1, 2, pre_pad=True)
    torch.testing.assert_close(ours, truth, rtol=0, atol=1e-13 * truth.abs().max().item())
    # The other direction.
    x, filters = x.mT.contiguous(), [f.transpose(0, 1).contiguous() for f in filters]
    torch.testing.assert_close(
        kernel(x, filters, 1, 2, pre_pad=True), ours.mT, rtol=0, atol=1e-13 * truth.abs().max().item()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_foreign_filters(isa, dtype):
    """Neither compact nor separable: the general path, forward and backward."""
    J, L, padded = 3, 3, (40, 24)
    filters = random_filters(J, L, padded, dtype)
    x = torch.randn(7, 2, *padded, dtype=dtype)
    wide = x.double(), doubles(filters)
    truth = plain(*wide, J, L, 2, True)
    bound = {torch.float32: 3e-6, torch.float64: 1e-13}[dtype]
    ours = kernel(x, filters, J, L, 2, True)
    torch.testing.assert_close(ours.double(), truth, rtol=0, atol=bound * truth.abs().max().item())
    grad = torch.randn_like(truth)
    expected = plain_gradient(grad, *wide, J, L, 2, True)
    packed = OPS.scattering2d_pack(filters, J, L, 2)
    dx = kernel_gradient(grad.to(dtype), x, filters, packed, J, L, 2, True)
    # A modulus near 0 magnifies float32 rounding: see the gradient test above.
    bound = {torch.float32: 1e-4, torch.float64: 1e-11}[dtype]
    torch.testing.assert_close(dx.double(), expected, rtol=0, atol=bound * expected.abs().max().item())


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("height", "width"), [(40, 40), (4, 40), (40, 4), (4, 4)])
def test_layouts_and_dtypes_only_round(isa, out_dtype, height, width):
    x = torch.rand(3, 2, height, width)
    plainly = morlet_kernel(x, 2, 5)
    for channels_last in (False, True):
        out = morlet_kernel(x, 2, 5, channels_last=channels_last, out_dtype=out_dtype)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert out.dtype == out_dtype
        assert out.is_contiguous(memory_format=layout)
        assert torch.equal(out, plainly.to(out_dtype))


# Of coefficients that are written together: all of a path's, runs of different lengths, too large for all at once.
@pytest.mark.parametrize(
    ("J", "L", "size", "images"),
    [(2, 16, (32, 32), 9), (3, 5, (40, 24), 5), (2, 16, (136, 128), 2), (2, 3, (300, 300), 1)],
)
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16])
def test_runs_of_coefficients_channels_last(isa, out_dtype, J, L, size, images):
    x = torch.randn(images, 3, *size)
    x[0, 1, 3, 5] = float("nan")
    out = morlet_kernel(x, J, L, channels_last=True, out_dtype=out_dtype)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out.isnan().any()
    torch.testing.assert_close(out, morlet_kernel(x, J, L).to(out_dtype), rtol=0, atol=0, equal_nan=True)


def test_any_strides_of_x(isa):
    dense = torch.rand(2, 3, 24, 20)
    expected = morlet_kernel(dense, 2, 5)
    guarded = torch.full((2 * 3 * 24 * 20 + 7,), float("nan"))
    for offset in (1, 3):  # not aligned to anything but its own size; NaN on both sides
        view = guarded[offset : offset + dense.numel()].view(dense.shape).copy_(dense)
        assert torch.equal(morlet_kernel(view, 2, 5), expected)
        guarded.fill_(float("nan"))
    wide = torch.full((2, 3, 48, 40), float("nan"))
    wide[:, :, ::2, ::2] = dense
    assert torch.equal(morlet_kernel(wide[:, :, ::2, ::2], 2, 5), expected)
    assert torch.equal(morlet_kernel(dense.to(memory_format=torch.channels_last), 2, 5), expected)
    assert torch.equal(
        morlet_kernel(dense[:1].expand(4, -1, -1, -1), 2, 5), expected[:1].expand(4, -1, -1, -1)
    )


def test_any_strides_and_dtype_of_the_gradient(isa):
    J, L, x = 2, 5, torch.rand(2, 3, 24, 20)
    filters, packed = morlets(J, L, (24, 20)), packed_morlets(J, L, (24, 20))

    def backward(grad):
        return kernel_gradient(grad, x, filters, packed, J, L, 2, False)

    grad = torch.randn_like(morlet_kernel(x, J, L)).bfloat16()
    expected = backward(grad.float())
    assert torch.equal(backward(grad), expected)
    assert torch.equal(backward(grad.double()), expected)
    assert torch.equal(backward(grad.float().to(memory_format=torch.channels_last)), expected)
    assert torch.equal(backward(grad.mT.contiguous().mT), expected)
    one = torch.ones(()).expand(grad.shape)
    assert torch.equal(backward(one), backward(one.contiguous()))


@pytest.mark.parametrize("shape", [(0, 3, 16, 16), (2, 0, 16, 16)])
def test_empty(isa, shape):
    x = torch.rand(shape)
    out = morlet_kernel(x, 2, 4)
    assert out.shape == (shape[0], shape[1] * reference.channels(2, 4, 2), 4, 4)
    dx = kernel_gradient(out, x, morlets(2, 4, (16, 16)), packed_morlets(2, 4, (16, 16)), 2, 4, 2, False)
    assert dx.shape == shape


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("L", [3, 16])
def test_nan_and_inf_stay_in_their_image(isa, bad, L):
    x = torch.rand(5, 1, 20, 24)
    clean = morlet_kernel(x, 2, L)
    filters, packed = morlets(2, L, (20, 24)), packed_morlets(2, L, (20, 24))
    grad = torch.randn_like(clean)
    clean_dx = kernel_gradient(grad, x, filters, packed, 2, L, 2, False)
    x[2, 0, 7, 11] = bad
    out = morlet_kernel(x, 2, L)
    dx = kernel_gradient(grad, x, filters, packed, 2, L, 2, False)
    others = [0, 1, 3, 4]
    assert torch.equal(out[others], clean[others])
    assert torch.equal(dx[others], clean_dx[others])
    assert out[2, 1:].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_images(isa, dtype):
    x = torch.zeros(2, 1, 20, 24, dtype=dtype)
    x[1] = torch.rand(20, 24)
    out = morlet_kernel(x, 2, 6)
    assert torch.equal(out[0], torch.zeros_like(out[0]))
    grad = torch.ones_like(out)
    grad[:, 0] = 0  # S0 is linear: its gradient is not zero
    dx = kernel_gradient(
        grad, x, morlets(2, 6, (20, 24), dtype), packed_morlets(2, 6, (20, 24), dtype), 2, 6, 2, False
    )
    assert torch.equal(dx[0], torch.zeros_like(dx[0]))
    assert dx[1].isfinite().all()
    assert (dx[1] != 0).all()


# (x, J, L). Whole groups in a task; the second order apart with 2 threads, the first order's steps too with 7; all
# steps cut with 2 threads; and where lanes are columns: paths in a task, one path cut, several of two planes cut.
@pytest.mark.parametrize(
    ("shape", "J", "L"),
    [
        ((40, 1, 16, 16), 2, 16),
        ((1, 3, 16, 16), 2, 16),
        ((1, 1, 16, 16), 3, 16),
        ((1, 1, 16, 16), 2, 1),
        ((1, 1, 70, 81), 1, 1),
        ((2, 1, 60, 95), 3, 1),
    ],
)
def test_threads_do_not_change_a_bit(isa, shape, J, L):
    x = torch.rand(shape)
    filters, packed = morlets(J, L, shape[2:]), packed_morlets(J, L, shape[2:])
    results = []
    for n in (1, 2, 2, 7):
        with threads(n):
            args = filters, packed, J, L, 2, False
            out = SCATTERING2D.by("cpu")(x, *args, False, torch.float32)
            results.append((out, SCATTERING2D_BACKWARD.by("cpu")(out, x, *args)))
    assert all(torch.equal(results[0][0], out) for out, _ in results)
    assert torch.equal(results[1][1], results[2][1])
    # Pieces add up their gradients in a different order from a single task.
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(len(ISAS) < 2, reason="this CPU has the baseline only")
def test_the_forced_isa_is_what_runs():
    """Only the baseline lacks fused multiply-adds, so its rounding differs."""
    x, results = torch.rand(1, 1, 32, 32), {}
    for name in ISAS:
        OPS.cpu_isa_force(name)
        results[name] = morlet_kernel(x, 2, 8)
    OPS.cpu_isa_force("")
    assert OPS.cpu_isa().startswith(ISAS[-1])
    assert all(not torch.equal(results["baseline"], results[name]) for name in ISAS[1:])
    assert torch.equal(morlet_kernel(x, 2, 8), results[ISAS[-1]])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(1, 4),
    st.integers(0, 9),
)
def test_any_size(J, L, more_height, more_width, planes, seed):
    size = (2**J + more_height, 2**J + more_width)
    x = torch.randn(planes, 1, *size, generator=torch.Generator().manual_seed(seed))
    filters = [f.float() for f in morlets(J, L, size)]
    truth = plain(x.double(), doubles(filters), J, L)
    # Two coefficients of a 3×3 image are exact by luck now and then.
    assert_as_near(morlet_kernel(x, J, L), plain(x, filters, J, L), truth, factor=3.0, roundings=4)


def test_the_dispatcher_uses_the_kernel():
    assert SCATTERING2D.default("cpu").name == "cpu"
    x = torch.rand(1, 2, 16, 16)
    args = morlets(2, 4, (16, 16)), packed_morlets(2, 4, (16, 16)), 2, 4, 2, False
    outs = {backend: scattering2d(x, *args, backend=backend) for backend in ("auto", "cpu", "reference")}
    assert torch.equal(outs["auto"], outs["cpu"])
    assert not torch.equal(outs["auto"], outs["reference"])


@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(channels_last):
    x = torch.rand(2, 2, 16, 12, requires_grad=True)
    filters, packed = morlets(2, 3, (16, 12)), packed_morlets(2, 3, (16, 12))
    torch.library.opcheck(
        OPS.scattering2d.default, (x, filters, packed, 2, 3, 2, False, channels_last, torch.float32)
    )
    grad = torch.randn_like(morlet_kernel(x.detach(), 2, 3))
    torch.library.opcheck(
        OPS.scattering2d_backward.default, (grad, x.detach(), filters, packed, 2, 3, 2, False)
    )
    torch.library.opcheck(OPS.scattering2d_pack.default, (filters, 2, 3, 2))


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
def test_gradcheck(backend):
    x = torch.rand(2, 1, 9, 8, dtype=torch.float64, requires_grad=True)
    filters, packed = morlets(2, 3, (9, 8), torch.float64), packed_morlets(2, 3, (9, 8), torch.float64)
    assert torch.autograd.gradcheck(
        lambda v: scattering2d(v, filters, packed, 2, 3, 2, False, backend=backend), x, atol=1e-6
    )


def test_without_a_pack_and_with_the_wrong_one():
    x, filters = torch.rand(1, 1, 16, 16), morlets(2, 4, (16, 16))
    expected = morlet_kernel(x, 2, 4)
    assert torch.equal(kernel(x, filters, 2, 4, packed=torch.empty(0, dtype=torch.uint8)), expected)
    # Three rows of filters more than this: the wrong size, type, number of angles, or no pack at all.
    for packed in (packed_morlets(2, 4, (24, 16)), packed_morlets(2, 4, (16, 16), torch.float64)):
        with pytest.raises(RuntimeError, match="packed was made for J=2, L=4"):
            kernel(x, filters, 2, 4, packed=packed)
    good = packed_morlets(2, 4, (16, 16))
    for packed in (good[:-1], good[64:], torch.zeros(7, dtype=torch.uint8), torch.zeros(4096)):
        with pytest.raises(RuntimeError, match="packed is not the result of scattering2d_pack"):
            kernel(x, filters, 2, 4, packed=packed)


def test_refusals_name_what_is_wrong():
    x, filters = torch.rand(1, 1, 16, 16), morlets(2, 4, (16, 16))
    cases = [
        ("J=3, L=4 take", lambda: kernel(x, filters, 3, 4)),
        ("does not fit filters", lambda: morlet_kernel_of(torch.rand(1, 1, 25, 16), filters)),
        ("with pre_pad the image must be", lambda: morlet_kernel_of(x, filters, pre_pad=True)),
        ("both be float32 or both float64", lambda: morlet_kernel_of(x.double(), filters)),
        ("4 dimensions|must be \\(N, C, M, N\\)", lambda: morlet_kernel_of(x[0], filters)),
        ("must have shape", lambda: kernel(x, [*filters[:-1], filters[0][:-1]], 2, 4)),
        ("must be a multiple of 2\\^J", lambda: kernel(x, [f[:-1] for f in filters], 2, 4)),
        ("dtype must be", lambda: morlet_kernel_of(x, filters, out_dtype=torch.int32)),
    ]
    for message, call in cases:
        with pytest.raises(RuntimeError, match=message):
            call()
    grad = torch.zeros(1, 1, 4, 4)
    with pytest.raises(RuntimeError, match="grad must be a CPU tensor of the shape"):
        kernel_gradient(grad, x, filters, packed_morlets(2, 4, (16, 16)), 2, 4, 2, False)


def morlet_kernel_of(x, filters, **kwargs):
    return kernel(x, filters, 2, 4, packed=packed_morlets(2, 4, (16, 16)), **kwargs)
