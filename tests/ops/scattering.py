"""What the tests of the scattering operators share: filters, packs, the kernel and the plain transform."""

from __future__ import annotations

from functools import cache

import torch

from scatsimclr.filters import filter_bank, padded_shape
from scatsimclr.ops.scattering2d import SCATTERING2D, SCATTERING2D_BACKWARD
from scatsimclr.reference import scattering2d as reference
from tests.ops.machine import threads

OPS = torch.ops.scatsimclr


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


def morlet_kernel_of(x, filters, **kwargs):
    return kernel(x, filters, 2, 4, packed=packed_morlets(2, 4, (16, 16)), **kwargs)
