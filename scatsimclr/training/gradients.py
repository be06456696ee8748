"""Sums of gradients over processes, in a few flat blocks that travel while the backward pass goes on.

Source: Li et al., "PyTorch distributed: experiences on accelerating data parallel training", VLDB 2020, whose buckets
these are. Unlike there, the blocks are the same in every step, so that sums are added up in the same order however
often a run is resumed; and a parameter without a gradient keeps none, as in a single process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

BLOCK = 25 << 20  # bytes


@dataclass(eq=False)
class _Block:
    """Parameters whose gradients travel together, and those that have one in this backward pass."""

    parameters: list[nn.Parameter]
    ready: set[int] = field(default_factory=set)


class GradientSum:
    """Adds the gradients of all processes, in the last of the backward passes that an update is made of.

    Args:
        parameters: Those that are trained, in the order of the forward pass; the same in all processes.
        group: Of the processes.
        block: Bytes that travel together.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], group: dist.ProcessGroup, block: int = BLOCK):
        self.group = group
        self._blocks: list[_Block] = []
        self._place: dict[int, _Block] = {}
        self._summing = False
        self._sent: list[tuple[dist.Work | None, list[nn.Parameter], Tensor]] = []
        self._next = 0
        size = block
        for parameter in reversed([p for p in parameters if p.requires_grad]):
            if size + parameter.nbytes > block:
                self._blocks.append(_Block([]))
                size = 0
            size += parameter.nbytes
            self._blocks[-1].parameters.append(parameter)
            self._place[id(parameter)] = self._blocks[-1]
            parameter.register_post_accumulate_grad_hook(self._accumulated)

    def begin(self) -> None:
        """Before the last backward pass: from now on, blocks are sent as they are complete."""
        self._summing, self._next = True, 0

    def finish(self) -> None:
        """After it: waits until every gradient is the sum over all processes."""
        for block in self._blocks[self._next :]:  # with parameters that have no gradient
            self._send(block)
        self._summing = False
        for work, parameters, flat in self._sent:
            if work is not None:
                work.wait()
            for parameter, part in zip(parameters, _parts(flat, parameters), strict=True):
                parameter.grad = part
        self._sent.clear()

    def _accumulated(self, parameter: nn.Parameter) -> None:
        if not self._summing:
            return
        block = self._place[id(parameter)]
        block.ready.add(id(parameter))
        # In order, the same in all processes.
        while self._next < len(self._blocks):
            block = self._blocks[self._next]
            if len(block.ready) < len(block.parameters):
                return
            self._send(block)
            self._next += 1

    def _send(self, block: _Block) -> None:
        block.ready.clear()
        owners = [p for p in block.parameters if p.grad is not None]
        if not owners:
            return
        flat = torch.empty(sum(p.numel() for p in owners), dtype=owners[0].dtype, device=owners[0].device)
        gradients = [p.grad for p in owners if p.grad is not None]
        torch._foreach_copy_(_parts(flat, owners), gradients)
        work = dist.all_reduce(flat, group=self.group, async_op=True)
        self._sent.append((work, owners, flat))


def _parts(flat: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Consecutive parts of a flat tensor, each with the shape and the strides of its parameter."""
    parts, start = [], 0
    for parameter in parameters:
        parts.append(flat.as_strided(parameter.shape, parameter.stride(), start))
        start += parameter.numel()
    return parts
