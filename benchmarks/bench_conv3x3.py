"""Claim: the adapters' 3×3 convolutions are faster than PyTorch's, forward and backward, in float32 and bfloat16.

PyTorch's own (oneDNN's kernels on a CPU) takes channels-last images and, in bfloat16, filters converted in advance;
both take turns in one process, with forward and backward as phases (`benchmarks/measure.py` says what is recorded). As
in training, images are outputs of a ReLU, and the stem's convolution has no gradient with respect to its images. Work
is 2·9 operations per pixel and pair of channels, three times that with both gradients, whatever an algorithm saves.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks.measure import compare
from benchmarks.work import conv3x3_work
from scatsimclr.ops.conv3x3 import conv3x3

full = pytest.mark.full
# N, size, C, O: the layers of ScatSimCLR8 at 96×96 with 16 pairs of views and at 32×32 with 64, the widest layer of a
# ResNet-18, and a small batch.
CASES = [
    (32, 24, 128, 128),
    pytest.param(32, 24, 64, 64, marks=full),
    pytest.param(32, 24, 867, 32, marks=full),
    (128, 8, 128, 128),
    pytest.param(128, 8, 867, 32, marks=full),
    pytest.param(128, 4, 512, 512, marks=full),
    pytest.param(2, 24, 128, 128, marks=full),
]
# As a share of the largest value.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


def plain(x, weight):
    return F.conv2d(x, weight, padding=1)


def arguments(name, N, size, C, O, dtype):  # noqa: E741
    """x, the weight and the gradient of the result, for a competitor."""
    generator = torch.Generator().manual_seed(C)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    x, weight = draw(N, C, size, size).relu(), draw(O, C, 3, 3) * math.sqrt(2 / (9 * C))
    grad = draw(N, O, size, size).to(dtype)
    weight = weight.to(dtype if name == "plain" else torch.float32)
    x, weight, grad = (t.to(memory_format=torch.channels_last) for t in (x.to(dtype), weight, grad))
    return x.requires_grad_(C % 2 == 0), weight.requires_grad_(), grad


COMPETITORS = {"plain": plain, "ours": conv3x3}


def gradients(name, x, weight, grad):
    leaves = [leaf for leaf in (x, weight) if leaf.requires_grad]
    y = COMPETITORS[name](x, weight)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def phased(name, x, weight, grad):
    """A call for `interleaved`, forward and then backward."""
    leaves = [leaf for leaf in (x, weight) if leaf.requires_grad]

    def run():
        y = COMPETITORS[name](x, weight)
        yield "forward"
        torch.autograd.grad(y, leaves, grad)
        yield "backward"

    return run


def memory_case(name, N, size, C, O, dtype):  # noqa: E741
    """Forward and backward, after a small case has started the threads."""
    dtype = getattr(torch, dtype)
    gradients(name, *arguments(name, 1, 2, 2, 2, dtype))
    given = arguments(name, N, size, C, O, dtype)
    result = sum(t.nbytes for t in (given[2], *(t for t in given[:2] if t.requires_grad)))
    return (lambda: gradients(name, *given)), result, "cpu"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("N", "size", "C", "O"), CASES)
def bench_conv3x3(benchmark, N, size, C, O, dtype):  # noqa: E741
    batch = 1 if benchmark.disabled else N
    given = {name: arguments(name, batch, size, C, O, dtype) for name in COMPETITORS}
    for got, want in zip(*(gradients(name, *given[name]) for name in ("ours", "plain")), strict=True):
        assert (got.float() - want.float()).abs().max() < TOLERANCE[dtype] * want.float().abs().max()
    precision = str(dtype).removeprefix("torch.")
    compare(
        benchmark,
        {name: phased(name, *given[name]) for name in COMPETITORS},
        op=f"conv3x3 cpu {precision}",
        case={"N": N, "size": size, "C": C, "O": O},
        peers=["plain"],
        items=N,
        work=conv3x3_work(N, size, C, O, dtype.itemsize, both=C % 2 == 0),
        memory=(__name__, N, size, C, O, precision),
        precision=precision,
    )
