"""Derivatives of gradients: right, or an error, never silently zero."""

from __future__ import annotations

import pytest
import torch

from scatsimclr import Scattering2D
from scatsimclr.loss import nt_xent_loss, sup_con_loss
from scatsimclr.ops.conv3x3 import conv3x3
from scatsimclr.reference import ntxent as reference

pytestmark = pytest.mark.usefixtures("one_thread")


def penalty(function, *inputs):
    """Gradients of Σ‖∂function‖² in each input."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    first = torch.autograd.grad(function(*leaves).square().sum(), leaves, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in first), leaves)


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
@pytest.mark.parametrize("max_order", [1, 2])
def test_scattering(backend, max_order):
    module = Scattering2D(2, (9, 8), L=2, max_order=max_order, backend=backend).double()
    x = draw(1, 9, 8).requires_grad_()
    assert torch.autograd.gradcheck(module, x, atol=1e-6)
    assert torch.autograd.gradgradcheck(module, x, atol=1e-6)


@pytest.mark.parametrize("channels_last", [False, True])
def test_features(channels_last):
    module = Scattering2D(1, (6, 7), L=3).double()
    x = draw(2, 2, 6, 7).requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda v: module.features(v, channels_last=channels_last), x, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_penalty_of_scattering_in_other_dtypes(dtype):
    module = Scattering2D(2, (16, 16), L=4)
    x = draw(2, 16, 16).to(dtype)
    (ours,) = penalty(module, x)
    (exact,) = penalty(module.double(), x.double())
    bound = {torch.float32: 1e-4, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=bound * exact.abs().max().item())


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("learnt", [True, False])
def test_nt_xent(backend, normalize, learnt):
    z = draw(3, 4, 5).requires_grad_()
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=learnt)

    def loss(z, tau):
        return nt_xent_loss(z, temperature=tau, normalize=normalize, backend=backend)

    assert torch.autograd.gradcheck(loss, (z, tau))
    assert torch.autograd.gradgradcheck(loss, (z, tau))
    if not learnt:
        assert torch.autograd.gradgradcheck(
            lambda z: nt_xent_loss(z, temperature=0.3, normalize=normalize, backend=backend), z
        )


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
def test_sup_con(backend):
    """With a row that shares its label with no other."""
    z = draw(7, 3).requires_grad_()
    labels = torch.tensor([5, 5, 2, 2, 2, 9, 5])
    tau = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda z, t: sup_con_loss(z, labels, t, backend=backend), (z, tau))
    alone = torch.autograd.grad(sup_con_loss(z, torch.arange(7), backend=backend), z, create_graph=True)[0]
    assert torch.equal(torch.autograd.grad(alone.sum(), z, allow_unused=True)[0], torch.zeros_like(z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_gradient_penalty_of_nt_xent_in_other_dtypes(dtype):
    z = draw(2, 6, 5).to(dtype)
    tau = torch.tensor(0.2)
    ours = penalty(lambda z, t: nt_xent_loss(z, temperature=t), z, tau)
    exact = penalty(lambda z, t: nt_xent_loss(z, temperature=t), z.double(), tau.double())
    bound = 1e-4 if dtype == torch.float32 else 5e-2
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=bound * b.abs().max().item())


def test_the_loss_by_autograd_is_the_loss():
    z, labels = draw(9, 4), torch.tensor([0, 0, 1, 2, 2, 2, 3, 1, 0])
    for own, views in ((labels, 1), (None, 3)):
        settings = (z, own, None, 0.3, True, views)
        torch.testing.assert_close(
            reference.ntxent_by_autograd(*settings), reference.ntxent(*settings, 0, 9)[0]
        )


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
def test_third_derivatives(backend):
    """Against finite differences of second derivatives."""
    z, direction = draw(2, 3, 4), draw(2, 3, 4, seed=1)

    def second(z):
        leaf = z if z.requires_grad else z.clone().requires_grad_()
        loss = nt_xent_loss(leaf, temperature=0.4, backend=backend)
        (g,) = torch.autograd.grad(loss, leaf, create_graph=True)
        (h,) = torch.autograd.grad((g * direction).sum(), leaf, create_graph=True)
        return (h * direction).sum()

    leaf = z.clone().requires_grad_()
    (third,) = torch.autograd.grad(second(leaf), leaf)
    step = 1e-5
    along = (second(z + step * direction) - second(z - step * direction)).item() / (2 * step)
    assert (third * direction).sum().item() == pytest.approx(along, rel=1e-5)


@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_conv3x3(backend):
    x, weight, bias = draw(2, 3, 5, 4), draw(4, 3, 3, 3, seed=1), draw(4, seed=2)

    def of(run, dtype):
        tensors = [t.to(dtype) for t in (x, weight, bias)]
        return penalty(lambda *args: run(*args).sin(), *tensors)

    exact = of(lambda x, w, b: torch.nn.functional.conv2d(x, w, b, padding=1), torch.float64)
    ours = of(lambda x, w, b: conv3x3(x, w, b, backend=backend), torch.float32)
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-4 * b.abs().max().item())


FUNCTIONS = {
    "scattering": lambda backend: Scattering2D(2, (9, 8), L=2, backend=backend).double(),
    "nt_xent": lambda backend: lambda x: nt_xent_loss(x.reshape(2, 4, 9), backend=backend),
    "sup_con": lambda backend: lambda x: sup_con_loss(x.reshape(8, 9), torch.arange(8) // 2, backend=backend),
    "conv3x3": lambda backend: lambda x: conv3x3(x[None], draw(2, 1, 3, 3), backend=backend),
}


# The convolution's kernel has no float64.
CASES = [(name, backend) for name in FUNCTIONS for backend in ("auto", "cpu", "reference")]
CASES.remove(("conv3x3", "cpu"))


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_forward_mode(name, backend):
    """Against finite differences."""
    function, x, direction = FUNCTIONS[name](backend), draw(1, 9, 8), draw(1, 9, 8, seed=1)
    value, along = torch.func.jvp(function, (x,), (direction,))
    torch.testing.assert_close(value, function(x))
    step = 1e-6
    expected = (function(x + step * direction) - function(x - step * direction)) / (2 * step)
    torch.testing.assert_close(along, expected, rtol=1e-5, atol=1e-7)


def test_of_a_share_of_the_rows_is_an_error():
    x = draw(6, 3).requires_grad_()
    with pytest.raises(RuntimeError, match="no autograd formula"):
        torch.ops.scatsimclr.ntxent(x, None, None, 0.5, True, 1, 0, 3)
