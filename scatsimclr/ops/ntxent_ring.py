r"""NT-Xent over all processes in memory O(n D) of a process with n rows: blocks of rows go round a ring.

Process r first meets its own rows, then those of r − 1, r − 2, …: each block is passed on while it is worked on. The
forward pass keeps, for each own row i, the running maximum a_i and Σ_k exp(c (s_ik − a_i)) of the logarithm's sum. As
s and the classes are symmetric, the gradient of the own rows needs the others' rows and statistics only (reference,
G_ik): the backward pass sends those round once more, and no gradient travels.

Plain PyTorch on tiles of TILE × TILE similarities, on any device. A process sends (W − 1)/W · M rows of D numbers
forward and as many backward, where the all-gather sends them once. Beyond its own n rows it holds 4 n: they normalised,
their gradient, the block that is worked on and the one that comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from scatsimclr.ops import ntxent as ops
from scatsimclr.ops.autograd import Context
from scatsimclr.reference.accumulation import accumulate_dtype

TILE = 512
EPSILON = 1e-12  # of F.normalize


def _around(
    tensors: Sequence[Tensor], counts: Sequence[int], group: dist.ProcessGroup | None
) -> Iterator[tuple[int, list[Tensor]]]:
    """Each process's tensors (rows first) in turn, the own ones first; the next ones travel meanwhile.

    Yields:
        The process, and its tensors, valid until the next ones are asked for.
    """
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    after, before = (rank + 1) % size, (rank - 1) % size
    block = [t.contiguous() for t in tensors]
    for step in range(size):
        origin, coming = (rank - step) % size, []
        requests: list[dist.Work] = []
        if step + 1 < size:
            count = counts[(origin - 1) % size]
            coming = [t.new_empty((count, *t.shape[1:])) for t in block]
            requests = dist.batch_isend_irecv(
                [dist.P2POp(dist.isend, t, group=group, group_peer=after) for t in block]
                + [dist.P2POp(dist.irecv, t, group=group, group_peer=before) for t in coming]
            )
        yield origin, block
        for request in requests:
            request.wait()
        block = coming


def _tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    for i in range(0, rows, TILE):
        for j in range(0, columns, TILE):
            yield slice(i, min(i + TILE, rows)), slice(j, min(j + TILE, columns))


class _Tile:
    """One tile: rows i of the own block against rows j of another process's, or of the own one where `diagonal`.

    Attributes:
        s: similarities (i, j), −∞ for a row with itself.
        positive: bool (i, j).
    """

    def __init__(
        self,
        own: tuple[Tensor, Tensor],
        other: tuple[Tensor, Tensor],
        i: slice,
        j: slice,
        diagonal: bool,
    ):
        (z, labels), (others, other_labels) = own, other
        self.s = z[i] @ others[j].T
        self.positive = labels[i, None] == other_labels[j]
        if diagonal and i == j:
            self.s.fill_diagonal_(-torch.inf)
            self.positive.fill_diagonal_(False)


class _Context(Context, Protocol):
    tau: float
    normalize: bool
    counts: Sequence[int]
    group: dist.ProcessGroup | None


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor,
        labels: Tensor,
        temperature: Tensor | None,
        tau: float,
        normalize: bool,
        counts: Sequence[int],
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        ctx.tau, ctx.normalize, ctx.counts, ctx.group = tau, normalize, counts, group
        z, c = _rows(x, normalize), _inverse(temperature, tau, x)
        rank = dist.get_rank(group)
        shift = z.new_full((len(z),), torch.finfo(z.dtype).min)
        total, pull, pairs = (torch.zeros_like(shift) for _ in range(3))
        for origin, (rows, classes) in _around((z, labels), counts, group):
            for i, j in _tiles(len(z), len(rows)):
                tile = _Tile((z, labels), (rows, classes), i, j, origin == rank)
                higher = torch.maximum(shift[i], tile.s.amax(1))
                total[i] *= torch.exp(c * (shift[i] - higher))
                pull[i] += torch.where(tile.positive, tile.s, 0).sum(1)
                pairs[i] += tile.positive.sum(1)
                total[i] += tile.s.sub_(higher[:, None]).mul_(c).exp_().sum(1)
                shift[i] = higher
            del rows  # before the next block comes
        anchors = (pairs > 0).sum().to(z.dtype)
        dist.all_reduce(anchors, group=group)
        w = (pairs > 0) / anchors.clamp(min=1)
        losses = torch.where(w > 0, c * (shift - pull / pairs.clamp(min=1)) + total.log(), 0)
        loss = (w * losses).sum()
        dist.all_reduce(loss, group=group)
        # Of a row without a positive no exponential counts.
        inverse = torch.where(w > 0, w / total, 0)
        share = w / pairs.clamp(min=1)
        ctx.save_for_backward(x, labels, temperature, shift, inverse, share)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, labels, temperature, shift, inverse, share = ctx.saved_tensors
        z, c = _rows(x, ctx.normalize), _inverse(temperature, ctx.tau, x)
        rank, dz = dist.get_rank(ctx.group), torch.zeros_like(z)
        sent = (z, labels, torch.stack((shift, inverse), 1))
        for origin, (rows, classes, stats) in _around(sent, ctx.counts, ctx.group):
            for i, j in _tiles(len(z), len(rows)):
                tile = _Tile((z, labels), (rows, classes), i, j, origin == rank)
                g = (tile.s - shift[i, None]).mul_(c).exp_().mul_(inverse[i, None])
                g += tile.s.sub_(stats[j, 0]).mul_(c).exp_().mul_(stats[j, 1])
                # A pair's rows are of one class, and so have as many positives.
                g -= torch.where(tile.positive, 2 * share[i, None], 0)
                dz[i].addmm_(g, rows[j])
            del rows
        # Times the number of processes, over which DistributedDataParallel then averages.
        dz *= grad * c * len(ctx.counts)
        along = torch.einsum("nd,nd->n", z, dz)
        if ctx.normalize:
            _to_rows_(dz, z, along, x)
        dx = ops.of_dead_rows(dz.to(x.dtype), x, ctx.normalize)
        return dx, None, ops.like(-c / 2 * along.sum(), temperature), *[None] * 4


def _rows(x: Tensor, normalize: bool) -> Tensor:
    x = x.to(accumulate_dtype(x.dtype))
    return F.normalize(x, dim=1) if normalize else x


def _inverse(temperature: Tensor | None, tau: float, x: Tensor) -> float | Tensor:
    """c = 1/τ."""
    return 1 / tau if temperature is None else 1 / temperature.to(accumulate_dtype(x.dtype)).reshape(())


def _to_rows_(dz: Tensor, z: Tensor, along: Tensor, x: Tensor) -> None:
    """Turns, in place, the gradient in z = x / max(‖x‖, ε) into the one in x: (∂z − z ⟨z, ∂z⟩) / max(‖x‖, ε).

    Where ε is the larger one, it is constant and the second term is 0. Autograd's own way through F.normalize takes
    five times the memory of the rows. `along` is ⟨z, ∂z⟩, (n,).
    """
    for i, _ in _tiles(len(z), 1):
        length = torch.linalg.vector_norm(x[i], dim=1, dtype=dz.dtype, keepdim=True)
        dz[i].addcmul_(z[i], torch.where(length < EPSILON, 0, along[i, None]), value=-1)
        dz[i].div_(length.clamp_min(EPSILON))


_ring: Callable[..., Tensor] = _Ring.apply


def ring_loss(
    x: Tensor,
    labels: Tensor,
    temperature: Tensor | None,
    tau: float,
    normalize: bool,
    counts: Sequence[int],
    group: dist.ProcessGroup | None,
) -> Tensor:
    """The loss of the rows of all processes of a group, differentiable once.

    Args:
        x: own rows (n, D).
        labels: int64 (n,), their classes, counted over all processes: a row's positives are the others of its class.
        temperature: τ as one element, or None for tau.
        tau: τ where temperature is None.
        normalize: cosine similarities, else dot products.
        counts: rows of each process.
        group: None for the default one.

    Returns:
        0-d, on every process, as from `ntxent_loss_distributed`.
    """
    return _ring(x, labels, temperature, tau, normalize, counts, group)
