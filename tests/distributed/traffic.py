"""Bytes that processes send: those of the loopback interface of a network of their own, against the model's."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.scaling import Encoder, Step
from scatsimclr.config import load_config
from scatsimclr.loss import NTXentLoss
from scatsimclr.models.processes import BatchNorm2d, share_moments
from scatsimclr.training.distributed import World, joined
from scatsimclr.training.interruption import Interruption
from scatsimclr.training.loop import Trainer
from tests.campaign import ImpossibleError
from tests.distributed.processes import GENTLE, together
from tests.faults.disks import command

SIZES = (2, 4, 8)
IMAGES, WIDTH, CHANNELS = 2048, 128, 32768
ROUNDS = 3
WITHIN = 0.05  # headers of TCP and gloo, heartbeats and barriers are not in the model
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET


@contextmanager
def own_network() -> Iterator[None]:
    """A block whose forked processes have a loopback interface that nobody else uses.

    Raises:
        ImpossibleError: It cannot be made here: that needs root.
    """
    libc, before = ctypes.CDLL(None, use_errno=True), os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        if not shutil.which("ip") or libc.unshare(_NEW_NETWORK):
            raise ImpossibleError(f"no network of its own: {os.strerror(ctypes.get_errno())}")
        try:
            command("ip", "link", "set", "lo", "up")
            yield
        finally:
            libc.setns(before, _NEW_NETWORK)
    finally:
        os.close(before)


def sent() -> int:
    """Bytes that went through the loopback interface."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    return next(int(line.split()[9]) for line in lines if line.strip().startswith("lo:"))


def counted(world: World, work: Callable[[int], object]) -> float:
    """Bytes that each process sends in a round of `work`, on average; called by all of them."""
    work(0)  # connects
    world.barrier()
    before = world.broadcast(sent())
    for index in range(1, ROUNDS + 1):
        work(index)
    world.barrier()
    return (sent() - before) / ROUNDS / world.size


def of_loss(gather: str) -> float:
    torch.set_num_threads(1)
    with joined(Interruption()) as world:
        z = torch.randn(2, IMAGES // world.size, WIDTH, requires_grad=True)
        loss = NTXentLoss(0.5, gather_distributed=True, gather=gather, group=world.gradients, views_dim=0)
        return counted(world, lambda _: torch.autograd.grad(loss(z), z))


def of_moments() -> float:
    torch.set_num_threads(1)
    with joined(Interruption()) as world:
        layer = BatchNorm2d(CHANNELS)
        share_moments(nn.Sequential(layer), world.steps)
        x = torch.randn(2, CHANNELS, 1, 1, requires_grad=True)
        return counted(world, lambda _: torch.autograd.grad(layer(x).sum(), x))


def of_step(gather: str, folder: Path) -> tuple[float, Step]:
    """A whole step of a run."""
    torch.set_num_threads(1)
    with joined(Interruption()) as world:
        config = load_config(None, [*GENTLE, "evaluation.probes=[]", "batch_size=8", f"loss.gather={gather}"])
        trainer = Trainer(config, folder / "run", world=world, verbose=False)
        trainer.update.modules().train()
        batches = list(trainer.loader.epoch(0))
        found = counted(world, lambda index: trainer.update(batches[index]))
        trainer.log.close()
        trainer.checkpoints.close()
        return found, Step(Encoder.of(config), world.size, config.batch_size)


def of_processes(folder: Path) -> str:
    """Loss, BatchNorm and whole steps of 2, 4 and 8 processes."""
    words = []

    def check(name: str, size: int, found: float, expected: float) -> None:
        assert abs(found / expected - 1) < WITHIN, (name, size, found, expected)
        words.append(f"{name} {size}: {found / 1e3:.1f} kB of {expected / 1e3:.1f}")

    with own_network():
        for size in SIZES:
            loss = Step(Encoder(0, (CHANNELS,), WIDTH, 0, 0), size, IMAGES)
            place = folder / f"{size}"
            place.mkdir()
            check("all", size, together(size, partial(of_loss, "all"), place)[0], loss.gathered)
            check("ring", size, together(size, partial(of_loss, "ring"), place)[0], loss.ring)
            check("BatchNorm", size, together(size, of_moments, place)[0], loss.moments)
            for gather in ("all", "ring"):
                inside = place / gather
                inside.mkdir()
                found, step = together(size, partial(of_step, gather, inside), place)[0]
                of_loss_ = step.gathered if gather == "all" else step.ring
                check(f"step, {gather}", size, found, step.gradients + step.moments + of_loss_)
    return ", ".join(words)
