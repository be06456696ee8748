"""The operators `conv3x3` and `conv3x3_weight`: the compiled kernel against the reference and float64, on every
instruction set of this CPU."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from scatsimclr.ops.conv3x3 import CONV3X3, CONV3X3_WEIGHT, conv3x3
from scatsimclr.reference import conv3x3 as reference
from tests.ops.machine import available, forced, threads

needs_kernel = pytest.mark.usefixtures("compiled")
pytestmark = pytest.mark.usefixtures("uninitialised_is_nan")
OPS = torch.ops.scatsimclr
ISAS = available(["baseline", "avx2", "avx512", "avx512_bf16"])
DTYPES = [torch.float32, torch.bfloat16]
# Beyond plain PyTorch's error, of the result's norm. float32: the transforms' sums, of which those of distant inputs
# cancel. bfloat16: where the CPU multiplies it, both factors are rounded a second time after their transforms, each
# within 2^-9 of values of up to twice the norm.
EPSILON = {torch.float32: 1e-6, torch.bfloat16: 2**-8}
# N, H, W, C, O: one pixel, primes, odd sides, one more and one less than a step, a block of columns, a block of tiles
# and a stretch of the depth.
SHAPES = [
    (1, 1, 1, 1, 1),
    (1, 1, 7, 2, 3),
    (3, 2, 1, 17, 5),
    (2, 7, 5, 33, 31),
    (1, 14, 8, 64, 32),
    (1, 15, 8, 31, 65),
    (5, 4, 13, 257, 33),
    (2, 6, 6, 300, 70),
    (4, 12, 12, 32, 16),
    (29, 2, 2, 16, 129),
]


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


def guarded(x):
    """The same values in the middle of a larger buffer, off every vector's alignment; NaN around them."""
    memory = x.permute(0, 2, 3, 1)
    buffer = torch.full((x.numel() + 2 * 61,), math.nan, dtype=x.dtype)
    inside = buffer[61:-61].view(memory.shape)
    inside.copy_(memory)
    return inside.permute(0, 3, 1, 2)


def whole_numbers(shape, dtype=torch.float32, seed=0):
    """x, weight, bias and grad with which every intermediate of the transforms is a whole number that bfloat16 holds
    and every sum one that float32 does: there is nothing to round but the result."""
    n, height, width, inputs, outputs = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(bound, *size):
        return torch.randint(-bound, bound + 1, size, generator=generator).float()

    x, grad = draw(8, n, inputs, height, width).to(dtype), 4 * draw(4, n, outputs, height, width).to(dtype)
    return guarded(x), channels_last(4 * draw(4, outputs, inputs, 3, 3)), draw(9, outputs), guarded(grad)


def assert_equal_everywhere(x, weight, bias, grad):
    run = CONV3X3.by("cpu")
    assert torch.equal(run(x, weight, bias, False), reference.conv3x3(x, weight, bias, False))
    assert torch.equal(run(grad, weight, None, True), reference.conv3x3(grad, weight, None, True))
    assert torch.equal(CONV3X3_WEIGHT.by("cpu")(grad, x), reference.conv3x3_weight(grad, x))


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_whole_numbers_come_out_to_the_bit(isa, shape, dtype):
    assert_equal_everywhere(*whole_numbers(shape, dtype))


@needs_kernel
@settings(max_examples=40, deadline=None)
@given(
    st.tuples(
        st.integers(1, 5), st.integers(1, 17), st.integers(1, 17), st.integers(1, 70), st.integers(1, 70)
    ),
    st.sampled_from(ISAS),
    st.sampled_from(DTYPES),
)
def test_whole_numbers_of_any_shape(shape, name, dtype):
    with forced(name):
        assert_equal_everywhere(*whole_numbers(shape, dtype, seed=sum(shape)))


def drawn(shape, dtype, seed=0):
    """As in a network: x after a ReLU, weights that keep the variance."""
    n, height, width, inputs, outputs = shape
    torch.manual_seed(seed)
    x = channels_last(torch.randn(n, inputs, height, width).relu().to(dtype))
    weight = channels_last(torch.randn(outputs, inputs, 3, 3) * math.sqrt(2 / (9 * inputs)))
    return x, weight, torch.randn(outputs), channels_last(torch.randn(n, outputs, height, width).to(dtype))


def gradients(run, x, weight, bias, grad):
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias)]
    y = run(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]


def plain(x, weight, bias):
    with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        return F.conv2d(x, weight, bias, padding=1)


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*SHAPES[3:], (2, 24, 24, 128, 128), (2, 8, 8, 867, 32)], ids=str)
def test_error_against_float64_is_within_that_of_plain_pytorch(isa, shape, dtype):
    given = drawn(shape, dtype)
    truth = gradients(lambda *args: F.conv2d(*args, padding=1), *(t.double() for t in given))
    errors = [
        [((got.double() - want).norm() / want.norm()).item() for got, want in zip(found, truth, strict=True)]
        for found in (gradients(conv3x3, *given), gradients(plain, *given))
    ]
    for name, ours, theirs in zip(("y", "dx", "dweight", "dbias"), *errors, strict=True):
        assert ours <= theirs + EPSILON[dtype], name


@needs_kernel
@pytest.mark.parametrize("shape", [(4, 12, 12, 64, 48), (2, 9, 9, 300, 257)], ids=str)
def test_float32_arithmetic_of_bfloat16_images_rounds_the_result_alone(shape):
    """Where the CPU does not multiply bfloat16."""
    with forced("baseline"):
        x, weight, _, grad = drawn(shape, torch.bfloat16)
        y, dweight = conv3x3(x, weight), OPS.conv3x3_weight(grad, x)
    expected = F.conv2d(x.double(), weight.double(), padding=1)
    assert (y.double() - expected).norm() < 2**-9 * expected.norm()
    assert (y.double() - expected.bfloat16().double()).norm() < 1e-3 * expected.norm()
    expected = reference.conv3x3_weight(grad.double(), x.double())
    assert (dweight - expected).norm() < 1e-6 * expected.norm()


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_neither_threads_nor_repetition_change_a_bit(isa, dtype):
    for shape in ((5, 9, 24, 96, 70), (3, 8, 8, 300, 33)):
        x, weight, bias, grad = drawn(shape, dtype)
        results = []
        for n in (1, 2, 2, 3, 7, 16):
            with threads(n):
                results.append(gradients(conv3x3, x, weight, bias, grad)[:3])
        for found in results[1:]:
            assert all(map(torch.equal, results[0], found))


@needs_kernel
def test_the_forced_isa_is_what_runs():
    """The baseline has no fused multiply-add, and only avx512_bf16 multiplies bfloat16 numbers."""
    for dtype in DTYPES:
        x, weight, bias, _ = drawn((4, 12, 12, 64, 64), dtype)
        found = {}
        for name in ISAS:
            with forced(name):
                found[name] = conv3x3(x, weight, bias).float()
        assert torch.equal(found[ISAS[-1]], conv3x3(x, weight, bias).float())
        if dtype == torch.float32:
            assert all(not torch.equal(found["baseline"], found[name]) for name in ISAS[1:])
        elif "avx512_bf16" in ISAS:
            assert (found["avx512_bf16"] - found["avx512"]).norm() > 1e-3 * found["avx512"].norm()


@needs_kernel
def test_the_kernel_is_what_serves_this_cpu():
    assert CONV3X3.default("cpu").name == "cpu"
    x, weight, _, _ = drawn((2, 8, 8, 32, 32), torch.float32)
    assert torch.equal(conv3x3(x, weight), conv3x3(x, weight, backend="cpu"))
    assert not torch.equal(conv3x3(x, weight), conv3x3(x, weight, backend="reference"))


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_finite_stays_where_its_tiles_are(isa, dtype):
    x, weight, _, _ = drawn((2, 12, 12, 32, 32), dtype)
    for value in (math.nan, math.inf):
        x[0, 3, 5, 6] = value
        y = conv3x3(x, weight)
        assert not y[0, :, 4:7, 5:8].isfinite().any()
        assert y[1].isfinite().all()
        assert y[0, :, :, :4].isfinite().all()
        assert y[0, :, :2].isfinite().all()


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16, torch.float64], ids=str)
def test_every_layout_and_dtype(backend, dtype):
    x, weight, bias, grad = drawn((2, 6, 10, 12, 20), torch.float32)
    views = {
        "channels-last": x,
        "contiguous": x.contiguous(),
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "strided": x.repeat_interleave(2, 3)[..., ::2],
    }
    expected = F.conv2d(x.to(dtype).double(), weight.double(), bias.double(), padding=1)
    allowed = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 6e-3, torch.float16: 1e-3}
    for name, view in views.items():
        y = conv3x3(view.to(dtype), weight.contiguous(), bias, backend=backend)
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=torch.channels_last), name
        assert (y.double() - expected).norm() <= allowed[dtype] * expected.norm(), name
    leaf, grad = views["strided"].to(dtype).requires_grad_(), grad.contiguous().to(dtype)
    (found,) = torch.autograd.grad(conv3x3(leaf, weight, backend=backend), leaf, grad)
    expected = F.conv_transpose2d(grad.double(), weight.double(), padding=1)
    assert (found.double() - expected).norm() <= allowed[dtype] * expected.norm()


@pytest.mark.parametrize(
    "shape", [(0, 4, 4, 3, 5), (2, 0, 4, 3, 5), (2, 4, 4, 3, 0), (2, 4, 4, 0, 5)], ids=str
)
def test_empty(shape):
    n, height, width, inputs, outputs = shape
    x = torch.rand(n, inputs, height, width, requires_grad=True)
    weight = torch.rand(outputs, inputs, 3, 3, requires_grad=True)
    y = conv3x3(x, weight)
    assert y.shape == (n, outputs, height, width)
    assert y.eq(0).all()
    y.sum().backward()
    assert x.grad.eq(0).all()
    assert weight.grad.eq(0).all()


def test_opcheck():
    x, weight = channels_last(torch.rand(2, 3, 3, 4)), channels_last(torch.rand(3, 3, 3, 3))
    for adjoint in (False, True):
        args = tuple(t.clone().requires_grad_() for t in (x, weight, torch.rand(3)))
        torch.library.opcheck(OPS.conv3x3.default, (*args, adjoint))
    args = channels_last(torch.rand(2, 5, 3, 4)).requires_grad_(), x.clone().requires_grad_()
    torch.library.opcheck(OPS.conv3x3_weight.default, args)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_derivatives_in_float64(backend):
    args = tuple(t.double().requires_grad_() for t in drawn((2, 3, 4, 2, 3), torch.float32)[:3])
    assert gradcheck(lambda *args: conv3x3(*args, backend=backend), args)
    assert gradgradcheck(lambda *args: conv3x3(*args, backend=backend), args)


@needs_kernel
def test_second_derivatives():
    """Of a penalty of the gradients, as in a WGAN."""
    found = []
    for run in (conv3x3, plain):
        leaves = [t.detach().clone().requires_grad_() for t in drawn((2, 5, 6, 8, 7), torch.float32)[:3]]
        y = run(*leaves)
        first = torch.autograd.grad(y.square().sum(), leaves[:2], create_graph=True)
        found.append(torch.autograd.grad(sum(g.pow(3).sum() for g in first), leaves))
    for got, expected in zip(*found, strict=True):
        assert (got - expected).norm() < 1e-5 * expected.norm()


@needs_kernel
def test_compiles_whole():
    x, weight, bias, grad = drawn((3, 8, 8, 32, 16), torch.float32)
    compiled = torch.compile(conv3x3, fullgraph=True, backend="aot_eager")
    for found, expected in zip(
        gradients(compiled, x, weight, bias, grad), gradients(conv3x3, x, weight, bias, grad), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(3, 4, 4)}, ValueError, "x must have shape"),
        ({"x": torch.zeros(1, 3, 4, 4, dtype=torch.int64)}, TypeError, "x must have a floating-point dtype"),
        ({"weight": torch.zeros(2, 4, 3, 3)}, ValueError, r"weight must have shape \(O, 3, 3, 3\)"),
        ({"weight": torch.zeros(2, 3, 5, 5)}, ValueError, "weight must have shape"),
        ({"bias": torch.zeros(3)}, ValueError, r"bias must have shape \(2,\)"),
        ({"bias": torch.zeros(2, dtype=torch.bool)}, TypeError, "bias must have a floating-point dtype"),
        ({"backend": "nothing"}, ValueError, "backend must be 'auto' or one of"),
    ],
)
def test_mistakes_are_named(change, error, message):
    arguments = {"x": torch.zeros(1, 3, 4, 4), "weight": torch.zeros(2, 3, 3, 3), "bias": torch.zeros(2)}
    with pytest.raises(error, match=message):
        conv3x3(**(arguments | change))


@needs_kernel
def test_the_kernel_refuses_what_it_cannot_read():
    x, weight = channels_last(torch.rand(1, 3, 4, 5)), channels_last(torch.rand(2, 3, 3, 3))
    for args, message in (
        ((x.contiguous(), weight, None, False), "x must be channels-last"),
        ((x, weight.double(), None, False), "weight must be float32"),
        ((x, weight, None, True), "filters of 3x3 for 3 channels"),
        ((x, weight, torch.rand(3), False), "bias must be 2 contiguous float32 values"),
        ((x.double(), weight, None, False), "x must be float32 or bfloat16"),
    ):
        with pytest.raises(RuntimeError, match=message):
            OPS.conv3x3(*args)
    with pytest.raises(RuntimeError, match="same dtype, batch and size"):
        OPS.conv3x3_weight(x, x.bfloat16())
