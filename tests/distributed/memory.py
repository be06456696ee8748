"""Peak memory of the loss over processes: the bytes that PyTorch allocates, as its profiler counts them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.scaling import Encoder, Step
from scatsimclr.loss import NTXentLoss
from scatsimclr.training.distributed import joined
from scatsimclr.training.interruption import Interruption
from tests.distributed.processes import together

IMAGES, WIDTH = 4096, 256
WITHIN = 0.1


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes that are allocated at a time while `work` runs, beyond what was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    # In the order in which they happened, by one thread.
    events = sorted(found.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    total = most = 0
    for event in events:
        if event.name() == "[memory]":
            total += event.nbytes()
            most = max(most, total)
    return most


def peak_of_loss(gather: str) -> int:
    """Of forward and backward pass of this process's rows, with other processes' or alone in a group of one."""
    torch.set_num_threads(1)
    with joined(Interruption()) as world:
        generator = torch.Generator().manual_seed(world.rank)
        z = torch.randn(2, IMAGES // world.size, WIDTH, generator=generator).requires_grad_()
        loss = NTXentLoss(0.5, gather_distributed=True, gather=gather, group=world.gradients, views_dim=0)

        def step() -> torch.Tensor:
            (gradient,) = torch.autograd.grad(loss(z), z)
            return gradient

        step()  # what is allocated once
        return peak_bytes(step)


def of_losses(folder: Path) -> str:
    """The ring's peak, and the all-gather's, are those of the model."""
    words = []
    for gather in ("ring", "all"):
        for size in (1, 2, 4):
            step = Step(Encoder(0, (), WIDTH, 0, 0), size, IMAGES)
            if gather == "ring":
                expected = step.ring_memory
            else:  # gloo gathers into a copy
                expected = max(step.gathered_memory, min(size, 2) * 4 * WIDTH * step.rows)
            place = folder / f"{gather}{size}"
            place.mkdir()
            for peak in together(size, partial(peak_of_loss, gather), place):
                assert abs(peak / expected - 1) < WITHIN, (gather, size, peak, expected)
            words.append(f"{gather} {size}: {peak / 1e6:.2f} MB of {expected / 1e6:.2f}")
    return ", ".join(words)
