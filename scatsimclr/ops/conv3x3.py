"""The operators `conv3x3` and `conv3x3_weight`: schema, shapes, autograd, validation, implementations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from scatsimclr.ops.library import (
    IMPLEMENTATIONS,
    LIBRARY,
    Implementation,
    differentiable,
    extension_missing,
    forward_mode,
    key_call,
    select,
)
from scatsimclr.reference import conv3x3 as reference
from scatsimclr.reference.ntxent import accumulate_dtype

# x (N, C, H, W), weight (O, C, 3, 3) -> (N, O, H, W), or of the adjoint (N, O, H, W) -> (N, C, H, W); all of them
# channels-last.
LIBRARY.define(
    "conv3x3(Tensor x, Tensor weight, Tensor? bias, bool adjoint) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
# grad (N, O, H, W), x (N, C, H, W) -> (O, C, 3, 3)
LIBRARY.define("conv3x3_weight(Tensor grad, Tensor x) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
LIBRARY.impl("conv3x3", reference.conv3x3, "CompositeExplicitAutograd")
LIBRARY.impl("conv3x3_weight", reference.conv3x3_weight, "CompositeExplicitAutograd")

_forward = torch.ops.scatsimclr.conv3x3.default
_weight = torch.ops.scatsimclr.conv3x3_weight.default


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@torch.library.register_fake("scatsimclr::conv3x3", lib=LIBRARY)
def _(x, weight, bias, adjoint):
    shape = (x.shape[0], weight.shape[1 if adjoint else 0], x.shape[2], x.shape[3])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@torch.library.register_fake("scatsimclr::conv3x3_weight", lib=LIBRARY)
def _(grad, x):
    dtype = accumulate_dtype(x.dtype)
    shape = (grad.shape[1], x.shape[1], 3, 3)
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)


def _setup_context(ctx, inputs, output):
    x, weight, _, ctx.adjoint = inputs
    ctx.save_for_backward(x, weight)


def _make_backward(forward, weight_gradient):
    def run(ctx, grad):
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        grad = _channels_last(grad)
        dx = forward(grad, weight, None, not ctx.adjoint) if needed[0] else None
        pair = (x, grad) if ctx.adjoint else (grad, x)
        dweight = weight_gradient(*pair) if needed[1] else None
        dbias = grad.sum((0, 2, 3), dtype=weight.dtype) if needed[2] else None
        return dx, dweight, dbias, None

    return run


torch.library.register_autograd(
    "scatsimclr::conv3x3", _make_backward(_forward, _weight), setup_context=_setup_context, lib=LIBRARY
)


def _setup_weight_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _make_weight_backward(forward):
    def run(ctx, dweight):
        grad, x = ctx.saved_tensors
        dweight = _channels_last(dweight)
        dgrad = forward(x, dweight, None, False) if ctx.needs_input_grad[0] else None
        dx = forward(grad, dweight, None, True) if ctx.needs_input_grad[1] else None
        return dgrad, dx

    return run


torch.library.register_autograd(
    "scatsimclr::conv3x3_weight",
    _make_weight_backward(_forward),
    setup_context=_setup_weight_context,
    lib=LIBRARY,
)


IMPLEMENTATIONS["conv3x3"] = {
    "cpu": Implementation(
        "cpu",
        "cpu",
        key_call(_forward, torch._C.DispatchKey.CPU),
        key_call(_weight, torch._C.DispatchKey.CPU),
        extension_missing,
    ),
    "reference": Implementation("reference", "any", reference.conv3x3, reference.conv3x3_weight),
}


@cache
def _named(implementation: Implementation) -> Callable:
    """The operator by one implementation, with its derivatives by the same, any number of times."""

    def forward(*args):
        return convolution(*args)

    def weight(*args):
        return weight_gradient(*args)

    convolution = differentiable(implementation.forward, _setup_context, _make_backward(forward, weight))
    weight_gradient = differentiable(
        implementation.backward, _setup_weight_context, _make_weight_backward(forward)
    )
    return convolution


_COMPILED = extension_missing() is None  # asked once: it looks into a folder


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether images of a dtype have a kernel on a device."""
    return _COMPILED and device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """The 3×3 convolution of stride 1 with zero padding of one pixel, as `torch.nn.functional.conv2d(x, weight, bias,
    padding=1)`, by Winograd's minimal filtering on the CPU (Lavin and Gray, CVPR 2016): 4/9 of the multiplications.

    Args:
        x: images (N, C, H, W); float32 and bfloat16 have a kernel on the CPU. It works channels-last; another layout
            is copied.
        weight: filters (O, C, 3, 3); float32 (else converted), float64 where x is. The rounding of filters to bfloat16,
            which autocast would make, is left out: the kernel rounds what it makes of them.
        bias: None or (O,).
        backend: "auto" or the name of one implementation.

    Returns:
        (N, O, H, W), channels-last, of x's dtype. Sums are float32. Differentiable by all three, any number of times.

    Raises:
        TypeError, ValueError: an argument of the wrong dtype or shape, or a backend that cannot serve x.
    """
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{name}: expected a floating dtype, got {tensor.dtype}")
    if x.ndim != 4:
        raise ValueError(f"x: expected shape (N, C, H, W), got {tuple(x.shape)}")
    if weight.ndim != 4 or weight.shape[1:] != (x.shape[1], 3, 3):
        raise ValueError(f"weight: expected shape (O, {x.shape[1]}, 3, 3), got {tuple(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    dtype = accumulate_dtype(x.dtype)
    args = (
        _channels_last(x),
        _channels_last(weight.to(dtype)),
        None if bias is None else bias.to(dtype),
        False,
    )
    if forward_mode(x, weight, bias):
        return reference.conv3x3(*args)
    # The CPU's kernel knows two dtypes.
    if backend == "auto" and (x.device.type != "cpu" or serves(x.device, x.dtype)):
        return _forward(*args)
    implementation = select("conv3x3", "reference" if backend == "auto" else backend, x.device)
    if implementation.name == "reference":
        return reference.conv3x3(*args)  # plain PyTorch, with its own derivatives
    return _named(implementation)(*args)
