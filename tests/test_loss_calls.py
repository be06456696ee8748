"""Calls as users of other packages write them: honoured, or refused by name, but never reinterpreted."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch

from scatsimclr.loss import NTXentLoss, SupConLoss, nt_xent_loss, sup_con_loss


@pytest.fixture
def z():
    return torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("arguments", "tau"),
    [
        ((1,), 1.0),
        ((2,), 2.0),
        ((0.1,), 0.1),
        ((np.float32(0.1),), 0.1),
        ((np.float64(0.1),), 0.1),
        ((np.int64(1),), 1.0),
        ((np.array(0.1),), 0.1),
        ((Fraction(1, 10),), 0.1),
        ((torch.tensor(0.1),), 0.1),
        ((torch.nn.Parameter(torch.tensor([0.1])),), 0.1),
        ((), 0.5),
        (("cpu",), 0.5),
        ((torch.device("cpu"), 8), 0.5),
        (("cpu", 256, 0.1, True), 0.1),
        (("cpu", np.int64(256), np.float32(0.1), True), 0.1),
        ((0, 256, 0.1, True), 0.1),
        ((None, None, 0.1), 0.1),
    ],
)
def test_a_temperature_that_is_meant(z, arguments, tau):
    torch.testing.assert_close(NTXentLoss(*arguments)(z), nt_xent_loss(z, temperature=tau))


@pytest.mark.parametrize(
    "arguments",
    [
        (256, 0.1, 1),
        (256, 0.1),
        (0.1, 4096),
        ("cpu", 0.1),
        ("cpu", 8, 0.1, 0.5),
        ("cpu", 8, 0.1, "cosine"),
        ("cpu", True),
        ("cpu", 0),
        (0.1, None, 0.2),
        (True,),
        ("0.1",),
        ([0.1],),
        (np.array([0.1, 0.2]),),
    ],
)
def test_another_order_is_refused_with_the_right_one(arguments):
    with pytest.raises((TypeError, ValueError), match=r"order|device"):
        NTXentLoss(*arguments)


@pytest.mark.parametrize("tau", [0, -1, np.float32(0), float("nan"), np.inf])
def test_no_temperature(z, tau):
    with pytest.raises(ValueError, match="positive and finite"):
        NTXentLoss(tau)
    with pytest.raises(ValueError, match="positive and finite"):
        nt_xent_loss(z, temperature=tau)
    with pytest.raises(ValueError, match="positive and finite"):
        SupConLoss(tau)


@pytest.mark.parametrize("tau", [np.float32(0.1), np.array(0.1), Fraction(1, 10)])
def test_temperatures_of_other_types(z, tau):
    labels = torch.arange(8) // 2
    torch.testing.assert_close(nt_xent_loss(*z, tau), nt_xent_loss(*z, 0.1))
    torch.testing.assert_close(SupConLoss(tau)(z, labels), sup_con_loss(z, labels, 0.1))


def test_a_temperature_in_the_place_of_the_second_view(z):
    with pytest.raises(TypeError, match=r"temperature=0\.1"):
        nt_xent_loss(z, 0.1)


def test_features_of_supcontrast(z):
    labels = torch.arange(8) // 2
    theirs = z.transpose(0, 1)  # (images, views, D)
    with pytest.raises(ValueError, match="views_dim=1"):
        sup_con_loss(theirs, labels)
    with pytest.raises(ValueError, match="views_dim=1"):
        SupConLoss(0.07)(theirs, labels)
    torch.testing.assert_close(SupConLoss(views_dim=1)(theirs, labels), sup_con_loss(z, labels))
    torch.testing.assert_close(NTXentLoss(views_dim=1)(theirs), nt_xent_loss(z))
    torch.testing.assert_close(nt_xent_loss(theirs, views_dim=1), nt_xent_loss(z))
    with pytest.raises(ValueError, match="V ≥ 2"):
        nt_xent_loss(z[:, :1], views_dim=1)
    with pytest.raises(ValueError, match="views_dim must be 0, 1 or None"):
        nt_xent_loss(z, views_dim=2)


def test_more_views_than_images_are_doubted(z):
    square = z[:, :2]
    for call in (
        lambda **given: nt_xent_loss(square, **given),
        lambda **given: sup_con_loss(square, torch.tensor([0, 1]), **given),
        lambda **given: NTXentLoss(**given)(square),
        lambda **given: SupConLoss(**given)(square, torch.tensor([0, 1])),
    ):
        with pytest.warns(UserWarning, match=r"\(2, 2, 6\) is taken as 2 views of 2 images"):
            first = call()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(call(views_dim=0), first)
            call(views_dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nt_xent_loss(z)
        nt_xent_loss([square[0], square[1]])


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_of_zeros(z, dtype, backend):
    z = z.to(dtype)
    z[0, 3] = z[1, 7] = 0
    leaf = z.clone().requires_grad_()
    loss = nt_xent_loss(leaf, temperature=0.1, backend=backend)
    loss.backward()
    assert torch.isfinite(leaf.grad).all()
    double = z.double().requires_grad_()
    nt_xent_loss(double, temperature=0.1, backend="reference").backward()
    alive = (z != 0).any(-1)
    bound = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 1e-5)
    torch.testing.assert_close(leaf.grad.double()[alive], double.grad[alive], rtol=bound, atol=bound / 10)
    if dtype == torch.float16:
        assert (leaf.grad[~alive] == 0).all()
