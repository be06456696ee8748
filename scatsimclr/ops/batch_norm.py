"""The operators `batch_norm` and `batch_norm_backward`: batch normalisation over the values of several processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from scatsimclr.ops.autograd import Context, derive
from scatsimclr.ops.library import register
from scatsimclr.reference import batch_norm as reference


def _fake_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    channels = x.new_empty(x.shape[1], dtype=torch.float64)
    return torch.empty_like(x), channels, torch.empty_like(channels), x.new_empty((), dtype=torch.float64)


def _fake_backward(grad: Tensor, x: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, Tensor, Tensor]:
    channels = x.new_empty(x.shape[1], dtype=torch.float64)
    return torch.empty_like(x), channels, torch.empty_like(channels)


BATCH_NORM = register(
    "batch_norm",
    "(Tensor x, Tensor? weight, Tensor? bias, float eps, str group) -> (Tensor, Tensor, Tensor, Tensor)",
    fake=_fake_forward,
    reference=reference.batch_norm,
)
BATCH_NORM_BACKWARD = register(
    "batch_norm_backward",
    "(Tensor grad, Tensor x, Tensor? weight, Tensor mean, Tensor variance, Tensor count, float eps, str group)"
    " -> (Tensor, Tensor, Tensor)",
    fake=_fake_backward,
    reference=reference.batch_norm_backward,
    part_of="batch_norm",
)


class _Context(Context, Protocol):
    settings: tuple[float, str]


def _setup_context(ctx: _Context, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, *settings = inputs
    ctx.settings = tuple(settings)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, *output[1:])


def _make_backward(
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]],
) -> Callable[..., tuple[Tensor | None, ...]]:
    def run(ctx: _Context, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 5
        if torch.is_grad_enabled():
            raise RuntimeError("batch_norm over processes is differentiable once")
        x, weight, bias, *moments = ctx.saved_tensors
        dx, dw, db = backward(grad, x, weight, *moments, *ctx.settings)
        of_weight, of_bias = (None if p is None else d.to(p.dtype) for p, d in ((weight, dw), (bias, db)))
        return dx, of_weight, of_bias, None, None

    return run


derive(BATCH_NORM, BATCH_NORM_BACKWARD, _setup_context, _make_backward)


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float = 1e-5, group: str = ""
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Batch normalisation by the moments of all processes of a group, as in `scatsimclr.reference.batch_norm`.

    Differentiable once in x, weight and bias. The gradient of x is that of the sum of the processes' losses; those of
    weight and bias are this process's share. All processes of the group must call it, and its backward, in the same
    order.

    Args:
        x: floating-point (N, C, …). The arithmetic is float32 (float64 for float64), sums are float64.
        weight, bias: floating-point (C,), or None.
        eps: Added to the variance.
        group: `ProcessGroup.group_name`, or "" for this process alone.

    Returns:
        y like x; mean and variance (C,) and the number of values of a channel (0-d), float64.

    Raises:
        TypeError, ValueError: An argument that cannot be used.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    if x.dim() < 2:
        raise ValueError(f"x must be (N, C, …), got shape {tuple(x.shape)}")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.shape != (x.shape[1],):
            raise ValueError(f"{name} must be ({x.shape[1]},), one per channel, got {tuple(value.shape)}")
    y, mean, variance, count = BATCH_NORM.overload(x, weight, bias, eps, group)
    return y, mean, variance, count
