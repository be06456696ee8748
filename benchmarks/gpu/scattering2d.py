"""Steps: whether the scattering transform and its gradient agree with the reference in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.device import Cases, Data, Device, named, poisoned, verdict
from scatsimclr.filters import filter_bank, padded_shape
from scatsimclr.ops.scattering2d import SCATTERING2D, SCATTERING2D_BACKWARD
from scatsimclr.reference import scattering2d as reference

# Shape of x, J, L: the headline first, then other tiles, primes, images as small as 2^J, paths too large for a chip.
SHAPES = [
    ((2, 3, 96, 96), 2, 16),
    ((33, 3, 32, 32), 2, 16),
    ((2, 1, 128, 128), 3, 8),
    ((5, 1, 37, 53), 2, 6),
    ((3, 2, 61, 29), 3, 5),
    ((1, 1, 8, 8), 2, 8),
    ((1, 1, 17, 31), 1, 7),
    ((1, 1, 224, 224), 4, 8),
    ((1, 1, 300, 451), 1, 1),
    ((1, 2, 257, 130), 5, 2),
]
TINY = [((1, 1, 8, 9), 2, 1)]
HALF = (torch.bfloat16, torch.float16)
# Of a channel's largest value, beside the rounding of the result itself.
HALF_ERROR, HALF_ROUNDING = 2e-3, {torch.bfloat16: 2.0**-8, torch.float16: 0.0}
GRADIENT = {torch.float32: 5e-5, torch.bfloat16: 2e-3}


def filters(device: Device, size: tuple[int, int], J: int, L: int, max_order: int) -> tuple[Any, ...]:
    """What the operators take after x."""
    bank = filter_bank(*padded_shape(size, J), J, L)
    found = [torch.tensor(level, device=device.type).unsqueeze(-1) for level in bank.tensors()]
    packed = _pack(device, found, J, L, max_order)
    return found, packed, J, L, max_order, False


def _pack(device: Device, found: list[Tensor], *settings: int) -> Tensor:
    if device.dry:
        from scatsimclr.kernels import scattering2d as kernels

        return kernels.pack(found, *settings)
    return torch.ops.scatsimclr.scattering2d_pack(found, *settings)


def only_cpp(*args: Any) -> Tensor:
    """The CUDA C++ kernel wherever it fits, not only where it is preferred."""
    from scatsimclr.kernels import scattering2d as kernels

    return kernels.scattering2d(*args, engine="c++")


def _cases(device: Device, run: Any, dtypes: tuple[torch.dtype, ...], prefix: str = "") -> Cases:
    cases: Cases = {}
    for shape, J, L in device.pick(SHAPES, TINY):
        for dtype in dtypes:
            sizes = "x".join(map(str, shape))
            name = f"{prefix}{sizes}, J={J}, L={L}, {named(dtype)}"
            cases[name] = partial(run, device, shape, J, L, dtype)
    return cases


def agreement(device: Device) -> Cases:
    """The transform by Triton."""
    device.require("scattering2d", "triton")
    dtypes = device.pick((torch.float32, *HALF), (torch.float16,))
    return _cases(device, partial(agree, SCATTERING2D.by("triton")), dtypes)


def agreement_of_cpp(device: Device) -> Cases:
    """The transform with the CUDA C++ kernel, as by default and wherever it fits."""
    device.require("scattering2d", "cuda")
    dtypes = device.pick((torch.float32, torch.bfloat16), (torch.float16,))
    cases = _cases(device, partial(agree, SCATTERING2D.by("cuda")), dtypes)
    if not device.dry:
        cases |= _cases(device, partial(agree, only_cpp), dtypes, "wherever it fits, ")
    return cases


def gradient_agreement(device: Device) -> Cases:
    """The gradient by Triton."""
    device.require("scattering2d_backward", "triton")
    dtypes = device.pick((torch.float32, torch.bfloat16), (torch.float32,))
    return _cases(device, agree_in_gradient, dtypes)


def truth_of(x: Tensor, args: tuple[Any, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """The reference's coefficients (N, C·K, H, W)."""
    wide, (_, *settings) = [f.to(dtype) for f in args[0]], args[1:]
    return reference.scattering2d(x.to(dtype), wide, *settings).flatten(1, 2)


def agree(forward: Any, device: Device, shape: tuple[int, ...], J: int, L: int, dtype: torch.dtype) -> Data:
    """Coefficients of one case: float32 within kymatio's tolerance, half precision by channel."""
    x = device.rand(*shape)
    errors, exact, plain = {}, {}, {}
    for order in (2, 1):
        args = filters(device, shape[2:], J, L, order)
        truth = truth_of(x, args)
        tolerance = 1e-8 + 1e-5 * truth.abs()
        if dtype in HALF:
            tolerance = (HALF_ERROR + HALF_ROUNDING[dtype]) * truth.abs().amax((2, 3), True) + 1e-7
        for last in (False, True):
            layout = torch.channels_last if last else torch.contiguous_format
            with poisoned():
                out = forward(x, *args, last, dtype)
            where = f"order {order}{', channels last' if last else ''}"
            errors[where] = float(((out.double() - truth).abs() / tolerance).max()), 1.0
            exact[f"{where}, layout"] = out.dtype == dtype and out.is_contiguous(memory_format=layout)
        own = truth_of(x, args, torch.float32).to(dtype).double()
        plain[f"order {order}"] = float(((own - truth).abs() / tolerance).max())
    return {**verdict(errors, exact), "plain": plain, "unit": "the tolerance"}


def agree_in_gradient(device: Device, shape: tuple[int, ...], J: int, L: int, dtype: torch.dtype) -> Data:
    """The gradient in x, by its norm: z/|z| magnifies the error of z where |z| is near 0."""
    args = filters(device, shape[2:], J, L, 2)
    leaf = device.rand(*shape).requires_grad_()
    x = leaf.detach()
    out = truth_of(leaf, args)
    grad = torch.randn(out.shape, device=device.type).to(dtype)
    (truth,) = torch.autograd.grad(out, leaf, grad.double())
    (plain,) = torch.autograd.grad(truth_of(leaf, args, torch.float32), leaf, grad.float())
    backward = SCATTERING2D_BACKWARD.by("triton")
    with poisoned():
        dx = backward(grad, x, *args)
        again = backward(grad, x, *args)
        last = backward(grad.to(memory_format=torch.channels_last), x, *args)

    def share(found: Tensor) -> float:
        return float((found.double() - truth).norm() / truth.norm())

    same = {"same again": torch.equal(again, dx), "same from channels last": torch.equal(last, dx)}
    return {**verdict({"gradient": (share(dx), GRADIENT[dtype])}, same), "plain": {"gradient": share(plain)}}
