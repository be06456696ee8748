"""The operators `scattering2d`, `scattering2d_backward`, `scattering2d_pack`: the compiled kernel against the
reference, kymatio and float64, on every instruction set of this CPU."""

from __future__ import annotations

import pytest
import torch
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

from tests.ops.machine import threads
from tests.ops.scattering import (
    OPS,
    assert_as_near,
    doubles,
    kernel,
    kernel_gradient,
    morlet_kernel,
    morlets,
    orders,
    packed_morlets,
    plain,
    plain_gradient,
    random_filters,
)

pytestmark = pytest.mark.usefixtures("compiled", "one_thread", "uninitialised_is_nan")


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


# Planes so large that they are taken one at a time, however many angles: rows of a part of the lanes, lines along rows
# and (L = 10) along columns.
@pytest.mark.parametrize(("shape", "J", "L"), [((1, 1, 516, 508), 2, 10), ((2, 1, 750, 351), 1, 5)])
def test_large_planes(isa, shape, J, L):
    x = torch.rand(shape)
    ours = morlet_kernel(x, J, L)
    torch.testing.assert_close(ours, plain(x, morlets(J, L, shape[2:]), J, L), rtol=1e-5, atol=1e-8)
    with threads(2):
        assert torch.equal(morlet_kernel(x, J, L), ours)


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
