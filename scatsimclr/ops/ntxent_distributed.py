"""NT-Xent and its supervised form over the rows of all processes of a torch.distributed group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from scatsimclr.ops import ntxent as ops
from scatsimclr.ops.autograd import Context, forward_mode
from scatsimclr.ops.ntxent_ring import ring_loss

Group: TypeAlias = "dist.ProcessGroup | None"
# Rows with their views per image and, for the supervised loss, their labels.
Rows = tuple[Tensor, int, Tensor | None]


def _gather(everyone: Tensor, own: Tensor, group: Group) -> None:
    # The name that replaces all_gather_into_tensor from torch 2.13 on.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(everyone, own, group=group)


def _gathered(t: Tensor, counts: Sequence[int], group: Group) -> Tensor:
    """The rows (n, …) of all processes, one process's after the other's; `counts` says how many each has."""
    most = max(counts)
    own = t.contiguous()
    if len(t) < most:  # all processes must send the same shape
        own = torch.cat((own, own.new_zeros((most - len(t), *t.shape[1:]))))
    everyone = t.new_empty((len(counts) * most, *t.shape[1:]))
    _gather(everyone, own, group)
    if min(counts) == most:
        return everyone
    return torch.cat([part[:count] for part, count in zip(everyone.split(most), counts, strict=True)])


def image_labels(counts: Sequence[int], views: int, device: torch.device) -> list[Tensor]:
    """For each process, the number of the image of each of its rows, int64, counted over all processes."""
    offsets = [sum(counts[:rank]) // views for rank in range(len(counts))]
    return [
        torch.arange(count // views, device=device).repeat(views) + offset
        for count, offset in zip(counts, offsets, strict=True)
    ]


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
        labels: Tensor | None,
        temperature: Tensor | None,
        tau: float,
        normalize: bool,
        views: int,
        counts: list[int],
        backend: str,
        group: Group,
    ) -> Tensor:
        rank = dist.get_rank(group)
        everyone = _gathered(x, counts, group)
        if labels is not None:
            labels = _gathered(labels, counts, group)
        elif len(set(counts)) > 1:  # blocks of different sizes: images are numbered across them
            labels = torch.cat(image_labels(counts, views, x.device))
        settings = (tau, normalize, views, sum(counts[:rank]), len(x))
        loss, stats = ops.NTXENT.by(backend)(everyone, labels, temperature, *settings)
        stats = _gathered(stats.T, counts, group).T.contiguous()
        dist.all_reduce(loss, group=group)
        ctx.settings, ctx.backend, ctx.size = settings, backend, len(counts)
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
        return dx, None, ops.like(dtau, temperature), *[None] * 6


_distributed: Callable[..., Tensor] = _Distributed.apply


def _agreed(rows: Rows | None, device: torch.device, group: Group) -> list[int]:
    """How many rows each process has.

    Args:
        rows: of this process, or None where it has none that can be used.
        device: where to exchange.
        group: of the processes.

    Raises:
        ValueError: on every process, if their rows do not fit together or one process has none.
    """
    size = dist.get_world_size(group)
    own = [0] * 5
    if rows is not None:
        x, views, labels = rows
        own = [len(x), x.shape[1], views, ops.FLOATING.index(x.dtype), int(labels is not None)]
    told = torch.empty(size * len(own), dtype=torch.int64, device=device)
    _gather(told, torch.tensor(own, device=device), group)
    shapes = told.view(size, -1).tolist()
    refused = [rank for rank, shape in enumerate(shapes) if shape[0] == 0]
    if refused and rows is not None:
        raise ValueError(f"rank {refused[0]} cannot take its rows: see the error raised there")
    if rows is not None and any(shape[1:] != shapes[0][1:] for shape in shapes):
        each = "; ".join(
            f"rank {rank}: {count // v} × {v} × {columns}, {ops.FLOATING[dtype]}{' with labels' * labelled}"
            for rank, (count, columns, v, dtype, labelled) in enumerate(shapes)
        )
        raise ValueError(
            f"ranks must agree in views, columns and dtype, got images × views × columns: {each}"
        )
    return [count for count, *_ in shapes]


def ntxent_loss_distributed(
    rows: Callable[[], Rows],
    *,
    device: torch.device,
    temperature: float | Tensor,
    normalize: bool,
    backend: str = "auto",
    group: Group = None,
    gather: str = "all",
) -> Tensor:
    """The loss of the rows of all processes of a group; without torch.distributed, `ntxent_loss`.

    Processes may have different numbers of rows. Gradients of the rows and of the temperature, averaged over processes
    once they have reached the parameters, are those of a single process with all rows; the incoming gradient must be
    the same everywhere.

    Args:
        rows: makes this process's rows, views per image and labels, or raises what is wrong with them.
        device: of the rows, where they can be made.
        temperature, normalize, backend: as for `ntxent_loss`.
        group: None for the default one.
        gather: "all", every process gets all rows; or "ring", rows go round from process to process, and no process
            holds more than its own four times over: see `scatsimclr.ops.ntxent_ring`.

    Returns:
        The loss of the whole batch (0-d), on every process.

    Raises:
        ValueError, TypeError: on every process, if the rows of one cannot be used, or if they differ in columns, views,
            dtype, or whether they have labels.
    """
    alone = not (dist.is_available() and dist.is_initialized())
    try:
        x, views, labels = found = rows()
        if labels is not None:
            ops.check_labels(labels, x)
        tensor, tau = ops.resolve(temperature, x, backend)
    except (TypeError, ValueError):
        if not alone:  # the others are waiting for this process
            _agreed(None, device, group)
        raise
    if alone:
        return ops.ntxent_loss(
            x, temperature=temperature, normalize=normalize, views=views, labels=labels, backend=backend
        )
    counts = _agreed(found, x.device, group)
    if forward_mode(x, tensor):
        raise NotImplementedError("a loss with gather_distributed=True has no forward-mode derivative")
    if labels is not None:
        labels = labels.to(torch.int64)
    if gather == "ring":
        own = labels if labels is not None else image_labels(counts, views, x.device)[dist.get_rank(group)]
        return ring_loss(x, own, tensor, tau, bool(normalize), counts, group)
    return _distributed(x, labels, tensor, tau, bool(normalize), views, counts, backend, group)
