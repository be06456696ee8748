"""NT-Xent over the rows of all processes of a torch.distributed group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from scatsimclr.ops import ntxent as ops
from scatsimclr.ops.autograd import Context, forward_mode


def _gathered(t: Tensor, counts: Sequence[int]) -> Tensor:
    """The rows (n, …) of all processes, one process's after the other's; `counts` says how many each has."""
    most = max(counts)
    own = t.contiguous()
    if len(t) < most:  # all_gather wants the same shape everywhere
        own = torch.cat((own, own.new_zeros((most - len(t), *t.shape[1:]))))
    everyone = t.new_empty((len(counts) * most, *t.shape[1:]))
    dist.all_gather_into_tensor(everyone, own)
    if min(counts) == most:
        return everyone
    return torch.cat([part[:count] for part, count in zip(everyone.split(most), counts, strict=True)])


class _Context(Context, Protocol):
    settings: tuple[float, bool, int, int, int]
    backend: str
    size: int


class _Distributed(torch.autograd.Function):
    """Local rows against the rows of all processes.

    The forward pass exchanges rows, statistics and losses, the backward pass nothing: the gradient of the local rows
    needs only the other rows and their statistics, because s is symmetric (reference, G_ik).
    """

    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor,
        temperature: Tensor | None,
        tau: float,
        normalize: bool,
        views: int,
        counts: list[int],
        backend: str,
    ) -> Tensor:
        rank, size = dist.get_rank(), len(counts)
        everyone, labels = _gathered(x, counts), None
        if len(set(counts)) > 1:  # blocks of different sizes: images are numbered across them
            blocks = [torch.arange(n // views, device=x.device).repeat(views) for n in counts]
            offsets = [sum(counts[:i]) // views for i in range(size)]
            labels = torch.cat([block + offset for block, offset in zip(blocks, offsets, strict=True)])
        settings = (tau, normalize, views, sum(counts[:rank]), len(x))
        loss, stats = ops.NTXENT.by(backend)(everyone, labels, temperature, *settings)
        stats = _gathered(stats.T, counts).T.contiguous()
        dist.all_reduce(loss)
        ctx.settings, ctx.backend, ctx.size = settings, backend, size
        ctx.save_for_backward(everyone, stats, labels, temperature)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        everyone, stats, labels, temperature = ctx.saved_tensors
        backward = ops.NTXENT_BACKWARD.by(ctx.backend)
        # Times the number of processes, over which DistributedDataParallel then averages.
        dx, dtau = backward(grad * ctx.size, everyone, stats, labels, temperature, *ctx.settings)
        _, normalize, _, first, rows = ctx.settings
        dx = ops.of_dead_rows(dx, everyone[first : first + rows], normalize)
        return dx, ops.like(dtau, temperature), *[None] * 5


_distributed: Callable[..., Tensor] = _Distributed.apply


def _agreed(x: Tensor | None, views: int, device: torch.device) -> list[int]:
    """How many rows each process has.

    Args:
        x: this process's rows, or None where it has none that can be used.
        views: its views of an image.
        device: where to exchange.

    Raises:
        ValueError: on every process, if their rows do not fit together or one process has none.
    """
    size = dist.get_world_size()
    own = [0] * 4 if x is None else [len(x), x.shape[1], views, ops.FLOATING.index(x.dtype)]
    told = torch.empty(size * 4, dtype=torch.int64, device=device)
    dist.all_gather_into_tensor(told, torch.tensor(own, device=device))
    shapes = told.view(size, 4).tolist()
    refused = [rank for rank, shape in enumerate(shapes) if shape[0] == 0]
    if refused and x is not None:
        raise ValueError(f"rank {refused[0]} cannot take its rows: see the error raised there")
    if x is not None and any(shape[1:] != shapes[0][1:] for shape in shapes):
        each = "; ".join(
            f"rank {rank}: {rows // v} × {v} × {columns}, {ops.FLOATING[dtype]}"
            for rank, (rows, columns, v, dtype) in enumerate(shapes)
        )
        raise ValueError(
            f"ranks must agree in views, columns and dtype, got images × views × columns: {each}"
        )
    return [rows for rows, *_ in shapes]


def ntxent_loss_distributed(
    z_i: Tensor | Sequence[Tensor],
    z_j: Tensor | None,
    *,
    temperature: float | Tensor,
    normalize: bool,
    views_dim: int | None,
    backend: str = "auto",
) -> Tensor:
    """The loss of the views of all processes of the default group; without an initialised group, `ntxent_loss`.

    Processes may have different numbers of images. Gradients of the views and of the temperature, averaged over
    processes once they have reached the parameters, are those of a single process with all rows; the incoming gradient
    must be the same everywhere.

    Args:
        z_i, z_j, views_dim: this process's views, as for `stack_views`.
        temperature, normalize, backend: as for `ntxent_loss`.

    Returns:
        The loss of the whole batch (0-d), on every process.

    Raises:
        ValueError, TypeError: on every process, if the views of one cannot be used, or if they differ in number,
            columns or dtype.
    """
    alone = not (dist.is_available() and dist.is_initialized())
    try:
        x, views = ops.stack_views(z_i, z_j, views_dim)
        tensor, tau = ops.resolve(temperature, x, backend)
    except (TypeError, ValueError):
        if not alone:  # the others are waiting for this process
            _agreed(None, 0, z_i.device if isinstance(z_i, Tensor) else torch.get_default_device())
        raise
    if alone:
        return ops.ntxent_loss(x, temperature=temperature, normalize=normalize, views=views, backend=backend)
    counts = _agreed(x, views, x.device)
    if forward_mode(x, tensor):
        raise NotImplementedError("NTXentLoss(gather_distributed=True) has no forward-mode derivative")
    return _distributed(x, tensor, tau, bool(normalize), views, counts, backend)
