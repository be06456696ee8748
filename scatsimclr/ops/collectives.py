"""Sums over processes that can be differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from scatsimclr.ops.autograd import Context


class _Context(Context, Protocol):
    size: int


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.size = dist.get_world_size(group)
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.size, None


_sum: Callable[..., Tensor] = _Sum.apply


def sum_of_all(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of x over the processes of a group; None is the default group.

    The gradient of x is the incoming one, which must be the same everywhere, times the number of processes, over which
    DistributedDataParallel then averages. Differentiable once.
    """
    return _sum(x, group)
