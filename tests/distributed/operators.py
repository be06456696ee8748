"""Operators over processes: batch normalisation, losses and sums of gradients, against one process with all rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scatsimclr.loss import NTXentLoss, SupConLoss
from scatsimclr.models.processes import BatchNorm2d, Dropout, set_images, share_moments
from scatsimclr.ops.batch_norm import batch_norm
from scatsimclr.ops.collectives import sum_of_all
from scatsimclr.training.distributed import World, joined
from scatsimclr.training.gradients import GradientSum
from scatsimclr.training.interruption import Interruption
from tests.distributed.processes import together

COUNTS = {1: (7,), 2: (5, 2), 4: (3, 1, 2, 1)}  # images of each process


def share(t: Tensor, world: World, axis: int = 0) -> Tensor:
    """This process's images."""
    counts = COUNTS[world.size]
    return t.narrow(axis, sum(counts[: world.rank]), counts[world.rank]).clone()


def values(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def difference(got: Tensor, expected: Tensor) -> float:
    """The largest, relative to the largest entry."""
    assert got.isfinite().all()
    return ((got.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


def normalised(dtype: torch.dtype, offset: float) -> tuple[Tensor, ...]:
    """y, ∂x, and the sums over processes of ∂weight and ∂bias, of this process's rows; the mean and the variance."""
    torch.set_num_threads(1)
    with joined(Interruption()) as world:
        x, grad = values(7, 5, 4, 3, dtype=dtype), values(7, 5, 4, 3, dtype=dtype, seed=1)
        x = share(x + offset, world).requires_grad_()
        weight, bias = (values(5, dtype=dtype, seed=seed).requires_grad_() for seed in (2, 3))
        y, mean, variance, count = batch_norm(x, weight, bias, group=world.steps)
        dx, dw, db = torch.autograd.grad(y, (x, weight, bias), share(grad, world))
        if world.shared:
            dist.all_reduce(dw), dist.all_reduce(db)
        assert count.item() == 7 * 12
        return y.detach(), dx, mean, variance, dw, db


def batch_norm_over_processes(folder: Path) -> str:
    """As one process, and as plain PyTorch in float64, also far from zero."""
    worst = {}
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        for offset in (0.0, 1000.0):
            (whole,) = together(1, partial(normalised, dtype, offset), folder)
            for size in (2, 4):
                parts = together(size, partial(normalised, dtype, offset), folder)
                together_ = [torch.cat([part[i] for part in parts]) for i in (0, 1)] + list(parts[0][2:])
                # Far from zero the values themselves have fewer digits.
                allowed = bound * max(1.0, offset)
                found = max(map(difference, together_, whole))
                assert found <= allowed, (dtype, offset, size, found)
                worst[f"{dtype}".removeprefix("torch."), offset, size] = found
                for part in parts:
                    assert all(map(torch.equal, part[2:4], parts[0][2:4]))
    return ", ".join(
        f"{dtype} {size} processes {w:.1e}" for (dtype, offset, size), w in worst.items() if not offset
    )


def layers() -> tuple[Tensor, ...]:
    """Running statistics and the output of a network of layers that see all processes, in training mode."""
    torch.set_num_threads(1)
    with joined(Interruption()) as world:
        torch.manual_seed(3)
        network = nn.Sequential(nn.Conv2d(2, 4, 3), BatchNorm2d(4), Dropout(0.5)).double()
        if world.shared:
            share_moments(network, world.steps)
            counts = COUNTS[world.size]
            set_images(network, (sum(counts[: world.rank]), counts[world.rank], 7))
        x = share(values(7, 2, 5, 5, dtype=torch.float64), world)
        rows = torch.stack([x, 2 * x], 1).flatten(0, 1)  # two rows of each image
        for _ in range(2):
            y = network(rows)
        return y.detach(), torch.get_rng_state(), *(value.clone() for value in network.state_dict().values())


def layers_over_processes(folder: Path) -> str:
    """Running statistics, dropout's masks and the random state are those of one process."""
    (whole,) = together(1, layers, folder)
    worst = 0.0
    for size in (2, 4):
        parts = together(size, layers, folder)
        y = torch.cat([part[0] for part in parts])
        assert torch.equal(y == 0, whole[0] == 0), "another mask"
        worst = max(worst, difference(y, whole[0]))
        for part in parts:
            assert torch.equal(part[1], whole[1]), "another random state"
            worst = max(worst, *map(difference, part[2:], whole[2:]))
    assert worst < 1e-13, worst
    return f"{worst:.1e}"


LOSSES = {
    "NT-Xent": lambda options: NTXentLoss(views_dim=0, **options),
    "dot products": lambda options: NTXentLoss(use_cosine_similarity=False, views_dim=0, **options),
    "supervised": lambda options: SupConLoss(views_dim=0, **options),
}


def loss_of(name: str, gather: str, dtype: torch.dtype, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the gradient of this process's rows, and that of the temperature, averaged over processes."""
    torch.set_num_threads(1)
    with joined(Interruption()) as world:
        z = share(values(3, 7, 6, dtype=dtype), world, 1).requires_grad_()
        tau = torch.tensor(0.3, dtype=dtype, requires_grad=True)
        options = {"temperature": tau, "gather_distributed": world.shared, "backend": backend}
        if world.shared:
            options |= {"gather": gather, "group": world.gradients}  # any group of all processes
        labels = (share(torch.tensor([0, 1, 1, 2, 3, 0, 9]), world),) if name == "supervised" else ()
        loss = LOSSES[name](options)(z, *labels)
        dz, dtau = torch.autograd.grad(loss, (z, tau))
        if world.shared:
            dist.all_reduce(dtau)
        return loss.detach(), dz / world.size, dtau / world.size


def losses_over_processes(folder: Path) -> str:
    """All-gather and ring, with and without labels, unequal numbers of rows."""
    worst = {torch.float64: 0.0, torch.float32: 0.0}
    for dtype in worst:
        for name in LOSSES:
            ((loss, dz, dtau),) = together(1, partial(loss_of, name, "all", dtype, "reference"), folder)
            for size, gather, backend in (
                (2, "all", "auto"),
                (4, "all", "reference"),
                (2, "ring", "auto"),
                (4, "ring", "auto"),
            ):
                parts = together(size, partial(loss_of, name, gather, dtype, backend), folder)
                got = parts[0][0], torch.cat([part[1] for part in parts], 1), parts[0][2]
                assert all(torch.equal(part[0], got[0]) for part in parts)
                worst[dtype] = max(worst[dtype], *map(difference, got, (loss, dz, dtau)))
    assert worst[torch.float64] < 1e-12, worst
    assert worst[torch.float32] < 1e-6, worst
    return ", ".join(f"{dtype}".removeprefix("torch.") + f" {w:.1e}" for dtype, w in worst.items())


def summed_gradients() -> list[Tensor | None]:
    """Gradients of two accumulated backward passes, one of them through a layer that the last one does not use."""
    torch.set_num_threads(1)
    with joined(Interruption()) as world:
        torch.manual_seed(0)
        network = nn.ModuleList([nn.Conv2d(2, 3, 3), nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(3, 2)])
        network = network.double().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        first, second, third, unused = network
        # Blocks of one to three parameters.
        sums = GradientSum(network.parameters(), world.gradients, block=300) if world.gradients else None
        x = share(values(7, 2, 5, 5, dtype=torch.float64), world)
        for last in (False, True):
            h = second(first(x).mean((2, 3)))
            rows = h.sum(1) if last else third(h)[:, 0]
            loss = rows.sin().sum() / 7
            if last and sums is not None:
                sums.begin()
            torch.autograd.backward(loss)
            if last and sums is not None:
                sums.finish()
        assert all(p.grad is None for p in unused.parameters())
        for p in network.parameters():
            assert p.grad is None or p.grad.stride() == p.stride()
        total = sum_of_all(torch.tensor(1.0)) if world.shared else torch.tensor(1.0)
        assert total.item() == world.size
        return [None if p.grad is None else p.grad.clone() for p in network.parameters()]


def gradients_over_processes(folder: Path) -> str:
    """Sums over processes, of accumulated gradients, leave none where one process has none."""
    (whole,) = together(1, summed_gradients, folder)
    worst = 0.0
    for size in (2, 4):
        for part in together(size, summed_gradients, folder):
            for got, expected in zip(part, whole, strict=True):
                assert (got is None) == (expected is None)
                worst = max(worst, 0.0 if got is None else difference(got, expected))
    assert worst < 1e-14, worst
    return f"{worst:.1e}"
