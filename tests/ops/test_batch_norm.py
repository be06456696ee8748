"""The operators `batch_norm` and `batch_norm_backward` in one process; over several ones in tests/distributed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scatsimclr.models.processes import BatchNorm2d, _SharedBatchNorm
from scatsimclr.ops.batch_norm import BATCH_NORM, BATCH_NORM_BACKWARD, batch_norm

# Allowed beyond plain PyTorch's error in the same dtype, relative to the largest entry: sums of a few thousand numbers
# in another order. bfloat16 results are rounded once.
EPSILON = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2**-8}
SHAPES = [(2, 1), (7, 3), (64, 17), (3, 5, 11), (2, 3, 1, 1), (5, 13, 7, 3), (33, 32, 8, 8), (3, 2, 2, 3, 5)]


def values(shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    channel = [1, shape[1], *[1] * (len(shape) - 2)]
    mean, scale = torch.randn(channel, generator=generator), torch.rand(channel, generator=generator) + 0.1
    return (x * scale + 3 * mean).to(dtype)


def plain(x, weight, bias, grad):
    """PyTorch's own, y and the gradients of x, weight and bias."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias)]
    y = F.batch_norm(leaves[0], None, None, leaves[1], leaves[2], training=True)
    return y.detach(), *torch.autograd.grad(y, leaves, grad)


def ours(x, weight, bias, grad):
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias)]
    y, *_ = batch_norm(leaves[0], leaves[1], leaves[2])
    return y.detach(), *torch.autograd.grad(y, leaves, grad)


def truth(x, weight, bias, grad):
    """The same by the definition, in NumPy's long double; each with the size of the terms that it is made of."""
    x, weight, bias, g = (t.detach().double().numpy().astype(np.longdouble) for t in (x, weight, bias, grad))
    axes, wide = (0, *range(2, x.ndim)), (-1, *[1] * (x.ndim - 2))
    d = x - x.mean(axes, keepdims=True)
    s = 1 / np.sqrt(np.square(d).mean(axes, keepdims=True) + np.longdouble(1e-5))
    w = weight.reshape(wide)
    y = w * s * d + bias.reshape(wide)
    dx = w * s * (g - g.mean(axes, keepdims=True) - d * s**2 * (g * d).mean(axes, keepdims=True))
    terms = (w * s * x, w * s * g, s * np.abs(g * d).sum(axes, keepdims=True), np.abs(g).sum(axes))
    return list(
        zip((y, dx, (g * d * s).sum(axes), g.sum(axes)), (np.abs(t).max() for t in terms), strict=True)
    )


def error(got, expected):
    assert got.isfinite().all()
    value, size = expected
    return float(np.abs(got.double().numpy() - value).max() / max(size, np.abs(value).max()))


def case(shape, dtype):
    x, grad = values(shape, dtype), values(shape, dtype, seed=1)
    parameter = torch.float32 if dtype == torch.bfloat16 else dtype
    return x, values((2, shape[1]), parameter)[0], values((2, shape[1]), parameter, 1)[0], grad


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_as_good_as_plain(shape, dtype):
    arguments = case(shape, dtype)
    for got, same, expected in zip(ours(*arguments), plain(*arguments), truth(*arguments), strict=True):
        assert got.dtype == same.dtype
        assert error(got, expected) <= error(same, expected) + EPSILON[dtype]


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_a_mean_far_from_zero_is_no_worse_than_plain(offset):
    """Where E[x²] − m² has no digit left."""
    x, weight, bias, grad = case((16, 4, 5, 5), torch.float32)
    arguments = (x + offset, weight, bias, grad)
    for got, same, expected in zip(ours(*arguments), plain(*arguments), truth(*arguments), strict=True):
        assert error(got, expected) <= error(same, expected) + EPSILON[torch.float32]
    x, axes = arguments[0], (0, 2, 3)
    naive = (x.square().mean(axes) - x.mean(axes).square()).double()
    exact = x.double().var(axes, correction=0)
    own = batch_norm(x, weight, bias)[2].double()
    assert ((own - exact) / exact).abs().max() < 1e-5 < ((naive - exact) / exact).abs().max()


@pytest.mark.parametrize("layout", ["channels last", "transposed", "expanded", "misaligned"])
def test_any_layout_gives_the_same_and_keeps_what_it_can(layout):
    x, weight, bias, grad = case((6, 8, 5, 7), torch.float32)
    given = {
        "channels last": lambda: x.to(memory_format=torch.channels_last),
        "transposed": lambda: x.transpose(2, 3).contiguous().transpose(2, 3),
        "expanded": lambda: x[:1].expand_as(x),
        "misaligned": lambda: torch.nn.functional.pad(x.flatten(), (1, 3))[1:-3].view_as(x),
    }[layout]()
    expected = ours(given.contiguous(), weight, bias, grad)
    for got, own in zip(ours(given, weight, bias, grad), expected, strict=True):
        torch.testing.assert_close(got, own, rtol=1e-5, atol=1e-6)
    y = batch_norm(given, weight, bias)[0]
    assert layout == "expanded" or y.stride() == given.stride()


def test_constant_channels_and_single_values_become_the_bias():
    x = torch.full((4, 2, 3, 3), 7.0)
    y, mean, variance, count = batch_norm(x, torch.ones(2), torch.tensor([1.0, 2.0]))
    assert torch.equal(y, torch.tensor([1.0, 2.0])[:, None, None].expand_as(y))
    assert (mean.tolist(), variance.tolist(), count.item()) == ([7.0, 7.0], [0.0, 0.0], 36.0)
    assert torch.equal(batch_norm(torch.tensor([[5.0]]), None, None)[0], torch.zeros(1, 1))


def test_without_weight_and_bias():
    x = values((9, 4, 3, 3))
    torch.testing.assert_close(batch_norm(x, None, None)[0], F.batch_norm(x, None, None, training=True))


def test_it_is_an_operator():
    x, weight, bias, grad = case((5, 3, 4, 4), torch.float32)
    settings = (1e-5, "")
    torch.library.opcheck(BATCH_NORM.overload, (x.requires_grad_(), weight.requires_grad_(), bias, *settings))
    torch.library.opcheck(BATCH_NORM.overload, (x, None, None, *settings))
    with torch.no_grad():
        moments = batch_norm(x, weight, bias)[1:]
        arguments = (grad, x.detach(), weight.detach(), *moments, *settings)
        torch.library.opcheck(BATCH_NORM_BACKWARD.overload, arguments)


def test_gradients_in_float64():
    x, weight, bias, _ = case((4, 3, 2, 2), torch.float64)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda *a: batch_norm(*a)[0], leaves)


def test_a_second_derivative_is_refused():
    x = values((4, 3)).requires_grad_()
    y = batch_norm(x, None, None)[0]
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(y.square().sum(), x, create_graph=True)


@pytest.mark.parametrize(
    ("arguments", "error_type", "said"),
    [
        ((torch.ones(3, 2, dtype=torch.int32), None, None), TypeError, "x must be a floating-point tensor"),
        ((torch.ones(3), None, None), ValueError, r"x must be \(N, C, …\), got shape \(3,\)"),
        ((torch.ones(3, 2), torch.ones(3), None), ValueError, r"weight must be \(2,\)"),
        ((torch.ones(3, 2), None, torch.ones(1, 2)), ValueError, r"bias must be \(2,\)"),
    ],
)
def test_what_cannot_be_normalised_is_refused(arguments, error_type, said):
    with pytest.raises(error_type, match=said):
        batch_norm(*arguments)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_pytorchs(momentum):
    layer, reference = BatchNorm2d(4, momentum=momentum), torch.nn.BatchNorm2d(4, momentum=momentum)
    for seed in range(3):
        x = values((6, 4, 3, 3), seed=seed)
        reference(x)
        _, mean, variance, count = batch_norm(x, layer.weight, layer.bias)
        _SharedBatchNorm._track(layer, mean, variance, count)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(layer.state_dict()[name], value)
