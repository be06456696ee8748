"""Claim: kymatio's results at 20 to 50 times its speed, and faster than pytorch_wavelets' cheaper transform.

kymatio and, for L=6 and 8, pytorch_wavelets' `ScatLayerj2` (another, cheaper transform with six directions) take turns
with ours in one process, with the same number of threads. `benchmarks/measure.py` says what is recorded.
"""

from __future__ import annotations

import os

import pytest
import torch

from benchmarks.measure import compare, compare_threads
from benchmarks.peers import kymatio_module, pytorch_wavelets_layer
from benchmarks.work import coefficient_bytes, scattering_work
from scatsimclr import Scattering2D

MEMORY_LIMIT_MB = 67  # 64 MiB

# Shape of x, J, L; marked ones only run in full.
FORWARD = [
    ((16, 3, 96, 96), 2, 16),
    ((1, 3, 96, 96), 2, 16),
    ((64, 3, 32, 32), 2, 16),
    ((64, 3, 32, 32), 2, 8),
    pytest.param((64, 3, 32, 32), 2, 6, marks=pytest.mark.full),
    pytest.param((16, 3, 96, 96), 2, 8, marks=pytest.mark.full),
    pytest.param((16, 3, 96, 96), 2, 6, marks=pytest.mark.full),
    pytest.param((8, 3, 128, 128), 3, 8, marks=pytest.mark.full),
    pytest.param((2, 3, 224, 224), 4, 8, marks=pytest.mark.full),
    pytest.param((1, 1, 512, 512), 3, 8, marks=pytest.mark.full),
    ((8, 1, 61, 83), 2, 6),
    # Least work: one path, and the padded width 454 = 2·227.
    ((1, 1, 300, 451), 1, 1),
    ((1, 1, 1021, 1021), 1, 1),
]
BACKWARD = [
    pytest.param((16, 3, 96, 96), 2, 16, marks=pytest.mark.full),
    pytest.param((1, 3, 96, 96), 2, 16, marks=pytest.mark.full),
    ((64, 3, 32, 32), 2, 16),
    pytest.param((64, 3, 32, 32), 2, 8, marks=pytest.mark.full),
]


def wavelets_layer(shape, J, L):
    """pytorch_wavelets' layer where it is comparable, else None, and the reason where it is missing."""
    if J != 2 or L not in (6, 8) or shape[2] % 4:
        return None, ""
    try:
        return pytorch_wavelets_layer(), ""
    except ImportError as error:
        return None, f"{type(error).__name__}: {error}"


def batch(benchmark, shape):
    """Random images, or one where the benchmark runs untimed, to show that it works."""
    return torch.rand(1 if benchmark.disabled else shape[0], *shape[1:])


def memory_case(name, shape, J, L):
    """The first call, including its workspaces, after a tiny call of another module has started the threads."""
    x, tiny = torch.rand(shape), torch.rand(1, 3, 8, 8)
    if name == "pytorch_wavelets":
        module, L = pytorch_wavelets_layer(), 6
        pytorch_wavelets_layer()(tiny)
    else:
        make = {"kymatio": kymatio_module, "ours": Scattering2D}[name]
        module = make(J, tuple(shape[2:]), L)
        make(1, (8, 8), 1)(tiny)
    return (lambda: module(x)), coefficient_bytes(shape, J, L), "cpu"


@pytest.mark.parametrize(("shape", "J", "L"), FORWARD)
def bench_forward(benchmark, shape, J, L):
    x = batch(benchmark, shape)
    theirs, ours = kymatio_module(J, shape[2:], L), Scattering2D(J, shape[2:], L)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-8)
    calls = {"kymatio": lambda: theirs(x)}
    layer, missing = wavelets_layer(shape, J, L)
    if layer:
        calls["pytorch_wavelets"] = lambda: layer(x)
    calls["ours"] = lambda: ours(x)
    memory = compare(
        benchmark,
        calls,
        op="scattering2d forward",
        case={"shape": shape, "J": J, "L": L},
        peers=["kymatio", "pytorch_wavelets"],
        missing={"pytorch_wavelets": missing} if missing else {},
        items=shape[0],
        work=scattering_work(shape, J, L),
        memory=(__name__, x.shape, J, L),
    )
    assert memory.get("ours", 0) <= MEMORY_LIMIT_MB or shape[2] > 96


@pytest.mark.parametrize(("shape", "J", "L"), BACKWARD)
def bench_backward(benchmark, shape, J, L):
    modules = {"kymatio": kymatio_module(J, shape[2:], L), "ours": Scattering2D(J, shape[2:], L)}
    x = batch(benchmark, shape)
    grad = torch.randn_like(modules["ours"](x))

    def prepared(name):
        """Input and output of a forward pass, which is not timed."""
        leaf = x.clone().requires_grad_()
        return leaf, modules[name](leaf)

    def gradient(leaf, out):
        return torch.autograd.grad(out, leaf, grad)[0]

    expected, found = gradient(*prepared("kymatio")), gradient(*prepared("ours"))
    # A modulus near 0 makes both gradients uncertain, hence their distance is compared, not every pixel.
    assert (found - expected).norm() <= 1e-4 * expected.norm()
    compare(
        benchmark,
        dict.fromkeys(modules, gradient),
        prepare={name: lambda name=name: prepared(name) for name in modules},
        op="scattering2d backward",
        case={"shape": shape, "J": J, "L": L},
        peers=["kymatio"],
        items=shape[0],
    )


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
@pytest.mark.parametrize("images", [1, 16])
def bench_threads(benchmark, images):
    """Two threads against one at 96 × 96, RGB, J=2, L=16."""
    x, ours = torch.rand(1 if benchmark.disabled else images, 3, 96, 96), Scattering2D(2, (96, 96), 16)
    case = {"shape": (images, 3, 96, 96), "J": 2, "L": 16}
    compare_threads(
        benchmark, lambda: [ours(x)], lambda: ours(x), op="scattering2d threads", case=case, items=images
    )
