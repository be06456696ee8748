"""How the scattering operators may be called: layouts, dtypes, empty and bad values, threads, dispatch, refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scatsimclr.ops.scattering2d import SCATTERING2D, SCATTERING2D_BACKWARD, scattering2d
from scatsimclr.reference import scattering2d as reference
from tests.ops.machine import ISAS, threads
from tests.ops.scattering import (
    OPS,
    assert_as_near,
    doubles,
    kernel,
    kernel_gradient,
    morlet_kernel,
    morlet_kernel_of,
    morlets,
    packed_morlets,
    plain,
)

pytestmark = pytest.mark.usefixtures("compiled", "one_thread", "uninitialised_is_nan")


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
    for n in (1, 2, 2, 3, 7):
        with threads(n):
            args = filters, packed, J, L, 2, False
            out = SCATTERING2D.by("cpu")(x, *args, False, torch.float32)
            results.append((out, SCATTERING2D_BACKWARD.by("cpu")(out, x, *args)))
    for found in results[1:]:
        assert all(torch.equal(first, other) for first, other in zip(results[0], found, strict=True))


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


def test_a_pack_of_another_version_is_made_again():
    x, filters, packed = torch.rand(1, 1, 16, 16), morlets(2, 4, (16, 16)), packed_morlets(2, 4, (16, 16))
    assert bytes(packed[:6].tolist()) == b"SSPACK"
    for version in (b"00", b"03", b"99"):
        other = torch.cat((packed[:6], torch.tensor(list(version), dtype=torch.uint8), 1 - packed[8:]))
        assert torch.equal(kernel(x, filters, 2, 4, packed=other), kernel(x, filters, 2, 4, packed=packed))


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
