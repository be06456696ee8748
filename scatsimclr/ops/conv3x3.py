"""The operators `conv3x3` and `conv3x3_weight`: schema, shapes, derivatives, implementations; checks of arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from scatsimclr.ops import availability
from scatsimclr.ops.autograd import Context, differentiable, forward_mode
from scatsimclr.ops.library import LIBRARY, register
from scatsimclr.reference import conv3x3 as reference
from scatsimclr.reference.accumulation import accumulate_dtype


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, adjoint: bool) -> Tensor:
    shape = (x.shape[0], weight.shape[1 if adjoint else 0], x.shape[2], x.shape[3])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _fake_weight(grad: Tensor, x: Tensor) -> Tensor:
    shape = (grad.shape[1], x.shape[1], 3, 3)
    dtype = accumulate_dtype(x.dtype)
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)


# x (N, C, H, W), weight (O, C, 3, 3) -> (N, O, H, W), for the adjoint (N, O, H, W) -> (N, C, H, W); all of them
# channels-last.
CONV3X3 = register(
    "conv3x3",
    "(Tensor x, Tensor weight, Tensor? bias, bool adjoint) -> Tensor",
    fake=_fake,
    reference=reference.conv3x3,
    cpu=True,
)
# grad (N, O, H, W), x (N, C, H, W) -> (O, C, 3, 3)
CONV3X3_WEIGHT = register(
    "conv3x3_weight",
    "(Tensor grad, Tensor x) -> Tensor",
    fake=_fake_weight,
    reference=reference.conv3x3_weight,
    cpu=True,
    part_of="conv3x3",
)


class _Context(Context, Protocol):
    adjoint: bool


def _setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, ctx.adjoint = inputs
    ctx.save_for_backward(x, weight)


def _make_backward(
    convolution: Callable[..., Tensor], weight_gradient: Callable[..., Tensor]
) -> Callable[..., tuple[Tensor | None, ...]]:
    def run(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        grad = _channels_last(grad)
        dx = convolution(grad, weight, None, not ctx.adjoint) if needed[0] else None
        pair = (x, grad) if ctx.adjoint else (grad, x)
        dweight = weight_gradient(*pair) if needed[1] else None
        dbias = grad.sum((0, 2, 3), dtype=weight.dtype) if needed[2] else None
        return dx, dweight, dbias, None

    return run


def _setup_weight_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _make_weight_backward(convolution: Callable[..., Tensor]) -> Callable[..., tuple[Tensor | None, ...]]:
    def run(ctx: Context, dweight: Tensor) -> tuple[Tensor | None, ...]:
        grad, x = ctx.saved_tensors
        dweight = _channels_last(dweight)
        dgrad = convolution(x, dweight, None, False) if ctx.needs_input_grad[0] else None
        dx = convolution(grad, dweight, None, True) if ctx.needs_input_grad[1] else None
        return dgrad, dx

    return run


torch.library.register_autograd(
    "scatsimclr::conv3x3",
    _make_backward(CONV3X3.overload, CONV3X3_WEIGHT.overload),
    setup_context=_setup_context,
    lib=LIBRARY,
)
torch.library.register_autograd(
    "scatsimclr::conv3x3_weight",
    _make_weight_backward(CONV3X3.overload),
    setup_context=_setup_weight_context,
    lib=LIBRARY,
)


def _named(backend: str) -> Callable[..., Tensor]:
    """The convolution by one implementation, with its derivatives by the same, any number of times."""

    def convolution(*args: Any) -> Tensor:
        return forward(*args)

    weight_gradient = differentiable(
        CONV3X3_WEIGHT.by(backend), _setup_weight_context, _make_weight_backward(convolution)
    )
    forward = differentiable(
        CONV3X3.by(backend), _setup_context, _make_backward(convolution, weight_gradient)
    )
    return forward


_KERNEL = _named("cpu")
_HAS_KERNEL = availability.compiled().usable


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether images of a dtype have a kernel on a device."""
    return _HAS_KERNEL and device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """The 3×3 convolution of stride 1 with zero padding of one pixel: `conv2d(x, weight, bias, padding=1)`.

    On the CPU it uses Winograd's minimal filtering (Lavin and Gray, CVPR 2016), with 4/9 of the multiplications.
    Differentiable in all three tensors, any number of times.

    Args:
        x: images (N, C, H, W); float32 and bfloat16 have a kernel on the CPU. It works channels-last and copies other
            layouts.
        weight: filters (O, C, 3, 3); converted to float32, or to float64 where x is. Filters are not rounded to
            bfloat16 first, as autocast would: the kernel rounds their transforms.
        bias: None or (O,).
        backend: "auto" or the name of one implementation.

    Returns:
        (N, O, H, W), channels-last, of x's dtype. Sums are float32, or float64 where x is.

    Raises:
        TypeError, ValueError: an argument of the wrong dtype or shape, or a backend that cannot serve x.
    """
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{name} must have a floating-point dtype, got {tensor.dtype}")
    if x.ndim != 4:
        raise ValueError(f"x must have shape (N, C, H, W), got {tuple(x.shape)}")
    if weight.ndim != 4 or weight.shape[1:] != (x.shape[1], 3, 3):
        raise ValueError(f"weight must have shape (O, {x.shape[1]}, 3, 3), got {tuple(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    dtype = accumulate_dtype(x.dtype)
    args = (
        _channels_last(x),
        _channels_last(weight.to(dtype)),
        None if bias is None else bias.to(dtype),
        False,
    )
    if forward_mode(x, weight, bias):
        return reference.conv3x3(*args)
    if backend == "auto":
        # The CPU's kernel has two dtypes; plain PyTorch has its own derivatives.
        dispatched = x.device.type != "cpu" or serves(x.device, x.dtype)
        return CONV3X3.overload(*args) if dispatched else reference.conv3x3(*args)
    CONV3X3.check(backend, x.device)
    return reference.conv3x3(*args) if backend == "reference" else _KERNEL(*args)
