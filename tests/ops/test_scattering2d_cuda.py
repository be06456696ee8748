"""Scattering on a GPU: every implementation for CUDA against the reference in float64 and kymatio's tolerance.

Runs where a GPU is; what needs none is at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import pytest
import torch

from scatsimclr import Scattering2D
from scatsimclr.filters import filter_bank, padded_shape
from scatsimclr.ops.scattering2d import SCATTERING2D, SCATTERING2D_BACKWARD, scattering2d
from scatsimclr.reference import scattering2d as reference

TABLE = SCATTERING2D.implementations
ON_GPU = [name for name, entry in TABLE.items() if entry.device == "cuda"]
OPS = torch.ops.scatsimclr
pytestmark = pytest.mark.usefixtures("uninitialised_is_nan")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def only_cpp(*args):
    from scatsimclr.kernels import scattering2d as kernels

    return kernels.scattering2d(*args, engine="c++")


class Both(NamedTuple):
    forward: Callable
    backward: Callable


@pytest.fixture(params=[*ON_GPU, "c++ wherever it fits"])
def implementation(request):
    name = request.param if request.param in TABLE else "cuda"
    if obstacle := TABLE[name].availability().obstacle:
        pytest.skip(obstacle)
    forward = SCATTERING2D.by(name) if request.param == name else only_cpp
    return Both(forward, SCATTERING2D_BACKWARD.by(name))


@cache
def setup(J, L, size, max_order=2, dtype=torch.float32):
    """Filters, and what the operators take after x."""
    bank = filter_bank(*padded_shape(size, J), J, L)
    filters = [torch.tensor(level, device="cuda").unsqueeze(-1).to(dtype) for level in bank.tensors()]
    return filters, OPS.scattering2d_pack(filters, J, L, max_order), J, L, max_order, False


def truth_of(x, filters, packed, J, L, max_order, pre_pad):
    wide = [f.double() for f in filters]
    return reference.scattering2d(x.double(), wide, J, L, max_order, pre_pad).flatten(1, 2)


SHAPES = [
    ((2, 3, 96, 96), 2, 16),
    ((33, 3, 32, 32), 2, 16),
    ((1, 1, 8, 8), 2, 8),
    ((5, 1, 37, 53), 2, 6),
    ((3, 2, 61, 29), 3, 5),
    ((1, 1, 17, 31), 1, 7),
    ((2, 1, 128, 128), 3, 8),
    ((1, 1, 224, 224), 4, 8),
    ((1, 1, 300, 451), 1, 1),
    ((1, 2, 257, 130), 5, 2),
]


@needs_gpu
@pytest.mark.parametrize(("shape", "J", "L"), SHAPES)
@pytest.mark.parametrize("max_order", [1, 2])
def test_float32_is_within_kymatios_tolerance(implementation, shape, J, L, max_order):
    x, args = torch.rand(shape, device="cuda"), setup(J, L, shape[2:], max_order)
    out = implementation.forward(x, *args, False, torch.float32)
    torch.testing.assert_close(out.double(), truth_of(x, *args), rtol=1e-5, atol=1e-8)


@needs_gpu
@pytest.mark.parametrize(("shape", "J", "L"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errors_are_bounded(implementation, shape, J, L, dtype):
    x, args = torch.rand(shape, device="cuda"), setup(J, L, shape[2:])
    truth = truth_of(x, *args)
    for channels_last in (False, True):
        out = implementation.forward(x, *args, channels_last, dtype)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert out.dtype == dtype
        assert out.is_contiguous(memory_format=layout)
        largest = truth.abs().amax((2, 3), keepdim=True)
        rounding = {torch.float16: 0.0, torch.bfloat16: 2.0**-8}[dtype]
        assert ((out.double() - truth).abs() <= (2e-3 + rounding) * largest + 1e-7).all()


@needs_gpu
@pytest.mark.parametrize(("shape", "J", "L"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient(implementation, shape, J, L, dtype):
    x, args = torch.rand(shape, device="cuda"), setup(J, L, shape[2:])
    leaf = x.double().requires_grad_()
    out = truth_of(leaf, *args)
    grad = torch.randn(out.shape, device="cuda").to(dtype)
    (truth,) = torch.autograd.grad(out, leaf, grad.double())
    dx = implementation.backward(grad, x, *args)
    # The norm: z/|z| magnifies the error of z where |z| is near 0.
    bound = {torch.float32: 5e-5, torch.bfloat16: 2e-3}[dtype]
    assert (dx - truth).norm() <= bound * truth.norm()
    assert torch.equal(implementation.backward(grad, x, *args), dx)  # no atomics
    last = grad.to(memory_format=torch.channels_last)
    assert torch.equal(implementation.backward(last, x, *args), dx)


@needs_gpu
def test_strides_streams_and_empty_batches(implementation):
    x, args = torch.rand(4, 3, 32, 32, device="cuda"), setup(2, 8, (32, 32))
    expected = implementation.forward(x, *args, False, torch.float32)
    wide = torch.full((4, 3, 64, 64), float("nan"), device="cuda")
    wide[..., ::2, ::2] = x
    assert torch.equal(implementation.forward(wide[..., ::2, ::2], *args, False, torch.float32), expected)
    last = x.to(memory_format=torch.channels_last)
    assert torch.equal(implementation.forward(last, *args, False, torch.float32), expected)
    assert implementation.forward(x[:0], *args, False, torch.float32).shape == (0, *expected.shape[1:])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        again = implementation.forward(x, *args, False, torch.float32)
    stream.synchronize()
    assert torch.equal(again, expected)


@needs_gpu
def test_nan_stays_in_its_image(implementation):
    x, args = torch.rand(5, 2, 32, 32, device="cuda"), setup(2, 8, (32, 32))
    clean = implementation.forward(x, *args, False, torch.float32)
    x[2, 0, 7, 11] = float("nan")
    out = implementation.forward(x, *args, False, torch.float32)
    others = [0, 1, 3, 4]
    assert torch.equal(out[others], clean[others])
    assert out[2, : out.shape[1] // 2].isnan().any((1, 2)).all()


@needs_gpu
def test_cuda_graph(implementation):
    x, args = torch.rand(8, 3, 32, 32, device="cuda"), setup(2, 16, (32, 32))

    def run():
        return implementation.forward(x, *args, True, torch.bfloat16)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    x.copy_(torch.rand_like(x))
    graph.replay()
    assert torch.equal(out, run())


@needs_gpu
def test_the_default_and_its_autograd():
    x = torch.rand(3, 2, 24, 20, device="cuda", requires_grad=True)
    filters, packed, *settings = setup(2, 4, (24, 20))
    default = SCATTERING2D.default("cuda")
    assert default.device == "cuda"
    out = scattering2d(x, filters, packed, *settings)
    assert torch.equal(out, default.run(x.detach(), filters, packed, *settings, False, torch.float32))
    torch.library.opcheck(OPS.scattering2d.default, (x, filters, packed, *settings, False, torch.float32))
    # float64, and filters whose low-pass is no outer product, have no kernel: the default is the reference.
    wide, packed, *settings = setup(2, 4, (24, 20), 2, torch.float64)
    assert packed.numel() == 1
    out = scattering2d(x.double(), wide, packed, *settings)
    torch.testing.assert_close(out, truth_of(x.double(), wide, packed, *settings))


@needs_gpu
def test_the_module_moves_to_the_gpu_and_back():
    module, x = Scattering2D(2, (32, 32), 8), torch.rand(2, 3, 32, 32)
    expected = module(x)
    torch.testing.assert_close(module.cuda()(x.cuda()).cpu(), expected, rtol=2e-5, atol=1e-7)
    torch.testing.assert_close(module.cpu()(x), expected)


@pytest.mark.parametrize("name", ON_GPU)
def test_naming_it_for_what_it_cannot_serve_says_why(name):
    bank = filter_bank(*padded_shape((16, 16), 2), 2, 4)
    filters = [torch.tensor(level).unsqueeze(-1) for level in bank.tensors()]
    packed = OPS.scattering2d_pack(filters, 2, 4, 2)
    with pytest.raises(
        ValueError, match=f"backend '{name}' of scattering2d (is not available: |serves cuda)"
    ):
        scattering2d(torch.rand(1, 1, 16, 16), filters, packed, 2, 4, 2, False, backend=name)


def test_what_the_kernels_refuse():
    pytest.importorskip("triton")
    bank = filter_bank(*padded_shape((16, 16), 2), 2, 4)
    filters = [torch.tensor(level).unsqueeze(-1) for level in bank.tensors()]
    forward = SCATTERING2D.by("triton")
    settings = 2, 4, 2, False, False, torch.float32
    empty, x = torch.empty(0, dtype=torch.uint8), torch.rand(1, 1, 16, 16)
    with pytest.raises(ValueError, match=r"serves float32 images, got torch\.float64"):
        forward(x.double(), filters, empty, *settings)
    foreign = [torch.randn_like(f) for f in filters]
    with pytest.raises(ValueError, match="separable low-pass"):
        forward(x, foreign, empty, *settings)
    with pytest.raises(ValueError, match="fit filters of"):
        forward(torch.rand(1, 1, 40, 16), filters, empty, *settings)
    with pytest.raises(RuntimeError, match="packed is not the result of scattering2d_pack for J=2, L=4"):
        forward(x, filters, torch.zeros(64, dtype=torch.uint8), *settings)
